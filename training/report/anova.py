"""Analysis of variance by comparing least-squares fits, with effect sizes; cells may be unequal or empty.

Type II sums of squares: a term counts for what it explains beyond all terms that do not contain it. With equal cells
that is the textbook's decomposition. Every test's error is the residual of the full model.

    eta^2         = SS / SS_total
    partial eta^2 = SS / (SS + SS_error)
    omega^2       = (SS - df MS_error) / (SS_total + MS_error)

omega^2 corrects eta^2 for what as many levels explain by chance, and falls below 0 where a factor explains less.

Shapes: N runs, P columns of a design, R responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from training.report.statistics import LEVEL, REPLICATES, Interval

Floats = NDArray[np.float64]
Term = tuple[str, ...]


class NotPossibleError(Exception):
    """The runs do not allow this analysis; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One term of the model; `f` is infinite where nothing is left unexplained."""

    term: Term
    df: int
    ss: float
    f: float
    p: float
    eta2: float
    partial_eta2: float
    omega2: float


@dataclass(frozen=True, kw_only=True)
class Anova:
    """A table of effects, and how it came about.

    Attributes:
        n: runs.
        balanced: whether every combination of levels has as many runs.
        interactions: whether the model has them; without, they are part of the error.
    """

    effects: tuple[Effect, ...]
    error_df: int
    error_ss: float
    total_ss: float
    n: int
    balanced: bool
    interactions: bool

    def effect(self, *term: str) -> Effect:
        """The effect of `term`."""
        return next(effect for effect in self.effects if effect.term == term)


class Design:
    """Which levels each run has, ready for any response of these runs.

    Args:
        factors: name -> level of each run, all of length N; factors with a single level are left out.

    Raises:
        NotPossibleError: factors cannot be told apart, or no degree of freedom is left for the error.
    """

    def __init__(self, factors: Mapping[str, Sequence[str]]) -> None:
        self._columns = {name: _indicators(levels) for name, levels in factors.items() if len(set(levels)) > 1}
        names = list(self._columns)
        if len(names) < 2:
            raise NotPossibleError("it needs two levels of each of two factors at least")
        self.n = len(next(iter(self._columns.values())))
        mains: list[Term] = [(name,) for name in names]
        if len(self._basis(mains)) < 1 + sum(self._columns[name].shape[1] - 1 for name in names):
            raise NotPossibleError("runs are missing so that the factors cannot be told apart")
        self.balanced = _is_balanced(list(factors.values()))
        pairs: list[Term] = list(combinations(names, 2))
        self.interactions = self.n > len(self._basis([*mains, *pairs]))
        terms = [*mains, *pairs] if self.interactions else mains
        self._full = self._basis(terms)
        self.error_df = self.n - len(self._full)
        if self.error_df < 1:
            raise NotPossibleError(f"{self.n} runs leave no degree of freedom for the error: it takes more seeds")
        self._comparisons = {}
        for term in terms:
            others = [other for other in terms if not set(term) <= set(other)]
            without, with_term = self._basis(others), self._basis([*others, term])
            if len(with_term) > len(without):
                self._comparisons[term] = (without, with_term)

    def analyse(self, response: Floats) -> Anova:
        """The table of effects of `response`, [N].

        Raises:
            NotPossibleError: the response does not vary.
        """
        total = float(((response - response.mean()) ** 2).sum())
        if total == 0:
            raise NotPossibleError("all runs have the same value")
        ss, error = self._sums(response[:, None])
        return Anova(
            effects=tuple(self._effect(term, float(ss[term][0]), float(error[0]), total) for term in ss),
            error_df=self.error_df,
            error_ss=float(error[0]),
            total_ss=total,
            n=self.n,
            balanced=self.balanced,
            interactions=self.interactions,
        )

    def omega2_difference(self, response: Floats, first: Term, second: Term) -> Interval:
        """omega^2 of `first` less that of `second`, with an interval from 2,000 residual-bootstrap replicates, seeded.

        Each replicate is the full model's fit plus residuals drawn with replacement, which are scaled by
        sqrt(N / error df) first, since a fit makes them too small.
        """
        fitted = self._full.T @ (self._full @ response)
        residuals = (response - fitted) * np.sqrt(self.n / self.error_df)
        rng = np.random.default_rng(0)
        drawn = fitted[:, None] + residuals[rng.integers(0, self.n, size=(self.n, REPLICATES))]
        low, high = np.percentile(self._omega2_gaps(drawn, first, second), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
        value = float(self._omega2_gaps(response[:, None], first, second)[0])
        return Interval(value=value, low=float(low), high=float(high))

    def _omega2_gaps(self, responses: Floats, first: Term, second: Term) -> Floats:
        ss, error = self._sums(responses)
        total = ((responses - responses.mean(0)) ** 2).sum(0)
        mean_square = error / self.error_df
        omega = [
            (ss[term] - self._df(term) * mean_square) / np.maximum(total + mean_square, np.finfo(float).tiny)
            for term in (first, second)
        ]
        gaps: Floats = omega[0] - omega[1]
        return gaps

    def _df(self, term: Term) -> int:
        without, with_term = self._comparisons[term]
        return len(with_term) - len(without)

    def _effect(self, term: Term, ss: float, error: float, total: float) -> Effect:
        df, mean_square = self._df(term), error / self.error_df
        f = ss / df / mean_square if mean_square > 0 else float("inf")
        return Effect(
            term=term,
            df=df,
            ss=ss,
            f=f,
            p=float(fdtrc(df, self.error_df, f)),
            eta2=ss / total,
            partial_eta2=ss / (ss + error) if ss + error > 0 else 0.0,
            omega2=(ss - df * mean_square) / (total + mean_square),
        )

    def _sums(self, responses: Floats) -> tuple[dict[Term, Floats], Floats]:
        """Sum of squares of each term and of the error, [R] each, of responses [N, R]."""
        centred = responses - responses.mean(0)
        explained = {
            term: _explained(b, centred) - _explained(a, centred) for term, (a, b) in self._comparisons.items()
        }
        error = (centred**2).sum(0) - _explained(self._full, centred)
        return {term: np.maximum(value, 0) for term, value in explained.items()}, np.maximum(error, 0)

    def _basis(self, terms: Sequence[Term]) -> Floats:
        """Orthonormal basis of the span of `terms` and the mean: [rank, N]."""
        columns = [np.ones((self.n, 1))]
        for term in terms:
            product = self._columns[term[0]]
            for name in term[1:]:
                product = (product[:, :, None] * self._columns[name][:, None, :]).reshape(self.n, -1)
            columns.append(product)
        left, singular, _ = np.linalg.svd(np.hstack(columns), full_matrices=False)
        rank = int((singular > singular[0] * 1e-9).sum())
        return np.ascontiguousarray(left[:, :rank].T)


def _explained(basis: Floats, responses: Floats) -> Floats:
    """Squared length of the projections of responses [N, R] onto a basis [rank, N]: [R]."""
    squared: Floats = ((basis @ responses) ** 2).sum(0)
    return squared


def _indicators(levels: Sequence[str]) -> Floats:
    """[N, number of levels], 1 where a run has the level."""
    names, index = np.unique(np.asarray(levels), return_inverse=True)
    return np.eye(len(names))[index]


def _is_balanced(factors: Sequence[Sequence[str]]) -> bool:
    """Whether every combination of levels has equally many runs."""
    combos, counts = np.unique(np.array(factors), axis=1, return_counts=True)
    possible = int(np.prod([len(set(levels)) for levels in factors]))
    return combos.shape[1] == possible and len(set(counts.tolist())) == 1
