"""The drift of each served pair as metrics: windows filled by this worker, added up over all workers when asked for.

Where BentoML runs several workers, each keeps its window in a file beside their other metrics (see
`serving.monitoring.drift_window`); the shares and means are those of all their frames together, so there is one series
a pair and no worker is judged on a window too small to say anything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from serving.monitoring.drift import Drift, WindowSums, measure_drift
from serving.monitoring.drift_reference import Reference
from serving.monitoring.drift_window import DriftWindow, add_up, read_rows
from serving.scorer import Scores

_LABELS = ("pair", "version", "variant")
# Stands in no name of a pair, version or variant.
_SEPARATOR = "@"

WINDOW_FILES = f"drift{_SEPARATOR}*"
"""What matches all windows in the workers' folder."""


@dataclass(frozen=True, kw_only=True)
class DriftWatch:
    """One pair's window in this worker."""

    pair: str
    version: str
    variant: str
    reference: Reference
    window: DriftWindow

    def see(self, scores: Scores) -> None:
        """Take in what the scorer said; called from its thread."""
        self.window.add(scores.score, scores.embedding, time.time())


class DriftMetrics:
    """All watched pairs of this worker; a collector for `prometheus_client`.

    Args:
        folder: where the workers share their windows; None: there is only this one.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._watched: dict[tuple[str, str, str], DriftWatch] = {}

    def watch(
        self,
        *,
        pair: str,
        version: str,
        variant: str,
        reference: Reference,
        window_frames: int,
        window_s: float,
        worker: int,
    ) -> DriftWatch:
        """Begin, or go on, to watch a pair; `window_frames` are this worker's share, `window_s` 0 has no bound.

        `worker` is the operating system's number of this process.
        """
        key = (pair, version, variant)
        file = None if self._folder is None else self._folder / _file_name(str(worker), *key)
        window = DriftWindow(reference, max_frames=window_frames, max_age_s=window_s or math.inf, file=file)
        watch = DriftWatch(pair=pair, version=version, variant=variant, reference=reference, window=window)
        self._watched[key] = watch
        return watch

    def forget(self, pair: str, version: str) -> None:
        """Watch a pair no longer; its window is kept in case it comes back."""
        for key in [key for key in self._watched if key[:2] == (pair, version)]:
            del self._watched[key]

    def collect(self) -> Iterator[Metric]:
        if not self._watched:
            return
        families = {
            name: GaugeMetricFamily(f"pipeprobe_drift_{name}", text, labels=_LABELS) for name, text in _TEXTS.items()
        }
        for key, watch in list(self._watched.items()):
            sums = self._sums(key, watch)
            families["window_frames"].add_metric(key, sums.n_frames)
            drift = measure_drift(watch.reference, sums)
            if drift is not None:
                for name, value in _values(drift).items():
                    families[name].add_metric(key, value)
        yield from families.values()

    def _sums(self, key: tuple[str, str, str], watch: DriftWatch) -> WindowSums:
        rows = [watch.window.rows]
        if self._folder is not None:
            files = self._folder.glob(_file_name("*", *key))
            rows = [read_rows(file, watch.reference) for file in files]
        return add_up(watch.reference, rows, max_age_s=watch.window.max_age_s, now=time.time())


_TEXTS = {
    "window_frames": "Frames in the sliding window that drift is measured on",
    "score_psi": "Population stability index of the window's scores against the pair's reference",
    "score_psi_expected": "Its mean if the frames were independent and nothing had changed",
    "embedding_distance": "Distance of the window's mean embedding from the reference's, in standard deviations",
    "embedding_distance_expected": "Its size if the frames were independent and nothing had changed",
}


def _values(drift: Drift) -> dict[str, float]:
    return {
        "score_psi": drift.psi,
        "score_psi_expected": drift.expected_psi,
        "embedding_distance": drift.distance,
        "embedding_distance_expected": drift.expected_distance,
    }


def worker_of_window(path: Path) -> str:
    """The number of the process whose window lies in one of `WINDOW_FILES`."""
    return path.name.split(_SEPARATOR)[1]


def _file_name(worker: str, pair: str, version: str, variant: str) -> str:
    return _SEPARATOR.join(("drift", worker, pair, version, variant))
