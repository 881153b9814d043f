"""Pages to disk: one a video, one for the batch.

They are written anew only where they change, so calls that find everything done leave every file as it is.
"""

from __future__ import annotations

from pathlib import Path

from serving.durable import write_text_atomic
from serving.errors import ConfigError
from serving.inspections.batch_files import INDEX_FILE, pages_changing
from serving.inspections.deliverables import REPORT_FILE, read_findings
from serving.report.data import Json, index_data, read_finished, video_data
from serving.report.pages import render


def write_video_report(folder: Path) -> Path:
    """Write `report.html` of a scored video into its folder.

    Raises `ConfigError` if the folder does not hold what this release writes.
    """
    document = read_findings(folder)
    if document is None:
        raise ConfigError(f"{folder} holds no findings that this release wrote: score its video again")
    return _write_video(folder, document)


def write_index(out: Path) -> Path:
    """Write `index.html` over all that lies in `out`."""
    documents, _ = read_finished(out)
    return _write_index(out, documents)


def write_reports(out: Path) -> tuple[int, list[Path]]:
    """Write the pages of all videos in `out` and of the batch: how many videos, and the folders of other releases.

    Raises `ConfigError` if nothing has been scored there.
    """
    documents, left_out = read_finished(out)
    if not documents:
        old = ", only folders of another release" if left_out else ""
        raise ConfigError(f"{out} holds no scored videos{old}: name the folder that `pipeprobe videos --out` wrote to")
    with pages_changing(out):
        for folder, document in documents.items():
            _write_video(folder, document)
        _write_index(out, documents)
    return len(documents), left_out


def _write_video(folder: Path, document: Json) -> Path:
    try:
        page = render("video", document["video"], video_data(folder, document))
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{folder}/findings.json is incomplete ({error!r}): score its video again") from error
    return _write_if_new(folder / REPORT_FILE, page)


def _write_index(out: Path, documents: dict[Path, Json]) -> Path:
    return _write_if_new(out / INDEX_FILE, render("index", "Inspections", index_data(out, documents)))


def _write_if_new(path: Path, text: str) -> Path:
    try:
        if path.read_bytes() == text.encode():
            return path
    except FileNotFoundError:
        pass
    write_text_atomic(path, text)
    return path
