"""The batch scorer where videos, results or both lie behind URLs: what scores a local video, on a local copy.

    OUT/.done/<video>.json    the last object that is written of a video: what it was, and the SHA-256 of its results
    OUT/.claims/...           which run writes here, see `serving.inspections.run_claim`

Results are written to a mirror on this machine's disk and sent when their video is done; of what was sent, only the
`findings.json` stay there, for the pages of the batch. A run that is killed at any moment leaves videos that have their
record, and videos that have none and are done again, with the same objects. A video whose size and mark (S3: ETag) are
those of its record is not even fetched. Where OUT is a folder of this machine, its locks hold as they always do, and
`OUT/.done` says which object a folder was made from.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from serving.cloud_files import CloudFolder, is_url, local_path
from serving.durable import sha256_file, write_bytes_atomic
from serving.errors import VideoError
from serving.file_lock import locked
from serving.inspections.batch_files import INDEX_FILE, MANIFEST_FILE, SUMMARY_CSV, SUMMARY_JSON, TIMING_FILE
from serving.inspections.deliverables import FINDINGS_FILE, REPORT_FILE, deliverables, read_findings
from serving.inspections.frame_scorer import FrameScorer
from serving.inspections.run_claim import CLAIMS, RunClaim
from serving.inspections.scratch import scratch_folder
from serving.inspections.sources import Fetcher, Source
from serving.inspections.video import VideoInfo
from serving.inspections.video_result import VideoResult, result_of
from serving.inspections.video_scoring import Batch, Footage, failure, holds_another, is_current, keep, score_or_fail
from serving.inspections.video_settings import HANG_S, VideoSettings
from serving.inspections.videos import LOCKS, Turn, free_folders, turns, write_batch

RECORDS = ".done/"
_SCHEMA = "pipeprobe-done/1"

# Documents read at a time.
_CHUNK = 200

Record = dict[str, Any]


class _Output(Protocol):
    """Where results go; `root` is a folder of this machine that they are written to."""

    root: Path

    def is_free(self, source: Source, folder: Path) -> bool:
        """Whether a folder is this video's, or nobody's."""
        ...

    def kept(self, source: Source, folder: Path, fetcher: Fetcher, batch: Batch) -> VideoResult | None:
        """The result of an earlier call, if it can be had without the video."""
        ...

    def turns(self, todo: Sequence[Turn[Source]]) -> Iterator[Turn[Source]]:
        """Those to be scored, each held while the caller has it."""
        ...

    def done(self, source: Source, result: VideoResult) -> None:
        """Take what was written of a video that was scored or kept."""
        ...

    def sha256(self, path: Path) -> str:
        """Of a result below `root`, whether it still lies there or not."""
        ...


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
    with ExitStack() as stack:
        room = stack.enter_context(scratch_folder(scratch))
        fetcher = stack.enter_context(Fetcher(room))
        if not is_url(out):
            here = _LocalOutput(local_path(out))
            return write_batch(here.root, batch.key, _results(sources, here, fetcher, batch), on_done)
        there = stack.enter_context(_CloudOutput(CloudFolder(out), room / "out"))
        results = write_batch(
            there.root, batch.key, _results(sources, there, fetcher, batch), on_done, sha256=there.sha256
        )
        there.send_batch()
        return results


def _results(
    sources: Sequence[Source], output: _Output, fetcher: Fetcher, batch: Batch
) -> Iterator[tuple[int, VideoResult]]:
    folders = free_folders(
        [(source.stem, source.parts) for source in sources],
        output.root,
        lambda place, folder: output.is_free(sources[place], folder),
    )
    todo: list[Turn[Source]] = []
    for turn in zip(range(len(sources)), sources, folders, strict=True):
        kept = output.kept(turn[1], turn[2], fetcher, batch)
        if kept is None:
            todo.append(turn)
        else:
            yield turn[0], kept
    waiting = dict.fromkeys(place for place, _, _ in todo)
    for place, source, folder in output.turns(todo):
        del waiting[place]
        upcoming = next((sources[each] for each in waiting), None)
        result = _score(source, upcoming, folder, fetcher, batch)
        if result.status != "failed":
            output.done(source, result)
        yield place, result


def _score(source: Source, upcoming: Source | None, folder: Path, fetcher: Fetcher, batch: Batch) -> VideoResult:
    try:
        with fetcher.video(source) as footage:
            if upcoming is not None:
                fetcher.fetch_ahead(upcoming)
            return score_or_fail(footage, folder, batch)
    except VideoError as error:
        return failure(_not_fetched(source), folder, str(error))


def _not_fetched(source: Source) -> Footage:
    """For what concerns a video's name alone."""
    return Footage(path=source.path or Path(source.given), given=source.given, address=source.address)


def _record(source: Source, video_sha256: str, outputs: dict[str, str]) -> bytes:
    record = {
        "schema": _SCHEMA,
        "video": source.address,
        "video_sha256": video_sha256,
        "state": source.recorded_state,
        "outputs": outputs,
    }
    return (json.dumps(record, indent=2) + "\n").encode()


def _read_record(data: bytes) -> Record | None:
    """None if this release did not write it: its video is then done again."""
    try:
        record = json.loads(data)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.get("schema") == _SCHEMA else None


def _known_sha256(source: Source, record: Record | None) -> str:
    """Of a video: by its content if it lies here, else by the record of an object in its state; empty if unknown."""
    if source.path is not None:
        return sha256_file(source.path) if source.path.is_file() else ""
    if record is None or record["state"] != source.recorded_state or not source.is_marked:
        return ""
    return str(record["video_sha256"])


class _LocalOutput:
    """A folder of this machine, for videos that are not."""

    def __init__(self, out: Path) -> None:
        self.root = out

    def is_free(self, source: Source, folder: Path) -> bool:
        return not holds_another(folder, _not_fetched(source), lambda: _known_sha256(source, self._read(folder)))

    def kept(self, source: Source, folder: Path, fetcher: Fetcher, batch: Batch) -> VideoResult | None:
        if source.path is not None:
            return None  # it is looked at when its turn comes
        sha256 = _known_sha256(source, self._read(folder))
        if not sha256:
            return None
        with locked(self.root / LOCKS / folder.name, wait=False) as mine, fetcher.sidecar(source) as footage:
            return keep(footage, folder, sha256, batch) if mine else None

    def turns(self, todo: Sequence[Turn[Source]]) -> Iterator[Turn[Source]]:
        return turns(todo, self.root)

    def done(self, source: Source, result: VideoResult) -> None:
        if source.path is None:
            write_bytes_atomic(self._path(result.folder), _record(source, result.video_sha256, {}))

    def sha256(self, path: Path) -> str:
        return sha256_file(path)

    def _read(self, folder: Path) -> Record | None:
        path = self._path(folder)
        return _read_record(path.read_bytes()) if path.is_file() else None

    def _path(self, folder: Path) -> Path:
        return self.root / f"{RECORDS}{folder.name}.json"


class _CloudOutput:
    """A folder behind a URL, held against other runs in a `with`."""

    def __init__(self, folder: CloudFolder, root: Path) -> None:
        self.root = root
        self._folder = folder
        self._claim = RunClaim(folder)
        self._records: dict[str, Record] = {}
        # Names below each folder.
        self._there: dict[str, set[str]] = defaultdict(set)
        self._hashes: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.root.mkdir()
        self._claim.__enter__()
        try:
            self._look()
        except BaseException:
            self._claim.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._claim.__exit__(kind, error, trace)

    def is_free(self, source: Source, folder: Path) -> bool:
        record = self._records.get(folder.name)
        if record is None or record["video"] == source.address:
            return True
        return bool(record["video_sha256"] == _known_sha256(source, record))

    def kept(self, source: Source, folder: Path, fetcher: Fetcher, batch: Batch) -> VideoResult | None:
        record, document = self._records.get(folder.name), read_findings(folder)
        if record is None or document is None or not set(record["outputs"]) <= self._there[folder.name]:
            return None
        sha256 = _known_sha256(source, record)
        if not sha256:
            return None
        with fetcher.sidecar(source) as footage:
            if not is_current(document, footage, sha256, batch):
                return None
        return result_of(source.given, folder, "kept", document)

    def turns(self, todo: Sequence[Turn[Source]]) -> Iterator[Turn[Source]]:
        return iter(todo)

    def done(self, source: Source, result: VideoResult) -> None:
        folder = result.folder
        document = read_findings(folder)
        assert document is not None
        names = [*deliverables(document), REPORT_FILE]
        hashes = {name: sha256_file(folder / name) for name in names}
        self._claim.check()
        record = f"{folder.name}.json"
        if record in self._there[RECORDS.rstrip("/")]:
            self._folder.remove([RECORDS + record])
        self._folder.send({f"{folder.name}/{name}": folder / name for name in names})
        self._folder.remove([f"{folder.name}/{name}" for name in sorted(self._there[folder.name] - set(names))])
        self._claim.check()
        self._folder.write(RECORDS + record, _record(source, result.video_sha256, hashes))
        self._hashes |= {f"{folder.name}/{name}": sha256 for name, sha256 in hashes.items()}
        for name in names:
            if name != FINDINGS_FILE:
                (folder / name).unlink()

    def sha256(self, path: Path) -> str:
        return self._hashes.get(path.relative_to(self.root).as_posix()) or sha256_file(path)

    def send_batch(self) -> None:
        """Send the files of the batch, the manifest last."""
        self._claim.check()
        self._folder.send({name: self.root / name for name in (SUMMARY_CSV, SUMMARY_JSON, INDEX_FILE, TIMING_FILE)})
        self._folder.send({MANIFEST_FILE: self.root / MANIFEST_FILE})

    def _look(self) -> None:
        """Take in what is there, and take the manifest away, which will not be true for long."""
        entries = [name for name in self._folder.entries() if not name.startswith(CLAIMS)]
        for name in entries:
            top, _, rest = name.partition("/")
            self._there[top].add(rest)
        if MANIFEST_FILE in self._there:
            self._folder.remove([MANIFEST_FILE])
        for name, data in self._read(name for name in entries if name.startswith(RECORDS)):
            if (record := _read_record(data)) is not None:
                folder = Path(name).stem
                self._records[folder] = record
                self._hashes |= {f"{folder}/{output}": sha256 for output, sha256 in record["outputs"].items()}
        documents = (f"{folder}/{FINDINGS_FILE}" for folder in self._records if FINDINGS_FILE in self._there[folder])
        for name, data in self._read(documents):
            write_bytes_atomic(self.root / name, data)

    def _read(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        wanted = sorted(names)
        for start in range(0, len(wanted), _CHUNK):
            yield from self._folder.read(wanted[start : start + _CHUNK]).items()
