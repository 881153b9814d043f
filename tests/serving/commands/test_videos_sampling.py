"""`pipeprobe videos --every` and `--all`: which pictures are scored."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.tiny_pair import write_tiny_pair
from support.video_files import red_between, write_h264
from support.written_files import read_json

from serving.cli import cli
from serving.errors import ConfigError
from serving.formats.frames_parquet import read_frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 4 s, red from 1 to 2 s, and the pair that finds red."""
    folder = tmp_path_factory.mktemp("sampling")
    write_tiny_pair(folder / "models")
    write_h264(folder / "run.mp4", red_between(1.0, 2.0), seconds=4)
    return folder


def videos(folder: Path, out: Path, *options: str) -> Result:
    arguments = ["videos", str(folder / "run.mp4"), "--models", str(folder / "models"), "--out", str(out)]
    return CliRunner().invoke(cli, [*arguments, "--distance", "none", *options])


def test_all_scores_every_picture_and_finds_what_there_is_once(folder: Path, tmp_path: Path) -> None:
    result = videos(folder, tmp_path, "--all")
    assert result.exit_code == 0, result.output
    written = read_json(tmp_path / "run" / "findings.json")
    assert len(read_frames(tmp_path / "run" / "frames.parquet").pts_s) == written["reading"]["pictures"] == 100
    (finding,) = written["findings"]
    assert (finding["start_s"], finding["end_s"]) == (pytest.approx(1.0, abs=0.05), pytest.approx(2.0, abs=0.05))


def test_a_time_with_a_unit_is_that_time(folder: Path, tmp_path: Path) -> None:
    assert videos(folder, tmp_path, "--every", "200ms").exit_code == 0
    first = (tmp_path / "run" / "findings.json").stat().st_mtime_ns
    assert videos(folder, tmp_path, "--every", "0.2").exit_code == 0
    assert (tmp_path / "run" / "findings.json").stat().st_mtime_ns == first, "it is done already"
    assert read_json(tmp_path / "run" / "findings.json")["scoring"]["every_s"] == 0.2


def test_what_cannot_be_meant_is_refused(folder: Path, tmp_path: Path) -> None:
    both = videos(folder, tmp_path, "--all", "--every", "1s")
    assert isinstance(both.exception, ConfigError)
    assert "give one of them" in str(both.exception)
    assert videos(folder, tmp_path, "--every", "0.25ft").exit_code == 2
    too_short = videos(folder, tmp_path, "--hang-after", "4s")
    assert isinstance(too_short.exception, ConfigError)
    assert "given up after 4 s; take 5 to 86400 s" in str(too_short.exception)
    assert not list(tmp_path.iterdir())
