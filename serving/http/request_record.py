"""What is left of a request when it has been answered: counted, logged, and said of its trace's span.

Handlers leave what they know in the request's state: `route` (a template), `pair` (name and version), `n_frames`,
`caller` (the API key's name), `problem` (the slug of an error).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.monitoring.logs import log_request
from serving.monitoring.telemetry import Telemetry
from serving.monitoring.tracing import describe_span

# Probes and scrapers ask these all day; their failures are logged all the same.
_QUIET_PATHS = frozenset({"/livez", "/readyz", "/healthz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_FAILURE = 400


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Where finished requests go. `log_requests`: one line each."""

    telemetry: Telemetry
    log_requests: bool

    def answering(self, *, method: str, state: dict[str, Any]) -> None:
        """Called before the first byte of the answer: its last one ends the span."""
        route = state.get("route", "other")
        about = {f"pipeprobe.{name}": value for name, value in _known(state).items()}
        about["pipeprobe.request_id"] = state["request_id"]
        describe_span(f"{method} {route}", {"http.route": route} | about)

    def finished(self, *, method: str, path: str, status: int, seconds: float, state: dict[str, Any]) -> None:
        """Called once a request, in its context, after the last byte of its answer."""
        route = state.get("route", "other")
        self.telemetry.request(route, method, status, seconds)
        if self.log_requests and (status >= _FAILURE or path not in _QUIET_PATHS):
            duration_ms = round(1000 * seconds, 3)
            log_request(method=method, route=route, status=status, duration_ms=duration_ms, **_known(state))


def _known(state: dict[str, Any]) -> dict[str, Any]:
    """What the handlers left, None for what they did not."""
    pair, version = state.get("pair", (None, None))
    return {
        "pair": pair,
        "pair_version": version,
        "n_frames": state.get("n_frames"),
        "key": state.get("caller"),
        "problem": state.get("problem"),
    }
