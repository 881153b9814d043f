"""Plain folders of images: ROOT/defect/, ROOT/normal/ and ROOT/unlabelled/, any of them, with folders below.

Such sets come without splits. They are split by groups of frames that belong together: near-duplicates, mirrored
and turned ones included, and the frames of one inspection where ROOT/inspections.csv (Filename, Inspection; the
file name from ROOT on) says which those are. Without that file, frames of one inspection that do not look alike may
lie on both sides of a split.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.devices import available_cores
from serving.errors import ConfigError, DataError
from serving.frames import SUFFIXES
from serving.progress import track_progress
from training.data.classes import CLASS_CODES
from training.data.frame_table import DEFECT, NORMAL, UNLABELLED, FrameTable
from training.data.image_store import FilePlace, ImageStore
from training.data.near_duplicates import ORIENTATIONS, Groups, hash_image, near_pairs
from training.data.sewer_ml import INSPECTIONS_CSV, read_inspections

FOLDERS: dict[str, int] = {"defect": DEFECT, "normal": NORMAL, "unlabelled": UNLABELLED}
PARTS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class FolderSplit:
    """How to split plain folders: shares of train, val and test, and the seed that chooses who goes where."""

    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.shares) != len(PARTS) or min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ConfigError(f"shares of train, val and test must be three numbers that add up to 1: {self.shares}")
        if self.seed < 0:
            raise ConfigError(f"the split seed must not be negative, got {self.seed}")

    @classmethod
    def from_text(cls, per_cent: str, *, seed: int) -> FolderSplit:
        """From "70,15,15"."""
        try:
            train, val, test = (float(part) / 100 for part in per_cent.split(","))
        except ValueError as error:
            raise ConfigError(f"shares are three numbers in per cent, such as 70,15,15; got {per_cent!r}") from error
        return cls(shares=(train, val, test), seed=seed)


DEFAULT_SPLIT = FolderSplit()


def read_folders(root: Path, *, split: str = "all", how: FolderSplit = DEFAULT_SPLIT) -> FrameTable:
    """Read a folder data set, or one part of it; `inspections` numbers the groups that stay together.

    Args:
        root: holds the folders.
        split: train, val, test, or all.
        how: shares and seed; the same for all parts of a set, or they overlap.

    Raises:
        DataError: there are no images, none fall to the part, or one cannot be read.
    """
    if split not in (*PARTS, "all"):
        raise ConfigError(f"plain folders have the parts {', '.join(PARTS)} and all, not {split!r}")
    names, labels, ignored = _list_images(root)
    store = ImageStore({name: FilePlace(str(root / name)) for name in names})
    groups, near = _group(root, names, store)
    table = FrameTable(
        source=f"folders {root.resolve().name}",
        split=split,
        names=names,
        labels=labels,
        classes=np.zeros((len(names), len(CLASS_CODES)), np.uint8),
        inspections=groups,
        store=store,
        notes=_notes(groups, labels, near, ignored),
    )
    if split == "all":
        return table
    chosen = np.flatnonzero(assign_parts(groups, labels, how) == PARTS.index(split))
    if len(chosen) == 0:
        raise DataError(
            f"{root}: no frame of {len(names)} falls to {split} with shares {how.shares}: change the shares"
        )
    shares = "/".join(f"{share:.0%}" for share in how.shares)
    note = f"{split}: {len(chosen)} of {len(names)} frames, by whole groups, shares {shares}, split seed {how.seed}"
    return replace(table.select(chosen.astype(np.int64)), notes=(*table.notes, note))


def assign_parts(groups: NDArray[np.int32], labels: NDArray[np.int8], how: FolderSplit) -> NDArray[np.int8]:
    """Give each frame a part, int8 [N]: 0 train, 1 val, 2 test; whole groups only, and each label by its shares.

    Groups without any labelled frame go to train: nothing can be measured on them.
    """
    parts = np.zeros(len(groups), np.int8)
    counts = np.zeros((int(groups.max()) + 1, 3), np.int64)
    np.add.at(counts, (groups, labels + 1), 1)
    for label in (NORMAL, DEFECT):
        # Mixed groups count as the label that they hold most of, defect on a tie.
        mine = counts[:, 2] >= np.maximum(counts[:, 1], 1) if label == DEFECT else counts[:, 1] > counts[:, 2]
        members = np.flatnonzero(mine)
        sizes = counts[members, 1:].sum(axis=1)
        order = np.random.default_rng((how.seed, label)).permutation(len(members))
        # Large groups first: what they overshoot, the small ones even out.
        order = order[np.argsort(-sizes[order], kind="stable")]
        wanted = np.array(how.shares) * sizes.sum()
        given = np.zeros(len(PARTS))
        chosen = np.zeros(len(counts), np.int8)
        for i in order.tolist():
            part = int(np.argmax(wanted - given))
            given[part] += sizes[i]
            chosen[members[i]] = part
        of_label = mine[groups]
        parts[of_label] = chosen[groups[of_label]]
    return parts


def _list_images(root: Path) -> tuple[tuple[str, ...], NDArray[np.int8], int]:
    """Names from `root` on, sorted; labels; how many other files lie among them."""
    found: list[tuple[str, int]] = []
    ignored = 0
    for folder, label in FOLDERS.items():
        for path in sorted((root / folder).rglob("*")) if (root / folder).is_dir() else []:
            if path.suffix.lower() in SUFFIXES and path.is_file():
                found.append((path.relative_to(root).as_posix(), label))
            else:
                ignored += path.is_file()
    if not found:
        raise DataError(
            f"{root} has no images in {', '.join(f'{name}/' for name in FOLDERS)} "
            f"(looked for {', '.join(sorted(SUFFIXES))}, also in the folders below)"
        )
    names, labels = zip(*found, strict=True)
    return names, np.array(labels, np.int8), ignored


def _group(root: Path, names: tuple[str, ...], store: ImageStore) -> tuple[NDArray[np.int32], int]:
    """Groups, int32 [N], and how many frames have a near-duplicate."""
    rows, hashes = _hash_all(names, store)
    groups = Groups(len(names))
    near: set[int] = set()
    for i, j in near_pairs(hashes):
        groups.join(rows[i], rows[j])
        near |= {i, j}
    inspections = read_inspections(root / INSPECTIONS_CSV, names)
    first: dict[int, int] = {}
    for row, inspection in enumerate(inspections.tolist()):
        if inspection >= 0:
            groups.join(first.setdefault(inspection, row), row)
    return groups.numbers(), len(near)


def _hash_all(names: tuple[str, ...], store: ImageStore) -> tuple[list[int], NDArray[np.uint64]]:
    """Rows of the decodable images, and their hashes, uint64 [n, 8]."""
    rows: list[int] = []
    hashes: list[NDArray[np.uint64]] = []
    # Threads will do: Pillow decodes without the interpreter lock.
    with (
        track_progress("finding near-duplicates", total=len(names), unit="frames") as advance,
        ThreadPoolExecutor(available_cores(), thread_name_prefix="hash") as pool,
    ):
        for row, hashed in enumerate(pool.map(lambda name: hash_image(store.read(name)), names)):
            if hashed is not None:
                rows.append(row)
                hashes.append(hashed)
            advance()
    return rows, np.array(hashes, np.uint64).reshape(len(rows), ORIENTATIONS)


def _notes(groups: NDArray[np.int32], labels: NDArray[np.int8], near: int, ignored: int) -> tuple[str, ...]:
    sizes = np.bincount(groups)
    notes = [
        f"the whole set: {len(groups)} frames in {len(sizes)} groups that stay together, the largest of "
        f"{sizes.max()} frames; {near} frames have a near-duplicate"
    ]
    defect = np.bincount(groups[labels == DEFECT], minlength=len(sizes))
    normal = np.bincount(groups[labels == NORMAL], minlength=len(sizes))
    if mixed := int(np.count_nonzero((defect > 0) & (normal > 0))):
        notes.append(f"{mixed} groups hold both defect and normal frames: look at them, some labels may be wrong")
    if ignored:
        notes.append(f"{ignored} files were ignored, since their names do not end as those of images do")
    return tuple(notes)
