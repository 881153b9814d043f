"""What is deleted when, by a clock that is set by hand, on real files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.errors import ConfigError, JobNotFoundError, StorageFullError
from serving.inspections.video_settings import VideoSettings
from serving.jobs.cleanup import Cleanup, KeepPolicy
from serving.jobs.folder import JobsFolder, default_folder
from serving.jobs.job import Job, NewJob
from serving.jobs.leases import Leases
from serving.jobs.store import JobStore
from serving.jobs.table import Table

HOUR_S = 3600.0
POLICY = KeepPolicy(upload_s=2 * HOUR_S, result_s=24 * HOUR_S, max_ended=3, orphan_s=5 * HOUR_S)


class World:
    """A folder of jobs at a time that is set by hand."""

    def __init__(self, root: Path) -> None:
        self.now = 10**6
        self.folder = JobsFolder.open(root)
        self.table = Table(self.folder.table, clock=lambda: self.now)
        self.store = JobStore(self.table)
        self.leases = Leases(self.table, lease_s=10, max_attempts=3)
        self.cleanup = Cleanup(self.folder, self.store, POLICY)

    def add(self, name: str) -> Job:
        """A queued job with an upload of 100 bytes."""
        new = NewJob(
            id=name,
            caller="",
            source="upload",
            name="run.mpg",
            n_bytes=100,
            pair="tiny",
            pair_version="1.0.0",
            settings=VideoSettings(),
            idempotency_key=None,
            fingerprint="",
        )
        upload = self.folder.upload(name, "run.mpg")
        upload.parent.mkdir(parents=True)
        upload.write_bytes(bytes(100))
        return self.store.add(new, max_waiting=100)[0]

    def finish(self, name: str) -> Job:
        """A job that is done, with results of 30 bytes."""
        self.add(name)
        job = self.leases.claim(pairs=["tiny"], max_running=1)
        assert job is not None
        results = self.folder.results(job)
        results.mkdir(parents=True)
        (results / "findings.json").write_bytes(bytes(30))
        assert self.leases.finish(job, summary={"frames_sampled": 1}, reason="", n_bytes=30)
        return self.store.get(name)

    def sweep(self) -> None:
        self.cleanup.sweep(self.now)

    def upload_exists(self, name: str) -> bool:
        return self.folder.upload(name, "run.mpg").exists()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "jobs")
    yield world
    world.table.close()


def test_uploads_go_before_results_and_results_before_long(world: World) -> None:
    job = world.finish("a")
    world.now += 2 * HOUR_S - 1
    world.sweep()
    assert world.upload_exists("a")
    assert world.store.kept_bytes() == 130
    world.now += 1
    world.sweep()
    assert not world.upload_exists("a")
    assert world.folder.result_names(job) == ["findings.json"]
    assert world.store.kept_bytes() == 30
    world.now += 22 * HOUR_S
    world.sweep()
    assert list(world.folder.files.iterdir()) == []
    with pytest.raises(JobNotFoundError):
        world.store.get("a")


def test_a_job_that_waits_or_runs_keeps_its_upload(world: World) -> None:
    world.add("a")
    running = world.leases.claim(pairs=["tiny"], max_running=1)
    world.now += 23 * HOUR_S
    world.add("b")
    world.now += 2 * HOUR_S
    world.sweep()
    assert running is not None
    assert world.upload_exists("a")
    assert world.upload_exists("b")


def test_a_job_that_nobody_runs_fails_at_last(world: World) -> None:
    world.add("a")
    world.now += 24 * HOUR_S
    world.sweep()
    job = world.store.get("a")
    assert job.state == "failed"
    assert "waited too long" in job.reason


def test_a_cancelled_job_loses_all_its_files_at_once(world: World) -> None:
    world.add("a")
    world.store.cancel("a")
    world.cleanup.settle(world.now)
    assert list(world.folder.files.iterdir()) == []
    assert world.store.get("a").kept_bytes == 0
    assert not world.store.get("a").has_files


def test_of_many_ended_jobs_the_latest_are_kept(world: World) -> None:
    for name in "abcde":
        world.finish(name)
        world.now += 1
    world.sweep()
    assert world.store.ids() == {"c", "d", "e"}
    assert {path.name for path in world.folder.files.iterdir()} == {"c", "d", "e"}


def test_what_killed_processes_left_goes_and_what_is_new_stays(world: World) -> None:
    world.add("known")
    paths = [world.folder.incoming / "cut-off", world.folder.files / "no-row", world.folder.files / "known"]
    paths[0].write_bytes(b"half a video")
    paths[1].mkdir()
    fresh = world.folder.incoming / "streaming"
    fresh.write_bytes(b"half")
    for path in paths:
        os.utime(path, (world.now - 6 * HOUR_S,) * 2)
    os.utime(fresh, (world.now - 1 * HOUR_S,) * 2)
    world.sweep()
    assert [path.exists() for path in (*paths, fresh)] == [False, False, True, True]


def test_room_is_bounded_by_the_share_and_by_the_disk(world: World) -> None:
    world.add("a")
    kept = world.store.kept_bytes()
    world.folder.check_room(900, kept=kept, max_kept=1000, min_free=0)
    with pytest.raises(StorageFullError, match="allowed"):
        world.folder.check_room(901, kept=kept, max_kept=1000, min_free=0)
    with pytest.raises(StorageFullError, match="disk"):
        world.folder.check_room(1, kept=0, max_kept=10**6, min_free=2**62)


def test_the_folder_is_closed_to_others_and_lies_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = JobsFolder.open(tmp_path / "new" / "jobs")
    assert folder.root.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "pipeprobe" / "jobs"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "state" / "pipeprobe" / "jobs"


def test_refuses_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="PIPEPROBE_JOBS"):
        JobsFolder.open(tmp_path / "file" / "jobs")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigError, match="chmod"):
        JobsFolder.open(tmp_path / "open")
