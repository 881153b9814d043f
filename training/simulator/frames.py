"""Frame data sets of simulated pipes, in Sewer-ML's own format.

Every pipe gives both defect and normal frames, as many of each as the whole set has on average, so that a pipe's
look says nothing about the label; the splits share no pipe. A pipe is drawn from (seed, split, number) alone, so the
bytes do not depend on how many processes draw. The set is written beside its final place and moved there when whole.
"""

from __future__ import annotations

import csv
import io
import multiprocessing
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from serving.durable import write_json_atomic, write_text_atomic
from serving.errors import ConfigError
from serving.progress import track_progress
from training.data.classes import CLASS_CODES, CSV_COLUMNS, CSV_NAMES, IMAGE_FOLDERS
from training.simulator.camera import CameraPose
from training.simulator.class_mix import draw_class_set, water_level_class
from training.simulator.crawl import draw_lens, draw_light, draw_mount, stills
from training.simulator.imaging import code, draw_sensor, expose, to_bytes
from training.simulator.labels import NEGLIGIBLE_SHARE, VISIBLE_SHARE, class_shares
from training.simulator.osd import draw_display, stamp
from training.simulator.render import Renderer
from training.simulator.world import PROFILES, PipeWorld, draw_world

FORMAT_VERSION = 1
FRAMES_PER_PIPE = 16
PLACES_PER_PIPE = 2
# A pipe that does not give its frames in this many rounds (its defects all under water, say) is replaced.
ROUNDS_PER_PIPE = 8
PIPES_TRIED = 25
PNG_COMPRESSION = 1
# Poses are tried on pictures this small first.
PREVIEW_SIZE = 48


@dataclass(frozen=True, kw_only=True)
class FramesConfig:
    """What a frames data set is drawn from; `defect_share` holds in every split exactly, up to rounding."""

    train: int
    val: int
    test: int = 0
    size: int = 256
    seed: int = 0
    profile: str = "standard"
    defect_share: float = 0.47
    masks: bool = False

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.test) < 0 or self.train + self.val + self.test == 0:
            raise ConfigError("simulate frames: ask for at least one frame, with --train, --val or --test")
        if not 32 <= self.size <= 2048:
            raise ConfigError(f"simulate frames: --size {self.size} is not within 32 to 2048 pixels")
        if not 0 < self.defect_share < 1:
            raise ConfigError(f"simulate frames: --defect-share {self.defect_share} is not between 0 and 1")
        if self.profile not in PROFILES:
            raise ConfigError(f"simulate frames: no profile {self.profile!r}; there are {', '.join(PROFILES)}")


@dataclass(frozen=True, kw_only=True)
class PipeTask:
    """One pipe to draw: which frames of which split it gives."""

    config: FramesConfig
    split: str
    number: int
    first_frame: int
    defect_frames: int
    normal_frames: int


@dataclass(frozen=True, kw_only=True)
class DrawnFrame:
    """One finished frame: picture uint8 [H, W, 3], class map uint8 [H, W], the classes that it shows."""

    picture: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    shows: tuple[str, ...]
    water_level: int


def plan_pipes(config: FramesConfig, split: str) -> list[PipeTask]:
    """The pipes of a split; their frames add up to the counts asked for."""
    total = getattr(config, split)
    defects = round(total * config.defect_share)
    count = -(-total // FRAMES_PER_PIPE)
    tasks, first = [], 0
    for number in range(count):
        frames = total * (number + 1) // count - total * number // count
        with_defect = defects * (number + 1) // count - defects * number // count
        tasks.append(
            PipeTask(
                config=config,
                split=split,
                number=number,
                first_frame=first,
                defect_frames=with_defect,
                normal_frames=frames - with_defect,
            )
        )
        first += frames
    return tasks


def draw_pipe(task: PipeTask) -> list[DrawnFrame]:
    """The frames of one pipe, in an order that does not tell defect from normal."""
    for attempt in range(PIPES_TRIED):
        key = (task.config.seed, sorted(CSV_NAMES).index(task.split), task.number, attempt)
        rng = np.random.default_rng(key)
        frames = _draw_pipe_once(task, rng)
        if frames is not None:
            return [frames[i] for i in rng.permutation(len(frames))]
    raise ConfigError(f"no pipe gave frames of both kinds in {PIPES_TRIED} tries (pipe {task.number}, {task.split})")


def _draw_pipe_once(task: PipeTask, rng: np.random.Generator) -> list[DrawnFrame] | None:
    config = task.config
    codes = [draw_class_set(rng) for _ in range(PLACES_PER_PIPE)]
    length_m = 4.0 + 2.4 * PLACES_PER_PIPE
    world = draw_world(int(rng.integers(2**31)), profile=config.profile, length_m=length_m, codes=codes)  # type: ignore[arg-type]  # FramesConfig has checked the profile
    shot = _Shoot(world, config, rng)
    defects: list[DrawnFrame] = []
    normals: list[DrawnFrame] = []
    if shot.hopeless:
        return None
    for _ in range(ROUNDS_PER_PIPE):
        missing = task.defect_frames - len(defects), task.normal_frames - len(normals)
        for frame in shot.candidates(near_defects=max(0, missing[0]), anywhere=max(0, missing[1])):
            kept, quota = (defects, task.defect_frames) if frame.shows else (normals, task.normal_frames)
            if len(kept) < quota:
                kept.append(frame)
        if len(defects) == task.defect_frames and len(normals) == task.normal_frames:
            return defects + normals
    return None


class _Shoot:
    """One inspection system in one pipe, taking stills."""

    def __init__(self, world: PipeWorld, config: FramesConfig, rng: np.random.Generator) -> None:
        self._world, self._config, self._rng = world, config, rng
        self._renderer = Renderer(world)
        self._lens = draw_lens(rng, profile=config.profile)
        self._light = draw_light(rng, profile=config.profile)
        self._mount = draw_mount(rng, world)
        self._sensor = draw_sensor(rng, profile=config.profile)
        self._display = draw_display(rng)
        self._places = self._seen_places()
        self._others = self._clear_places(rng)

    @property
    def hopeless(self) -> bool:
        """Whether this pipe shows no defect (all under water, say), or nothing but defects."""
        return len(self._places) == 0 or len(self._others) == 0

    def _seen_places(self) -> NDArray[np.float64]:
        """Distances of the defects that can be seen from 1.6 radii before them."""
        world = self._world
        places = np.array([d.distance_m for d in world.defects])
        before = np.clip(places - 1.6 * world.radius_m, 0.1, None)
        height = max(0.0, -1 + 2 * world.water_level + 0.3)
        poses = CameraPose.at(list(before), offset_y=height, lens=self._lens, light=self._light)
        small = self._renderer.render(poses, height=PREVIEW_SIZE, width=PREVIEW_SIZE)
        seen: NDArray[np.float64] = places[class_shares(small.classes).max(1) >= VISIBLE_SHARE]
        return seen

    def _clear_places(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Up to four places with no defect in sight; a clean joint among them where there is one."""
        world, sight = self._world, 7 * self._world.radius_m
        anywhere = rng.uniform(1.0, world.length_m - 0.5, 30)
        options = np.concatenate((anywhere, rng.permutation(np.array(world.joints_m))))
        defects = np.array([d.distance_m for d in world.defects])
        far = np.abs(options[:, None] - defects[None]).min(1) > sight
        clear, at_joint = options[:30][far[:30]][:2], options[30:][far[30:]][:2]
        return np.concatenate((clear, at_joint))

    def candidates(self, *, near_defects: int, anywhere: int) -> Iterator[DrawnFrame]:
        """Frames that clearly show a defect or clearly show none; the others are dropped here."""
        poses = self._promising(near_defects, anywhere)
        if len(poses) == 0:
            return
        size, world = self._config.size, self._world
        rendered = self._renderer.render(poses, height=size, width=size)
        seeds = [int(s) for s in self._rng.integers(2**31, size=len(poses))]
        pictures = to_bytes(expose(rendered, self._sensor, seeds))
        shares = class_shares(rendered.classes)
        maps = rendered.classes.cpu().numpy()
        for i, distance_m in enumerate(poses.distance_m.tolist()):
            shows = tuple(code for code, share in zip(CLASS_CODES, shares[i], strict=True) if share >= VISIBLE_SHARE)
            if not shows and shares[i].sum() > NEGLIGIBLE_SHARE:
                continue
            stamped = stamp(pictures[i], self._display, distance_m=distance_m, elapsed_s=distance_m / 0.12)
            yield DrawnFrame(
                picture=code(stamped, self._sensor),
                classes=maps[i],
                shows=shows,
                water_level=water_level_class(world.water_level),
            )

    def _promising(self, near_defects: int, anywhere: int) -> CameraPose:
        """Poses, as many of each kind as asked for or fewer, that a small picture says will be clear cases."""
        asked = (near_defects, anywhere)
        ahead = self._rng.uniform(0.6, 4.0, sum(asked)) * self._world.radius_m
        anchors = np.concatenate((self._rng.choice(self._places, asked[0]), self._rng.choice(self._others, asked[1])))
        distances = np.clip(anchors - ahead, 0.1, self._world.length_m - 4 * self._world.radius_m)
        poses = stills(self._world, distances, self._mount, self._lens, self._light, self._rng)
        small = self._renderer.render(poses, height=PREVIEW_SIZE, width=PREVIEW_SIZE)
        shares = class_shares(small.classes)
        clear = (
            np.flatnonzero(shares.max(1) >= VISIBLE_SHARE)[:near_defects],
            np.flatnonzero(shares.sum(1) <= NEGLIGIBLE_SHARE)[:anywhere],
        )
        return poses.select(torch.from_numpy(np.concatenate(clear)))


@dataclass(frozen=True, kw_only=True)
class PipeRows:
    """What the data set's tables say of one pipe's frames."""

    split: str
    rows: list[dict[str, Any]]
    inspection: str


def simulate_frames(config: FramesConfig, out: Path, *, workers: int = 2, command: str = "") -> dict[str, Any]:
    """Write the data set to `out` and return what `simulation.json` holds.

    Raises:
        ConfigError: `out` exists.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; name another folder, or remove it first")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    splits = [split for split in ("train", "val", "test") if getattr(config, split)]
    tasks = [(task, partial) for split in splits for task in plan_pipes(config, split)]
    for split in splits:
        (partial / IMAGE_FOLDERS[split]).mkdir(parents=True)
        if config.masks:
            (partial / "masks" / IMAGE_FOLDERS[split]).mkdir(parents=True)
    pipes: list[PipeRows] = []
    total = config.train + config.val + config.test
    with (
        track_progress("drawing frames", total=total, unit="frames") as advance,
        multiprocessing.get_context("spawn").Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        for pipe in pool.imap(_write_pipe, tasks):
            pipes.append(pipe)
            advance(len(pipe.rows))
    summary = _write_tables(config, partial, pipes, command)
    partial.rename(out)
    return summary


def _write_pipe(job: tuple[PipeTask, Path]) -> PipeRows:
    task, root = job
    rows = []
    for i, frame in enumerate(draw_pipe(task)):
        name = f"{task.first_frame + i:08d}.png"
        folder = IMAGE_FOLDERS[task.split]
        (root / folder / name).write_bytes(_png(frame.picture))
        if task.config.masks:
            (root / "masks" / folder / name).write_bytes(_png(frame.classes))
        rows.append(_row(name, frame))
    return PipeRows(split=task.split, rows=rows, inspection=f"{task.split}-{task.number:05d}")


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=PNG_COMPRESSION)
    return buffer.getvalue()


def _row(name: str, frame: DrawnFrame) -> dict[str, Any]:
    classes = {code: int(code in frame.shows) for code in CLASS_CODES}
    water_remark = int(frame.water_level >= 10)
    defect = int(bool(frame.shows))
    return {
        "Filename": name,
        "WaterLevel": frame.water_level,
        "VA": water_remark,
        **classes,
        "ND": int(not defect and not water_remark),
        "Defect": defect,
    }


def _write_tables(config: FramesConfig, root: Path, pipes: list[PipeRows], command: str) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    inspections = [("Filename", "Inspection")]
    for split in dict.fromkeys(pipe.split for pipe in pipes):
        rows = [row for pipe in pipes if pipe.split == split for row in pipe.rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text_atomic(root / CSV_NAMES[split], text.getvalue())
        by_class = {code: sum(row[code] for row in rows) for code in CLASS_CODES}
        counts[split] = {"frames": len(rows), "defect": sum(row["Defect"] for row in rows), **by_class}
        folder = IMAGE_FOLDERS[split]
        inspections += [
            (f"{folder}/{row['Filename']}", p.inspection) for p in pipes if p.split == split for row in p.rows
        ]
    write_text_atomic(root / "inspections.csv", "".join(f"{name},{inspection}\n" for name, inspection in inspections))
    summary = {
        "format": FORMAT_VERSION,
        "config": asdict(config),
        "rule": {"visible_share": VISIBLE_SHARE, "negligible_share": NEGLIGIBLE_SHARE},
        "counts": counts,
        "command": command,
    }
    write_json_atomic(root / "simulation.json", summary)
    return summary
