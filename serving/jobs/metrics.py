"""Prometheus metrics of video jobs. What is in the table is the same for all workers: the latest value counts."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.jobs.job import JobState

_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800)


class JobMetrics:
    """The metrics of one worker; labels are closed sets, never a job's id or a video's name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._jobs = Gauge(
            "pipeprobe_video_jobs",
            "Video jobs in the table, by state",
            ("state",),
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self._bytes = Gauge(
            "pipeprobe_video_jobs_bytes",
            "Bytes of the videos and results of all jobs",
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self._waited = Histogram(
            "pipeprobe_video_job_wait_seconds",
            "Seconds from a job's arrival to its first start",
            buckets=_SECONDS,
            registry=registry,
        )
        self._ran = Histogram(
            "pipeprobe_video_job_seconds",
            "Seconds that a job's process ran, by how that ended",
            ("outcome",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._frames = Counter("pipeprobe_video_job_frames", "Frames scored by video jobs", registry=registry)

    def table(self, counts: Mapping[JobState, int], n_bytes: int) -> None:
        """What the table holds now."""
        for state, count in counts.items():
            self._jobs.labels(state).set(count)
        self._bytes.set(n_bytes)

    def begun(self, waited_s: float) -> None:
        """A job was begun for the first time."""
        self._waited.observe(waited_s)

    def ended(self, outcome: str, seconds: float, frames: int) -> None:
        """A job's process has ended; `outcome` is a state, or `crashed`, `lost` or `released`."""
        self._ran.labels(outcome).observe(seconds)
        self._frames.inc(frames)
