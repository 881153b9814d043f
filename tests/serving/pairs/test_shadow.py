"""Shadow mode: what is compared, that it never holds up what is live, and a real service with one."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click.testing
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from prometheus_client import CollectorRegistry
from support.live_service import free_port, live_service
from support.tiny_pair import grey_frames, random_frames, red_frames, write_second_version, write_tiny_pair

from serving.commands.serve import command as serve
from serving.errors import ConfigError, PairNotFoundError
from serving.monitoring.shadow_metrics import ShadowFamilies
from serving.pairs.manifest import Manifest
from serving.pairs.pair import find_pair
from serving.pairs.shadow import Shadow
from serving.scorer import Scorer, Scores

# A version that calls red frames normal as well.
OTHERWISE = -20.0
FRAMES = random_frames(16, 32, seed=3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_pair(folder)
    write_second_version(folder)
    write_second_version(folder, version="3.0.0", bias=OTHERWISE)
    write_tiny_pair(folder, name="larger", size=64, default=False)
    return folder


def wait_for(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.02)


class Counted:
    """A shadow, and what it has counted."""

    def __init__(
        self,
        candidate: Manifest,
        score: Callable[[NDArray[np.uint8]], Scores],
        *,
        max_frames: int = 64,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._registry = CollectorRegistry()
        metrics = ShadowFamilies(self._registry).of(candidate)
        self.shadow = Shadow(candidate, score, is_busy=is_busy, max_frames=max_frames, metrics=metrics)

    def verdicts(self, **labels: str) -> float:
        return self._sum("pipeprobe_shadow_verdicts_total", labels)

    def dropped(self, reason: str) -> float:
        return self._sum("pipeprobe_shadow_dropped_total", {"reason": reason})

    def differences_up_to(self, bound: str) -> float:
        return self._sum("pipeprobe_shadow_score_difference_bucket", {"le": bound})

    def _sum(self, name: str, labels: dict[str, str]) -> float:
        return sum(
            sample.value
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def scorer_of(models: Path, reference: str) -> Scorer:
    return Scorer(find_pair(models, reference), threads=1)


def test_counts_verdicts_and_differences(models: Path) -> None:
    live, candidate = scorer_of(models, "tiny@1.0.0"), scorer_of(models, "tiny@3.0.0")
    expected, other = live.score(FRAMES), candidate.score(FRAMES)
    n_agreed = int(((expected.score >= 0.5) == (other.score >= 0.5)).sum())
    assert 0 < n_agreed < len(FRAMES), "both cases must be there"
    counted = Counted(candidate.pair.manifest, candidate.score)
    counted.shadow.start()
    for start in (0, 4, 8, 12):
        part = FRAMES[start : start + 4]
        counted.shadow.offer(live.pair.manifest, part, live.score(part))
    wait_for(lambda: counted.verdicts() == len(FRAMES), "all frames are compared")
    counted.shadow.stop()
    assert counted.verdicts(agrees="true") == n_agreed
    assert counted.verdicts(verdict="defect") == int((other.score >= 0.5).sum())
    assert counted.verdicts(default_pair="tiny", default_version="1.0.0", pair="tiny", version="3.0.0") == len(FRAMES)
    difference = np.abs(expected.score - other.score)
    for bound in ("0.001", "0.1", "0.5", "1.0"):
        assert counted.differences_up_to(bound) == int((difference <= float(bound)).sum())


def test_drops_and_counts_what_does_not_fit_and_never_waits(models: Path) -> None:
    live = scorer_of(models, "tiny@1.0.0")
    scores, manifest = live.score(FRAMES), live.pair.manifest
    going_on = threading.Event()

    def stuck(frames: NDArray[np.uint8]) -> Scores:
        going_on.wait(30)
        return live.score(frames)

    counted = Counted(manifest, stuck, max_frames=40)
    counted.shadow.start()
    started = time.monotonic()
    counted.shadow.offer(manifest, FRAMES, scores)
    for _ in range(200):
        counted.shadow.offer(manifest, FRAMES, scores)
    assert time.monotonic() - started < 10, "it waited for the shadow, which is stuck for 30 s"
    # 16 are being scored or wait, and 32 more fit into 40.
    assert 198 * 16 <= counted.dropped("queue-full") <= 199 * 16
    going_on.set()
    wait_for(lambda: counted.verdicts() + counted.dropped("queue-full") == 201 * 16, "the queue is worked off")
    counted.shadow.stop()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="priorities of single threads are Linux's")
def test_gives_way_in_its_own_thread_alone(models: Path) -> None:
    live = scorer_of(models, "tiny@1.0.0")
    seen = []

    def note_priority(frames: NDArray[np.uint8]) -> Scores:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return live.score(frames)

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    counted = Counted(live.pair.manifest, note_priority)
    counted.shadow.start()
    counted.shadow.offer(live.pair.manifest, FRAMES[:1], live.score(FRAMES[:1]))
    wait_for(lambda: counted.verdicts() == 1, "the frame is compared")
    counted.shadow.stop()
    assert seen == [19]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_goes_on_after_a_failure(models: Path) -> None:
    live = scorer_of(models, "tiny@1.0.0")
    calls = []

    def fails_at_first(frames: NDArray[np.uint8]) -> Scores:
        calls.append(len(frames))
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return live.score(frames)

    manifest = live.pair.manifest
    counted = Counted(manifest, fails_at_first)
    counted.shadow.start()
    counted.shadow.offer(manifest, FRAMES[:4], live.score(FRAMES[:4]))
    counted.shadow.offer(manifest, FRAMES[4:9], live.score(FRAMES[4:9]))
    wait_for(lambda: counted.verdicts(agrees="true") == 5, "the second batch is compared")
    counted.shadow.stop()
    assert counted.dropped("failed") == 4


def test_rests_while_live_frames_wait(models: Path) -> None:
    live = scorer_of(models, "tiny@1.0.0")
    manifest = live.pair.manifest
    worked_s = []

    def slow(frames: NDArray[np.uint8]) -> Scores:
        started = time.monotonic()
        time.sleep(0.05)
        scores = live.score(frames)
        worked_s.append(time.monotonic() - started)
        return scores

    counted = Counted(manifest, slow, is_busy=lambda: True)
    started = time.monotonic()
    counted.shadow.start()
    for i in range(4):
        counted.shadow.offer(manifest, FRAMES[i : i + 1], live.score(FRAMES[i : i + 1]))
    wait_for(lambda: len(worked_s) == 4, "four frames are scored")
    # Three rests of nine times the work before each.
    assert time.monotonic() - started > 9 * sum(worked_s[:3])
    counted.shadow.stop()


def test_frames_of_another_size_are_left_out(models: Path) -> None:
    live = scorer_of(models, "larger")
    candidate = find_pair(models, "tiny").manifest
    counted = Counted(candidate, live.score)
    frames = random_frames(3, 64)
    counted.shadow.offer(live.pair.manifest, frames, live.score(frames))
    assert counted.dropped("image-size") == 3


# In a real service.


def png(frame: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, "PNG")
    return data.getvalue()


PICTURES = [png(frame) for frame in (*FRAMES[:4], *red_frames(4), *grey_frames(4))]


def agreement(url: str, version: str) -> tuple[float, float, float]:
    """How many frames the shadow was compared on, the share of verdicts that agree, and of nearly equal scores."""
    samples = [line.split() for line in httpx.get(f"{url}/metrics").text.splitlines() if "pipeprobe_shadow_" in line]
    kept = {line[0]: float(line[-1]) for line in samples if f',version="{version}"' in line[0]}
    verdicts = {name: value for name, value in kept.items() if name.startswith("pipeprobe_shadow_verdicts_total")}
    n = sum(verdicts.values())
    agreed = sum(value for name, value in verdicts.items() if 'agrees="true"' in name)
    close = sum(value for name, value in kept.items() if "difference_bucket" in name and 'le="0.001"' in name)
    return (n, agreed / n, close / n) if n else (0, 0, 0)


@pytest.mark.parametrize("version", ["2.0.0", "3.0.0"])
def test_agreement_with_the_default_is_exported(models: Path, version: str) -> None:
    with live_service(models=models, settings={"shadow": f"tiny@{version}"}) as url:
        answers = [httpx.post(f"{url}/v1/score", content=picture).json() for picture in PICTURES]
        assert {answer["pair_version"] for answer in answers} == {"1.0.0"}
        # Nobody can ask for the shadow itself.
        assert httpx.post(f"{url}/v1/score?version={version}", content=PICTURES[0]).status_code == 404
        wait_for(lambda: agreement(url, version)[0] == len(PICTURES), "all frames are compared")
        _, agreed, close = agreement(url, version)
        if version == "2.0.0":
            assert (agreed, close) == (1.0, 1.0)
        else:
            candidate = scorer_of(models, "tiny@3.0.0")
            frames = np.concatenate([FRAMES[:4], red_frames(4), grey_frames(4)])
            same = [
                (score >= 0.5) == (answer["verdict"] == "defect")
                for score, answer in zip(candidate.score(frames).score, answers, strict=True)
            ]
            assert agreed == pytest.approx(sum(same) / len(same))
            assert agreed < 0.9
            assert close < 0.9


@pytest.mark.parametrize(
    ("shadow", "error"),
    [("tiny@9.9.9", PairNotFoundError), ("larger", ConfigError), ("../tiny", ConfigError)],
)
def test_a_shadow_that_cannot_be_is_refused_at_start(
    models: Path, monkeypatch: pytest.MonkeyPatch, shadow: str, error: type[Exception]
) -> None:
    for name in ("PAIR", "DEVICE", "VARIANT", "WORKERS", "MODELS"):
        monkeypatch.setenv(f"PIPEPROBE_{name}", "")
    monkeypatch.setenv("PIPEPROBE_SHADOW", shadow)
    result = click.testing.CliRunner().invoke(serve, ["--models", str(models), "--port", str(free_port())])
    assert isinstance(result.exception, error)
