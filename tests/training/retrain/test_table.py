"""Labels meet frames: intervals, instants, contradictions, names that are not there, and what belongs together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from support.datasets import draw_wall

from serving.errors import DataError
from training.data.image_store import FilePlace
from training.retrain.extract import Extracted
from training.retrain.footage import Broken, Footage, Image, Video
from training.retrain.labels import Label
from training.retrain.table import Frames, assemble, count_labelled_inspections, near_duplicates, resolve_labels


def of_video(label: int, from_s: float, to_s: float | None = None, *, name: str = "v.mpg", line: int = 2) -> Label:
    return Label(place=f"labels.csv, line {line}", name=name, label=label, from_s=from_s, to_s=to_s or from_s)


def of_image(name: str, label: int, *, inspection: str | None = None, line: int = 2) -> Label:
    return Label(place=f"labels.csv, line {line}", name=name, label=label, inspection=inspection)


def image(name: str, label: int = -1) -> Image:
    return Image(name=name, place=FilePlace(f"/nowhere/{name}"), label=label)


def footage(*images: Image, videos: tuple[str, ...] = (), broken: tuple[str, ...] = ()) -> Footage:
    return Footage(
        source="footage test",
        videos=tuple(Video(name=name, path=Path(name), n_bytes=1, duration_s=10.0) for name in videos),
        images=images,
        broken=tuple(Broken(name=name, reason="is broken") for name in broken),
        inspection_of={},
        digest="",
    )


def every_second(name: str = "v.mpg") -> Extracted:
    times_s = tuple(float(t) for t in range(10))
    files = tuple(f"{t}.png" for t in range(10))
    return Extracted(video=name, folder=Path(name), times_s=times_s, files=files, corrupt_pictures=0)


def of_one_video(*labels: Label) -> Frames:
    found = footage(videos=("v.mpg",))
    return assemble(found, [every_second()], resolve_labels(found, labels), [], every_s=1.0)


def test_intervals_are_half_open_and_instants_take_the_nearest_frame() -> None:
    frames = of_one_video(of_video(1, 2, 4), of_video(0, 4, 5), of_video(0, 6.6), of_video(1, 8.1, 8.4))
    assert frames.table.labels.tolist() == [-1, -1, 1, 1, 0, -1, -1, 0, 1, -1]
    assert frames.table.names[2] == "v.mpg@2.000s"
    assert set(frames.table.inspections.tolist()) == {0}
    assert frames.inspection_names == ("v.mpg",)


def test_a_label_without_a_frame_is_on_record() -> None:
    frames = of_one_video(of_video(1, 2), of_video(1, 10.9))
    assert frames.table.labels.tolist().count(1) == 1
    assert frames.lost_labels == ("labels.csv, line 2: v.mpg has no readable picture there; its last is at 9.0 s",)
    found = footage(videos=("v.mpg",), broken=("b.mpg",))
    labels = resolve_labels(found, [of_video(1, 1, name="b.mpg")])
    assert assemble(found, [every_second()], labels, [], every_s=1.0).lost_labels == (
        "labels.csv, line 2: b.mpg cannot be read",
    )


def test_contradictions_name_both_sides() -> None:
    with pytest.raises(DataError, match=r"v.mpg@3.000s is normal by .*line 3 and defect by .*line 2.*--every"):
        of_one_video(of_video(1, 2.9), of_video(0, 3.2, line=3))
    found = footage(image("defect/a.png", 1))
    labels = resolve_labels(found, [of_image("a.png", 0)])
    with pytest.raises(DataError, match=r"is normal by labels.csv, line 2 and defect by the folder"):
        assemble(found, [], labels, [], every_s=1.0)


def test_names_are_paths_or_unique_file_names() -> None:
    found = footage(image("x/a.png"), image("y/a.png"), image("y/b.png"))
    resolved = resolve_labels(found, [of_image("x/a.png", 1), of_image("b.png", 0)])
    assert {name: [label.label for label in labels] for name, labels in resolved.items()} == {
        "x/a.png": [1],
        "y/b.png": [0],
    }
    with pytest.raises(DataError, match=r"a.png may be x/a.png or y/a.png: write the path"):
        resolve_labels(found, [of_image("a.png", 1)])


def test_what_is_not_there_is_listed_with_what_may_be_meant() -> None:
    found = footage(image("run-0012.png"), videos=("street.mpg",))
    wrong = [of_image("run-0021.png", 1), of_video(1, 2, name="lane.mpg", line=3)]
    with pytest.raises(DataError, match="2 of 2 labels name files that are not in the footage") as caught:
        resolve_labels(found, wrong)
    assert "labels.csv, line 2: run-0021.png (is it run-0012.png?)" in str(caught.value)
    assert "labels.csv, line 3: lane.mpg (no video of that name)" in str(caught.value)


def test_labelled_files_are_counted_before_anything_is_decoded() -> None:
    found = footage(image("d.png", 1), image("n.png", 0), image("u.png"), videos=("v.mpg",), broken=("b.mpg",))
    labels = resolve_labels(found, [of_video(1, 1), of_video(0, 5), of_video(1, 1, name="b.mpg")])
    assert count_labelled_inspections(found, labels) == {"defect": 2, "normal": 2}


def test_images_belong_together_by_declaration_and_by_likeness() -> None:
    found = footage(*(image(f"{letter}.png") for letter in "abcdef"))
    labels = resolve_labels(found, [of_image("a.png", 1, inspection="run 1"), of_image("d.png", 0, inspection="run 1")])
    frames = assemble(found, [], labels, [("d.png", "e.png"), ("b.png", "c.png")], every_s=1.0)
    assert frames.table.inspections.tolist() == [0, 1, 1, 0, 0, 2]
    assert frames.inspection_names == ("a.png", "b.png", "f.png")
    both = [of_image("a.png", 1, inspection="run 1"), of_image("a.png", 1, inspection="run 2", line=9)]
    labels = resolve_labels(found, both)
    with pytest.raises(DataError, match=r"line 2 puts a.png into inspection 'run 1', .*line 9 into 'run 2'"):
        assemble(found, [], labels, [], every_s=1.0)


def test_near_duplicates_are_found_mirrored_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    walls = [draw_wall(rng, 64, defect=False) for _ in range(3)]
    pictures = {"a.png": walls[0], "b.jpg": walls[1], "c.jpg": walls[0], "d.png": walls[2], "e.png": walls[1][:, ::-1]}
    for name, picture in pictures.items():
        Pillow.fromarray(np.ascontiguousarray(picture)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    names = [*pictures, "broken.png"]
    images = [Image(name=name, place=FilePlace(str(tmp_path / name)), label=-1) for name in names]
    pairs = near_duplicates(names, footage(*images).store())
    assert sorted(pairs) == [("a.png", "c.jpg"), ("b.jpg", "e.png")]
