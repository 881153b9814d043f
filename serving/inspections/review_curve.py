"""What a threshold finds, what it makes people look at for nothing, and how much of the pipe they still watch. Pure.

Every threshold of a sweep makes findings as `pipeprobe videos` does: a finding opens at the threshold and closes 0.8
logits below it. They are matched with the events that are known, by `serving.inspections.matching`.

**Metres.** Of pipe, not of travel: what a crawler passes twice counts once. A finding covers the pipe between the least
and the largest distance that the camera had during it; whoever looks at it watches `margin_m` more on both sides. So
the metres to watch are the length of the union of findings with their margins, within what was filmed.

**Order.** A higher threshold makes findings that lie within those of a lower one, whatever the rules: opening, closing,
joining and the minimum duration all keep that. So recall and metres never rise with the threshold. The number of
findings does not fall steadily: a low threshold makes one finding of many, and at 0 a whole inspection is one.

**Intervals.** Bootstrap over inspections, since frames and events of one inspection are alike: 95 % of the resamples.
That of recall is never narrower than Wilson's for so many events: where all few of them are found, all resamples find
them all, which proves little.

Shape legend: I inspections, T thresholds, B resamples, N frames, K points of a track.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serving.inspections.findings import FindingRules, find_findings, leave_for
from serving.inspections.matching import Interval, match_findings, merge_intervals

Floats = NDArray[np.float64]
Axis = Literal["time", "distance"]

RESAMPLES = 2000
_SWEPT = 200
_ROUNDING = 1e-9
_Z = 1.959964


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One inspection as it was scored, and what is known to be in it.

    Attributes:
        times_s, scores: [N] of the sampled frames, times rising strictly.
        step_s: sampling step, see `serving.inspections.findings`.
        track_s, track_m: [K] where along the pipe the camera was; in between it moved evenly.
        events: what there is to find, in seconds or in metres along the pipe, as `axis` says.

    Raises `ValueError` unless there are frames, the track rises strictly in time and the camera moved.
    """

    name: str
    times_s: Floats
    scores: Floats
    step_s: float
    track_s: Floats
    track_m: Floats
    events: tuple[Interval, ...]
    axis: Axis

    def __post_init__(self) -> None:
        if not len(self.times_s):
            raise ValueError(f"{self.name}: there are no frames")
        if len(self.track_s) != len(self.track_m) or not np.all(np.diff(self.track_s) > 0):
            raise ValueError(f"{self.name}: a track needs a distance for each of its times, which must rise strictly")
        if not self.length_m > 0:
            raise ValueError(f"{self.name}: the camera did not move along the pipe")

    @property
    def filmed(self) -> Interval:
        """The pipe that the sampled frames show, metres."""
        return self.metres_during(float(self.times_s[0]), float(self.times_s[-1]) + self.step_s)

    @property
    def length_m(self) -> float:
        filmed = self.filmed
        return filmed.end_s - filmed.start_s

    def metres_during(self, start_s: float, end_s: float) -> Interval:
        """The pipe that the camera passed between two times, from the least to the largest distance."""
        inside = self.track_m[(self.track_s > start_s) & (self.track_s < end_s)]
        metres = np.append(inside, np.interp([start_s, end_s], self.track_s, self.track_m))
        return Interval(start_s=float(metres.min()), end_s=float(metres.max()))


@dataclass(frozen=True, kw_only=True)
class Allowances:
    """How near is found, and how much more is watched.

    Attributes:
        tolerance: most seconds, or metres where events are known by distance, between a finding and what it finds.
        margin_m: metres watched before and behind a finding.
    """

    tolerance: float
    margin_m: float

    def __post_init__(self) -> None:
        if not (self.tolerance >= 0 and self.margin_m >= 0):
            raise ValueError(f"tolerance and margin must not be negative, got {self.tolerance} and {self.margin_m} m")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number over all inspections, and its interval over resampled ones."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Watching:
    """What it takes to catch so much of the events, with the highest threshold that does.

    The threshold is the best one in hindsight; a threshold chosen beforehand costs what its own row says.

    Attributes:
        needed: how many of the events that is; all of them where there are too few to tell.
        threshold, metres, share: None if no threshold catches so many, since some lie where nothing was scored. The
            share is of the filmed pipe; resamples in which no threshold does count as the whole pipe.
    """

    recall: float
    needed: int
    threshold: float | None
    metres: float | None
    share: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Counts by inspection and threshold [I, T]; `thresholds` [T] rise strictly; `events`, `length_m` are [I]."""

    thresholds: Floats
    found: Floats
    findings: Floats
    false: Floats
    flagged_m: Floats
    watched_m: Floats
    events: Floats
    length_m: Floats

    @property
    def recall(self) -> Floats:
        """Share of the events that are found, [T]."""
        return _ratio(self.found.sum(0), self.events.sum())

    @property
    def false_per_100m(self) -> Floats:
        """Findings that match no event, on 100 m of filmed pipe, [T]."""
        return np.asarray(100 * self.false.sum(0) / self.length_m.sum())

    @property
    def flagged_share(self) -> Floats:
        """Share of the filmed pipe that findings cover, without margins, [T]."""
        return np.asarray(self.flagged_m.sum(0) / self.length_m.sum())

    @property
    def watched_share(self) -> Floats:
        """Share of the filmed pipe that findings cover with their margins, [T]."""
        return np.asarray(self.watched_m.sum(0) / self.length_m.sum())

    def at(self, threshold: float) -> int:
        """Where in `thresholds` one of them stands; `ValueError` if it does not."""
        (where,) = np.nonzero(self.thresholds == threshold)
        if not len(where):
            raise ValueError(f"the sweep has no threshold {threshold}")
        return int(where[0])


def sweep(
    inspections: Sequence[Inspection], rules: FindingRules, allowances: Allowances, *, marked: Sequence[float] = ()
) -> Curve:
    """The curve over thresholds: 0, those `marked`, that of `rules`, and such that each takes in as many more frames.

    Of `rules` the minimum duration and the gap to join are kept. `ValueError` without inspections.
    """
    if not inspections:
        raise ValueError("there are no inspections")
    scores = np.concatenate([each.scores for each in inspections])
    swept = np.quantile(scores, np.linspace(0, 1, _SWEPT), method="inverted_cdf")
    thresholds = np.unique([0.0, rules.enter, *marked, *swept])
    counts = np.array([[_count(each, _at_threshold(rules, t), allowances) for t in thresholds] for each in inspections])
    return Curve(
        thresholds=thresholds,
        found=counts[..., 0],
        findings=counts[..., 1],
        false=counts[..., 2],
        flagged_m=counts[..., 3],
        watched_m=counts[..., 4],
        events=np.array([float(len(each.events)) for each in inspections]),
        length_m=np.array([each.length_m for each in inspections]),
    )


def _at_threshold(rules: FindingRules, threshold: float) -> FindingRules:
    return replace(rules, enter=float(threshold), leave=leave_for(float(threshold)))


def _count(
    inspection: Inspection, rules: FindingRules, allowances: Allowances
) -> tuple[float, float, float, float, float]:
    """Events found, findings, false ones, metres covered, metres to watch."""
    findings = find_findings(inspection.times_s, inspection.scores, rules, step_s=inspection.step_s)
    covered = [inspection.metres_during(each.start_s, each.end_s) for each in findings]
    spans = findings if inspection.axis == "time" else covered
    matching = match_findings(inspection.events, spans, tolerance_s=allowances.tolerance)
    return (
        len(matching.found),
        len(findings),
        len(matching.false_findings),
        _union_m(covered, 0.0, inspection.filmed),
        _union_m(covered, allowances.margin_m, inspection.filmed),
    )


def _union_m(spans: Sequence[Interval], margin_m: float, filmed: Interval) -> float:
    """Length of the union of spans, each longer by the margin at both ends, within what was filmed."""
    widened = [
        Interval(start_s=max(filmed.start_s, span.start_s - margin_m), end_s=min(filmed.end_s, span.end_s + margin_m))
        for span in spans
    ]
    return sum(each.end_s - each.start_s for each in merge_intervals(widened))


class Resamples:
    """The curve over inspections drawn anew with replacement: how often each is in each resample, [B, I]."""

    def __init__(self, curve: Curve, rng: np.random.Generator, *, n: int = RESAMPLES) -> None:
        self._curve = curve
        n_inspections = len(curve.events)
        times = rng.multinomial(n_inspections, np.full(n_inspections, 1 / n_inspections), size=n).astype(np.float64)
        if curve.events.sum():
            times = times[times @ curve.events > 0]  # of a resample without events nothing can be said
        self._times = times

    def recall(self, index: int) -> Estimate:
        """Of the threshold that stands there."""
        curve = self._curve
        drawn = _ratio(self._times @ curve.found[:, index], self._times @ curve.events)
        by_inspection = _estimate(float(curve.recall[index]), drawn)
        low, high = _wilson(float(curve.found[:, index].sum()), float(curve.events.sum()))
        return replace(by_inspection, low=min(by_inspection.low, low), high=max(by_inspection.high, high))

    def false_per_100m(self, index: int) -> Estimate:
        curve = self._curve
        drawn = 100 * (self._times @ curve.false[:, index]) / (self._times @ curve.length_m)
        return _estimate(float(curve.false_per_100m[index]), drawn)

    def watched_share(self, index: int) -> Estimate:
        curve = self._curve
        drawn = (self._times @ curve.watched_m[:, index]) / (self._times @ curve.length_m)
        return _estimate(float(curve.watched_share[index]), drawn)

    def to_catch(self, recall: float) -> Watching:
        """What it takes to catch this share of the events; see `Watching`."""
        curve = self._curve
        n_events = int(curve.events.sum())
        needed = math.ceil(recall * n_events - _ROUNDING)
        (index,) = _highest_reaching(curve.recall[None], recall)
        if index < 0:
            return Watching(recall=recall, needed=needed, threshold=None, metres=None, share=None)
        recalls = _ratio(self._times @ curve.found, (self._times @ curve.events)[:, None])
        reached = _highest_reaching(recalls, recall)
        shares = (self._times @ curve.watched_m) / (self._times @ curve.length_m)[:, None]
        drawn = np.where(reached < 0, 1.0, np.take_along_axis(shares, np.maximum(reached, 0)[:, None], axis=1)[:, 0])
        return Watching(
            recall=recall,
            needed=needed,
            threshold=float(curve.thresholds[index]),
            metres=float(curve.watched_m.sum(0)[index]),
            share=_estimate(float(curve.watched_share[index]), drawn),
        )


def _highest_reaching(recalls: Floats, wanted: float) -> NDArray[np.int64]:
    """Of each row of recalls [B, T] the last place with at least so much; -1 where there is none."""
    enough = recalls >= wanted - _ROUNDING
    last = recalls.shape[1] - 1 - np.argmax(enough[:, ::-1], axis=1)
    return np.where(enough.any(axis=1), last, -1)


def _estimate(value: float, drawn: Floats) -> Estimate:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(value=value, low=float(low), high=float(high))


def _wilson(found: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n; all of 0 to 1 where n is 0."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = found / n, _Z**2
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (share + z2 / (2 * n) - half) / (1 + z2 / n), (share + z2 / (2 * n) + half) / (1 + z2 / n)


def _ratio(part: Floats, whole: Floats | float) -> Floats:
    """Share, 1 where there is nothing to have a share of: nothing was missed."""
    return np.asarray(np.where(np.equal(whole, 0), 1.0, part / np.where(np.equal(whole, 0), 1.0, whole)))
