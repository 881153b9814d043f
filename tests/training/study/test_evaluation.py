"""What is measured of an experiment: which data sets, at which thresholds, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.calibration import Platt
from training.data.classes import CLASS_CODES
from training.study.evaluation import Scored, Verdicts, evaluate_experiment, percent

SETS = [
    "train", "val_p1", "val_p2", "val_p5", "val_p15", "val_balanced", "val_natural", "test_balanced", "test_natural"
]  # fmt: skip
# Scores are the logits' own sigmoid, and a frame is a defect from logit 1 on.
PLAIN = Verdicts(platt=Platt(slope=1.0, intercept=0.0), threshold=float(1 / (1 + np.exp(-1.0))))


def scored(normals: int, defects: int, *, seed: int = 0, apart: float = 1.0, known: bool = True) -> Scored:
    """Logits of normals about -apart, of defects about +apart; all defects show RB if `known`."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.array([0, 1], np.int8), [normals, defects])
    classes = np.zeros((len(labels), len(CLASS_CODES)), np.uint8)
    if known:
        classes[labels == 1, CLASS_CODES.index("RB")] = 1
    return Scored(logits=rng.normal(apart * (2.0 * labels - 1)), labels=labels, classes=classes)


def of_logits(*pairs: tuple[float, int]) -> Scored:
    logits, labels = (np.array(column) for column in zip(*pairs, strict=True))
    return Scored(
        logits=logits.astype(np.float64),
        labels=labels.astype(np.int8),
        classes=np.zeros((len(labels), len(CLASS_CODES)), np.uint8),
    )


def as_splits(scored: Scored) -> dict[str, Scored]:
    """The same frames as train, val and test."""
    return dict.fromkeys(("train", "val", "test"), scored)


# One normal below 0 and one between 0 and 1, one defect in each of the three ranges, one more normal above.
SIX = of_logits((-2.0, 0), (0.5, 0), (1.5, 0), (-0.5, 1), (0.5, 1), (3.0, 1))


def test_the_published_threshold_is_logit_0_and_the_chosen_one_lies_on_the_score() -> None:
    # Halving the slope and shifting leaves logit 0 where it is, and moves score 0.5 to logit 2.
    verdicts = Verdicts(platt=Platt(slope=0.5, intercept=-1.0), threshold=0.5)
    found = evaluate_experiment(as_splits(SIX), verdicts)["test_natural"]
    published, chosen = found["published"], found["chosen"]
    assert (published["threshold"], chosen["threshold"]) == (0.5, 0.5)
    # From logit 0 on: 2 of 3 defects, 2 of 3 normals.
    assert (published["precision"], published["recall"]) == (pytest.approx(1 / 2), pytest.approx(2 / 3))
    assert published["specificity"] == pytest.approx(1 / 3)
    assert published["f1"] == pytest.approx(4 / 7)
    assert published["f2"] == pytest.approx(5 * (1 / 3) / (4 / 2 + 2 / 3))
    # From logit 2 on: one defect, nothing else.
    assert (chosen["precision"], chosen["recall"], chosen["specificity"]) == (1.0, pytest.approx(1 / 3), 1.0)
    assert chosen["f1_normal"] == pytest.approx(6 / 8)


def test_a_frame_at_logit_0_is_judged_a_defect() -> None:
    data = of_logits((0.0, 1), (-1e-9, 0), (-3.0, 0), (2.0, 1))
    published = evaluate_experiment(as_splits(data), PLAIN)["val_natural"]["published"]
    assert (published["recall"], published["specificity"]) == (1.0, 1.0)


def test_areas_are_those_of_the_pairs() -> None:
    found = evaluate_experiment(as_splits(SIX), PLAIN)["train"]
    # Pairs of a defect and a normal: -0.5 beats one, 0.5 beats one and ties with one, 3 beats three.
    assert found["auroc"] == pytest.approx((1 + 1.5 + 3) / 9)
    # Precision at each rise of recall, from the top: 1/1 at 3, 2/4 at 0.5, 3/5 at -0.5.
    assert found["average_precision"] == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)
    assert (found["n"], found["n_defect"]) == (6, 3)


def test_every_set_has_exactly_its_share_of_defects() -> None:
    found = evaluate_experiment(
        {"train": scored(50, 30), "val": scored(400, 300, seed=1), "test": scored(60, 90, seed=2)}, PLAIN
    )
    assert sorted(found) == sorted(SETS)
    counts = {name: (value["n"], value["n_defect"]) for name, value in found.items()}
    # All 400 normals with as many defects as make up the share, rounded.
    assert counts["val_p1"] == (404, 4)
    assert counts["val_p2"] == (408, 8)
    assert counts["val_p5"] == (421, 21)
    assert counts["val_p15"] == (471, 71)
    # As many of each as the rarer label has.
    assert counts["val_balanced"] == (600, 300)
    assert counts["test_balanced"] == (120, 60)
    assert (counts["train"], counts["val_natural"], counts["test_natural"]) == ((80, 30), (700, 300), (150, 90))


def test_sets_are_draws_of_the_splits_own_scores_and_the_same_each_time() -> None:
    val = scored(400, 300, apart=0.5, seed=1)
    found, again = (evaluate_experiment(as_splits(val), PLAIN) for _ in range(2))
    assert found == again
    # All normals are in every draw, and a false alarm does not depend on the defects.
    normals = {found[name]["published"]["specificity"] for name in ("val_p1", "val_p2", "val_p5", "val_p15")}
    assert normals == {float(np.mean(val.logits[:400] < 0))}
    # Areas hardly depend on the share of defects; precision does.
    assert found["val_p15"]["auroc"] == pytest.approx(found["val_natural"]["auroc"], abs=0.05)
    assert found["val_p1"]["published"]["precision"] < found["val_natural"]["published"]["precision"]


def test_sets_that_a_small_split_cannot_give_are_left_out() -> None:
    small = scored(20, 20)
    found = evaluate_experiment(as_splits(small), PLAIN)
    # 1 % and 2 % of 20 normals are no defect; 5 % are one.
    assert set(found) == set(SETS) - {"val_p1", "val_p2"}
    assert (found["val_p5"]["n"], found["val_p5"]["n_defect"]) == (21, 1)


def test_the_weighted_metric_is_there_where_classes_are_known() -> None:
    known, unknown = scored(40, 40), scored(40, 40, known=False)
    found = evaluate_experiment({"train": known, "val": unknown, "test": known}, PLAIN)
    assert "f2_ciw_binary" in found["train"]["published"]
    assert "f2_ciw_binary" not in found["val_natural"]["chosen"]
    assert "f2_ciw_binary" in found["test_balanced"]["chosen"]


@pytest.mark.parametrize(("share", "name"), [(0.01, "p1"), (0.15, "p15"), (0.005, "p0.5"), (0.07, "p7")])
def test_percent(share: float, name: str) -> None:
    assert percent(share) == name


def test_without_a_test_split_nothing_is_said_of_it() -> None:
    found = evaluate_experiment({"train": SIX, "val": SIX}, PLAIN)
    assert [name for name in SETS if name in found] == list(found)
    assert {"train", "val_natural"} <= set(found)
    assert not [name for name in found if name.startswith("test")]
