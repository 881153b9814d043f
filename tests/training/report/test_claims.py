from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from support.toy_study import PAPER, Quality, ToyStudy

from training.report import judges
from training.report.cells import Grid
from training.report.claims import CLAIMS, judge_all
from training.report.judges import HELD, NOT_HELD, NOT_TESTED, Judgement
from training.report.results import read_study

SEEDS = (-0.01, 0.0, 0.012)
# What each method adds to 0.5.
LEVELS = {"simclr": 0.2, "barlow_twins": 0.18, "byol": 0.1, "dino": 0.08, "random": -0.3, "supervised": 0.3}


def planted(levels: Mapping[str, float], **places: float) -> Quality:
    """0.5 + the method's level + seed noise; `places` adds to cells: `dino_resnet18_p1=-0.3`."""

    def quality(method: str, encoder: str, proportion: float | None, seed: int) -> float:
        share = "all" if proportion is None else f"p{100 * proportion:g}"
        return 0.5 + levels.get(method, 0.0) + SEEDS[seed % 3] + places.get(f"{method}_{encoder}_{share}", 0.0)

    return quality


def judged(tmp_path: Path, judge: str, toy: ToyStudy) -> Judgement:
    grid = Grid(read_study(toy.write(tmp_path / "runs")))
    found: Judgement = getattr(judges, judge)(grid)
    return found


def test_every_claim_has_a_rule_and_a_judge() -> None:
    assert len(CLAIMS) == 7
    assert len({claim.judge for claim in CLAIMS}) == 7
    assert all("interval" in claim.rule for claim in CLAIMS)


def test_joint_embedding_above_mae_is_held(tmp_path: Path) -> None:
    found = judged(tmp_path, "joint_embedding_beats_mae", ToyStudy(quality=planted(LEVELS)))
    assert found.verdict == HELD
    assert "SimCLR (8 of 8 cells): +0.200 (" in found.finding
    assert "Barlow Twins (8 of 8 cells): +0.180 (" in found.finding
    assert found.missing == ""
    # 8 cells and a mean for each of two methods.
    assert len(found.rows) == 18


def test_joint_embedding_below_mae_is_the_opposite(tmp_path: Path) -> None:
    toy = ToyStudy(quality=planted({**LEVELS, "barlow_twins": -0.1}))
    found = judged(tmp_path, "joint_embedding_beats_mae", toy)
    assert found.verdict == NOT_HELD
    assert found.finding.startswith("The opposite shows.")
    assert not found.undecided


def test_equal_methods_are_undecided(tmp_path: Path) -> None:
    found = judged(tmp_path, "joint_embedding_beats_mae", ToyStudy(quality=planted({})))
    assert found.verdict == NOT_HELD
    assert found.finding.startswith("Undecided.")
    assert found.undecided
    assert found.label == "not held, undecided"


def test_one_seed_tests_nothing(tmp_path: Path) -> None:
    grid = Grid(read_study(ToyStudy(quality=planted(LEVELS), seeds=1).write(tmp_path / "runs")))
    verdicts = {claim.judge.__name__: judgement for claim, judgement in judge_all(grid)}
    rankme = verdicts.pop("rankme_does_not_predict")
    assert {judgement.verdict for judgement in verdicts.values()} == {NOT_TESTED}
    assert "simclr-resnet18-p1" in verdicts["joint_embedding_beats_mae"].missing
    # Ranks run over methods and proportions, not over seeds.
    assert rankme.verdict != NOT_TESTED


def test_cells_with_too_few_runs_are_left_out_and_named(tmp_path: Path) -> None:
    lost = [f"mae-vit_tiny-p15-s{seed}" for seed in (0, 1)]
    toy = ToyStudy(quality=planted(LEVELS), lost=lost, status={"masked_conv-resnet18-p1-s0": "diverged"})
    found = judged(tmp_path, "joint_embedding_beats_mae", toy)
    assert found.verdict == HELD
    assert "SimCLR (7 of 8 cells)" in found.finding
    assert found.missing.endswith("mae-vit_tiny-p15")


def test_method_above_backbone_is_held_and_below_is_not(tmp_path: Path) -> None:
    found = judged(tmp_path, "method_over_encoder", ToyStudy(quality=planted(LEVELS)))
    assert found.verdict == HELD
    # Method, backbone, proportion and three pairs.
    assert [row[0] for row in found.rows][:4] == ["method", "backbone", "proportion", "method x backbone"]
    flipped = {f"{m}_vit_tiny_p{p}": 0.2 for m in PAPER for p in (1, 2, 5, 15)}
    toy = ToyStudy(quality=planted({"simclr": 0.01, "byol": 0.02}, **flipped))
    found = judged(tmp_path / "flipped", "method_over_encoder", toy)
    assert found.verdict == NOT_HELD
    assert found.finding.startswith("The opposite shows.")


def test_method_over_backbone_needs_both_backbones_and_three_methods(tmp_path: Path) -> None:
    toy = ToyStudy(quality=planted(LEVELS), encoders=("resnet18",))
    assert judged(tmp_path / "one", "method_over_encoder", toy).verdict == NOT_TESTED
    toy = ToyStudy(quality=planted(LEVELS), methods=("simclr", "mae", "vicreg", "visreg"))
    assert judged(tmp_path / "few", "method_over_encoder", toy).verdict == NOT_TESTED


def varied(method: str, encoder: str, proportion: float | None, seed: int) -> float:
    """Another quality for every run."""
    number = PAPER.index(method) if method in PAPER else 0
    return 0.3 + 0.08 * number + 0.5 * (proportion or 0) + 0.01 * seed + 0.03 * (encoder == "vit_tiny")


def noise(number: int) -> float:
    return float(np.random.default_rng(number).normal())


@pytest.mark.parametrize(
    ("rankme", "verdict", "words"),
    [
        (lambda quality, number: 30 * quality, NOT_HELD, "The opposite shows"),
        (lambda quality, number: 30 * quality + 4 * noise(number), NOT_HELD, "The opposite shows"),
        (lambda quality, number: 30 * (1 - quality), HELD, "rho -1.00"),
        (lambda quality, number: 20 + 5 * noise(number), HELD, "and more is excluded"),
    ],
    ids=["the ranks of F1", "with noise", "turned round", "noise alone"],
)
def test_rankme(tmp_path: Path, rankme: Callable[[float, int], float], verdict: str, words: str) -> None:
    found = judged(tmp_path, "rankme_does_not_predict", ToyStudy(quality=varied, rankme=rankme, baselines=()))
    assert found.verdict == verdict
    assert words in found.finding


def test_rankme_over_few_runs_is_undecided(tmp_path: Path) -> None:
    """Four pairs of three runs each, whose ranks lean upwards."""
    toy = ToyStudy(
        methods=("simclr", "byol"),
        baselines=(),
        proportions=(0.01, 0.05, 0.15),
        seeds=1,
        quality=varied,
        rankme=lambda quality, number: [1.0, 9, 12, 4, 2, 10, 3, 8, 5, 7, 11, 6][number],
    )
    found = judged(tmp_path, "rankme_does_not_predict", toy)
    assert found.verdict == NOT_HELD
    assert found.finding.startswith("Undecided")


def test_rankme_over_too_few_runs_is_not_tested(tmp_path: Path) -> None:
    toy = ToyStudy(methods=("simclr", "byol"), baselines=(), proportions=(0.01, 0.15), seeds=1, quality=varied)
    found = judged(tmp_path, "rankme_does_not_predict", toy)
    assert found.verdict == NOT_TESTED
    assert "12 runs of 4 method x backbone pairs" in found.finding


def test_rankme_that_is_missing_or_constant_tests_nothing(tmp_path: Path) -> None:
    toy = ToyStudy(quality=varied, rankme=lambda quality, number: 7.0)
    assert judged(tmp_path, "rankme_does_not_predict", toy).verdict == NOT_TESTED


@pytest.mark.parametrize(
    ("level", "verdict", "words"), [(0.45, HELD, ""), (0.2, NOT_HELD, "Below"), (0.31, NOT_HELD, "Undecided")]
)
def test_the_published_f1(tmp_path: Path, level: float, verdict: str, words: str) -> None:
    toy = ToyStudy(quality=planted({"simclr": level}), methods=("simclr",), baselines=(), proportions=(0.15,))
    found = judged(tmp_path, "simclr_reaches_published", toy)
    assert found.verdict == verdict
    assert found.finding.startswith(words)


FAILING = {f"dino_resnet18_p{p}": -0.6 for p in (1, 2)}


def test_dino_that_fails_on_resnet_alone(tmp_path: Path) -> None:
    toy = ToyStudy(quality=planted(LEVELS, **FAILING))
    found = judged(tmp_path, "dino_fails_on_resnet_alone", toy)
    assert found.verdict == HELD
    assert [row[-1] for row in found.rows] == ["fails", "fails", "works", "works"]


def test_dino_that_works_everywhere(tmp_path: Path) -> None:
    found = judged(tmp_path, "dino_fails_on_resnet_alone", ToyStudy(quality=planted(LEVELS)))
    assert found.verdict == NOT_HELD
    assert "works on ResNet-18 at 1 %" in found.finding


def test_dino_whose_runs_break_fails(tmp_path: Path) -> None:
    """Two of three diverge, and at 2 % two collapse with figures that look well."""
    status = {"dino-resnet18-p1-s0": "diverged", "dino-resnet18-p1-s2": "diverged"}
    status |= {f"dino-resnet18-p2-s{seed}": "collapsed" for seed in (0, 1)}
    found = judged(tmp_path, "dino_fails_on_resnet_alone", ToyStudy(quality=planted(LEVELS), status=status))
    assert found.verdict == HELD
    assert found.rows[0][3] == "2 of 3 runs collapsed or diverged"


def test_dino_without_a_floor_or_a_proportion_is_not_tested(tmp_path: Path) -> None:
    toy = ToyStudy(quality=planted(LEVELS), baselines=())
    found = judged(tmp_path / "floor", "dino_fails_on_resnet_alone", toy)
    assert found.verdict == NOT_TESTED
    assert "random-resnet18-p1" in found.missing
    toy = ToyStudy(quality=planted(LEVELS), proportions=(0.01, 0.15))
    found = judged(tmp_path / "share", "dino_fails_on_resnet_alone", toy)
    assert found.verdict == NOT_TESTED
    assert "dino-vit_tiny-p2" in found.missing


def test_byol_that_keeps_its_f1(tmp_path: Path) -> None:
    assert judged(tmp_path, "byol_holds_up", ToyStudy(quality=planted(LEVELS))).verdict == HELD


def test_byol_that_loses_its_f1(tmp_path: Path) -> None:
    toy = ToyStudy(quality=planted(LEVELS, byol_vit_tiny_p1=-0.3))
    found = judged(tmp_path, "byol_holds_up", toy)
    assert found.verdict == NOT_HELD
    assert "ViT-Tiny, F1 at 1 % less 0.9 of F1 at 15 %: -0.24" in found.finding


def test_byol_that_is_no_better_than_random_weights_does_not_hold_up(tmp_path: Path) -> None:
    toy = ToyStudy(quality=planted({**LEVELS, "random": 0.1}))
    assert judged(tmp_path, "byol_holds_up", toy).verdict == NOT_HELD


def test_byol_on_one_backbone_of_two_is_not_tested(tmp_path: Path) -> None:
    lost = [f"byol-vit_tiny-p1-s{seed}" for seed in (1, 2)]
    found = judged(tmp_path, "byol_holds_up", ToyStudy(quality=planted(LEVELS), lost=lost))
    assert found.verdict == NOT_TESTED
    assert found.missing.endswith("byol-vit_tiny-p1")


def test_the_gap_to_supervised(tmp_path: Path) -> None:
    found = judged(tmp_path, "gap_to_supervised_stays", ToyStudy(quality=planted(LEVELS)))
    assert found.verdict == HELD
    assert "supervised less SimCLR (4 of 4 cells): +0.100" in found.finding
    closed = judged(tmp_path / "closed", "gap_to_supervised_stays", ToyStudy(quality=planted({**LEVELS, "byol": 0.45})))
    assert closed.verdict == NOT_HELD
    assert "less BYOL" in closed.finding


def test_the_gap_is_not_tested_without_supervised_runs(tmp_path: Path) -> None:
    found = judged(tmp_path, "gap_to_supervised_stays", ToyStudy(quality=planted(LEVELS), baselines=("random",)))
    assert found.verdict == NOT_TESTED
    assert "supervised-resnet18-p1" in found.missing
