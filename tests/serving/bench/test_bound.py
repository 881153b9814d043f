"""The bound: every frame counted is a frame that was decoded and scored."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.tiny_pair import random_frames, write_tiny_pair

from serving.bench import bound as module
from serving.bench.bound import Bound, Setup, candidate_setups
from serving.frames import decode_bytes
from serving.pairs.pair import Pair, load_pair
from serving.scorer import Scorer, Scores


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load_pair(write_tiny_pair(tmp_path_factory.mktemp("models")))


def jpegs(n: int) -> list[bytes]:
    encoded = []
    for frame in random_frames(n, 48):
        data = io.BytesIO()
        Image.fromarray(frame).save(data, "JPEG")
        encoded.append(data.getvalue())
    return encoded


@pytest.mark.parametrize(("scorers", "batch"), [(1, 1), (1, 4), (2, 4)])
def test_counts_what_was_scored(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scorers: int, batch: int
) -> None:
    seen: list[np.ndarray] = []

    class Counting(Scorer):
        def score(self, frames: np.ndarray) -> Scores:
            seen.append(frames)
            return super().score(frames)

    monkeypatch.setattr(module, "Scorer", Counting)
    sent = jpegs(3)
    setup = Setup(threads=1, scorers=scorers, decoders=2, batch=batch)
    run = Bound(pair, sent).run(setup, 0.2)
    n_frames = sum(len(frames) for frames in seen)
    assert {len(frames) for frames in seen} == {batch}
    assert run.setup == setup
    assert n_frames > 0
    # The run's time is not told, but both figures are per the same frames and time.
    assert run.cores == pytest.approx(run.cpu_ms * run.frames_per_s / 1000)
    known = [decode_bytes(jpeg, pair.manifest.image_size) for jpeg in sent]
    for frame in seen[0]:
        assert any(np.array_equal(frame, each) for each in known)


def test_orders_setups_by_speed_and_times_frames_alone(pair: Pair) -> None:
    bound = Bound(pair, jpegs(2))
    setups = [Setup(threads=1, scorers=1, decoders=1, batch=batch) for batch in (1, 8)]
    runs = bound.best(setups, 0.1)
    assert {run.setup for run in runs} == set(setups)
    assert runs[0].frames_per_s >= runs[1].frames_per_s > 0
    alone = bound.alone(4)
    assert min(alone.decode_ms, alone.infer_ms) > 0


def test_candidates_use_the_cores_that_there_are() -> None:
    assert {(setup.threads, setup.scorers) for setup in candidate_setups(4)} == {(4, 2), (1, 4), (4, 1), (1, 1)}
    assert {(setup.threads, setup.scorers) for setup in candidate_setups(1)} == {(1, 1)}
    assert candidate_setups(2)[0] == Setup(threads=1, scorers=2, decoders=2, batch=8)
