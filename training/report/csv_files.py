"""The study's results as CSV: nothing is averaged, and every run that was started is in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serving.formats.csv_rows import write_rows
from training.label_free import EXPECTED_SIGN
from training.report.names import family, kind_of
from training.report.results import RULES, Identity, Result, Study

RESULTS, LABEL_FREE, CLASSES = "results.csv", "label_free.csv", "classes.csv"
UNFINISHED = "unfinished"

_IDENTITY = ("id", "kind", "method", "family", "encoder", "optim", "views", "defect_proportion", "seed", "status")
_TRAIN = ("train_frames", "train_defect", "train_normal", "train_digest")
_PRETRAINING = ("epochs", "batch_size", "view_size", "wall_time_s", "frames_per_s", "loss", "rankme", "feature_std")
_METRICS = ("precision", "recall", "specificity", "f1", "f2", "f1_normal", "f2_ciw_binary")
_EVALUATION = ("data", "n", "n_defect", "auroc", "average_precision", "threshold_rule", "threshold", *_METRICS)
_RUN = ("wall_time_s", "git_revision", "hardware", "command")

Row = dict[str, Any]


def write_csv_files(folder: Path, study: Study) -> list[Path]:
    """Write results.csv, label_free.csv and classes.csv; returns their paths."""
    pretraining = tuple(f"pretraining_{name}" for name in _PRETRAINING)
    files = {
        RESULTS: ((*_IDENTITY, *_TRAIN, *pretraining, *_EVALUATION, *_RUN), list(result_rows(study))),
        LABEL_FREE: ((*_IDENTITY, "train_frames", *_label_free_names(study)), list(label_free_rows(study))),
        CLASSES: _with_columns(list(class_rows(study))),
    }
    for name, (columns, rows) in files.items():
        write_rows(folder / name, columns, rows)
    return [folder / name for name in files]


def result_rows(study: Study) -> Iterable[Row]:
    """One row per experiment x data set x threshold rule; one without figures for a run that has none."""
    for result in study.results:
        known = {**_identity_row(result), **_train_row(result), **_pretraining_row(result), **_run_row(result)}
        if not result.evaluations:
            yield known
        for data, evaluation in result.evaluations.items():
            about = {
                "data": data,
                "n": evaluation.n,
                "n_defect": evaluation.n_defect,
                "auroc": evaluation.auroc,
                "average_precision": evaluation.average_precision,
            }
            for rule in RULES:
                figures = {name: evaluation.rules[rule].get(name) for name in ("threshold", *_METRICS)}
                yield {**known, **about, "threshold_rule": rule, **figures}
    yield from _unfinished_rows(study)


def label_free_rows(study: Study) -> Iterable[Row]:
    """One row per experiment."""
    names = _label_free_names(study)
    for result in study.results:
        measured = {name: result.label_free.get(name) for name in names}
        yield {**_identity_row(result), "train_frames": result.train.get("frames"), **measured}
    yield from _unfinished_rows(study)


def class_rows(study: Study) -> Iterable[Row]:
    """One row per experiment x data set with class probes; what is nested becomes `per_class.RB.f2`."""
    for result in study.results:
        for data, scores in result.classes.items():
            yield {**_identity_row(result), "data": data, **_flat(scores)}


def _identity_row(result: Result) -> Row:
    about = {"optim": result.optim, "views": result.views, "status": result.status}
    return {**_named(result.identity), **about}


def _named(identity: Identity) -> Row:
    return {
        "id": identity.id,
        "kind": kind_of(identity.method),
        "method": identity.method,
        "family": family(identity.method),
        "encoder": identity.encoder,
        "defect_proportion": identity.defect_proportion,
        "seed": identity.seed,
    }


def _train_row(result: Result) -> Row:
    return {name: result.train.get(name.removeprefix("train_")) for name in _TRAIN}


def _pretraining_row(result: Result) -> Row:
    return {f"pretraining_{name}": (result.pretraining or {}).get(name) for name in _PRETRAINING}


def _run_row(result: Result) -> Row:
    return {name: getattr(result, name) for name in _RUN}


def _unfinished_rows(study: Study) -> Iterable[Row]:
    planned = {identity.id: identity for identity in study.planned}
    for name in study.unfinished:
        yield {**_named(planned[name]), "status": UNFINISHED}


def _label_free_names(study: Study) -> list[str]:
    """Known metrics in their order, then others."""
    found = dict.fromkeys(name for result in study.results for name in result.label_free)
    return [name for name in EXPECTED_SIGN if name in found] + sorted(set(found) - set(EXPECTED_SIGN))


def _with_columns(rows: list[Row]) -> tuple[tuple[str, ...], list[Row]]:
    """All columns that some row has, in the order in which they come up."""
    columns = dict.fromkeys((*_IDENTITY, "data", *(name for row in rows for name in row)))
    return tuple(columns), rows


def _flat(values: Mapping[str, Any], prefix: str = "") -> Row:
    row: Row = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            row |= _flat(value, f"{prefix}{name}.")
        else:
            row[f"{prefix}{name}"] = " ".join(map(str, value)) if isinstance(value, list) else value
    return row
