"""The comparison as a stage: both pairs answer the held-out frames, and the difference is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from serving.durable import write_json_atomic
from serving.errors import ConfigError, PairNotFoundError
from serving.pairs.pair import Pair, find_pair
from serving.progress import track_progress
from serving.scorer import Scorer
from training import runs
from training.calibration import Platt
from training.data.pack import Pack
from training.features import cached_features
from training.operating_points import DEFAULT
from training.probe import PROBE, PROBE_JSON, load_probe
from training.retrain.begin import describe_pair
from training.retrain.compare import RULE, Measured, Side, compare, judge
from training.retrain.job import Job, Weighed
from training.retrain.learn import INITIAL, RUN
from training.retrain.prepare import Prepared, held_out_at

COMPARISON_JSON = "comparison.json"
TEST = "test"
# float32, so that two encoders are compared and not two roundings; the gate of the export bounds what int8 loses.
VARIANT = "fp32"


def weigh(job: Job, prepared: Prepared, chosen: str) -> Weighed:
    """Measure both pairs on the held-out frames, and judge; without a default pair nothing is measured.

    Raises:
        ConfigError: the default pair is no longer the one that this was begun with.
    """
    test = prepared.packs[TEST]
    result = {} if job.default is None else _measure(job, job.default, prepared, chosen)
    measured = {
        name: {metric: Measured.from_json(value) for metric, value in found.items()}
        for name, found in result.get("measured", {}).items()
    }
    return Weighed(
        default=None if job.default is None else job.default["name"],
        chosen=chosen,
        frames=len(test),
        inspections=len(np.unique(test.inspections)),
        measured=measured.pop(chosen, {}),
        other=next(iter(measured.values()), {}),
        verdict=result.get("verdict"),
    )


def _measure(job: Job, default: Mapping[str, str], prepared: Prepared, chosen: str) -> dict[str, Any]:
    """Keys: measured (by run folder, then metric), verdict, and what they are about."""
    path = job.out / COMPARISON_JSON
    test = prepared.packs[TEST]
    pair = _default_pair(job, default)
    names = [name for name in (RUN, INITIAL) if (job.out / name / PROBE / PROBE_JSON).is_file()]

    def work() -> dict[str, Any]:
        side = _default_side(job, pair, prepared)
        measured = {}
        for name in names:
            rng = np.random.default_rng([job.seed, 1])
            found = compare(test.labels, test.inspections, default=side, new=_new_side(job, name, test), rng=rng)
            measured[name] = {metric: value.to_json() for metric, value in found.items()}
        result = {
            "default": dict(default),
            "held_out": {"frames": len(test), "inspections": len(np.unique(test.inspections))},
            "chosen": chosen,
            "measured": measured,
            "verdict": judge(Measured.from_json(measured[chosen]["auroc"])),
            "rule": RULE,
        }
        write_json_atomic(path, result | {"command": job.options.command})
        return result

    def amiss(_result: Mapping[str, Any]) -> str | None:
        return None if path.is_file() else f"{path.name} is missing"

    inputs = {
        TEST: test.digest,
        "probes": {name: load_probe(job.out / name).record["probe_sha256"] for name in names},
        "chosen": chosen,
        "default": dict(default),
    }
    return job.stages.run("compare", inputs=inputs, work=work, amiss=amiss)


def _default_pair(job: Job, default: Mapping[str, str]) -> Pair:
    # By version: another one of that name may have been promoted since.
    reference = f"{default['name']}@{default['version']}"
    try:
        pair = find_pair(job.options.models, reference)
    except PairNotFoundError:
        pair = None
    if pair is None or describe_pair(pair) != default:
        raise ConfigError(
            f"pair {reference}, which {job.out} was begun to compare with, has been replaced since: put it back, or "
            "give another --out"
        )
    return pair


def _default_side(job: Job, pair: Pair, prepared: Prepared) -> Side:
    """What the default pair says of the held-out frames, at its own image size and its own operating point."""
    variant = VARIANT if VARIANT in pair.manifest.variants else None
    scorer = Scorer(pair, device=job.options.device, variant=variant, threads=torch.get_num_threads())
    pack = prepared.packs[TEST]
    if pair.manifest.image_size != pack.size:
        pack = held_out_at(job, prepared, pair.manifest.image_size)
    logits, scores = [], []
    with track_progress(f"scoring with {pair.name}", total=len(pack), unit="frames") as advance:
        for start in range(0, len(pack), scorer.max_batch):
            found = scorer.score(np.ascontiguousarray(pack.frames[start : start + scorer.max_batch]))
            logits.append(found.logit)
            scores.append(found.score)
            advance(len(found))
    threshold = pair.manifest.operating_point().threshold
    return Side(logits=np.concatenate(logits), verdicts=np.concatenate(scores) >= threshold)


def _new_side(job: Job, name: str, test: Pack) -> Side:
    run = job.out / name
    encoder, _ = runs.load_encoder(run)
    probe = load_probe(run)
    logits = probe.linear.logits(cached_features(run, encoder, test, device=job.options.device))
    platt = Platt(slope=probe.calibration.slope, intercept=probe.calibration.intercept)
    return Side(logits=logits, verdicts=platt.score(logits) >= probe.operating_points[DEFAULT].threshold)
