"""A page of `/metrics` as the few latencies that a person wants to read."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

STAGES = ("read", "decode", "queue", "infer", "encode", "total")
"""The stages of `pipeprobe_stage_seconds`, in the order in which a request passes them."""

STAGE_METRIC = "pipeprobe_stage_seconds"


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    """One stage: how often it was timed, and mean and quantiles in seconds.

    Quantiles are interpolated inside histogram buckets as Prometheus's `histogram_quantile` does; one that
    lies above the last finite bucket is given as that bucket's bound.
    """

    stage: str
    count: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float


def summarise_histograms(text: str, metric: str = STAGE_METRIC) -> list[StageSummary]:
    """Summarise a histogram with label `stage`, added up over all its other labels; stages in their order.

    Stages that were never timed are left out.
    """
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    sums: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        if family.name != metric:
            continue
        for sample in family.samples:
            stage = sample.labels["stage"]
            if sample.name.endswith("_bucket"):
                buckets[stage][float(sample.labels["le"])] += sample.value
            elif sample.name.endswith("_sum"):
                sums[stage] += sample.value
    ordered = sorted(buckets, key=lambda stage: (*STAGES, stage).index(stage))
    return [
        _summarise(stage, sorted(buckets[stage].items()), sums[stage])
        for stage in ordered
        if buckets[stage][math.inf] > 0
    ]


def histogram_quantile(cumulative: list[tuple[float, float]], quantile: float) -> float:
    """Quantile of a histogram given as (upper bound, cumulative count), ascending, ending at infinity."""
    rank = quantile * cumulative[-1][1]
    below_bound, below_count = 0.0, 0.0
    for bound, count in cumulative:
        if count >= rank and count > below_count:
            if math.isinf(bound):
                break
            return below_bound + (bound - below_bound) * (rank - below_count) / (count - below_count)
        below_bound, below_count = (below_bound if math.isinf(bound) else bound), count
    return below_bound


def _summarise(stage: str, cumulative: list[tuple[float, float]], total_s: float) -> StageSummary:
    count = cumulative[-1][1]
    p50, p95, p99 = (histogram_quantile(cumulative, quantile) for quantile in (0.5, 0.95, 0.99))
    return StageSummary(stage=stage, count=int(count), mean_s=total_s / count, p50_s=p50, p95_s=p95, p99_s=p99)
