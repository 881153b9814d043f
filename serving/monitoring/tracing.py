"""OpenTelemetry traces, by BentoML's own hooks: its server makes a span of every request, and exports what is sampled.

A caller's `traceparent` is continued, and its decision to sample is kept; the service's own share is for requests
that come without one. Where no exporter is configured, by PIPEPROBE_TRACE_ENDPOINT or in BentoML's own configuration,
no spans are made, and the logs take the caller's trace id from its header.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Any

from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry import trace

from serving.errors import ConfigError

_EXPORTER = "opentelemetry.exporter.otlp.proto.http"
_EXPORT_TIMEOUT_S = 10
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
# Asked every few seconds, by machines, for ever.
_UNTRACED = ["livez", "readyz", "healthz", "metrics"]


def tracing_settings(endpoint: str, share: float) -> dict[str, Any]:
    """BentoML's `tracing` settings: spans go to `endpoint`, an OTLP/HTTP URL, or where BentoML's configuration says.

    With neither no URL is traced. No span would leave the process then, yet the middleware would make several for
    each request, at half a millisecond of the one thread that answers: more than all else of HTTP together. BentoML
    offers no public way of reading its configuration.

    Raises `ConfigError` if the exporter is not installed.
    """
    if not endpoint:
        return {} if BentoMLContainer.config.tracing.exporter_type.get() else {"excluded_urls": ".*"}
    if not _is_installed(_EXPORTER):
        raise ConfigError(
            "PIPEPROBE_TRACE_ENDPOINT is set, but opentelemetry-exporter-otlp-proto-http is not installed: "
            "pip install 'pipeprobe[trace]'"
        )
    return {
        "exporter_type": "otlp",
        "sample_rate": share,
        "timeout": _EXPORT_TIMEOUT_S,
        "excluded_urls": _UNTRACED,
        "otlp": {"protocol": "http", "endpoint": endpoint},
    }


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # one of the packages that it would lie in is missing
        return False


def trace_id(traceparent: str) -> str | None:
    """Of the current span, else of a W3C `traceparent` header, else none; 32 hexadecimal digits."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return trace.format_trace_id(span.trace_id)
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match and match[1].strip("0") else None


def describe_span(name: str, attributes: dict[str, Any]) -> None:
    """Name the current request's span by its route, where BentoML knows its path only, and say what it was about."""
    span = trace.get_current_span()
    if span.is_recording():
        span.update_name(name)
        span.set_attributes({key: value for key, value in attributes.items() if value is not None})
