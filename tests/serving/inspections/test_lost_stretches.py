"""What went down with a decoder is told wherever a batch is looked at, and is had by the next call."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result
from support.video_files import red_between, write_pal
from support.written_files import contents, read_csv, read_json

from serving.cli import cli
from serving.report.data import index_data, read_finished, video_data

LENGTH_S = 200.0
VARYING = "timing.json"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough that its decoder cannot be at the end when the first frames are scored."""
    return write_pal(tmp_path_factory.mktemp("pal") / "run.mpg", red_between(100, 110), seconds=LENGTH_S)


def videos(video: Path, out: Path, models: Path) -> Result:
    arguments = ["videos", str(video), "--out", str(out), "--models", str(models), "--distance", "none"]
    return CliRunner().invoke(cli, arguments)


def test_a_lost_stretch_is_told_everywhere_and_had_by_the_next_call(
    video: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    n_samples = 0

    def kill_after_five(self: object, path: Path, time_s: float) -> None:
        nonlocal n_samples
        n_samples += 1
        if n_samples == 5:
            psutil.Process().children()[0].kill()

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("serving.commands.videos._Bars.on_sample", kill_after_five)
        told = videos(video, out, models)
    assert told.exit_code == 1
    reading = read_json(out / "run" / "findings.json")["reading"]
    (stretch,) = reading["lost_stretches"]
    lost_s = stretch["end_s"] - stretch["start_s"]
    assert 0 < lost_s < LENGTH_S / 2
    assert reading["pictures"] == sum(reading[fate] for fate in ("decoded", "skipped", "corrupt", "lost"))

    (row,) = read_csv(out / "summary.csv")
    assert (row["status"], row["complete"], int(row["frames_lost"])) == ("scored", "False", reading["lost"])
    assert float(row["lost_s"]) == pytest.approx(lost_s, abs=1e-3)
    assert re.fullmatch(r"00:0\d:\d\d to 00:0\d:\d\d", row["lost"])
    assert f"lost with its decoder: {row['lost']}" in row["reason"]
    manifest = read_json(out / "manifest.json")
    assert manifest["counts"]["lost_s"] == pytest.approx(lost_s, abs=1e-3)
    assert manifest["videos"] == {"scored": 1, "failed": 0, "incomplete": 1}
    documents, _ = read_finished(out)
    (shown,) = index_data(out, documents)["rows"]
    assert (shown["status"], shown["lost_s"], shown["reason"]) == ("incomplete", float(row["lost_s"]), row["reason"])
    assert video_data(out / "run", documents[out / "run"])["lost"] == [(stretch["start_s"], stretch["end_s"])]
    (line,) = [line for line in told.stdout.splitlines() if "run.mpg" in line]
    assert f"{lost_s:.1f} s: {row['lost']}" in line
    assert "incomplete" in line
    assert f"run.mpg {row['reason']}" in told.stderr

    assert videos(video, out, models).exit_code == 0
    assert videos(video, tmp_path / "undisturbed", models).exit_code == 0
    again, undisturbed = contents(out), contents(tmp_path / "undisturbed")
    assert again.pop(VARYING) != undisturbed.pop(VARYING)
    assert again == undisturbed
