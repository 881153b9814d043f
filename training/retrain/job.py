"""What a retraining is told, what it tells back, and what its stages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from serving.errors import ConfigError
from serving.pairs.manifest import VariantName
from training.export import VARIANTS
from training.retrain.compare import Measured, Verdict
from training.retrain.estimate import Estimate
from training.retrain.footage import Broken, Footage
from training.retrain.labels import Label
from training.retrain.split import SplitPlan
from training.retrain.stages import Stages
from training.retrain.start import Start


@dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """What decides the result, beside the footage and the labels.

    Attributes:
        footage, labels: paths.
        init, from_scratch, method, encoder, image_size: see `start.find_start`.
        every_s: most seconds between two frames of a video.
        epochs, minutes: how long to pretrain; by default about `estimate.USUAL_STEPS` steps.
        batch_size: frames a step, less where there are few.
        split: shares, seed, and whether inspections may lie on both sides.
    """

    footage: tuple[str, ...]
    labels: tuple[str, ...] = ()
    init: str | None = None
    from_scratch: bool = False
    method: str | None = None
    encoder: str | None = None
    image_size: int | None = None
    every_s: float = 1.0
    epochs: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    split: SplitPlan = field(default_factory=SplitPlan)

    def __post_init__(self) -> None:
        if not self.footage:
            raise ConfigError("name at least one folder with --footage")
        if not 0.04 <= self.every_s <= 600:
            raise ConfigError(f"a frame every {self.every_s} s is not possible; take 0.04 to 600 s")
        if self.epochs is not None and self.minutes is not None:
            raise ConfigError("--epochs and --minutes both say how long to pretrain: give one of them")
        if (self.epochs is not None and self.epochs < 1) or (self.minutes is not None and self.minutes <= 0):
            raise ConfigError("--epochs and --minutes must be positive")
        if self.batch_size < 2:
            raise ConfigError(f"--batch-size must be at least 2, got {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """How it is carried out, and what happens to the new pair.

    Attributes:
        models: folder of pairs: holds the default one, and gets the new one.
        name: of the new pair; None takes the default pair's with `-retrained`, and a number if that is taken.
        version, variants: of the new pair.
        export_anyway: export whatever the comparison says, if the gate passes.
        promote: make the new pair the default.
        device: `cpu`, `cuda` or `cuda:1`.
        workers: processes that decode; None for all cores.
        command: what was typed, for the record.
    """

    models: Path
    name: str | None = None
    version: str = "1.0.0"
    variants: tuple[VariantName, ...] = VARIANTS
    export_anyway: bool = False
    promote: bool = False
    device: str = "cpu"
    workers: int | None = None
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """The new pair beside the default one.

    Attributes:
        default: the pair compared with; None if there was none.
        chosen: `run` or `initial`: which of the two encoders goes on, by AUROC on val.
        frames, inspections: held out.
        measured: chosen against default, by metric; empty without a default pair.
        other: the encoder that was not chosen against default, likewise.
        verdict: None without a default pair.
    """

    default: str | None
    chosen: str
    frames: int
    inspections: int
    measured: Mapping[str, Measured]
    other: Mapping[str, Measured]
    verdict: Verdict | None


class Listener(Protocol):
    """Told what happens, in order."""

    def begun(self, stage: str, reason: str) -> None:
        """A stage has work to do; `reason` says why again, if it was done before."""

    def done(self, stage: str, kept: bool, seconds: float) -> None:
        """A stage is over; `kept` if an earlier result stands."""

    def say(self, text: str) -> None:
        """Something that the user should read."""

    def expect(self, estimate: Estimate, start: Start) -> None:
        """How long it will take, before it starts."""

    def compare(self, weighed: Weighed) -> None:
        """What the comparison gave, before anything is exported."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the stages share.

    Attributes:
        labels: by the name of the image or video that they are about.
        start: the encoder that training starts from.
        default: name, version and digest of the pair to compare with; None if there is none.
    """

    config: RetrainConfig
    options: RetrainOptions
    out: Path
    listener: Listener
    stages: Stages
    footage: Footage
    labels: Mapping[str, Sequence[Label]]
    start: Start
    default: Mapping[str, str] | None

    @property
    def base_name(self) -> str:
        """What to call the new pair, if that name is free."""
        before = self.default["name"] if self.default is not None else f"{self.start.method}-{self.start.encoder}"
        return self.options.name or f"{before}-retrained"

    @property
    def seed(self) -> int:
        return self.config.split.seed

    def report_broken(self, broken: Sequence[Broken]) -> None:
        """Say what was left out, and why."""
        for each in broken:
            self.listener.say(f"left out: {each.name}: {each.reason}")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How it ended.

    Attributes:
        weighed: the comparison.
        pair: the exported folder, called as the pair; None if nothing was exported.
        promoted_over: the default before, "" if there was none; None if nothing was promoted.
    """

    weighed: Weighed
    pair: Path | None
    promoted_over: str | None
