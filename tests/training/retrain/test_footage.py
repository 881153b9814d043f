"""What counts as footage, what it says of labels and inspections, and what is left out on record."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.datasets import write_folders, write_sewer_ml
from support.video_files import clock_face, write_audio_only, write_pal

from serving.errors import ConfigError, DataError
from training.retrain.footage import find_footage


def save_image(path: Path, grey: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 40, 3), grey, np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pal(tmp_path_factory.mktemp("video") / "a.mpg", clock_face(), seconds=1)


def test_folders_label_images_and_the_rest_is_unlabelled(tmp_path: Path) -> None:
    for name in ("defect/a.png", "normal/deep/b.png", "c.png", "other/Defect/d.png", "defect/normal/e.png"):
        save_image(tmp_path / name)
    save_image(tmp_path / ".thumbnails" / "x.png")
    save_image(tmp_path / "retrain" / "frames" / "y.png")
    (tmp_path / "notes.txt").write_text("not footage")
    found = find_footage([tmp_path], leave_out=tmp_path / "retrain")
    assert {image.name: image.label for image in found.images} == {
        "defect/a.png": 1,
        "normal/deep/b.png": 0,
        "c.png": -1,
        "other/Defect/d.png": 1,
        "defect/normal/e.png": 0,
    }
    assert found.source == f"footage {tmp_path.name}"


def test_broken_videos_and_copies_are_left_out_on_record(tmp_path: Path, video: Path) -> None:
    shutil.copy(video, tmp_path / "a.mpg")
    shutil.copy(video, tmp_path / "b.mpg")
    write_audio_only(tmp_path / "c.mpg")
    (tmp_path / "d.avi").write_bytes(b"")
    found = find_footage([tmp_path])
    assert [each.name for each in found.videos] == ["a.mpg"]
    assert found.videos[0].duration_s == pytest.approx(1.0, abs=0.3)  # program streams know it roughly
    reasons = {each.name: each.reason for each in found.broken}
    assert reasons["b.mpg"] == "is the same file as a.mpg"
    assert "no pictures" in reasons["c.mpg"]
    assert "is empty" in reasons["d.avi"]


def test_inspections_csv_names_images_and_videos(tmp_path: Path, video: Path) -> None:
    shutil.copy(video, tmp_path / "a.mpg")
    save_image(tmp_path / "defect" / "p.png")
    save_image(tmp_path / "q.png")
    (tmp_path / "inspections.csv").write_text("Filename,Inspection\na.mpg,7\ndefect/p.png,7\n")
    found = find_footage([tmp_path])
    assert found.inspection_of["a.mpg"] == found.inspection_of["defect/p.png"]
    assert "q.png" not in found.inspection_of


def test_several_folders_are_told_apart_by_name(tmp_path: Path) -> None:
    save_image(tmp_path / "one" / "a.png")
    save_image(tmp_path / "two" / "a.png")
    found = find_footage([tmp_path / "one", tmp_path / "two"])
    assert [image.name for image in found.images] == ["one/a.png", "two/a.png"]
    save_image(tmp_path / "more" / "one" / "a.png")
    with pytest.raises(ConfigError, match="same name"):
        find_footage([tmp_path / "one", tmp_path / "more" / "one"])


def test_a_sewer_ml_set_gives_labels_classes_and_inspections(tmp_path: Path) -> None:
    found = find_footage([write_sewer_ml(tmp_path / "known", train=8, val=4)])
    assert [image.label for image in found.images] == [0, 1] * 6
    assert all(image.official is None for image in found.images)
    assert found.inspection_of["train/train00000.png"] == found.inspection_of["train/train00003.png"]
    assert found.inspection_of["train/train00000.png"] != found.inspection_of["train/train00004.png"]
    assert found.source == "Sewer-ML"
    official = find_footage([write_sewer_ml(tmp_path / "official", train=8, val=4, inspections=False)])
    assert [image.official for image in official.images] == ["train"] * 8 + ["val"] * 4
    assert official.images[0].place.read()[:4] == b"\x89PNG"


def test_simulated_footage_says_so(tmp_path: Path, video: Path) -> None:
    shutil.copy(video, tmp_path / "a.mpg")
    (tmp_path / "a.truth.json").write_text("{}")
    assert find_footage([tmp_path]).source == f"simulated inspections {tmp_path.name}"
    save_image(tmp_path / "real.png")
    # Real footage comes first, so that the whole does not pass for simulated.
    assert find_footage([tmp_path]).source.startswith("footage")


def test_digest_changes_with_what_is_there(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "photos", defect=2, normal=2)
    before = find_footage([root]).digest
    assert find_footage([root]).digest == before
    save_image(root / "new.png")
    assert find_footage([root]).digest != before


def test_nothing_to_find_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither videos \(.*\.mpg.*\) nor images"):
        find_footage([tmp_path / "empty"])
    with pytest.raises(ConfigError, match="no such file or folder"):
        find_footage([tmp_path / "nowhere"])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.mpg").write_bytes(b"x")
    with pytest.raises(DataError, match="none of its 1 videos can be read"):
        find_footage([tmp_path / "broken"])
