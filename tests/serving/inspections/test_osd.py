"""The counter is found and read off pictures by the real reader of text, and its distances are those that are shown."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from support.counter_videos import course_m, with_counter

from serving.inspections.distance import Place
from serving.inspections.osd import CounterReader
from serving.inspections.osd_band import trimmed
from serving.inspections.text_reader import Line, TextReader, text_reader

TIMES_S = [i / 2 for i in range(48)]


class Counted:
    """The real reader, with its calls counted."""

    def __init__(self, reader: TextReader) -> None:
        self._reader = reader
        self.n_found = self.n_read = 0

    def find(self, picture: NDArray[np.uint8]) -> list[Line]:
        self.n_found += 1
        return self._reader.find(picture)

    def read(self, patch: NDArray[np.uint8]) -> tuple[str, float]:
        self.n_read += 1
        return self._reader.read(patch)


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return text_reader()


def places_of(reader: Counted, paint: Callable[[float], NDArray[np.uint8]]) -> list[Place]:
    counter = CounterReader(reader)
    for time_s in TIMES_S:
        counter.see(time_s, paint(time_s)[..., 1])
    return counter.places(TIMES_S)


def assert_follows(places: list[Place], *, at_least: float = 0.9) -> None:
    errors = [abs(p.distance_m - course_m(t)) for t, p in zip(TIMES_S, places, strict=True) if p.distance_m is not None]
    assert len(errors) >= at_least * len(TIMES_S)
    assert max(errors) <= 0.1


@pytest.mark.parametrize(
    ("text_of", "look"),
    [
        (lambda t: f"{course_m(t):.2f} m", {}),
        (lambda t: f"{course_m(t):.1f}m".replace(".", ","), {"at": (240, 20)}),
        (lambda t: f"+{course_m(t):06.2f} m", {"background": 190, "ink": 0}),
        (lambda t: f"Dist. {course_m(t):.2f}", {"at": (24, 215)}),
    ],
    ids=["point", "comma, one decimal, right", "sign, dark on bright", "label, no unit"],
)
def test_displays_of_many_styles_are_read(
    text_of: Callable[[float], str], look: dict[str, object], reader: TextReader
) -> None:
    counted = Counted(reader)
    places = places_of(counted, with_counter(text_of, **look))  # type: ignore[arg-type]  # one of the dicts above
    assert_follows(places)
    assert counted.n_found == 1
    assert counted.n_read <= 16 + 0.12 * len(TIMES_S) + len(TIMES_S) / 8


def test_places_are_decided_on_the_way_much_as_at_the_end(reader: TextReader) -> None:
    def text_of(time_s: float) -> str:
        return "" if 41 <= time_s < 44 else f"{course_m(time_s):.2f} m"

    paint, times_s = with_counter(text_of), [i / 2 for i in range(240)]
    counter = CounterReader(reader)
    decided: list[Place] = []
    most_waiting = 0
    for n_seen, time_s in enumerate(times_s, start=1):
        picture = paint(time_s)[..., 1]
        # In the middle of a wait the recording goes on in another size.
        counter.see(time_s, picture if time_s < 85 else np.pad(picture, ((60, 0), (80, 0)), constant_values=90))
        decided += counter.decided()
        most_waiting = max(most_waiting, n_seen - len(decided))
    counter.finish()
    decided += counter.decided()
    assert len(decided) == len(times_s)
    assert 8 < most_waiting <= 40, "readings are rare once the pace is steady, and never rarer"
    final = counter.places(times_s)
    known = [place.distance_m is not None for place in decided]
    assert sum(known) >= 0.85 * len(times_s)
    assert sum(a == b for a, b in zip(decided, final, strict=True)) >= 0.8 * len(times_s)
    for time_s, place in zip(times_s, decided, strict=True):
        assert place.distance_m is None or abs(place.distance_m - course_m(time_s)) <= 0.1


@pytest.mark.parametrize(
    "text_of",
    [
        lambda t: "0.30 m",
        lambda t: f"12:{int(t) // 60:02d}:{int(t) % 60:02d}",
        lambda t: f"{1 + 0.1 * t:.1f} %",
        lambda t: f"{2.5 + 0.3 * np.sin(t):.1f}",
        lambda t: "",
    ],
    ids=["a diameter", "a clock", "a slope", "a number that swings", "nothing"],
)
def test_without_a_counter_nothing_is_said(text_of: Callable[[float], str], reader: TextReader) -> None:
    counted = Counted(reader)
    places = places_of(counted, with_counter(text_of))
    assert {place.source for place in places} == {"none"}
    assert counted.n_found <= 4


def test_what_cannot_be_read_for_a_while_is_unknown_and_then_known_again(reader: TextReader) -> None:
    def text_of(time_s: float) -> str:
        return "" if 11 <= time_s < 16 else f"{course_m(time_s):.2f} m"

    places = places_of(Counted(reader), with_counter(text_of))
    known = [place.distance_m is not None for place in places]
    assert sum(known[:22]) >= 20
    assert sum(known[32:]) >= 14
    for time_s, place in zip(TIMES_S, places, strict=True):
        assert place.distance_m is None or abs(place.distance_m - course_m(time_s)) <= 0.1


def test_nothing_is_made_up_where_letters_are_blurred_for_a_while(reader: TextReader) -> None:
    """Readings on both sides say that the crawler stood still; but it went on and came back."""

    def metres(time_s: float) -> float:
        excursion_m = 0.4 * np.sin(np.pi * (time_s - 45) / 6) if is_blurred(time_s) else 0.0
        return float(5 + 0.1 * min(time_s, 45) + 0.1 * max(0, time_s - 51) + excursion_m)

    def is_blurred(time_s: float) -> bool:
        return 45 <= time_s < 51

    paint, times_s = with_counter(lambda time_s: f"{metres(time_s):.2f} m"), [i / 2 for i in range(180)]
    counted = Counted(reader)
    counter = CounterReader(counted)
    for time_s in times_s:
        picture = paint(time_s)[..., 1]
        if is_blurred(time_s):
            picture = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(20)))
        counter.see(time_s, picture)
    places = counter.places(times_s)
    known = [place.distance_m is not None for place in places]
    blurred_at = [is_blurred(time_s) for time_s in times_s]
    assert not any(is_known for is_known, is_hidden in zip(known, blurred_at, strict=True) if is_hidden)
    assert all(is_known for is_known, is_hidden in zip(known, blurred_at, strict=True) if not is_hidden)
    for time_s, place in zip(times_s, places, strict=True):
        assert place.distance_m is None or abs(place.distance_m - metres(time_s)) <= 0.1
    # As many as before, and two: the last that can be read before the letters go, and the first when they are back.
    assert counted.n_read <= 20


def test_a_counter_that_moves_to_another_place_is_found_again(reader: TextReader) -> None:
    first, second = (with_counter(lambda t: f"{course_m(t):.2f} m", at=at) for at in ((24, 20), (230, 60)))
    times_s = [i / 2 for i in range(160)]
    counter = CounterReader(reader)
    for time_s in times_s:
        counter.see(time_s, (first if time_s < 20 else second)(time_s)[..., 1])
    places = counter.places(times_s)
    assert places[-1].distance_m == pytest.approx(course_m(times_s[-1]), abs=0.02)


def test_a_counter_that_moves_after_a_long_steady_time_is_missed_soon(reader: TextReader) -> None:
    first, second = (with_counter(lambda t: f"{course_m(t):.2f} m", at=at) for at in ((24, 20), (230, 60)))
    times_s = [i / 2 for i in range(180)]
    counter = CounterReader(reader)
    for time_s in times_s:
        counter.see(time_s, (first if time_s < 50 else second)(time_s)[..., 1])
    known = [place.distance_m is not None for place in counter.places(times_s)]
    assert sum(known[:100]) >= 90
    # Up to 20 s until it is missed, three readings in vain 4 s apart, and a reading or two of the other place.
    assert all(known[170:])


def test_readings_stay_rare_after_something_was_amiss(reader: TextReader) -> None:
    def text_of(time_s: float) -> str:
        return "" if 42 <= time_s < 48 else f"{course_m(time_s):.2f} m"

    paint, times_s = with_counter(text_of), [i / 2 for i in range(260)]
    counted = Counted(reader)
    counter = CounterReader(counted)
    n_read = []
    for time_s in times_s:
        counter.see(time_s, paint(time_s)[..., 1])
        n_read.append(counted.n_read)
    assert n_read[-1] - n_read[100] <= 4  # 80 s, 20 s apart
    places = counter.places(times_s)
    assert all(place.distance_m is not None for place in places[140:])


def test_trimming_leaves_room_for_a_thin_leading_digit_that_hardly_shows() -> None:
    """A 1 that is cut off leaves a number that looks right and is 10 m wrong."""
    patch = np.full((44, 120), 120, np.uint8)
    patch[8:36, 40:44] = 40  # a letter 4 wide
    patch[8:36, 24] = 105  # and before it, a digit's width away, one that hardly shows
    kept = trimmed(patch)
    assert (kept == 105).any()
    assert kept.shape[1] < patch.shape[1] / 2


def test_pictures_that_change_size_are_searched_anew(reader: TextReader) -> None:
    paint = with_counter(lambda t: f"{course_m(t):.2f} m")
    counter = CounterReader(reader)
    for time_s in TIMES_S:
        picture = paint(time_s)[..., 1]
        counter.see(time_s, picture if time_s < 12 else np.pad(picture, ((60, 0), (80, 0)), constant_values=90))
    assert_follows(counter.places(TIMES_S))
