from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.report.anova import Design, NotPossibleError

# Cells: (a1, b1) 1 3, (a1, b2) 5 7, (a2, b1) 2 4, (a2, b2) 10 12. Grand mean 5.5; rows 4 and 7; columns 2.5 and 8.5.
A = ["a1"] * 4 + ["a2"] * 4
B = ["b1", "b1", "b2", "b2"] * 2
Y = np.array([1.0, 3.0, 5.0, 7.0, 2.0, 4.0, 10.0, 12.0])


def test_two_by_two_by_hand() -> None:
    found = Design({"a": A, "b": B}).analyse(Y)
    a, b, both = found.effect("a"), found.effect("b"), found.effect("a", "b")
    # SS_A = 4 (1.5^2 + 1.5^2), SS_B = 4 (3^2 + 3^2), SS_AB = 2 x 4 x 1^2, each cell leaves 2.
    assert [effect.ss for effect in (a, b, both)] == pytest.approx([18, 72, 8])
    assert (found.error_ss, found.error_df, found.total_ss) == (pytest.approx(8), 4, pytest.approx(106))
    # MS_error = 2.
    assert [effect.f for effect in (a, b, both)] == pytest.approx([9, 36, 4])
    # F(1, 4) is t(4)^2: 3, 6 and 2 in a table of t.
    assert [effect.p for effect in (a, b, both)] == pytest.approx([0.0399, 0.0039, 0.1161], abs=1e-4)
    assert (a.eta2, a.partial_eta2, a.omega2) == (
        pytest.approx(18 / 106),
        pytest.approx(18 / 26),
        pytest.approx(16 / 108),
    )
    assert (found.n, found.balanced, found.interactions) == (8, True, True)


def test_one_run_a_cell_leaves_the_interaction_to_the_error() -> None:
    """A textbook's two-way layout without replication: treatments 1 2 3, blocks of two."""
    found = Design({"a": ["x", "x", "y", "y", "z", "z"], "b": ["p", "q"] * 3}).analyse(np.array([1.0, 2, 4, 7, 7, 9]))
    # Grand mean 5. A: 1.5, 5.5, 8 -> 2 (12.25 + 0.25 + 9) = 43. B: 4, 6 -> 3 x 2 = 6. Total 50; error 1 of df 2.
    assert not found.interactions
    assert (found.effect("a").ss, found.effect("b").ss) == (pytest.approx(43), pytest.approx(6))
    assert (found.error_ss, found.error_df) == (pytest.approx(1), 2)
    assert found.effect("a").f == pytest.approx(43)


def residual(y: NDArray[np.float64], *columns: NDArray[np.float64]) -> float:
    """Residual sum of squares of an ordinary least-squares fit with an intercept."""
    design = np.column_stack([np.ones(len(y)), *columns])
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(((y - fitted) ** 2).sum())


def test_unequal_cells_are_compared_fit_by_fit() -> None:
    rng = np.random.default_rng(0)
    a = np.array([0] * 9 + [1] * 5 + [2] * 4)
    b = np.array([0] * 7 + [1] * 2 + [0, 1, 1, 1, 1] + [0, 1, 0, 1])
    y = 0.5 * a + 0.2 * b + rng.normal(scale=0.3, size=18)
    found = Design({"a": list(map(str, a)), "b": list(map(str, b))}).analyse(y)
    a1, a2 = (a == 1).astype(float), (a == 2).astype(float)
    additive = residual(y, a1, a2, b)
    full = residual(y, a1, a2, b, a1 * b, a2 * b)
    assert not found.balanced
    assert found.effect("a").ss == pytest.approx(residual(y, b) - additive)
    assert found.effect("b").ss == pytest.approx(residual(y, a1, a2) - additive)
    assert found.effect("a", "b").ss == pytest.approx(additive - full)
    assert (found.error_ss, found.error_df) == (pytest.approx(full), 12)
    assert [found.effect(*term).df for term in (("a",), ("b",), ("a", "b"))] == [2, 1, 2]


def test_an_empty_cell_costs_the_interaction_a_degree_of_freedom() -> None:
    a = ["x", "x", "x", "x", "y", "y", "y", "y", "z", "z"]
    b = ["p", "p", "q", "q", "p", "p", "q", "q", "p", "p"]
    found = Design({"a": a, "b": b}).analyse(np.array([1.0, 2, 3, 5, 2, 4, 6, 7, 3, 4]))
    assert (found.effect("a").df, found.effect("b").df, found.effect("a", "b").df) == (2, 1, 1)
    assert (found.error_df, found.balanced) == (5, False)


def test_what_the_runs_do_not_allow_is_refused_with_a_reason() -> None:
    with pytest.raises(NotPossibleError, match="two levels"):
        Design({"a": ["x", "y", "x", "y"], "b": ["p"] * 4})
    with pytest.raises(NotPossibleError, match="told apart"):
        Design({"a": ["x", "x", "y", "y"], "b": ["p", "p", "q", "q"]})
    with pytest.raises(NotPossibleError, match="more seeds"):
        Design({"a": ["x", "x", "y"], "b": ["p", "q", "p"]})
    with pytest.raises(NotPossibleError, match="same value"):
        Design({"a": A, "b": B}).analyse(np.ones(8))
    with pytest.raises(NotPossibleError, match="two levels"):
        Design({"a": [], "b": []})


def test_an_effect_without_error_is_infinite() -> None:
    found = Design({"a": A, "b": B}).analyse(np.array([1.0, 1, 2, 2, 3, 3, 4, 4]))
    assert found.effect("a").f > 1e20
    assert found.effect("a").p == 0
    assert found.effect("a", "b").omega2 == pytest.approx(0, abs=1e-12)


def draw(effect_a: float, effect_b: float, noise: float) -> tuple[Design, NDArray[np.float64]]:
    """Five methods, two backbones, three proportions, three seeds."""
    cells = [(a, b, c) for a in range(5) for b in range(2) for c in range(3) for _ in range(3)]
    levels = [[str(cell[i]) for cell in cells] for i in range(3)]
    means = np.array([effect_a * a + effect_b * b + 0.3 * c for a, b, c in cells])
    response = means + np.random.default_rng(0).normal(scale=noise, size=len(cells))
    return Design(dict(zip("abc", levels, strict=True))), response


def test_planted_effects_are_told_apart_with_an_interval() -> None:
    design, response = draw(0.1, 0.02, 0.02)
    gap = design.omega2_difference(response, ("a",), ("b",))
    assert 0 < gap.low < gap.value < gap.high < 1
    design, response = draw(0.01, 0.2, 0.02)
    gap = design.omega2_difference(response, ("a",), ("b",))
    assert gap.low < gap.high < 0


def test_no_effect_gives_omega_around_zero_and_an_interval_with_zero() -> None:
    """eta^2 of five levels is well above that of two by chance alone; omega^2 is not."""
    design, response = draw(0.0, 0.0, 1.0)
    found = design.analyse(response)
    assert abs(found.effect("a").omega2) < 0.05
    gap = design.omega2_difference(response, ("a",), ("b",))
    assert gap.low < 0 < gap.high
