"""The labels file: a CSV that says of images, and of instants and intervals of videos, what they show.

    Filename,Label,Inspection            images: the path below the footage folder, or the file name if it is unique
    Video,Time_s,Label                   the extracted frame nearest to an instant
    Video,From_s,To_s,Label              all extracted frames from From_s on, before To_s

`Label` is `defect` or `normal`. One file may hold all of these columns, each row filling those that it needs;
`Inspection` is optional everywhere: rows with the same text belong to one inspection. Times are seconds from the
start of the video. Spreadsheets' semicolons are taken, and with them decimal commas. A Sewer-ML annotation file
(`Filename`, the class columns, `Defect`) will do as well.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.errors import DataError
from training.data.frame_table import DEFECT, NORMAL
from training.data.sewer_ml import read_annotations

LABELS: dict[str, int] = {"defect": DEFECT, "normal": NORMAL}
_FORMS = "Filename,Label for images; Video,Time_s,Label or Video,From_s,To_s,Label for videos"


@dataclass(frozen=True, kw_only=True)
class Label:
    """One row of a labels file.

    Attributes:
        place: file and line, for messages.
        name: of the image or the video, as written.
        label: 1 defect, 0 normal.
        from_s, to_s: the half-open interval of the video; equal for an instant, None for an image.
        inspection: as written, None if the row does not say.
        classes: the 17 class columns, None if the file has none.
    """

    place: str
    name: str
    label: int
    from_s: float | None = None
    to_s: float | None = None
    inspection: str | None = None
    classes: tuple[int, ...] | None = None

    @property
    def is_video(self) -> bool:
        return self.from_s is not None


def read_labels(path: Path) -> list[Label]:
    """Read a labels file.

    Raises:
        DataError: it cannot be read, lacks a column, or a row is malformed; names file, line and remedy.
    """
    text = _read_text(path)
    header, _, _ = text.partition("\n")
    delimiter = ";" if header.count(";") > header.count(",") else ","
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    columns = [column.strip().lower() for column in next(reader, [])]
    if "defect" in columns and "label" not in columns:
        return _from_annotations(path)
    if "label" not in columns or not {"filename", "video"} & set(columns):
        raise DataError(f"{path}, line 1: the header is {header.strip()[:200]!r}; a labels file has {_FORMS}")
    labels = []
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        place = f"{path}, line {reader.line_num}"
        if len(row) != len(columns):
            raise DataError(f"{place}: {len(row)} values for {len(columns)} columns")
        values = dict(zip(columns, (cell.strip() for cell in row), strict=True))
        labels.append(_Row(place, values, decimal_comma=delimiter == ";").label())
    if not labels:
        raise DataError(f"{path} has a header but no rows: label some frames, with {_FORMS}")
    return labels


def _read_text(path: Path) -> str:
    try:
        # utf-8-sig: spreadsheet programs put a byte order mark in front of the first column's name.
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error}): save it as CSV UTF-8") from error


def _from_annotations(path: Path) -> list[Label]:
    annotations = read_annotations(path)
    return [
        Label(
            place=f"{path}, row {number}",
            name=name,
            label=int(annotations.labels[number - 1]),
            classes=tuple(annotations.classes[number - 1].tolist()),
        )
        for number, name in enumerate(annotations.names, start=1)
    ]


@dataclass(frozen=True)
class _Row:
    """One row, by lower-case column name."""

    place: str
    values: Mapping[str, str]
    decimal_comma: bool

    def label(self) -> Label:
        text, frame, video = (self.values.get(key, "") for key in ("label", "filename", "video"))
        if text.lower() not in LABELS:
            raise DataError(
                f"{self.place}: the label {text[:50]!r} is unknown; write defect or normal, and leave out rows about "
                "frames that are neither"
            )
        if bool(frame) == bool(video):
            raise DataError(f"{self.place}: a row names either an image (Filename) or a video (Video); {_FORMS}")
        start, end = self._interval() if video else (None, None)
        return Label(
            place=self.place,
            name=(video or frame).replace("\\", "/").removeprefix("./"),
            label=LABELS[text.lower()],
            from_s=start,
            to_s=end,
            inspection=self.values.get("inspection") or None,
        )

    def _interval(self) -> tuple[float, float]:
        given = {key: self._seconds(key) for key in ("time_s", "from_s", "to_s") if self.values.get(key)}
        if set(given) == {"time_s"}:
            return given["time_s"], given["time_s"]
        if set(given) != {"from_s", "to_s"}:
            raise DataError(f"{self.place}: a row about a video gives either Time_s, or From_s and To_s")
        if not given["from_s"] < given["to_s"]:
            raise DataError(f"{self.place}: From_s {given['from_s']} must be before To_s {given['to_s']}")
        return given["from_s"], given["to_s"]

    def _seconds(self, key: str) -> float:
        text = self.values[key]
        try:
            seconds = float(text.replace(",", ".") if self.decimal_comma else text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise DataError(
                f"{self.place}: {key.capitalize()} is {text[:50]!r}; it must be seconds from the start of the video, "
                "such as 83.5"
            )
        return seconds
