"""How far a candidate in shadow mode agrees with the default pair, as Prometheus metrics.

The share of verdicts that agree is
sum(rate(pipeprobe_shadow_verdicts_total{agrees="true"}[1h])) / sum(rate(pipeprobe_shadow_verdicts_total[1h])).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.pairs.manifest import Manifest

_DIFFERENCES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
_PAIR = ("pair", "version")
_REASONS = ("queue-full", "failed", "image-size")
_AGAINST = (*_PAIR, "default_pair", "default_version")


class ShadowFamilies:
    """The metrics of all shadows that a worker has in its life; made once, where metrics are registered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.verdicts = Counter(
            "pipeprobe_shadow_verdicts",
            "Verdicts of the shadow, and whether the default pair said the same of the frame",
            (*_AGAINST, "verdict", "agrees"),
            registry=registry,
        )
        self.differences = Histogram(
            "pipeprobe_shadow_score_difference",
            "Absolute difference of the shadow's and the default pair's score of a frame",
            _AGAINST,
            buckets=_DIFFERENCES,
            registry=registry,
        )
        self.dropped = Counter(
            "pipeprobe_shadow_dropped",
            "Frames that the shadow did not score: queue-full, failed, image-size (it takes another)",
            (*_PAIR, "reason"),
            registry=registry,
        )
        self.workers = Gauge(
            "pipeprobe_shadow_info",
            "Workers in which the shadow runs",
            _PAIR,
            multiprocess_mode="livesum",
            registry=registry,
        )

    def of(self, candidate: Manifest) -> ShadowMetrics:
        """The metrics of one shadow."""
        self.workers.labels(candidate.name, candidate.version).set(1)
        for reason in _REASONS:
            self.dropped.labels(candidate.name, candidate.version, reason)  # there from the start
        return ShadowMetrics(self, candidate)


class ShadowMetrics:
    """What one shadow counts; safe to use from several threads."""

    def __init__(self, families: ShadowFamilies, candidate: Manifest) -> None:
        self._families = families
        self._pair = (candidate.name, candidate.version)

    def compared(self, live: Manifest, verdict: str, *, agrees: bool, difference: float) -> None:
        """Count a frame that both have scored."""
        against = (*self._pair, live.name, live.version)
        self._families.verdicts.labels(*against, verdict, "true" if agrees else "false").inc()
        self._families.differences.labels(*against).observe(difference)

    def dropped(self, reason: str, n_frames: int) -> None:
        """Count frames that the shadow did not score."""
        self._families.dropped.labels(*self._pair, reason).inc(n_frames)
