"""Reviews become labels of the very frames that were scored, or an error that says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.video_files import red_between, write_h264

from serving.cli import cli
from serving.durable import sha256_file
from serving.errors import ConfigError, DataError, PipeprobeError
from serving.inspections.review import match_reviews, write_dataset, write_labels
from serving.inspections.review_file import read_review
from serving.inspections.sewer_ml_format import CLASS_CODES
from training.data.classes import CIW
from training.data.sewer_ml import read_sewer_ml
from training.retrain.labels import read_labels

RED_S = (2.0, 4.0)


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One inspection, red from 2 s to 4 s, in a folder below."""
    folder = tmp_path_factory.mktemp("footage")
    (folder / "north").mkdir()
    write_h264(folder / "north" / "run 1.mp4", red_between(*RED_S), seconds=8)
    return folder


def finding(start_s: float, end_s: float, decision: str, code: str = "", **others: Any) -> dict[str, Any]:
    return {"start_s": start_s, "end_s": end_s, "decision": decision, "code": code, "remark": "", **others}


def save(path: Path, footage: Path, *findings: dict[str, Any], **others: Any) -> Path:
    document = {
        "schema": "pipeprobe-review/1",
        "video": "run 1.mp4",
        "video_sha256": sha256_file(footage / "north" / "run 1.mp4"),
        "every_s": 0.5,
        "reviewer": "A. Reviewer",
        "findings": list(findings),
    }
    path.write_text(json.dumps(document | others))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["review", "import", *map(str, arguments)])


def test_a_review_becomes_a_data_set_that_training_reads(footage: Path, tmp_path: Path) -> None:
    review = save(
        tmp_path / "review.json",
        footage,
        finding(2.0, 4.0, "accepted", "ro"),
        finding(5.0, 6.0, "rejected"),
        finding(7.0, 7.5, "unreviewed"),
    )
    result = run(review, "--videos", footage, "--out", tmp_path / "reviewed")
    assert result.exit_code == 0, result.output
    assert "1 accepted, 1 rejected, 1 undecided" in result.output
    table = read_sewer_ml(tmp_path / "reviewed", "train")
    n_defect, n_normal = int((table.labels == 1).sum()), int((table.labels == 0).sum())
    assert f"{n_defect} frames with a defect, {n_normal} normal" in result.output
    # A frame every half second of two seconds, and of one.
    assert 4 <= n_defect <= 5
    assert 2 <= n_normal <= 3
    assert set(table.inspections.tolist()) == {0}
    for name, label, classes in zip(table.names, table.labels, table.classes, strict=True):
        with Image.open(tmp_path / "reviewed" / "train" / name) as image:
            assert image.size == (160, 128)
            red, green, _ = np.asarray(image).mean((0, 1))
        assert (red > green + 100) == (label == 1), name
        assert [code for code, is_there in zip(CLASS_CODES, classes, strict=True) if is_there] == ["RO"] * label
        time_s = int(name.removesuffix(".png").rpartition("_")[2]) / 1000
        assert RED_S[0] <= time_s < RED_S[1] if label else 5.0 <= time_s < 6.0


def test_labels_of_intervals_are_what_retraining_reads(footage: Path, tmp_path: Path) -> None:
    review = save(tmp_path / "r.json", footage, finding(5.0, 6.0, "rejected"), finding(2.0, 4.125, "accepted"))
    result = run(review, "--videos", footage, "--labels", tmp_path / "labels.csv")
    assert result.exit_code == 0, result.output
    labels = read_labels(tmp_path / "labels.csv")
    assert [(each.name, each.from_s, each.to_s, each.label) for each in labels] == [
        ("north/run 1.mp4", 2.0, 4.125, 1),
        ("north/run 1.mp4", 5.0, 6.0, 0),
    ]


def test_several_reviewers_add_up_unless_they_contradict(footage: Path, tmp_path: Path) -> None:
    one = read_review(save(tmp_path / "one.json", footage, finding(2.0, 4.0, "accepted", "RO")))
    two = read_review(save(tmp_path / "two.json", footage, finding(3.0, 4.0, "accepted", "BE"), every_s=0.25))
    (video,) = match_reviews([one, two], footage)
    assert video.every_s == 0.25
    write_dataset(tmp_path / "out", [video])
    table = read_sewer_ml(tmp_path / "out", "train")
    codes = {
        name: [c for c, is_there in zip(CLASS_CODES, row, strict=True) if is_there]
        for name, row in zip(table.names, table.classes, strict=True)
    }
    for name, shown in codes.items():
        late = int(name.removesuffix(".png").rpartition("_")[2]) >= 3000
        assert shown == (["RO", "BE"] if late else ["RO"])
    three = read_review(save(tmp_path / "three.json", footage, finding(3.5, 5.0, "rejected")))
    with pytest.raises(DataError, match=r"one\.json, finding 1 is accepted.*three\.json, finding 1 is rejected"):
        match_reviews([one, three], footage)


def test_no_class_is_made_up(footage: Path, tmp_path: Path) -> None:
    review = save(
        tmp_path / "review.json",
        footage,
        finding(2.0, 3.0, "accepted"),
        finding(3.0, 4.0, "accepted", "BAB"),
        finding(5.0, 6.0, "rejected"),
    )
    out = tmp_path / "out"
    refused = run(review, "--videos", footage, "--out", out)
    assert isinstance(refused.exception, DataError)
    assert "2 accepted findings have no class" in str(refused.exception)
    assert "finding 1: no code" in str(refused.exception)
    assert "finding 2: BAB" in str(refused.exception)
    assert sorted(tmp_path.iterdir()) == [review]
    skipped = run(review, "--videos", footage, "--out", out, "--skip-uncoded", "--labels", tmp_path / "labels.csv")
    assert skipped.exit_code == 0, skipped.output
    assert "0 frames with a defect" in skipped.output
    assert "2 accepted findings without a class left out" in skipped.output
    assert set(read_sewer_ml(out, "train").labels.tolist()) == {0}
    assert [each.label for each in read_labels(tmp_path / "labels.csv")] == [1, 1, 0]


def test_another_video_of_that_name_is_refused(footage: Path, tmp_path: Path) -> None:
    review = read_review(save(tmp_path / "review.json", footage, finding(2.0, 4.0, "accepted")))
    videos = tmp_path / "videos"
    (videos / "b").mkdir(parents=True)
    (videos / "run 1.mp4").write_bytes(b"another")
    with pytest.raises(DataError, match=r"SHA-256 .*but there is only .*run 1\.mp4"):
        match_reviews([review], videos)
    # A namesake elsewhere does no harm.
    shutil.copy(footage / "north" / "run 1.mp4", videos / "b" / "run 1.mp4")
    (video,) = match_reviews([review], videos)
    assert video.name == "b/run 1.mp4"
    with pytest.raises(DataError, match="nowhere below"):
        match_reviews([review], tmp_path / "empty")


def test_what_is_there_is_not_overwritten_and_a_failure_leaves_nothing(footage: Path, tmp_path: Path) -> None:
    review = read_review(save(tmp_path / "review.json", footage, finding(2.0, 4.0, "accepted", "RO")))
    videos = match_reviews([review], footage)
    for path in (tmp_path / "labels.csv", tmp_path / "out" / "mine.csv"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        write_labels(tmp_path / "labels.csv", videos)
    with pytest.raises(ConfigError, match="is there already"):
        write_dataset(tmp_path / "out", videos)
    beyond = read_review(save(tmp_path / "beyond.json", footage, finding(50.0, 60.0, "rejected")))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match="has no frame from"):
        write_dataset(tmp_path / "new", match_reviews([review, beyond], footage))
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_decided_is_an_error(footage: Path, tmp_path: Path) -> None:
    review = read_review(save(tmp_path / "review.json", footage, finding(2.0, 4.0, "unreviewed")))
    with pytest.raises(DataError, match="nothing to import"):
        match_reviews([review], footage)
    assert isinstance(run(tmp_path / "review.json", "--videos", footage).exception, ConfigError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "pipeprobe-findings/1"}, "is not a review file"),
        ({"video": "../run.mp4"}, "file name without folders"),
        ({"video_sha256": "12"}, "64 hexadecimal digits"),
        ({"every_s": 0}, "must be positive"),
        ({"every_s": True}, "every_s is True"),
        ({"reviewer": None}, "reviewer is missing"),
        ({"findings": {}}, "must be a list"),
        ({"findings": [finding(2.0, 2.0, "accepted")]}, "finding 1: start_s 2.0 must be before"),
        ({"findings": [finding(2.0, 4.0, "yes")]}, "finding 1: the decision 'yes' is unknown"),
        ({"findings": [finding(2.0, float("nan"), "accepted")]}, "finding 1: end_s is nan"),
        ({"findings": [finding(2.0, 4.0, "accepted") | {"code": 7}]}, "finding 1: code is 7"),
    ],
)
def test_malformed_reviews_are_refused_by_name(
    change: dict[str, Any], message: str, footage: Path, tmp_path: Path
) -> None:
    path = save(tmp_path / "review.json", footage, **change)
    with pytest.raises(DataError, match=rf"review\.json.*{message}"):
        read_review(path)


def test_files_that_are_no_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "review.json"
    path.write_bytes(b"\xff{")
    with pytest.raises(PipeprobeError, match="is not JSON"):
        read_review(path)


def test_classes_have_one_order_everywhere() -> None:
    assert tuple(CIW) == CLASS_CODES
