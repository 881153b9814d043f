"""Batches whose frames a real service scores: the same bytes as with a session here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.live_service import free_port, live_service
from support.tiny_pair import red_frames, write_second_version
from support.video_files import red_between, write_h264
from support.written_files import contents

from serving.cli import cli
from serving.errors import ConfigError
from serving.inspections.remote_scorer import RemoteScorer
from serving.inspections.sidecar import sidecar_of
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import score_videos
from serving.scorer import Scorer

VARYING = "timing.json"


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    # Fewer frames a request than a batch of the command has: it must send them in parts.
    with live_service(models=models, settings={"max_batch_frames": 10}) as address:
        yield address


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h264(tmp_path_factory.mktemp("footage") / "run.mp4", red_between(4, 7), seconds=10)


def test_writes_what_a_session_here_writes(url: str, video: Path, scorer: Scorer, tmp_path: Path) -> None:
    score_videos([video], tmp_path / "here", scorer, VideoSettings())
    with RemoteScorer(url) as remote:
        (result,) = score_videos([video], tmp_path / "there", remote, VideoSettings())
        assert (result.status, result.findings) == ("scored", 1)
        here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
        assert there.pop(VARYING) != here.pop(VARYING)
        assert there == here
        # Neither scores again what the other has done.
        assert score_videos([video], tmp_path / "here", remote, VideoSettings())[0].status == "kept"
    assert score_videos([video], tmp_path / "there", scorer, VideoSettings())[0].status == "kept"


def test_what_is_left_out_here_is_left_out_there(url: str, video: Path, scorer: Scorer, tmp_path: Path) -> None:
    moved = Path(shutil.copy(video, tmp_path / "run.mp4"))
    sidecar_of(moved).write_text("time_s,distance_m\n0,0\n10,1.2\n", encoding="utf-8")
    settings = VideoSettings(every_m=0.25)
    score_videos([moved], tmp_path / "here", scorer, settings)
    with RemoteScorer(url) as remote:
        (result,) = score_videos([moved], tmp_path / "there", remote, settings)
    assert result.frames_scored < result.frames_sampled / 2
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    del here[VARYING], there[VARYING]
    assert there == here


def test_the_command_scores_with_the_pair_of_the_service(url: str, video: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["videos", str(video), "--out", str(tmp_path), "--server", url])
    assert result.exit_code == 0, result.output
    assert "tiny 1.0.0 (fp32 on cpu), balanced: a finding opens at 0.500" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pair", "another"], "'another'"),
        (["--pair", "tiny@9.9.9"], "9.9.9"),
        (["--variant", "int8"], "scores with fp32, not with int8"),
        (["--device", "cpu"], "--device is the service's to choose"),
    ],
)
def test_another_pair_than_the_service_has_is_refused(
    arguments: list[str], message: str, url: str, video: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(cli, ["videos", str(video), "--out", str(out), "--server", url, *arguments])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
    assert not out.exists()


def test_a_service_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.inspections.remote_scorer._START_S", 0.5)
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=f"{address} .*cannot be reached"):
        RemoteScorer(address)
    with pytest.raises(ConfigError, match="must begin with http"):
        RemoteScorer("gpu-box:3000")


def test_a_version_is_asked_for_by_name(models: Path) -> None:
    write_second_version(models, bias=4.0)
    with (
        live_service(models=models, settings={"pair": "tiny,tiny@2.0.0"}) as address,
        RemoteScorer(address, reference="tiny@2.0.0") as second,
        RemoteScorer(address, reference="tiny@1.0.0") as first,
    ):
        assert (first.manifest.version, second.manifest.version) == ("1.0.0", "2.0.0")
        frames = red_frames(2)
        assert (second.score(frames).logit - first.score(frames).logit).round(3).tolist() == [8.0, 8.0]
