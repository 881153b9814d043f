"""Multi-class probes on a frozen encoder: which of the 17 Sewer-ML classes does a frame show?

    RUN/classes/classes.npz     weight float64 [D, 17], bias and log_odds float64 [17]; the standardisation is folded in
    RUN/classes/classes.json    config, data, regularisation, official scores, intervals, provenance

One logistic regression a class, one against the rest, on standardised features, both sides of each class weighing
the same (inverse class frequency). A score is the sigmoid of the logit: at 0.5, the threshold of the official metric,
it is the verdict of the weighted classifier. Such scores find much and cry wolf as often: seventeen of them leave few
frames without any class. So the official metric is given for unweighted scores, too, whose logits are moved by the log
odds of each class in the training data, which undoes the weighting (the prior correction of King and Zeng, 2001).

Shapes: N frames, D features, 17 classes in the order of `CLASS_CODES`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.durable import sha256_bytes, write_bytes_atomic, write_json_atomic
from serving.errors import ConfigError, DataError
from serving.pairs.manifest import Metric
from training import runs
from training.backbones import Encoder
from training.calibration import sigmoid
from training.data.classes import CLASS_CODES
from training.data.pack import Pack
from training.features import check_size, encoder_digest
from training.logistic import Design, fit_logistic, log_losses, standardise, unfold
from training.metrics import group_ids
from training.multilabel_metrics import ClassScores, official_intervals, official_scores
from training.probe import IndivisibleError, describe_pack, hold_out_groups, labelled_frames, named_packs
from training.provenance import provenance

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLASSES = "classes"
CLASSES_JSON = "classes.json"
CLASSES_NPZ = "classes.npz"
SCHEMA_VERSION = 1
# Ends the names of metrics of the unweighted scores.
UNWEIGHTED = "@unweighted"


@dataclass(frozen=True, kw_only=True)
class ClassProbeConfig:
    """Settings of the multi-class probes.

    Attributes:
        held_out_share: share of the inspections that choose the regularisation of each class, in (0, 0.5].
        l2: strengths tried, of |w|^2 on standardised features against the weighted mean loss, strongest first.
        min_examples: frames that must show a class, and frames that must not, for it to be learnt.
        replicates: bootstrap replicates of each interval.
        seed: draws the held-out parts and the replicates.
    """

    held_out_share: float = 0.2
    l2: tuple[float, ...] = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    min_examples: int = 10
    replicates: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out_share <= 0.5:
            raise ConfigError(f"held_out_share must be in (0, 0.5], got {self.held_out_share}")
        if not self.l2 or min(self.l2) <= 0 or list(self.l2) != sorted(set(self.l2), reverse=True):
            raise ConfigError(f"l2 must name positive strengths, each once, strongest first, got {self.l2}")
        if self.min_examples < 2:
            raise ConfigError(f"min_examples must be 2 or more: one fits, one chooses; got {self.min_examples}")
        if self.replicates < 100:
            raise ConfigError(f"a 95 % interval needs at least 100 replicates, got {self.replicates}")


@dataclass(frozen=True, kw_only=True)
class ClassProbe:
    """Seventeen linear probes.

    Attributes:
        weight, bias: float64 [D, 17] and [17].
        log_odds: float64 [17], of each class in the training data.
        l2: of each class learnt, by code.
    """

    weight: Floats
    bias: Floats
    log_odds: Floats
    l2: Mapping[str, float]

    @property
    def absent(self) -> tuple[str, ...]:
        """Codes of the classes that the training data hold too little of; their scores are 0."""
        return tuple(code for code in CLASS_CODES if code not in self.l2)

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """Scores in [0, 1], float64 [N, 17], of features [N, D]; 0 for absent classes."""
        return self._scores(features, self.bias)

    def unweighted_scores(self, features: NDArray[np.floating]) -> Floats:
        """As `scores`, at the frequency that each class has in the training data."""
        return self._scores(features, self.bias + self.log_odds)

    def _scores(self, features: NDArray[np.floating], bias: Floats) -> Floats:
        scores = sigmoid(np.asarray(features, dtype=np.float64) @ self.weight + bias)
        scores[:, [CLASS_CODES.index(code) for code in self.absent]] = 0.0
        return scores


@dataclass(frozen=True, kw_only=True)
class FittedClassProbe:
    """The probes of a run as RUN/classes holds them.

    `scores` are by data set; `metrics` hold the official metric with intervals, also of the unweighted scores;
    `record` is the whole of classes.json.
    """

    probe: ClassProbe
    scores: dict[str, ClassScores]
    metrics: list[Metric]
    record: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Classified:
    """Frames whose classes are known: features [N, D], classes [N, 17], dense inspections [N]; how many were not."""

    features: NDArray[np.float32]
    classes: NDArray[np.uint8]
    groups: Ints
    unknown: int


def fit_class_probe(
    features: NDArray[np.floating],
    classes: NDArray[np.uint8],
    groups: NDArray[np.integer],
    *,
    config: ClassProbeConfig | None = None,
) -> ClassProbe:
    """Fit one probe a class.

    For each class, the probe of each l2 is fitted on about 80 % of the inspections, from the strongest l2 down until
    its loss on the other 20 % rises; the best l2 is then fitted on all of them.

    Args:
        features: [N, D].
        classes: [N, 17], 1 where the frame shows the class.
        groups: [N] inspection ids; a negative id makes a frame its own group.

    Raises:
        DataError: shapes or values are wrong, or no class can be learnt.
    """
    config = config or ClassProbeConfig()
    if classes.shape != (len(features), len(CLASS_CODES)) or groups.shape != (len(features),):
        raise DataError(
            f"features {features.shape}, classes {classes.shape} and groups {groups.shape} do not belong together"
        )
    design = standardise(features)
    dense = group_ids(groups, len(features))
    weight = np.zeros((features.shape[1], len(CLASS_CODES)))
    bias, log_odds = np.zeros(len(CLASS_CODES)), np.zeros(len(CLASS_CODES))
    l2 = {}
    for column, code in enumerate(CLASS_CODES):
        shown = classes[:, column] == 1
        held_out = _held_out(shown, dense, config, np.random.default_rng([config.seed, 0, column]))
        if held_out is not None:
            coefficients, l2[code] = _fit_class(design, shown, held_out, config)
            weight[:, column], bias[column] = unfold(design, coefficients)
            log_odds[column] = np.log(np.count_nonzero(shown) / np.count_nonzero(~shown))
    if not l2:
        raise DataError(
            f"no class has {config.min_examples} frames, in several inspections, that show it and as many that do "
            "not: add labelled inspections"
        )
    return ClassProbe(weight=weight, bias=bias, log_odds=log_odds, l2=l2)


def run_class_probe(
    run: Path,
    *,
    train: Pack,
    val: Pack,
    others: Mapping[str, Pack] | None = None,
    config: ClassProbeConfig | None = None,
    device: str = "cpu",
    command: str = "",
) -> FittedClassProbe:
    """Fit the probes on the encoder of `run`, measure them, and write RUN/classes.

    Args:
        run: a finished run folder.
        train: fits; frames without a label, and defects whose classes are unknown, are left out and counted.
        val, others: measured only, under "val" and their own names.
        command: what was typed, for the record.

    Raises:
        DataError: sizes differ, classes are unknown, or a pack is measured on itself.
        ConfigError: an evaluation is named like one of the fixed ones.
    """
    config = config or ClassProbeConfig()
    packs = named_packs(train, val, others or {})
    encoder, run_config = runs.load_encoder(run)
    for pack in packs.values():
        check_size(encoder, pack)
    data = {name: _classified(run, encoder, pack, device) for name, pack in packs.items()}
    fitted = data["train"]
    probe = fit_class_probe(fitted.features, fitted.classes, fitted.groups, config=config)
    scores, metrics = _measure(probe, data, config, command)
    record = {
        "schema_version": SCHEMA_VERSION,
        "encoder": encoder.name,
        "image_size": encoder.image_size,
        "feature_dim": encoder.feature_dim,
        "encoder_digest": encoder_digest(encoder),
        "method": str(run_config.get("method", "unknown")),
        "config": asdict(config),
        "class_codes": list(CLASS_CODES),
        "l2": dict(probe.l2),
        "absent": list(probe.absent),
        "data": {name: describe_pack(pack) | {"classes_unknown": data[name].unknown} for name, pack in packs.items()},
        "scores": {name: part.to_json() for name, part in scores.items()},
        "metrics": [metric.to_json() for metric in metrics],
        **provenance(command),
    }
    _write(run / CLASSES, probe, record)
    return load_class_probe(run)


def load_class_probe(run: Path) -> FittedClassProbe:
    """Read RUN/classes.

    Raises:
        DataError: missing, or its two files are not of one fit.
    """
    folder = run / CLASSES
    if not (folder / CLASSES_JSON).is_file():
        raise DataError(f"{run} holds no multi-class probes: fit them with `pipeprobe-train classes {run} ...`")
    record = runs.read_json(folder / CLASSES_JSON)
    stored = (folder / CLASSES_NPZ).read_bytes()
    if sha256_bytes(stored) != record["classes_sha256"]:
        raise DataError(f"{folder / CLASSES_NPZ} is not the one that {CLASSES_JSON} describes: fit the probes again")
    with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
        probe = ClassProbe(**{name: arrays[name] for name in ("weight", "bias", "log_odds")}, l2=record["l2"])
    return FittedClassProbe(
        probe=probe,
        scores={name: ClassScores.from_json(scores) for name, scores in record["scores"].items()},
        metrics=[Metric.from_json(metric) for metric in record["metrics"]],
        record=record,
    )


def _held_out(
    shown: NDArray[np.bool_], groups: Ints, config: ClassProbeConfig, rng: np.random.Generator
) -> NDArray[np.bool_] | None:
    """The frames that choose a class's regularisation, bool [N]; None where the data are too few to learn it."""
    if min(np.count_nonzero(shown), np.count_nonzero(~shown)) < config.min_examples:
        return None
    try:
        return hold_out_groups(shown.astype(np.int64), groups, config.held_out_share, rng)
    except IndivisibleError:
        # All examples lie in one inspection, say: nothing could tell the class from that pipe.
        return None


def _fit_class(
    design: Design, shown: NDArray[np.bool_], held_out: NDArray[np.bool_], config: ClassProbeConfig
) -> tuple[Floats, float]:
    """Coefficients [D + 1] on the design's columns, and the l2 they were fitted with."""
    fitting, judging = _balanced(shown, ~held_out), _balanced(shown, held_out)
    coefficients: Floats | None = None
    best: tuple[float, float, Floats] | None = None
    for l2 in config.l2:
        coefficients = fit_logistic(design, shown, fitting, l2=l2, start=coefficients)
        loss = float(judging @ log_losses(design.exact @ coefficients, shown))
        # A weaker l2 fits closer still: past the minimum the loss only rises, and the fits get slow.
        if best is not None and loss > best[0]:
            break
        best = (loss, l2, coefficients)
    assert best is not None, "config.l2 is not empty"
    _, l2, start = best
    return fit_logistic(design, shown, _balanced(shown, np.ones_like(shown)), l2=l2, start=start), l2


def _balanced(shown: NDArray[np.bool_], part: NDArray[np.bool_]) -> Floats:
    """Weights [N] of the frames of `part`: those that show the class sum to 1/2, and so do the others."""
    weights = np.zeros(len(shown))
    for kind in (shown, ~shown):
        chosen = np.flatnonzero(kind & part)
        weights[chosen] = 0.5 / len(chosen)
    return weights


def _classified(run: Path, encoder: Encoder, pack: Pack, device: str) -> _Classified:
    frames = labelled_frames(run, encoder, pack, device)
    shown = np.count_nonzero(frames.classes, axis=1) > 0
    # In folders of defects and normals, and in reviews, a frame can be a defect of no stated class.
    known = shown | (frames.labels == 0)
    if not shown.any() or shown[known].all():
        raise DataError(
            f"the pack {pack.path} has {int(shown.sum())} frames with a known class and "
            f"{int((~shown & known).sum())} normal ones; multi-class probes need both, from data in Sewer-ML's format"
        )
    return _Classified(
        features=frames.features[known],
        classes=frames.classes[known],
        groups=group_ids(frames.groups[known], int(known.sum())),
        unknown=int((~known).sum()),
    )


def _measure(
    probe: ClassProbe, data: Mapping[str, _Classified], config: ClassProbeConfig, command: str
) -> tuple[dict[str, ClassScores], list[Metric]]:
    scores, metrics = {}, []
    for number, (name, part) in enumerate(data.items(), start=1):
        balanced = probe.scores(part.features)
        scores[name] = official_scores(part.classes, balanced)
        for suffix, predicted in (("", balanced), (UNWEIGHTED, probe.unweighted_scores(part.features))):
            estimates = official_intervals(
                part.classes,
                predicted,
                # The same replicates for both, so that they can be compared.
                rng=np.random.default_rng([config.seed, number]),
                inspections=part.groups,
                replicates=config.replicates,
            )
            metrics += [
                Metric(name=key + suffix, data=name, n=len(predicted), command=command, **asdict(estimate))
                for key, estimate in estimates.items()
            ]
    return scores, metrics


def _write(folder: Path, probe: ClassProbe, record: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, weight=probe.weight, bias=probe.bias, log_odds=probe.log_odds)
    write_bytes_atomic(folder / CLASSES_NPZ, buffer.getvalue())
    write_json_atomic(folder / CLASSES_JSON, record | {"classes_sha256": sha256_bytes(buffer.getvalue())})
