"""The plan of a study: which experiments, in which order, with which settings."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ConfigError
from training.study.plan import (
    Experiment,
    StudySettings,
    experiments,
    method_on,
    pretraining,
    start_of,
)

FULL = experiments(StudySettings())


def test_the_full_plan_is_the_papers_250_runs_and_its_baselines() -> None:
    assert Counter(experiment.kind for experiment in FULL) == {
        "ssl": 250, "random": 50, "supervised": 50, "finetuned": 50
    }  # fmt: skip
    per_cell = Counter((e.encoder, e.defect_proportion, e.seed) for e in FULL if e.kind == "ssl")
    assert set(per_cell.values()) == {5}
    assert len(per_cell) == 2 * 5 * 5


def test_masked_convolutions_stand_for_mae_where_there_is_no_transformer() -> None:
    methods = {(e.method, e.encoder) for e in FULL if e.kind == "ssl"}
    assert ("masked_conv", "resnet18") in methods
    assert ("mae", "vit_tiny") in methods
    assert ("mae", "resnet18") not in methods
    assert (method_on("mae", "resnet18"), method_on("masked_conv", "vit_tiny")) == ("masked_conv", None)


def test_ids_are_unique_and_say_what_was_run() -> None:
    ids = [experiment.id for experiment in FULL]
    assert len(set(ids)) == len(ids) == 400
    assert ids[:7] == [
        "random-resnet18-p1-s0",
        "simclr-resnet18-p1-s0",
        "barlow_twins-resnet18-p1-s0",
        "byol-resnet18-p1-s0",
        "dino-resnet18-p1-s0",
        "masked_conv-resnet18-p1-s0",
        "supervised-resnet18-p1-s0",
    ]
    assert ids[-1] == "finetuned_simclr-vit_tiny-all-s4"
    assert replace(FULL[0], defect_proportion=0.005).id == "random-resnet18-p0.5-s0"


def test_another_seed_or_method_leaves_the_ids_of_the_others() -> None:
    small = StudySettings(methods=("simclr", "byol"), seeds=1)
    more = StudySettings(methods=("simclr", "dino", "byol"), seeds=2)
    assert {e.id for e in experiments(small)} < {e.id for e in experiments(more)}
    assert [e.seed for e in experiments(more)] == sorted(e.seed for e in experiments(more))


def test_what_stands_in_for_a_method_that_is_asked_for_too_is_run_once() -> None:
    both = StudySettings(methods=("simclr", "mae", "masked_conv"), encoders=("resnet18",), proportions=(None,), seeds=1)
    assert [e.method for e in experiments(both)] == [
        "random", "simclr", "masked_conv", "supervised", "finetuned_simclr"
    ]  # fmt: skip


def test_a_fine_tuning_comes_after_what_it_starts_from() -> None:
    places = {experiment: place for place, experiment in enumerate(FULL)}
    tuned = [experiment for experiment in FULL if experiment.kind == "finetuned"]
    assert all(places[start_of(experiment)] < places[experiment] for experiment in tuned)
    assert start_of(tuned[0]) == Experiment(
        kind="ssl", method="simclr", encoder="resnet18", defect_proportion=0.01, seed=0
    )


def test_fine_tuning_may_start_from_a_stand_in() -> None:
    settings = StudySettings(methods=("mae",), finetuned_from="mae", encoders=("resnet18",), seeds=1)
    tuned = [experiment for experiment in experiments(settings) if experiment.kind == "finetuned"]
    assert {e.method for e in tuned} == {"finetuned_masked_conv"}
    assert {start_of(e).method for e in tuned} == {"masked_conv"}


@given(
    methods=st.lists(st.sampled_from(["simclr", "dino", "mae", "lejepa"]), unique=True),
    proportions=st.lists(
        st.one_of(st.none(), st.integers(1, 99).map(lambda n: n / 100)), min_size=1, max_size=4, unique=True
    ),
    seeds=st.integers(1, 3),
    changes=st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.integers(1, 9),
            "optim": st.sampled_from(["paper", "recommended", "short"]),
            "view_size": st.one_of(st.none(), st.integers(8, 64)),
            "frames": st.one_of(st.none(), st.integers(10, 99)),
            "initial": st.just((("resnet18", "ab"), ("vit_tiny", "cd"))),
        },
    ),
)
def test_settings_survive_json(
    methods: list[str], proportions: list[float | None], seeds: int, changes: dict[str, Any]
) -> None:
    settings = StudySettings(
        methods=tuple(methods), proportions=tuple(proportions), seeds=seeds, baselines=("random",), **changes
    )
    again = StudySettings.from_json(json.loads(json.dumps(settings.to_json())))
    assert again == settings
    assert [e.id for e in experiments(again)] == [e.id for e in experiments(settings)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("simclr", "moco")}, "methods must be one of simclr, barlow_twins, .*, got 'moco'"),
        ({"methods": ("simclr", "simclr")}, "methods names one twice: simclr, simclr"),
        ({"encoders": ("resnet50",)}, "encoders must be one of resnet18, vit_tiny, got 'resnet50'"),
        ({"baselines": ("floor",)}, "baselines must be one of random, transferred, supervised, finetuned, got 'floor'"),
        ({"finetuned_from": "moco"}, "finetuned_from must be one of simclr, barlow_twins, .*, got 'moco'"),
        ({"optim": "best"}, "optim must be one of paper, recommended, short, got 'best'"),
        ({"views": "wild"}, "views must be one of published, inspection, got 'wild'"),
        ({"encoders": ()}, "an encoder, a proportion and a seed at least"),
        ({"proportions": ()}, "an encoder, a proportion and a seed at least"),
        ({"seeds": 0}, "an encoder, a proportion and a seed at least"),
        ({"proportions": (0.01, 1.0)}, "proportions lie between 0 and 1"),
        ({"proportions": (float("nan"),)}, "proportions lie between 0 and 1"),
        # They would share a folder.
        ({"proportions": (0.15, 0.15000001)}, "proportions names one twice: p15, p15"),
        ({"methods": ("byol",)}, "finetuned_from simclr is not among the methods"),
        ({"baselines": ("transferred",)}, "needs an initial encoder for each of resnet18, vit_tiny"),
        ({"epochs": 0}, "epochs must be at least 1 and batch_size at least 2, got 0 and 256"),
        ({"batch_size": 1}, "epochs must be at least 1 and batch_size at least 2, got 100 and 1"),
        ({"view_size": 0}, "view_size must be positive, got 0"),
        ({"frames": -5}, "frames must be positive, got -5"),
        ({"calibration_share": 0.9}, r"calibration_share must be in \(0, 0.5\], got 0.9"),
    ],
)
def test_refuses_nonsense_and_names_the_choices(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StudySettings(**changes)


def test_refuses_settings_of_another_version() -> None:
    data = StudySettings().to_json()
    with pytest.raises(ConfigError, match=r"unknown keys \['lr'\], missing keys \['epochs'\]"):
        StudySettings.from_json({key: value for key, value in data.items() if key != "epochs"} | {"lr": 1})
    with pytest.raises(ConfigError, match="seeds must be int, got '5'"):
        StudySettings.from_json(data | {"seeds": "5"})


def test_an_experiments_recipe_is_the_methods_with_the_studys_settings() -> None:
    settings = StudySettings(optim="short", views="inspection", epochs=3, batch_size=64, initial=(("vit_tiny", "ab"),))
    experiment = Experiment(kind="ssl", method="dino", encoder="vit_tiny", defect_proportion=None, seed=4)
    config = pretraining(experiment, settings, 64)
    assert (config.method, config.encoder, config.image_size, config.seed) == ("dino", "vit_tiny", 64, 4)
    assert (config.axis, config.views, config.epochs, config.batch_size) == ("short", "inspection", 3, 64)
    assert config.initial_encoder == "ab"
    assert pretraining(replace(experiment, encoder="resnet18"), settings, 64).initial_encoder is None
