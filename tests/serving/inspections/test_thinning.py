"""Sampling by distance: what is chosen when distances are known, late, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.inspections.distance import NOWHERE, Place
from serving.inspections.thinning import SLOWEST_M_S, Choice, choose
from serving.inspections.video import Sample
from serving.inspections.video_settings import FASTEST_M_S, VideoSettings

EVERY_M = 0.25
STEP_S = 0.5
HOLE_S = 0.75


class Slow:
    """A locator that makes up its mind about several frames at a time."""

    origin: dict[str, Any] = {}  # noqa: RUF012  # of the protocol

    def __init__(self, distances_m: Sequence[float | None], patience: int) -> None:
        self._distances_m = distances_m
        self._patience = patience
        self._n_seen = self._n_decided = 0

    def see(self, sample: Sample) -> None:
        self._n_seen += 1

    def decided(self) -> list[Place]:
        if self._n_seen - self._n_decided < self._patience:
            return []
        decided = [place(each) for each in self._distances_m[self._n_decided : self._n_seen]]
        self._n_decided = self._n_seen
        return decided

    def finish(self) -> None:
        self._patience = 0

    def places(self, times_s: Sequence[float]) -> list[Place]:
        raise AssertionError("choosing is over before this is asked")


def place(distance_m: float | None) -> Place:
    return NOWHERE if distance_m is None else Place(distance_m=distance_m, source="osd", confidence=0.9)


def sample(time_s: float, grey: int = 0) -> Sample:
    picture = cast(Any, SimpleNamespace(is_keyframe=time_s == 0))
    return Sample(pts_s=time_s, frame=np.full((14, 14, 3), grey, np.uint8), picture=picture)


def chosen(times_s: Sequence[float], distances_m: Sequence[float | None], *, patience: int = 1) -> list[Choice]:
    settings = VideoSettings(every_m=EVERY_M, every_s=STEP_S, repeat_stills=True)
    return list(choose(map(sample, times_s), Slow(distances_m, patience), settings))


def scored_s(choices: Sequence[Choice]) -> list[float]:
    return [each.pts_s for each in choices if each.sample is not None]


def test_a_steady_crawl_is_scored_by_the_step() -> None:
    times_s = [i * STEP_S for i in range(20)]
    choices = chosen(times_s, [1 + 0.2 * t for t in times_s])
    assert [c.pts_s for c in choices] == times_s
    assert scored_s(choices) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9.5], "0.2 m apart: 0.3 m would be more than the step"
    assert {c.score_source for c in choices if c.sample is None} == {"between"}
    assert [c.kind for c in choices] == ["keyframe"] + 19 * ["predicted"]


def test_no_step_scores_everything() -> None:
    times_s = [i * STEP_S for i in range(8)]
    choices = list(choose(map(sample, times_s), Slow([None] * 8, 100), VideoSettings(repeat_stills=True)))
    assert scored_s(choices) == times_s
    assert {c.score_source for c in choices} == {"scored"}


def test_where_nothing_is_known_time_decides() -> None:
    times_s = [i * STEP_S for i in range(20)]
    assert scored_s(chosen(times_s, [None] * 20)) == times_s
    known = [0.01 * t for t in times_s[:10]] + [None] * 10
    assert scored_s(chosen(times_s, known))[-10:] == times_s[10:]


def test_a_standstill_is_looked_at_now_and_then() -> None:
    times_s = [i * STEP_S for i in range(21)]
    assert scored_s(chosen(times_s, [3.0] * 21)) == [0, 2.5, 5, 7.5, 10]


def test_a_hole_in_the_video_is_not_bridged() -> None:
    times_s = [0, 0.5, 1.0, 2.0, 2.5, 3.0]
    assert scored_s(chosen(times_s, [1.0] * 6)) == [0, 1.0, 2.0, 3.0]


def test_a_leap_is_scored_on_both_sides() -> None:
    times_s = [i * STEP_S for i in range(8)]
    assert scored_s(chosen(times_s, [1, 1, 1, 1, 9, 9, 9, 9])) == [0, 1.5, 2.0, 3.5]
    there_and_back: list[float | None] = [1, 1, 9, 1, 1, 1, 1, 1]
    assert scored_s(chosen(times_s, there_and_back)) == [0, 0.5, 1.0, 1.5, 3.5]


# Seconds since the frame before, metres since it, and whether they are known; mostly as they are.
_STEPS = tuple(product((0.5, 0.5, 0.48, 1.2, 7.0), (0.0, 0.02, 0.08, 0.08, -0.08, 0.4), (True, True, False)))


@st.composite
def crawls(draw: st.DrawFn) -> tuple[list[float], list[float | None]]:
    steps = draw(st.lists(st.sampled_from(_STEPS), min_size=1, max_size=40))
    times_s = np.cumsum([seconds for seconds, *_ in steps]).round(6).tolist()
    distances_m = np.cumsum([metres for _, metres, _ in steps]).round(3).tolist()
    return times_s, [d if known else None for d, (*_, known) in zip(distances_m, steps, strict=True)]


@given(crawls(), st.integers(1, 41))
def test_every_frame_is_scored_or_close_to_the_one_that_it_has_its_score_of(
    crawl: tuple[list[float], list[float | None]], patience: int
) -> None:
    times_s, distances_m = crawl
    choices = chosen(times_s, distances_m, patience=patience)
    assert [c.pts_s for c in choices] == times_s
    assert scored_s(choices) == scored_s(chosen(times_s, distances_m)), "whoever decides late decides the same"
    is_scored = [c.sample is not None for c in choices]
    assert is_scored[0]
    assert is_scored[-1]
    last = 0
    for i in range(1, len(times_s)):
        if is_scored[i]:
            last = i
            continue
        assert times_s[i] - times_s[i - 1] <= HOLE_S
        here_m, last_m = distances_m[i], distances_m[last]
        seconds = times_s[i] - times_s[last]
        if here_m is None or last_m is None:
            assert seconds <= EVERY_M / FASTEST_M_S + 0.001
        else:
            assert abs(here_m - last_m) <= EVERY_M + 1e-6
            assert seconds <= EVERY_M / SLOWEST_M_S + 0.001


@given(crawls())
def test_no_frame_is_scored_in_vain(crawl: tuple[list[float], list[float | None]]) -> None:
    times_s, distances_m = crawl
    scored = [times_s.index(each) for each in scored_s(chosen(times_s, distances_m))]
    for before, here in pairwise(scored[:-1]):
        after = here + 1
        a, b = distances_m[before], distances_m[after]
        has_hole = any(times_s[i + 1] - times_s[i] > HOLE_S for i in range(before, after))
        is_far = a is None or b is None or abs(a - b) > EVERY_M or abs((distances_m[here] or 0) - a) > EVERY_M
        is_late = times_s[after] - times_s[before] > (
            EVERY_M / (FASTEST_M_S if a is None or b is None else SLOWEST_M_S)
        )
        unknown_here = distances_m[here] is None
        assert has_hole or is_far or is_late or unknown_here


def sources(
    greys: Sequence[int], distances_m: Sequence[float | None], settings: VideoSettings, *, step_s: float = STEP_S
) -> str:
    """First letters of the score sources of frames in these greys."""
    samples = [sample(i * step_s, grey) for i, grey in enumerate(greys)]
    return "".join(
        each.score_source[0] + each.score_source[1] for each in choose(samples, Slow(distances_m, 3), settings)
    )


def test_what_shows_the_same_is_scored_once() -> None:
    assert sources([50, 50, 52, 90, 90, 50, 50], [None] * 7, VideoSettings()) == "scststscstscst"


def test_a_slow_change_adds_up() -> None:
    """Each frame differs from the one before by less than counts, and every third from the last scored one."""
    assert sources([50, 52, 54, 56, 58, 60, 62], [None] * 7, VideoSettings()) == "scststscststsc"


def test_a_still_is_not_carried_over_a_hole() -> None:
    assert sources([50, 50, 50], [None] * 3, VideoSettings(), step_s=1.0) == "scscsc"


def test_a_frozen_picture_of_a_camera_that_drives_on_is_scored_by_the_step() -> None:
    settings = VideoSettings(every_m=EVERY_M)
    assert sources([50] * 7, [0.1 * i for i in range(7)], settings) == "scstscstscstsc"


def test_looking_around_at_a_standstill_is_no_still() -> None:
    settings = VideoSettings(every_m=EVERY_M)
    assert sources([50, 50, 50, 90, 90, 90, 50], [1.0] * 7, settings)[:6] == "scstst"
    assert sources([50, 50, 50, 90, 130, 170, 210, 90], [1.0] * 8, settings) == "scststbebescbesc"


@pytest.mark.parametrize(("every_m", "step_s"), [(0.25, 0.5), (0.1, 0.2), (2.0, 0.5), (0.01, 0.02)])
def test_short_steps_are_sampled_more_densely(every_m: float, step_s: float) -> None:
    assert VideoSettings(every_m=every_m).step_s == pytest.approx(step_s)
