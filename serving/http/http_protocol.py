"""How the worker's HTTP server reads requests: with httptools, never an endless head, and no body that is not wanted.

BentoML's server is uvicorn. With httptools it parses a request in a third of the time that h11 takes, but unlike
h11 it keeps whatever headers it is sent. `BoundedProtocol` ends a connection that sends more than `MAX_HEAD_BYTES`
of anything but a body, and answers what is no HTTP at all with a problem document, as everything else. What
`serving.http.early_refusal` refuses by its head is answered at once; its body is read, since a client that is still
sending would never see an answer over a connection that was cut, but kept nowhere.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.http.early_refusal import EARLY_REFUSAL
from serving.http.problem import MEDIA_TYPE, REQUEST_ID, new_request_id, problem_of_status

MAX_HEAD_BYTES = 2**16
"""Bytes without any of a body among them, of the request line, headers or trailers, after which nobody listens."""

DISCARD_S = 30.0
"""Seconds that a client may take to send the rest of what was refused."""


class BoundedProtocol(HttpToolsProtocol):
    """See the module's docstring."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # BentoML silences uvicorn's access log; composing its lines would cost all the same.
        self.access_log = False
        self._head_bytes = 0
        self._refused = False  # the request whose body is being read
        self._keeps_alive = True
        self._discard_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_discarding()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        # Asked afterwards: what has just come may be a head with its body.
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431)

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        # The end of what was refused may have come with this head, and have begun the time for idle connections.
        self._unset_keepalive_if_required()
        if not self._refuse_early():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        if not self._refused:
            super().on_message_complete()
            return
        self._end_discarding()
        if self._keeps_alive:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            self.transport.close()

    def _refuse_early(self) -> bool:
        """Answer the request whose head has come, if it is refused by that; a pipelined one waits for its turn."""
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        # Who asks whether to send the body is told not to, and does not send it.
        self._keeps_alive = (
            self.parser.should_keep_alive() and self.parser.get_http_version() == "1.1" and not self.expect_100_continue
        )
        answer = EARLY_REFUSAL.answer(self.parser.get_method(), self.url, self.headers, keep_alive=self._keeps_alive)
        if answer is None:
            return False
        self._refused = True
        self.server_state.total_requests += 1
        self.transport.write(answer)
        if self.expect_100_continue:
            self.transport.close()
        else:
            self._discard_timer = self.loop.call_later(DISCARD_S, self.transport.close)
        return True

    def _end_discarding(self) -> None:
        self._refused = False
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(400)

    def _refuse(self, status: int) -> None:
        """Say why, unless an answer is already under way, and hang up."""
        self._head_bytes = 0
        if self.cycle is None or self.cycle.response_complete:
            request_id = new_request_id()
            body = json.dumps(problem_of_status(status) | {"request_id": request_id}).encode()
            headers = {"content-type": MEDIA_TYPE, "content-length": len(body), REQUEST_ID.lower(): request_id}
            lines = [f"{name}: {value}\r\n".encode() for name, value in (*headers.items(), ("connection", "close"))]
            self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self.transport.close()


def use_bounded_protocol() -> None:
    """Have every uvicorn server of this process use it; call it before BentoML starts one.

    BentoML leaves uvicorn its choice of protocol, `auto`, and offers no setting for it.
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedProtocol.__name__}"
