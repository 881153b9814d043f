"""Which requests BentoML's OpenTelemetry middleware looks at."""

from __future__ import annotations

from typing import Any

from bentoml._internal.configuration.containers import BentoMLContainer


def tracing_settings() -> dict[str, Any]:
    """BentoML's `tracing` settings of the service: no URL is traced unless its configuration names an exporter.

    Without an exporter no span leaves the process, yet the middleware would make several for each request, at half
    a millisecond of the one thread that answers: more than all else of HTTP together. With one, everything is as
    configured. BentoML offers no public way of reading its configuration.
    """
    exporter = BentoMLContainer.config.tracing.exporter_type.get()
    return {} if exporter else {"excluded_urls": ".*"}
