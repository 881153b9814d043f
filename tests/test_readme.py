"""Every command of the README runs, in order, as a reader would copy it; only the sizes are scaled down."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.datasets import write_sewer_ml
from support.live_service import free_port, stop_process, wait_until_ready
from support.shell_blocks import shell_commands

from serving.limits import settings_table
from serving.pairs.pair import load_folder, pair_folders

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVICE_README = (ROOT / "serving" / "README.md").read_text(encoding="utf-8")
COMMANDS = [*shell_commands(ROOT / "README.md"), *shell_commands(ROOT / "serving" / "README.md")]
RESULTS = ROOT / "training" / "results"
RECORDS = RESULTS / "default-pair"

# Sizes for which a reader has hours and this test has seconds. Nothing else of a command is changed.
SCALED_DOWN = {
    "--train": "320",
    "--val": "128",
    "--test": "48",
    # Enough for a probe that is better than chance, which is what is exported, in any precision.
    "--epochs": "5",
    "--size": "64",
    "--batch-size": "16",
    "--duration-s": "10",
    "--minutes": "0.2",
    "--rounds": "1",
    "--steps": "1",
    "--frames": "256",
    "--seconds": "1",
}
# What stands for a data set that cannot be shipped, and what a reader has days for: the full plan is listed, not run.
SEWER_ML = "SewerML"
LISTED_ONLY = {"pipeprobe-train sweep study --data sewer-packs --out runs/sewer-ml": " --batch-size 16 --plan"}
# This test runs under `make test`; `make demo` has a test of its own, since it builds another environment.
RUN_ELSEWHERE = {"make test", "make demo"}
SERVERS = ("make serve", "pipeprobe serve")


def scaled_down(command: str) -> str:
    """`command` with its sizes replaced by those of SCALED_DOWN; a size of 0 stays one."""
    for option, value in SCALED_DOWN.items():
        command = re.sub(rf"({option})[ =][1-9][\d.,]*", rf"\1 {value}", command)
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


def test_the_table_of_settings_is_complete() -> None:
    wanted = [f"| `{name}` | {default} | {allowed} | {doc} |" for name, default, allowed, doc in settings_table()]
    assert [line for line in SERVICE_README.splitlines() if line.startswith("| `PIPEPROBE_")] == wanted


@pytest.mark.parametrize("name", ["simclr", "random", "supervised", "simclr-vit_tiny"])
def test_the_results_table_says_what_was_measured(name: str) -> None:
    metrics = json.loads((RECORDS / f"{name}.json").read_text())["metrics"]
    aurocs = {metric["data"]: with_interval(metric) for metric in metrics if metric["name"] == "auroc"}
    assert f"| {aurocs['val']} | {aurocs['held-out']} | {aurocs['shifted']} |" in README


def test_the_shipped_pairs_are_of_the_method_that_the_study_found_best() -> None:
    found = [
        line
        for line in records(RESULTS / "study-all-methods" / "results.csv")
        if (line["kind"], line["data"], line["defect_proportion"]) == ("ssl", "val_natural", "0.15")
    ]
    best = {
        encoder: max((line for line in found if line["encoder"] == encoder), key=lambda line: float(line["auroc"]))
        for encoder in ("resnet18", "vit_tiny")
    }
    first, second = (f"{float(line['auroc']):.3f}" for line in best.values())
    assert f"(AUROC {first} and {second})" in README
    shipped = [load_folder(ROOT / "models", folder).manifest for folder in pair_folders(ROOT / "models")]
    assert {manifest.encoder: manifest.method for manifest in shipped} == {
        encoder: line["method"] for encoder, line in best.items()
    }


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


def percent(measured: dict[str, float]) -> str:
    value, low, high = (round(100 * measured[key]) for key in ("value", "low", "high"))
    return f"{value} % ({low} to {high})"


def test_what_is_left_to_watch_is_what_was_measured() -> None:
    found = json.loads((RECORDS / "review-curve" / "evaluation.json").read_text())
    assert f"on {found['inspections']} simulated inspections" in README
    assert f"({found['metres']:.1f} m of pipe, {found['events']} events" in README
    for name, at in {"balanced (default)": found["chosen"], **{mark["name"]: mark for mark in found["marks"]}}.items():
        false = "{value:.1f} ({low:.1f} to {high:.1f})".format(**at["false_per_100m"])
        row = f"| {name} | {percent(at['recall'])} | {false} | {percent(at['watched_share'])} |"
        assert (row in README) == (name != "recall_99")
    for each in found["to_catch"]:
        assert percent(each["share"]).replace(" %", " m", 1) in README.replace("\n", " ")


def test_the_distances_are_those_that_were_measured() -> None:
    summary = json.loads((RESULTS / "benchmarks" / "osd-distance.json").read_text())["summary"]
    text = README.replace("\n", " ")
    assert f"{100 * summary['within']:.1f} % of the distances given were within 0.1 m" in text
    assert f"{100 * summary['confident']:.1f} % of the legible frames got one" in text
    assert f"it took {100 * summary['cost']:.1f} % more processor time" in text


def mean_and_spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("row", "on_resnet18", "on_vit_tiny"),
    [
        ("SimCLR", "simclr", "simclr"),
        ("Barlow Twins", "barlow_twins", "barlow_twins"),
        ("BYOL", "byol", "byol"),
        ("DINO", "dino", "dino"),
        ("MAE; `masked_conv` on ResNet-18", "masked_conv", "mae"),
        ("untrained", "random", "random"),
        ("supervised", "supervised", "supervised"),
        ("SimCLR, fine-tuned", "finetuned_simclr", "finetuned_simclr"),
    ],
)
def test_the_studys_table_is_that_of_its_records(row: str, on_resnet18: str, on_vit_tiny: str) -> None:
    found = {
        (encoder, method): mean_and_spread(
            [
                float(line["f1"])
                for line in records(RESULTS / "study-cpu" / "results.csv")
                if (line["encoder"], line["method"], line["defect_proportion"]) == (encoder, method, "0.15")
                and (line["data"], line["threshold_rule"]) == ("val_p15", "published")
            ]
        )
        for encoder, method in (("resnet18", on_resnet18), ("vit_tiny", on_vit_tiny))
    }
    assert f"| {row} | {' | '.join(found.values())} |" in README


@pytest.mark.parametrize(
    ("encoder", "row", "method"),
    [
        ("resnet18", "SimCLR", "simclr"),
        ("resnet18", "Barlow Twins", "barlow_twins"),
        ("resnet18", "BYOL", "byol"),
        ("resnet18", "DINO", "dino"),
        ("resnet18", "`masked_conv` (in MAE's place)", "masked_conv"),
        ("resnet18", "VICReg", "vicreg"),
        ("resnet18", "LeJEPA", "lejepa"),
        ("resnet18", "VISReg", "visreg"),
        ("resnet18", "untrained", "random"),
        ("resnet18", "supervised", "supervised"),
        ("resnet18", "SimCLR, fine-tuned", "finetuned_simclr"),
        ("vit_tiny", "SimCLR", "simclr"),
        ("vit_tiny", "Barlow Twins", "barlow_twins"),
        ("vit_tiny", "BYOL", "byol"),
        ("vit_tiny", "DINO", "dino"),
        ("vit_tiny", "MAE", "mae"),
        ("vit_tiny", "VICReg", "vicreg"),
        ("vit_tiny", "LeJEPA", "lejepa"),
        ("vit_tiny", "VISReg", "visreg"),
        ("vit_tiny", "untrained", "random"),
        ("vit_tiny", "supervised", "supervised"),
        ("vit_tiny", "SimCLR, fine-tuned", "finetuned_simclr"),
    ],
)
def test_the_tables_of_all_methods_are_those_of_their_records(encoder: str, row: str, method: str) -> None:
    found = {
        line["defect_proportion"]: f"{float(line['auroc']):.3f}"
        for line in records(RESULTS / "study-all-methods" / "results.csv")
        if (line["encoder"], line["method"]) == (encoder, method)
        and (line["data"], line["threshold_rule"]) == ("test_natural", "published")
    }
    _, _, table = README.partition(f"| {'ResNet-18' if encoder == 'resnet18' else 'ViT-Tiny'}, trained by |")
    table, _, _ = table.partition("\n\n")
    assert f"| {row} | {' | '.join(found[share] for share in ('0.01', '0.02', '0.05', '0.15'))} |" in table


@pytest.mark.parametrize(
    ("row", "start", "method"),
    [
        ("untrained", "scratch", "random"),
        ("SimCLR on the photographs", "scratch", "simclr"),
        ("SimCLR on simulated pipes", "pipes", "transferred"),
        ("SimCLR on pipes, then on the photographs", "pipes", "simclr"),
        ("supervised", "scratch", "supervised"),
        ("supervised, from SimCLR on pipes", "pipes", "supervised"),
    ],
)
def test_the_table_of_real_surfaces_is_that_of_its_records(row: str, start: str, method: str) -> None:
    lines = [
        line
        for line in records(RESULTS / "real-concrete" / "summary.csv")
        if (line["start"], line["method"]) == (start, method)
    ]
    cells = []
    for share in ("0.01", "0.02", "0.05", "0.15", "balanced"):
        values = [float(line["auroc"]) for line in lines if line["defect_proportion"] == share]
        cells.append(mean_and_spread(values) if values else "-")
    assert f"| {row} | {' | '.join(cells)} |" in README


def test_the_figures_of_speed_are_those_that_were_measured() -> None:
    found = {
        name: json.loads((RESULTS / "benchmarks" / f"{name}.json").read_text())
        for name in ("views", "pipeline", "memory")
    }
    text = " ".join(README.split())
    for row in found["views"]["rows"]:
        if row["views"] == "simclr":
            assert f"{row['ours_views_per_s']:.0f} " in text
            assert f"{row['lightly_views_per_s']:.0f} ({row['ratio']:.2f} times" in text
    pipeline, memory = found["pipeline"], found["memory"]["rows"]
    assert f"{pipeline['ours_frames_per_s']:.0f} frames/s, {pipeline['ours_over_ceiling']:.2f} of what" in text
    assert f"{memory[0]['private_mib']:.0f} MiB for 8,000 frames, {memory[-1]['private_mib']:.0f} MiB for" in text


@pytest.mark.readme
@pytest.mark.timeout(2400)
def test_every_command_runs(reader: dict[str, str], tmp_path: Path) -> None:
    for name in ("models", "serving"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("benchmarks", "support"):
        shutil.copytree(ROOT / "tests" / name, tmp_path / "tests" / name)
    shutil.copy(ROOT / "bentofile.yaml", tmp_path)
    write_sewer_ml(tmp_path / SEWER_ML, train=400, val=120, zipped=True)
    port = reader.pop("PORT")
    reader["BENTOML_HOME"] = str(tmp_path / "bentoml")
    # Nothing of the machine's own is read or written.
    reader["PIPEPROBE_MODELS"] = str(tmp_path / "models")
    reader["PIPEPROBE_KEY_FILE"] = str(tmp_path / "keys.json")
    reader["PIPEPROBE_JOBS"] = str(tmp_path / "jobs")
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for command in COMMANDS:
            if command in RUN_ELSEWHERE:
                continue
            command = scaled_down(command + LISTED_ONLY.get(command, "")).replace("127.0.0.1:3000", f"127.0.0.1:{port}")
            if command.startswith(SERVERS):
                command = command.replace("make serve", "pipeprobe serve") + f" --port {port}"
                servers.append(subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=tmp_path, env=reader))
                wait_until_ready(f"http://127.0.0.1:{port}", servers[-1])
                continue
            result = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=reader, capture_output=True, text=True, timeout=900
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
