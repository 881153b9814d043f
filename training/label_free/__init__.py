"""How good embeddings are, measured without labels, one family of metrics a file."""

from __future__ import annotations

from training.label_free.intrinsic import idest
from training.label_free.lidar import lidar
from training.label_free.measures import EXPECTED_SIGN, as_quality, measure_all
from training.label_free.spectrum import alpha_req, nesum, rankme, stable_rank
from training.label_free.spread import feature_std, is_collapsed, self_cluster, sigreg_statistic

__all__ = [
    "EXPECTED_SIGN",
    "alpha_req",
    "as_quality",
    "feature_std",
    "idest",
    "is_collapsed",
    "lidar",
    "measure_all",
    "nesum",
    "rankme",
    "self_cluster",
    "sigreg_statistic",
    "stable_rank",
]
