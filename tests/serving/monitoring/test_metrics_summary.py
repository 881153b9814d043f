"""Histogram text to means and quantiles."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from serving.monitoring.metrics_summary import STAGE_METRIC, histogram_quantile, summarise_histograms


def test_quantiles_are_interpolated_as_prometheus_does() -> None:
    cumulative = [(1.0, 0.0), (2.0, 10.0), (4.0, 20.0), (math.inf, 20.0)]
    assert histogram_quantile(cumulative, 0.25) == 1.5
    assert histogram_quantile(cumulative, 0.75) == 3.0
    assert histogram_quantile(cumulative, 1.0) == 4.0


def test_quantile_above_the_last_bound_is_that_bound() -> None:
    assert histogram_quantile([(1.0, 1.0), (math.inf, 10.0)], 0.99) == 1.0
    assert histogram_quantile([(1.0, 0.0), (math.inf, 10.0)], 0.5) == 1.0


def test_adds_up_pairs_and_orders_stages() -> None:
    registry = CollectorRegistry()
    stages = Histogram(STAGE_METRIC, "", ("stage", "pair"), buckets=(0.01, 0.02, 0.04), registry=registry)
    for pair, seconds in (("a", 0.005), ("a", 0.015), ("b", 0.03), ("b", 0.03)):
        stages.labels("total", pair).observe(seconds)
    stages.labels("decode", "a").observe(0.005)
    stages.labels("infer", "a")
    Histogram("other", "", ("stage",), registry=registry).labels("total").observe(5)

    decode, total = summarise_histograms(generate_latest(registry).decode())
    assert (decode.stage, decode.count) == ("decode", 1)
    assert (total.stage, total.count) == ("total", 4)
    assert total.mean_s == pytest.approx(0.02)
    assert total.p50_s == pytest.approx(0.02)
    assert total.p95_s == pytest.approx(0.038)


def test_empty_page_has_no_stages() -> None:
    assert summarise_histograms("") == []
