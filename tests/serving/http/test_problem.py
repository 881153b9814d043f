"""Whatever goes wrong, and wherever, comes out as a problem document that leaks nothing."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from serving.errors import (
    DeadlineExceededError,
    NotAnImageError,
    OverloadedError,
    PairInvalidError,
    PipeprobeError,
    RequestError,
)
from serving.http.problem import ProblemMiddleware, problem_of
from serving.http.request_record import Recorder
from serving.monitoring.telemetry import Telemetry


async def _fault(_: Request) -> Response:
    raise RuntimeError("the password is in /etc/secret")


async def _busy(_: Request) -> Response:
    return JSONResponse({"error": "Too many"}, status_code=429, headers={"Retry-After": "7", "X-Inner": "1"})


async def _fine(_: Request) -> Response:
    return PlainTextResponse("fine")


def ask(path: str, telemetry: Telemetry) -> httpx.Response:
    """One request through the middleware around a foreign application."""
    inner = Starlette(routes=[Route("/fault", _fault), Route("/busy", _busy), Route("/fine", _fine)])
    app = ProblemMiddleware(inner, Recorder(telemetry=telemetry, log_requests=False))

    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.get(path)

    return asyncio.run(main())


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(CollectorRegistry())


def test_a_fault_says_nothing_but_its_request_id(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    response = ask("/fault", telemetry)
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert response.json()["request_id"] in caplog.text
    assert "the password" in caplog.text


def test_foreign_errors_keep_status_and_retry_after_only(telemetry: Telemetry) -> None:
    response = ask("/busy", telemetry)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.json()["type"] == "urn:pipeprobe:problem:too-many-requests"
    assert "x-inner" not in response.headers


def test_answers_pass_and_are_counted_without_their_path(telemetry: Telemetry) -> None:
    assert ask("/fine", telemetry).text == "fine"
    ask("/made/up", telemetry)
    page = telemetry.exposition().decode()
    assert 'pipeprobe_requests_total{method="GET",route="other",status="200"} 1.0' in page
    assert 'pipeprobe_requests_total{method="GET",route="other",status="404"} 1.0' in page
    assert "made" not in page


@pytest.mark.parametrize(
    ("error", "status", "slug", "shown"),
    [
        (NotAnImageError("is not an image"), 415, "not-an-image", True),
        (RequestError("a part is missing"), 400, "bad-request", True),
        (OverloadedError("come back", retry_after_s=3), 503, "overloaded", True),
        (DeadlineExceededError("too slow"), 504, "deadline-exceeded", True),
        (PairInvalidError("/models/secret is damaged"), 500, "internal", False),
        (PipeprobeError("/models/secret"), 500, "internal", False),
    ],
)
def test_only_what_the_caller_can_use_is_shown(error: PipeprobeError, status: int, slug: str, shown: bool) -> None:
    problem = problem_of(error)
    assert (problem["status"], problem["type"]) == (status, f"urn:pipeprobe:problem:{slug}")
    assert (str(error) in problem["detail"]) is shown
