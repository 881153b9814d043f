"""Inspection videos: read back as they were written, with a truth that matches the picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from serving.errors import ConfigError
from training.simulator.inspections import InspectionsConfig, simulate_inspections
from training.simulator.truth import true_findings


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg2", ".mpg"), ("h264", ".mp4")])
def test_videos_are_pal_and_as_long_as_their_truth_says(codec: str, suffix: str, tmp_path: Path) -> None:
    config = InspectionsConfig(count=1, duration_s=2.0, seed=5, codec=codec)
    (truth,) = simulate_inspections(config, tmp_path)
    written = json.loads((tmp_path / "inspection-000.truth.json").read_text())
    assert written["video"] == f"inspection-000{suffix}"
    assert len(written["track"]) == 20
    with av.open(str(tmp_path / written["video"])) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert (stream.codec_context.width, stream.codec_context.height) == (720, 576)
        assert stream.codec_context.sample_aspect_ratio == 16 / 15 or float(
            stream.codec_context.sample_aspect_ratio
        ) == pytest.approx(16 / 15)
    assert len(frames) == truth.frames == 50
    if codec == "mpeg2":
        assert frames[0].interlaced_frame
    assert not list(tmp_path.glob(".partial*"))
    with pytest.raises(ConfigError, match="exists"):
        simulate_inspections(config, tmp_path)


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg2", ".mpg"), ("h264", ".mp4")])
def test_the_same_seed_gives_the_same_bytes_whatever_lay_in_memory(codec: str, suffix: str, tmp_path: Path) -> None:
    """glibc fills what it hands out with MALLOC_PERTURB_, which shows an encoder that reads before it writes."""
    made = []
    for filling in ("85", "170"):
        out = tmp_path / filling
        command = ["simulate", "inspections", str(out), "--duration-s", "2", "--seed", "4", "--codec", codec]
        environment = {**os.environ, "MALLOC_PERTURB_": filling, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "training", *command], env=environment, check=True, capture_output=True)
        made.append((out / f"inspection-000{suffix}").read_bytes())
    assert made[0] == made[1]


def test_true_findings_join_short_gaps_and_keep_their_peak() -> None:
    times = np.arange(20) / 5
    shares = np.zeros((20, 17))
    shares[[3, 4, 6, 7], 0] = (0.01, 0.03, 0.02, 0.01)
    shares[15:18, 4] = 0.05
    findings = true_findings(times, times * 0.1, shares)
    assert [(f.code, f.start_s, f.end_s, f.peak_s) for f in findings] == [
        ("RB", 0.6, 1.6, 0.8),
        ("FS", 3.0, 3.6, 3.0),
    ]
    assert findings[0].start_m == pytest.approx(0.06)


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"codec": "vhs"}, {"duration_s": 0.5}, {"count": 0}, {"bitrate_kbps": 3}, {"illegible": 1}):
        with pytest.raises(ConfigError, match="simulate inspections"):
            InspectionsConfig(**{"count": 1, "duration_s": 4.0, **wrong})  # type: ignore[arg-type]


def test_a_display_is_away_where_the_truth_says_that_it_cannot_be_read(tmp_path: Path) -> None:
    """The counter's corner of the picture has edges exactly while the counter can be read."""
    config = InspectionsConfig(count=1, duration_s=7.0, seed=4, codec="h264", style="bar", illegible=0.8)
    (truth,) = simulate_inspections(config, tmp_path)
    assert truth.display == "bar"
    ((start_s, end_s),) = truth.illegible
    edges: dict[bool, list[float]] = {True: [], False: []}
    with av.open(str(tmp_path / truth.video)) as container:
        for frame in container.decode(video=0):
            gray = frame.to_ndarray(format="gray").astype(float)
            borders = np.concatenate((gray[:70], gray[-70:]))
            edges[start_s <= frame.time < end_s].append(float(np.abs(np.diff(borders, axis=1)).max()))
    assert max(edges[True]) < min(edges[False])


def test_without_a_display_there_is_none(tmp_path: Path) -> None:
    (truth,) = simulate_inspections(InspectionsConfig(count=1, duration_s=2.0, style="none"), tmp_path)
    assert truth.display is None
