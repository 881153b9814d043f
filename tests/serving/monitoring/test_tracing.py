"""Tracing costs nothing where nobody collects traces."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.live_service import ROOT

from serving.errors import ConfigError
from serving.monitoring.tracing import trace_id, tracing_settings

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("options", "expected"),
    [("", {"excluded_urls": ".*"}), ("tracing.exporter_type=in_memory tracing.sample_rate=1.0", {})],
)
def test_traces_only_where_an_exporter_is_configured(options: str, expected: dict[str, str]) -> None:
    # BentoML reads its configuration once, when it is first imported.
    code = "import json, serving.monitoring.tracing as tracing; print(json.dumps(tracing.tracing_settings('', 1.0)))"
    environment = os.environ | {"BENTOML_CONFIG_OPTIONS": options, "PYTHONPATH": str(ROOT)}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert json.loads(output) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{TRACE_ID}-00f067aa0ba902b7-01", TRACE_ID),
        (f"cc-{TRACE_ID}-00f067aa0ba902b7-01-what-comes-after", TRACE_ID),  # a later version may say more
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE_ID.upper()}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE_ID}", None),
        ("", None),
    ],
)
def test_the_callers_trace_id_is_read_from_its_header(header: str, expected: str | None) -> None:
    assert trace_id(header) == expected


def test_a_missing_exporter_is_named_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.monitoring.tracing._EXPORTER", "opentelemetry.no_such.exporter")
    with pytest.raises(ConfigError, match=r"pipeprobe\[trace\]"):
        tracing_settings("http://127.0.0.1:4318/v1/traces", 1.0)
