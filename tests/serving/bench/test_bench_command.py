"""`pipeprobe bench` with a real service, on a budget of fractions of a second."""

from __future__ import annotations

import json
from pathlib import Path

import click.testing
import pytest
from support.live_service import live_service
from support.tiny_pair import write_tiny_pair

from serving.commands.bench import command as bench


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PIPEPROBE_SHARED_DATA", raising=False)
    monkeypatch.setenv("PIPEPROBE_MODELS", "")
    write_tiny_pair(tmp_path / "models")
    return tmp_path / "models"


def run(*arguments: str) -> str:
    result = click.testing.CliRunner().invoke(bench, [*arguments, "--seconds", "0.4", "--clients", "3"])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_starts_a_service_and_prints_all_figures_as_json(models: Path) -> None:
    figures = json.loads(run("--models", str(models), "--json"))
    assert figures["start"]["seconds"] > 0.5 * figures["start"]["cpu_s"] / figures["cores"] > 0
    assert figures["load"]["clients"] == 3
    assert figures["load"]["failed"] == 0
    assert figures["share_of_bound"] == pytest.approx(
        figures["load"]["requests_per_s"] / figures["bounds"][0]["frames_per_s"]
    )
    assert {"decode", "queue", "infer", "total"} <= set(figures["stages_ms"])
    assert figures["advice"]


def test_measures_a_service_that_runs(models: Path) -> None:
    with live_service(models=models) as url:
        output = run("--models", str(models), "--url", url + "/")
    assert "share of the bound" in output
    assert "to change: " in output
    assert "start to ready" not in output
