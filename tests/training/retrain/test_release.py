"""Names that are free, draws that divide, and promotion that can be undone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.tiny_pair import write_tiny_pair

from serving.errors import PairNotFoundError
from serving.pairs.pair import find_pair
from training.probe import IndivisibleError
from training.retrain.release import DRAWS, first_divisible, free_name, promote


def test_a_taken_name_gets_the_next_number(tmp_path: Path) -> None:
    assert free_name(tmp_path, "pair") == "pair"
    (tmp_path / "pair").mkdir()
    assert free_name(tmp_path, "pair") == "pair-2"
    (tmp_path / "pair-2").mkdir()
    assert free_name(tmp_path, "pair") == "pair-3"


def test_promotion_names_the_pair_before_and_leaves_the_pairs_alone(tmp_path: Path) -> None:
    write_tiny_pair(tmp_path, name="new")
    write_tiny_pair(tmp_path, name="old")
    assert find_pair(tmp_path).name == "old"
    assert promote(tmp_path, "new") == "old"
    index = json.loads((tmp_path / "index.json").read_text())
    assert (index["default"], index["pairs"]) == ("new", ["new", "old"])
    assert [entry["default"] for entry in index["history"]] == ["new", "old"]
    assert promote(tmp_path, "old") == "new"
    with pytest.raises(PairNotFoundError):
        promote(tmp_path, "none")
    (tmp_path / "index.json").unlink()
    assert promote(tmp_path, "new") == ""


def test_draws_that_do_not_divide_are_drawn_again() -> None:
    tried = []

    def work(seed: int) -> str:
        tried.append(seed)
        if seed < 7:
            raise IndivisibleError("no")
        return f"seed {seed}"

    assert first_divisible(work, 5) == "seed 7"
    assert tried == [5, 6, 7]
    with pytest.raises(IndivisibleError):
        first_divisible(work, -DRAWS)
    assert len(tried) == 3 + DRAWS
