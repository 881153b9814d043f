"""Batches over a real Ray on this machine: whatever worker is killed, what is written is what a local run writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from support.ray_runs import holder_of, ray_environment, ray_folder, wait_until
from support.video_files import red_between, repeat, truncate, write_h264
from support.written_files import contents, read_json

from serving.cli import cli
from serving.durable import sha256_file
from serving.errors import ConfigError
from serving.file_lock import locked
from serving.inspections.ray_engine import VideoTask, score_video_task
from serving.inspections.ray_workers import PairOnCluster, Session
from serving.inspections.video_scoring import Footage, scoring_key
from serving.inspections.video_settings import HANG_S, VideoSettings
from serving.inspections.videos import LOCKS, find_videos, score_videos
from serving.pairs.pair import load_pair
from serving.pairs.versions import versions
from serving.ray_cluster import RETRIES, Cluster
from serving.scorer import Scorer

REPOSITORY = Path(__file__).resolve().parents[3]
# Every picture of some minutes, so that there is a middle to be killed in.
SETTINGS = VideoSettings(every_s=0.01, repeat_stills=True, distance="none")
OPTIONS = ("--all", "--distance", "none")


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One short inspection, two of some minutes, and a file without its index."""
    folder = tmp_path_factory.mktemp("footage")
    short = write_h264(folder / "short.mp4", red_between(1, 3), seconds=4)
    repeat(short, folder / "long.mp4", times=60)
    repeat(short, folder / "longest.mp4", times=90)
    truncate(short, folder / "broken.mp4", share=0.5)
    return folder


def command(footage: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "serving", "videos", str(footage), "--out", str(out), *OPTIONS, *options]


def scoring_worker(out: Path, name: str, *, but: int | None = None) -> int | None:
    """The process that is in the middle of a video: it holds the video's lock, and its decoder runs."""
    if not (out / LOCKS / name).exists():
        return None
    pid = holder_of(out / LOCKS / name)
    if pid is None or pid == but:
        return None
    try:
        children = psutil.Process(pid).children()
        decoding = any("serving.inspections.decoder_child" in child.cmdline() for child in children)
    except psutil.NoSuchProcess:
        return None
    return pid if decoding else None


def kill_worker(run: subprocess.Popen[str], out: Path, name: str, *, but: int | None) -> int:
    """Kill, as no process can refuse, the worker in the middle of a video, as soon as there is one other than `but`."""
    wait_until(lambda: scoring_worker(out, name, but=but) or run.poll() is not None)
    pid = scoring_worker(out, name, but=but)
    assert pid is not None, run.communicate()
    assert not (out / name / "findings.json").exists()
    os.kill(pid, signal.SIGKILL)
    return pid


def without_timing(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(out).items() if name != "timing.json"}


# Ray and every one of its workers start from nothing.
@pytest.mark.timeout(600)
def test_killed_workers_cost_nothing_but_the_video_that_kills_every_one(
    footage: Path, models: Path, scorer: Scorer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    environment = {"PIPEPROBE_MODELS": str(models), "COLUMNS": "120"}
    with ExitStack() as stack:
        folder = stack.enter_context(ray_folder())
        run = stack.enter_context(
            subprocess.Popen(
                command(footage, out, "--engine", "ray"),
                cwd=REPOSITORY,
                env=ray_environment(folder) | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(run.kill)
        kill_worker(run, out, "long", but=None)
        killed: int | None = None
        for _ in range(1 + RETRIES):
            killed = kill_worker(run, out, "longest", but=killed)
        said, errors = run.communicate(timeout=300)

    assert run.returncode == 1, errors
    assert "2 of 4 videos could not be scored" in errors
    assert "tiny 1.0.0 (fp32 on cpu)" in said
    manifest = read_json(out / "manifest.json")
    broken, longest = manifest["failures"]
    assert (broken["video"], longest["video"]) == (str(footage / "broken.mp4"), str(footage / "longest.mp4"))
    assert "without its index" in broken["reason"]
    assert f"{footage / 'longest.mp4'}: its worker died {1 + RETRIES} times" in longest["reason"]
    assert longest["video_sha256"] == sha256_file(footage / "longest.mp4")
    assert {each["folder"] for each in manifest["inputs"]} == {None, "long", "short"}

    # A local run keeps what the cluster has done, scores the rest, and the whole is as if it had done all of it.
    score_videos(find_videos([footage]), out, scorer, SETTINGS)
    statuses = {Path(each["video"]).stem: each["status"] for each in read_json(out / "timing.json")["videos"]}
    assert statuses == {"broken": "failed", "long": "kept", "longest": "scored", "short": "kept"}
    score_videos(find_videos([footage]), tmp_path / "local", scorer, SETTINGS)
    assert without_timing(out) == without_timing(tmp_path / "local")


def ray_command(*arguments: str, environment: dict[str, str]) -> None:
    subprocess.run(
        [str(Path(sys.executable).parent / "ray"), *arguments], env=environment, check=True, capture_output=True
    )


@pytest.mark.timeout(600)
def test_a_cluster_that_runs_already_writes_what_a_local_run_writes_and_waits_for_others(
    footage: Path, models: Path, scorer: Scorer, tmp_path: Path
) -> None:
    out, local = tmp_path / "out", tmp_path / "local"
    videos = ["short.mp4", "broken.mp4"]  # relative, as they stand in the outputs
    with ExitStack() as stack:
        folder = stack.enter_context(ray_folder())
        environment = ray_environment(folder) | {"PIPEPROBE_MODELS": str(models), "PYTHONPATH": str(REPOSITORY)}
        port = str(20000 + os.getpid() % 10000)
        ray_command(
            *("start", "--head", "--port", port, "--num-cpus", "1", "--include-dashboard", "false"),
            *("--object-store-memory", str(100 * 2**20), "--temp-dir", str(folder), "--disable-usage-stats"),
            environment=environment,
        )
        # `ray stop` would end every Ray of this machine.
        stack.callback(end_all_in, folder)
        arguments = (*videos, *OPTIONS, "--engine", "ray", "--ray-address", f"127.0.0.1:{port}")
        with locked(out / LOCKS / "short", wait=True):
            run = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "serving", "videos", *arguments, "--out", str(out)],
                    cwd=footage,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(run.kill)
            # The other one is through while somebody else has the first.
            wait_until(lambda: (out / LOCKS / "broken").exists() and holder_of(out / LOCKS / "broken") is None)
            assert not (out / "short").exists()
        _, errors = run.communicate(timeout=200)
        assert run.returncode == 1, errors
    score_locally(videos, footage, local, environment)
    assert without_timing(out) == without_timing(local)
    assert read_json(out / "summary.json")["results"][1]["reason"].startswith("broken.mp4")


def score_locally(videos: Sequence[str], folder: Path, out: Path, environment: dict[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "serving", "videos", *videos, *OPTIONS, "--out", str(out)],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
    )


def end_all_in(folder: Path) -> None:
    """End the processes of the Ray whose sessions lie in `folder`."""
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in argument for argument in process.info["cmdline"] or ()):
            process.kill()


def task(models: Path, out: Path, video: Path) -> VideoTask:
    cluster = Cluster(task="a video")
    pair = PairOnCluster.of(load_pair(models / "tiny"), cluster, None)
    session = Session.of(pair, cluster, SETTINGS, HANG_S)
    return VideoTask(video=Footage.of(video), folder=out / "short", session=session, key=scoring_key(pair, SETTINGS))


def test_a_machine_that_sees_something_else_is_named(footage: Path, models: Path, tmp_path: Path) -> None:
    asked = task(models, tmp_path / "out", footage / "short.mp4")
    with pytest.raises(ConfigError, match=f"does not see {tmp_path / 'out'}: OUT must be a folder that all machines"):
        score_video_task(asked)
    assert not (tmp_path / "out").exists(), "nothing is written where nobody looks for it"
    (tmp_path / "out" / LOCKS).mkdir(parents=True)
    other = {**asked.key, "pair_sha256": "0" * 64}
    with pytest.raises(ConfigError, match=f"has another pair in {models / 'tiny'} than the machine that started this"):
        score_video_task(replace(asked, key=other))
    older = tuple({**versions(), "av": "9.0.0"}.items())
    with pytest.raises(ConfigError, match=rf"has av {versions()['av']}, not 9.0.0: .*install the same releases"):
        score_video_task(replace(asked, session=replace(asked.session, installed=older)))
    result = score_video_task(asked)
    assert result is not None
    assert (result.status, result.findings) == ("scored", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cpus-per-video", "2"), "--cpus-per-video: for --engine ray alone"),
        (("--engine", "ray", "--gpus-per-video", "2"), "a video runs on one GPU or a share of it"),
        (("--engine", "ray", "--server", "http://127.0.0.1:1"), "by the service (--server) or by the cluster"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    footage: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(cli, ["videos", str(footage), "--out", str(tmp_path / "out"), *OPTIONS, *options])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(cli, ["videos", str(footage), "--out", str(tmp_path / "out"), "--engine", "ray"])
    assert isinstance(result.exception, ConfigError)
    assert "pip install 'pipeprobe[cluster]'" in str(result.exception)
