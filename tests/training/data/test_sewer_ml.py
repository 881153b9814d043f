"""Reading Sewer-ML: what is read is what was written, and whatever is wrong is named with its place."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.datasets import write_rows, write_sewer_ml
from support.shared_data import shared_data

from serving.errors import DataError, TruncatedFrameError
from training.data.classes import CLASS_CODES, CSV_COLUMNS
from training.data.image_store import find_images
from training.data.sewer_ml import (
    AnnotationError,
    DuplicateFrameError,
    MissingColumnError,
    UnknownFileError,
    read_annotations,
    read_inspections,
    read_sewer_ml,
)

HEADER = ",".join(CSV_COLUMNS)
NO_CLASSES = ",".join("0" for _ in CLASS_CODES)


def csv_file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "annotations.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_reads_what_was_written(tmp_path: Path, zipped: bool) -> None:
    table = read_sewer_ml(write_sewer_ml(tmp_path / "set", zipped=zipped), "train")
    plain = tmp_path / "plain"
    write_sewer_ml(plain)
    assert (table.source, table.split, len(table)) == ("Sewer-ML", "train", 40)
    assert table.labels.tolist() == [0, 1] * 20
    assert table.classes[3].tolist() == [int(code in ("RB", "RO")) for code in CLASS_CODES]
    assert table.inspections.tolist() == [i // 4 for i in range(40)]
    for name in table.names:
        assert table.store.read(name) == (plain / "train" / name).read_bytes()


def test_columns_count_by_name_not_by_place(tmp_path: Path) -> None:
    shuffled = list(reversed(CSV_COLUMNS))
    rows = [dict.fromkeys(CSV_COLUMNS, "0") | {"Filename": "a.png", "FS": "1", "Defect": "1"}]
    write_rows(tmp_path / "a.csv", shuffled, rows)
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(text, encoding="utf-8-sig")  # as spreadsheet programs save it
    annotations = read_annotations(tmp_path / "a.csv")
    assert annotations.labels.tolist() == [1]
    assert [CLASS_CODES[i] for i in np.flatnonzero(annotations.classes[0])] == ["FS"]


def test_test_split_needs_no_labels(tmp_path: Path) -> None:
    table = read_sewer_ml(write_sewer_ml(tmp_path, test=5), "test")
    assert table.labels.tolist() == [-1] * 5
    assert not table.classes.any()


def test_train_split_needs_labels(tmp_path: Path) -> None:
    with pytest.raises(MissingColumnError, match=r"annotations.csv, line 1: no column RB, .*Defect"):
        read_annotations(csv_file(tmp_path, "Filename", "a.png"))


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        (f"a.png,0,0,{NO_CLASSES},1,0", DuplicateFrameError, "line 3: a.png is already in line 2"),
        (f"b.png,0,0,{NO_CLASSES},1,2", AnnotationError, "line 3: Defect is '2'; it must be 0 or 1"),
        (f"b.png,0,0,{NO_CLASSES[:-1]}x,1,0", AnnotationError, "line 3: OK is 'x'"),
        (f"b.png,0,0,{NO_CLASSES},1,1", AnnotationError, "line 3: Defect is 1 but no class is marked"),
        (f"b.png,0,0,1{NO_CLASSES[1:]},1,0", AnnotationError, "line 3: Defect is 0 but RB is marked"),
        (f"b.png,0,0,{NO_CLASSES},1", AnnotationError, "line 3: 21 values for 22 columns"),
        (f"../b.png,0,0,{NO_CLASSES},1,0", AnnotationError, r"line 3: Filename is '\.\./b\.png'"),
    ],
)
def test_names_the_row_that_is_wrong(tmp_path: Path, row: str, error: type[DataError], message: str) -> None:
    path = csv_file(tmp_path, HEADER, f"a.png,0,0,{NO_CLASSES},1,0", row)
    with pytest.raises(error, match=message):
        read_annotations(path)


def test_water_and_remarks_are_no_defect(tmp_path: Path) -> None:
    path = csv_file(tmp_path, HEADER, f"a.png,30,1,{NO_CLASSES},0,0", "", f"b.png,0,0,{NO_CLASSES},1,0")
    assert read_annotations(path).labels.tolist() == [0, 0]


def test_counts_and_names_missing_images(tmp_path: Path) -> None:
    write_sewer_ml(tmp_path)
    for i in (3, 7):
        (tmp_path / "train" / f"train{i:05d}.png").unlink()
    with pytest.raises(
        UnknownFileError, match=r"2 of 40 images are not on disk, the first are train00003\.png, train0"
    ):
        read_sewer_ml(tmp_path, "train")


def test_finds_images_in_unpacked_archives_too(tmp_path: Path) -> None:
    write_sewer_ml(tmp_path, zipped=True)
    with zipfile.ZipFile(tmp_path / "train01.zip") as archive:
        archive.extractall(tmp_path)
    (tmp_path / "train01.zip").unlink()
    (tmp_path / "training-notes").mkdir()
    assert len(read_sewer_ml(tmp_path, "train")) == 40


def test_refuses_an_image_that_is_there_twice(tmp_path: Path) -> None:
    write_sewer_ml(tmp_path, zipped=True)
    shutil.copy(tmp_path / "train00.zip", tmp_path / "train02.zip")
    with pytest.raises(DataError, match=r"train00000\.png is in both .*train00\.zip and .*train02\.zip"):
        read_sewer_ml(tmp_path, "train")


@pytest.mark.parametrize("archive", ["stored", "deflated"])
def test_damage_inside_an_archive_is_a_damaged_frame(tmp_path: Path, archive: str) -> None:
    path = tmp_path / "train00.zip"
    method = zipfile.ZIP_STORED if archive == "stored" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method) as opened:
        opened.writestr("a.png", bytes(range(256)) * 20)
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    store = find_images(["a.png"], [], [path])
    with pytest.raises(TruncatedFrameError, match=r"is damaged inside .*train00\.zip"):
        store.read("a.png")


def test_half_an_archive_is_refused(tmp_path: Path) -> None:
    write_sewer_ml(tmp_path, zipped=True)
    path = tmp_path / "train00.zip"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"train00\.zip is not a whole zip archive"):
        read_sewer_ml(tmp_path, "train")


def test_inspections_by_name_or_by_folder_and_name(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "Filename,Inspection", "train/a.png,pipe 7", "valid/a.png,pipe 9", "b.png,pipe 9")
    assert read_inspections(path, ["a.png", "b.png", "c.png"], folder="train").tolist() == [0, 1, -1]
    assert read_inspections(path, ["a.png", "b.png"], folder="valid").tolist() == [0, 0]
    with pytest.raises(AnnotationError, match=r"knows none of the frames, the first of which is z\.png"):
        read_inspections(path, ["z.png"])


@pytest.mark.parametrize(("split", "frames", "defects"), [("Train", 65_008, 34_092), ("Val", 8_127, 4_292)])
def test_real_annotations(split: str, frames: int, defects: int) -> None:
    path = shared_data(f"sewer_ml_annotations/SewerML_{split}.csv")
    annotations = read_annotations(path)
    assert len(annotations.names) == frames
    assert int(annotations.labels.sum()) == defects
    assert (annotations.classes.any(axis=1) == (annotations.labels == 1)).all()
