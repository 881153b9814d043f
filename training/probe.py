"""The linear probe: standardised frozen features -> logit -> calibrated score, and how well it does.

    RUN/probe/probe.npz     weight float64 [D], bias float64; the standardisation is folded into both
    RUN/probe/probe.json    config, data, calibration, operating points, metrics, provenance

The training pack's inspections are divided once: 80 % fit the probe, 20 % (the calibration part) choose its
regularisation, calibrate it and place the thresholds. What `val` and the other packs hold is only measured.

Shapes: N frames, D features.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from serving.durable import sha256_bytes, write_bytes_atomic, write_json_atomic
from serving.errors import ConfigError, DataError
from serving.pairs.manifest import Calibration, Metric, OperatingPoint
from training import runs
from training.backbones import Encoder
from training.calibration import Platt, UncalibratableError, brier, expected_calibration_error, fit_platt, flat_platt
from training.data.pack import Pack
from training.features import cached_features, check_size, encoder_digest
from training.metrics import evaluate, group_ids, threshold_metrics
from training.operating_points import DEFAULT, Threshold, choose_thresholds
from training.provenance import provenance

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PROBE = "probe"
PROBE_JSON = "probe.json"
PROBE_NPZ = "probe.npz"
SCHEMA_VERSION = 1
# The verdict of the weighted classifier itself (logit >= 0), as in published linear-probe results.
ARGMAX = "argmax"


class IndivisibleError(DataError):
    """The inspections cannot be divided so that both parts hold frames of both kinds."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Settings of a probe.

    Attributes:
        calibration_share: share of the training pack's inspections kept from the fit, in (0, 0.5].
        l2: strengths tried, of |w|^2 on standardised features against the mean loss; the calibration part picks.
        replicates: bootstrap replicates of each interval.
        seed: draws the calibration part and the replicates.
    """

    calibration_share: float = 0.2
    l2: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    replicates: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.calibration_share <= 0.5:
            raise ConfigError(f"calibration_share must be in (0, 0.5], got {self.calibration_share}")
        if not self.l2 or min(self.l2) <= 0:
            raise ConfigError(f"l2 must name positive strengths, got {self.l2}")
        if self.replicates < 100:
            raise ConfigError(f"a 95 % interval needs at least 100 replicates, got {self.replicates}")


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """logit = features @ weight + bias; weight float64 [D]."""

    weight: Floats
    bias: float

    def logits(self, features: NDArray[np.floating]) -> Floats:
        """Uncalibrated logits, float64 [N], of features [N, D]."""
        logits: Floats = np.asarray(features, dtype=np.float64) @ self.weight + self.bias
        return logits


@dataclass(frozen=True, kw_only=True)
class FittedProbe:
    """A calibrated probe with its thresholds, as RUN/probe holds it. `record` is the whole of probe.json."""

    linear: LinearProbe
    calibration: Calibration
    operating_points: dict[str, OperatingPoint]
    metrics: list[Metric]
    record: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LabelledFrames:
    """The labelled frames of a pack: features [N, D], labels [N], classes [N, 17], dense inspections [N]."""

    features: NDArray[np.float32]
    labels: NDArray[np.int8]
    classes: NDArray[np.uint8]
    groups: Ints


@dataclass(frozen=True, kw_only=True)
class ProbeFit:
    """What came out of fitting; `informative`: whether logits rise with defects on the held-out part.

    `thresholds` are on the calibrated score; `held_out` are the places of the frames kept from the fit.
    """

    linear: LinearProbe
    platt: Platt
    thresholds: dict[str, Threshold]
    l2: float
    informative: bool
    held_out: Ints


def run_probe(
    run: Path,
    *,
    train: Pack,
    val: Pack,
    others: Mapping[str, Pack] | None = None,
    config: ProbeConfig | None = None,
    device: str = "cpu",
    command: str = "",
) -> FittedProbe:
    """Fit, calibrate and measure a probe on the encoder of `run`, and write RUN/probe.

    Args:
        run: a finished run folder.
        train: fits and calibrates; its unlabelled frames are left out and counted.
        val, others: measured only, under "val" and their own names.
        command: what was typed, for the record.

    Raises:
        DataError: sizes differ, a class is missing, or a pack is measured on itself.
        ConfigError: an evaluation is named like one of the fixed ones.
    """
    config = config or ProbeConfig()
    packs = named_packs(train, val, others or {})
    encoder, run_config = runs.load_encoder(run)
    for pack in packs.values():
        check_size(encoder, pack)
    data = {name: labelled_frames(run, encoder, pack, device) for name, pack in packs.items()}
    fit = fit_probe(data["train"], config)
    metrics = _measure(data, fit, config, command)
    record = {
        "schema_version": SCHEMA_VERSION,
        "encoder": encoder.name,
        "image_size": encoder.image_size,
        "feature_dim": encoder.feature_dim,
        "encoder_digest": encoder_digest(encoder),
        "method": str(run_config.get("method", "unknown")),
        "config": asdict(config),
        "l2": fit.l2,
        "informative": fit.informative,
        "data": {name: describe_pack(pack) for name, pack in packs.items()},
        **_calibration_record(data["train"], data["val"], fit),
        "operating_points": _operating_points(data["val"], fit),
        "metrics": [metric.to_json() for metric in metrics],
        **provenance(command),
    }
    _write(run / PROBE, fit.linear, record)
    return load_probe(run)


def load_probe(run: Path) -> FittedProbe:
    """Read RUN/probe.

    Raises:
        DataError: missing, or its two files are not of one fit.
    """
    folder = run / PROBE
    if not ((folder / PROBE_JSON).is_file() and (folder / PROBE_NPZ).is_file()):
        raise DataError(f"{run} holds no probe: fit one with `pipeprobe-train probe {run} ...`")
    record = runs.read_json(folder / PROBE_JSON)
    stored = (folder / PROBE_NPZ).read_bytes()
    if sha256_bytes(stored) != record["probe_sha256"]:
        raise DataError(f"{folder / PROBE_NPZ} is not the one that {PROBE_JSON} describes: fit the probe again")
    with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
        linear = LinearProbe(weight=arrays["weight"], bias=float(arrays["bias"]))
    return FittedProbe(
        linear=linear,
        calibration=Calibration.from_json(record["calibration"]),
        operating_points={k: OperatingPoint.from_json(v) for k, v in record["operating_points"].items()},
        metrics=[Metric.from_json(metric) for metric in record["metrics"]],
        record=record,
    )


def describe_pack(pack: Pack) -> dict[str, Any]:
    """What a reader must know of a pack to judge a figure measured on it."""
    return {
        "source": pack.source,
        "split": pack.split,
        "digest": pack.digest,
        "frames": len(pack),
        "defect": int((pack.labels == 1).sum()),
        "normal": int((pack.labels == 0).sum()),
        "unlabelled": int((pack.labels < 0).sum()),
        "inspections": len(np.unique(pack.inspections[pack.inspections >= 0])),
    }


def fit_linear(
    features: NDArray[np.floating], labels: NDArray[np.integer], *, l2: float, least_scale: float = 0.0
) -> LinearProbe:
    """Logistic regression with inverse-class-frequency weights, Newton steps to convergence in float64.

    It minimises mean_i c(y_i) log(1 + exp(-y_i z_i)) + l2 / 2 |w|^2 over standardised features, with c such that
    both classes weigh the same and the mean weight is 1. Features that never vary get weight 0.

    Args:
        features: [N, D].
        labels: [N], 1 or 0; both must occur.
        least_scale: features that vary less than this share of the average one are standardised as if they varied so
            much; with 0, one that hardly varies here gets a weight that blows up frames where it varies more.
    """
    features = np.asarray(features, dtype=np.float64)
    mean, scale = features.mean(0), features.std(0)
    scale = np.maximum(scale, least_scale * np.sqrt(np.mean(scale**2)))
    scale[scale <= 1e-8 * np.maximum(1.0, np.abs(mean))] = np.inf
    model = LogisticRegression(
        C=1 / (l2 * len(labels)), class_weight="balanced", solver="newton-cholesky", tol=1e-6, max_iter=200
    )
    model.fit((features - mean) / scale, labels)
    weight = model.coef_[0] / scale
    return LinearProbe(weight=weight, bias=float(model.intercept_[0] - weight @ mean))


def hold_out_groups(
    labels: NDArray[np.integer], groups: Ints, share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Mark about `share` of the groups as held out: bool [N], whole groups only.

    Groups with and without defects are drawn separately, so that both parts hold both classes even where each
    group is of one class (photographs grouped by likeness) or groups are few.

    Raises:
        IndivisibleError: the groups cannot be divided so.
    """
    n_groups = int(groups.max(initial=-1)) + 1
    with_defects = np.bincount(groups, weights=labels == 1, minlength=n_groups) > 0
    held_out = np.zeros(n_groups, dtype=bool)
    for stratum in (np.flatnonzero(with_defects), np.flatnonzero(~with_defects)):
        take = max(1, round(share * len(stratum))) if len(stratum) > 1 else 0
        held_out[rng.permutation(stratum)[:take]] = True
    marked = held_out[groups]
    for part, name in ((marked, "held-out"), (~marked, "remaining")):
        if len(np.unique(labels[part])) < 2:
            raise IndivisibleError(
                f"{n_groups} inspections ({int(with_defects.sum())} with defects) cannot be divided so that the "
                f"{name} part has defects and normals: add labelled inspections of both kinds"
            )
    return marked


def named_packs(train: Pack, val: Pack, others: Mapping[str, Pack]) -> dict[str, Pack]:
    """The packs of a probe by name, "train" and "val" first.

    Raises:
        ConfigError: an evaluation is named like one of the fixed ones.
        DataError: a pack is measured on itself, or shares frames with the training pack.
    """
    for name in others:
        if name in ("train", "val", "calibration"):
            raise ConfigError(f"the name {name!r} is taken: call the evaluation something else")
    packs = {"train": train, "val": val, **others}
    for name, pack in packs.items():
        if name != "train" and pack.digest == train.digest:
            raise DataError(f"{name} ({pack.path}) is the training pack itself: measure on other frames")
        same_split = (pack.source, pack.split) == (train.source, train.split)
        if name != "train" and same_split and not set(pack.names).isdisjoint(train.names):
            raise DataError(f"{name} ({pack.path}) shares frames with the training pack: measure on other frames")
    return packs


def labelled_frames(run: Path, encoder: Encoder, pack: Pack, device: str) -> LabelledFrames:
    """The labelled frames of `pack` with the features that `encoder` gives them; features are kept under `run`.

    Raises:
        DataError: no frame is labelled, or the pack's frame size is not the encoder's.
    """
    return with_labels(cached_features(run, encoder, pack, device=device), pack)


def with_labels(features: NDArray[np.float32], pack: Pack) -> LabelledFrames:
    """Those frames of `pack` that are labelled, with their features.

    Args:
        features: float32 [N, D] of all N frames, in pack order.

    Raises:
        DataError: no frame is labelled.
    """
    known = np.flatnonzero(np.asarray(pack.labels) >= 0)
    if not len(known):
        raise DataError(f"the pack {pack.path} has no labelled frame: a probe needs labels")
    return LabelledFrames(
        features=np.asarray(features[known]),
        labels=np.asarray(pack.labels)[known],
        classes=np.asarray(pack.classes)[known],
        groups=group_ids(np.asarray(pack.inspections)[known], len(known)),
    )


def fit_probe(train: LabelledFrames, config: ProbeConfig) -> ProbeFit:
    """Fit, calibrate and place the thresholds on labelled frames.

    Raises:
        IndivisibleError: the inspections cannot be divided into a part to fit and a part to calibrate on.
    """
    rng = np.random.default_rng([config.seed, 0])
    held_out = hold_out_groups(train.labels, train.groups, config.calibration_share, rng)
    labels, features = train.labels[held_out], train.features[held_out]
    best: tuple[float, float, LinearProbe, Platt] | None = None
    for l2 in config.l2:
        linear = fit_linear(train.features[~held_out], train.labels[~held_out], l2=l2)
        logits = linear.logits(features)
        try:
            platt = fit_platt(labels, logits)
        except UncalibratableError:
            continue
        loss = _mean_log_loss(labels, platt.score(logits))
        if best is None or loss < best[0]:
            best = (loss, l2, linear, platt)
    informative = best is not None
    if best is None:
        # A floor must be measured even where it is on the floor: an untrained encoder may know nothing.
        l2 = max(config.l2)
        linear = fit_linear(train.features[~held_out], train.labels[~held_out], l2=l2)
        best = (np.inf, l2, linear, flat_platt(labels, linear.logits(features)))
    _, l2, linear, platt = best
    thresholds = choose_thresholds(labels, linear.logits(features), platt)
    return ProbeFit(
        linear=linear,
        platt=platt,
        thresholds=thresholds,
        l2=l2,
        informative=informative,
        held_out=np.flatnonzero(held_out),
    )


def _mean_log_loss(labels: NDArray[np.integer], scores: Floats) -> float:
    picked = np.where(labels == 1, scores, 1 - scores)
    return float(-np.mean(np.log(np.maximum(picked, 1e-300))))


def _measure(data: Mapping[str, LabelledFrames], fit: ProbeFit, config: ProbeConfig, command: str) -> list[Metric]:
    thresholds = {
        DEFAULT: fit.thresholds[DEFAULT].value,
        ARGMAX: float(fit.platt.score(np.zeros(1))[0]),
    }
    metrics = []
    for number, (name, part) in enumerate(data.items(), start=1):
        estimates = evaluate(
            part.labels,
            fit.platt.score(fit.linear.logits(part.features)),
            thresholds=thresholds,
            rng=np.random.default_rng([config.seed, number]),
            classes=part.classes,
            inspections=part.groups,
            replicates=config.replicates,
        )
        metrics += [
            Metric(name=key, data=name, n=len(part.labels), command=command, **asdict(estimate))
            for key, estimate in estimates.items()
        ]
    return metrics


def _calibration_record(train: LabelledFrames, val: LabelledFrames, fit: ProbeFit) -> dict[str, Any]:
    held_out = fit.held_out
    prevalence = float(np.mean(train.labels[held_out]))
    calibration = Calibration(
        slope=fit.platt.slope,
        intercept=fit.platt.intercept,
        n=len(held_out),
        data=f"held-out part of train; the score holds for its share of defects, {100 * prevalence:.1f} %",
    )
    return {
        "calibration": calibration.to_json(),
        "calibration_quality": {
            "held-out train": _calibration_quality(
                train.labels[held_out], fit.linear.logits(train.features[held_out]), fit.platt
            ),
            "val": _calibration_quality(val.labels, fit.linear.logits(val.features), fit.platt),
        },
    }


def _calibration_quality(labels: NDArray[np.integer], logits: Floats, platt: Platt) -> dict[str, Any]:
    before, after = Platt(slope=1.0, intercept=0.0).score(logits), platt.score(logits)
    return {
        "n": len(labels),
        "prevalence": float(np.mean(labels)),
        "ece_before": expected_calibration_error(labels, before),
        "ece_after": expected_calibration_error(labels, after),
        "brier_before": brier(labels, before),
        "brier_after": brier(labels, after),
    }


def _operating_points(val: LabelledFrames, fit: ProbeFit) -> dict[str, Any]:
    scores = fit.platt.score(fit.linear.logits(val.features))
    points = {}
    for name, threshold in fit.thresholds.items():
        found = threshold_metrics(val.labels, scores, threshold=threshold.value)
        points[name] = OperatingPoint(
            name=name,
            threshold=threshold.value,
            criterion=threshold.criterion,
            recall=found["recall"],
            precision=found["precision"],
            specificity=found["specificity"],
            n=len(scores),
            data="val",
        ).to_json()
    return points


def _write(folder: Path, linear: LinearProbe, record: dict[str, Any]) -> None:
    if not all(math.isfinite(value) for value in (*linear.weight, linear.bias)):
        raise DataError("the probe's weights are not finite: look for broken features (a diverged encoder)")
    buffer = io.BytesIO()
    np.savez(buffer, weight=linear.weight, bias=np.float64(linear.bias))
    write_bytes_atomic(folder / PROBE_NPZ, buffer.getvalue())
    write_json_atomic(folder / PROBE_JSON, record | {"probe_sha256": sha256_bytes(buffer.getvalue())})
