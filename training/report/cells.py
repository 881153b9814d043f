"""The runs of a study by cell, and the figures that are read off them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from training.report.names import CLASS_METRICS, METRICS, PAPER_FAMILIES, RULES, SAME, data_label, family, kind_of
from training.report.results import Result, Study


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What runs that differ by their seed alone share."""

    method: str
    encoder: str
    proportion: float | None


@dataclass(frozen=True, kw_only=True)
class Response:
    """One figure of a run: a metric on a data set, at a threshold rule where the metric needs one.

    `data` may be `names.SAME`: validation at the proportion of training, which for the whole split is the natural one.
    """

    data: str
    metric: str
    rule: str | None = None

    def of(self, result: Result) -> float | None:
        """Its value; None where the run has none (diverged, or the data set is not there)."""
        evaluation = result.evaluations.get(same_data(result) if self.data == SAME else self.data)
        if evaluation is None:
            return None
        if self.rule is None:
            value: float | None = getattr(evaluation, self.metric)
            return value
        return evaluation.rules[self.rule].get(self.metric)

    @property
    def label(self) -> str:
        rule = f", {RULES[self.rule]}" if self.rule else ""
        return f"{METRICS[self.metric]} on {data_label(self.data)}{rule}"


class Readable(Protocol):
    """Anything that reads one figure off a run."""

    @property
    def label(self) -> str: ...

    def of(self, result: Result) -> float | None: ...


@dataclass(frozen=True, kw_only=True)
class ClassResponse:
    """A multi-label score of a run's class probes on a data set."""

    data: str
    metric: str

    def of(self, result: Result) -> float | None:
        """Its value; None where the run has no class probes."""
        value: float | None = result.classes.get(self.data, {}).get(self.metric)
        return value

    @property
    def label(self) -> str:
        return f"{CLASS_METRICS[self.metric]} on {data_label(self.data)}"


# What the published study reports, and the one that does not change with the proportion of training.
PAPER_F1 = Response(data=SAME, metric="f1", rule="published")
BALANCED_F1 = Response(data="val_balanced", metric="f1", rule="published")


def same_data(result: Result) -> str:
    """The validation set with the proportion that the run was trained at."""
    share = result.identity.defect_proportion
    return "val_natural" if share is None else f"val_p{100 * share:g}"


class Grid:
    """The plan's cells and the results in them.

    Attributes:
        methods, encoders, proportions: those that are planned, in the order of the tables (methods: of the plan).
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._planned: dict[Cell, int] = defaultdict(int)
        self._runs: dict[Cell, list[Result]] = defaultdict(list)
        for identity in study.planned:
            cell = Cell(method=identity.method, encoder=identity.encoder, proportion=identity.defect_proportion)
            self._planned[cell] += 1
        for result in sorted(study.results, key=lambda result: result.identity.seed):
            self._runs[cell_of(result)].append(result)
        self.methods = list(dict.fromkeys(cell.method for cell in self._planned))
        self.encoders = sorted({cell.encoder for cell in self._planned})
        self.proportions = sorted({cell.proportion for cell in self._planned}, key=lambda p: (p is None, p))

    @property
    def cells(self) -> list[Cell]:
        """Every planned cell."""
        return list(self._planned)

    def planned(self, cell: Cell) -> int:
        """How many runs the plan has there."""
        return self._planned.get(cell, 0)

    def runs(self, cell: Cell) -> list[Result]:
        """The results there, by seed."""
        return self._runs.get(cell, [])

    def values(self, cell: Cell, response: Readable) -> list[float]:
        """The response of each run that has it, by seed."""
        found = (response.of(result) for result in self.runs(cell))
        return [value for value in found if value is not None]

    def cell(self, method_family: str, encoder: str, proportion: float | None) -> Cell:
        """The cell of a family: that of the method which stands for it on the encoder."""
        for method in self.methods:
            cell = Cell(method=method, encoder=encoder, proportion=proportion)
            if family(method) == method_family and cell in self._planned:
                return cell
        return Cell(method=method_family, encoder=encoder, proportion=proportion)

    def ssl_results(self, *, paper_only: bool = False) -> list[Result]:
        """The self-supervised runs, all or those of the published study's five methods."""
        return [
            result
            for result in self.study.results
            if result.kind == "ssl" and not (paper_only and family(result.method) not in PAPER_FAMILIES)
        ]

    def families(self, *, paper_only: bool = False) -> list[str]:
        """Families of the planned self-supervised methods."""
        found = dict.fromkeys(family(method) for method in self.methods if kind_of(method) == "ssl")
        return [name for name in found if name in PAPER_FAMILIES or not paper_only]


def cell_of(result: Result) -> Cell:
    """The cell that a result lies in."""
    identity = result.identity
    return Cell(method=identity.method, encoder=identity.encoder, proportion=identity.defect_proportion)


def describe(cells: Iterable[Cell]) -> str:
    """Cells for a sentence: `simclr-resnet18-p1, ...`."""
    return ", ".join(
        f"{cell.method}-{cell.encoder}-{'all' if cell.proportion is None else f'p{100 * cell.proportion:g}'}"
        for cell in cells
    )
