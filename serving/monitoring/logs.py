"""The workers' logs: one line a request and whatever goes wrong, as text or as one JSON object a line.

BentoML configures logging when a worker starts, before it imports the service; `configure_logs` then changes what
it set up. As text, lines keep BentoML's form, which ends in the trace. As JSON, every line has

    time, level, logger, worker, message    request_id, trace_id, span_id (within a request)    exception (a fault's)

and a request's line has method, route, status, duration_ms, pair, pair_version, n_frames, key, problem, those that
there are. Routes are templates and keys are names: nothing here is a path, a file name or a secret of a caller.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from opentelemetry import trace

CURRENT_REQUEST: ContextVar[Mapping[str, str]] = ContextVar("pipeprobe_request", default=MappingProxyType({}))
"""request_id and trace_id of the request that is being answered, for lines that are logged meanwhile."""

_requests = logging.getLogger("serving.requests")
_FIELDS = "pipeprobe_fields"


def configure_logs(log_format: str, worker: int) -> None:
    """Show our own lines from INFO on, and as JSON all lines of the process; `worker` is counted from 1."""
    logging.getLogger("serving").setLevel(logging.INFO)
    if log_format == "json":
        formatter = JsonFormatter(worker)
        for handler in _handlers():
            handler.setFormatter(formatter)


def log_request(*, method: str, route: str, status: int, **fields: Any) -> None:
    """One line about an answered request; fields that are None are left out."""
    summary = f"{method} {route} {status}"
    details = {name: value for name, value in (_context() | fields).items() if value is not None}
    known = {"method": method, "route": route, "status": status, **details}
    text = " ".join(f"{name}={value}" for name, value in details.items())
    _requests.info("%s %s", summary, text, extra={_FIELDS: (summary, known)})


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        summary, fields = getattr(record, _FIELDS, (None, {}))
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "worker": self._worker,
            "message": summary or record.getMessage(),
        }
        line |= fields or _context()  # a request's fields hold its context
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # What JSON cannot hold is written as text: a log line must not fail the request that it is about.
        return json.dumps(line, default=str, ensure_ascii=False)


def _context() -> dict[str, str]:
    found = dict(CURRENT_REQUEST.get())
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        found["trace_id"] = trace.format_trace_id(span.trace_id)
        found["span_id"] = trace.format_span_id(span.span_id)
    return found


def _handlers() -> Iterator[logging.Handler]:
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            yield from logger.handlers
