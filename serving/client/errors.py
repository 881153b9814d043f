"""Everything that the client raises, or returns in a frame's place, in one tree.

    ClientError
    ├── UnreadableError        what was given is no frame, no video: no such file, a wrong array
    ├── ConnectionFailedError  the service could not be reached, or broke the connection
    ├── TimedOutError          no answer within a timeout or the deadline
    ├── BadAnswerError         what answered is not this service
    ├── VideoFailedError       a video job ended without a result (`job`)
    └── ServiceError           the service answered with a problem document (`problem`, `status`)
        ├── FrameRefusedError  413, 415, 422: this frame cannot be scored
        ├── UnauthorisedError  401, 403: the API key is missing or wrong
        └── UnavailableError   429, 502, 503, 504: not now; `retry_after_s` says when, if the service does

`request_id` of a `ServiceError` finds the request in the service's log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

RETRYABLE = frozenset({429, 502, 503, 504})
"""The statuses that say: not now."""


class ClientError(Exception):
    """Base of all errors of the client."""


class UnreadableError(ClientError):
    """What was given cannot be sent: no such file, an array of another shape or dtype."""


class ConnectionFailedError(ClientError):
    """The service could not be reached, or the connection broke, also when tried again."""


class TimedOutError(ClientError):
    """No answer within the timeout of an attempt or the deadline of the call."""


class BadAnswerError(ClientError):
    """The answer is not what this service sends: a proxy's page, another service, another version."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An RFC 9457 problem document. `type` is stable and meant for programs, `detail` for people."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, request_id: str | None = None) -> Self:
        """Raises `BadAnswerError` if `value` is no problem document of this service."""
        try:
            return cls(
                type=str(value["type"]),
                title=str(value["title"]),
                status=int(value["status"]),
                detail=str(value["detail"]),
                request_id=value.get("request_id") or request_id,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadAnswerError(f"not a problem document of pipeprobe: {str(value)[:200]}") from error


class ServiceError(ClientError):
    """The service refused; `problem` is its document."""

    def __init__(self, problem: Problem, *, retry_after_s: float | None = None) -> None:
        named = f" (request {problem.request_id})" if problem.request_id else ""
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}{named}")
        self.problem = problem
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        return self.problem.status

    @property
    def request_id(self) -> str | None:
        return self.problem.request_id


class FrameRefusedError(ServiceError):
    """The frame is no image, damaged or too large."""


class UnauthorisedError(ServiceError):
    """The API key is missing, wrong, or not allowed to do this."""


class UnavailableError(ServiceError):
    """The service is overloaded, not ready or too slow, and stayed so for as long as it was tried."""


def error_of(problem: Problem, *, retry_after_s: float | None = None) -> ServiceError:
    """The error that stands for a problem document."""
    kind = ServiceError
    if problem.status in (413, 415, 422):
        kind = FrameRefusedError
    elif problem.status in (401, 403):
        kind = UnauthorisedError
    elif problem.status in RETRYABLE:
        kind = UnavailableError
    return kind(problem, retry_after_s=retry_after_s)
