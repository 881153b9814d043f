"""Where the results of a batch go if videos, results or both lie behind URLs.

    OUT/.done/<video>.json    the last object that is written of a video: what it was, and the SHA-256 of its results
    OUT/.claims/...           which run writes here, see `serving.inspections.run_claim`

Results are written to a mirror on the disk of the machine that scores and sent when their video is done; of what was
sent, only the `findings.json` stay with the run, for the pages of the batch. A run that is killed at any moment leaves
videos that have their record, and videos that have none and are done again, with the same objects. A video whose size
and mark (S3: ETag) are those of its record is not even fetched. Where OUT is a folder of this machine, its locks hold
as they always do, and `OUT/.done` says which object a folder was made from.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from serving.cloud_files import CloudFolder
from serving.durable import sha256_file, write_bytes_atomic
from serving.file_lock import locked
from serving.inspections.batch_files import INDEX_FILE, MANIFEST_FILE, SUMMARY_CSV, SUMMARY_JSON, TIMING_FILE
from serving.inspections.deliverables import FINDINGS_FILE, REPORT_FILE, deliverables, read_findings
from serving.inspections.run_claim import CLAIMS, RunClaim
from serving.inspections.sources import Fetcher, Source
from serving.inspections.video_result import VideoResult, result_of
from serving.inspections.video_scoring import holds_another, is_current, keep
from serving.inspections.videos import LOCKS

RECORDS = ".done/"
_SCHEMA = "pipeprobe-done/1"

# Documents read at a time.
_CHUNK = 200

Record = dict[str, Any]


class Output(Protocol):
    """Where results go; `root` is a folder of this machine that they are written to."""

    root: Path

    def is_free(self, source: Source, folder: Path) -> bool:
        """Whether a folder is this video's, or nobody's."""
        ...

    def kept(self, source: Source, folder: Path, fetcher: Fetcher, key: Mapping[str, Any]) -> VideoResult | None:
        """The result of an earlier call with this `key`, if it can be had without the video."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A video whose results are behind the URL: their hashes, by name, and its `findings.json`."""

    result: VideoResult
    hashes: dict[str, str]
    findings: bytes


def send_video(source: Source, result: VideoResult, to: CloudFolder, check: Callable[[], None]) -> Sent:
    """Put a video's results behind the URL, its record last, and remove them here.

    `check` is asked before anything is changed there, and before the record is written, whether the run still may.
    """
    folder = result.folder
    document = read_findings(folder)
    assert document is not None
    findings = (folder / FINDINGS_FILE).read_bytes()
    names = [*deliverables(document), REPORT_FILE]
    hashes = {name: sha256_file(folder / name) for name in names}
    record = _record_of(folder.name)
    check()
    there = to.entries(folder.name)
    to.remove(list(to.entries(record)))
    to.send({f"{folder.name}/{name}": folder / name for name in names})
    to.remove([name for name in sorted(there) if name.removeprefix(f"{folder.name}/") not in hashes])
    check()
    to.write(record, _to_record(source, result.video_sha256, hashes))
    for name in names:
        (folder / name).unlink()
    return Sent(result=result, hashes=hashes, findings=findings)


class LocalOutput:
    """A folder of this machine, for videos that are not."""

    def __init__(self, out: Path) -> None:
        self.root = out

    def is_free(self, source: Source, folder: Path) -> bool:
        return not holds_another(folder, source.unfetched, lambda: _known_sha256(source, self._read(folder)))

    def kept(self, source: Source, folder: Path, fetcher: Fetcher, key: Mapping[str, Any]) -> VideoResult | None:
        if source.path is not None:
            return None  # it is looked at when its turn comes
        sha256 = _known_sha256(source, self._read(folder))
        if not sha256:
            return None
        with locked(self.root / LOCKS / folder.name, wait=False) as mine, fetcher.sidecar(source) as footage:
            return keep(footage, folder, sha256, key) if mine else None

    def done(self, source: Source, result: VideoResult) -> None:
        """Note which object the results of a video were made from."""
        if source.path is None and result.status != "failed":
            write_bytes_atomic(self.root / _record_of(result.folder.name), _to_record(source, result.video_sha256, {}))

    def _read(self, folder: Path) -> Record | None:
        path = self.root / _record_of(folder.name)
        return _read_record(path.read_bytes()) if path.is_file() else None


class CloudOutput:
    """A folder behind a URL, held against other runs in a `with`."""

    def __init__(self, folder: CloudFolder, root: Path) -> None:
        self.root = root
        self.folder = folder
        self.claim = RunClaim(folder)
        self._records: dict[str, Record] = {}
        # Names below each folder.
        self._there: dict[str, set[str]] = defaultdict(set)
        self._hashes: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.root.mkdir()
        self.claim.__enter__()
        try:
            self._look()
        except BaseException:
            self.claim.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.claim.__exit__(kind, error, trace)

    def is_free(self, source: Source, folder: Path) -> bool:
        record = self._records.get(folder.name)
        if record is None or record["video"] == source.address:
            return True
        return bool(record["video_sha256"] == _known_sha256(source, record))

    def kept(self, source: Source, folder: Path, fetcher: Fetcher, key: Mapping[str, Any]) -> VideoResult | None:
        record, document = self._records.get(folder.name), read_findings(folder)
        if record is None or document is None or not set(record["outputs"]) <= self._there[folder.name]:
            return None
        sha256 = _known_sha256(source, record)
        if not sha256:
            return None
        with fetcher.sidecar(source) as footage:
            if not is_current(document, footage, sha256, key):
                return None
        return result_of(source.given, folder, "kept", document)

    def sent(self, sent: Sent) -> VideoResult:
        """Take in what was sent of a video, by this process or another; its result, as one of this process."""
        folder = self.root / sent.result.folder.name
        self._hashes |= {f"{folder.name}/{name}": sha256 for name, sha256 in sent.hashes.items()}
        write_bytes_atomic(folder / FINDINGS_FILE, sent.findings)
        return replace(sent.result, folder=folder)

    def sha256(self, path: Path) -> str:
        """Of a result below `root`, whether it still lies there or not."""
        return self._hashes.get(path.relative_to(self.root).as_posix()) or sha256_file(path)

    def send_batch(self) -> None:
        """Send the files of the batch, the manifest last."""
        self.claim.check()
        self.folder.send({name: self.root / name for name in (SUMMARY_CSV, SUMMARY_JSON, INDEX_FILE, TIMING_FILE)})
        self.folder.send({MANIFEST_FILE: self.root / MANIFEST_FILE})

    def _look(self) -> None:
        """Take in what is there, and take the manifest away, which will not be true for long."""
        entries = [name for name in self.folder.entries() if not name.startswith(CLAIMS)]
        for name in entries:
            top, _, rest = name.partition("/")
            self._there[top].add(rest)
        if MANIFEST_FILE in self._there:
            self.folder.remove([MANIFEST_FILE])
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
            yield from self.folder.read(wanted[start : start + _CHUNK]).items()


def _record_of(folder: str) -> str:
    return f"{RECORDS}{folder}.json"


def _to_record(source: Source, video_sha256: str, outputs: dict[str, str]) -> bytes:
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
