"""The sections with scores: F1 and its kin, precision in frames, class probes."""

from __future__ import annotations

import numpy as np

from training.report import figures
from training.report.cells import BALANCED_F1, PAPER_F1, ClassResponse, Grid, Readable, Response
from training.report.document import Block, Details, Heading, Paragraph
from training.report.names import (
    CIW_NOTE,
    CLASS_METRICS,
    RULES,
    SAME,
    data_label,
    encoder_label,
    kind_of,
    method_label,
    proportion_label,
)
from training.report.tables import long_table, pivot, precision_table, verdict_responses
from training.report.wording import SPREAD_NOTE

# Shown at once; the others when asked for.
_MAIN = (PAPER_F1, BALANCED_F1)
_FURTHER = (
    Response(data="val_natural", metric="f1", rule="published"),
    *(Response(data=data, metric="f1", rule="chosen") for data in (SAME, "val_balanced", "val_natural")),
    *(Response(data=SAME, metric=metric, rule=rule) for metric in ("f2", "f1_normal") for rule in RULES),
)
# Data sets of the long tables, in their order; others follow by name. Each shows train beside it.
_DATA_ORDER = (SAME, "val_balanced", "val_natural", "test_balanced", "test_natural")
# Scores of class probes, and the data sets they are shown on.
_CLASS_RESPONSES = tuple(
    ClassResponse(data=data, metric=metric) for data in ("val_natural", "test_natural") for metric in CLASS_METRICS
)


def score_section(grid: Grid) -> list[Block]:
    """F1, F2 and F1 of normal by method, backbone and proportion, then every metric."""
    blocks: list[Block] = [
        Heading(level=2, text="F1, F2 and F1 of normal"),
        Paragraph(
            text="Validation at the proportion of training is what the published study reports. The balanced set is "
            "the same for every run, so only there can proportions be compared; the natural one is the split as it "
            "is. Threshold 0.5 is the published one, on the probe's own score; the chosen one was placed on a "
            "calibration part of the training frames. Bold: the best self-supervised mean of a column."
        ),
    ]
    drawn = [response for response in _MAIN if _measured(grid, response)]
    if drawn:
        caption = (
            "F1 of each method over the proportion of defects among its training frames, at threshold 0.5. Bars: one "
            "standard deviation over seeds; a point without a bar is one seed."
        )
        blocks.append(figures.by_proportion(grid, "f1-by-proportion", caption, drawn))
    blocks += [*(pivot(grid, response) for response in drawn), Paragraph(text=SPREAD_NOTE, note=True)]
    blocks += [
        Details(summary=response.label, blocks=(pivot(grid, response), Paragraph(text=SPREAD_NOTE, note=True)))
        for response in _FURTHER
        if _measured(grid, response)
    ]
    for data in _data_sets(grid):
        tables = (long_table(grid, encoder, data, rule) for rule in RULES for encoder in grid.encoders)
        notes = (Paragraph(text=SPREAD_NOTE, note=True), Paragraph(text=CIW_NOTE, note=True))
        blocks.append(Details(summary=f"Every metric, train beside it: {data_label(data)}", blocks=(*tables, *notes)))
    return blocks


def precision_section(grid: Grid) -> list[Block]:
    """What a user of verdicts lives with, at the smallest proportion of the plan: 1 % in the published study."""
    shares = [share for share in grid.proportions if share is not None]
    if not shares or not _measured(grid, verdict_responses("published")[0], shares[0]):
        return []
    share = shares[0]
    sentences = [text for rule in RULES if (text := _verdict_sentence(grid, share, rule))]
    return [
        Heading(level=2, text=f"Precision at {proportion_label(share)} defects"),
        *(Paragraph(text=text) for text in sentences),
        figures.verdicts(grid, share),
        precision_table(grid, share),
        Paragraph(text=SPREAD_NOTE, note=True),
    ]


def _verdict_sentence(grid: Grid, share: float, rule: str) -> str:
    """The best self-supervised cell by F1, said in frames."""
    f1 = Response(data=SAME, metric="f1", rule=rule)
    cells = [cell for cell in grid.cells if cell.proportion == share and kind_of(cell.method) == "ssl"]
    known = [cell for cell in cells if grid.values(cell, f1)]
    if not known:
        return ""
    best = max(known, key=lambda cell: float(np.mean(grid.values(cell, f1))))
    place = "threshold 0.5" if rule == "published" else "the chosen threshold"
    precision, recall = (100 * float(np.mean(grid.values(best, each))) for each in verdict_responses(rule))
    return (
        f"At {place}, {method_label(best.method)} on {encoder_label(best.encoder)} has the best mean F1 of "
        f"the self-supervised methods: of 100 frames that it flags {precision:.0f} show a defect and "
        f"{100 - precision:.0f} do not, and of 100 defects it flags {recall:.0f}. Flagging at random, "
        f"{100 * share:g} of 100 would show one."
    )


def class_section(grid: Grid) -> list[Block]:
    """Sewer-ML's multi-label metric of the class probes on the same frozen encoders."""
    known = [response for response in _CLASS_RESPONSES if _measured(grid, response)]
    if not known:
        return []
    ceilings = {
        (data, scores.get("f2_ciw_ceiling"))
        for result in grid.study.results
        for data, scores in result.classes.items()
        if scores.get("f2_ciw_ceiling") is not None
    }
    reached = "; ".join(f"{value:.3f} on {data_label(data)}" for data, value in sorted(ceilings))
    drawn = [response for response in known if response.metric == "f2_ciw"][:1]
    caption = (
        "F2CIW of the class probes over the proportion of defects in training. Bars: one standard deviation over seeds."
    )
    return [
        Heading(level=2, text="Which defect it is: multi-class probes"),
        Paragraph(
            text="One linear probe for each of the 17 Sewer-ML classes on the same frozen encoders, scored by the "
            "official F2CIW and F1_Normal at 0.5. A class that the data lack counts as 0"
            + (f", so perfect scores would get {reached}." if reached else ".")
        ),
        *(figures.by_proportion(grid, "classes", caption, [response]) for response in drawn),
        *(pivot(grid, response) for response in known),
        Paragraph(text=SPREAD_NOTE, note=True),
    ]


def _measured(grid: Grid, response: Readable, share: float | None = None) -> bool:
    """Whether any run has it, of those trained at `share` if given."""
    results = grid.study.results
    return any(response.of(r) is not None for r in results if share in (None, r.identity.defect_proportion))


def _data_sets(grid: Grid) -> list[str]:
    """Data sets that some run was measured on; validation at another proportion than a run's own is in results.csv."""
    present = {data for result in grid.study.results for data in result.evaluations}
    known = [data for data in _DATA_ORDER if data in present or (data == SAME and _measured(grid, PAPER_F1))]
    others = sorted(data for data in present - {*_DATA_ORDER, "train"} if not data.startswith("val_p"))
    return [*known, *others]
