"""Plain folders: labels by folder, and splits that keep what belongs together on one side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from support.datasets import draw_wall, write_folders
from support.shared_data import shared_data

from serving.errors import ConfigError, DataError
from training.data.folders import FolderSplit, assign_parts, read_folders
from training.data.near_duplicates import Groups, hash_picture, near_pairs

PARTS = ("train", "val", "test")


def walls(n: int, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(draw_wall(rng, 96, defect=i % 2 == 1)) for i in range(n)]


def copies(picture: Image.Image) -> dict[str, Image.Image]:
    """What people do to a picture before they put it into a data set a second time."""
    side = picture.width
    return {
        "smaller": picture.resize((side // 2, side // 2)),
        "brighter": ImageEnhance.Brightness(picture).enhance(1.15),
        "trimmed": picture.crop((1, 1, side - 1, side - 1)),
        "mirrored": ImageOps.mirror(picture),
        "upside down": ImageOps.flip(picture),
        "turned left": picture.rotate(90),
        "turned right": picture.rotate(-90),
        "transposed": picture.transpose(Image.Transpose.TRANSPOSE),
    }


def test_labels_come_from_the_folders(tmp_path: Path) -> None:
    write_folders(tmp_path, defect=3, normal=4, unlabelled=2)
    (tmp_path / "normal" / "camera 2").mkdir()
    walls(1)[0].save(tmp_path / "normal" / "camera 2" / "Ä.PNG")
    (tmp_path / "normal" / "notes.txt").write_text("none")
    table = read_folders(tmp_path)
    labels = dict(zip(table.names, table.labels.tolist(), strict=True))
    assert labels["normal/camera 2/Ä.PNG"] == 0
    assert table.counts() == {"defect": 3, "normal": 5, "unlabelled": 2}
    assert {label for name, label in labels.items() if name.startswith("unlabelled/")} == {-1}
    assert "1 files were ignored" in table.notes[-1]
    assert table.store.read("normal/camera 2/Ä.PNG") == (tmp_path / "normal" / "camera 2" / "Ä.PNG").read_bytes()


def test_copies_are_grouped_and_other_pictures_are_not() -> None:
    originals = walls(40)
    pictures = originals + [copy for picture in originals[:5] for copy in copies(picture).values()]
    groups = Groups(len(pictures))
    for i, j in near_pairs(np.array([hash_picture(np.array(picture)) for picture in pictures])):
        groups.join(i, j)
    numbers = groups.numbers().tolist()
    assert numbers[:40] == list(range(40))
    assert numbers[40:] == [i for i in range(5) for _ in copies(originals[0])]


def test_parts_share_no_copy_and_cover_all(tmp_path: Path) -> None:
    write_folders(tmp_path, defect=14, normal=26)
    for path in sorted((tmp_path / "normal").iterdir())[:6]:
        with Image.open(path) as opened:
            picture = opened.copy()
        for how, copy in copies(picture).items():
            copy.save(path.with_name(f"{path.stem} {how}.jpg"), quality=70)
    everything = read_folders(tmp_path)
    parts = {part: read_folders(tmp_path, split=part) for part in PARTS}
    names = [name for part in PARTS for name in parts[part].names]
    assert sorted(names) == sorted(everything.names)
    sides = {part: {name.split("/")[1][:10] for name in parts[part].names} for part in PARTS}
    assert not sides["train"] & sides["val"] | sides["train"] & sides["test"] | sides["val"] & sides["test"]
    assert len(parts["train"]) == pytest.approx(0.7 * len(everything), abs=9)
    # The groups are numbered alike in all parts, so that an evaluation can resample whole groups.
    assert not set(parts["train"].inspections.tolist()) & set(parts["val"].inspections.tolist())
    again = read_folders(tmp_path, split="val")
    assert again.names == parts["val"].names
    other = read_folders(tmp_path, split="val", how=FolderSplit(seed=1))
    assert set(other.names) != set(again.names)


def test_inspections_stay_together(tmp_path: Path) -> None:
    write_folders(tmp_path, defect=12, normal=12)
    names = read_folders(tmp_path).names
    lines = [f"{name},run {i % 4}" for i, name in enumerate(names)]
    (tmp_path / "inspections.csv").write_text("\n".join(["Filename,Inspection", *lines]))
    table = read_folders(tmp_path)
    assert table.inspections.tolist() == [i % 4 for i in range(24)]
    assert "4 groups hold both defect and normal frames" in table.notes[1]
    half = FolderSplit(shares=(0.5, 0.5, 0))
    runs = [set(read_folders(tmp_path, split=part, how=half).inspections.tolist()) for part in ("train", "val")]
    assert [len(part) for part in runs] == [2, 2]
    assert runs[0] | runs[1] == {0, 1, 2, 3}


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from([-1, 0, 1])), min_size=1, max_size=200),
    st.integers(0, 5),
)
def test_whole_groups_and_near_the_shares(frames: list[tuple[int, int]], seed: int) -> None:
    _, groups = np.unique([group for group, _ in frames], return_inverse=True)
    groups = groups.astype(np.int32)
    labels = np.array([label for _, label in frames], np.int8)
    how = FolderSplit(seed=seed)
    parts = assign_parts(groups, labels, how)
    labelled = np.bincount(groups, weights=labels >= 0)
    for group in range(len(labelled)):
        assert len(set(parts[groups == group].tolist())) == 1
        assert labelled[group] or parts[groups == group][0] == 0
    # Each of the two labels may miss a share by one group.
    for part, share in enumerate(how.shares):
        got = np.count_nonzero((parts == part) & (labels >= 0))
        assert abs(got - share * np.count_nonzero(labels >= 0)) <= 2 * labelled.max()


def test_corrupt_images_are_left_to_the_pack_to_report(tmp_path: Path) -> None:
    write_folders(tmp_path, defect=2, normal=2)
    (tmp_path / "normal" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    assert "normal/broken.jpg" in read_folders(tmp_path).names


def test_refuses_what_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no images in defect/, normal/, unlabelled/ \(looked for \.bmp"):
        read_folders(tmp_path)
    write_folders(tmp_path, defect=2, normal=2)
    with pytest.raises(DataError, match="no frame of 4 falls to test"):
        read_folders(tmp_path, split="test", how=FolderSplit(shares=(1.0, 0.0, 0.0)))
    with pytest.raises(ConfigError, match="three numbers that add up to 1"):
        FolderSplit(shares=(0.7, 0.2, 0.2))
    with pytest.raises(ConfigError, match="three numbers in per cent, such as 70,15,15; got '70,30'"):
        FolderSplit.from_text("70,30", seed=0)


def test_real_concrete() -> None:
    root = shared_data("real_concrete")
    table = read_folders(root)
    sizes = np.bincount(table.inspections)
    assert (len(table), len(sizes), sizes.max()) == (700, 693, 2)
    rows = dict(zip(table.names, table.inspections.tolist(), strict=True))
    # Found by eye: turned or mirrored copies.
    for a, b in (("defect/cra_0043", "defect/cra_0285"), ("normal/no__0037", "normal/no__0285")):
        assert rows[f"{a}.jpg"] == rows[f"{b}.jpg"]
