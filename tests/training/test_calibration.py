from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from serving.errors import DataError
from training.calibration import UncalibratableError, brier, expected_calibration_error, fit_platt, flat_platt, sigmoid


def overconfident(seed: int, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits that are three times too large and shifted."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n) * 1.5 - 1
    labels = (rng.random(n) < sigmoid(truth)).astype(np.int8)
    return labels, 3 * truth + 2


def test_platt_undoes_scale_and_shift_as_unregularised_logistic_regression_does() -> None:
    labels, logits = overconfident(0)
    platt = fit_platt(labels, logits)
    reference = LogisticRegression(C=1e9, tol=1e-10).fit(logits[:, None], labels)
    # Platt's targets differ from 0 and 1 by one part in a thousand here.
    assert platt.slope == pytest.approx(reference.coef_[0, 0], rel=0.02)
    assert platt.intercept == pytest.approx(reference.intercept_[0], rel=0.02)
    before, after = sigmoid(logits), platt.score(logits)
    assert expected_calibration_error(labels, after) < 0.03 < expected_calibration_error(labels, before)
    assert brier(labels, after) < brier(labels, before)
    assert np.mean(after) == pytest.approx(np.mean(labels), abs=2e-3)


def test_separable_logits_get_a_finite_slope() -> None:
    platt = fit_platt(np.array([0, 0, 0, 1, 1, 1]), np.array([-300.0, -200, -100, 100, 200, 300]))
    scores = platt.score(np.array([-300.0, 300.0]))
    assert 0 < scores[0] < 0.3 < 0.7 < scores[1] < 1


def test_reversed_or_missing_labels_are_refused() -> None:
    labels, logits = overconfident(1)
    with pytest.raises(UncalibratableError, match="swapped"):
        fit_platt(1 - labels, logits)
    flat = flat_platt(1 - labels, logits).score(logits)
    assert np.ptp(flat) < 0.03
    assert np.mean(flat) == pytest.approx(np.mean(1 - labels), abs=0.01)
    assert np.array_equal(np.argsort(flat), np.argsort(logits))
    with pytest.raises(DataError, match="has 4 and 0"):
        fit_platt(np.ones(4, dtype=int), np.arange(4.0))


def test_calibration_error_by_hand() -> None:
    labels, scores = np.array([0, 1, 1, 1]), np.array([0.2, 0.4, 0.8, 0.9])
    # Two bins of two: |0.5 - 0.3| and |1 - 0.85|.
    assert expected_calibration_error(labels, scores, bins=2) == pytest.approx((0.2 + 0.15) / 2)
    assert brier(labels, scores) == pytest.approx((0.04 + 0.36 + 0.04 + 0.01) / 4)


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
