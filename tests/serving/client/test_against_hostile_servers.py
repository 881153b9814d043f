"""The clients against servers that refuse, break off, hang and lie."""

from __future__ import annotations

import socket
import time
from email.utils import formatdate
from typing import Any

import pytest
from support.clients import CallClient
from support.scripted_server import DRIP, HANG, RESET, answer, problem, scripted_server

from serving.client import (
    BadAnswerError,
    Batching,
    ConnectionFailedError,
    Failure,
    FrameRefusedError,
    Retries,
    Score,
    TimedOutError,
    UnauthorisedError,
    UnavailableError,
)

SCORED = {
    "verdict": "defect",
    "score": 0.75,
    "logit": 1.5,
    "timings_ms": {"total": 2.0},
    "operating_point": "balanced",
    "threshold": 0.5,
    "pair": "tiny",
    "pair_version": "1.0.0",
    "request_id": "r-2",
}
GOOD = answer(200, SCORED)
QUICK: dict[str, Any] = {"retries": Retries(base_s=0.01, cap_s=0.02)}


def batch_of(n: int) -> bytes:
    results = [{"index": i, "name": str(i)} | SCORED for i in range(n)]
    return answer(200, SCORED | {"results": results})


@pytest.mark.parametrize("first", [problem(429), problem(502), problem(503), problem(504), RESET])
def test_tries_again_what_is_safe_to_try(call: CallClient, first: bytes) -> None:
    with scripted_server([first, first, GOOD]) as server:
        score = call(server.url, "score", b"frame", client=QUICK)
    assert (score.verdict, score.score, score.request_id) == ("defect", 0.75, "r-2")
    assert len(server.received) == 3
    assert all(request.endswith(b"\r\n\r\nframe") for _, request in server.received)


@pytest.mark.parametrize(
    ("status", "error"), [(400, Exception), (401, UnauthorisedError), (415, FrameRefusedError), (500, Exception)]
)
def test_asks_once_where_asking_again_cannot_help(call: CallClient, status: int, error: type[Exception]) -> None:
    with scripted_server([problem(status, slug="no"), GOOD]) as server, pytest.raises(error) as caught:
        call(server.url, "score", b"frame", client=QUICK)
    assert len(server.received) == 1
    assert (caught.value.status, caught.value.request_id) == (status, "r-1")  # type: ignore[attr-defined]
    assert caught.value.problem.type == "urn:pipeprobe:problem:no"  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_waits_as_long_as_the_service_asks(call: CallClient, form: str) -> None:
    # A date has whole seconds: three ahead are more than two.
    value = "2" if form == "seconds" else formatdate(time.time() + 3, usegmt=True)
    with scripted_server([problem(503, f"Retry-After: {value}"), GOOD]) as server:
        call(server.url, "score", b"frame", client=QUICK)
    (first, _), (second, _) = server.received
    assert second - first >= 1.9


def test_does_not_begin_a_wait_that_ends_after_the_deadline(call: CallClient) -> None:
    started_at = time.monotonic()
    script = [problem(503, "Retry-After: 3600"), GOOD]
    with scripted_server(script) as server, pytest.raises(UnavailableError) as caught:
        call(server.url, "score", b"frame")
    assert caught.value.retry_after_s == 3600
    assert len(server.received) == 1
    assert time.monotonic() - started_at < 30


def test_retries_are_counted(call: CallClient) -> None:
    with scripted_server([problem(503)]) as server, pytest.raises(UnavailableError):
        call(server.url, "score", b"frame", client={"retries": Retries(max_retries=2, base_s=0.01)})
    assert len(server.received) == 3


@pytest.mark.parametrize("never", [HANG, DRIP])
def test_a_server_that_never_ends_its_answer_is_left(call: CallClient, never: bytes) -> None:
    started_at = time.monotonic()
    with scripted_server([never]) as server, pytest.raises(TimedOutError):
        call(server.url, "score", b"frame", client={"timeout_s": 0.5, "deadline_s": 0.8})
    assert time.monotonic() - started_at < 30
    assert len(server.received) == 1


def test_a_closed_port_is_tried_until_it_opens_or_the_deadline_ends(call: CallClient) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert call(url, "ready") is False
        with pytest.raises(ConnectionFailedError):
            call(url, "score", b"frame", client={"deadline_s": 0.5, **QUICK})


@pytest.mark.parametrize(
    "lie",
    [
        answer(200, b"<html>welcome</html>", content_type="text/html"),
        answer(200, {"verdict": "perhaps"}),
        answer(200, []),
        answer(302, b"", "Location: http://example.test/"),
        answer(400, b"{}", content_type="application/problem+json"),
        answer(200, b"no gzip", "Content-Encoding: gzip"),
    ],
)
def test_another_service_behind_the_address_is_noticed(call: CallClient, lie: bytes) -> None:
    with scripted_server([lie]) as server, pytest.raises(BadAnswerError):
        call(server.url, "score", b"frame", client=QUICK)


def test_a_proxys_error_page_is_an_error_with_its_status(call: CallClient) -> None:
    page = answer(502, b"<h1>Bad gateway</h1>", content_type="text/html")
    with scripted_server([page]) as server, pytest.raises(UnavailableError, match=r"502 Bad Gateway.*<h1>"):
        call(server.url, "score", b"frame", client={"retries": Retries(max_retries=0)})


def test_the_key_goes_with_every_request_and_shows_nowhere(call: CallClient) -> None:
    with scripted_server([problem(401, slug="unauthorized")]) as server, pytest.raises(UnauthorisedError) as caught:
        call(server.url, "score", b"frame", client={"api_key": "s3cret"})
    assert b"\r\nauthorization: bearer s3cret\r\n" in server.received[0][1].lower()
    assert "s3cret" not in str(caught.value)
    for key in ("", "new\nline", "schlüssel", "two words"):
        with pytest.raises(ValueError, match="API key") as refused:
            call(server.url, "ready", client={"api_key": key})
        assert not key or key not in str(refused.value)


def test_a_path_in_the_address_is_kept(call: CallClient) -> None:
    for address in ("/sewers", "/sewers/"):
        with scripted_server([GOOD]) as server:
            call(server.url + address, "score", b"frame", evidence=True)
        assert server.received[0][1].startswith(b"POST /sewers/v1/score?evidence=true HTTP/1.1")


def test_a_batch_that_is_too_large_is_halved(call: CallClient) -> None:
    script = [problem(413, slug="body-too-large"), batch_of(1), problem(413), problem(413), batch_of(1)]
    with scripted_server(script) as server:
        results = call(server.url, "score_many", [b"a", b"b", b"c"])
    assert [type(result) for result in results] == [Score, Failure, Score]
    assert isinstance(results[1].error, FrameRefusedError)
    assert len(server.received) == 5


def test_batches_that_fail_leave_the_others_their_results(call: CallClient) -> None:
    client = {"batching": Batching(max_frames=2, concurrency=1), "retries": Retries(max_retries=0)}
    with scripted_server([batch_of(2), problem(503), batch_of(1)]) as server:
        results = call(server.url, "score_many", [b"a", b"b", b"c", b"d", b"e"], client=client)
    assert [type(result) for result in results] == [Score, Score, Failure, Failure, Score]
    assert isinstance(results[2].error, UnavailableError)


def test_what_concerns_the_whole_call_is_raised(call: CallClient) -> None:
    with scripted_server([problem(401)]) as server, pytest.raises(UnauthorisedError):
        call(server.url, "score_many", [b"a"] * 100)
    assert len(server.received) <= 4


def test_an_answer_that_leaves_a_frame_out_is_refused(call: CallClient) -> None:
    with scripted_server([batch_of(1)]) as server, pytest.raises(BadAnswerError, match="2 frames"):
        call(server.url, "score_many", [b"a", b"b"])
