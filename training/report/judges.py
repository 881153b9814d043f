"""How each claim of the published study is judged; `claims` says the rules in words.

Every judge reads the runs of a grid and gives a verdict with the numbers it rests on. It needs at least `MIN_RUNS`
runs with figures wherever it compares, since one seed's spread is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from training.report.anova import Anova, Design, NotPossibleError
from training.report.cells import BALANCED_F1, PAPER_F1, Cell, Grid, Readable, cell_of, describe
from training.report.document import Strong
from training.report.label_free import rank_correlation, within_correlation
from training.report.names import encoder_label, family, kind_of, method_label, proportion_label
from training.report.results import Result
from training.report.statistics import FEWEST_GROUPS, Interval, contrast, spread
from training.report.wording import correlation_text, figure, interval_text, listed, p_text, spread_text

HELD, NOT_HELD, NOT_TESTED = "held", "not held", "not tested"

MIN_RUNS = 2
PUBLISHED_F1 = 0.814
# RankMe would be of use to choose an encoder by if it ranked them at least so well.
USEFUL_RHO = 0.5
# Fewer runs than this rank nothing: their interval would be nearly all of [-1, 1].
MIN_RANKED = 12
# What BYOL must keep at 1 % of its F1 at 15 %.
KEPT_SHARE = 0.9
# Of the study's methods, on both backbones, for methods to be compared with backbones at all.
MIN_FAMILIES = 3

FAILS, WORKS, UNCLEAR = "fails", "works", "unclear"
_DIFFERENCE = "difference (95 % interval)"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict with what it rests on: rows of numbers under `columns`, of which the first `left` hold text.

    `missing` says which runs the rule lacks; `undecided`, of what is not held, that the runs do not show the opposite
    either.
    """

    verdict: str
    undecided: bool
    finding: str
    columns: tuple[str, ...]
    left: int
    rows: tuple[tuple[str, ...], ...]
    missing: str

    @property
    def label(self) -> str:
        """The verdict as it is shown."""
        return f"{self.verdict}, undecided" if self.undecided else self.verdict


@dataclass
class _Evidence:
    """What a judge collects on its way: rows of numbers, and cells that have too few runs."""

    grid: Grid
    columns: tuple[str, ...]
    left: int = 1
    rows: list[tuple[str, ...]] = field(default_factory=list)
    short: list[Cell] = field(default_factory=list)

    def values(self, cells: Iterable[Cell], response: Readable) -> list[list[float]] | None:
        """The runs' figures cell by cell; None, and the cells noted, where one has too few."""
        found = {cell: self.grid.values(cell, response) for cell in cells}
        short = [cell for cell, values in found.items() if len(values) < MIN_RUNS]
        self.short += [cell for cell in short if cell not in self.short]
        return None if short else list(found.values())

    def compare(self, label: str, encoder: str, share: float, ours: list[float], theirs: list[float]) -> Interval:
        """Note a row with two cells and their difference."""
        difference = contrast([(1.0, ours), (-1.0, theirs)])
        means = (spread_text(spread(values)) for values in (ours, theirs))
        self.rows.append((label, encoder_label(encoder), proportion_label(share), *means, interval_text(difference)))
        return difference

    def judgement(self, verdict: str, finding: str, *, undecided: bool = False) -> Judgement:
        missing = f"{MIN_RUNS} runs with figures in each of: {listed([describe([cell]) for cell in self.short])}"
        return Judgement(
            verdict=verdict,
            undecided=undecided,
            finding=finding,
            columns=self.columns if self.rows else (),
            left=self.left,
            rows=tuple(self.rows),
            missing=missing if self.short else "",
        )

    def all_above(self, intervals: Mapping[str, Interval], remark: str = "") -> Judgement:
        """Held if all lie above 0; else not, and undecided unless one lies below it."""
        text = "; ".join(f"{name}: {interval_text(found)}" for name, found in intervals.items()) + f".{remark}"
        if all(found.low > 0 for found in intervals.values()):
            return self.judgement(HELD, text)
        if any(found.high < 0 for found in intervals.values()):
            return self.judgement(NOT_HELD, f"The opposite shows. {text}")
        return self.judgement(NOT_HELD, f"Undecided. {text}", undecided=True)

    def not_tested(self, reason: str) -> Judgement:
        return self.judgement(NOT_TESTED, reason)


def joint_embedding_beats_mae(grid: Grid) -> Judgement:
    evidence = _Evidence(grid, ("method", "backbone", "trained at", "its F1", "MAE's F1", _DIFFERENCE), left=3)
    overall: dict[str, Interval] = {}
    places = [(encoder, share) for encoder in grid.encoders for share in _shares(grid)]
    for method in ("simclr", "barlow_twins"):
        label, pairs = method_label(method), []
        for encoder, share in places:
            cells = grid.cell(method, encoder, share), grid.cell("mae", encoder, share)
            values = evidence.values(cells, PAPER_F1)
            if values:
                pairs.append(values)
                evidence.compare(label, encoder, share, *values)
        if pairs:
            found = overall[f"{label} ({len(pairs)} of {len(places)} cells)"] = _mean_difference(pairs)
            evidence.rows.append(_overall_row(label, "all", found))
    if len(overall) < 2:
        return evidence.not_tested("Too few runs of SimCLR, Barlow Twins or MAE.")
    return evidence.all_above(overall)


def method_over_encoder(grid: Grid) -> Judgement:
    evidence = _Evidence(grid, ("term", "df", "F", "p", "eta^2", "omega^2"))
    results = [result for result in grid.ssl_results(paper_only=True) if PAPER_F1.of(result) is not None]
    shared = [
        {family(result.method) for result in results if result.identity.encoder == encoder} for encoder in grid.encoders
    ]
    if len(shared) < 2 or len(set.intersection(*shared)) < MIN_FAMILIES:
        return evidence.not_tested(f"It takes figures of {MIN_FAMILIES} of the five methods on each of two backbones.")
    if max(Counter(map(cell_of, results)).values()) < MIN_RUNS:
        return evidence.not_tested(f"No cell has {MIN_RUNS} runs: it takes a second seed.")
    try:
        design = factorial(results)
        response = np.array([PAPER_F1.of(result) for result in results], dtype=np.float64)
        evidence.rows += effect_rows(design.analyse(response))
    except NotPossibleError as reason:
        return evidence.not_tested(f"The analysis of variance is not possible: {reason}.")
    gap = design.omega2_difference(response, ("method",), ("backbone",))
    return evidence.all_above({"omega^2 of method less omega^2 of backbone": gap}, f" {len(results)} runs.")


def rankme_does_not_predict(grid: Grid) -> Judgement:
    evidence = _Evidence(grid, ("over", "runs", "method x backbone pairs", "Spearman's rho (95 % interval)"))
    results = grid.ssl_results()
    pooled = rank_correlation(results, "rankme", BALANCED_F1)
    within = within_correlation(results, "rankme", BALANCED_F1)
    for label, found in (("all self-supervised runs", pooled), ("mean within method x backbone", within)):
        if found is not None:
            evidence.rows.append((label, str(found.n), str(found.groups), correlation_text(found)))
    if pooled is None or pooled.low is None or pooled.high is None or pooled.n < MIN_RANKED:
        return evidence.not_tested(
            f"It takes RankMe and F1 of {MIN_RANKED} runs of {FEWEST_GROUPS} method x backbone pairs, and that they "
            "vary."
        )
    text = f"rho {correlation_text(pooled)}, {pooled.n} runs"
    if pooled.high < USEFUL_RHO:
        return evidence.judgement(HELD, f"{text}: {USEFUL_RHO} and more is excluded.")
    if pooled.low > 0:
        return evidence.judgement(NOT_HELD, f"The opposite shows. {text}; RankMe ranks with F1.")
    return evidence.judgement(NOT_HELD, f"Undecided. {text}; neither 0 nor {USEFUL_RHO} is excluded.", undecided=True)


def simclr_reaches_published(grid: Grid) -> Judgement:
    evidence = _Evidence(grid, ("backbone", "F1", "runs", "95 % interval"))
    intervals: list[Interval] = []
    for encoder in grid.encoders:
        values = evidence.values([grid.cell("simclr", encoder, 0.15)], PAPER_F1)
        if values:
            found = contrast([(1.0, values[0])])
            intervals.append(found)
            evidence.rows.append(
                (
                    encoder_label(encoder),
                    spread_text(spread(values[0])),
                    str(len(values[0])),
                    f"{found.low:.3f} to {found.high:.3f}",
                )
            )
    if not intervals:
        return evidence.not_tested("Too few runs of SimCLR at 15 %.")
    text = "; ".join(f"{row[0]} {row[1]} ({row[3]})" for row in evidence.rows)
    if any(found.low >= PUBLISHED_F1 for found in intervals):
        return evidence.judgement(HELD, f"{text}.")
    if all(found.high < PUBLISHED_F1 for found in intervals):
        return evidence.judgement(NOT_HELD, f"Below {PUBLISHED_F1}. {text}.")
    return evidence.judgement(NOT_HELD, f"Undecided. {text}; {PUBLISHED_F1} is not excluded.", undecided=True)


def dino_fails_on_resnet_alone(grid: Grid) -> Judgement:
    evidence = _Evidence(
        grid, ("method", "backbone", "trained at", "its F1", "F1 with random weights", _DIFFERENCE, "so it"), left=3
    )
    wanted = {"resnet18": FAILS, "vit_tiny": WORKS}
    states = {(encoder, share): _dino_state(evidence, encoder, share) for encoder in wanted for share in (0.01, 0.02)}
    if None in states.values():
        return evidence.not_tested("Too few runs of DINO or of random weights at 1 and 2 %.")
    text = "; ".join(
        f"{state} on {encoder_label(encoder)} at {proportion_label(share)}"
        for (encoder, share), state in states.items()
    )
    wrong = {state for (encoder, _), state in states.items() if state != wanted[encoder]}
    if not wrong:
        return evidence.judgement(HELD, f"DINO {text}.")
    undecided = wrong == {UNCLEAR}
    return evidence.judgement(NOT_HELD, f"{'Undecided. ' if undecided else ''}DINO {text}.", undecided=undecided)


def _dino_state(evidence: _Evidence, encoder: str, share: float) -> str | None:
    """Whether DINO works there; None where runs are too few. A row is noted."""
    cell = evidence.grid.cell("dino", encoder, share)
    runs = evidence.grid.runs(cell)
    broken = sum(result.status != "finished" for result in runs)
    if len(runs) >= MIN_RUNS and 2 * broken >= len(runs):
        why = f"{broken} of {len(runs)} runs collapsed or diverged"
        evidence.rows.append(("DINO", encoder_label(encoder), proportion_label(share), why, "", "", FAILS))
        return FAILS
    values = evidence.values([cell, evidence.grid.cell("random", encoder, share)], PAPER_F1)
    if values is None:
        return None
    gap = evidence.compare("DINO", encoder, share, *values)
    state = WORKS if gap.low > 0 else FAILS if gap.value <= 0 else UNCLEAR
    evidence.rows[-1] = (*evidence.rows[-1], state)
    return state


def byol_holds_up(grid: Grid) -> Judgement:
    evidence = _Evidence(
        grid,
        ("backbone", "condition", "F1 at 1 %", "F1 at 15 %", "random weights at 1 %", "value (95 % interval)"),
        left=2,
    )
    intervals: dict[str, Interval] = {}
    for encoder in grid.encoders:
        cells = grid.cell("byol", encoder, 0.01), grid.cell("byol", encoder, 0.15), grid.cell("random", encoder, 0.01)
        values = evidence.values(cells, BALANCED_F1)
        if values is None:
            continue
        few, many, floor = values
        label = encoder_label(encoder)
        for condition, found in (
            (f"F1 at 1 % less {KEPT_SHARE} of F1 at 15 %", contrast([(1.0, few), (-KEPT_SHARE, many)])),
            ("F1 at 1 % less that of random weights", contrast([(1.0, few), (-1.0, floor)])),
        ):
            intervals[f"{label}, {condition}"] = found
            means = (spread_text(spread(part)) for part in values)
            evidence.rows.append((label, condition, *means, interval_text(found)))
    if evidence.short or not intervals:
        return evidence.not_tested("Too few runs of BYOL at 1 and 15 % or of random weights at 1 %.")
    return evidence.all_above(intervals)


def gap_to_supervised_stays(grid: Grid) -> Judgement:
    evidence = _Evidence(
        grid, ("best method", "backbone", "trained at", "supervised F1", "best method's F1", _DIFFERENCE), left=3
    )
    intervals: dict[str, Interval] = {}
    for encoder in grid.encoders:
        supervised = {
            share: evidence.values([grid.cell("supervised", encoder, share)], PAPER_F1) for share in _shares(grid)
        }
        known = {share: values[0] for share, values in supervised.items() if values}
        best = _best_method(grid, encoder, list(known))
        if best is None:
            continue
        pairs = []
        for share, top in known.items():
            ours = grid.values(Cell(method=best, encoder=encoder, proportion=share), PAPER_F1)
            pairs.append([top, ours])
            evidence.compare(method_label(best), encoder, share, top, ours)
        cells = f"{len(pairs)} of {len(supervised)} cells"
        label = f"{encoder_label(encoder)}, supervised less {method_label(best)} ({cells})"
        intervals[label] = _mean_difference(pairs)
        evidence.rows.append(_overall_row(method_label(best), encoder_label(encoder), intervals[label]))
    if len(intervals) < len(grid.encoders):
        return evidence.not_tested("Too few supervised runs, or no method has runs wherever they have.")
    return evidence.all_above(intervals)


def factorial(results: Sequence[Result]) -> Design:
    """Method (its family), backbone and proportion of each run.

    Raises:
        NotPossibleError: see `Design`.
    """
    return Design(
        {
            "method": [family(result.method) for result in results],
            "backbone": [result.identity.encoder for result in results],
            "proportion": [proportion_label(result.identity.defect_proportion) for result in results],
        }
    )


def effect_rows(analysis: Anova) -> list[tuple[str, ...]]:
    """term, df, F, p, eta^2, omega^2 of each effect, as text."""
    return [
        (
            " x ".join(effect.term),
            str(effect.df),
            figure(effect.f, 2),
            p_text(effect.p),
            figure(effect.eta2),
            figure(effect.omega2),
        )
        for effect in analysis.effects
    ]


def _shares(grid: Grid) -> list[float]:
    """The plan's proportions, without the whole split."""
    return [share for share in grid.proportions if share is not None]


def _mean_difference(pairs: Sequence[Sequence[list[float]]]) -> Interval:
    """Mean over cells of the difference between two sets of runs."""
    weight = 1 / len(pairs)
    return contrast([part for ours, theirs in pairs for part in ((weight, ours), (-weight, theirs))])


def _overall_row(label: str, backbone: str, difference: Interval) -> tuple[str, ...]:
    """The row below a method's cells."""
    return tuple(Strong(text) for text in (label, backbone, "all", "", "", interval_text(difference)))


def _best_method(grid: Grid, encoder: str, shares: Sequence[float]) -> str | None:
    """The self-supervised method with the highest mean over `shares`, of those with enough runs at all of them."""
    means = {}
    for method in grid.methods:
        found = [grid.values(Cell(method=method, encoder=encoder, proportion=share), PAPER_F1) for share in shares]
        if kind_of(method) == "ssl" and found and min(map(len, found)) >= MIN_RUNS:
            means[method] = float(np.mean([np.mean(values) for values in found]))
    return max(means, key=lambda method: means[method]) if means else None
