"""Plain folders of images: `defect/`, `normal/` and, for pretraining, `unlabelled/`.

Such folders have no splits and no inspection ids, and often hold the same picture several times. Frames that look
alike (by a perceptual hash) form a group; a group goes into one split whole, so that no near-duplicate of a training
frame is measured on. The group's number serves as inspection id.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.errors import DataError, FrameError
from serving.frames import decode_path
from training.data.classes import CLASS_CODES
from training.data.frame_table import DEFECT, NORMAL, UNLABELLED, FrameTable
from training.data.image_store import FilePlace, ImageStore

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
LABELS = {"defect": DEFECT, "normal": NORMAL, "unlabelled": UNLABELLED}
SPLIT_SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
HASH_SIDE = 8
# Frames whose 64-bit hashes differ in at most this many bits count as near-duplicates.
NEAR_BITS = 5


def is_folder_data_set(root: Path) -> bool:
    """Whether `root` holds at least one of the folders that this module reads."""
    return any((root / name).is_dir() for name in LABELS)


def read_folders(root: Path, split: str, *, seed: int = 0) -> FrameTable:
    """One split of the images under `root`; the split of a group depends on `seed` and its hash alone.

    Raises:
        DataError: no images, an unknown split, or an image that cannot be decoded.
    """
    if split not in SPLIT_SHARES:
        raise DataError(f"no split {split!r}; there are {', '.join(SPLIT_SHARES)}")
    files = [
        (path, label)
        for folder, label in LABELS.items()
        for path in sorted((root / folder).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not files:
        raise DataError(f"{root}: no images in defect/, normal/ or unlabelled/")
    names = [str(path.relative_to(root)) for path, _ in files]
    hashes = np.array([_hash_of(path) for path, _ in files], dtype=np.uint64)
    groups = near_duplicate_groups(hashes)
    splits = _split_of_groups(groups, hashes, seed)
    table = FrameTable(
        source=f"folders ({root.name})",
        split="all",
        names=tuple(names),
        labels=np.array([label for _, label in files], dtype=np.int8),
        classes=np.zeros((len(files), len(CLASS_CODES)), dtype=np.uint8),
        inspections=groups,
        store=ImageStore({name: FilePlace(str(path)) for name, (path, _) in zip(names, files, strict=True)}),
    )
    chosen = np.flatnonzero(splits == list(SPLIT_SHARES).index(split))
    if len(chosen) == 0:
        raise DataError(f"{root}: {len(files)} images are too few, split {split} is empty")
    return replace(table.select(chosen), split=split)


def _hash_of(path: Path) -> int:
    """A 64-bit difference hash; a file that cannot be decoded hashes to its name and is reported when packed."""
    try:
        frame = decode_path(path, HASH_SIDE * 4)
    except FrameError:
        return int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:8], "big")
    return difference_hash(frame)


def difference_hash(frame: NDArray[np.uint8]) -> int:
    """64 bits, one for each of 8 x 8 places: whether it is brighter than the place to its right.

    Args:
        frame: uint8 [32, 32, 3].
    """
    grey = frame.astype(np.float64).mean(axis=2)
    wide = grey.reshape(HASH_SIDE, 4, -1).mean(axis=1)
    columns = np.linspace(0, wide.shape[1], HASH_SIDE + 2).astype(int)
    cells = np.stack([wide[:, a:b].mean(axis=1) for a, b in pairwise(columns)], axis=1)
    bits = (cells[:, :-1] > cells[:, 1:]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_duplicate_groups(hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
    """int32 [N] group numbers: two frames share a group if a chain of near-duplicates joins them."""
    parent = np.arange(len(hashes))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for i in range(len(hashes)):
        distance = np.bitwise_count(hashes[i + 1 :] ^ hashes[i])
        for j in np.flatnonzero(distance <= NEAR_BITS) + i + 1:
            parent[root(int(j))] = root(i)
    roots = np.array([root(i) for i in range(len(hashes))])
    return np.unique(roots, return_inverse=True)[1].astype(np.int32)


def _split_of_groups(groups: NDArray[np.int32], hashes: NDArray[np.uint64], seed: int) -> NDArray[np.int64]:
    """int64 [N] split numbers; a group's split follows from the seed and the smallest hash in it."""
    bounds = np.cumsum(list(SPLIT_SHARES.values()))
    keys = np.array([hashes[groups == g].min() for g in range(int(groups.max()) + 1)])
    draws = [int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:6], "big") / 2**48 for key in keys]
    by_group = np.minimum(np.searchsorted(bounds, draws, side="right"), len(bounds) - 1)
    result: NDArray[np.int64] = by_group[groups]
    return result
