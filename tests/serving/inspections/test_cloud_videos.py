"""Batches from and to a real S3-compatible server, killed, repeated, and mixed with folders of this machine."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner
from support.object_store import Store, object_store
from support.video_files import red_between, repeat, truncate, write_h264
from support.written_files import contents, read_json

from serving.cli import cli
from serving.cloud_files import CloudFolder, is_url, local_path
from serving.durable import sha256_file
from serving.errors import ConfigError
from serving.inspections.cloud_videos import score_sources
from serving.inspections.sources import find_sources
from serving.inspections.video_result import VideoResult
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import find_videos, score_videos
from serving.scorer import Scorer

REPOSITORY = Path(__file__).resolve().parents[3]
IN = "inspections"
VIDEOS = ("a.mp4", "b.mp4", "c.mp4")
SETTINGS = VideoSettings(distance="none")
TIMEOUT_S = 200.0


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short inspection with its distances, one of two minutes, and a file without its index."""
    folder = tmp_path_factory.mktemp("footage")
    short = write_h264(folder / "a.mp4", red_between(1, 3), seconds=4)
    (folder / "a.mp4.distance.csv").write_text("time_s,distance_m\n0,0\n4,2\n")
    repeat(short, folder / "b.mp4", times=30)
    truncate(short, folder / "c.mp4", share=0.5)
    return folder


@pytest.fixture(scope="module")
def store(footage: Path) -> Iterator[Store]:
    with object_store() as running:
        for path in footage.iterdir():
            running.send(path, f"{IN}/{path.name}")
        yield running


@pytest.fixture(scope="module")
def uninterrupted(store: Store, scorer: Scorer) -> dict[str, bytes]:
    """What one run writes."""
    score(scorer, [store.url(IN)], store.url("uninterrupted"))
    return without_timing(store.contents("uninterrupted"))


def score(
    scorer: Scorer, places: Sequence[str], out: str, *, settings: VideoSettings = SETTINGS, **options: Any
) -> dict[str, VideoResult]:
    results = score_sources(find_sources(places), out, scorer, settings, **options)
    return {Path(each.video).name: each for each in results}


def without_timing(objects: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in objects.items() if name != "timing.json"}


def fetched_videos(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the videos that are fetched from now on."""
    fetched: list[str] = []
    fetch = CloudFolder.fetch

    def noted(self: CloudFolder, name: str, to: Path) -> None:
        if name.endswith(".mp4"):
            fetched.append(name)
        fetch(self, name, to)

    monkeypatch.setattr(CloudFolder, "fetch", noted)
    return fetched


def test_results_are_those_of_a_local_run(
    store: Store, uninterrupted: dict[str, bytes], footage: Path, scorer: Scorer, tmp_path: Path
) -> None:
    score_videos(find_videos([footage]), tmp_path, scorer, SETTINGS)
    for folder in ("a", "b"):
        local = contents(tmp_path / folder)
        there = {name[2:]: data for name, data in uninterrupted.items() if name.startswith(f"{folder}/")}
        document, expected = (json.loads(each.pop("findings.json")) for each in (there, local))
        assert there == local
        assert document.pop("video_path") == store.url(f"{IN}/{folder}.mp4")
        expected.pop("video_path")
        assert document == expected
    manifest, summary = json.loads(uninterrupted["manifest.json"]), json.loads(uninterrupted["summary.json"])
    assert manifest["inputs"] == [
        {
            "video": store.url(f"{IN}/{name}"),
            "video_sha256": sha256_file(footage / name),
            "folder": None if name == "c.mp4" else Path(name).stem,
        }
        for name in VIDEOS
    ]
    (failure,) = manifest["failures"]
    assert failure["reason"].startswith(store.url(f"{IN}/c.mp4"))
    assert "without its index" in failure["reason"]
    assert [row["status"] for row in summary["results"]] == ["scored", "scored", "failed"]
    assert b"a.mp4" in uninterrupted["index.html"]


def test_the_manifest_has_the_hash_of_every_object(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    outputs = json.loads(uninterrupted["manifest.json"])["outputs"]
    written = {name for name in uninterrupted if not name.startswith(".done/") and name != "manifest.json"}
    assert set(outputs) == written
    for name, sha256 in outputs.items():
        (tmp_path / "object").write_bytes(uninterrupted[name])
        assert sha256_file(tmp_path / "object") == sha256


def test_what_is_done_is_neither_fetched_nor_scored_again(
    store: Store, uninterrupted: dict[str, bytes], scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = fetched_videos(monkeypatch)
    results = score(scorer, [store.url(IN)], store.url("uninterrupted"))
    assert {name: each.status for name, each in results.items()} == {
        "a.mp4": "kept",
        "b.mp4": "kept",
        "c.mp4": "failed",
    }
    assert fetched == ["c.mp4"]
    assert without_timing(store.contents("uninterrupted")) == uninterrupted


def has_begun(names: set[str]) -> bool:
    return any(name.startswith("a/") for name in names)


def has_finished_one(names: set[str]) -> bool:
    return ".done/a.json" in names


def sends_the_second(names: set[str]) -> bool:
    return any(name.startswith("b/") for name in names)


def has_finished_both(names: set[str]) -> bool:
    return ".done/b.json" in names


@pytest.mark.timeout(900)
def test_killed_again_and_again_it_ends_with_the_objects_of_one_run(
    store: Store, uninterrupted: dict[str, bytes], footage: Path, models: Path, scorer: Scorer, tmp_path: Path
) -> None:
    before = store.contents(IN)
    for reached in (has_begun, has_finished_one, sends_the_second, has_finished_both):
        kill_once(reached, store, models, tmp_path / "scratch")
        assert "manifest.json" not in store.names("killed")
    results = score(scorer, [store.url(IN)], store.url("killed"), scratch=tmp_path / "scratch")
    assert [each.status for each in results.values()] == ["kept", "kept", "failed"]
    assert without_timing(store.contents("killed")) == uninterrupted
    assert store.contents(IN) == before, "the videos are only read"
    left = [path for path in (tmp_path / "scratch").rglob("*") if path.is_file() and path.name != "lock"]
    assert not left, "what killed runs left is removed"


def kill_once(reached: Callable[[set[str]], bool], store: Store, models: Path, scratch: Path) -> None:
    """Start the command and kill it, as no process can refuse, as soon as `reached` says so of the objects there."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "serving", "videos", store.url(IN), "--out", store.url("killed")),
            *("--scratch", str(scratch), "--distance", "none"),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"PIPEPROBE_MODELS": str(models)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while process.poll() is None and not reached(store.names("killed")) and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert reached(store.names("killed")), errors.decode()


def test_another_video_of_the_name_is_scored_again_in_place(
    store: Store, footage: Path, scorer: Scorer, tmp_path: Path
) -> None:
    store.send(footage / "a.mp4", "changing/run.mp4")
    score(scorer, [store.url("changing")], store.url("changed"))
    assert {"run/peak_001.jpg", ".done/run.json"} <= store.names("changed")
    clean = write_h264(tmp_path / "run.mp4", red_between(9, 9), seconds=2)
    store.send(clean, "changing/run.mp4")
    results = score(scorer, [store.url("changing")], store.url("changed"))
    assert (results["run.mp4"].status, results["run.mp4"].video_sha256) == ("scored", sha256_file(clean))
    left = store.names("changed")
    assert "run/findings.json" in left
    assert "run/peak_001.jpg" not in left, "nothing is left of what was found in the other one"


def test_from_a_url_to_a_folder_here(
    store: Store, footage: Path, scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = fetched_videos(monkeypatch)
    places = [store.url(f"{IN}/a.mp4"), str(footage / "b.mp4")]
    results = score(scorer, places, str(tmp_path / "out"))
    assert [each.status for each in results.values()] == ["scored", "scored"]
    assert fetched == ["a.mp4"]
    first = without_timing(contents(tmp_path / "out"))
    assert read_json(tmp_path / "out" / "a" / "findings.json")["video_path"] == store.url(f"{IN}/a.mp4")
    results = score(scorer, places, str(tmp_path / "out"))
    assert [each.status for each in results.values()] == ["kept", "kept"]
    assert fetched == ["a.mp4"]
    assert without_timing(contents(tmp_path / "out")) == first


def test_from_a_folder_here_to_a_url(store: Store, footage: Path, scorer: Scorer) -> None:
    place = f"file://{footage}"
    results = score(scorer, [place], store.url("from-here"))
    assert [each.status for each in results.values()] == ["scored", "scored", "failed"]
    first = without_timing(store.contents("from-here"))
    assert json.loads(first["manifest.json"])["inputs"][0]["video"] == str(footage / "a.mp4")
    results = score(scorer, [place], store.url("from-here"))
    assert [each.status for each in results.values()] == ["kept", "kept", "failed"]
    assert without_timing(store.contents("from-here")) == first


def test_distances_beside_a_video_are_fetched_with_it(
    store: Store, footage: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = VideoSettings(distance="sidecar")
    place, out = store.url("beside"), store.url("beside-out")
    store.send(footage / "a.mp4", "beside/a.mp4")
    store.send(footage / "a.mp4.distance.csv", "beside/a.mp4.distance.csv")
    score(scorer, [place], out, settings=settings)
    (finding,) = json.loads(store.contents("beside-out")["a/findings.json"])["findings"]
    assert (finding["distance_m"], finding["distance_source"]) == (finding["frame_pts_s"] / 2, "sidecar")
    fetched = fetched_videos(monkeypatch)
    assert score(scorer, [place], out, settings=settings)["a.mp4"].status == "kept"
    assert fetched == []
    store.fs.pipe_file("bucket/beside/a.mp4.distance.csv", b"time_s,distance_m\n0,0\n4,4\n")
    assert score(scorer, [place], out, settings=settings)["a.mp4"].status == "scored"
    (finding,) = json.loads(store.contents("beside-out")["a/findings.json"])["findings"]
    assert finding["distance_m"] == finding["frame_pts_s"]


def test_at_most_two_videos_lie_here(store: Store, footage: Path, scorer: Scorer, tmp_path: Path) -> None:
    for number in range(4):
        store.send(footage / "a.mp4", f"many/run [{number}] é.mp4")
    seen: set[int] = set()

    def look(video: Path, time_s: float) -> None:
        seen.add(len(list(tmp_path.rglob("*.mp4"))))

    results = score(scorer, [store.url("many")], store.url("many-out"), scratch=tmp_path, on_sample=look)
    assert [each.status for each in results.values()] == ["scored"] * 4
    assert max(seen) == 2, "the one that is scored, and the next one"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lock"]


def test_other_stores_of_fsspec(footage: Path, scorer: Scorer) -> None:
    memory = fsspec.filesystem("memory")
    memory.put_file(str(footage / "a.mp4"), "/in/deep/a.mp4")
    (result,) = score_sources(find_sources(["memory://in"]), "memory://out", scorer, SETTINGS)
    assert (result.status, result.video) == ("scored", "memory://in/deep/a.mp4")
    (result,) = score_sources(find_sources(["memory://in"]), "memory://out", scorer, SETTINGS)
    assert result.status == "kept"
    assert memory.exists("/out/manifest.json")
    assert not memory.find("/out/.claims")


def asked(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["videos", *arguments, "--distance", "none"])
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


@pytest.fixture
def env_of_pairs(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPEPROBE_MODELS", str(models))


def test_errors_name_the_remedy(
    store: Store, footage: Path, tmp_path: Path, env_of_pairs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "out")
    assert "create the bucket, or mend its name" in asked("s3://no-such-bucket/in", "--out", out)
    assert "create the bucket, or mend its name" in asked(str(footage), "--out", "s3://no-such-bucket/out")
    assert "no videos in s3://bucket/nothing" in asked(store.url("nothing"), "--out", out)
    assert "Protocol not known: elsewhere" in asked("elsewhere://there", "--out", out)
    assert "none is given: leave it out" in asked(str(footage), "--out", out, "--scratch", str(tmp_path))
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3")
    assert "pip install 'pipeprobe[cloud]'" in asked(store.url(IN), "--out", out)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert "pip install 'pipeprobe[cloud]'" in asked(store.url(IN), "--out", out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"},
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        ),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}, "AWS_ENDPOINT_URL names another S3"),
    ],
)
def test_a_store_that_lets_nobody_in_is_said(
    store: Store, models: Path, tmp_path: Path, changes: dict[str, str], remedy: str
) -> None:
    environment = {name: value for name, value in (os.environ | changes).items() if value}
    result = subprocess.run(
        [sys.executable, "-m", "serving", "videos", store.url(IN), "--out", str(tmp_path), "--distance", "none"],
        cwd=REPOSITORY,
        env=environment | {"PIPEPROBE_MODELS": str(models), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: s3://bucket/inspections")
    assert remedy in result.stderr


def test_places_are_told_apart() -> None:
    assert [is_url(place) for place in ("s3://b/x", "memory://x", "file:///x", "/x", "x", "s3:/b/x")] == [
        *(True, True, False, False, False, False)
    ]
    assert local_path("file:///a%20b/c") == Path("/a b/c")
    assert local_path("a b/c") == Path("a b/c")
