"""Small packs in memory, with what training reads of a pack: quick to make, and learnable."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from training.data.classes import CLASS_CODES


@dataclass(kw_only=True)
class ToyPack:
    """Stands in for `training.data.pack.Pack`."""

    frames: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    inspections: np.ndarray
    split: str
    source: str = "simulated: toy"
    path: Path = Path("toy")
    names: tuple[str, ...] = field(init=False)
    size: int = field(init=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        self.size = self.frames.shape[1]
        self.names = tuple(f"{i:05d}.png" for i in range(len(self.frames)))
        self.digest = hashlib.sha256(self.frames.tobytes() + self.labels.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.frames)


def toy_pack(
    split: str, *, n: int = 240, size: int = 64, seed: int = 0, strength: float = 60.0, unlabelled: int = 0
) -> ToyPack:
    """Noisy grey walls, six frames an inspection; about half show a dark stain of `strength` grey levels.

    Stains are RB or RO. The first `unlabelled` frames have label -1.
    """
    rng = np.random.default_rng([seed, *split.encode()])
    inspections = np.arange(n, dtype=np.int32) // 6
    tint = rng.normal(0, 12, size=(n // 6 + 1, 1, 1, 3))[inspections]
    frames = 120 + tint + rng.normal(0, 20, size=(n, size, size, 3))
    labels = (rng.random(n) < 0.5).astype(np.int8)
    classes = np.zeros((n, len(CLASS_CODES)), dtype=np.uint8)
    for i in np.flatnonzero(labels):
        top, left = rng.integers(0, size // 2, size=2)
        frames[i, top : top + size // 2, left : left + size // 3] -= strength
        classes[i, CLASS_CODES.index(rng.choice(["RB", "RO"]))] = 1
    labels[:unlabelled] = -1
    return ToyPack(
        frames=np.clip(frames, 0, 255).astype(np.uint8),
        labels=labels,
        classes=classes,
        inspections=inspections,
        split=split,
    )
