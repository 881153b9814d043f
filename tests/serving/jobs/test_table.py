"""The table of jobs with a clock that is set by hand: leases, attempts, cancelling, keys, pages."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving.errors import ConfigError, IdempotencyError, JobNotFoundError, TooManyJobsError
from serving.inspections.video_settings import VideoSettings
from serving.jobs.job import Job, NewJob
from serving.jobs.leases import Leases
from serving.jobs.store import JobStore
from serving.jobs.table import Table

LEASE_S = 10.0
MANY = 1000


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(tmp_path: Path, clock: Clock) -> Iterator[Table]:
    table = Table(tmp_path / "jobs.sqlite", clock=clock)
    yield table
    table.close()


@pytest.fixture
def store(table: Table) -> JobStore:
    return JobStore(table)


@pytest.fixture
def leases(table: Table) -> Leases:
    return Leases(table, lease_s=LEASE_S, max_attempts=3)


def new(number: int = 0, **changes: object) -> NewJob:
    job = NewJob(
        id=f"{number:032x}",
        caller="",
        source="upload",
        name="run.mpg",
        n_bytes=100,
        pair="tiny",
        pair_version="1.0.0",
        settings=VideoSettings(every_s=0.2),
        idempotency_key=None,
        fingerprint="one",
    )
    return replace(job, **changes)  # type: ignore[arg-type]  # fields of NewJob


def take(leases: Leases, *, max_running: int = 1) -> Job:
    job = leases.claim(pairs=["tiny"], max_running=max_running)
    assert job is not None
    return job


def beat(leases: Leases, job: Job) -> str:
    return leases.heartbeat(job, frames=5, reached_s=2.0, duration_s=8.0)


SUMMARY = {"frames_sampled": 20, "findings": 1}


def test_a_job_comes_back_as_it_was_put_in(store: JobStore) -> None:
    added, is_new = store.add(new(), max_waiting=1)
    assert is_new
    assert store.get(added.id) == added
    assert (added.state, added.settings, added.created_s) == ("queued", VideoSettings(every_s=0.2), 1000.0)
    assert (added.kept_bytes, added.has_upload, added.progress) == (100, True, None)


def test_the_first_come_is_taken_first_and_no_more_than_allowed(store: JobStore, leases: Leases) -> None:
    for number in range(3):
        store.add(new(number), max_waiting=MANY)
    assert take(leases, max_running=2).id == new(0).id
    assert take(leases, max_running=2).id == new(1).id
    assert leases.claim(pairs=["tiny"], max_running=2) is None


def test_jobs_of_pairs_that_are_not_served_are_left_to_others(store: JobStore, leases: Leases) -> None:
    store.add(new(0, pair="other"), max_waiting=MANY)
    store.add(new(1), max_waiting=MANY)
    assert take(leases).id == new(1).id
    assert leases.claim(pairs=[], max_running=5) is None


def test_heartbeats_keep_a_job_and_tell_its_progress(store: JobStore, leases: Leases, clock: Clock) -> None:
    store.add(new(), max_waiting=MANY)
    job = take(leases)
    for _ in range(5):
        clock.now += 0.9 * LEASE_S
        assert beat(leases, job) == "go on"
        assert leases.expire() == []
    shown = store.get(job.id)
    assert (shown.frames, shown.progress, shown.attempts) == (5, 0.25, 1)


def test_a_job_whose_owner_died_is_taken_again_and_the_old_owner_has_no_say(
    store: JobStore, leases: Leases, clock: Clock
) -> None:
    store.add(new(), max_waiting=MANY)
    first = take(leases)
    beat(leases, first)
    clock.now += LEASE_S + 1
    (lost,) = leases.expire()
    assert lost.state == "queued"
    second = take(leases)
    assert (second.attempts, second.claim, second.frames) == (2, 2, 0)
    assert beat(leases, first) == "lost"
    assert not leases.finish(first, summary=SUMMARY, reason="", n_bytes=1)
    assert not leases.fail(first, "late")
    leases.release(first)
    leases.give_back(first, "late")
    assert store.get(first.id).state == "running"
    assert leases.finish(second, summary=SUMMARY, reason="", n_bytes=50)
    done = store.get(first.id)
    assert (done.state, done.summary, done.frames, done.progress) == ("done", SUMMARY, 20, 1.0)
    assert done.kept_bytes == store.kept_bytes() == 150


def test_attempts_are_bounded_whether_owner_or_child_dies(store: JobStore, leases: Leases, clock: Clock) -> None:
    store.add(new(), max_waiting=MANY)
    leases.give_back(take(leases), "signal 11")
    take(leases)
    clock.now += LEASE_S + 1
    leases.expire()
    job = leases.give_back(take(leases), "signal 11")
    assert job.state == "failed"
    assert job.reason == "given up after 3 attempts: signal 11"
    assert leases.claim(pairs=["tiny"], max_running=1) is None


def test_an_orderly_stop_costs_no_attempt(store: JobStore, leases: Leases) -> None:
    store.add(new(), max_waiting=MANY)
    for claim in range(1, 6):
        job = take(leases)
        assert (job.attempts, job.claim) == (1, claim)
        leases.release(job)


def test_cancelling(store: JobStore, leases: Leases) -> None:
    for number in range(2):
        store.add(new(number), max_waiting=MANY)
    running = take(leases)
    assert store.cancel(new(1).id).state == "cancelled"
    assert store.cancel(running.id).state == "running"
    assert beat(leases, running) == "cancel"
    leases.end_cancelled(running)
    assert store.get(running.id).state == "cancelled"
    assert store.cancel(running.id).state == "cancelled"


@pytest.mark.parametrize("ending", ["finish", "fail", "release", "give back", "die"])
def test_a_cancelled_job_stays_cancelled_however_its_run_ends(
    ending: str, store: JobStore, leases: Leases, clock: Clock
) -> None:
    store.add(new(), max_waiting=MANY)
    job = take(leases)
    store.cancel(job.id)
    if ending == "finish":
        assert not leases.finish(job, summary=SUMMARY, reason="", n_bytes=1)
    elif ending == "fail":
        assert not leases.fail(job, "broken")
    elif ending == "release":
        leases.release(job)
    elif ending == "give back":
        leases.give_back(job, "signal 9")
    else:
        clock.now += LEASE_S + 1
        leases.expire()
    assert store.get(job.id).state == "cancelled"


def test_waiting_jobs_are_bounded_and_ended_ones_do_not_count(store: JobStore, leases: Leases) -> None:
    store.add(new(0), max_waiting=2)
    job = take(leases)
    store.add(new(1), max_waiting=2)
    with pytest.raises(TooManyJobsError) as caught:
        store.add(new(2), max_waiting=2)
    assert caught.value.retry_after_s >= 1
    leases.fail(job, "broken")
    store.add(new(2), max_waiting=2)
    assert store.counts() == {"queued": 2, "running": 0, "done": 0, "failed": 1, "cancelled": 0}


def test_a_repeated_request_gets_its_job_even_if_no_other_would_be_taken(store: JobStore) -> None:
    first, _ = store.add(new(0, idempotency_key="k"), max_waiting=1)
    again, is_new = store.add(new(1, idempotency_key="k"), max_waiting=1)
    assert (again, is_new) == (first, False)
    assert store.by_key("", "k") == first
    with pytest.raises(IdempotencyError, match=first.id):
        store.add(new(2, idempotency_key="k", fingerprint="two"), max_waiting=9)
    other, is_new = store.add(new(3, idempotency_key="k", caller="other"), max_waiting=9)
    assert is_new
    assert other.id != first.id


def test_callers_do_not_see_each_others_jobs(store: JobStore) -> None:
    store.add(new(0, caller="a"), max_waiting=MANY)
    store.add(new(1, caller="b"), max_waiting=MANY)
    with pytest.raises(JobNotFoundError):
        store.get(new(0).id, "b")
    assert [job.id for job in store.page("b", state=None, before=None, limit=9)] == [new(1).id]


def test_pages(store: JobStore, leases: Leases) -> None:
    for number in range(5):
        store.add(new(number), max_waiting=MANY)
    take(leases)
    seqs, before = [], None
    while page := store.page("", state=None, before=before, limit=2):
        seqs += [job.seq for job in page]
        before = page[-1].seq
    assert seqs == [5, 4, 3, 2, 1]
    assert [job.seq for job in store.page("", state="running", before=None, limit=9)] == [1]


def test_many_connections_take_each_job_once(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    setup = Table(file)
    store = JobStore(setup)
    for number in range(40):
        store.add(new(number), max_waiting=MANY)
    taken: list[str] = []

    def work() -> None:
        table = Table(file)
        leases = Leases(table, lease_s=60, max_attempts=3)
        while (job := leases.claim(pairs=["tiny"], max_running=MANY)) is not None:
            taken.append(job.id)
        table.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == [new(number).id for number in range(40)]
    setup.close()


def test_refuses_a_table_of_another_release_and_what_is_none(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="version 99"):
        Table(file)
    (tmp_path / "text").write_text("no database at all " * 100)
    with pytest.raises(ConfigError, match="cannot be used"):
        Table(tmp_path / "text")
