"""The published study's claims, each judged by a rule that was written down before its numbers.

Source of the claims: Otero, Mateus and Balestriero (arXiv 2410.04289).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from training.report import judges
from training.report.cells import Grid
from training.report.judges import Judgement

MEANING = (
    "`held`: the rule's condition is met. `not held`: it is not met; `undecided`: nor do the runs show the "
    "opposite, so that more of them may turn it. `not tested`: runs or seeds are too few for the rule, and it says "
    "which. Rules take runs as independent; those of one seed share their training frames, which makes intervals of "
    "differences wider than they need be, if anything. Each interval is for itself: with this many, one in twenty "
    "errs by chance."
)

_T = "95 % interval (t over seeds, Welch-Satterthwaite)"
_SAME_F1 = "F1 on validation at the proportion of training, threshold 0.5"
_BALANCED_F1 = "F1 on balanced validation, threshold 0.5"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, the rule it is judged by, and the judge."""

    text: str
    rule: str
    judge: Callable[[Grid], Judgement]


CLAIMS: tuple[Claim, ...] = (
    Claim(
        text="Joint embedding (SimCLR, Barlow Twins) beats MAE under imbalance",
        rule=f"{_SAME_F1}: the mean difference to MAE over backbones and proportions has a {_T} above 0, for SimCLR "
        "and for Barlow Twins. On ResNet-18 masked conv, this project's own, stands in for MAE. Cells with fewer than "
        f"{judges.MIN_RUNS} runs are left out and named.",
        judge=judges.joint_embedding_beats_mae,
    ),
    Claim(
        text="The method matters more than the backbone",
        rule=f"{_SAME_F1}: in an analysis of variance over the study's five methods, with method, backbone, proportion "
        "and the interactions of any two, omega^2 of method less omega^2 of backbone has a 95 % residual-bootstrap "
        "interval above 0. (omega^2, because by chance alone five methods explain more than two backbones do.)",
        judge=judges.method_over_encoder,
    ),
    Claim(
        text="RankMe does not predict F1",
        rule=f"{_BALANCED_F1}, over all self-supervised runs: Spearman's rho with RankMe has a 95 % bootstrap interval "
        f"(which resamples method x backbone pairs whole) below {judges.USEFUL_RHO}, so that a correlation one could "
        "choose encoders by is excluded.",
        judge=judges.rankme_does_not_predict,
    ),
    Claim(
        text=f"SimCLR reaches F1 {judges.PUBLISHED_F1} at 15 % defects",
        rule=f"F1 on validation at 15 %, threshold 0.5: on one backbone at least, its {_T} lies at or above "
        f"{judges.PUBLISHED_F1}. The published figure is for Sewer-ML; other data are easier or harder.",
        judge=judges.simclr_reaches_published,
    ),
    Claim(
        text="DINO fails at 1-2 % on ResNet-18 but not on ViT-Tiny",
        rule=f"{_SAME_F1}, against a probe on random weights: DINO fails where its mean is no higher, or where half of "
        f"its runs collapse or diverge; it works where the difference has a {_T} above 0; in between it is unclear. "
        "It must fail at 1 and 2 % on ResNet-18 and work at both on ViT-Tiny.",
        judge=judges.dino_fails_on_resnet_alone,
    ),
    Claim(
        text="BYOL holds up at 1 %",
        rule=f"{_BALANCED_F1}, on every backbone of the plan: BYOL trained at 1 % keeps at least {judges.KEPT_SHARE} "
        f"of its F1 trained at 15 %, and beats a probe on random weights; both differences have a {_T} above 0.",
        judge=judges.byol_holds_up,
    ),
    Claim(
        text="A gap to supervised training stays",
        rule=f"{_SAME_F1}, on every backbone of the plan: the supervised baseline less the best self-supervised "
        f"method, as the mean over proportions, has a {_T} above 0. The best method is the one with the "
        "highest mean, which makes the rule strict.",
        judge=judges.gap_to_supervised_stays,
    ),
)


def judge_all(grid: Grid) -> list[tuple[Claim, Judgement]]:
    """Every claim with its judgement."""
    return [(claim, claim.judge(grid)) for claim in CLAIMS]
