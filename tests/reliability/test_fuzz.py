"""Hostile requests by the thousand against the real service: `make test-fuzz`, and a few hundred in every run.

The service may refuse, and say 503 when it has too much to do; it may close what is no HTTP. It must not fail,
fall silent, lose a worker, grow, or score wrongly afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from reliability import scale
from reliability.hostile_requests import KINDS, Hostile, hostile_request
from support.images import encode
from support.live_service import LiveService, live_processes
from support.process_watch import MIB, held_by, peak_of
from support.raw_http import RawAnswer, address_of, request_bytes, send_raw
from support.tiny_pair import red_frames, reference_outputs, write_tiny_pair

SETTINGS = {"max_pixels": 4_000_000, "max_frame_bytes": 2 * MIB, "max_body_bytes": 4 * MIB, "deadline_s": 10}
CALLERS = 8
# For a whole request: the service's deadline, and what a busy machine adds.
LIMIT_S = 40.0
# For what is no whole request, after which the caller goes.
PATIENCE_S = 0.5
# What the allocator keeps of the largest pictures that the settings allow, in a few threads.
MAX_GROWTH = 200 * MIB

# The HTTP server's own answer to what it cannot parse; no application sees such a request.
PARSER_REFUSAL = (400, b"Invalid HTTP request received.")

RED = red_frames(1)[0]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[LiveService]:
    write_tiny_pair(tmp_path)
    with live_processes(models=tmp_path, workers=2, settings=SETTINGS) as service:
        yield service


def fire(service: LiveService, seed: int, index: int) -> tuple[Hostile, RawAnswer]:
    request = hostile_request(seed, index)
    return request, send_raw(
        address_of(service.url),
        request.parts,
        limit_s=LIMIT_S if request.owed else PATIENCE_S,
        pause_s=request.pause_s,
        hang_up=request.hang_up,
    )


def fault_in(request: Hostile, answer: RawAnswer) -> str | None:
    """What is wrong with an answer; None if it is as it must be."""
    if answer.status <= 0:
        return ("no answer" if answer.status else "closed without an answer") if request.owed else None
    if (answer.status, answer.body) == PARSER_REFUSAL:
        return None
    if answer.status >= 500 and (answer.status, answer.problem) not in _allowed(request):
        return f"answered {answer.status} {answer.body[:200]!r}"
    if request.owed and answer.status >= 400 and not _is_head(request) and not answer.problem:
        return f"{answer.status} without a problem document: {answer.body[:200]!r}"
    if b"Traceback" in answer.body or b"site-packages" in answer.body:
        return f"the answer shows the inside: {answer.body[:500]!r}"
    return None


def _allowed(request: Hostile) -> set[tuple[int, str]]:
    return {(503, "overloaded")} | ({(504, "deadline-exceeded")} if request.kind == "slow" else set())


def _is_head(request: Hostile) -> bool:
    return request.parts[0].startswith(b"HEAD ")


def score_of_a_good_frame(service: LiveService) -> float:
    answer = send_raw(address_of(service.url), [request_bytes("POST", "/v1/score", encode(RED))], limit_s=LIMIT_S)
    assert answer.status == 200, answer
    return float(answer.json()["score"])


def survives(service: LiveService, n_requests: int, seed: int) -> None:
    """Fire `n_requests` hostile requests and hold the service to what the module says; prints figures."""
    with ThreadPoolExecutor(CALLERS) as callers:
        for _ in callers.map(lambda _: score_of_a_good_frame(service), range(50)):
            pass
        workers = service.workers()
        before = held_by(workers)
        kinds: Counter[str] = Counter()
        statuses: Counter[int] = Counter()
        overloaded: Counter[str] = Counter()
        slowest = 0.0
        faults = []
        with peak_of(workers) as peak:
            for index, (request, answer) in enumerate(callers.map(lambda i: fire(service, seed, i), range(n_requests))):
                kinds[request.kind] += 1
                statuses[answer.status] += 1
                overloaded[request.kind] += answer.status == 503
                slowest = max(slowest, answer.seconds)
                if fault := fault_in(request, answer):
                    faults.append(f"seed {seed}, request {index} ({request.kind}): {fault}")
    after = held_by(service.workers())
    print(f"\n{n_requests} hostile requests, seed {seed}; slowest answer {slowest:.1f} s")
    print("by kind:", ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())))
    print("by status (0: closed, -1: left):", ", ".join(f"{status}: {n}" for status, n in sorted(statuses.items())))
    print("503 by kind:", ", ".join(f"{kind} {n}" for kind, n in sorted(overloaded.items()) if n) or "none")
    print(f"before: {before}\nafter:  {after}\npeak:   RSS {peak.rss / MIB:.1f} MiB")
    assert not faults, "\n".join([f"{len(faults)} faults", *faults[:20]])
    assert service.workers() == workers, "a worker died"
    assert peak.rss - before.rss < MAX_GROWTH
    assert score_of_a_good_frame(service) == pytest.approx(float(reference_outputs(RED[None])["score"][0]), abs=1e-4)
    assert "Traceback" not in service.log.read_text(), service.log.read_text()[-3000:]


def test_a_few_hundred_hostile_requests(service: LiveService) -> None:
    survives(service, 5 * len(KINDS), seed=scale.SEED)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_thousands_of_hostile_requests(service: LiveService) -> None:
    survives(service, scale.BODIES, seed=scale.SEED)


def test_the_same_seed_makes_the_same_requests() -> None:
    assert [hostile_request(3, i) for i in range(100)] == [hostile_request(3, i) for i in range(100)]
    assert hostile_request(3, 0) != hostile_request(4, 0)
