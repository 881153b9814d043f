"""What lies in the footage folders: videos, images, Sewer-ML sets, and what they say of inspections.

A folder is searched with all below it. Videos are known by their ending and each is one inspection. Images under a
folder called `defect` or `normal` (the innermost counts) are labelled so; the others are unlabelled. A folder that
holds Sewer-ML's annotation files gives the images that those name. FOLDER/inspections.csv (Filename, Inspection;
names from FOLDER on, of images and of videos) says which of them belong to one inspection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.durable import sha256_file
from serving.errors import ConfigError, DataError, VideoError
from serving.frames import SUFFIXES
from serving.inspections.video import VIDEO_SUFFIXES, open_video
from training.data.classes import CLASS_CODES, CSV_NAMES
from training.data.frame_table import UNLABELLED
from training.data.image_store import FilePlace, ImageStore, Place
from training.data.sewer_ml import INSPECTIONS_CSV, read_inspections, read_sewer_ml
from training.retrain.labels import LABELS

NO_CLASSES = (0,) * len(CLASS_CODES)


@dataclass(frozen=True, kw_only=True)
class Video:
    """A readable video; `duration_s` is None where the file does not declare one."""

    name: str
    path: Path
    n_bytes: int
    duration_s: float | None


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image file, not opened yet.

    Attributes:
        label: 1 defect, 0 normal, -1 unlabelled: what its folder or the annotation file says.
        official: the split that a Sewer-ML set without inspections puts it in, `train` or `val`; else None.
    """

    name: str
    place: Place
    label: int
    classes: tuple[int, ...] = NO_CLASSES
    official: str | None = None


@dataclass(frozen=True, kw_only=True)
class Broken:
    """Something that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Footage:
    """All that was found.

    Attributes:
        source: what the data are, in words.
        inspection_of: the inspection that inspections.csv names, by image or video name.
        digest: changes when a file comes, goes or changes its size, or an annotation file changes.
        notes: what the user should know.
    """

    source: str
    videos: tuple[Video, ...]
    images: tuple[Image, ...]
    broken: tuple[Broken, ...]
    inspection_of: dict[str, str]
    digest: str
    notes: tuple[str, ...] = ()

    def store(self) -> ImageStore:
        """The images by name."""
        return ImageStore({image.name: image.place for image in self.images})


def find_footage(paths: Sequence[Path], *, leave_out: Path | None = None) -> Footage:
    """Look through folders (or single videos).

    Args:
        paths: what to search; with several folders, names begin with the folder's.
        leave_out: a folder in which nothing counts, such as the one that results are written to.

    Raises:
        ConfigError: a path is missing, or two folders share a name.
        DataError: there is nothing, or annotations contradict themselves.
    """
    roots = [path.resolve() for path in paths]
    for given, root in zip(paths, roots, strict=True):
        if not root.exists():
            raise ConfigError(f"--footage {given}: no such file or folder")
    if len({root.name for root in roots}) < len(roots):
        raise ConfigError("two footage folders have the same name, which frames could not be told apart by: rename one")
    scan = _Scan()
    for root in roots:
        prefix = f"{root.name}/" if len(roots) > 1 else ""
        scan.add(root, prefix, leave_out.resolve() if leave_out else None)
    if not scan.videos and not scan.images:
        raise DataError(_nothing_there(paths, scan))
    return Footage(
        source=scan.source(),
        videos=tuple(scan.videos),
        images=tuple(scan.images),
        broken=tuple(scan.broken),
        inspection_of=scan.inspection_of,
        digest=hashlib.sha256(json.dumps(scan.seen).encode()).hexdigest(),
        notes=tuple(scan.notes),
    )


def _nothing_there(paths: Sequence[Path], scan: _Scan) -> str:
    named = ", ".join(map(str, paths))
    if scan.broken:
        first = scan.broken[0]
        return f"{named}: none of its {len(scan.broken)} videos can be read; the first: {first.reason}"
    return (
        f"{named} holds neither videos ({', '.join(sorted(VIDEO_SUFFIXES))}) nor images "
        f"({', '.join(sorted(SUFFIXES))}), also in the folders below"
    )


@dataclass(kw_only=True)
class _Scan:
    """What has been found so far."""

    videos: list[Video] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    inspection_of: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    real: list[str] = field(default_factory=list)
    simulated: list[str] = field(default_factory=list)

    def source(self) -> str:
        """Real footage first: what begins with `simulated` counts as nothing but that."""
        return ", ".join(dict.fromkeys(self.real + self.simulated))

    def add(self, root: Path, prefix: str, leave_out: Path | None) -> None:
        files = [root] if root.is_file() else list(_files_below(root, leave_out))
        folder = root.parent if root.is_file() else root
        names = {path: prefix + path.relative_to(folder).as_posix() for path in files}
        self.seen += [(names[path], str(path.stat().st_size)) for path in files]
        videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES or path == root]
        self._add_videos(videos, names, folder)
        if any((folder / name).is_file() for name in CSV_NAMES.values()):
            self._add_sewer_ml(folder, prefix)
        else:
            images = [path for path in files if path.suffix.lower() in SUFFIXES and path != root]
            self._add_images(images, names, folder)
            self._add_inspections(folder, prefix, videos + images)

    def _add_videos(self, paths: list[Path], names: dict[Path, str], folder: Path) -> None:
        copies = _copies(paths)
        for path in paths:
            if path in copies:
                reason = f"is the same file as {names[copies[path]]}"
                self.broken.append(Broken(name=names[path], reason=reason))
                continue
            try:
                info = open_video(path)
            except VideoError as error:
                self.broken.append(Broken(name=names[path], reason=str(error)))
                continue
            n_bytes = path.stat().st_size
            self.videos.append(Video(name=names[path], path=path, n_bytes=n_bytes, duration_s=info.duration_s))
            # The simulator leaves the truth beside its videos.
            simulated = path.with_suffix(".truth.json").is_file()
            (self.simulated if simulated else self.real).append(_source(folder, simulated))

    def _add_images(self, paths: list[Path], names: dict[Path, str], folder: Path) -> None:
        for path in paths:
            label = _label_of(path.relative_to(folder).parts[:-1])
            self.images.append(Image(name=names[path], place=FilePlace(str(path)), label=label))
            self.real.append(_source(folder, simulated=False))

    def _add_inspections(self, folder: Path, prefix: str, paths: list[Path]) -> None:
        path = folder / INSPECTIONS_CSV
        if not path.is_file() or not paths:
            return
        self.seen.append((f"{prefix}{INSPECTIONS_CSV}", sha256_file(path)))
        names = [each.relative_to(folder).as_posix() for each in paths]
        for name, number in zip(names, read_inspections(path, names).tolist(), strict=True):
            if number >= 0:
                self.inspection_of[prefix + name] = f"{prefix}{INSPECTIONS_CSV} {number}"

    def _add_sewer_ml(self, folder: Path, prefix: str) -> None:
        declared = (folder / INSPECTIONS_CSV).is_file()
        for split, csv_name in CSV_NAMES.items():
            # The published test file has no labels, and its frames are for others to measure on.
            if split == "test" or not (folder / csv_name).is_file():
                continue
            self.seen.append((prefix + csv_name, sha256_file(folder / csv_name)))
            table = read_sewer_ml(folder, split)
            simulated = table.source.startswith("simulat")
            (self.simulated if simulated else self.real).append(table.source)
            for row, base in enumerate(table.names):
                name = f"{prefix}{split}/{base}"
                place = _Renamed(table.store.part([base]), base)
                self.images.append(
                    Image(
                        name=name,
                        place=place,
                        label=int(table.labels[row]),
                        classes=tuple(table.classes[row].tolist()),
                        official=None if declared else split,
                    )
                )
                if table.inspections[row] >= 0:
                    self.inspection_of[name] = f"{prefix}{split} {table.inspections[row]}"


@dataclass(frozen=True)
class _Renamed:
    """An image of another store, under a name of its own."""

    store: ImageStore
    name: str

    def read(self) -> bytes:
        return self.store.read(self.name)


def _source(folder: Path, simulated: bool) -> str:
    return f"simulated inspections {folder.name}" if simulated else f"footage {folder.name}"


def _files_below(root: Path, leave_out: Path | None) -> Iterator[Path]:
    """All files, sorted; hidden ones, and what lies in hidden folders or in `leave_out`, are not there."""
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or path == leave_out:
            continue
        if path.is_dir():
            yield from _files_below(path, leave_out)
        elif path.is_file() and path.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES:
            yield path


def _label_of(folders: Sequence[str]) -> int:
    known = [LABELS[folder.lower()] for folder in folders if folder.lower() in LABELS]
    return known[-1] if known else UNLABELLED


def _copies(paths: Iterable[Path]) -> dict[Path, Path]:
    """Files that repeat an earlier one byte by byte -> that one: a copy would carry one pipe to both sides."""
    by_size: dict[int, list[Path]] = {}
    for path in paths:
        by_size.setdefault(path.stat().st_size, []).append(path)
    copies: dict[Path, Path] = {}
    for same in by_size.values():
        first: dict[str, Path] = {}
        for path in same if len(same) > 1 else []:
            digest = sha256_file(path)
            if digest in first:
                copies[path] = first[digest]
            first.setdefault(digest, path)
    return copies
