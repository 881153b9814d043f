"""Readings to distances: what parses, what is thrown out, and what is said between readings, all computed by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.inspections.distance import (
    CONFIDENT,
    MAX_GAP_S,
    MAX_SPEED_M_S,
    NOWHERE,
    Place,
    Reading,
    largest_error,
    locate,
    parse_counter,
    possible_stretches,
    usual_pace,
)


def readings(*pairs: tuple[float, float], confidence: float = 1.0) -> list[Reading]:
    return [Reading(time_s=time_s, distance_m=metres, confidence=confidence) for time_s, metres in pairs]


@pytest.mark.parametrize(
    ("text", "metres", "decimals", "has_unit"),
    [
        ("12.34 m", 12.34, 2, True),
        ("0,3 m", 0.3, 1, True),
        ("1234,567m", 1234.567, 3, True),
        ("+012.5", 12.5, 1, False),
        ("-0.40 M", -0.4, 2, True),
        ("− 1,25 m", -1.25, 2, True),  # noqa: RUF001  # as some readers give the minus sign
        ("Station: 17.05m", 17.05, 2, True),
        ("12:08:29  3.40 m", 3.4, 2, True),
        ("3.40 m 24.08.2009", 3.4, 2, True),
        ("1O.5 m", 10.5, 1, True),
        ("12，5ｍ", 12.5, 1, True),  # noqa: RUF001  # full-width, as readers of Chinese give them
        ("Dist.17.05m", 17.05, 2, True),
        ("5 . 25 m", 5.25, 2, True),
    ],
)
def test_counters_are_read(text: str, metres: float, decimals: int, has_unit: bool) -> None:
    counter = parse_counter(text)
    assert counter is not None
    assert (counter.distance_m, counter.decimals, counter.has_unit) == (metres, decimals, has_unit)


@pytest.mark.parametrize(
    "text",
    [
        *("", "m", "21m", "DN 300", "12:08:29", "24.08.2009", "8083-9170 24.08.2009 12:08:29", "192.168.1.20"),
        *("1.2 %", "1.2%", "0.3 m/s", "12.5 mm", "3.5 cm", "7.5 bar", "2.5°", "0.30 mbar", "12345.6 m", "v1.2", "A1.2"),
        *("1.2 m 3.4 m", "1.2345 m", "08-0170.5", "Pipe 12.5 Main"),
    ],
)
def test_what_is_no_counter_or_could_be_two_is_not_read(text: str) -> None:
    assert parse_counter(text) is None


def test_where_in_the_text_the_number_stands() -> None:
    counter = parse_counter("Dist 12.5 m")
    assert counter is not None
    assert counter.at == (5, 11)


@given(st.text(alphabet="0123456789.,:/-+mO% ", max_size=20))
def test_whatever_is_read_is_a_number_of_at_most_four_digits(text: str) -> None:
    counter = parse_counter(text)
    assert counter is None or abs(counter.distance_m) < 10_000


def test_a_misreading_is_dropped_and_the_rest_kept() -> None:
    kept = readings((0, 1.0), (2, 1.2), (6, 1.6), (8, 1.8))
    wrong = readings((4, 81.4))
    (stretch,) = possible_stretches(sorted([*kept, *wrong], key=lambda each: each.time_s))
    assert stretch == kept


def test_a_burst_of_misreadings_is_dropped_and_a_reset_counter_goes_on() -> None:
    before = readings(*((t, t / 10) for t in range(8)))
    burst = readings(*((8 + t, 50 + t / 10) for t in range(4)))
    after = readings(*((12 + t, 1.2 + t / 10) for t in range(8)))
    (stretch,) = possible_stretches([*before, *burst, *after])
    assert stretch == [*before, *after]
    # Eight in a row that agree with each other are a counter that was set anew.
    reset = readings(*((8 + t, 50 + t / 10) for t in range(8)))
    assert possible_stretches([*before, *reset]) == [before, reset]


def test_fewer_than_three_readings_say_nothing() -> None:
    assert possible_stretches(readings((0, 1.0), (1, 1.1))) == []
    assert locate([0, 1], [0, 1], readings((0, 1.0), (1, 1.1))) == [NOWHERE, NOWHERE]


def test_between_readings_distance_follows_the_time_that_the_counter_changed() -> None:
    """0.1 m/s but for a stop from 2 to 4 s: by hand, the stop's frames stay at 0.2 m."""
    times_s = [0, 1, 2, 3, 4, 5, 6, 7, 8]
    moving_s = [0, 1, 2, 2, 2, 3, 4, 5, 6]
    places = locate(times_s, moving_s, readings((0, 0.0), (5, 0.3), (6, 0.4), (8, 0.6)))
    assert [place.distance_m for place in places] == pytest.approx([0, 0.1, 0.2, 0.2, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert [place.source[0] for place in places] == list("oiiiiooio")
    assert [place.confidence for place in places] == [1.0] * 9


def test_what_does_not_fit_the_usual_pace_is_less_confident_or_nowhere() -> None:
    """Usual pace 0.1 m/s. 0.1 m in 2 s of movement leaves 0.1 m that went both ways: at most 0.05 m off.

    Of the 0.075 m at which confidence is halved that is two thirds, so a third of it is gone.
    """
    straight = [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)]
    assert largest_error(0.1, 2.0, 0.1) == pytest.approx(0.05)
    places = locate([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], readings(*straight, (5, 0.4)))
    assert places[4] == Place(distance_m=0.35, source="interpolated", confidence=0.667)
    # 0.0 m in 4 s of movement: up to 0.2 m off, so nowhere.
    places = locate([0, 1, 2, 3, 5, 7], [0, 1, 2, 3, 5, 7], readings(*straight, (7, 0.3)))
    assert places[4] == NOWHERE
    assert places[5].distance_m == 0.3


def test_nothing_is_said_outside_the_readings_or_across_a_long_gap() -> None:
    times_s = [0.0, 1, 2, 3, 4, 4 + MAX_GAP_S, 5 + MAX_GAP_S, 6 + MAX_GAP_S]
    read = readings((1, 0.1), (2, 0.2), (3, 0.3), (5 + MAX_GAP_S, 0.5 + MAX_GAP_S / 10))
    places = locate(times_s, times_s, read)
    assert [place.source[0] for place in places] == list("nooonnon")


def test_nothing_is_said_across_failed_readings_but_for_a_single_one() -> None:
    times_s = [0.0, 1, 2, 3, 4, 5, 6, 7]
    read = readings((0, 0.0), (1, 0.1), (2, 0.2), (7, 0.7))
    assert [place.source[0] for place in locate(times_s, times_s, read, [4.0])] == list("oooiiiio")
    assert [place.source[0] for place in locate(times_s, times_s, read, [4.0, 5.0])] == list("ooonnnno")


def test_readers_that_are_not_sure_are_not_believed() -> None:
    unsure = readings((0, 0.0), (1, 0.1), (2, 0.2), confidence=CONFIDENT - 0.01)
    assert locate([0, 1, 2], [0, 1, 2], unsure) == [NOWHERE] * 3


def test_pace_is_the_usual_one_of_what_moved() -> None:
    assert usual_pace([(0.0, 0.0), (0.2, 2.0), (-0.1, 1.0), (5.0, 1.0), (0.0, 3.0)]) == pytest.approx(0.1)
    assert usual_pace([(0.0, 2.0)]) is None


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        Reading(time_s=0, distance_m=math.nan, confidence=1)
    with pytest.raises(ValueError, match="strictly"):
        possible_stretches(readings((1, 0), (1, 0)))
    with pytest.raises(ValueError, match="alike"):
        locate([0, 1], [0], [])
    with pytest.raises(ValueError, match="sampled"):
        locate([0, 1], [0, 1], readings((0.5, 1.0)))


@st.composite
def crawls(draw: st.DrawFn) -> list[tuple[float, float]]:
    """(time_s, metres) a second apart at possible speeds: travel, stops and turns."""
    speeds = draw(st.lists(st.sampled_from([0.15, 0.15, 0.15, 0.0, -0.15]), min_size=12, max_size=60))
    metres = 5.0
    crawl = [(0.0, metres)]
    for second, speed in enumerate(speeds, start=1):
        metres += speed
        crawl.append((float(second), round(metres, 2)))
    return crawl


@settings(max_examples=60, deadline=None)
@given(crawls(), st.data())
def test_a_few_wild_readings_change_nothing_of_the_others(
    crawl: list[tuple[float, float]], data: st.DataObject
) -> None:
    """Every third reading at most is wild; every true one is kept, and no wild one."""
    wild = set(
        data.draw(st.lists(st.integers(0, len(crawl) // 3 - 1), max_size=3).map(lambda each: [3 * i for i in each]))
    )
    read = readings(*((t, m + 300 + 100 * i if i in wild else m) for i, (t, m) in enumerate(crawl)))
    (stretch,) = possible_stretches(read)
    assert [each.time_s for each in stretch] == [t for i, (t, _) in enumerate(crawl) if i not in wild]


@settings(max_examples=60, deadline=None)
@given(crawls(), st.integers(1, 4))
def test_places_lie_between_their_readings_at_possible_speeds(crawl: list[tuple[float, float]], stride: int) -> None:
    times_s = [t for t, _ in crawl]
    moving_s = [0.0]
    for (_, a), (_, b) in pairwise(crawl):
        moving_s.append(moving_s[-1] + (a != b))
    places = locate(times_s, moving_s, readings(*crawl[::stride]))
    true = dict(crawl)
    for time_s, place in zip(times_s, places, strict=True):
        if place.distance_m is not None:
            assert place.confidence is not None
            assert place.confidence >= CONFIDENT
            # Between two true readings, a distance is off by what the crawler can have gone there and back.
            assert abs(place.distance_m - true[time_s]) <= MAX_SPEED_M_S * stride / 2
        else:
            assert place == NOWHERE
    assert all(place.source == "osd" for place in places[::stride]) or len(crawl[::stride]) < 3
