"""Supervised training of encoder and linear head: the baseline from scratch, and fine-tuning from a pretrained encoder.

The first says what the labels alone allow, the second is the ceiling of a frozen encoder with a probe.

    RUN/config.json       the config, `method` (supervised or finetuned), image size, digest of the initial encoder
    RUN/head.pt           weight float64 [D] and bias of the head
    RUN/encoder.pt        as any run leaves it, so that the encoder can be probed and exported
    RUN/supervised.json   config, data, metrics, provenance; written last: a folder without it is not finished

Shapes: N frames, B frames a step, S pixels a side of a frame, s of a view, D features.
"""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from serving.durable import write_json_atomic
from serving.errors import ConfigError, DataError
from serving.progress import Advance, track_progress
from training.backbones import ENCODERS, Encoder, build_encoder, seeded_init
from training.config import Precision
from training.config_json import check_choice, encode_config
from training.data.augment import Jitter, View, ViewSpec, inspection_views, make_views, symmetric_views
from training.data.loader import epoch_batches, epoch_order
from training.data.pack import Pack
from training.data.pack_subset import FrameRows
from training.features import check_size, encoder_digest, extract_features
from training.loop import RESIDENT_SHARE, DivergedError
from training.metrics import Estimate, evaluate
from training.optim import parameter_groups
from training.precision import fastest_precision, forward_in
from training.probe import LinearProbe, describe_pack, fit_linear
from training.provenance import provenance
from training.runs import CONFIG, ENCODER, load_encoder, load_tensors, read_json, save_encoder, save_tensors

RESULT = "supervised.json"
HEAD = "head.pt"
FROM_SCRATCH, FINE_TUNED = "supervised", "finetuned"

# AdamW's peak for batches of REFERENCE_BATCH frames: tried on simulated frames for ResNet-18; for ViT-Tiny, which
# learns little from scratch on some thousand frames at any rate, that of its pretraining's short runs.
LEARNING_RATES = {"resnet18": 1e-3, "vit_tiny": 5e-4}
REFERENCE_BATCH = 64
# From scratch: the encoder's rate as a share of the head's, and the share of the steps that see whole frames.
SCRATCH_SHARES = (1.0, 0.2)
# From a pretrained encoder. AdamW moves each weight by about its rate whatever the gradient, so the head's rate would
# undo within a few steps what pretraining left; and what small views can teach, that encoder knows already.
FINE_TUNING_SHARES = (0.1, 1.0)
# The probe that a fine-tuned head starts as: frames of either kind at most, and its regularisation, which is strong so
# that a few hundred frames do not make it certain of what training would have to unlearn. Features that hardly vary on
# whole frames may vary more on views: `fit_linear` says what the last bounds.
PROBE_FRAMES, PROBE_L2, PROBE_LEAST_SCALE = 10_000, 1.0, 0.1
GRADIENT_NORM = 5.0
# Looking at the loss makes the host wait for the device, so it is done this seldom, and after each epoch.
CHECK_STEPS = 100

SupervisedViews = Literal["mild", "inspection", "published"]


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """Settings of supervised training; the defaults suit some ten epochs on some ten thousand frames.

    Attributes:
        encoder: a key of `ENCODERS`.
        epochs, batch_size: passes over the labelled training frames, and frames a step (all there are, if fewer).
        learning_rate: AdamW's peak, for the head; one cycle, cosine up over the share `warmup` of the steps, cosine
            down to 0. Null for the encoder's of `LEARNING_RATES`, times the root of batch_size / REFERENCE_BATCH, as
            adaptive steps scale (Malladi et al. 2022, arXiv 2205.10287).
        encoder_share: the encoder's rate as a share of the head's. Null for that of SCRATCH_SHARES or
            FINE_TUNING_SHARES.
        weight_decay: on weights alone; biases, norms and position embeddings have none.
        warmup: see `learning_rate`.
        label_smoothing: share of the target moved to the other class.
        views: augmentation; see `labelled_view`.
        view_size: side of the augmented views in pixels; null for that of the frames.
        full_size_share: last share of the steps whose views are as large as the frames, whatever `view_size` says.
            The classifier is used on whole frames, in which things look larger than in small views: one trained on
            those alone misjudges them (Touvron et al. 2019, arXiv 1906.06423). Null as for `encoder_share`.
        precision: of the encoder's forward pass; null for what the device is fastest in.
        seed: initial weights, order and augmentation.
    """

    encoder: str = "resnet18"
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float | None = None
    encoder_share: float | None = None
    weight_decay: float = 0.05
    warmup: float = 0.15
    label_smoothing: float = 0.05
    views: SupervisedViews = "mild"
    view_size: int | None = None
    full_size_share: float | None = None
    precision: Precision | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise ConfigError(f"no encoder {self.encoder!r}; there are {', '.join(ENCODERS)}")
        check_choice("views", self.views, get_args(SupervisedViews))
        check_choice("precision", self.precision, (None, *get_args(Precision)))
        if self.epochs < 1 or self.batch_size < 2:
            raise ConfigError("epochs must be at least 1 and batch_size at least 2")
        if not 0 <= self.label_smoothing < 0.5 or not 0 < self.warmup < 1:
            raise ConfigError("label_smoothing must be in [0, 0.5) and warmup in (0, 1)")
        for name in ("learning_rate", "encoder_share"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be positive, got {value}")
        if self.view_size is not None and self.view_size < 1:
            raise ConfigError(f"view_size must be positive, got {self.view_size}")
        if self.full_size_share is not None and not 0 <= self.full_size_share <= 1:
            raise ConfigError(f"full_size_share must be in [0, 1], got {self.full_size_share}")
        if self.weight_decay < 0 or self.seed < 0:
            raise ConfigError(f"weight_decay and seed must not be negative: {self.weight_decay}, {self.seed}")

    def resolved(self, image_size: int, shares: tuple[float, float], precision: Precision) -> SupervisedConfig:
        """The same, with what was left null filled in: nothing that decides a run stays unsaid in its record."""
        encoder_share, full_size_share = shares
        rate = LEARNING_RATES[self.encoder] * math.sqrt(self.batch_size / REFERENCE_BATCH)
        return replace(
            self,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            encoder_share=encoder_share if self.encoder_share is None else self.encoder_share,
            view_size=image_size if self.view_size is None else self.view_size,
            full_size_share=full_size_share if self.full_size_share is None else self.full_size_share,
            precision=self.precision or precision,
        )


@dataclass(frozen=True, kw_only=True)
class SupervisedResult:
    """How the trained network does on `val`.

    Attributes:
        auroc: its value; `metrics` has the interval, and the metrics of the verdict at score >= 0.5.
        metrics: name -> value with 95 % interval.
        losses: mean training loss of each epoch.
        frames_seen: training frames, each counted as often as it was shown.
        frames_per_s: training throughput.
        n_train, n_val: labelled frames.
    """

    auroc: float
    metrics: dict[str, Estimate]
    losses: list[float]
    frames_seen: int
    frames_per_s: float
    n_train: int
    n_val: int


class Classifier(nn.Module):
    """Encoder and a linear head with one logit."""

    def __init__(self, encoder: Encoder, precision: Precision) -> None:
        super().__init__()
        self.encoder, self.precision = encoder, precision
        self.head = nn.Linear(encoder.feature_dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        """float32 [N, 3, s, s], normalised -> logit float32 [N]; the encoder computes in `precision`."""
        with forward_in(self.precision, images.device):
            features = self.encoder(images)
        logits: Tensor = self.head(features.float()).squeeze(1)
        return logits

    def linear(self) -> LinearProbe:
        """The head, in float64, as probes are."""
        weight = self.head.weight.detach().double().cpu().numpy()[0]
        return LinearProbe(weight=weight, bias=self.head.bias.item())


def train_supervised(
    train_pack: Pack,
    val_pack: Pack,
    *,
    config: SupervisedConfig | None = None,
    initial: Encoder | None = None,
    device: str = "cpu",
    out: Path | None = None,
    command: str = "",
) -> SupervisedResult:
    """Train on the labelled frames of one pack and measure on those of another.

    Args:
        config: the defaults unless given.
        initial: the encoder to fine-tune, which is copied; freshly drawn weights unless given. The head then starts as
            a linear probe on it, so that training goes on from the probe and no random head drags the encoder along
            (Kumar et al. 2022, arXiv 2202.10054).
        out: run folder to write (see the module); None writes nothing.
        command: what was typed, for the record.

    Raises:
        DataError: the packs' sizes differ, or are not the encoder's, or a class is missing in one of them.
        ConfigError: `initial` is another encoder than the config's; the encoder cannot take views of that size; or
            `out` holds a run.
        DivergedError: the loss stopped being finite; nothing is written.
    """
    if train_pack.size != val_pack.size:
        raise DataError(f"{train_pack.path} is of {train_pack.size} px, {val_pack.path} of {val_pack.size} px")
    for pack, purpose in ((train_pack, "training"), (val_pack, "measuring")):
        _check_classes(pack, purpose)
    shares = SCRATCH_SHARES if initial is None else FINE_TUNING_SHARES
    config = (config or SupervisedConfig()).resolved(train_pack.size, shares, fastest_precision(device))
    model = initial_classifier(config, train_pack, initial)
    if out is not None:
        _claim(out)
    if initial is not None:
        start_as_probe(model, train_pack, device=device, seed=config.seed)
    trainer = _Trainer(model, train_pack, config, torch.device(device), fixed_norms=initial is not None)
    started = time.monotonic()
    losses = trainer.train()
    elapsed_s = time.monotonic() - started
    logits = classify(model.encoder, model.linear(), val_pack, device=device)
    metrics = _measure(logits, val_pack, config)
    result = SupervisedResult(
        auroc=metrics["auroc"].value,
        metrics=metrics,
        losses=losses,
        frames_seen=trainer.frames_seen,
        frames_per_s=trainer.frames_seen / elapsed_s,
        n_train=len(trainer.places),
        n_val=int((val_pack.labels >= 0).sum()),
    )
    if out is not None:
        packs = {"train": describe_pack(train_pack), "val": describe_pack(val_pack)}
        _write(out, model, config, initial, {"data": packs, "result": asdict(result), **provenance(command)})
    return result


def initial_classifier(config: SupervisedConfig, pack: Pack, initial: Encoder | None) -> Classifier:
    """Encoder with the weights of `initial`, copied, or with ones drawn from the seed, as the head's are.

    Raises:
        ConfigError, DataError: as `train_supervised`.
    """
    with seeded_init(config.seed):
        encoder = build_encoder(config.encoder, image_size=pack.size)
        model = Classifier(encoder, config.precision or "fp32")
    model.encoder.check_view_size(config.view_size or pack.size)
    if initial is not None:
        if initial.name != config.encoder:
            raise ConfigError(f"the encoder to fine-tune is {initial.name}, the config says {config.encoder}")
        check_size(initial, pack)
        model.encoder.load_state_dict(initial.state_dict())
    return model


def start_as_probe(model: Classifier, pack: Pack, *, device: str, seed: int) -> None:
    """Make the head a linear probe, fitted on whole labelled frames of `pack`, on the encoder as it is."""
    labels, rng = np.asarray(pack.labels), np.random.default_rng(seed)
    rows = np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == y))[:PROBE_FRAMES] for y in (0, 1)]))
    features = np.concatenate(list(extract_features(model.encoder, FrameRows(pack.frames, rows), device=device)))
    probe = fit_linear(features, labels[rows], l2=PROBE_L2, least_scale=PROBE_LEAST_SCALE)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(probe.weight)[None])
        model.head.bias.fill_(probe.bias)


def labelled_view(kind: SupervisedViews, size: int) -> View:
    """One view of `size` pixels that a frame's label survives.

    `published` and `inspection` are those of self-supervised runs without what destroys colour: no grayscale, no
    solarisation, and shifts of hue and saturation no stronger than between two cameras. `mild` also keeps nearly all
    of the frame, since a defect at the rim must stay in the picture, and all of its sharpness. None flips upside
    down: water and settled deposits lie at the bottom.
    """
    mild = Jitter(brightness=0.3, contrast=0.3, saturation=0.2, hue=0.02)
    if kind == "mild":
        return View(size=size, crop_scale=(0.6, 1.0), jitter=mild, grey_p=0.0, blur_p=0.0)
    (view,) = (inspection_views if kind == "inspection" else symmetric_views)(size).views
    jitter = replace(
        view.jitter, saturation=min(view.jitter.saturation, mild.saturation), hue=min(view.jitter.hue, mild.hue)
    )
    return replace(view, count=1, jitter=jitter, grey_p=0.0, solarise_p=0.0)


def classify(encoder: Encoder, head: LinearProbe, pack: Pack, *, device: str = "cpu") -> NDArray[np.float64]:
    """Logits float64 [N] of all frames of `pack`, in its order; the encoder computes in float32.

    Raises:
        DataError: the pack's frame size is not the encoder's.
        DivergedError: a logit is not finite.
    """
    check_size(encoder, pack)
    parts = []
    with track_progress(f"scoring {pack.path.name}", total=len(pack), unit="frames") as advance:
        for features in extract_features(encoder, pack.frames, device=device):
            parts.append(head.logits(features))
            advance(len(features))
    logits = np.concatenate(parts)
    if not np.isfinite(logits).all():
        raise DivergedError(f"{int((~np.isfinite(logits)).sum())} logits of {pack.path} are not finite")
    return logits


def load_classifier(run: Path) -> tuple[Encoder, LinearProbe]:
    """Encoder and head of a finished run of `train_supervised`, for `classify`.

    Raises:
        DataError: not such a run, or not finished.
    """
    if not (run / RESULT).is_file():
        raise DataError(f"{run} holds no {RESULT}: it is not a finished supervised run; train it again")
    encoder, _config = load_encoder(run)
    head = load_tensors(run / HEAD)
    return encoder, LinearProbe(weight=head["weight"].numpy(), bias=float(head["bias"]))


class _Trainer:
    """The steps of one run.

    `places` are those of the labelled frames in the pack. With `fixed_norms`, the encoder's batch norms keep the means
    and variances that they have: a pretrained encoder then starts with the very features that its probe was fitted on,
    and small batches cannot blur them.
    """

    def __init__(
        self, model: Classifier, pack: Pack, config: SupervisedConfig, device: torch.device, *, fixed_norms: bool
    ) -> None:
        self.model, self.pack, self.config, self.device = model, pack, config, device
        self.model.train()
        self.model.encoder.train(not fixed_norms)
        # Convolutions are about twice as fast with channels last, on CPU and GPU alike.
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # overload lacks both
        labels = np.asarray(pack.labels)
        self.places = np.flatnonzero(labels >= 0)
        self.labels = torch.from_numpy(labels[self.places].astype(np.float32))
        self.weights = class_weights(labels[self.places])
        self.batch_size = min(config.batch_size, len(self.places))
        self.steps_per_epoch = len(self.places) // self.batch_size
        self.total_steps = self.steps_per_epoch * config.epochs
        self.optimiser = build_optimiser(model, config)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            max_lr=[group["lr"] for group in self.optimiser.param_groups],
            total_steps=self.total_steps + 1,
            pct_start=config.warmup,
            cycle_momentum=False,
        )
        self.small_steps = self.total_steps - math.ceil(self.total_steps * (config.full_size_share or 0.0))
        self.generator = torch.Generator().manual_seed(config.seed)
        self.resident = self._fits_on_device()
        self.step = 0

    @property
    def frames_seen(self) -> int:
        return self.step * self.batch_size

    def train(self) -> list[float]:
        """All epochs; returns the mean loss of each."""
        with track_progress(f"training {self.config.encoder}", total=self.total_steps, unit="steps") as advance:
            return [self._train_epoch(epoch, advance) for epoch in range(self.config.epochs)]

    def _train_epoch(self, epoch: int, advance: Advance) -> float:
        order = epoch_order(len(self.places), seed=self.config.seed, epoch=epoch)
        labels = self.labels[torch.from_numpy(order)].to(self.device)
        total = torch.zeros((), device=self.device)
        with closing(self._batches(epoch)) as batches:
            for frames, known in zip(batches, torch.split(labels, self.batch_size), strict=False):
                total += self._train_step(frames, known)
                advance(1, note=f"epoch {epoch + 1}/{self.config.epochs}")
                if self.step % CHECK_STEPS == 0:
                    self._require_finite(total)
        self._require_finite(total)
        return float(total) / self.steps_per_epoch

    def _train_step(self, frames: Tensor, labels: Tensor) -> Tensor:
        """One optimiser step on uint8 [B, S, S, 3] and float32 [B]; returns the loss, still on the device."""
        size = self.config.view_size if self.step < self.small_steps else None
        spec = ViewSpec(views=(labelled_view(self.config.views, size or self.pack.size),))
        (images,) = make_views(frames, spec, self.generator)
        loss = weighted_loss(self.model(images), labels, self.weights, self.config.label_smoothing)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.optimiser.step()
        self.schedule.step()
        self.step += 1
        return loss.detach()

    def _batches(self, epoch: int) -> Any:
        """The labelled frames in the order of `epoch_order`, read ahead, or gathered on the device."""
        return epoch_batches(
            self.pack,
            batch_size=self.batch_size,
            epoch=epoch,
            seed=self.config.seed,
            device=self.device,
            indices=self.places,
            resident=self.resident,
        )

    def _fits_on_device(self) -> bool:
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return bool(self.pack.frames.nbytes < free * RESIDENT_SHARE)

    def _require_finite(self, total: Tensor) -> None:
        if not math.isfinite(float(total)):
            raise DivergedError(
                f"the loss is {float(total)} at step {self.step} of {self.total_steps} on {self.pack.path}: "
                f"lower the learning rate (its peak is {self.config.learning_rate:.3g})"
            )


def build_optimiser(model: Classifier, config: SupervisedConfig) -> torch.optim.AdamW:
    """AdamW over the encoder at its share of the rate, and the head at the full rate; `config` is resolved."""
    assert config.learning_rate is not None
    assert config.encoder_share is not None
    rates = ((model.encoder, config.learning_rate * config.encoder_share), (model.head, config.learning_rate))
    groups = [group | {"lr": rate} for module, rate in rates for group in parameter_groups(module, config.weight_decay)]
    return torch.optim.AdamW(groups)


def class_weights(labels: NDArray[np.integer]) -> tuple[float, float]:
    """Loss weights of normal and defect: inverse to their frequency in `labels` [N], 1 on average over the frames."""
    defects = int((labels == 1).sum())
    return len(labels) / (2 * (len(labels) - defects)), len(labels) / (2 * defects)


def weighted_loss(logits: Tensor, labels: Tensor, weights: tuple[float, float], smoothing: float) -> Tensor:
    """Inverse-frequency-weighted cross-entropy with smoothed labels.

        mean_i w(y_i) BCE(z_i, y_i (1 - s) + (1 - y_i) s)

    Args:
        logits: z, float32 [B].
        labels: y, float32 [B], 1 or 0.
        weights: w(0) and w(1).
        smoothing: s.
    """
    normal, defect = weights
    targets = labels * (1 - smoothing) + (1 - labels) * smoothing
    return functional.binary_cross_entropy_with_logits(logits, targets, weight=normal + (defect - normal) * labels)


def _check_classes(pack: Pack, purpose: str) -> None:
    defects, normals = int((pack.labels == 1).sum()), int((pack.labels == 0).sum())
    if not defects or not normals:
        raise DataError(f"{pack.path} holds {defects} defect and {normals} normal frames: {purpose} needs some of both")


def _measure(logits: NDArray[np.float64], pack: Pack, config: SupervisedConfig) -> dict[str, Estimate]:
    labelled = np.asarray(pack.labels) >= 0
    return evaluate(
        np.asarray(pack.labels)[labelled],
        logits[labelled],
        # A score of 0.5 is a logit of 0; unlike scores, logits never tie at 0 or 1.
        thresholds={"0.5": 0.0},
        rng=np.random.default_rng(config.seed),
        classes=np.asarray(pack.classes)[labelled],
        inspections=np.asarray(pack.inspections)[labelled],
    )


def _claim(out: Path) -> None:
    """Make sure, before the work, that `out` can take a run; what a killed one left there is removed.

    Raises:
        ConfigError: `out` holds a finished run, or one that is not of this module.
    """
    ours = (out / CONFIG).exists() and read_json(out / CONFIG).get("method") in (FROM_SCRATCH, FINE_TUNED)
    if (out / RESULT).exists() or ((out / CONFIG).exists() and not ours):
        raise ConfigError(f"{out} already holds a run: choose another folder, or delete this one")
    out.mkdir(parents=True, exist_ok=True)
    if ours:
        for name in (ENCODER, HEAD, CONFIG):
            (out / name).unlink(missing_ok=True)


def _write(
    out: Path, model: Classifier, config: SupervisedConfig, initial: Encoder | None, record: dict[str, Any]
) -> None:
    run_config = {
        "method": FROM_SCRATCH if initial is None else FINE_TUNED,
        "image_size": model.encoder.image_size,
        "initial_encoder": None if initial is None else encoder_digest(initial),
        **encode_config(config),
    }
    head = model.linear()
    write_json_atomic(out / CONFIG, run_config)
    save_tensors(out / HEAD, {"weight": torch.from_numpy(head.weight), "bias": head.bias})
    save_encoder(out, model.encoder)
    write_json_atomic(out / RESULT, {"config": run_config, **record})
