"""Every command of the README runs, in order, as a reader would copy it; only the sizes are scaled down."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.live_service import free_port, stop_process, wait_until_ready
from support.shell_blocks import shell_commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = shell_commands(ROOT / "README.md")
RECORDS = ROOT / "training" / "results" / "default-pair"

# Sizes for which a reader has hours and this test has seconds. Nothing else of a command is changed.
SCALED_DOWN = {
    "--train": "320",
    "--val": "128",
    "--test": "48",
    "--epochs": "1",
    "--size": "64",
    "--batch-size": "16",
    "--count": "1",
    "--duration-s": "4",
}
# This test runs under `make test`; `make demo` has a test of its own, since it builds another environment.
RUN_ELSEWHERE = {"make test", "make demo"}
SERVERS = ("make serve", "pipeprobe serve")


def scaled_down(command: str) -> str:
    """`command` with its sizes replaced by those of SCALED_DOWN; a size of 0 stays one."""
    for option, value in SCALED_DOWN.items():
        command = re.sub(rf"({option})[ =][1-9][\d.]*", rf"\1 {value}", command)
    return command


@pytest.fixture
def reader() -> dict[str, str]:
    """The environment of a reader: this environment's scripts first on the PATH, a free port for the service."""
    port = free_port()
    scripts = Path(sys.executable).parent
    return os.environ | {
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "PORT": str(port),
        "COLUMNS": "100",
        "BENTOML_DO_NOT_TRACK": "True",
    }


def test_readme_has_commands() -> None:
    assert "make demo" in COMMANDS
    assert "make test" in COMMANDS


def with_interval(metric: dict[str, Any]) -> str:
    return f"{metric['value']:.3f} ({metric['low']:.3f}-{metric['high']:.3f})"


@pytest.mark.parametrize("name", ["simclr", "random", "supervised"])
def test_the_results_table_says_what_was_measured(name: str) -> None:
    metrics = json.loads((RECORDS / f"{name}.json").read_text())["metrics"]
    aurocs = {metric["data"]: with_interval(metric) for metric in metrics if metric["name"] == "auroc"}
    assert f"| {aurocs['val']} | {aurocs['held-out']} | {aurocs['shifted']} |" in README


def test_the_other_results_are_those_that_were_measured() -> None:
    for name in ("findings", "findings-shifted"):
        summary = json.loads((RECORDS / f"{name}.json").read_text())["summary"]
        assert (
            f"| {summary['events']} | {summary['recall']:.2f} | {summary['false_findings_per_minute']:.2f} | "
            f"{100 * summary['flagged_normal']:.0f} % |"
        ) in README
    difficulty = json.loads((RECORDS / "difficulty.json").read_text())
    assert difficulty["held"]
    for classifier in ("linear", "resnet18"):
        assert with_interval(difficulty[classifier]) in README


@pytest.mark.readme
@pytest.mark.timeout(600)
def test_every_command_runs(reader: dict[str, str], tmp_path: Path) -> None:
    for name in ("models", "serving"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "bentofile.yaml", tmp_path)
    port = reader.pop("PORT")
    reader["BENTOML_HOME"] = str(tmp_path / "bentoml")
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for command in COMMANDS:
            if command in RUN_ELSEWHERE:
                continue
            command = scaled_down(command).replace("127.0.0.1:3000", f"127.0.0.1:{port}")
            if command.startswith(SERVERS):
                command = command.replace("make serve", "pipeprobe serve") + f" --port {port}"
                servers.append(subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=tmp_path, env=reader))
                wait_until_ready(f"http://127.0.0.1:{port}", servers[-1])
                continue
            result = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=reader, capture_output=True, text=True, timeout=240
            )
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    finally:
        for server in servers:
            stop_process(server)


@pytest.mark.readme
@pytest.mark.timeout(600)
def test_make_demo_runs_without_torch() -> None:
    result = subprocess.run(["make", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=580)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "latency by stage" in result.stdout
    torch = subprocess.run(
        [ROOT / ".venv-serve" / "bin" / "python", "-c", "import torch"], capture_output=True, timeout=60
    )
    assert torch.returncode != 0
