"""The supervised baseline: encoder and linear head trained end to end on labels.

It says what the data allow: a self-supervised encoder is judged against it, and the simulator's difficulty by it.

Shapes: N frames, B frames a step, S pixels a side.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from serving.durable import write_json_atomic
from serving.errors import ConfigError, DataError
from serving.progress import track_progress
from training.backbones import ENCODERS, Encoder, build_encoder, seeded_init
from training.data.augment import Jitter, View, ViewSpec, make_views
from training.data.normalise import normalise
from training.data.pack import Pack
from training.metrics import Estimate, evaluate
from training.optim import parameter_groups
from training.probe import describe_pack
from training.provenance import provenance
from training.runs import CONFIG, save_encoder

RESULT = "supervised.json"


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """Settings of the baseline; the defaults are tuned for some ten epochs on some ten thousand frames.

    Attributes:
        encoder: a key of `ENCODERS`.
        epochs, batch_size: passes over the training frames, and frames a step.
        learning_rate: AdamW's peak; one cycle, cosine up over the share `warmup` of the steps, cosine down to 0.
        weight_decay: on weights alone; biases, norms and position embeddings have none.
        label_smoothing: share of the target moved to the other class.
        crop_scale: least area of a training crop; a defect at the rim must stay in the picture.
        seed: initial weights, order and augmentation.
    """

    encoder: str = "resnet18"
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.15
    label_smoothing: float = 0.05
    crop_scale: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise ConfigError(f"no encoder {self.encoder!r}; there are {', '.join(ENCODERS)}")
        if self.epochs < 1 or self.batch_size < 2:
            raise ConfigError("epochs must be at least 1 and batch_size at least 2")
        if not 0 <= self.label_smoothing < 0.5 or not 0 < self.warmup < 1:
            raise ConfigError("label_smoothing must be in [0, 0.5) and warmup in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class SupervisedResult:
    """How the trained network does on `val`.

    Attributes:
        auroc: its value; `metrics` has the interval, and the metrics of the verdict at score >= 0.5.
        metrics: name -> value with 95 % interval.
        losses: mean training loss of each epoch.
        frames_per_s: training throughput.
    """

    auroc: float
    metrics: dict[str, Estimate]
    losses: list[float]
    frames_per_s: float
    n_train: int
    n_val: int


class _Classifier(nn.Module):
    """Encoder and one logit."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.feature_dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        """float32 [N, 3, S, S], normalised -> logit [N]."""
        logits: Tensor = self.head(self.encoder(images)).squeeze(1)
        return logits


def train_supervised(
    train_pack: Pack,
    val_pack: Pack,
    *,
    encoder: str = "resnet18",
    epochs: int = 10,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
    command: str = "",
) -> SupervisedResult:
    """Train on the labelled frames of one pack and measure on another; `SupervisedConfig` has the rest.

    Args:
        out: run folder, for supervised.json (settings, data, metrics, provenance), config.json and encoder.pt; None
            writes nothing.

    Raises:
        DataError: the packs' sizes differ, or a class is missing.
    """
    config = SupervisedConfig(encoder=encoder, epochs=epochs, batch_size=batch_size, seed=seed)
    if train_pack.size != val_pack.size:
        raise DataError(f"{train_pack.path} is of {train_pack.size} px, {val_pack.path} of {val_pack.size} px")
    labels = np.asarray(train_pack.labels)
    places = np.flatnonzero(labels >= 0)
    weights = _class_weights(labels[places], train_pack.path)
    with seeded_init(config.seed):
        model = _Classifier(build_encoder(encoder, image_size=train_pack.size))
    # Convolutions are about twice as fast with channels last, on CPU and GPU alike.
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # overload lacks both
    started = time.monotonic()
    losses = _fit(model, train_pack, places, weights, config, device)
    elapsed_s = time.monotonic() - started
    metrics, n_val = _measure(model, val_pack, config, device)
    result = SupervisedResult(
        auroc=metrics["auroc"].value,
        metrics=metrics,
        losses=losses,
        frames_per_s=len(places) * epochs / elapsed_s,
        n_train=len(places),
        n_val=n_val,
    )
    if out is not None:
        packs = {"train": describe_pack(train_pack), "val": describe_pack(val_pack)}
        record = {"config": asdict(config), "data": packs, "result": asdict(result), **provenance(command)}
        write_json_atomic(out / RESULT, record)
        # A baseline is a run like any other: its encoder can be probed and exported.
        run_config = {"method": "supervised", "image_size": train_pack.size, **asdict(config)}
        write_json_atomic(out / CONFIG, run_config)
        save_encoder(out, model.encoder)
    return result


def _class_weights(labels: NDArray[np.integer], path: Path) -> tuple[float, float]:
    """Loss weights of normal and defect: inverse to their frequency, 1 on average."""
    defects = int((labels == 1).sum())
    normals = len(labels) - defects
    if not defects or not normals:
        raise DataError(f"{path} holds {defects} defect and {normals} normal frames: training needs some of both")
    return len(labels) / (2 * normals), len(labels) / (2 * defects)


def _fit(
    model: _Classifier,
    pack: Pack,
    places: NDArray[np.int64],
    weights: tuple[float, float],
    config: SupervisedConfig,
    device: str,
) -> list[float]:
    steps = max(1, len(places) // config.batch_size)
    optimiser = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=config.learning_rate,
        total_steps=steps * config.epochs + 1,
        pct_start=config.warmup,
        cycle_momentum=False,
    )
    generator = torch.Generator().manual_seed(config.seed)
    views = _views(pack.size, config)
    losses = []
    model.train()
    with track_progress(f"supervised {config.encoder}", total=steps * config.epochs, unit="steps") as advance:
        for epoch in range(config.epochs):
            order = np.random.default_rng([config.seed, epoch]).permutation(places)
            total = torch.zeros((), device=device)
            for frames, labels in _batches(pack, order, config.batch_size, steps):
                images = make_views(frames.to(device), views, generator)[0]
                loss = _step_loss(model, images, labels.to(device), weights, config)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimiser.step()
                schedule.step()
                total += loss.detach()
                advance(1, note=f"epoch {epoch + 1}/{config.epochs}")
            losses.append(float(total) / steps)
    return losses


def _views(size: int, config: SupervisedConfig) -> ViewSpec:
    """Mild: labels must survive. No vertical flip, since water and settled deposits lie at the bottom."""
    view = View(
        size=size,
        crop_scale=(config.crop_scale, 1.0),
        jitter=Jitter(brightness=0.3, contrast=0.3, saturation=0.2, hue=0.02),
        grey_p=0.0,
        blur_p=0.0,
    )
    return ViewSpec(views=(view,))


def _step_loss(
    model: _Classifier, images: Tensor, labels: Tensor, weights: tuple[float, float], config: SupervisedConfig
) -> Tensor:
    """Inverse-frequency-weighted cross-entropy with smoothed labels; the network in bfloat16, the loss in float32."""
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        logits = model(images)
    normal, defect = weights
    targets = labels * (1 - config.label_smoothing) + (1 - labels) * config.label_smoothing
    return functional.binary_cross_entropy_with_logits(
        logits.float(), targets, weight=normal + (defect - normal) * labels
    )


def _batches(pack: Pack, order: NDArray[np.int64], batch_size: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 [B, S, S, 3], float32 labels [B]); the next batch is read while this one is trained on."""

    def read(step: int) -> tuple[Tensor, Tensor]:
        # Rising places read the map in order; the order inside a batch means nothing.
        chosen = np.sort(order[step * batch_size : (step + 1) * batch_size])
        labels = np.asarray(pack.labels)[chosen].astype(np.float32)
        return torch.from_numpy(np.array(pack.frames[chosen])), torch.from_numpy(labels)

    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(read, 0)
        for step in range(steps):
            batch = coming.result()
            if step + 1 < steps:
                coming = reader.submit(read, step + 1)
            yield batch


def _measure(model: _Classifier, pack: Pack, config: SupervisedConfig, device: str) -> tuple[dict[str, Estimate], int]:
    places = np.flatnonzero(np.asarray(pack.labels) >= 0)
    model.eval()
    logits = []
    with torch.inference_mode(), track_progress("measuring", total=len(places), unit="frames") as advance:
        for start in range(0, len(places), 128):
            chosen = places[start : start + 128]
            frames = torch.from_numpy(np.array(pack.frames[chosen])).to(device)
            images = normalise(frames).contiguous(memory_format=torch.channels_last)
            with torch.autocast(images.device.type, dtype=torch.bfloat16):
                logits.append(model(images).float().cpu())
            advance(len(chosen))
    scores = torch.sigmoid(torch.cat(logits).double()).numpy()
    metrics = evaluate(
        np.asarray(pack.labels)[places],
        scores,
        thresholds={"0.5": 0.5},
        rng=np.random.default_rng(config.seed),
        classes=np.asarray(pack.classes)[places],
        inspections=np.asarray(pack.inspections)[places],
    )
    return metrics, len(places)
