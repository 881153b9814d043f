from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.images import encode
from support.tiny_pair import grey_frames, red_frames, write_tiny_pair

from serving.cli import cli
from serving.errors import ConfigError, PipeprobeError, RequestError
from serving.frames import decode_full
from serving.image_files import collect_files
from serving.inspections.overlay import draw_evidence, heat_map
from serving.pairs.manifest import Calibration


@pytest.fixture
def footage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two defects, a normal frame, a broken one and something else; the tiny pair is the default."""
    write_tiny_pair(tmp_path / "models")
    monkeypatch.setenv("PIPEPROBE_MODELS", str(tmp_path / "models"))
    folder = tmp_path / "footage"
    (folder / "night").mkdir(parents=True)
    (folder / "a red [1].png").write_bytes(encode(red_frames(1, 48)[0]))
    (folder / "b_grey.JPG").write_bytes(encode(grey_frames(1, 48)[0], "JPEG"))
    (folder / "night" / "red.png").write_bytes(encode(red_frames(1, 64)[0]))
    (folder / "notes.txt").write_text("not a frame")
    return folder


def break_one(footage: Path) -> None:
    (footage / "c_broken.png").write_bytes(encode(red_frames(1, 48)[0])[:60])


def score(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(cli, ["score", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_folder_becomes_a_table(footage: Path) -> None:
    result = score(footage)
    assert result.exit_code == 0
    assert "tiny 1.0.0 (fp32 on cpu), balanced: defect from 0.500" in result.stdout
    verdicts = [line.split("│")[2].strip() for line in result.stdout.splitlines() if "│" in line]
    assert [verdict for verdict in verdicts if verdict] == ["defect", "normal", "defect"]
    assert "a red [1].png" in result.stdout.replace("\n", "")


def test_json_lines_hold_all_that_is_needed_to_audit_a_verdict(footage: Path) -> None:
    break_one(footage)
    result = score(footage, "--json", "-", "--operating-point", "recall_95")
    rows = {Path(row["file"]).name: row for row in map(json.loads, result.stdout.splitlines())}
    assert list(rows) == ["a red [1].png", "b_grey.JPG", "c_broken.png", "red.png"]
    red, broken = rows["a red [1].png"], rows["c_broken.png"]
    assert red["verdict"] == "defect"
    assert red["score"] > 0.9
    assert (red["operating_point"], red["threshold"]) == ("recall_95", 0.3)
    assert (red["pair"], red["pair_version"], red["variant"], red["error"]) == ("tiny", "1.0.0", "fp32", None)
    assert broken["verdict"] is None
    assert "cut short or damaged" in broken["error"]


def test_files_that_fail_are_reported_and_the_rest_scored(footage: Path, tmp_path: Path) -> None:
    break_one(footage)
    out = tmp_path / "out" / "verdicts.csv"
    result = score(footage, tmp_path / "gone.jpg", "--csv", out)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "c_broken.png is a PNG file that is cut short" in result.stderr
    assert "gone.jpg cannot be read: No such file" in result.stderr
    assert "2 of 5 files could not be scored" in result.stderr
    rows = list(csv.DictReader(StringIO(out.read_text())))
    assert [row["verdict"] for row in rows] == ["defect", "normal", "", "defect", ""]


def test_more_files_than_a_batch_keep_their_order(footage: Path) -> None:
    for i in range(80):
        frame = (red_frames if i % 3 == 0 else grey_frames)(1, 32)[0]
        (footage / "night" / f"{i:03}.png").write_bytes(encode(frame))
    rows = [json.loads(line) for line in score(footage / "night" / "*.png", "--json", "-").stdout.splitlines()]
    verdicts = {Path(row["file"]).stem: row["verdict"] for row in rows}
    assert list(verdicts)[:80] == [f"{i:03}" for i in range(80)]
    assert all((verdicts[f"{i:03}"] == "defect") == (i % 3 == 0) for i in range(80))


def test_evidence_pictures_keep_the_frame_and_its_folder(footage: Path, tmp_path: Path) -> None:
    out = tmp_path / "evidence"
    assert score(footage, footage / "night" / "red.png", "--evidence-dir", out).exit_code == 0
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert written == ["a red [1].png.evidence.png", "b_grey.JPG.evidence.png", "night/red.png.evidence.png"]
    normal = decode_full((out / "b_grey.JPG.evidence.png").read_bytes())
    assert normal.shape == (48, 48, 3)
    assert np.abs(normal.astype(int) - 120).max() <= 12


def test_evidence_pictures_of_equal_names_do_not_replace_each_other(footage: Path, tmp_path: Path) -> None:
    (footage / "red.png").write_bytes(encode(grey_frames(1, 40)[0]))
    out = tmp_path / "evidence"
    score(footage / "red.png", footage / "night" / "red.png", "--evidence-dir", out)
    written = [out / name for name in ("red.png.evidence.png", "red.png.2.evidence.png")]
    assert [decode_full(path.read_bytes()).shape[0] for path in written] == [40, 64]


def test_globs_and_folders_are_expanded_once(footage: Path) -> None:
    names = [file.path.name for file in collect_files([f"{footage}/**/*.png", str(footage)])]
    assert names == ["a red [1].png", "red.png", "b_grey.JPG"]
    # A name with brackets is a file before it is a pattern.
    assert [file.path.name for file in collect_files([str(footage / "a red [1].png")])] == ["a red [1].png"]
    with pytest.raises(RequestError, match="no file matches"):
        collect_files([f"{footage}/*.gif"])
    (footage / "empty").mkdir()
    with pytest.raises(RequestError, match="no images in folder"):
        collect_files([str(footage / "empty")])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--pair", "nope"), "available: tiny"),
        (("--operating-point", "nope"), "it has balanced"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--variant", "int8"), "it has fp32"),
    ],
)
def test_what_cannot_start_names_the_remedy(footage: Path, options: tuple[str, str], says: str) -> None:
    with pytest.raises(PipeprobeError, match=says):
        score(footage, *options)


def test_what_cannot_be_written_is_a_user_error(footage: Path) -> None:
    blocked = footage / "notes.txt" / "verdicts.csv"
    with pytest.raises(ConfigError, match=r"cannot write .*verdicts\.csv"):
        score(footage, "--csv", blocked)
    with pytest.raises(ConfigError, match=r"cannot write .*evidence\.png"):
        score(footage, "--evidence-dir", footage / "notes.txt" / "sub")


CALIBRATION = Calibration(slope=1.0, intercept=0.0, n=1, data="none")


def test_heat_is_the_calibrated_score_of_each_place() -> None:
    evidence = np.array([[-800.0, 0.0], [np.log(3), 800.0]], np.float32)
    np.testing.assert_allclose(heat_map(evidence, CALIBRATION), [[0, 0.5], [0.75, 1]], atol=1e-6)


def test_cold_places_stay_as_they_are_and_hot_ones_turn_red() -> None:
    frame = grey_frames(1, 80)[0]
    evidence = np.full((4, 4), -50.0, np.float32)
    evidence[0, 0] = 50.0
    overlay = draw_evidence(frame, evidence, CALIBRATION)
    assert overlay.shape == frame.shape
    np.testing.assert_array_equal(overlay[40:, 40:], frame[40:, 40:])
    red, green, _ = overlay[5, 5].astype(int)
    assert red > 170
    assert green < 60
    with pytest.raises(ValueError, match=r"evidence \[h, w\]"):
        draw_evidence(frame, evidence[0], CALIBRATION)
