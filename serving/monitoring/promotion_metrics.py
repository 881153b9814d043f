"""Metrics of which default a service answers with, and of changing it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class PromotionMetrics:
    """What a worker says about the default it serves; gauges are added up over the workers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._promotions = Counter(
            "pipeprobe_promotions", "Changes of the default, by outcome", ("outcome",), registry=registry
        )
        for outcome in ("ok", "failed"):
            self._promotions.labels(outcome)  # there from the start, so that the first change is an increase
        self._default = Gauge(
            "pipeprobe_default_pair",
            "Workers that answer with this version where no pair is named",
            ("pair", "version"),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._failing = Gauge(
            "pipeprobe_promotion_failing",
            "Workers that cannot open the default that models/index.json names, and serve another",
            multiprocess_mode="livesum",
            registry=registry,
        )

    def serves(self, pair: str, version: str, *, before: tuple[str, str] | None = None) -> None:
        """Say which pair and version are the default, and which are no longer."""
        if before is not None:
            self._default.labels(*before).set(0)
        self._default.labels(pair, version).set(1)

    def promoted(self) -> None:
        self._promotions.labels("ok").inc()
        self._failing.set(0)

    def failed(self) -> None:
        self._promotions.labels("failed").inc()
        self._failing.set(1)

    def settled(self) -> None:
        """The default that the index names is served."""
        self._failing.set(0)
