"""Which of the sampled frames are scored: all of them, or as few as a step along the pipe asks for.

**By distance.** The fewest frames are scored between which no more than `every_m` lies, forwards or back, plus the
first and the last one. What lies between two of them takes over the score of the one before it. Three things put a
bound on that, so that no metre goes unscored: where a distance is not known, frames are scored by time, so often that a
crawler at `FASTEST_M_S` stays within the step; where it is known, a crawler that hardly moves, or looks around where it
stands, is scored by time as well, as if it went at `SLOWEST_M_S`; and nothing is taken over from before a hole in the
video.

Frames wait until something is known of where they were taken: for a counter, until it is read next, which
`serving.inspections.osd_band` puts off for 40 frames at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from serving.formats.frames_parquet import BETWEEN, KEYFRAME, PREDICTED, SCORED
from serving.inspections.distance import Place
from serving.inspections.findings import MISSING_STEPS
from serving.inspections.locating import Locator
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


def choose(samples: Iterable[Sample], locator: Locator, settings: VideoSettings) -> Iterator[Choice]:
    """Every sampled frame once, in order of time, all shown to `locator`; the first and the last one are scored."""
    every_m = settings.every_m
    if every_m is None:
        return (_scored(sample) for sample in _shown(samples, locator))
    return _thinned(_located(samples, locator), every_m, hole_s=MISSING_STEPS * settings.step_s)


def _shown(samples: Iterable[Sample], locator: Locator) -> Iterator[Sample]:
    for sample in samples:
        locator.see(sample)
        yield sample


@dataclass(frozen=True, kw_only=True)
class _Located:
    sample: Sample
    place: Place

    @property
    def time_s(self) -> float:
        return self.sample.pts_s


def _located(samples: Iterable[Sample], locator: Locator) -> Iterator[_Located]:
    """Samples as soon as the locator has made up its mind about them."""
    waiting: deque[Sample] = deque()
    for sample in _shown(samples, locator):
        waiting.append(sample)
        for place in locator.decided():
            yield _Located(sample=waiting.popleft(), place=place)
    locator.finish()
    for place in locator.decided():
        yield _Located(sample=waiting.popleft(), place=place)
    assert not waiting, "a locator that has finished is decided about every frame"


def _thinned(located: Iterable[_Located], every_m: float, *, hole_s: float) -> Iterator[Choice]:
    last: _Located | None = None  # the last one that is scored
    held: _Located | None = None  # the latest one, within reach of it
    for here in located:
        if last is not None and held is not None:
            if here.time_s - held.time_s <= hole_s and _reaches(last, here, every_m):
                yield _between(held)
                held = here
                continue
            yield _scored(held.sample)
            last, held = held, None
        if last is None or here.time_s - last.time_s > hole_s or not _reaches(last, here, every_m):
            yield _scored(here.sample)
            last = here
        else:
            held = here
    if held is not None:
        yield _scored(held.sample)


def _reaches(last: _Located, here: _Located, every_m: float) -> bool:
    """Whether a score reaches from one frame to another: both show the same step of the pipe."""
    seconds = here.time_s - last.time_s - TOLERANCE_S
    if last.place.distance_m is None or here.place.distance_m is None:
        return seconds <= every_m / FASTEST_M_S
    metres = abs(here.place.distance_m - last.place.distance_m) - _TOLERANCE_M
    return metres <= every_m and seconds <= every_m / SLOWEST_M_S


def _scored(sample: Sample) -> Choice:
    kind = KEYFRAME if sample.picture.is_keyframe else PREDICTED
    return Choice(pts_s=sample.pts_s, kind=kind, score_source=SCORED, sample=sample)


def _between(located: _Located) -> Choice:
    # Without its picture, of which many would have to be kept.
    return replace(_scored(located.sample), score_source=BETWEEN, sample=None)
