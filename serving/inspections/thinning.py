"""Which of the sampled frames are scored; what is not takes over the score of the last one that was.

**Standing still.** A frame that shows what the last scored one does (`serving.inspections.stills`) is not scored again.
It is compared with that one, not with the frame before it, so slow changes add up until they count.

**By distance.** The fewest frames are scored between which no more than `every_m` lies, forwards or back. Two things
put a bound on that, so that no metre goes unscored: where a distance is not known, frames are scored by time, so often
that a crawler at `FASTEST_M_S` stays within the step; where it is known, a crawler that hardly moves, or looks around
where it stands, is scored by time as well, as if it went at `SLOWEST_M_S`. To be located, frames wait: for a counter,
until it is read next, which `serving.inspections.osd_band` puts off for 40 frames at most.

Nothing is taken over from before a hole in the video, nor, where distances are waited for, from farther than `every_m`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from serving.formats.frames_parquet import BETWEEN, KEYFRAME, PREDICTED, SCORED, STILL
from serving.inspections.distance import NOWHERE, Place
from serving.inspections.findings import MISSING_STEPS
from serving.inspections.locating import Locator
from serving.inspections.stills import shows_the_same
from serving.inspections.video import Sample
from serving.inspections.video_decoding import TOLERANCE_S
from serving.inspections.video_settings import FASTEST_M_S, VideoSettings

SLOWEST_M_S = 0.1
"""A crawler that is slower, or stands, is scored as often as if it went so fast: every 2.5 s for a step of 0.25 m."""

_TOLERANCE_M = 1e-6  # distances are sums of rounded numbers


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A sampled frame; `sample` is None unless it is to be scored, and `score_source` says what its score is."""

    pts_s: float
    kind: str
    score_source: str
    sample: Sample | None


@dataclass(frozen=True, kw_only=True)
class _Seen:
    sample: Sample
    place: Place

    @property
    def time_s(self) -> float:
        return self.sample.pts_s


def choose(samples: Iterable[Sample], locator: Locator, settings: VideoSettings) -> Iterator[Choice]:
    """Every sampled frame once, in order of time, all shown to `locator`; the first one is scored."""
    seen = _unlocated(samples, locator) if settings.every_m is None else _located(samples, locator)
    return _chosen(seen, settings)


def _unlocated(samples: Iterable[Sample], locator: Locator) -> Iterator[_Seen]:
    for sample in samples:
        locator.see(sample)
        yield _Seen(sample=sample, place=NOWHERE)


def _located(samples: Iterable[Sample], locator: Locator) -> Iterator[_Seen]:
    """Samples as soon as the locator has made up its mind about them."""
    waiting: deque[Sample] = deque()
    for sample in samples:
        locator.see(sample)
        waiting.append(sample)
        for place in locator.decided():
            yield _Seen(sample=waiting.popleft(), place=place)
    locator.finish()
    for place in locator.decided():
        yield _Seen(sample=waiting.popleft(), place=place)
    assert not waiting, "a locator that has finished is decided about every frame"


def _chosen(frames: Iterable[_Seen], settings: VideoSettings) -> Iterator[Choice]:
    hole_s = MISSING_STEPS * settings.step_s
    last: _Seen | None = None  # that is scored
    held: _Seen | None = None  # the latest, if it need not be scored unless the next one is out of reach of `last`
    held_as = BETWEEN
    before_s = 0.0
    for here in frames:
        is_near = here.time_s - before_s <= hole_s
        before_s = here.time_s
        source = _takes_over(last, here, settings) if is_near else None
        if held is not None:
            if source is None:
                yield _scored(held)
                last = held
                source = _takes_over(last, here, settings) if is_near else None
            else:
                yield _taken_over(held, held_as)
            held = None
        if source is not None and settings.every_m is not None:
            held, held_as = here, source
        elif source is not None:
            yield _taken_over(here, source)
        else:
            yield _scored(here)
            last = here
    if held is not None:
        yield _scored(held)


def _takes_over(last: _Seen | None, here: _Seen, settings: VideoSettings) -> str | None:
    """As what a frame takes over the score of the last scored one; None if it does not."""
    if last is None:
        return None
    metres = _metres(last.place, here.place)
    if settings.every_m is not None and metres is not None and metres > settings.every_m + _TOLERANCE_M:
        return None
    if not settings.repeat_stills and shows_the_same(last.sample.frame, here.sample.frame):
        return STILL
    if settings.every_m is None:
        return None
    pace_m_s = FASTEST_M_S if metres is None else SLOWEST_M_S
    return BETWEEN if here.time_s - last.time_s <= settings.every_m / pace_m_s + TOLERANCE_S else None


def _metres(one: Place, other: Place) -> float | None:
    if one.distance_m is None or other.distance_m is None:
        return None
    return abs(other.distance_m - one.distance_m)


def _scored(seen: _Seen) -> Choice:
    kind = KEYFRAME if seen.sample.picture.is_keyframe else PREDICTED
    return Choice(pts_s=seen.time_s, kind=kind, score_source=SCORED, sample=seen.sample)


def _taken_over(seen: _Seen, source: str) -> Choice:
    # Without its picture, of which many would have to be kept.
    return replace(_scored(seen), score_source=source, sample=None)
