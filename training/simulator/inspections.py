"""Inspection videos of simulated pipes, with everything that is in them written down.

The pipe is rendered RENDER_FPS times a second at RENDER_SIZE and each picture is shown until the next, enlarged to PAL,
with its own noise from frame to frame; the display is written at full size on every frame. So motion is as coarse as
RENDER_FPS, while times, distances and the counter on the picture are exact at every frame.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from serving.errors import ConfigError
from serving.progress import track_progress
from training.simulator.class_mix import draw_class_set
from training.simulator.crawl import Crawl, draw_crawl, draw_lens, draw_light, draw_mount, poses_of_crawl
from training.simulator.imaging import Sensor, draw_sensor, expose, to_bytes
from training.simulator.labels import class_shares
from training.simulator.osd import Display, draw_display, draw_illegible, stamp
from training.simulator.render import Renderer
from training.simulator.truth import Truth, true_findings
from training.simulator.world import PROFILES, PipeWorld, draw_world

FPS = 25
WIDTH, HEIGHT = 720, 576
RENDER_FPS = 5
RENDER_SIZE = (288, 384)
RENDER_BATCH = 20
TRACK_HZ = 10
# PAL's 720 x 576 pixels make a 4:3 picture.
PIXEL_ASPECT = Fraction(16, 15)
FRAME_NOISE = 2.0
METRES_PER_SECOND = 0.11
# Where the camera also stops and looks, so that a defect is in sight for some two fifths of the time.
METRES_PER_PLACE = 3.2

# Container, encoder and its settings; one thread, so that the same pictures give the same bytes.
CODECS: dict[str, tuple[str, str, dict[str, str], int]] = {
    "mpeg2": (".mpg", "mpeg2video", {"flags": "+ilme+ildct", "threads": "1"}, 12),
    # With its macroblock tree x264 lets uninitialised memory decide, and the same pictures give other bytes each time.
    "h264": (".mp4", "libx264", {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}, 250),
}


@dataclass(frozen=True, kw_only=True)
class InspectionsConfig:
    """What inspections are drawn from.

    `style` is an on-screen style of `osd.STYLES`, `none` for no display, or None to draw one. `illegible` is the share
    of the time during which the display cannot be read.
    """

    count: int
    duration_s: float
    seed: int = 0
    profile: str = "standard"
    codec: str = "mpeg2"
    bitrate_kbps: int = 5000
    style: str | None = None
    illegible: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1 or not 2 <= self.duration_s <= 36_000:
            raise ConfigError("simulate inspections: --count must be 1 or more, --duration-s within 2 to 36000")
        if self.codec not in CODECS:
            raise ConfigError(f"simulate inspections: no codec {self.codec!r}; there are {', '.join(CODECS)}")
        if self.profile not in PROFILES:
            raise ConfigError(f"simulate inspections: no profile {self.profile!r}; there are {', '.join(PROFILES)}")
        if not 100 <= self.bitrate_kbps <= 50_000:
            raise ConfigError("simulate inspections: --bitrate-kbps must be within 100 to 50000")
        if not 0 <= self.illegible <= 0.9:
            raise ConfigError("simulate inspections: --illegible must be within 0 to 0.9")


def simulate_inspections(config: InspectionsConfig, out: Path, *, workers: int = 1) -> list[Truth]:
    """Write `inspection-000.mpg` (or .mp4) and its truth to `out` for each inspection; the truth comes last.

    Inspections are independent, so `workers` processes draw one each; the result does not depend on it.

    Raises:
        ConfigError: an inspection of that name is there already.
    """
    out.mkdir(parents=True, exist_ok=True)
    suffix = CODECS[config.codec][0]
    names = [f"inspection-{number:03d}{suffix}" for number in range(config.count)]
    there = [name for name in names if (out / name).exists()]
    if there:
        raise ConfigError(f"{out / there[0]} exists; name another folder, or remove it first")
    pictures = round(config.duration_s * RENDER_FPS)
    with track_progress("rendering inspections", total=pictures * config.count, unit="pictures") as advance:
        if min(workers, config.count) == 1:
            return [_Inspection(config, number).write(out / name, advance) for number, name in enumerate(names)]
        truths = []
        jobs = [(config, number, out / name) for number, name in enumerate(names)]
        with multiprocessing.get_context("spawn").Pool(
            min(workers, config.count), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            for truth in pool.imap(_write_inspection, jobs):
                truths.append(truth)
                advance(pictures)
        return truths


def _write_inspection(job: tuple[InspectionsConfig, int, Path]) -> Truth:
    config, number, path = job
    return _Inspection(config, number).write(path, lambda pictures: None)


class _Inspection:
    """One pipe, one inspection system, one crawl."""

    def __init__(self, config: InspectionsConfig, number: int) -> None:
        rng = np.random.default_rng((config.seed, number))
        length_m = 3.0 + METRES_PER_SECOND * config.duration_s
        places = max(1, int((length_m - 2.5) / METRES_PER_PLACE))
        self._config = config
        self._world: PipeWorld = draw_world(
            int(rng.integers(2**31)),
            profile=config.profile,  # type: ignore[arg-type]  # InspectionsConfig has checked it
            length_m=length_m,
            codes=[draw_class_set(rng) for _ in range(places)],
        )
        mount, lens = draw_mount(rng, self._world), draw_lens(rng, profile=config.profile)
        light = draw_light(rng, profile=config.profile)
        self._sensor: Sensor = draw_sensor(rng, profile=config.profile)
        mode = "none" if config.style == "none" else "text"
        self._display: Display = draw_display(rng, mode=mode, style=config.style)
        self._crawl: Crawl = draw_crawl(self._world, rng, duration_s=config.duration_s, step_s=1 / RENDER_FPS)
        self._poses = poses_of_crawl(self._crawl, self._world, mount, lens, light)
        self._seed = int(rng.integers(2**31))
        # By numbers of its own, so that an inspection is the same with and without such stretches.
        self._illegible = draw_illegible(
            np.random.default_rng((config.seed, number, 1)), share=config.illegible, duration_s=config.duration_s
        )
        self._shares: list[NDArray[np.float64]] = []

    def write(self, path: Path, advance: Any) -> Truth:
        """Render, encode beside `path`, move there, write the truth."""
        partial = path.with_name(f".partial-{path.name}")
        try:
            self._encode(partial, advance)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        truth = self._truth(path.name)
        truth.write(path.with_suffix(".truth.json"))
        return truth

    def _pictures(self) -> Iterator[NDArray[np.uint8]]:
        """The rendered pictures, uint8 [H, W, 3] at RENDER_SIZE, noting what each shows."""
        renderer = Renderer(self._world)
        count = len(self._poses)
        for first in range(0, count, RENDER_BATCH):
            some = slice(first, min(count, first + RENDER_BATCH))
            rendered = renderer.render(self._poses.select(some), height=RENDER_SIZE[0], width=RENDER_SIZE[1])
            self._shares.append(class_shares(rendered.classes))
            seeds = [self._seed + i for i in range(some.start, some.stop)]
            yield from to_bytes(expose(rendered, self._sensor, seeds, flutter=0.01))

    def _encode(self, path: Path, advance: Any) -> None:
        _, encoder, options, gop = CODECS[self._config.codec]
        noise = np.random.default_rng(self._seed)
        repeats = FPS // RENDER_FPS
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(encoder, rate=FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.bit_rate, stream.gop_size = self._config.bitrate_kbps * 1000, gop
            stream.codec_context.sample_aspect_ratio = PIXEL_ASPECT
            for number, picture in enumerate(self._pictures()):
                large = np.asarray(Image.fromarray(picture).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
                for i in range(repeats):
                    index = number * repeats + i
                    frame = av.VideoFrame.from_ndarray(self._finished(large, index, noise), format="rgb24")
                    frame.pts, frame.time_base = index, Fraction(1, FPS)
                    container.mux(stream.encode(frame))
                advance(1)
            container.mux(stream.encode())

    def _finished(self, picture: NDArray[np.uint8], index: int, noise: np.random.Generator) -> NDArray[np.uint8]:
        grain = noise.normal(0, FRAME_NOISE, (HEIGHT // 2, WIDTH // 2, 1)).astype(np.float32)
        grainy = picture + np.repeat(np.repeat(grain, 2, axis=0), 2, axis=1)
        time_s = index / FPS
        is_legible = not any(start_s <= time_s < end_s for start_s, end_s in self._illegible)
        return stamp(
            np.clip(grainy, 0, 255).astype(np.uint8),
            self._display if is_legible else replace(self._display, mode="blurred"),
            distance_m=self._distance_at(time_s),
            elapsed_s=time_s,
        )

    def _distance_at(self, time_s: float) -> float:
        steps = np.arange(len(self._crawl.distance_m)) / RENDER_FPS
        return float(np.interp(time_s, steps, self._crawl.distance_m))

    def _truth(self, name: str) -> Truth:
        world, crawl = self._world, self._crawl
        count = len(crawl.distance_m)
        duration_s = count / RENDER_FPS
        times_s = np.arange(count) / RENDER_FPS
        ticks = np.arange(round(duration_s * TRACK_HZ)) / TRACK_HZ
        return Truth(
            video=name,
            seed=self._config.seed,
            profile=self._config.profile,
            codec=self._config.codec,
            width=WIDTH,
            height=HEIGHT,
            fps=FPS,
            frames=count * (FPS // RENDER_FPS),
            duration_s=duration_s,
            length_m=world.length_m,
            material=world.material,
            diameter_m=world.diameter_m,
            track=tuple((round(float(t), 3), round(self._distance_at(float(t)), 4)) for t in ticks),
            findings=true_findings(times_s, crawl.distance_m, np.concatenate(self._shares)),
            display=None if self._display.mode == "none" else self._display.style,
            illegible=self._illegible,
        )
