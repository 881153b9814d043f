"""One call, tried until it is answered: what to send, when to wait, when to give up. Does no I/O itself.

`exchange` is a generator. It yields what it wants done (`Send`, `Pause`), whoever drives it does that, blocking
or not, and sends in what came of it: a `Reply` or the transport's error. So the rules stand here once, for the
sync and the async client, and can be tested without a network.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpx

from serving.client.errors import (
    RETRYABLE,
    BadAnswerError,
    ClientError,
    ConnectionFailedError,
    Problem,
    TimedOutError,
    UnavailableError,
    error_of,
)
from serving.client.retries import Retries, retry_after_of

Files = list[tuple[str, tuple[str, bytes, str]]]


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request as it can be sent again and again.

    `repeatable`: doing it twice does no harm, so it may be repeated though it could have been received.
    `content` is the body, or the file that holds it: large ones are sent as they are read.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | Path | None = None
    files: Files | None = None
    repeatable: bool = True


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer that was read to its end."""

    status: int
    headers: httpx.Headers
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Send:
    """Wanted: the call's answer, within `timeout_s`."""

    call: Call
    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Wanted: `seconds` of nothing."""

    seconds: float


T = TypeVar("T")
Outcome = Reply | httpx.RequestError | None
Steps = Generator[Send | Pause, Outcome, T]


def exchange(
    call: Call, *, deadline_s: float, retries: Retries, clock: Callable[[], float] = time.monotonic
) -> Steps[Reply]:
    """The answer below 300; raises a `ClientError` for every other, after what retries are allowed and help.

    Tried again: connections that could not be made, 429 and 503; what may be repeated also after 502, 504 and
    a broken connection. A timeout is not: whoever is too slow once gets slower by being asked twice. A wait
    that would not end before the deadline is not begun.
    """
    ends_at = clock() + deadline_s
    failed = 0
    while True:
        outcome = yield Send(call=call, timeout_s=max(0.001, ends_at - clock()))
        assert outcome is not None, "a Send is answered by its outcome"
        if isinstance(outcome, Reply) and outcome.status < 300:
            return outcome
        failed += 1
        error = _error_of(outcome)
        wait_s = retries.wait_s(failed, error.retry_after_s if isinstance(error, UnavailableError) else None)
        if failed > retries.max_retries or not _may_repeat(call, outcome) or clock() + wait_s >= ends_at:
            raise error
        yield Pause(seconds=wait_s)


def headers_of_call(call: Call) -> dict[str, str]:
    """The call's headers; of a file, its length with them, or it would be sent in chunks of unknown number."""
    length = {"content-length": str(call.content.stat().st_size)} if isinstance(call.content, Path) else {}
    return {**call.headers, **length}


def json_of(reply: Reply) -> dict[str, Any]:
    """The reply's JSON object; raises `BadAnswerError`."""
    try:
        value = json.loads(reply.body)
    except ValueError as error:
        raise BadAnswerError(f"the answer is not JSON but {reply.body[:100]!r}") from error
    if not isinstance(value, dict):
        raise BadAnswerError(f"the answer is not a JSON object but {reply.body[:100]!r}")
    return value


def _may_repeat(call: Call, outcome: Reply | httpx.RequestError) -> bool:
    if isinstance(outcome, Reply):
        return outcome.status in (RETRYABLE if call.repeatable else (429, 503))
    if isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout):
        return True
    broken = isinstance(outcome, httpx.NetworkError | httpx.RemoteProtocolError)
    return broken and call.repeatable


def _error_of(outcome: Reply | httpx.RequestError) -> ClientError:
    if isinstance(outcome, Reply):
        return _error_of_reply(outcome)
    text = str(outcome) or type(outcome).__name__
    if isinstance(outcome, httpx.ConnectTimeout):
        error: ClientError = ConnectionFailedError(f"the service cannot be reached: {text}")
    elif isinstance(outcome, httpx.TimeoutException):
        error = TimedOutError(f"no answer in time: {text}")
    elif isinstance(outcome, httpx.DecodingError):
        error = BadAnswerError(f"the answer cannot be decoded: {text}")
    else:
        error = ConnectionFailedError(f"the service cannot be reached, or broke the connection: {text}")
    error.__cause__ = outcome
    return error


def _error_of_reply(reply: Reply) -> ClientError:
    if reply.status < 400:
        return BadAnswerError(f"the answer is {reply.status}, sending on to {reply.headers.get('location')!r}")
    request_id = reply.headers.get("x-request-id")
    if reply.headers.get("content-type", "").startswith("application/problem+json"):
        problem = Problem.from_json(json_of(reply), request_id=request_id)
    else:  # a proxy in front of the service
        problem = Problem(
            type="about:blank",
            title=_phrase(reply.status),
            status=reply.status,
            detail=reply.body[:200].decode(errors="replace"),
            request_id=request_id,
        )
    return error_of(problem, retry_after_s=retry_after_of(reply.headers.get("retry-after")))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
