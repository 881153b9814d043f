"""A study folder as `pipeprobe-train sweep` leaves it, with effects that a test plants."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PAPER = ("simclr", "barlow_twins", "byol", "dino", "mae")
BASELINES = ("random", "supervised", "finetuned_simclr")
PROPORTIONS: tuple[float | None, ...] = (0.01, 0.02, 0.05, 0.15)
CLASS_CODES = ("RB", "OB")

# Quality of a run in about [0, 1], from which all its figures follow: (method, encoder, proportion, seed) -> quality.
Quality = Callable[[str, str, float | None, int], float]


def flat(method: str, encoder: str, proportion: float | None, seed: int) -> float:
    """Every run alike, but for its seed."""
    return 0.5 + 0.01 * seed


@dataclass(frozen=True, kw_only=True)
class ToyStudy:
    """Plan and planted effects; `lost` are planned ids without a folder, `begun` ones with a folder but no result."""

    methods: Sequence[str] = PAPER
    baselines: Sequence[str] = BASELINES
    encoders: Sequence[str] = ("resnet18", "vit_tiny")
    proportions: Sequence[float | None] = PROPORTIONS
    seeds: int = 3
    quality: Quality = flat
    rankme: Callable[[float, int], float] = lambda quality, number: 20.0 + 7.0 * ((number * 37) % 11)
    status: dict[str, str] = field(default_factory=dict)
    lost: Iterable[str] = ()
    begun: Iterable[str] = ()
    classes: bool = True

    def write(self, folder: Path) -> Path:
        """Write the folder; returns it."""
        planned = list(self._identities())
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "study.json", self.plan([identity["id"] for identity in planned]))
        for number, identity in enumerate(planned):
            name = identity["id"]
            if name in set(self.lost):
                continue
            (folder / name).mkdir(exist_ok=True)
            if name not in set(self.begun):
                write_json(folder / name / "result.json", self._result(identity, number))
        return folder

    def plan(self, planned: list[str]) -> dict[str, Any]:
        """study.json."""
        pack = {"frames": 5000, "defect": 2300, "normal": 2700, "unlabelled": 0, "inspections": 50}
        splits = ("train", "val", "test")
        return {
            "schema_version": 1,
            "settings": {
                "methods": list(self.methods),
                "encoders": list(self.encoders),
                "proportions": list(self.proportions),
                "seeds": self.seeds,
                "epochs": 5,
                "batch_size": 64,
                "optim": "short",
                "views": "inspection",
                "view_size": None,
                "frames": 1000,
            },
            "image_size": 64,
            "data": {
                split: {"source": "simulated pipes", "split": split, "digest": f"{split}-digest", **pack}
                for split in splits
            },
            "planned": planned,
        }

    def _identities(self) -> Iterable[dict[str, Any]]:
        for seed in range(self.seeds):
            for proportion in self.proportions:
                for encoder in self.encoders:
                    for method in (*self.baselines, *self.methods):
                        name = stand_in(method, encoder)
                        share = "all" if proportion is None else f"p{100 * proportion:g}"
                        yield {
                            "id": f"{name}-{encoder}-{share}-s{seed}",
                            "kind": kind(name),
                            "method": name,
                            "encoder": encoder,
                            "defect_proportion": proportion,
                            "seed": seed,
                        }

    def _result(self, identity: dict[str, Any], number: int) -> dict[str, Any]:
        quality = self.quality(*(identity[key] for key in ("method", "encoder", "defect_proportion", "seed")))
        status = self.status.get(identity["id"], "finished")
        ssl = identity["kind"] == "ssl"
        probed = ssl or identity["kind"] == "random"
        share = 0.46 if identity["defect_proportion"] is None else identity["defect_proportion"]
        pretraining = {
            "epochs": 5, "batch_size": 64, "view_size": 64, "status": status, "wall_time_s": 60.0 + number % 7,
            "frames_per_s": 200.0 + number % 5, "loss": 1.5, "rankme": 12.0, "feature_std": 0.04,
        }  # fmt: skip
        return {
            "schema_version": 1,
            **identity,
            "optim": "short" if ssl else None,
            "views": "inspection" if ssl else None,
            "status": status,
            "train": {
                "frames": 1000,
                "defect": round(1000 * share),
                "normal": 1000 - round(1000 * share),
                "digest": "d",
            },
            "pretraining": pretraining if ssl else None,
            "evaluations": {} if status == "diverged" else evaluations(quality, self.proportions),
            "classes": class_scores(quality) if self.classes and probed and status != "diverged" else {},
            "label_free": self._label_free(quality, number) if probed and status != "diverged" else {},
            "wall_time_s": 80.0 + number % 9,
            "command": "pipeprobe-train sweep study --data packs --out runs",
            "git_revision": "0123abcd",
            "packages": {"python": "3.11.7", "torch": "2.13.0"},
            "hardware": "a processor, 2 cores",
        }

    def _label_free(self, quality: float, number: int) -> dict[str, float | None]:
        rng = np.random.default_rng(number)
        return {
            "rankme": self.rankme(quality, number),
            "alpha_req": 1.0 + 2.0 * (1 - quality),
            "nesum": float(rng.normal(8, 1)),
            "stable_rank": float(rng.normal(2, 0.2)),
            "self_cluster": 1.0 - quality,
            "lidar": 10 * quality + float(rng.normal(0, 1)),
            "idest": None if number % 4 == 0 else float(rng.normal(9, 1)),
            "sigreg": float(rng.lognormal(3, 2)),
        }


def kind(method: str) -> str:
    """The kind of experiment that a method's name stands for."""
    if method.startswith("finetuned_"):
        return "finetuned"
    return method if method in ("random", "transferred", "supervised") else "ssl"


def stand_in(method: str, encoder: str) -> str:
    """masked_conv where MAE has no transformer."""
    if encoder != "resnet18":
        return method
    return {"mae": "masked_conv", "finetuned_mae": "finetuned_masked_conv"}.get(method, method)


def evaluations(quality: float, proportions: Sequence[float | None]) -> dict[str, Any]:
    """Every data set; F1 at threshold 0.5 is `quality` on validation, and that plus 0.1 on train."""
    names = [f"val_p{100 * share:g}" for share in proportions if share is not None]
    names += ["val_balanced", "val_natural", "test_balanced", "test_natural"]
    return {"train": evaluation(quality + 0.1, 0.3), **{name: evaluation(quality, share_of(name)) for name in names}}


def share_of(data: str) -> float:
    """The proportion of defects in a data set, by its name."""
    share = data.partition("_p")[2]
    return float(share) / 100 if share else 0.5


def evaluation(quality: float, share: float) -> dict[str, Any]:
    """One data set's figures."""
    f1 = min(max(quality, 0.0), 1.0)
    figures = {
        "precision": f1 * 0.9,
        "recall": min(1.0, f1 * 1.1),
        "specificity": 0.9,
        "f1": f1,
        "f2": f1 * 0.95,
        "f1_normal": 0.5 + f1 / 2,
        "f2_ciw_binary": f1 * 0.8,
    }
    return {
        "n": 1000,
        "n_defect": round(1000 * share),
        "auroc": 0.5 + f1 / 2,
        "average_precision": f1,
        "published": {"threshold": 0.5, **figures},
        "chosen": {"threshold": 0.31, **figures, "f1": min(1.0, f1 + 0.02)},
    }


def class_scores(quality: float) -> dict[str, Any]:
    """Multi-label scores of the natural sets."""
    per_class = {code: {"n": 3, "f2": quality, "average_precision": None} for code in CLASS_CODES}
    scores = {"n": 1000, "f2_ciw": quality / 2, "f2_ciw_ceiling": 0.8, "f1_normal": 0.7, "macro_f1": quality / 3}
    return {
        data: {**scores, "mean_average_precision": None, "per_class": per_class, "absent": ["RB"]}
        for data in ("val_natural", "test_natural")
    }


def write_json(path: Path, value: Any) -> None:
    """Write JSON without ceremony."""
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Set top-level keys of a JSON file; a value of `...` removes the key."""
    value = json.loads(path.read_text(encoding="utf-8"))
    for key, change in changes.items():
        if change is ...:
            del value[key]
        else:
            value[key] = change
    write_json(path, value)
