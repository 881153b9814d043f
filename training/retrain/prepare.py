"""From footage and labels to packs: videos to frames, inspections to parts, parts to packs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.durable import sha256_file, write_json_atomic
from serving.errors import DataError
from serving.formats.csv_rows import write_rows
from serving.progress import track_progress
from training.data.frame_table import FrameTable
from training.data.image_store import FilePlace, ImageStore, Place
from training.data.pack import Pack, build_pack, open_pack
from training.retrain.begin import digest_of
from training.retrain.extract import Extracted, extract_all, read_extracted
from training.retrain.footage import Broken, Video
from training.retrain.job import Job
from training.retrain.split import PARTS, TEST, TRAIN, Split, split_frames
from training.retrain.table import MOST_COMPARED, Frames, assemble, near_duplicates
from training.runs import read_json

SPLIT_CSV = "split.csv"
PACKS = "packs"
PRETRAIN = "pretrain"
PLAN_JSON = "plan.json"
_LABEL_TEXTS = {1: "defect", 0: "normal", -1: ""}


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """All frames with the part of each, and the packs `pretrain`, `train`, `val` and `test`.

    `train`, `val` and `test` hold labelled frames alone; `pretrain` all frames of the inspections of `train`.
    """

    frames: Frames
    split: Split
    packs: Mapping[str, Pack]


def prepare(job: Job) -> Prepared:
    """Extract, split and pack; each stage is kept if it stands.

    Raises:
        DataError: the labels do not allow holding inspections out, or contradict each other.
    """
    size = job.start.image_size
    alike = _likeness(job)
    extracted, broken = extract(job, job.footage.videos, size)
    footage = replace(job.footage, broken=job.footage.broken + tuple(broken))
    frames = assemble(footage, extracted, job.labels, alike, every_s=job.config.every_s)
    split = split_frames(frames.table.labels, frames.table.inspections, frames.official, job.config.split)
    _write_split(job, frames, split)
    return Prepared(frames=frames, split=split, packs=_pack(job, frames, split))


def _likeness(job: Job) -> list[tuple[str, str]]:
    """Pairs of images that are near-duplicates."""

    def work() -> dict[str, Any]:
        return {"pairs": near_duplicates([image.name for image in job.footage.images], job.footage.store())}

    if not job.footage.images:
        return []
    inputs = {"images": digest_of([image.name for image in job.footage.images]), "footage": job.footage.digest}
    result = job.stages.run("likeness", inputs=inputs, work=work)
    return [(one, other) for one, other in result["pairs"]]


def extract(job: Job, videos: Sequence[Video], size: int) -> tuple[list[Extracted], list[Broken]]:
    """The frames of `videos` at `size`, and those that turned out to be broken, which is said."""
    if not videos:
        return [], []
    folder = job.out / f"frames-{size}"

    def work() -> dict[str, Any]:
        with track_progress("reading videos", total=len(videos), unit="videos") as advance:
            extracted, broken = extract_all(videos, folder, every_s=job.config.every_s, size=size, done=advance)
        return {
            "folders": [each.folder.name for each in extracted],
            "frames": sum(len(each.files) for each in extracted),
            "damaged": {each.video: each.corrupt_pictures for each in extracted if each.corrupt_pictures},
            "broken": [asdict(each) for each in broken],
        }

    def amiss(result: Mapping[str, Any]) -> str | None:
        whole = all(read_extracted(folder / name) is not None for name in result["folders"])
        return None if whole else "extracted frames are missing"

    inputs = {
        "videos": [[video.name, video.n_bytes] for video in videos],
        "every_s": job.config.every_s,
        "size": size,
    }
    result = job.stages.run(folder.name, inputs=inputs, work=work, amiss=amiss)
    broken = [Broken(**each) for each in result["broken"]]
    job.report_broken(broken)
    for name, count in result["damaged"].items():
        job.listener.say(f"{name}: {count} damaged pictures were left out")
    found = [read_extracted(folder / name) for name in result["folders"]]
    return [each for each in found if each is not None], broken


def _write_split(job: Job, frames: Frames, split: Split) -> None:
    """Write which frame went where, for people to look at, and say how many did."""
    path = job.out / SPLIT_CSV
    table = frames.table

    def work() -> dict[str, Any]:
        rows = (
            {
                "Frame": name,
                "Inspection": frames.inspection_names[table.inspections[row]],
                "Label": _LABEL_TEXTS[int(table.labels[row])],
                "Part": PARTS[split.parts[row]],
            }
            for row, name in enumerate(table.names)
        )
        write_rows(path, ("Frame", "Inspection", "Label", "Part"), rows)
        return {"parts": split.counts(table.labels), "sha256": sha256_file(path)}

    def amiss(result: Mapping[str, Any]) -> str | None:
        same = path.is_file() and sha256_file(path) == result["sha256"]
        return None if same else f"{path.name} is missing or was changed"

    inputs = {"frames": _digest_table(table), "split": asdict(job.config.split)}
    result = job.stages.run("split", inputs=inputs, work=work, amiss=amiss)
    _report_grouping(job)
    for name, part in result["parts"].items():
        job.listener.say(
            f"{name}: {part['frames']} frames of {part['inspections']} inspections; labels: {part['defect']} defect, "
            f"{part['normal']} normal, in {part['labelled inspections']} inspections"
        )
    if frames.lost_labels:
        job.listener.say(f"{len(frames.lost_labels)} labels found no frame; the first: {frames.lost_labels[0]}")


def _report_grouping(job: Job) -> None:
    images = [image for image in job.footage.images if image.official is None]
    said = {name for name, rows in job.labels.items() if any(row.inspection is not None for row in rows)}
    if len(job.footage.images) > MOST_COMPARED:
        job.listener.say(
            f"{len(job.footage.images)} images are too many to look for near-duplicates among (at most {MOST_COMPARED})"
        )
    unknown = sum(image.name not in job.footage.inspection_of and image.name not in said for image in images)
    if unknown:
        job.listener.say(
            f"nothing says which inspection {unknown} images are of: only those that look alike are kept together, and "
            "each counts as an inspection. A file inspections.csv (Filename,Inspection) in the folder would make the "
            "comparison stricter"
        )


def _pack(job: Job, frames: Frames, split: Split) -> dict[str, Pack]:
    table = replace(frames.table, inspections=split.units)
    rows = {PRETRAIN: split.parts == TRAIN}
    rows |= {name: (split.parts == number) & (table.labels >= 0) for number, name in enumerate(PARTS)}
    if np.array_equal(rows[PRETRAIN], rows[PARTS[TRAIN]]):
        del rows[PARTS[TRAIN]]  # one pack will do

    def work() -> dict[str, Any]:
        _clear_other_packs(job.out / PACKS, inputs)
        for name, chosen in rows.items():
            part = PARTS[TRAIN] if name == PRETRAIN else name
            _build(job, replace(table, split=part).select(np.flatnonzero(chosen)), name)
        return {"digests": {name: open_pack(job.out / PACKS / name, verify=False).digest for name in rows}}

    def amiss(result: Mapping[str, Any]) -> str | None:
        # All are looked at, so that each damaged one is cleared away.
        reasons = [_pack_amiss(job, name, digest) for name, digest in result["digests"].items()]
        return next(filter(None, reasons), None)

    inputs = {"frames": _digest_table(table), "parts": digest_of(split.parts.tolist()), "size": job.start.image_size}
    job.stages.run("pack", inputs=inputs, work=work, amiss=amiss)
    packs = {name: open_pack(job.out / PACKS / name, verify=False) for name in rows}
    for image in {image["name"]: image for pack in packs.values() for image in pack.index["corrupt"]}.values():
        job.listener.say(f"left out: {image['name']} {image['reason']}")
    return {PARTS[TRAIN]: packs[PRETRAIN], **packs}


def _clear_other_packs(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Packs begun for the same are gone on with; those of other frames, labels or parts make room."""
    path = folder / PLAN_JSON
    if folder.is_dir() and not (path.is_file() and read_json(path) == inputs):
        shutil.rmtree(folder)
    write_json_atomic(path, inputs)


def _pack_amiss(job: Job, name: str, digest: str) -> str | None:
    """What is wrong with a pack; a damaged one is cleared away, since packing goes on only with a sound one."""
    folder = job.out / PACKS / name
    try:
        if open_pack(folder).digest == digest:
            return None
        reason = f"pack {name} was changed"
    except DataError as error:
        reason = str(error)
    shutil.rmtree(folder, ignore_errors=True)
    return reason


def _build(job: Job, table: FrameTable, name: str, size: int | None = None) -> Pack:
    return build_pack(
        table,
        size=size or job.start.image_size,
        out=job.out / PACKS / name,
        workers=job.options.workers,
        skip_corrupt=True,
        command=job.options.command,
    )


def held_out_at(job: Job, prepared: Prepared, size: int) -> Pack:
    """The held-out frames at another size, from the same images and the same instants of the same videos."""
    test, frames = prepared.packs[PARTS[TEST]], prepared.frames
    names = set(test.names)
    wanted = {name.rpartition("@")[0] for name in names}
    places: dict[str, Place] = {image.name: image.place for image in job.footage.images}
    extracted, _ = extract(job, [video for video in job.footage.videos if video.name in wanted], size)
    for each in extracted:
        files = zip(each.names(), each.files, strict=True)
        places |= {name: FilePlace(str(each.folder / file)) for name, file in files}
    rows = np.array([row for row, name in enumerate(frames.table.names) if name in names], np.int64)
    table = replace(frames.table, split=PARTS[TEST], store=ImageStore(places)).select(rows)
    pack = _build(job, table, f"{PARTS[TEST]}-{size}", size)
    if pack.names != test.names:
        raise DataError(f"{pack.path} does not hold the frames of {test.path}: delete both, and give the command again")
    return pack


def _digest_table(table: FrameTable) -> str:
    digest = hashlib.sha256("\n".join(table.names).encode())
    column: NDArray[Any]
    for column in (table.labels, table.classes, table.inspections):
        digest.update(column.tobytes())
    return digest.hexdigest()
