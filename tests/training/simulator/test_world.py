from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ConfigError
from training.data.classes import CLASS_CODES
from training.simulator.world import MATERIALS, PROFILES, Defect, draw_world

LOOK = (
    "material",
    "diameter_m",
    "water_level",
    "joint_spacing_m",
    "joint_phase_m",
    "stain",
    "wetness",
    "biofilm",
    "water_murk",
    "joint_wear",
)


def test_same_arguments_give_the_same_world_and_other_seeds_another() -> None:
    assert draw_world(5, codes=[("RB", "AF")]) == draw_world(5, codes=[("RB", "AF")])
    assert draw_world(5) != draw_world(6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), code=st.sampled_from(CLASS_CODES), profile=st.sampled_from(PROFILES))
def test_look_and_decor_do_not_depend_on_the_defects(seed: int, code: str, profile: str) -> None:
    clean = draw_world(seed, profile=profile, length_m=20.0)  # type: ignore[arg-type]  # sampled as a plain str
    faulty = draw_world(seed, profile=profile, length_m=20.0, codes=[(code,)])  # type: ignore[arg-type]  # as above
    assert [getattr(clean, name) for name in LOOK] == [getattr(faulty, name) for name in LOOK]
    assert clean.decor == faulty.decor
    assert clean.defects == ()
    assert replace(faulty, defects=()) == clean


def test_places_hold_the_classes_asked_for_in_order_along_the_pipe() -> None:
    codes = [("RB", "BE"), ("FS",), ("GR", "RO", "IN")]
    world = draw_world(11, length_m=30.0, codes=codes)
    assert [tuple(defect.code for defect in place) for place in world.places] == codes
    means = [np.mean([defect.distance_m for defect in place]) for place in world.places]
    assert means == sorted(means)
    assert all(0.0 < defect.distance_m < world.length_m for defect in world.defects)


@pytest.mark.parametrize("code", ["FS", "IS"])
def test_joint_classes_sit_on_a_joint(code: str) -> None:
    world = draw_world(3, material="concrete", length_m=20.0, codes=[(code,)])
    assert world.defects[0].distance_m in world.joints_m


def test_forced_severity_changes_nothing_but_severity_and_extent() -> None:
    drawn = draw_world(9, codes=[("RB",)]).defects[0]
    forced = draw_world(9, codes=[("RB",)], severity=1.0).defects[0]
    assert forced.severity == 1.0
    assert (drawn.distance_m, drawn.clock, drawn.seed) == (forced.distance_m, forced.clock, forced.seed)


def test_severities_run_from_barely_visible_to_gross_with_few_barely_visible() -> None:
    severities = np.array([draw_world(i, codes=[("OB",)]).defects[0].severity for i in range(400)])
    assert 0.02 < np.mean(severities < 0.25) < 0.25
    assert severities.min() < 0.2
    assert severities.max() > 0.9


def test_clean_pipes_have_every_water_level() -> None:
    levels = np.array([draw_world(i).water_level for i in range(300)])
    assert np.mean(levels == 0) > 0.1
    assert np.mean(levels > 0.25) > 0.05


def test_the_shifted_profile_shares_no_material_with_the_standard_one() -> None:
    assert not set(MATERIALS["standard"]) & set(MATERIALS["shifted"])


def test_errors_name_the_thing_and_the_remedy() -> None:
    with pytest.raises(ConfigError, match="unknown class 'XX'"):
        draw_world(1, codes=[("XX",)])
    with pytest.raises(ConfigError, match="ask for a length of"):
        draw_world(1, length_m=4.0, codes=[("RB",)] * 5)
    with pytest.raises(ConfigError, match="unknown profile"):
        draw_world(1, profile="odd")  # type: ignore[arg-type]  # the error is what is tested
    with pytest.raises(ConfigError, match="has no material"):
        draw_world(1, material="iron")
    with pytest.raises(ConfigError, match=r"severity 1\.5"):
        Defect(code="RB", distance_m=1.0, length_m=1.0, clock=3.0, severity=1.5, seed=0)
