"""Does evidence point at the defect? Boxes and clock positions of the default pair against simulated masks.

    python tests/benchmarks/evidence_boxes.py --out boxes.json

Simulates frames whose every pixel has a known class (or takes such a data set from --frames), scores those that show a
defect, and looks at each that the pair finds: whether its box holds any of the defect's pixels, and whether its clock
position is within an hour and a half of that of the defect's middle. Beside each figure stands what the boxes of the
other frames would have reached on the same defects, since defects do not lie just anywhere.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.durable import write_json_atomic
from serving.frames import decode_path
from serving.inspections.evidence_box import EvidenceBox, clock_position, evidence_box
from serving.pairs.pair import find_pair, models_root
from serving.scorer import Scorer
from training.provenance import provenance
from training.simulator.frames import FramesConfig, simulate_frames

SMALLEST_SHARE = 0.003  # of a picture's pixels; less is hard to see for people, too
NEAR_H = 1.5


@dataclass(frozen=True, kw_only=True)
class Found:
    """A defect that the pair found: where it says and, bool [H, W], where it is."""

    box: EvidenceBox
    clock: int | None
    mask: NDArray[np.bool_]


def find_defects(frames: Path, scorer: Scorer) -> tuple[list[Found], int]:
    """What the pair finds at its default threshold, and how many frames show a defect."""
    manifest = scorer.pair.manifest
    threshold, found, shown = manifest.operating_point(None).threshold, [], 0
    for path in sorted((frames / "masks").glob("*/*.png")):
        mask = np.asarray(Image.open(path)) > 0
        if mask.mean() < SMALLEST_SHARE:
            continue
        shown += 1
        frame = decode_path(frames / path.relative_to(frames / "masks"), manifest.image_size)
        scores = scorer.score(frame[None])
        if scores.score[0] >= threshold:
            size = (mask.shape[1], mask.shape[0])
            box = evidence_box(scores.evidence[0], manifest.calibration, picture_size=size)
            found.append(Found(box=box, clock=clock_position(box, pixel_aspect=1), mask=mask))
    return found, shown


def holds(box: EvidenceBox, mask: NDArray[np.bool_]) -> bool:
    return bool(mask[box.y : box.y + box.height, box.x : box.x + box.width].any())


def hour_of(mask: NDArray[np.bool_]) -> float:
    """The clock position of the middle of a mask's pixels."""
    rows, columns = np.nonzero(mask)
    right, down = columns.mean() - mask.shape[1] / 2, rows.mean() - mask.shape[0] / 2
    return math.degrees(math.atan2(right, -down)) / 30 % 12


def is_near(clock: int, hour: float) -> bool:
    return min((clock - hour) % 12, (hour - clock) % 12) <= NEAR_H


def summarise(found: list[Found], shown: int) -> dict[str, float]:
    boxes, directed = [each.box for each in found], [each for each in found if each.clock is not None]
    clocks = [each.clock for each in directed]
    hours = [hour_of(each.mask) for each in directed]
    areas = [box.width * box.height / (box.picture_width * box.picture_height) for box in boxes]
    return {
        "frames_with_a_defect": shown,
        "found": len(found),
        "box_share_of_picture": float(np.mean(areas)),
        "box_holds_defect": float(np.mean([holds(each.box, each.mask) for each in found])),
        "box_of_another_frame": float(np.mean([holds(box, each.mask) for each in found for box in boxes])),
        "with_a_direction": len(directed),
        "clock_within_1.5_h": float(np.mean([is_near(c, hour) for c, hour in zip(clocks, hours, strict=True)])),
        "clock_of_another_frame": float(np.mean([is_near(c, hour) for hour in hours for c in clocks])),
    }


@click.command()
@click.option("--frames", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Frames with masks.")
@click.option("--count", default=240, show_default=True, help="Frames to simulate.")
@click.option("--seed", default=991, show_default=True)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
def main(frames: Path | None, count: int, seed: int, out: Path) -> None:
    """Measure where the default pair's evidence points."""
    with tempfile.TemporaryDirectory(prefix="evidence-boxes-") as name:
        if frames is None:
            frames = Path(name) / "frames"
            config = FramesConfig(train=0, val=count, seed=seed, defect_share=0.9, masks=True)
            simulate_frames(config, frames, workers=os.cpu_count() or 1)
        pair = find_pair(models_root())
        summary = summarise(*find_defects(frames, Scorer(pair, device="cpu")))
    for key, value in summary.items():
        click.echo(f"{key:24s} {value:.3g}")
    about = {"pair": pair.manifest.name, "pair_version": pair.manifest.version, "summary": summary}
    write_json_atomic(
        out, about | provenance(shlex.join(["python", "tests/benchmarks/evidence_boxes.py", *sys.argv[1:]]))
    )


if __name__ == "__main__":
    main()
