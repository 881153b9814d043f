from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from serving.errors import ConfigError
from serving.formats.frames_parquet import Frames, read_frames, write_frames

FRAMES = Frames(
    pts_s=[0.0, 0.52, 1.04],
    score=[0.25, 0.5, 0.75],
    logit=[-1.5, 0.0, 1.5],
    kind=["keyframe", "predicted", "keyframe"],
    score_source=["scored", "between", "scored"],
    distance_m=[None, 12.34, None],
    distance_source=["none", "osd", "none"],
    distance_confidence=[None, 0.5, None],
)
NOTHING = Frames(**{field.name: [] for field in dataclasses.fields(Frames)})
ABOUT = {"video": "下水道 \udcff.mpg", "video_sha256": "ab" * 32}


def test_frames_read_back_and_the_same_make_the_same_bytes(tmp_path: Path) -> None:
    write_frames(tmp_path / "one.parquet", FRAMES, ABOUT)
    write_frames(tmp_path / "two.parquet", FRAMES, ABOUT)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert read_frames(tmp_path / "one.parquet") == FRAMES


def test_others_find_types_and_origin_in_the_file(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames.parquet", FRAMES, ABOUT)
    schema = pq.read_schema(tmp_path / "frames.parquet")
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "pts_s": "double",
        "score": "float",
        "logit": "float",
        "kind": "string",
        "score_source": "string",
        "distance_m": "double",
        "distance_source": "string",
        "distance_confidence": "float",
    }
    assert [name for name in schema.names if schema.field(name).nullable] == ["distance_m", "distance_confidence"]
    assert schema.metadata == {b"video": "下水道 \\udcff.mpg".encode(), b"video_sha256": b"ab" * 32}


def test_a_video_may_have_no_known_distance_or_no_frames(tmp_path: Path) -> None:
    unknown = dataclasses.replace(FRAMES, distance_m=[None] * 3, distance_confidence=[None] * 3)
    for frames in (unknown, NOTHING):
        write_frames(tmp_path / "frames.parquet", frames, ABOUT)
        assert read_frames(tmp_path / "frames.parquet") == frames


def test_columns_of_unlike_length_are_refused() -> None:
    with pytest.raises(ValueError, match="every frame"):
        dataclasses.replace(FRAMES, logit=[0.0])


def test_another_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet at all")
    for name in ("text.parquet", "absent.parquet"):
        with pytest.raises(ConfigError, match=rf"{name}.*score the video again"):
            read_frames(tmp_path / name)
