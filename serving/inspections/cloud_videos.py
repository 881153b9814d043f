"""The batch scorer where videos, results or both lie behind URLs: what scores a local video, on a local copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from serving.cloud_files import CloudFolder, is_url, local_path
from serving.errors import VideoError
from serving.inspections.cloud_output import CloudOutput, LocalOutput, Output, send_video
from serving.inspections.frame_scorer import FrameScorer
from serving.inspections.scratch import scratch_folder
from serving.inspections.sources import Fetcher, Source
from serving.inspections.video import VideoInfo
from serving.inspections.video_result import VideoResult
from serving.inspections.video_scoring import Batch, failure, score_or_fail
from serving.inspections.video_settings import HANG_S, VideoSettings
from serving.inspections.videos import Turn, free_folders, turns, write_batch

Results = Iterator[tuple[int, VideoResult]]
Todo = Sequence[Turn[Source]]


def score_sources(
    sources: Sequence[Source],
    out: str,
    scorer: FrameScorer,
    settings: VideoSettings,
    *,
    scratch: Path | None = None,
    hang_s: float = HANG_S,
    on_start: Callable[[Path, VideoInfo], None] = lambda video, info: None,
    on_sample: Callable[[Path, float], None] = lambda video, time_s: None,
    on_done: Callable[[VideoResult], None] = lambda result: None,
) -> list[VideoResult]:
    """`serving.inspections.videos.score_videos` for videos from `find_sources` and a path or URL to write to.

    Args:
        scratch: for at most two videos at a time, and what is on its way to `out`; None is the system's own.

    Raises:
        ConfigError: a store cannot be used, another run writes to `out`, or there is no room to work in.
    """
    batch = Batch.of(scorer, settings, hang_s, on_start, on_sample)

    def to_folder(todo: Todo, output: LocalOutput, fetcher: Fetcher) -> Results:
        waiting = _Waiting(todo)
        for place, source, folder in turns(todo, output.root):
            yield place, score_source(source, folder, fetcher, batch, upcoming=waiting.after(place))

    def to_url(todo: Todo, output: CloudOutput, fetcher: Fetcher) -> Results:
        waiting = _Waiting(todo)
        for place, source, folder in todo:
            result = score_source(source, folder, fetcher, batch, upcoming=waiting.after(place))
            if result.status != "failed":
                result = output.sent(send_video(source, result, output.folder, output.claim.check))
            yield place, result

    return write_sources(sources, out, batch.key, to_folder, to_url, scratch=scratch, on_done=on_done)


def score_source(
    source: Source, folder: Path, fetcher: Fetcher, batch: Batch, *, upcoming: Source | None = None
) -> VideoResult:
    """`serving.inspections.video_scoring.score_or_fail` for a video that is fetched; meanwhile `upcoming` is."""
    try:
        with fetcher.video(source) as footage:
            if upcoming is not None:
                fetcher.fetch_ahead(upcoming)
            return score_or_fail(footage, folder, batch)
    except VideoError as error:
        return failure(source.unfetched, folder, str(error))


def write_sources(
    sources: Sequence[Source],
    out: str,
    key: Mapping[str, Any],
    to_folder: Callable[[Todo, LocalOutput, Fetcher], Results],
    to_url: Callable[[Todo, CloudOutput, Fetcher], Results],
    *,
    scratch: Path | None,
    on_done: Callable[[VideoResult], None],
) -> list[VideoResult]:
    """Keep what was done before with this `key`, score the rest by one of the functions, write the batch's files."""
    with ExitStack() as stack:
        room = stack.enter_context(scratch_folder(scratch))
        fetcher = stack.enter_context(Fetcher(room))
        if not is_url(out):
            here = LocalOutput(local_path(out))

            def noted(todo: Todo) -> Results:
                for place, result in to_folder(todo, here, fetcher):
                    here.done(sources[place], result)
                    yield place, result

            return write_batch(here.root, key, _results(sources, here, fetcher, key, noted), on_done)
        there = stack.enter_context(CloudOutput(CloudFolder(out), room / "out"))
        scored = _results(sources, there, fetcher, key, lambda todo: to_url(todo, there, fetcher))
        results = write_batch(there.root, key, scored, on_done, sha256=there.sha256)
        there.send_batch()
        return results


def _results(
    sources: Sequence[Source],
    output: Output,
    fetcher: Fetcher,
    key: Mapping[str, Any],
    score: Callable[[Todo], Results],
) -> Results:
    folders = free_folders(
        [(source.stem, source.parts) for source in sources],
        output.root,
        lambda place, folder: output.is_free(sources[place], folder),
    )
    todo: list[Turn[Source]] = []
    for turn in zip(range(len(sources)), sources, folders, strict=True):
        kept = output.kept(turn[1], turn[2], fetcher, key)
        if kept is None:
            todo.append(turn)
        else:
            yield turn[0], kept
    yield from score(todo)


class _Waiting:
    """Which video is wanted next, as long as turns are taken in whatever order."""

    def __init__(self, todo: Todo) -> None:
        self._sources = {place: source for place, source, _ in todo}

    def after(self, place: int) -> Source | None:
        """The next one now that this one is begun."""
        del self._sources[place]
        return next(iter(self._sources.values()), None)
