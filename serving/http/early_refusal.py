"""Refusing a scoring request by its head alone, before anything is built for it.

Under overload most requests are refused, and what refusing costs is taken from those that are scored: passing through
the server, BentoML and the middleware, with a task, a record and a log line each, costs a tenth of scoring a frame.
Here the answer is written when the head has come, the same that a handler would have given, and the body is thrown
away.

Only what a handler would surely refuse is: an ordinary scoring request of the default pair, whose length is declared
and allowed, while there is no room for one more frame. Keys are not looked at: a caller without one learns only that
the service is busy, as anybody does by waiting.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence

from serving.engine import Engine, retry_after
from serving.errors import OverloadedError
from serving.http.problem import MEDIA_TYPE, PAIR, PAIR_VERSION, REQUEST_ID, accepted_request_id, problem_of

logger = logging.getLogger(__name__)

PATHS = frozenset({b"/v1/score", b"/v1/score/batch", b"/v1/score/raw"})
SUMMARY_EVERY_S = 1.0

RawHeaders = Sequence[tuple[bytes, bytes]]


class EarlyRefusal:
    """Says of a request's head how to refuse it; used from one event loop, and idle until it has an engine."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self._unsaid = 0

    def answer(self, method: bytes, url: bytes, headers: RawHeaders, *, keep_alive: bool) -> bytes | None:
        """The whole answer if the request is refused; None if it goes the usual way, which may refuse it yet."""
        engine = self.engine
        path, _, query = url.partition(b"?")
        if engine is None or method != b"POST" or path not in PATHS or b"pair=" in query or b"version=" in query:
            return None
        given = dict(headers)
        length = given.get(b"content-length", b"")
        if not length.isdigit() or int(length) > engine.settings.max_body_bytes:
            return None
        try:
            engine.check_room_for_one()
        except OverloadedError as error:
            self._count(engine, path.decode(), error)
            return _answer(engine, error, given.get(REQUEST_ID.lower().encode(), b""), keep_alive=keep_alive)
        return None

    def _count(self, engine: Engine, route: str, error: OverloadedError) -> None:
        engine.telemetry.request(route, "POST", error.status, 0.0)
        engine.telemetry.rejected(error.slug)
        if not self._unsaid and engine.settings.access_log:
            asyncio.get_running_loop().call_later(SUMMARY_EVERY_S, self._say)
        self._unsaid += 1

    def _say(self) -> None:
        """One line for all of the last second: a line each would cost as much as the refusals."""
        logger.warning("overloaded: %d requests refused by their heads within %g s", self._unsaid, SUMMARY_EVERY_S)
        self._unsaid = 0


def _answer(engine: Engine, error: OverloadedError, given_id: bytes, *, keep_alive: bool) -> bytes:
    request_id = accepted_request_id(given_id.decode("latin-1"))
    body = json.dumps(problem_of(error) | {"request_id": request_id}).encode()
    head = (
        f"HTTP/1.1 {error.status} Service Unavailable\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        f"retry-after: {retry_after(error)}\r\n{REQUEST_ID.lower()}: {request_id}\r\n"
        f"{PAIR.lower()}: {engine.default.name}\r\n{PAIR_VERSION.lower()}: {engine.default.version}\r\n"
        f"connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    )
    return head.encode("latin-1") + body


EARLY_REFUSAL = EarlyRefusal()
"""Of this process: the server makes protocols itself and passes nothing to them."""
