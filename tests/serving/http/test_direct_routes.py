"""The direct way to a handler gives what the usual way gives."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.http.direct_routes import DirectRoutes


class RefusalError(Exception):
    pass


class PoliteRefusalError(RefusalError):
    pass


async def greet(request: Request) -> Response:
    return PlainTextResponse(f"{request.app.state.greeting} {request.query_params['name']}")


async def refuse(request: Request) -> Response:
    raise PoliteRefusalError("no, thank you")


async def break_down(request: Request) -> Response:
    raise ZeroDivisionError


async def answer_refusal(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{request.url.path}: {error}", status_code=403)


def create_target() -> Starlette:
    target = Starlette(
        routes=[
            Route("/greet", greet, methods=["POST"]),
            Route("/refuse", refuse),
            Route("/break", break_down),
            Route("/of/{name}", greet),
        ],
        exception_handlers={RefusalError: answer_refusal},
    )
    target.state.greeting = "good morning"
    return target


def ask(app: ASGIApp, method: str, path: str) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as client:
            return await client.request(method, path)

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/greet?name=Ann", 200),
        ("GET", "/greet?name=Ann", 405),
        ("GET", "/refuse", 403),
        ("HEAD", "/refuse", 403),
        ("GET", "/of/Ann?name=Ann", 200),
        ("GET", "/nowhere", 404),
    ],
)
def test_answers_as_the_mounted_application_does(method: str, path: str, status: int) -> None:
    target = create_target()
    usual = Starlette(routes=[Mount("/", target)])
    expected = ask(usual, method, path)
    got = ask(DirectRoutes(usual, target), method, path)
    assert (got.status_code, got.text, got.headers) == (expected.status_code, expected.text, expected.headers)
    assert got.status_code == status


def test_known_paths_do_not_reach_what_lies_behind() -> None:
    async def nothing_behind(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("asked")

    app = DirectRoutes(nothing_behind, create_target())
    assert ask(app, "POST", "/greet?name=Bob").text == "good morning Bob"
    with pytest.raises(AssertionError, match="asked"):
        ask(app, "GET", "/of/Bob")


def test_faults_go_on_to_whoever_answers_faults() -> None:
    target = create_target()
    with pytest.raises(ZeroDivisionError):
        ask(DirectRoutes(target, target), "GET", "/break")
