"""Batches from and to a real S3-compatible server over a real Ray, whose workers are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.object_store import Store, object_store
from support.ray_runs import ray_environment, ray_folder, wait_until
from support.video_files import red_between, repeat, truncate, write_h264
from support.written_files import contents, read_json

from serving.cloud_files import CloudFolder
from serving.errors import ConfigError
from serving.inspections.cloud_output import CloudOutput, Sent
from serving.inspections.cloud_videos import score_sources
from serving.inspections.ray_cloud import ToUrl, score_to_url
from serving.inspections.ray_workers import PairOnCluster, Session
from serving.inspections.run_claim import RunClaim
from serving.inspections.sources import find_sources
from serving.inspections.video_scoring import scoring_key
from serving.inspections.video_settings import HANG_S, VideoSettings
from serving.pairs.pair import load_pair
from serving.ray_cluster import Cluster
from serving.scorer import Scorer

REPOSITORY = Path(__file__).resolve().parents[3]
IN = "inspections"
# Every picture, so that there is a middle to be killed in.
SETTINGS = VideoSettings(every_s=0.01, repeat_stills=True, distance="auto")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A short inspection with its distances, one of some minutes, and a file without its index."""
    folder = tmp_path_factory.mktemp("footage")
    short = write_h264(folder / "short.mp4", red_between(1, 3), seconds=4)
    (folder / "short.mp4.distance.csv").write_text("time_s,distance_m\n0,0\n4,2\n")
    repeat(short, folder / "long.mp4", times=60)
    truncate(short, folder / "broken.mp4", share=0.5)
    with object_store() as running:
        for path in folder.iterdir():
            running.send(path, f"{IN}/{path.name}")
        yield running


def without_timing(objects: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in objects.items() if name != "timing.json"}


def started(stack: ExitStack, store: Store, models: Path, out: str, scratch: Path) -> subprocess.Popen[str]:
    folder = stack.enter_context(ray_folder())
    run = stack.enter_context(
        subprocess.Popen(
            [
                *(sys.executable, "-m", "serving", "videos", store.url(IN), "--out", out, "--all"),
                *("--engine", "ray", "--scratch", str(scratch)),
            ],
            cwd=REPOSITORY,
            env=ray_environment(folder) | store.environment | {"PIPEPROBE_MODELS": str(models), "COLUMNS": "120"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(run.kill)
    return run


def worker_at(name: str) -> int | None:
    """The process in the middle of a video, whose decoder has it open."""
    for process in psutil.process_iter(["cmdline", "ppid"]):
        arguments = process.info["cmdline"] or ()
        if "serving.inspections.decoder_child" in arguments and any(each.endswith(f"/{name}") for each in arguments):
            return int(process.info["ppid"])
    return None


# Ray and every one of its workers start from nothing.
@pytest.mark.timeout(600)
def test_a_killed_worker_costs_nothing_and_the_objects_are_those_of_one_process(
    store: Store, models: Path, scorer: Scorer, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    with ExitStack() as stack:
        run = started(stack, store, models, store.url("there"), scratch)
        pid = wait_until(lambda: worker_at("long.mp4") or run.poll() is not None)
        assert run.poll() is None, run.communicate()
        assert "long/findings.json" not in store.names("there")
        os.kill(pid, signal.SIGKILL)
        said, errors = run.communicate(timeout=300)
    assert run.returncode == 1, errors
    assert "1 of 3 videos could not be scored" in errors
    assert "tiny 1.0.0 (fp32 on cpu)" in said
    score_sources(find_sources([store.url(IN)]), store.url("here"), scorer, SETTINGS)
    assert without_timing(store.contents("there")) == without_timing(store.contents("here"))
    left = [path for path in scratch.rglob("*") if path.is_file() and path.name != "lock"]
    assert not left, "what the killed worker left is removed"

    again = score_sources(find_sources([store.url(IN)]), store.url("there"), scorer, SETTINGS)
    assert [each.status for each in again] == ["failed", "kept", "kept"]


@pytest.mark.timeout(600)
def test_to_a_folder_that_all_machines_see(store: Store, models: Path, scorer: Scorer, tmp_path: Path) -> None:
    with ExitStack() as stack:
        run = started(stack, store, models, str(tmp_path / "there"), tmp_path / "scratch")
        _, errors = run.communicate(timeout=300)
    assert run.returncode == 1, errors
    score_sources(find_sources([store.url(IN)]), str(tmp_path / "here"), scorer, SETTINGS)
    assert without_timing(contents(tmp_path / "there")) == without_timing(contents(tmp_path / "here"))
    timing = read_json(tmp_path / "there" / "timing.json")
    assert [each["status"] for each in timing["videos"]] == ["failed", "scored", "scored"]
    again = score_sources(find_sources([store.url(IN)]), str(tmp_path / "there"), scorer, SETTINGS)
    assert [each.status for each in again] == ["failed", "kept", "kept"]


def test_a_worker_sends_nothing_once_another_run_has_taken_over(store: Store, models: Path, tmp_path: Path) -> None:
    cluster = Cluster(task="a video")
    pair = PairOnCluster.of(load_pair(models / "tiny"), cluster, None)
    (source,) = find_sources([store.url(f"{IN}/short.mp4")])
    there = CloudFolder(store.url("taken-over"))
    with RunClaim(there) as claim:
        task = ToUrl(
            session=Session.of(pair, cluster, SETTINGS, HANG_S),
            key=scoring_key(pair, SETTINGS),
            source=source,
            scratch=tmp_path / "scratch",
            folder=Path("short"),
            out=there,
            claim=claim.name,
        )
        with pytest.raises(ConfigError, match=r"another run has taken .*taken-over over"):
            score_to_url(replace(task, claim=".claims/000000.json"))
        assert store.names("taken-over") == {claim.name}
        sent = score_to_url(task)
        assert isinstance(sent, Sent)
        assert {*sent.hashes} == {name.removeprefix("short/") for name in store.names("taken-over") if "short/" in name}
    with CloudOutput(there, tmp_path / "mirror") as output:
        result = output.sent(sent)
        assert result.folder == tmp_path / "mirror" / "short"
        assert output.sha256(result.folder / "report.html") == sent.hashes["report.html"]
