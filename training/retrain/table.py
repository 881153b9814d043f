"""Frames, labels and inspections together, as one table.

A video is one inspection. Images belong together where inspections.csv or the labels file says so, and where they
are near-duplicates of each other (`training.data.near_duplicates`), since a copy on the other side of a split would
be measured as if it were new.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.devices import available_cores
from serving.errors import DataError
from serving.progress import track_progress
from training.data.frame_table import UNLABELLED, FrameTable
from training.data.image_store import FilePlace, ImageStore, Place
from training.data.near_duplicates import ORIENTATIONS, Groups, hash_image, near_pairs
from training.retrain.extract import Extracted
from training.retrain.footage import NO_CLASSES, Footage
from training.retrain.labels import LABELS, Label

# All pairs are compared: beyond this, hours. Each image then counts as an inspection of its own.
MOST_COMPARED = 100_000
_NAMED_AT_MOST = 5
_LABEL_NAMES = {value: name for name, value in LABELS.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """All usable frames.

    Attributes:
        table: names, labels, and the inspection that each belongs to (never -1).
        official: the part that a Sewer-ML set fixes, int8 [N]: 0 train, 1 val, -1 free.
        inspection_names: what to call inspection i.
        lost_labels: labels that no frame could be given, each with the reason.
    """

    table: FrameTable
    official: NDArray[np.int8]
    inspection_names: tuple[str, ...]
    lost_labels: tuple[str, ...]


def resolve_labels(footage: Footage, labels: Sequence[Label]) -> dict[str, list[Label]]:
    """Labels by the full name of the image or video that they are about.

    A name is the path below the footage folder, or the bare file name where that is unique. Broken videos may be named.

    Raises:
        DataError: names that are not there, or ambiguous.
    """
    videos = [video.name for video in footage.videos] + [broken.name for broken in footage.broken]
    images = [image.name for image in footage.images]
    places = {True: _Names("video", videos), False: _Names("image", images)}
    missing: list[str] = []
    found: dict[str, list[Label]] = {}
    for label in labels:
        names = places[label.is_video].matching(label)
        if names:
            found.setdefault(names, []).append(label)
        else:
            missing.append(f"{label.place}: {label.name}{places[label.is_video].similar(label.name)}")
    if missing:
        raise DataError(
            f"{len(missing)} of {len(labels)} labels name files that are not in the footage:\n"
            + _listed(missing)
            + "\nCorrect the names (paths from the footage folder on, or file names), or take the rows out"
        )
    return found


class _Names:
    """Full names, and bare file names where they are unique."""

    def __init__(self, kind: str, names: Iterable[str]) -> None:
        self._kind = kind
        self._full = set(names)
        self._by_base: dict[str, list[str]] = {}
        for name in sorted(self._full):
            self._by_base.setdefault(name.rpartition("/")[2], []).append(name)

    def matching(self, label: Label) -> str:
        """The full name, or "" if there is none."""
        if label.name in self._full:
            return label.name
        matches = [] if "/" in label.name else self._by_base.get(label.name, [])
        if len(matches) > 1:
            raise DataError(
                f"{label.place}: {label.name} may be {' or '.join(matches[:3])}: write the path of the "
                f"{self._kind} from the footage folder on"
            )
        return matches[0] if matches else ""

    def similar(self, name: str) -> str:
        close = difflib.get_close_matches(name.rpartition("/")[2], list(self._by_base)[:20_000], n=1)
        return f" (is it {close[0]}?)" if close else f" (no {self._kind} of that name)"


def count_labelled_inspections(footage: Footage, labels: Mapping[str, Sequence[Label]]) -> dict[str, int]:
    """How many videos and images have a label of each kind, by `defect` and `normal`, before anything is decoded.

    An upper bound of the inspections that do: several files may be of one.
    """
    broken = {each.name for each in footage.broken}
    kinds = {name: {label.label for label in rows} for name, rows in labels.items() if name not in broken}
    for image in footage.images:
        if image.label != UNLABELLED:
            kinds.setdefault(image.name, set()).add(image.label)
    return {name: sum(value in each for each in kinds.values()) for name, value in LABELS.items()}


def assemble(
    footage: Footage,
    extracted: Sequence[Extracted],
    labels: Mapping[str, Sequence[Label]],
    alike: Sequence[tuple[str, str]],
    *,
    every_s: float,
) -> Frames:
    """Put everything together; `alike` are pairs of images that are near-duplicates.

    Raises:
        DataError: labels contradict each other, or the folder that an image lies in.
    """
    rows = _Rows()
    inspections: dict[str, str] = {}
    for video in extracted:
        rows.add_video(video, labels.get(video.video, ()), every_s)
        _declare(inspections, video.video, footage, labels)
    for image in footage.images:
        mine = labels.get(image.name, ())
        label = _one_label(image.name, [(each.place, each.label) for each in mine], image.label)
        classes = next((each.classes for each in mine if each.classes), image.classes)
        official = {None: -1, "train": 0, "val": 1}[image.official]
        rows.add(image.name, image.place, label, classes, unit=image.name, official=official)
        _declare(inspections, image.name, footage, labels)
    for broken in footage.broken:
        rows.lost += [f"{label.place}: {broken.name} cannot be read" for label in labels.get(broken.name, ())]
    units, names = _number_inspections(rows, inspections, alike)
    table = FrameTable(
        source=footage.source,
        split="all",
        names=tuple(rows.names),
        labels=np.array(rows.labels, np.int8),
        classes=np.array(rows.classes, np.uint8).reshape(len(rows.names), len(NO_CLASSES)),
        inspections=units,
        store=ImageStore(rows.places),
    )
    return Frames(
        table=table,
        official=np.array(rows.official, np.int8),
        inspection_names=names,
        lost_labels=tuple(rows.lost),
    )


def _declare(inspections: dict[str, str], name: str, footage: Footage, labels: Mapping[str, Sequence[Label]]) -> None:
    """Note what inspections.csv, or else the labels file, says about which inspection `name` belongs to."""
    said = {label.inspection: label for label in labels.get(name, ()) if label.inspection is not None}
    if len(said) > 1:
        (one, first), (other, second) = list(said.items())[:2]
        raise DataError(f"{first.place} puts {name} into inspection {one!r}, {second.place} into {other!r}: mend one")
    if name in footage.inspection_of:
        inspections[name] = footage.inspection_of[name]
    elif said:
        inspections[name] = f"labels {next(iter(said))}"


class _Rows:
    """The table's columns as they grow; `units` holds the file that each frame comes from."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.labels: list[int] = []
        self.classes: list[tuple[int, ...]] = []
        self.units: list[str] = []
        self.official: list[int] = []
        self.places: dict[str, Place] = {}
        self.lost: list[str] = []

    def add(
        self, name: str, place: Place, label: int, classes: tuple[int, ...], *, unit: str, official: int = -1
    ) -> None:
        self.names.append(name)
        self.labels.append(label)
        self.classes.append(classes)
        self.units.append(unit)
        self.official.append(official)
        self.places[name] = place

    def add_video(self, video: Extracted, labels: Sequence[Label], every_s: float) -> None:
        times_s = np.array(video.times_s)
        said: dict[int, list[tuple[str, int]]] = {}
        for label in labels:
            rows = _frames_of(label, times_s, every_s)
            if not len(rows):
                self.lost.append(
                    f"{label.place}: {video.video} has no readable picture there; its last is at {times_s[-1]:.1f} s"
                )
            for row in rows.tolist():
                said.setdefault(row, []).append((label.place, label.label))
        for row, (name, file) in enumerate(zip(video.names(), video.files, strict=True)):
            value = _one_label(name, said.get(row, []), UNLABELLED)
            self.add(name, FilePlace(str(video.folder / file)), value, NO_CLASSES, unit=video.video)


def _frames_of(label: Label, times_s: NDArray[np.float64], every_s: float) -> NDArray[np.int64]:
    """Rows of the frames that a label is about: those in its interval, or the nearest one, at most a step away."""
    assert label.from_s is not None
    assert label.to_s is not None
    inside = np.flatnonzero((times_s >= label.from_s) & (times_s < label.to_s))
    if len(inside):
        return inside
    distance = np.abs(times_s - (label.from_s + label.to_s) / 2)
    nearest = np.argmin(distance)
    return np.array([nearest] if distance[nearest] <= every_s else [], np.int64)


def _one_label(name: str, said: Sequence[tuple[str, int]], by_folder: int) -> int:
    values = {value: place for place, value in reversed(said)}
    if by_folder != UNLABELLED:
        values.setdefault(by_folder, "the folder or annotation file that it lies in")
    if len(values) > 1:
        both = " and ".join(f"{_LABEL_NAMES[value]} by {place}" for value, place in sorted(values.items()))
        raise DataError(
            f"{name} is {both}: correct one of them; if two instants of a video fell on one frame, extract more of "
            "them (--every)"
        )
    return next(iter(values), UNLABELLED)


def _number_inspections(
    rows: _Rows, inspections: Mapping[str, str], alike: Sequence[tuple[str, str]]
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """An inspection for each frame, int32 [N], and the name of each: that of its first file."""
    units = list(dict.fromkeys(rows.units))
    place = {unit: number for number, unit in enumerate(units)}
    groups = Groups(len(units))
    first: dict[str, int] = {}
    for unit, inspection in inspections.items():
        groups.join(first.setdefault(inspection, place[unit]), place[unit])
    for one, other in alike:
        groups.join(place[one], place[other])
    numbers = groups.numbers()
    names = {int(number): unit for unit, number in reversed(list(zip(units, numbers, strict=True)))}
    of_frame = np.array([numbers[place[unit]] for unit in rows.units], np.int32)
    return of_frame, tuple(names[number] for number in range(len(names)))


def near_duplicates(names: Sequence[str], store: ImageStore) -> list[tuple[str, str]]:
    """Pairs of images that show the same; none beyond `MOST_COMPARED` images, where looking would take hours."""
    if len(names) > MOST_COMPARED:
        return []
    kept: list[str] = []
    hashes: list[NDArray[np.uint64]] = []
    # Threads will do: Pillow decodes without the interpreter lock.
    with (
        track_progress("finding near-duplicates", total=len(names), unit="frames") as advance,
        ThreadPoolExecutor(available_cores(), thread_name_prefix="hash") as pool,
    ):
        for name, hashed in zip(names, pool.map(lambda name: hash_image(store.read(name)), names), strict=True):
            if hashed is not None:
                kept.append(name)
                hashes.append(hashed)
            advance()
    pairs = near_pairs(np.array(hashes, np.uint64).reshape(len(kept), ORIENTATIONS))
    return [(kept[i], kept[j]) for i, j in pairs]


def _listed(lines: Sequence[str]) -> str:
    shown = [f"  {line}" for line in lines[:_NAMED_AT_MOST]]
    return "\n".join(shown + ([f"  and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []))
