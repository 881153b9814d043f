"""Frame data sets: exact shares, disjoint pipes, the same bytes for the same seed, labels that match the masks."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.errors import ConfigError
from training.data.classes import CLASS_CODES, CSV_COLUMNS
from training.data.sewer_ml import read_sewer_ml
from training.simulator.frames import FramesConfig, draw_pipe, plan_pipes, simulate_frames
from training.simulator.labels import NEGLIGIBLE_SHARE, VISIBLE_SHARE

CONFIG = FramesConfig(train=20, val=10, size=64, seed=3, masks=True, defect_share=0.4)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sim") / "frames"
    simulate_frames(CONFIG, out, workers=2, command="the test")
    return out


def test_splits_have_the_exact_shares_and_no_pipe_in_common(data_set: Path) -> None:
    inspections = {}
    for split, count in (("train", 20), ("val", 10)):
        table = read_sewer_ml(data_set, split)  # type: ignore[arg-type]
        assert len(table.names) == count
        assert int((table.labels == 1).sum()) == round(count * 0.4)
        rows = read_rows(data_set / "inspections.csv")
        folder = {"train": "train", "val": "valid"}[split]
        inspections[split] = {r["Inspection"] for r in rows if r["Filename"].startswith(folder)}
    assert not inspections["train"] & inspections["val"]


def test_tables_have_sewer_mls_columns_and_consistent_flags(data_set: Path) -> None:
    rows = read_rows(data_set / "SewerML_Train.csv")
    assert tuple(rows[0]) == CSV_COLUMNS
    for row in rows:
        defect = any(row[code] == "1" for code in CLASS_CODES)
        assert row["Defect"] == str(int(defect))
        assert not (defect and row["ND"] == "1")


def test_labels_follow_from_the_masks_by_the_stated_rule(data_set: Path) -> None:
    for row in read_rows(data_set / "SewerML_Train.csv"):
        mask = np.asarray(Image.open(data_set / "masks" / "train" / row["Filename"]))
        shares = np.bincount(mask.ravel(), minlength=18)[1:] / mask.size
        shows = [code for code, share in zip(CLASS_CODES, shares, strict=True) if share >= VISIBLE_SHARE]
        assert shows == [code for code in CLASS_CODES if row[code] == "1"]
        assert shows or shares.sum() <= NEGLIGIBLE_SHARE


def test_a_pipe_depends_on_seed_split_and_number_alone(data_set: Path) -> None:
    task = plan_pipes(CONFIG, "train")[1]
    pictures = [frame.picture for frame in draw_pipe(task)]
    for i, picture in enumerate(pictures):
        on_disk = np.asarray(Image.open(data_set / "train" / f"{task.first_frame + i:08d}.png"))
        assert np.array_equal(picture, on_disk)
    other = draw_pipe(replace(task, config=replace(CONFIG, seed=4)))
    assert not np.array_equal(other[0].picture, pictures[0])


def test_the_set_says_how_it_was_made_and_is_never_overwritten(data_set: Path) -> None:
    about = json.loads((data_set / "simulation.json").read_text())
    assert about["command"] == "the test"
    assert about["counts"]["train"]["frames"] == 20
    assert not list(data_set.parent.glob(".*.partial"))
    with pytest.raises(ConfigError, match="exists"):
        simulate_frames(CONFIG, data_set)


@pytest.mark.parametrize(
    "wrong", [{"train": 0, "val": 0}, {"size": 8}, {"defect_share": 1.0}, {"profile": "lunar"}, {"val": -1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="simulate frames"):
        replace(CONFIG, **wrong)  # type: ignore[arg-type]
