from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from training.report.statistics import (
    REPLICATES,
    Correlation,
    Spread,
    _draws,
    _spearman,
    contrast,
    mean_spearman,
    seed_deviation,
    spearman,
    spread,
)


def test_spread_of_one_seed_is_unknown_and_not_zero() -> None:
    assert spread([0.5]) == Spread(mean=0.5, sd=None, n=1)
    assert spread([]) is None
    found = spread([1.0, 2.0, 6.0])
    assert found is not None
    # (4 + 1 + 9) / 2 = 7.
    assert (found.mean, found.sd, found.n) == (3.0, pytest.approx(7**0.5), 3)


def test_contrast_of_two_samples_is_welch() -> None:
    x, y = [0.81, 0.79, 0.84], [0.70, 0.76, 0.71, 0.69]
    found = contrast([(1.0, x), (-1.0, y)])
    expected = scipy.stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(x) - np.mean(y))
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_contrast_of_one_sample_is_student() -> None:
    found = contrast([(1.0, [2.0, 4.0])])
    # Mean 3, standard error 1, t(1; 0.975) = 12.706.
    assert (found.low, found.high) == (pytest.approx(3 - 12.7062, abs=1e-4), pytest.approx(3 + 12.7062, abs=1e-4))


def test_weights_of_a_contrast_scale_its_variance() -> None:
    x = [1.0, 2.0, 4.0]
    one, half = contrast([(1.0, x)]), contrast([(0.5, x)])
    assert half.high - half.low == pytest.approx(0.5 * (one.high - one.low))


def test_contrast_without_any_variance_is_a_point_and_one_value_is_refused() -> None:
    found = contrast([(1.0, [0.5, 0.5]), (-1.0, [0.25, 0.25])])
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="two values"):
        contrast([(1.0, [0.5, 0.6]), (-1.0, [0.4])])


@pytest.mark.parametrize("levels", [None, 4])
def test_spearman_equals_scipy_with_and_without_ties(levels: int | None) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(2, 17))
        if levels:
            x, y = np.round(x * levels) / levels, np.round(y)
        found = spearman(x, y)
        assert found is not None
        assert found.rho == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_finds_the_planted_sign() -> None:
    x = np.arange(12.0)
    up, down = spearman(x, x**3), spearman(x, -np.sqrt(x))
    assert up is not None
    assert down is not None
    assert (up.rho, up.low, up.high) == (1.0, pytest.approx(1.0), pytest.approx(1.0))
    assert down.rho == -1.0


def test_weighted_ranks_equal_repeated_runs() -> None:
    rng = np.random.default_rng(3)
    x, y = np.round(rng.normal(size=(2, 9)), 1)
    weights = _draws(9, rng)[:50]
    found = _spearman(x, y, weights)
    for weight, rho in zip(weights.astype(int), found, strict=True):
        expected = scipy.stats.spearmanr(np.repeat(x, weight), np.repeat(y, weight)).statistic
        assert rho == pytest.approx(expected, abs=1e-12)


def width(found: Correlation) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_resampling_whole_groups_widens_the_interval() -> None:
    """Eight groups of five alike runs are eight pieces of evidence, not forty."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2, 8))
    x, y = np.repeat(centres, 5, axis=1) + rng.normal(scale=0.01, size=(2, 40))
    alone, grouped = spearman(x, y), spearman(x, y, groups=np.repeat(np.arange(8), 5))
    assert alone is not None
    assert grouped is not None
    assert alone.rho == grouped.rho
    assert width(grouped) > 1.5 * width(alone)
    assert (grouped.n, grouped.groups) == (40, 8)


def test_no_correlation_where_nothing_varies_and_no_interval_of_few_groups() -> None:
    x = np.arange(6.0)
    assert spearman(x[:2], x[:2]) is None
    assert spearman(x, np.ones(6)) is None
    few = spearman(x, x, groups=np.array([0, 0, 1, 1, 2, 2]))
    assert few is not None
    assert (few.rho, few.low, few.high) == (1.0, None, None)


def test_mean_within_parts_forgets_what_differs_between_them() -> None:
    """Within each part the relation is downwards; pooled, the parts' levels turn it upwards."""
    inside = np.arange(6.0)
    parts = [(10 * k + inside, 10 * k - inside) for k in range(5)]
    pooled = spearman(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]))
    within = mean_spearman([*parts, (np.ones(6), inside)])
    assert pooled is not None
    assert within is not None
    assert pooled.rho > 0.9
    assert (within.rho, within.n, within.groups) == (pytest.approx(-1.0), 30, 5)
    assert mean_spearman([(np.ones(6), inside)]) is None


def test_seed_deviation_pools_what_is_within_cells() -> None:
    values = np.array([1.0, 3.0, 10.0, 10.0, 16.0, 5.0])
    # Within: 2 of df 1, and 24 of df 2; the last cell has one run.
    assert seed_deviation(values, np.array([0, 0, 1, 1, 1, 2])) == pytest.approx((26 / 3) ** 0.5)
    assert seed_deviation(values, np.arange(6)) is None


def test_draws_are_the_same_each_time() -> None:
    first, second = (_draws(7, np.random.default_rng(0)) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (REPLICATES, 7)
    assert (first.sum(1) == 7).all()
