"""What an export must pass before anything is written: parity with torch, and no loss of accuracy.

Shapes: N frames, S pixels a side, D features, h x w places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from serving.errors import PipeprobeError
from serving.pairs.manifest import Calibration
from training.backbones import Encoder
from training.calibration import Platt
from training.data.normalise import normalise
from training.features import full_float32
from training.metrics import auroc
from training.probe import LinearProbe

Outputs = Mapping[str, NDArray[np.float32]]

# Largest difference between torch and the float32 graph: absolute for `score`, for the others relative to the
# largest magnitude of that output where that is above 1. Sums in another order make about 1e-5.
PARITY_TOLERANCE: dict[str, float] = {"score": 1e-4, "logit": 1e-4, "embedding": 1e-4, "evidence": 1e-4}
# Largest difference, in the same unit, between the mean of a variant's evidence and its logit.
EVIDENCE_TOLERANCE = 1e-4
MAX_AUROC_LOSS = 0.005


class ExportRefusedError(PipeprobeError):
    """An exported variant does not do what the trained encoder and probe do; nothing was written."""

    slug = "export-refused"
    title = "Export refused"


@dataclass(frozen=True, kw_only=True)
class VariantReport:
    """What the gate measured of one variant on `n` labelled frames.

    Attributes:
        auroc, auroc_loss: of this variant, and how much lower than float32's (negative: higher).
        verdicts_changed: share of frames whose verdict at the default operating point differs from float32's.
        max_score_change, mean_score_change: absolute, against float32.
    """

    variant: str
    n: int
    auroc: float
    auroc_loss: float
    verdicts_changed: float
    max_score_change: float
    mean_score_change: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def torch_outputs(
    encoder: Encoder, probe: LinearProbe, calibration: Calibration, frames: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    """What the graph must reproduce, computed without it: the probe in float64 on the encoder's features.

    The logit is the probe on pooled features, not the mean of the evidence, so that the graph's identity of the
    two is put to the test.
    """
    platt = Platt(slope=calibration.slope, intercept=calibration.intercept)
    embeddings, maps = [], []
    with torch.inference_mode(), full_float32():
        for start in range(0, len(frames), 32):
            images = normalise(torch.from_numpy(np.array(frames[start : start + 32])))
            embeddings.append(encoder(images).numpy())
            features = encoder.feature_map(images).double()
            maps.append((torch.einsum("ndhw,d->nhw", features, torch.from_numpy(probe.weight))).numpy())
    embedding = np.concatenate(embeddings)
    logit = probe.logits(embedding)
    return {
        "score": platt.score(logit).astype(np.float32),
        "logit": logit.astype(np.float32),
        "embedding": embedding,
        "evidence": (np.concatenate(maps) + probe.bias).astype(np.float32),
    }


def check_parity(expected: Outputs, found: Outputs) -> dict[str, float]:
    """Largest difference of each output, in `PARITY_TOLERANCE`'s unit.

    Raises:
        ExportRefusedError: one is beyond its tolerance, or not a number.
    """
    differences = {}
    for name, tolerance in PARITY_TOLERANCE.items():
        difference = _difference(expected[name], found[name])
        # Written so that NaN fails.
        if not difference <= tolerance:
            raise ExportRefusedError(
                f"the float32 graph and torch disagree: {name} differs by {difference:.3g}, allowed {tolerance:.3g}; "
                "nothing was written. The exporter mistranslates this encoder: try another torch release"
            )
        differences[name] = difference
    return differences


def check_evidence(variant: str, outputs: Outputs) -> float:
    """Largest difference between mean evidence and logit; `ExportRefusedError` beyond `EVIDENCE_TOLERANCE`."""
    mean = outputs["evidence"].mean((1, 2), dtype=np.float64)
    difference = _difference(outputs["logit"], mean)
    if not difference <= EVIDENCE_TOLERANCE:
        raise ExportRefusedError(
            f"variant {variant}: the mean of the evidence differs from the logit by {difference:.3g}, allowed "
            f"{EVIDENCE_TOLERANCE:.3g}; nothing was written"
        )
    return difference


def check_accuracy(
    variant: str, outputs: Outputs, fp32: Outputs, labels: NDArray[np.integer], *, threshold: float
) -> VariantReport:
    """Compare a variant with float32 on labelled frames [N].

    Raises:
        ExportRefusedError: its AUROC is more than `MAX_AUROC_LOSS` lower, or its scores are not numbers.
        DataError: the labels hold one class only.
    """
    scores, reference = outputs["score"], fp32["score"]
    if not np.isfinite(scores).all():
        raise ExportRefusedError(f"variant {variant} scores real frames as NaN; nothing was written")
    # The logit ranks alike and cannot saturate.
    value, value_fp32 = auroc(labels, outputs["logit"]), auroc(labels, fp32["logit"])
    loss = value_fp32 - value
    if loss > MAX_AUROC_LOSS:
        raise ExportRefusedError(
            f"variant {variant} loses {loss:.4f} AUROC against float32 ({value:.4f} against {value_fp32:.4f} on "
            f"{len(labels)} frames), allowed {MAX_AUROC_LOSS}; nothing was written. Calibrate on more frames "
            "(--calibration-frames) or leave the variant out (--variants)"
        )
    change = np.abs(scores.astype(np.float64) - reference)
    return VariantReport(
        variant=variant,
        n=len(labels),
        auroc=value,
        auroc_loss=loss,
        verdicts_changed=float(np.mean((scores >= threshold) != (reference >= threshold))),
        max_score_change=float(change.max()),
        mean_score_change=float(change.mean()),
    )


def _difference(expected: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0.0)) / scale
