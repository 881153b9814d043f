"""Drift's arithmetic against values worked out by hand, and its expectations against draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from serving.monitoring.drift import (
    MIN_FRAMES,
    WindowSums,
    embedding_distance,
    expected_distance,
    expected_psi,
    measure_drift,
    population_stability_index,
)
from serving.monitoring.drift_reference import Reference, make_reference


def sums(reference: Reference, scores: np.ndarray, embeddings: np.ndarray) -> WindowSums:
    return WindowSums(
        n_frames=len(scores),
        counts=reference.bin_counts(scores).astype(float),
        embedding_sum=embeddings.sum(0, dtype=float),
    )


def test_psi_by_hand() -> None:
    # Half a frame is added to each bin, so the shares are 1/4, 3/4 against 3/4, 1/4: PSI = 2 * 1/2 * ln 3.
    assert population_stability_index(np.array([9.5, 29.5]), np.array([29.5, 9.5])) == pytest.approx(math.log(3))
    assert population_stability_index(np.array([7, 7]), np.array([3, 3])) == 0


def test_an_empty_bin_is_far_but_not_infinitely() -> None:
    # Shares 1/2, 1/2 against 101/102, 1/102.
    by_hand = (101 / 102 - 1 / 2) * math.log(101 / 51) + (1 / 102 - 1 / 2) * math.log(1 / 51)
    assert population_stability_index(np.array([50, 50]), np.array([50, 0])) == pytest.approx(by_hand)


def test_distance_by_hand() -> None:
    reference = Reference(
        edges=np.array([0.5]), counts=np.array([2, 2]), mean=np.array([1.0, -1.0]), scale=np.array([0.5, 2.0])
    )
    # Two standard deviations in one dimension, one in the other.
    assert embedding_distance(reference, np.array([2.0, 1.0])) == pytest.approx(math.sqrt((4 + 1) / 2))


def test_expectations_by_hand() -> None:
    assert expected_psi(10, 1000, 500) == pytest.approx(9 * 0.003)
    assert expected_distance(400, 100) == pytest.approx(math.sqrt(0.0125))


def test_expectations_are_what_draws_without_drift_give() -> None:
    generator = np.random.default_rng(0)
    # Correlated dimensions: the expectation holds for them all the same.
    mix = generator.normal(size=(16, 16))
    psis, squares = [], []
    for _ in range(200):
        latent = generator.normal(size=(1500, 16)) @ mix
        scores = 1 / (1 + np.exp(-latent[:, 0]))
        reference = make_reference(scores[:1000], latent[:1000])
        drift = measure_drift(reference, sums(reference, scores[1000:], latent[1000:]))
        assert drift is not None
        psis.append(drift.psi)
        squares.append(drift.distance**2)
    assert np.mean(psis) == pytest.approx(drift.expected_psi, rel=0.1)
    assert math.sqrt(np.mean(squares)) == pytest.approx(drift.expected_distance, rel=0.1)


def test_few_frames_say_nothing() -> None:
    reference = make_reference(np.linspace(0, 1, 1000), np.zeros((1000, 2)))
    few = np.full(MIN_FRAMES - 1, 0.9)
    assert measure_drift(reference, sums(reference, few, np.zeros((len(few), 2)))) is None
    enough = np.full(MIN_FRAMES, 0.9)
    assert measure_drift(reference, sums(reference, enough, np.zeros((len(enough), 2)))) is not None
