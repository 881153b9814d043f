"""The sliding window: what is in it, what has left it, and what several workers make of it together."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.monitoring.drift import WindowSums
from serving.monitoring.drift_metrics import DriftMetrics
from serving.monitoring.drift_reference import Reference
from serving.monitoring.drift_window import BLOCKS, DriftWindow, add_up, read_rows
from serving.scorer import Scores

REFERENCE = Reference(
    edges=np.array([0.5]), counts=np.array([500, 500]), mean=np.array([0.0, 0.0]), scale=np.array([1.0, 2.0])
)


def held(window: DriftWindow, now: float) -> WindowSums:
    return add_up(REFERENCE, [window.rows], max_age_s=window.max_age_s, now=now)


def scored(scores: NDArray[np.float64], embedding: tuple[float, float] = (1.0, 2.0)) -> Scores:
    n = len(scores)
    return Scores(
        score=scores.astype(np.float32),
        logit=np.zeros(n, np.float32),
        embedding=np.tile(np.array(embedding, np.float32), (n, 1)),
        evidence=np.zeros((n, 1, 1), np.float32),
    )


def test_sums_are_those_of_the_frames() -> None:
    window = DriftWindow(REFERENCE, max_frames=1000)
    window.add(np.array([0.1, 0.5, 0.9]), np.array([[1.0, 2], [3, 4], [5, 6]]), now=10)
    window.add(np.array([0.2]), np.array([[1.0, 1]]), now=11)
    window.add(np.empty(0), np.empty((0, 2)), now=12)
    found = held(window, now=12)
    assert found.n_frames == 4
    np.testing.assert_array_equal(found.counts, [2, 2])
    np.testing.assert_array_equal(found.embedding_sum, [10, 13])


def test_the_oldest_frames_leave_block_by_block() -> None:
    window = DriftWindow(REFERENCE, max_frames=10 * BLOCKS)
    for step in range(25 * BLOCKS):
        # Frame `step` says its number in both dimensions.
        window.add(np.array([0.9]), np.full((1, 2), float(step)), now=step)
        found = held(window, now=step)
        assert found.n_frames <= 10 * BLOCKS
        if step >= 10 * BLOCKS:
            assert found.n_frames > 10 * (BLOCKS - 1)
            newest = np.arange(step + 1 - found.n_frames, step + 1)
            np.testing.assert_array_equal(found.embedding_sum, [newest.sum()] * 2)


def test_old_frames_leave_even_if_none_follow() -> None:
    window = DriftWindow(REFERENCE, max_frames=1000, max_age_s=200)
    for now in range(0, 100):
        window.add(np.array([0.9]), np.ones((1, 2)), now=1000 + now)
    assert held(window, now=1100).n_frames == 100
    # Blocks are closed after 200 / BLOCKS seconds, so frames leave ten by ten.
    assert held(window, now=1205).n_frames == 90
    assert held(window, now=1301).n_frames == 0


def test_a_file_is_continued_and_read_by_others(tmp_path: Path) -> None:
    file = tmp_path / "window"
    DriftWindow(REFERENCE, max_frames=1000, file=file).add(np.array([0.9]), np.ones((1, 2)), now=1)
    again = DriftWindow(REFERENCE, max_frames=1000, file=file)
    again.add(np.array([0.1]), np.ones((1, 2)), now=2)
    found = add_up(REFERENCE, [read_rows(file, REFERENCE)], max_age_s=math.inf, now=3)
    assert found.n_frames == 2
    np.testing.assert_array_equal(found.counts, [1, 1])


def test_files_that_are_no_window_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "half").write_bytes(b"\0" * 100)
    for name in ("half", "missing"):
        assert read_rows(tmp_path / name, REFERENCE).shape[0] == 0


@pytest.mark.parametrize("shared", [True, False])
def test_the_metrics_of_two_workers_are_those_of_all_their_frames(tmp_path: Path, shared: bool) -> None:
    workers = [DriftMetrics(tmp_path if shared else None) for _ in range(2)]
    low, high = (
        metrics.watch(
            pair="p",
            version="1",
            variant="fp32",
            reference=REFERENCE,
            window_frames=1000,
            window_s=0,
            worker=number,
        )
        for number, metrics in enumerate(workers)
    )
    low.see(scored(np.full(300, 0.1), (1.0, 0.0)))
    high.see(scored(np.full(300, 0.9), (0.0, 0.0)))
    for metrics in workers:
        found = {sample.name: sample.value for family in metrics.collect() for sample in family.samples}
        assert found["pipeprobe_drift_window_frames"] == (600 if shared else 300)
        # Half of all scores are in each bin; of one worker's, all are in one, but for the half that is added.
        alone = (300.5 / 301 - 1 / 2) * math.log(300.5 / 0.5)
        assert found["pipeprobe_drift_score_psi"] == pytest.approx(0 if shared else alone)
    if shared:
        assert found["pipeprobe_drift_embedding_distance"] == pytest.approx(0.5 / math.sqrt(2))
        assert found["pipeprobe_drift_score_psi_expected"] == pytest.approx(1 / 600 + 1 / 1000)


def test_a_window_too_small_to_judge_says_only_its_size() -> None:
    metrics = DriftMetrics(None)
    watch = metrics.watch(
        pair="p", version="1", variant="fp32", reference=REFERENCE, window_frames=1000, window_s=0, worker=1
    )
    watch.see(scored(np.full(20, 0.1)))
    found = [sample.name for family in metrics.collect() for sample in family.samples]
    assert found == ["pipeprobe_drift_window_frames"]
