"""Steps and runs that one process and two must agree on; as a script under torchrun, it leaves those of two.

torchrun --nproc-per-node 2 tests/support/shared_steps.py OUT

OUT/steps-RANK.pt    what `step` gives for each of `PAIRS`
OUT/RUN              each of `RUNS`
OUT/paused           the first of `RUNS`, stopped after one step by the clock of rank 0
OUT/words-RANK.json  what was refused, what rank 0 said, and how it ended: rank 1 leaves while rank 0 waits for it
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support.methods import SIZE, drawn_frames
from support.toy_packs import toy_pack
from torch import Tensor

from serving.errors import PipeprobeError
from training.backbones import build_encoder, seeded_init
from training.config import PretrainConfig
from training.data.augment import make_views
from training.distributed import (
    average_gradients,
    gather,
    joined_processes,
    rank,
    require_same,
    said_by_first,
    share_of_batch,
    world_size,
)
from training.loop import LoopOptions, Summary, pretrain
from training.methods import METHODS
from training.recipes import RECIPES
from training.sync_norm import synchronise_norms

BATCH = 8
# Steps in float64, and runs in float32, on both encoders. Some paths are float32 whatever the views are, masks of
# masked_conv and position embeddings of small views among them: those are in the runs.
PAIRS = (
    ("simclr", "resnet18"),
    ("barlow_twins", "vit_tiny"),
    ("byol", "resnet18"),
    ("dino", "resnet18"),
    ("mae", "vit_tiny"),
    ("vicreg", "vit_tiny"),
    ("lejepa", "resnet18"),
)
RUNS = (
    ("simclr", "resnet18"),
    ("byol", "vit_tiny"),
    ("dino", "vit_tiny"),
    ("masked_conv", "resnet18"),
)
# Published heads are wide, which would only cost time here.
SMALL: dict[str, dict[str, Any]] = {
    "simclr": {"projector": (64, 32)},
    "barlow_twins": {"projector": (64, 32)},
    "vicreg": {"projector": (64, 32)},
    "byol": {"projector": (64, 32), "predictor": (64, 32)},
    "dino": {"head": (64, 32), "prototypes": 64},
    "lejepa": {"projector": (64, 32), "directions": 64},
}


@contextmanager
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def step(name: str, encoder: str) -> dict[str, Tensor]:
    """Loss, gradients and buffers after one float64 step of the recipe on the same `BATCH` frames, by name."""
    config = config_of(name, encoder).method_config
    generator = torch.Generator().manual_seed(0)
    views = make_views(drawn_frames(BATCH)[share_of_batch(BATCH)], config.views, generator)
    with in_float64(), seeded_init(0):
        method = METHODS[name](build_encoder(encoder, image_size=SIZE), config)
        if world_size() > 1:
            synchronise_norms(method)
        method.generator.manual_seed(1)
        # Past what DINO keeps still.
        loss = method([view.double() for view in views], 0.5)
        loss.backward()
        average_gradients(method.parameters())
    found = {f"gradient of {key}": p.grad for key, p in method.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found, **dict(method.named_buffers())}


def config_of(name: str, encoder: str) -> PretrainConfig:
    """The recipe with small heads, for two epochs in float32."""
    config = RECIPES[name, encoder](image_size=SIZE, epochs=2, batch_size=BATCH, precision="fp32")
    return replace(config, method_config=replace(config.method_config, **SMALL.get(name, {})))


def run_pretraining(run: Path, name: str, encoder: str, **options: object) -> Summary:
    """Two epochs of one step for `config_of`."""
    pack = toy_pack("train", n=12, size=SIZE)
    settings = LoopOptions(log_steps=1, monitor_frames=8, **options)  # type: ignore[arg-type]
    return pretrain(config_of(name, encoder), pack, run, options=settings)  # type: ignore[arg-type] # a toy pack


def _refusals() -> dict[str, str]:
    """Messages of what two processes must not do."""
    found = {}
    for name, attempt in {
        "odd batch": lambda: share_of_batch(9),
        "different": lambda: require_same(config="same", pack=f"of {rank()}"),
    }.items():
        try:
            attempt()
        except PipeprobeError as error:
            found[name] = str(error)
    return found


def main(out: Path) -> None:
    """Everything that the tests ask of two processes, in one start of them."""
    words: dict[str, object] = {}
    try:
        with joined_processes("cpu"):
            own = rank()
            torch.save({pair: step(*pair) for pair in PAIRS}, out / f"steps-{own}.pt")
            for pair in RUNS:
                run_pretraining(out / "-".join(pair), *pair)
            paused = run_pretraining(out / "paused", *RUNS[0], max_minutes=1e-9 if own == 0 else 1e9)
            words |= {**_refusals(), "paused": paused.status, "said": said_by_first(own == 0)}
            if own == 0:
                # Rank 1 is leaving, and nobody will answer.
                gather(torch.ones(1, 1))
    except PipeprobeError as error:
        words["end"] = str(error)
    else:
        words["end"] = f"{world_size()} process"
    (out / f"words-{own}.json").write_text(json.dumps(words))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
