"""Errors over HTTP, in one shape everywhere: RFC 9457 `application/problem+json`.

`ProblemMiddleware` wraps the whole service, BentoML's own pages included: it gives each request an id, names
the pair in the headers, and turns whatever is not a problem document yet (an unknown path, a wrong method, a
fault) into one. A fault's details go to the log under the request's id, never to the caller.
"""

from __future__ import annotations

import http.client
import logging
import random
import re
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.engine import retry_after
from serving.errors import DeadlineExceededError, FrameError, OverloadedError, PipeprobeError
from serving.http.request_record import Recorder
from serving.monitoring.logs import CURRENT_REQUEST
from serving.monitoring.tracing import trace_id

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:pipeprobe:problem:"
REQUEST_ID = "X-Request-Id"
TRACEPARENT = "traceparent"
PAIR = "X-Pipeprobe-Pair"
PAIR_VERSION = "X-Pipeprobe-Pair-Version"

CLIENT_CLOSED_REQUEST = 499
"""Status that is counted, and never read by anybody, when the caller has gone."""

_FAULT = "a fault in the service; its log has the details under this request id"
# What a foreign id may look like: it goes into headers and logs.
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
# Of the headers of an error that is turned into a problem, those that still hold.
_KEPT_HEADERS = frozenset({b"allow", b"retry-after", b"www-authenticate"})


# Seeded by the system. An id is no secret; `uuid4` would ask the system for each, and wait for its turn after that.
_ids = random.Random()


def new_request_id() -> str:
    """32 hexadecimal digits that no other request has."""
    return f"{_ids.getrandbits(128):032x}"


def accepted_request_id(given: str) -> str:
    """The id that a caller gave its request if it is harmless, else a new one."""
    return given if _ACCEPTED_ID.fullmatch(given) else new_request_id()


def problem_of(error: PipeprobeError, subject: str = "the frame") -> dict[str, Any]:
    """An error as a problem document's members; `subject` is what a frame's error says something about."""
    shown = error.status < 500 or isinstance(error, OverloadedError | DeadlineExceededError)
    detail = str(error) if shown else _FAULT
    return {
        "type": TYPE_PREFIX + (error.slug if shown else PipeprobeError.slug),
        "title": error.title if shown else PipeprobeError.title,
        "status": error.status if shown else 500,
        "detail": f"{subject} {detail}" if isinstance(error, FrameError) and shown else detail,
    }


def problem_of_status(status: int) -> dict[str, Any]:
    """The problem document of a plain HTTP status."""
    phrase = http.client.responses.get(status, "Error")
    details = {404: "there is nothing at this path; /docs lists what there is", 500: _FAULT}
    return {
        "type": TYPE_PREFIX + re.sub(r"[^a-z]+", "-", phrase.lower()),
        "title": phrase,
        "status": status,
        "detail": details.get(status, phrase),
    }


def problem_response(
    problem: dict[str, Any], request_id: str, *, headers: dict[str, str] | None = None
) -> JSONResponse:
    """A problem document, which names its request, as an answer."""
    body = problem | {"request_id": request_id}
    return JSONResponse(body, status_code=problem["status"], headers=headers, media_type=MEDIA_TYPE)


async def answer_error(request: Request, error: Exception, *, is_inference: bool = False) -> Response:
    """Starlette's handler of `PipeprobeError`: its problem document, with Retry-After where that helps.

    With `is_inference` it has the detail once more as `error`, where clients of the Open Inference Protocol look.
    """
    assert isinstance(error, PipeprobeError)
    problem = problem_of(error)
    if problem["status"] == 500:
        logger.error("request %s failed: %s", request.state.request_id, error, exc_info=error)
    request.app.state.engine.telemetry.rejected(error.slug)
    request.state.problem = error.slug
    headers = {"Retry-After": retry_after(error)} if isinstance(error, OverloadedError) else None
    if is_inference:
        problem["error"] = problem["detail"]
    return problem_response(problem, request.state.request_id, headers=headers)


async def answer_disconnect(request: Request, _error: Exception) -> Response:
    """Starlette's handler of `ClientDisconnect`: nobody reads the answer, but it is counted."""
    request.app.state.engine.telemetry.rejected("client-gone")
    request.state.problem = "client-gone"
    return Response(status_code=CLIENT_CLOSED_REQUEST, media_type=MEDIA_TYPE)


class ProblemMiddleware:
    """See the module's docstring."""

    def __init__(self, app: ASGIApp, recorder: Recorder) -> None:
        self._app = app
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self._recorder)
        CURRENT_REQUEST.set(exchange.ids)
        try:
            await self._app(scope, receive, exchange.send)
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            if exchange.status == 0:
                await exchange.send_problem(500, [])
        finally:
            self._recorder.finished(
                method=scope["method"],
                path=scope["path"],
                status=exchange.status or CLIENT_CLOSED_REQUEST,
                seconds=time.perf_counter() - exchange.started,
                state=exchange.state,
            )


class _Exchange:
    """One request and its answer, on its way out."""

    def __init__(self, scope: Scope, send: Send, recorder: Recorder) -> None:
        self._send = send
        self._recorder = recorder
        self._method = scope["method"]
        self._replaced: Message | None = None
        self.status = 0
        self.started = time.perf_counter()
        self.request_id = _request_id(scope)
        self.state: dict[str, Any] = scope.setdefault("state", {})
        self.state["request_id"] = self.request_id
        trace = trace_id(_header(scope, TRACEPARENT))
        self.ids = {"request_id": self.request_id} | ({"trace_id": trace} if trace else {})

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if _is_foreign_error(message):
                self._replaced = message
                return
            self.status = message["status"]
            self._recorder.answering(method=self._method, state=self.state)
            message = {**message, "headers": [*message.get("headers", ()), *self._own_headers()]}
        elif message["type"] == "http.response.body" and self._replaced is not None:
            if not message.get("more_body"):
                kept = [pair for pair in self._replaced.get("headers", ()) if pair[0].lower() in _KEPT_HEADERS]
                await self.send_problem(self._replaced["status"], kept)
            return
        await self._send(message)

    async def send_problem(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._replaced = None
        response = problem_response(problem_of_status(status), self.request_id)
        response.raw_headers.extend(headers)
        await self.send({"type": "http.response.start", "status": status, "headers": response.raw_headers})
        await self.send({"type": "http.response.body", "body": response.body})

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        values = {REQUEST_ID: self.request_id}
        if "pair" in self.state:
            values[PAIR], values[PAIR_VERSION] = self.state["pair"]
        return [(name.lower().encode(), value.encode()) for name, value in values.items()]


def _is_foreign_error(start: Message) -> bool:
    content_type = next((v for k, v in start.get("headers", ()) if k.lower() == b"content-type"), b"")
    return bool(start["status"] >= 400) and not content_type.startswith(MEDIA_TYPE.encode())


def _request_id(scope: Scope) -> str:
    """The caller's X-Request-Id if it is harmless, else a new one."""
    return accepted_request_id(_header(scope, REQUEST_ID))


def _header(scope: Scope, name: str) -> str:
    """The first header of that name, or nothing."""
    wanted = name.lower().encode()
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == wanted), "")
