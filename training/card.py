"""CARD.md of a pair: what it is, how well it does, on what, and what it must not be trusted with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from serving.pairs.manifest import Manifest, Metric

CARD_FILE = "CARD.md"

# Metrics worth a reader's time, in this order; the manifest holds all.
_SHOWN = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "f1@balanced": "F1",
    "f2@balanced": "F2",
    "f1_normal@balanced": "F1 of normal",
    "f2_ciw_binary@balanced": "F2 by class weight (`f2_ciw_binary`)",
}

# What stands for the method in runs that `pretrain` did not make.
_NOT_PRETRAINED = ("random", "supervised", "finetuned", "unknown")

_LIMITS = """\
## Limits

* Not validated on real sewers unless a table above names them. Judge it on labelled footage of your own first.
* It says *defect* or *normal*. It does not name the defect, and evidence is a low-resolution hint of where the
  score comes from, not a measurement.
* A score is a probability only where defects are as frequent as in the data that calibrated it. Elsewhere scores
  keep their order, but choose an operating point by its recall and check it.
* Frames that look unlike the training data (other cameras, profiles, materials, heavy fog) get scores all the same.
* `golden.npz` holds a few frames of the data that judged the export. Mind that before you hand on a pair made from
  confidential footage.
"""

_RETRAIN = """\
## Retrain it on your own footage

After packing labelled frames (`pipeprobe-train pack --help`) into `packs/train` and `packs/val`:

```text
pipeprobe-train pretrain packs/train --method {method} --encoder {encoder} --out runs/mine
pipeprobe-train probe runs/mine --train packs/train --val packs/val
pipeprobe-train export runs/mine --pack packs/val --name mine --version 1.0.0 --out models --default
```
"""


def write_card(manifest: Manifest) -> str:
    """The card as Markdown."""
    training = cast("dict[str, Any]", manifest.training)
    sections = [
        _head(manifest),
        _data(manifest, training["probe"]["data"]),
        _metrics(manifest.metrics),
        _operating_points(manifest),
        _calibration(manifest, training["probe"]["calibration_quality"]),
        _variants(manifest, training["gate"]),
        *([_reference(training["reference"])] if "reference" in training else []),
        _LIMITS,
        _RETRAIN.format(
            method="simclr" if manifest.method in _NOT_PRETRAINED else manifest.method, encoder=manifest.encoder
        ),
        _provenance(manifest, training),
    ]
    return "\n".join(sections)


def _head(manifest: Manifest) -> str:
    return (
        f"# {manifest.name} {manifest.version}\n\n"
        f"Scores sewer-inspection frames as *defect* or *normal*: a {manifest.encoder} encoder "
        f"({manifest.method}) and a linear probe on its frozen features, at {manifest.image_size} px.\n\n"
        f"**Validated on {manifest.validated_on}.**\n"
    )


def _reference(record: dict[str, Any]) -> str:
    pack = record["pack"]
    return (
        "## Drift\n\n"
        f"`reference.npz` describes scores and embeddings of {record['frames']} frames of {pack['split']} "
        f"({pack['source']}): counts, means and spreads, no frame. A service measures from it how far its traffic has "
        "moved. Footage of your own has moved from simulated pipes to begin with: make a reference of it with "
        "`pipeprobe-train reference`.\n"
    )


def _data(manifest: Manifest, data: dict[str, dict[str, Any]]) -> str:
    rows = [
        (
            name,
            part["source"],
            part["split"],
            part["frames"],
            part["defect"],
            part["normal"],
            part["unlabelled"],
            part["inspections"] or "unknown",
        )
        for name, part in data.items()
    ]
    heading = ("data", "source", "split", "frames", "defect", "normal", "unlabelled", "inspections")
    return f"## Data\n\n{_table(heading, rows)}"


def _metrics(metrics: list[Metric]) -> str:
    found = {(metric.data, metric.name): metric for metric in metrics}
    names = list(dict.fromkeys(metric.data for metric in metrics))
    rows = []
    for key, label in _SHOWN.items():
        cells = [found.get((name, key)) for name in names]
        if any(cells):
            rows.append((label, *(_interval(cell) if cell else "-" for cell in cells)))
    return (
        "## Metrics\n\nWith 95 % intervals (bootstrap over inspections; over frames where inspections are unknown). "
        "F1, F2 and\nF1 of normal are those of the verdict at `balanced`. `f2_ciw_binary` is this project's own "
        f"variant, not Sewer-ML's\nofficial score.\n\n{_table(('', *names), rows)}"
    )


def _operating_points(manifest: Manifest) -> str:
    rows = [
        (
            f"`{point.name}`" + (" (default)" if point.name == manifest.default_operating_point else ""),
            f"{point.threshold:.4f}",
            point.criterion,
            f"{point.recall:.3f}",
            f"{point.precision:.3f}",
            f"{point.specificity:.3f}",
            f"{point.data}, {point.n} frames",
        )
        for point in manifest.operating_points.values()
    ]
    heading = ("operating point", "threshold", "chosen for", "recall", "precision", "specificity", "measured on")
    return f"## Operating points\n\n{_table(heading, rows)}"


def _calibration(manifest: Manifest, quality: dict[str, dict[str, Any]]) -> str:
    calibration = manifest.calibration
    rows = [
        (
            name,
            part["n"],
            f"{100 * part['prevalence']:.1f} %",
            f"{part['ece_before']:.3f} → {part['ece_after']:.3f}",
            f"{part['brier_before']:.3f} → {part['brier_after']:.3f}",
        )
        for name, part in quality.items()
    ]
    heading = ("data", "frames", "defects", "calibration error (ECE)", "Brier score")
    return (
        f"## Calibration\n\nPlatt scaling, inside the graph: score = sigmoid({calibration.slope:.4f} * logit "
        f"{calibration.intercept:+.4f}),\nfitted on {calibration.n} frames ({calibration.data}).\n\n"
        f"{_table(heading, rows)}"
    )


def _variants(manifest: Manifest, gate: dict[str, Any]) -> str:
    rows = []
    for name, variant in manifest.variants.items():
        report = gate["variants"][name]
        rows.append(
            (
                f"`{name}`",
                variant.precision,
                variant.device,
                f"{report['auroc']:.4f}",
                f"{report['auroc_loss']:+.4f}",
                f"{100 * report['verdicts_changed']:.2f} %",
                f"{report['mean_score_change']:.4f} / {report['max_score_change']:.4f}",
            )
        )
    heading = ("variant", "arithmetic", "device", "AUROC", "loss", "verdicts changed", "score change, mean / largest")
    return (
        f"## Variants\n\nJudged against float32 on {gate['gate_frames']} labelled frames when exported, on a CPU. A "
        f"loss beyond\n{gate['tolerances']['AUROC loss']} AUROC would have refused the export.\n\n"
        f"{_table(heading, rows)}"
    )


def _provenance(manifest: Manifest, training: dict[str, Any]) -> str:
    commands = [training["probe"]["command"], training["export"]["command"]]
    typed = "\n".join(command for command in commands if command)
    return (
        f"## How it was made\n\nCreated {manifest.created}, git revision `{manifest.git_revision}`, on "
        f"{manifest.hardware}.\nSettings, seeds and package versions are in `manifest.json`.\n"
        + (f"\n```text\n{typed}\n```\n" if typed else "")
    )


def _interval(metric: Metric) -> str:
    return f"{metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"


def _table(heading: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    cells = [[str(cell) for cell in heading]]
    lines = [f"| {' | '.join(cells[0])} |", "|" + "---|" * len(cells[0])]
    lines += [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"
