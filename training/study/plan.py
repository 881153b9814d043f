"""Which experiments a study consists of, in which order, and with which settings.

    STUDY/study.json        settings and data, written once; the plan follows from it
    STUDY/<id>/             one experiment; `training.study.experiment` says what it holds

The full plan is that of Otero, Mateus and Balestriero (arXiv 2410.04289): five methods on two encoders at 1, 2, 5 and
15 % defects and on the whole split, five seeds each: 250 runs. How the paper divides its 250 runs is not published;
this is one division that fits. Baselines come on top.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from serving.errors import ConfigError
from training.backbones import ENCODERS
from training.config import Axis, Precision, PretrainConfig, Views
from training.config_json import check_choice, decode_config, encode_config
from training.methods import METHODS
from training.recipes import RECIPES

Kind = Literal["ssl", "random", "transferred", "supervised", "finetuned"]
Baseline = Literal["random", "transferred", "supervised", "finetuned"]
PretrainOn = Literal["subset", "split"]

PAPER_METHODS = ("simclr", "barlow_twins", "byol", "dino", "mae")
# What stands for MAE where there is no transformer.
STAND_INS = {("mae", "resnet18"): "masked_conv"}
FINETUNED = "finetuned_"
# In an experiment's folder: held by the process that works on it.
LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One cell of the grid with one seed; `defect_proportion` None takes the whole split as it is."""

    kind: Kind
    method: str
    encoder: str
    defect_proportion: float | None
    seed: int

    @property
    def id(self) -> str:
        """Its folder's name: method, encoder, per cent of defects, seed."""
        return f"{self.method}-{self.encoder}-{_share_name(self.defect_proportion)}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Everything that decides what a study computes, but for its frames.

    Attributes:
        methods: keys of `METHODS`; "mae" becomes masked_conv on ResNet-18.
        encoders: keys of `ENCODERS`.
        proportions: shares of defects in the training subsets; null is the whole split.
        seeds: how many, from 0; each draws its own subset, weights, order and views.
        baselines: random, an untrained encoder with a probe; transferred, the initial encoder with a probe;
            supervised; finetuned, supervised from the encoder of `finetuned_from` in the same cell.
        finetuned_from: the method whose encoders are fine-tuned.
        initial: digests of the encoders that everything but the random baseline starts from, as (encoder, digest);
            empty for freshly drawn weights.
        epochs, batch_size: of pretraining, and of supervised training, so that all see as many frames.
        optim, views: axes of the recipes.
        view_size: side of the augmented views in pixels; null for the frames' own.
        precision: of forward passes while an encoder is trained.
        pretrain_on: "subset" pretrains on the frames that train the probe, as the study does; "split" on all frames of
            the training split, unlabelled ones too, once for all proportions.
        frames: size of each training subset; null for all normals with as many defects as make up the proportion.
        calibration_share: share of the training inspections that calibrates the probe and chooses its threshold.
    """

    methods: tuple[str, ...] = PAPER_METHODS
    encoders: tuple[str, ...] = tuple(ENCODERS)
    proportions: tuple[float | None, ...] = (0.01, 0.02, 0.05, 0.15, None)
    seeds: int = 5
    baselines: tuple[str, ...] = ("random", "supervised", "finetuned")
    finetuned_from: str = "simclr"
    epochs: int = 100
    batch_size: int = 256
    optim: Axis = "paper"
    views: Views = "published"
    view_size: int | None = None
    precision: Precision = "bf16"
    pretrain_on: PretrainOn = "subset"
    frames: int | None = None
    calibration_share: float = 0.2
    initial: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name, values, choices in (
            ("methods", self.methods, METHODS),
            ("encoders", self.encoders, ENCODERS),
            ("baselines", self.baselines, get_args(Baseline)),
        ):
            for value in values:
                check_choice(name, value, choices)
            if len(set(values)) != len(values):
                raise ConfigError(f"{name} names one twice: {', '.join(values)}")
        check_choice("finetuned_from", self.finetuned_from, METHODS)
        check_choice("optim", self.optim, get_args(Axis))
        check_choice("views", self.views, get_args(Views))
        check_choice("precision", self.precision, get_args(Precision))
        check_choice("pretrain_on", self.pretrain_on, get_args(PretrainOn))
        if not self.encoders or not self.proportions or self.seeds < 1:
            raise ConfigError("a study needs an encoder, a proportion and a seed at least")
        if not all(share is None or 0 < share < 1 for share in self.proportions):
            raise ConfigError(f"proportions lie between 0 and 1: {self.proportions}")
        names = [_share_name(share) for share in self.proportions]
        if len(set(names)) != len(names):
            raise ConfigError(f"proportions names one twice: {', '.join(names)}")
        self._check_sizes()
        if ("transferred" in self.baselines) > {*self.encoders}.issubset(name for name, _ in self.initial):
            raise ConfigError(
                "the transferred baseline needs an initial encoder for each of " + ", ".join(self.encoders)
            )
        if "finetuned" in self.baselines and self.finetuned_from not in self.methods:
            raise ConfigError(f"finetuned_from {self.finetuned_from} is not among the methods: {self.methods}")

    def _check_sizes(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ConfigError(
                f"epochs must be at least 1 and batch_size at least 2, got {self.epochs} and {self.batch_size}"
            )
        for name, value in (("view_size", self.view_size), ("frames", self.frames)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be positive, got {value}")
        if not 0 < self.calibration_share <= 0.5:
            raise ConfigError(f"calibration_share must be in (0, 0.5], got {self.calibration_share}")

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `from_json` gives equal settings."""
        return encode_config(self)

    @staticmethod
    def from_json(data: Any) -> StudySettings:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: a key is unknown or missing, or a value of the wrong kind or out of range.
        """
        settings: StudySettings = decode_config(StudySettings, data, where="study settings")
        return settings


def _share_name(share: float | None) -> str:
    return "all" if share is None else f"p{100 * share:g}"


def experiments(settings: StudySettings) -> list[Experiment]:
    """All experiments, each once. Seeds are the outermost loop, so that a study that is stopped has whole grids."""
    cells = [
        Experiment(kind=kind, method=method, encoder=encoder, defect_proportion=share, seed=seed)
        for seed in range(settings.seeds)
        for share in settings.proportions
        for encoder in settings.encoders
        for kind, method in _rows(settings, encoder)
    ]
    return list(dict.fromkeys(cells))


def _rows(settings: StudySettings, encoder: str) -> Iterator[tuple[Kind, str]]:
    """Kinds and methods on one encoder; a fine-tuning comes after what it starts from."""
    for baseline in ("random", "transferred"):
        if baseline in settings.baselines:
            yield baseline, baseline
    for method in settings.methods:
        found = method_on(method, encoder)
        if found is not None:
            yield "ssl", found
    if "supervised" in settings.baselines:
        yield "supervised", "supervised"
    if "finetuned" in settings.baselines:
        yield "finetuned", f"{FINETUNED}{method_on(settings.finetuned_from, encoder)}"


def method_on(method: str, encoder: str) -> str | None:
    """The method's name on that encoder: itself, its stand-in, or None where it has neither."""
    method = STAND_INS.get((method, encoder), method)
    return method if (method, encoder) in RECIPES else None


def start_of(experiment: Experiment) -> Experiment:
    """The self-supervised experiment whose encoder a fine-tuning starts from."""
    return replace(experiment, kind="ssl", method=experiment.method.removeprefix(FINETUNED))


def pretraining(experiment: Experiment, settings: StudySettings, image_size: int) -> PretrainConfig:
    """The config of a self-supervised experiment's pretraining run."""
    return RECIPES[experiment.method, experiment.encoder](
        image_size=image_size,
        optim=settings.optim,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=experiment.seed,
        views=settings.views,
        view_size=settings.view_size,
        precision=settings.precision,
        initial_encoder=dict(settings.initial).get(experiment.encoder),
    )
