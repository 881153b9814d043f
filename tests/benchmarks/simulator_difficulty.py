"""Is the simulator neither a toy nor noise?

    python tests/benchmarks/simulator_difficulty.py --out difficulty.json

Draws 8,000 train and 2,000 val frames of disjoint pipes (or takes a data set that is there) and measures, on the val
frames, two classifiers trained on the train frames: logistic regression on colour histograms and 16 x 16 grey pixels,
which must stay under an AUROC of 0.75, and a supervised ResNet-18, which must reach more than 0.93. Prints both with
bootstrap intervals, which resample pipes, beside their bounds; exits with 1 if a bound fails.
"""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from serving.durable import write_json_atomic
from serving.frames import resize_frame
from training.data.pack import Pack, build_pack
from training.data.sewer_ml import read_sewer_ml
from training.metrics import Estimate, evaluate
from training.provenance import provenance
from training.simulator.frames import FramesConfig, simulate_frames
from training.supervised import SupervisedConfig, train_supervised

LINEAR_BOUND, RESNET_BOUND = 0.75, 0.93
HISTOGRAM_BINS = 16
GREY_SIDE = 16


def simple_features(pack: Pack) -> NDArray[np.float64]:
    """float64 [N, 3*16 + 256]: each frame's colour histograms and its 16 x 16 grey pixels."""
    rows = []
    for frame in pack.frames:
        histogram = [np.histogram(frame[..., c], HISTOGRAM_BINS, (0, 256))[0] / frame[..., c].size for c in range(3)]
        grey = resize_frame(np.asarray(frame), GREY_SIDE).mean(axis=2).ravel() / 255
        rows.append(np.concatenate([*histogram, grey]))
    return np.stack(rows)


def linear_scores(train: Pack, val: Pack) -> NDArray[np.float64]:
    """Scores of `val` by the best of five regularisation strengths, chosen on a fifth of the train frames."""
    features, labels = simple_features(train), train.labels
    held = train.inspections % 5 == 0
    best = max(
        (10.0**power for power in range(-4, 1)),
        key=lambda c: _fit(features[~held], labels[~held], c).score(features[held], labels[held]),
    )
    scores: NDArray[np.float64] = _fit(features, labels, best).decision_function(simple_features(val))
    return scores


def _fit(features: NDArray[np.float64], labels: NDArray[np.int8], strength: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(features, labels)


def _interval(pack: Pack, scores: NDArray[np.float64]) -> Estimate:
    """AUROC with its 95 % interval, resampling pipes."""
    rng = np.random.default_rng(0)
    return evaluate(pack.labels, scores, thresholds={}, rng=rng, inspections=pack.inspections)["auroc"]


def _packs(data: Path, size: int) -> tuple[Pack, Pack]:
    train, val = (
        build_pack(read_sewer_ml(data, split), size=size, out=data / f"pack-{size}-{split}")
        for split in ("train", "val")
    )
    return train, val


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("difficulty-data"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("difficulty.json"), show_default=True)
@click.option("--train", default=8000, show_default=True)
@click.option("--val", default=2000, show_default=True)
@click.option(
    "--frame-size", default=256, show_default=True, help="Of the simulated frames, if they are not there yet."
)
@click.option("--size", default=112, show_default=True, help="At which the ResNet-18 sees them.")
@click.option("--epochs", default=10, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(
    data: Path, out: Path, train: int, val: int, frame_size: int, size: int, epochs: int, seed: int, device: str
) -> None:
    """Measure how hard the simulated frames are; exits with 1 if a bound fails."""
    rate = None
    if not data.exists():
        started = time.monotonic()
        simulate_frames(FramesConfig(train=train, val=val, size=frame_size, seed=seed), data)
        rate = (train + val) / (time.monotonic() - started)
    train_pack, val_pack = _packs(data, size)
    linear = _interval(val_pack, linear_scores(train_pack, val_pack))
    click.echo(f"linear on histograms and 16x16 grey: AUROC {linear.value:.3f} ({linear.low:.3f}-{linear.high:.3f})")
    result = train_supervised(train_pack, val_pack, config=SupervisedConfig(epochs=epochs), device=device)
    resnet = result.metrics["auroc"]
    click.echo(
        f"supervised ResNet-18, {size} px:         AUROC {resnet.value:.3f} ({resnet.low:.3f}-{resnet.high:.3f})"
    )
    passed = linear.value < LINEAR_BOUND and resnet.value > RESNET_BOUND
    click.echo(f"bounds: linear < {LINEAR_BOUND}, ResNet-18 > {RESNET_BOUND}: {'held' if passed else 'NOT held'}")
    record = {
        "linear": {**asdict(linear), "bound": LINEAR_BOUND},
        "resnet18": {**asdict(resnet), "bound": RESNET_BOUND, "epochs": epochs, "size": size},
        "frames": {"train": len(train_pack), "val": len(val_pack), "source": train_pack.source},
        "simulated_frames_per_s": rate,
        "held": passed,
        **provenance(shlex.join(["python", "tests/benchmarks/simulator_difficulty.py", *sys.argv[1:]])),
    }
    write_json_atomic(out, record)
    raise SystemExit(not passed)


if __name__ == "__main__":
    main()
