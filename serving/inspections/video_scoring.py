"""One inspection video of a batch: read, scored, located and written to its folder, or kept from an earlier call.

`serving.inspections.videos` says which videos, and what is written about all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.durable import sha256_file
from serving.errors import ConfigError, ScoringError, VideoError
from serving.formats.frames_parquet import Frames
from serving.formats.observation import Origin
from serving.inspections.deliverables import Found, are_all_there, read_findings, write_deliverables
from serving.inspections.distance import Place
from serving.inspections.findings import FindingRules, find_findings, leave_for
from serving.inspections.frame_scorer import FrameScorer, ScorerIdentity
from serving.inspections.locating import Locator, locator_for
from serving.inspections.spacing import spacing_of
from serving.inspections.thinning import Choice, choose
from serving.inspections.thumbnails import PeakPictures
from serving.inspections.video import Sample, VideoInfo, check_file, unscored_stretches
from serving.inspections.video_result import VideoResult, lost_stretches, result_of, spans_text
from serving.inspections.video_settings import LONGEST_HANG_S, SHORTEST_HANG_S, VideoSettings
from serving.inspections.watched_reader import WatchedReader
from serving.pairs.manifest import OperatingPoint
from serving.prefetch import prefetch
from serving.report.write import write_video_report

# Frames a batch and batches that wait. More of either only holds memory: a waiting frame keeps its whole picture.
_BATCH = 16
_BATCHES_AHEAD = 2
# Sampled frames after which progress is made known though nearly none of them is scored.
_MOST_CHOICES = 128


@dataclass(frozen=True, kw_only=True)
class Footage:
    """One video of a batch.

    Attributes:
        path: where it is read, on the machine that scores it.
        given: how the caller named it, which is how results and messages name it.
        address: where it lies for good, whoever scores it.
    """

    path: Path
    given: str
    address: str

    @classmethod
    def of(cls, video: Path) -> Footage:
        """A file that this machine sees."""
        return cls(path=video, given=str(video), address=str(video.resolve()))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What all videos of one call share; `key` is all that, besides a video's content, decides what is found."""

    scorer: FrameScorer
    settings: VideoSettings
    point: OperatingPoint
    rules: FindingRules
    hang_s: float
    key: dict[str, Any]
    on_start: Callable[[Path, VideoInfo], None]
    on_sample: Callable[[Path, float], None]

    @classmethod
    def of(
        cls,
        scorer: FrameScorer,
        settings: VideoSettings,
        hang_s: float,
        on_start: Callable[[Path, VideoInfo], None],
        on_sample: Callable[[Path, float], None],
    ) -> Batch:
        if not SHORTEST_HANG_S <= hang_s <= LONGEST_HANG_S:
            raise ConfigError(
                f"a video that hangs cannot be given up after {hang_s:g} s; take {SHORTEST_HANG_S} to "
                f"{LONGEST_HANG_S} s"
            )
        return cls(
            scorer=scorer,
            settings=settings,
            point=scorer.manifest.operating_point(settings.operating_point),
            rules=_rules(scorer, settings),
            hang_s=hang_s,
            key=scoring_key(scorer, settings),
            on_start=on_start,
            on_sample=on_sample,
        )


def scoring_key(scorer: ScorerIdentity, settings: VideoSettings) -> dict[str, Any]:
    """`Batch.key`, also of a scorer that is not open here. Raises `OperatingPointNotFoundError`."""
    return {
        "pair": scorer.manifest.name,
        "pair_version": scorer.manifest.version,
        # The manifest names the SHA-256 of every other file of the pair.
        "pair_sha256": scorer.manifest_sha256,
        "variant": scorer.variant,
        "device": scorer.device.partition(":")[0],
        "operating_point": scorer.manifest.operating_point(settings.operating_point).name,
        "every_s": settings.step_s,
        "every_m": settings.every_m,
        "repeat_stills": settings.repeat_stills,
        "distance": settings.distance,
        **asdict(_rules(scorer, settings)),
    }


def _rules(scorer: ScorerIdentity, settings: VideoSettings) -> FindingRules:
    threshold = scorer.manifest.operating_point(settings.operating_point).threshold
    return FindingRules(
        enter=threshold,
        leave=leave_for(threshold),
        min_duration_s=settings.min_duration_s,
        join_gap_s=settings.join_gap_s,
    )


def score_or_fail(video: Footage, folder: Path, batch: Batch) -> VideoResult:
    """Score a video into `folder` unless that was done before; one that cannot be is a result that says why."""
    sha256 = ""
    try:
        check_file(video.path)
        sha256 = _sha256(video.path)
        if holds_another(folder, video, lambda: sha256):
            # Given by another process to another video of that name since this call began.
            raise VideoError(f"{folder} was taken by another video of this name meanwhile: run the command again")
        locator = locator_for(video.path, batch.settings.distance)
        result = _kept(video, folder, sha256, locator, batch.key)
        if result is None:
            size = batch.scorer.manifest.image_size
            with WatchedReader(video.path, every_s=batch.settings.step_s, size=size, hang_s=batch.hang_s) as reader:
                batch.on_start(video.path, reader.info)
                result = _score(video, reader, folder, sha256, locator, batch)
            write_video_report(folder)
        return result
    except VideoError as error:
        return failure(video, folder, str(error), sha256=sha256)
    except ScoringError as error:
        return failure(video, folder, f"{video.given}: {error}", sha256=sha256)


def failure(video: Footage, folder: Path, reason: str, *, sha256: str = "") -> VideoResult:
    """The result of a video that could not be scored; its SHA-256 is looked up if it is not given."""
    return VideoResult(
        video=video.given,
        status="failed",
        folder=folder,
        video_sha256=sha256 or _sha256_if_readable(video.path),
        # Decoders are told the whole path.
        reason=reason.replace(str(video.path.absolute()), video.given),
    )


def holds_another(folder: Path, video: Footage, sha256: Callable[[], str]) -> bool:
    """Whether a folder holds the findings of another video; `sha256` is asked for this one's if addresses differ."""
    earlier = read_findings(folder)
    if earlier is None or earlier.get("video_path") == video.address:
        return False
    return bool(earlier.get("video_sha256") != sha256())


def _sha256(video: Path) -> str:
    try:
        return sha256_file(video)
    except OSError as error:
        raise VideoError(f"{video} cannot be read: {error.strerror or error}") from error


def _sha256_if_readable(path: Path) -> str:
    """Of a file that is no video; empty if it cannot be read."""
    try:
        return sha256_file(path) if path.is_file() else ""
    except OSError:
        return ""


def _kept(video: Footage, folder: Path, sha256: str, locator: Locator, key: Mapping[str, Any]) -> VideoResult | None:
    """The result of an earlier call over the same content with the same pair and settings, if all of it is there.

    If a stretch was lost then, it may be had now, since what killed a decoder may have nothing to do with the video.
    The page is made again if it is missing, or of an earlier release.
    """
    earlier = read_findings(folder)
    if earlier is None or not _is_current(earlier, sha256, locator, key) or not are_all_there(folder, earlier):
        return None
    try:
        write_video_report(folder)
    except ConfigError:  # what it is made of was damaged since, which counts as missing
        return None
    return result_of(video.given, folder, "kept", earlier)


def keep(video: Footage, folder: Path, sha256: str, key: Mapping[str, Any]) -> VideoResult | None:
    """The result of an earlier call over a video whose hash is known, as `score_or_fail` would keep it.

    `key` is the batch's. The video itself need not be there, only the file of distances beside it, if it has one.
    """
    try:
        return _kept(video, folder, sha256, locator_for(video.path, key["distance"]), key)
    except VideoError:
        return None


def is_current(document: Mapping[str, Any], video: Footage, sha256: str, key: Mapping[str, Any]) -> bool:
    """Whether a `findings.json` says what would be found now; the video itself need not be there, as for `keep`."""
    try:
        return _is_current(document, sha256, locator_for(video.path, key["distance"]), key)
    except VideoError:
        return False


def _is_current(document: Mapping[str, Any], sha256: str, locator: Locator, key: Mapping[str, Any]) -> bool:
    same = document["video_sha256"] == sha256 and document["scoring"] == key
    return same and document.get("distance") == locator.origin and not lost_stretches(document)


def _score(
    video: Footage, reader: WatchedReader, folder: Path, sha256: str, locator: Locator, batch: Batch
) -> VideoResult:
    started_s = time.monotonic()
    calibration = batch.scorer.manifest.calibration
    # No two samples are nearer than two pictures.
    shortest_s = max(batch.settings.step_s, 1 / reader.info.frame_rate if reader.info.frame_rate else 0.0)
    with PeakPictures(enter=batch.rules.enter, step_s=shortest_s, calibration=calibration) as peaks:
        frames, places = _score_samples(reader, peaks, locator, batch)
        # A video with fewer frames than were asked for is sampled at its own pace.
        step_s = max(batch.settings.step_s, reader.counts.spacing_s or 0.0)
        about = {
            **_describe(video, reader, frames.pts_s, step_s),
            "video_sha256": sha256,
            "scoring": batch.key,
            "distance": locator.origin,
            "sampling": asdict(spacing_of(frames)),
            "peak_score": round(max(frames.score), 6),
        }
        findings = find_findings(frames.pts_s, frames.score, batch.rules, step_s=step_s)
        found = [Found(finding=each, place=places[each.peak_s]) for each in findings]
        written = write_deliverables(folder, _origin(about, batch), about, frames, found, peaks)
    seconds_taken = round(time.monotonic() - started_s, 3)
    return result_of(video.given, folder, "scored", written, seconds_taken=seconds_taken)


def _score_samples(
    reader: WatchedReader, peaks: PeakPictures, locator: Locator, batch: Batch
) -> tuple[Frames, dict[float, Place]]:
    """All samples with their scores, and where each was taken, by its time.

    Decoding, and reading the picture's counter, run ahead in a thread while this one scores.
    """
    rows = _Rows()
    choices = choose(reader, locator, batch.settings)
    with closing(prefetch(_batches(choices), ahead=_BATCHES_AHEAD)) as batches:
        for chosen in batches:
            results = _results(batch.scorer, [each.sample for each in chosen if each.sample is not None])
            for choice in chosen:
                if choice.sample is None:
                    rows.take_over(choice)
                    peaks.pass_by(choice.pts_s)
                else:
                    score, logit, evidence = next(results)
                    rows.add(choice, score, logit)
                    peaks.see(choice.sample, score, evidence)
                batch.on_sample(reader.path, choice.pts_s)
    times_s = [choice.pts_s for choice in rows.choices]
    places = locator.places(times_s)
    return rows.frames(places), dict(zip(times_s, places, strict=True))


@dataclass(frozen=True)
class _Rows:
    """What is known of every sampled frame when its turn was; where it was taken is known only at the end."""

    choices: list[Choice] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)

    def add(self, choice: Choice, score: float, logit: float) -> None:
        self.choices.append(replace(choice, sample=None))  # their pictures together would fill the memory
        self.scores.append(score)
        self.logits.append(logit)

    def take_over(self, choice: Choice) -> None:
        self.add(choice, self.scores[-1], self.logits[-1])

    def frames(self, places: Sequence[Place]) -> Frames:
        return Frames(
            pts_s=[choice.pts_s for choice in self.choices],
            score=self.scores,
            logit=self.logits,
            kind=[choice.kind for choice in self.choices],
            score_source=[choice.score_source for choice in self.choices],
            distance_m=[place.distance_m for place in places],
            distance_source=[place.source for place in places],
            distance_confidence=[place.confidence for place in places],
        )


def _results(scorer: FrameScorer, samples: Sequence[Sample]) -> Iterator[tuple[float, float, NDArray[np.float32]]]:
    """Score, logit and evidence of each."""
    if samples:
        scored = scorer.score(np.stack([sample.frame for sample in samples]))
        yield from zip(scored.score.tolist(), scored.logit.tolist(), scored.evidence, strict=True)


def _batches(choices: Iterable[Choice]) -> Iterator[list[Choice]]:
    """Choices up to each `_BATCH`th that is to be scored, or as many as are passed on where few are."""
    batch: list[Choice] = []
    n_scored = 0
    for choice in choices:
        batch.append(choice)
        n_scored += choice.sample is not None
        if n_scored == _BATCH or len(batch) == _MOST_CHOICES:
            yield batch
            batch, n_scored = [], 0
    if batch:
        yield batch


def _origin(about: Mapping[str, Any], batch: Batch) -> Origin:
    return Origin(
        video=about["video"],
        video_sha256=about["video_sha256"],
        operating_point=batch.point.name,
        threshold=batch.point.threshold,
        pair=batch.scorer.manifest.name,
        pair_version=batch.scorer.manifest.version,
        unscored=spans_text(about["unscored"]),
    )


def _describe(video: Footage, reader: WatchedReader, times_s: Sequence[float], step_s: float) -> dict[str, Any]:
    info, counts = reader.info, reader.counts
    unscored = unscored_stretches(times_s, step_s=step_s, info=info, counts=counts)
    return {
        "video": reader.path.name,
        "video_path": video.address,
        "duration_s": round(max(counts.last_picture_s, info.duration_s or 0.0), 3),
        "reading": {
            "container": info.container,
            "codec": info.codec,
            "width": info.width,
            "height": info.height,
            "sample_aspect": f"{info.sample_aspect.numerator}:{info.sample_aspect.denominator}",
            "frame_rate": info.frame_rate,
            "start_pts_s": info.start_s,
            "step_s": step_s,
            **asdict(counts),
        },
        "unscored": [asdict(stretch) for stretch in unscored],
    }
