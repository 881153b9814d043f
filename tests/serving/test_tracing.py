"""Tracing costs nothing where nobody collects traces."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.live_service import ROOT


@pytest.mark.parametrize(
    ("options", "expected"),
    [("", {"excluded_urls": ".*"}), ("tracing.exporter_type=in_memory tracing.sample_rate=1.0", {})],
)
def test_traces_only_where_an_exporter_is_configured(options: str, expected: dict[str, str]) -> None:
    # BentoML reads its configuration once, when it is first imported.
    code = "import json, serving.tracing as tracing; print(json.dumps(tracing.tracing_settings()))"
    environment = os.environ | {"BENTOML_CONFIG_OPTIONS": options, "PYTHONPATH": str(ROOT)}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert json.loads(output) == expected
