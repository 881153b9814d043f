"""One run at a time writes to an object store, also when one is killed, or sleeps and is taken for dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from support.object_store import Store, object_store
from support.ray_runs import wait_until

from serving.cloud_files import CloudFolder
from serving.errors import ConfigError
from serving.inspections.run_claim import RunClaim

REPOSITORY = Path(__file__).resolve().parents[3]
HOLDER = """
import sys, time
from serving.cloud_files import CloudFolder
from serving.inspections.run_claim import RunClaim

with RunClaim(CloudFolder(sys.argv[1]), beat_s=0.2):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with object_store() as running:
        yield running


@pytest.fixture
def folder() -> Iterator[CloudFolder]:
    yield CloudFolder("memory://claimed")
    fsspec.filesystem("memory").store.clear()


def of_elsewhere(folder: CloudFolder, *, beat: int = 0) -> None:
    owner = {"host": "elsewhere", "space": "another kernel", "pid": 1, "start": "1", "run": "r", "beat": beat}
    folder.write(".claims/000001.json", json.dumps(owner).encode())


def claim(folder: CloudFolder) -> RunClaim:
    return RunClaim(folder, beat_s=0.05, lease_s=0.6)


@pytest.fixture
def holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, store.url("held")], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_run_that_lives_is_left_alone_and_one_that_was_killed_is_followed_at_once(
    store: Store, holder: subprocess.Popen[str]
) -> None:
    folder = CloudFolder(store.url("held"))
    with pytest.raises(ConfigError, match=rf"written to by another run .*process {holder.pid}\): one at a time"):
        RunClaim(folder, lease_s=60).__enter__()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with RunClaim(folder, lease_s=3600) as following:
        following.check()
        assert store.names("held") == {".claims/000001.json", ".claims/000002.json"}
    assert store.names("held") == set()


def test_of_two_runs_that_begin_together_one_has_it(store: Store) -> None:
    folder = CloudFolder(store.url("raced"))
    first, second = RunClaim(folder), RunClaim(folder)
    # Both see that nobody has it.
    assert folder.create(".claims/000001.json", b"{}")
    assert not folder.create(".claims/000001.json", b"{}")
    folder.remove([".claims/000001.json"])
    with first, pytest.raises(ConfigError, match="one at a time"):
        second.__enter__()


def test_a_run_elsewhere_without_a_sign_of_life_is_taken_over(folder: CloudFolder) -> None:
    of_elsewhere(folder)
    with claim(folder) as mine:
        mine.check()
        assert sorted(folder.entries(".claims/")) == [".claims/000001.json", ".claims/000002.json"]
    assert not folder.entries()


def test_a_run_that_wakes_up_and_finds_another_in_its_place_stops(folder: CloudFolder) -> None:
    with claim(folder) as slept:
        slept.check()
        assert folder.create(".claims/000002.json", b"{}")
        with pytest.raises(ConfigError, match="another run has taken memory://claimed over"):
            slept.check()
    assert ".claims/000002.json" in folder.entries(), "what the other one holds is left to it"


@pytest.mark.parametrize("said", [b"", b"[1]", b"{}", b"not JSON", b"\xff"])
def test_what_is_no_claim_is_named_and_left(said: bytes, folder: CloudFolder) -> None:
    folder.write(".claims/000003.json", said)
    with pytest.raises(ConfigError, match=r"claims/000003.json is no claim of a run .*remove it"), claim(folder):
        pass
    assert folder.read([".claims/000003.json"]) == {".claims/000003.json": said}


def test_other_objects_beside_the_claims_are_no_claims(folder: CloudFolder) -> None:
    folder.write(".claims/notes.txt", b"ours")
    with claim(folder) as held:
        held.check()
    assert folder.read([".claims/notes.txt"]) == {".claims/notes.txt": b"ours"}


def test_signs_of_life_go_on(folder: CloudFolder) -> None:
    name = ".claims/000001.json"
    with claim(folder):
        first = folder.read([name])[name]
        wait_until(lambda: folder.read([name])[name] != first, timeout_s=10)
