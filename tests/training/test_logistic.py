from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from serving.errors import DataError
from training import logistic
from training.logistic import fit_logistic, log_losses, standardise, unfold


def draw(seed: int, n: int = 400, d: int = 12, share: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlated features of very different sizes, what is positive, and frame weights that sum to 1."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < share
    mixed = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + positive[:, None] * rng.normal(size=d)
    weights = rng.random(n)
    return mixed * np.logspace(-3, 3, d) + 5, positive, weights / weights.sum()


def gradient_by_hand(
    x: np.ndarray, positive: np.ndarray, weights: np.ndarray, l2: float, w: np.ndarray, b: float
) -> np.ndarray:
    """Of the documented objective, one frame at a time."""
    gradient = np.append(l2 * w, 0.0)
    for row, is_positive, weight in zip(x, positive, weights, strict=True):
        y = 1 if is_positive else -1
        slope = -y * weight / (1 + np.exp(y * (row @ w + b)))
        gradient += slope * np.append(row, 1.0)
    return gradient


@pytest.mark.parametrize("l2", [10.0, 1e-2, 1e-6])
def test_reaches_the_minimum(l2: float) -> None:
    features, positive, weights = draw(0)
    design = standardise(features)
    coefficients = fit_logistic(design, positive, weights, l2=l2)
    x = (features - features.mean(0)) / features.std(0)
    gradient = gradient_by_hand(x, positive, weights, l2, coefficients[:-1], coefficients[-1])
    assert np.abs(gradient).max() < 1.1e-6


def test_equals_scikit_learn() -> None:
    features, positive, weights = draw(1)
    weight, bias = unfold(standardise(features), fit_logistic(standardise(features), positive, weights, l2=1e-2))
    x = (features - features.mean(0)) / features.std(0)
    model = LogisticRegression(C=100.0, solver="newton-cholesky", tol=1e-10).fit(x, positive, sample_weight=weights)
    np.testing.assert_allclose(features @ weight + bias, model.decision_function(x), atol=1e-3)


def test_frames_of_weight_zero_do_not_count() -> None:
    features, positive, weights = draw(2)
    left_out = np.arange(len(weights)) % 3 == 0
    weights = np.where(left_out, 0, weights)
    weights /= weights.sum()
    design = standardise(features)
    first = fit_logistic(design, positive, weights, l2=1e-2)
    again = fit_logistic(design, np.where(left_out, ~positive, positive), weights, l2=1e-2)
    np.testing.assert_array_equal(first, again)


def test_where_it_starts_does_not_matter() -> None:
    features, positive, weights = draw(3)
    design = standardise(features)
    cold = fit_logistic(design, positive, weights, l2=1e-3)
    far = np.random.default_rng(0).normal(0, 30, size=len(cold))
    warm = fit_logistic(design, positive, weights, l2=1e-3, start=far)
    np.testing.assert_allclose(cold, warm, atol=2e-3)


def test_separable_frames_more_features_than_frames_and_copies_of_features_converge() -> None:
    rng = np.random.default_rng(4)
    features = np.tile(rng.normal(size=(60, 70)), (1, 2))
    positive = np.arange(60) < 6
    features[positive] += 3
    weights = np.where(positive, 0.5 / 6, 0.5 / 54)
    design = standardise(features)
    coefficients = fit_logistic(design, positive, weights, l2=1e-5)
    logits = design.exact @ coefficients
    assert (logits[positive] > 0).all()
    assert (logits[~positive] < 0).all()
    # A feature and its copy share their weight.
    np.testing.assert_allclose(coefficients[:70], coefficients[70:-1], atol=0.02)


def test_the_hessian_is_summed_over_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    features, positive, weights = draw(5)
    design = standardise(features)
    whole = fit_logistic(design, positive, weights, l2=1e-2)
    monkeypatch.setattr(logistic, "_CHUNK_ROWS", 7)
    np.testing.assert_allclose(fit_logistic(design, positive, weights, l2=1e-2), whole, atol=1e-5)
    penalty = np.append(np.full(12, 1e-2), 0)
    hessian = logistic._hessian(design, weights, penalty)
    expected = design.exact.T @ (design.exact * weights[:, None]) + np.diag(penalty)
    np.testing.assert_allclose(hessian, expected, atol=1e-4)
    assert np.linalg.eigvalsh(hessian).min() > 0


def test_constant_features_get_no_weight() -> None:
    features, positive, weights = draw(6)
    features[:, 3] = 7.0
    weight, bias = unfold(standardise(features), fit_logistic(standardise(features), positive, weights, l2=1e-2))
    assert weight[3] == 0
    assert np.isfinite(bias)


def test_log_losses_do_not_overflow() -> None:
    losses = log_losses(np.array([0.0, 1000.0, 1000.0, -1000.0]), np.array([True, True, False, True]))
    assert losses.tolist() == pytest.approx([np.log(2), 0, 1000, 1000])


def test_bad_features_are_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        standardise(np.array([[1.0], [np.nan]]))
    with pytest.raises(DataError, match=r"\[N, D\]"):
        standardise(np.zeros(3))


def test_a_fit_that_is_cut_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    features, positive, weights = draw(7)
    monkeypatch.setattr(logistic, "_MAX_STEPS", 2)
    with pytest.raises(DataError, match="did not converge in 2 steps"):
        fit_logistic(standardise(features), positive, weights, l2=1e-6)
