"""How long a retraining will take: each kind of work timed on a little of the real thing.

What is timed: reading pictures of the first video, decoding a few images, and whole training steps of the recipe on
those frames.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.errors import FrameError, VideoError
from serving.frames import decode_bytes
from serving.inspections.video import VideoReader
from training.backbones import build_encoder, seeded_init
from training.config import Precision, PretrainConfig
from training.data.augment import make_views
from training.data.frame_table import UNLABELLED
from training.data.normalise import normalise
from training.methods import METHODS
from training.optim import build_optimizer
from training.precision import fastest_precision, forward_in
from training.retrain.footage import Footage

SAMPLES = 8
SAMPLING_S = 5.0
STEPS = 2
# Default length of training: about so many steps, within these bounds of epochs.
USUAL_STEPS = 3000
FEWEST_EPOCHS, MOST_EPOCHS = 5, 100
# Tracing, quantising and judging the variants, on one core of a current machine.
EXPORT_S = 45.0
# PNG files of video frames, as a share of their raw bytes, at most.
PNG_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of each part, as expected before it starts.

    Attributes:
        frames: of which `video_frames` have to be read from videos first.
        undeclared: videos that do not say how long they are, and count as nothing.
        training_frames: what pretraining will see.
        step_s, precision: of one training step.
        bytes_needed: on the disk.
    """

    frames: int
    video_frames: int
    undeclared: int
    training_frames: int
    batch_size: int
    epochs: int
    step_s: float
    precision: Precision
    extract_s: float
    pack_s: float
    pretrain_s: float
    measure_s: float
    bytes_needed: int

    @property
    def total_s(self) -> float:
        return self.extract_s + self.pack_s + self.pretrain_s + self.measure_s

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def choose_batch(frames: int, batch_size: int) -> int:
    """`batch_size`, or less so that an epoch has at least four batches, but not below 2."""
    return max(2, min(batch_size, frames // 4))


def choose_epochs(frames: int, batch_size: int, *, epochs: int | None, minutes: float | None, step_s: float) -> int:
    """As asked for; else as many as fit into `minutes`; else those that make `USUAL_STEPS`, within bounds."""
    if epochs is not None:
        return epochs
    steps = max(1, frames // batch_size)
    if minutes is not None:
        return max(1, int(minutes * 60 / (step_s * steps)))
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(USUAL_STEPS / steps)))


def estimate(
    footage: Footage,
    labelled_videos: frozenset[str],
    recipe: Callable[[int, Precision], PretrainConfig],
    *,
    every_s: float,
    train_share: float,
    batch_size: int,
    epochs: int | None,
    minutes: float | None,
    device: str,
) -> Estimate:
    """Time a little of everything and multiply.

    Args:
        labelled_videos: names of the videos that have labels, of which some will be held out.
        recipe: the training's config from batch size and precision.
        train_share: of the labelled inspections, those that training sees.
    """
    size = recipe(2, "fp32").image_size
    video_frames = {
        video.name: 1 + int(video.duration_s / every_s) for video in footage.videos if video.duration_s is not None
    }
    sampled, per_video_frame = _time_video(footage, every_s, size)
    decoded, per_image = _time_images(footage, size)
    labelled = sum(video_frames[name] for name in labelled_videos & video_frames.keys())
    labelled += sum(image.label != UNLABELLED for image in footage.images)
    total = sum(video_frames.values()) + len(footage.images)
    training = max(2, round(total - (1 - train_share) * labelled))
    batch = choose_batch(training, batch_size)
    frames = np.resize(np.stack([*sampled, *decoded] or [_noise(size)]), (batch, size, size, 3))
    precision = fastest_precision(device)
    step_s = _time_step(recipe(batch, precision), torch.from_numpy(frames), device)
    epochs = choose_epochs(training, batch, epochs=epochs, minutes=minutes, step_s=step_s)
    per_feature = _time_features(recipe(batch, precision), torch.from_numpy(frames), device)
    return Estimate(
        frames=total,
        video_frames=sum(video_frames.values()),
        undeclared=len(footage.videos) - len(video_frames),
        training_frames=training,
        batch_size=batch,
        epochs=epochs,
        step_s=step_s,
        precision=precision,
        extract_s=sum(video_frames.values()) * per_video_frame,
        # Once for the likeness of images, once into the packs.
        pack_s=2 * len(footage.images) * per_image,
        pretrain_s=epochs * max(1, training // batch) * step_s,
        # Two encoders on all labelled frames, and the default pair on a part of them.
        measure_s=2.5 * labelled * per_feature + EXPORT_S,
        bytes_needed=round((len(footage.images) + (1 + PNG_SHARE) * sum(video_frames.values())) * 3 * size**2),
    )


def _noise(size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _time_video(footage: Footage, every_s: float, size: int) -> tuple[list[NDArray[np.uint8]], float]:
    """Some frames of the first videos that can be read, and seconds a frame."""
    for video in footage.videos[:3]:
        start = time.perf_counter()
        try:
            frames = [sample.frame for sample in _for_a_while(VideoReader(video.path, every_s=every_s, size=size))]
        except VideoError:
            continue
        return frames, (time.perf_counter() - start) / max(1, len(frames))
    return [], 0.0


def _for_a_while(reader: VideoReader) -> Iterator[Any]:
    start = time.perf_counter()
    for sample in islice(reader, SAMPLES):
        yield sample
        if time.perf_counter() - start > SAMPLING_S:
            return


def _time_images(footage: Footage, size: int) -> tuple[list[NDArray[np.uint8]], float]:
    chosen = footage.images[:: max(1, len(footage.images) // SAMPLES)][:SAMPLES]
    start = time.perf_counter()
    frames = []
    for image in chosen:
        try:
            frames.append(decode_bytes(image.place.read(), size))
        except FrameError:
            continue
    return frames, (time.perf_counter() - start) / max(1, len(chosen))


def _time_step(config: PretrainConfig, frames: Tensor, device: str) -> float:
    """Seconds of one training step, after one that warms up."""
    with seeded_init(config.seed):
        method = METHODS[config.method](
            build_encoder(config.encoder, image_size=config.image_size), config.method_config
        )
    method.to(device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload] # torch declares the two apart
    optimizer = build_optimizer(method, config.optim)
    generator = torch.Generator().manual_seed(0)
    frames = frames.to(device)
    method.train()
    start = 0.0
    for step in range(1 + STEPS):
        if step == 1:
            start = _now(device)
        views = make_views(frames, method.views, generator)
        with forward_in(config.precision, device):
            loss = method.loss(views, 0.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # untyped in torch
        optimizer.step()
        method.after_step(0.0)
    return (_now(device) - start) / STEPS


@torch.inference_mode()
def _time_features(config: PretrainConfig, frames: Tensor, device: str) -> float:
    """Seconds of one frame's features."""
    encoder = build_encoder(config.encoder, image_size=config.image_size).eval().to(device)
    images = normalise(frames.to(device))
    start = _now(device)
    encoder(images)
    return (_now(device) - start) / len(frames)


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def in_words(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
