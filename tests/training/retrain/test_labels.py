"""Labels files: every form that is documented, and each mistake with its place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.datasets import write_sewer_ml

from serving.errors import DataError
from training.retrain.labels import read_labels


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_images_instants_and_intervals_in_one_file(tmp_path: Path) -> None:
    text = (
        "Filename,Video,Time_s,From_s,To_s,Label,Inspection\n"
        "a.jpg,,,,,defect,run 7\n"
        ",b.mpg,83.5,,,Normal,\n"
        "\n"
        ",b.mpg,,10,12.25, defect ,\n"
    )
    image, instant, interval = read_labels(write(tmp_path / "labels.csv", text))
    assert (image.name, image.label, image.is_video, image.inspection) == ("a.jpg", 1, False, "run 7")
    assert (instant.name, instant.label, instant.from_s, instant.to_s) == ("b.mpg", 0, 83.5, 83.5)
    assert (interval.label, interval.from_s, interval.to_s) == (1, 10.0, 12.25)
    assert interval.place.endswith("labels.csv, line 5")


def test_a_spreadsheets_semicolons_decimal_commas_and_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.csv", "video;time_s;label\nsub\\b.mpg;83,5;defect\n", "utf-8-sig")
    (label,) = read_labels(path)
    assert (label.name, label.from_s) == ("sub/b.mpg", 83.5)


def test_a_sewer_ml_annotation_file_will_do(tmp_path: Path) -> None:
    root = write_sewer_ml(tmp_path, train=4, val=0)
    labels = read_labels(root / "SewerML_Train.csv")
    assert [(label.name, label.label) for label in labels] == [(f"train{i:05d}.png", i % 2) for i in range(4)]
    assert labels[3].classes is not None
    assert sum(labels[3].classes) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Filename,Label\na.jpg,crack\n", r"line 2: the label 'crack' is unknown; write defect or normal"),
        ("Filename,Label\na.jpg,\n", r"line 2: the label '' is unknown"),
        ("Name,Class\na.jpg,defect\n", r"line 1: the header is 'Name,Class'; a labels file has Filename,Label"),
        ("Label\ndefect\n", r"line 1: the header"),
        ("Filename,Label\n", r"has a header but no rows"),
        ("Filename,Label\na.jpg\n", r"line 2: 1 values for 2 columns"),
        ("Filename,Video,Time_s,Label\na.jpg,b.mpg,1,defect\n", r"either an image \(Filename\) or a video \(Video\)"),
        ("Video,Label\nb.mpg,defect\n", r"line 2: a row about a video gives either Time_s, or From_s and To_s"),
        ("Video,Time_s,From_s,To_s,Label\nb.mpg,1,2,3,defect\n", r"either Time_s, or From_s and To_s"),
        ("Video,From_s,To_s,Label\nb.mpg,3,2,defect\n", r"line 2: From_s 3.0 must be before To_s 2.0"),
        ("Video,Time_s,Label\nb.mpg,1:23,defect\n", r"line 2: Time_s is '1:23'; it must be seconds"),
        ("Video,Time_s,Label\nb.mpg,-1,defect\n", r"it must be seconds from the start"),
        ("Video,Time_s,Label\nb.mpg,inf,defect\n", r"it must be seconds from the start"),
    ],
)
def test_mistakes_are_named_with_place_and_remedy(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(write(tmp_path / "labels.csv", text))


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="save it as CSV UTF-8"):
        read_labels(write(tmp_path / "labels.csv", "Filename,Label\nKanäle.jpg,defect\n", "latin-1"))
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")
