"""How long to train, and how to say how long that takes."""

from __future__ import annotations

import pytest

from training.retrain.estimate import (
    FEWEST_EPOCHS,
    MOST_EPOCHS,
    choose_batch,
    choose_epochs,
    in_words,
)


@pytest.mark.parametrize(("frames", "batch"), [(10_000, 64), (256, 64), (255, 63), (40, 10), (5, 2), (2, 2)])
def test_few_frames_make_smaller_batches(frames: int, batch: int) -> None:
    assert choose_batch(frames, 64) == batch


def test_epochs_are_asked_for_fitted_into_minutes_or_usual() -> None:
    def epochs(frames: int, *, epochs: int | None = None, minutes: float | None = None) -> int:
        return choose_epochs(frames, 64, epochs=epochs, minutes=minutes, step_s=0.5)

    assert epochs(6400, epochs=3) == 3
    # 100 steps of half a second an epoch.
    assert epochs(6400, minutes=10) == 12
    assert epochs(6400, minutes=0.1) == 1
    assert epochs(6400) == 30
    assert epochs(64 * 7) == MOST_EPOCHS
    assert epochs(10_000_000) == FEWEST_EPOCHS


def test_times_in_words() -> None:
    assert [in_words(seconds) for seconds in (0.2, 42, 89.4, 90, 600, 5300, 5400, 12_000)] == [
        "1 s", "42 s", "89 s", "2 min", "10 min", "88 min", "1 h 30 min", "3 h 20 min",
    ]  # fmt: skip
