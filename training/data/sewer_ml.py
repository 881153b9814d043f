"""Sewer-ML as published (Haurum and Moeslund, CVPR 2021), and what the simulator writes in the same format.

    ROOT/SewerML_Train.csv, SewerML_Val.csv, SewerML_Test.csv    annotations; the test file may hold names alone
    ROOT/train/, valid/, test/                                   images, or
    ROOT/train00.zip ... train13.zip, valid00.zip ...            the published archives, read without unpacking
    ROOT/inspections.csv                                         optional: Filename, Inspection

Sewer-ML itself says nothing about which frames come from the same inspection.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving.errors import DataError
from training.data.classes import CLASS_CODES, CSV_NAMES, IMAGE_FOLDERS
from training.data.frame_table import NO_INSPECTION, UNLABELLED, FrameTable
from training.data.image_store import ImageStore, find_images

INSPECTIONS_CSV = "inspections.csv"
SIMULATION_JSON = "simulation.json"
SEWER_ML = "Sewer-ML"

_NAMED_AT_MOST = 5


class MissingColumnError(DataError):
    """An annotation file lacks a column."""


class AnnotationError(DataError):
    """A row of an annotation file is malformed or contradicts itself."""


class DuplicateFrameError(DataError):
    """A frame is annotated twice."""


class UnknownFileError(DataError):
    """Frames are annotated whose images are nowhere."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """The rows of one annotation file: names, labels int8 [N] (-1 without labels), classes uint8 [N, 17]."""

    path: Path
    names: tuple[str, ...]
    labels: NDArray[np.int8]
    classes: NDArray[np.uint8]


def read_sewer_ml(root: Path, split: str) -> FrameTable:
    """Read one official split, train, val or test: the annotations, and where each image lies.

    Raises:
        DataError: a file is missing, malformed or contradicts itself, or images are missing or there twice.
    """
    if split not in CSV_NAMES:
        raise DataError(f"{root}: Sewer-ML has the splits {', '.join(CSV_NAMES)}, not {split!r}")
    annotations = read_annotations(root / CSV_NAMES[split], labels="optional" if split == "test" else "required")
    return FrameTable(
        source=_source(root),
        split=split,
        names=annotations.names,
        labels=annotations.labels,
        classes=annotations.classes,
        inspections=read_inspections(root / INSPECTIONS_CSV, annotations.names, folder=IMAGE_FOLDERS[split]),
        store=_find_split(root, split, annotations),
    )


def read_annotations(path: Path, *, labels: Literal["required", "optional"] = "required") -> Annotations:
    """Read an annotation file by column name; its images need not be there.

    Args:
        path: the CSV.
        labels: "optional" also takes a file with neither `Defect` nor any class column.

    Raises:
        MissingColumnError, AnnotationError, DuplicateFrameError: each names the file, and the row where there is one.
    """
    with _open_rows(path) as (header, rows):
        label_columns = (*CLASS_CODES, "Defect")
        labelled = labels == "required" or any(column in header for column in label_columns)
        wanted = ("Filename", *label_columns) if labelled else ("Filename",)
        columns = _column_numbers(path, header, wanted)
        names: list[str] = []
        codes: list[bytes] = []
        decode = _LabelDecoder(path)
        pick: Callable[[list[str]], Any] = itemgetter(*columns[1:]) if labelled else lambda row: ()
        seen: dict[str, int] = {}
        for line, row in rows:
            name = _checked_name(path, line, row[columns[0]])
            if seen.setdefault(name, line) != line:
                raise DuplicateFrameError(f"{path}, line {line}: {name} is already in line {seen[name]}; remove one")
            names.append(name)
            if labelled:
                codes.append(decode(line, pick(row)))
    if not names:
        raise AnnotationError(f"{path} has a header but no rows")
    if not labelled:
        unlabelled = np.full(len(names), UNLABELLED, np.int8)
        classes = np.zeros((len(names), len(CLASS_CODES)), np.uint8)
        return Annotations(path=path, names=tuple(names), labels=unlabelled, classes=classes)
    table = np.frombuffer(b"".join(codes), np.uint8).reshape(len(names), len(CLASS_CODES) + 1)
    return Annotations(path=path, names=tuple(names), labels=table[:, -1].astype(np.int8), classes=table[:, :-1].copy())


def read_inspections(path: Path, names: Sequence[str], *, folder: str = "") -> NDArray[np.int32]:
    """Number the inspections of `names`, int32 [N], in order of appearance; -1 for frames that the file omits.

    A file that does not exist omits them all. Inspections are told apart by any text. The file may call a frame
    `NAME` or, where the splits share names, `folder/NAME`.

    Raises:
        MissingColumnError, AnnotationError, DuplicateFrameError: the file is malformed, or about other frames.
    """
    if not path.is_file():
        return np.full(len(names), NO_INSPECTION, np.int32)
    given: dict[str, str] = {}
    with _open_rows(path) as (header, rows):
        name_column, inspection_column = _column_numbers(path, header, ("Filename", "Inspection"))
        for line, row in rows:
            if row[name_column] in given:
                raise DuplicateFrameError(f"{path}, line {line}: {row[name_column]} is there twice; remove one")
            given[row[name_column]] = row[inspection_column]
    numbers: dict[str | None, int] = {None: NO_INSPECTION}
    inspections = np.empty(len(names), np.int32)
    for i, name in enumerate(names):
        inspection = given.get(f"{folder}/{name}", given.get(name))
        inspections[i] = numbers.setdefault(inspection, len(numbers) - 1)
    if len(numbers) == 1:
        raise AnnotationError(f"{path} knows none of the frames, the first of which is {names[0]}; mend or remove it")
    return inspections


class _LabelDecoder:
    """Turns the texts of the 17 class columns and `Defect` into 18 bytes, each distinct row checked once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, ...], bytes] = {}

    def __call__(self, line: int, texts: tuple[str, ...]) -> bytes:
        code = self._known.get(texts)
        if code is None:
            code = self._known[texts] = self._checked(line, texts)
        return code

    def _checked(self, line: int, texts: tuple[str, ...]) -> bytes:
        place = f"{self._path}, line {line}"
        for column, text in zip((*CLASS_CODES, "Defect"), texts, strict=True):
            if text not in ("0", "1"):
                raise AnnotationError(f"{place}: {column} is {text!r}; it must be 0 or 1")
        code = bytes(map(int, texts))
        shown = [name for name, value in zip(CLASS_CODES, code, strict=False) if value]
        if bool(shown) != bool(code[-1]):
            classes = ", ".join(shown) if shown else "no class"
            raise AnnotationError(
                f"{place}: Defect is {code[-1]} but {classes} is marked; Defect must be 1 exactly where one of "
                f"{CLASS_CODES[0]} to {CLASS_CODES[-1]} is"
            )
        return code


@contextmanager
def _open_rows(path: Path) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
    """Header, and (line number, row) of each row that is not blank; errors name the file and the line."""
    try:
        # utf-8-sig: spreadsheet programs put a byte order mark in front of the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])

            def rows() -> Iterator[tuple[int, list[str]]]:
                for row in reader:
                    if len(row) == len(header):
                        yield reader.line_num, row
                    elif row:
                        raise AnnotationError(
                            f"{path}, line {reader.line_num}: {len(row)} values for {len(header)} columns"
                        )

            yield header, rows()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path} is not a CSV file in UTF-8: {error}") from error


def _column_numbers(path: Path, header: list[str], wanted: Sequence[str]) -> list[int]:
    missing = [column for column in wanted if column not in header]
    if missing:
        raise MissingColumnError(
            f"{path}, line 1: no column {', '.join(missing)}; the header is {','.join(header)[:200]!r}"
        )
    repeated = [column for column in wanted if header.count(column) > 1]
    if repeated:
        raise AnnotationError(f"{path}, line 1: column {', '.join(repeated)} is there twice; remove one")
    return [header.index(column) for column in wanted]


def _checked_name(path: Path, line: int, name: str) -> str:
    if not name or "/" in name or "\\" in name or name in (".", "..") or "\n" in name:
        raise AnnotationError(f"{path}, line {line}: Filename is {name!r}; it must be a file name without folders")
    return name


def _find_split(root: Path, split: str, annotations: Annotations) -> ImageStore:
    # Unpacked archives leave folders of their own names beside, or in place of, the one of the split.
    pattern = re.compile(rf"{IMAGE_FOLDERS[split]}\d*(\.zip)?", re.IGNORECASE)
    entries = sorted(entry for entry in root.iterdir() if pattern.fullmatch(entry.name))
    folders = [entry for entry in entries if entry.is_dir()]
    archives = [entry for entry in entries if entry.is_file() and entry.suffix.lower() == ".zip"]
    store = find_images(annotations.names, folders, archives)
    missing = [name for name in annotations.names if name not in store]
    if missing:
        looked = ", ".join(entry.name for entry in folders + archives) or "nothing that could hold them"
        raise UnknownFileError(
            f"{annotations.path}: {len(missing)} of {len(annotations.names)} images are not on disk, the first are "
            f"{', '.join(missing[:_NAMED_AT_MOST])}; looked in {root} and found {looked}. Put the missing images into "
            f"{root / IMAGE_FOLDERS[split]} or take their rows out"
        )
    return store


def _source(root: Path) -> str:
    path = root / SIMULATION_JSON
    if not path.is_file():
        return SEWER_ML
    try:
        config = json.loads(path.read_text())["config"]
        return f"simulated pipes, profile {config['profile']}, seed {config['seed']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not what the simulator writes ({error!r}): draw the data set again") from error
