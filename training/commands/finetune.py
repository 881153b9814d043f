"""`pipeprobe-train finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.commands.options import typed_command
from training.commands.supervised import print_result, training_options
from training.data.pack import open_pack
from training.runs import load_encoder
from training.supervised import SupervisedConfig, train_supervised


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@training_options
def command(run: Path, train: Path, val: Path, out: Path, device: str, **settings: Any) -> None:
    """Train the encoder of RUN further, with a classifier, end to end on labels: the ceiling of a probe on it.

    RUN stays as it is. The classifier starts as a linear probe, and the encoder learns at a tenth of its rate.

    \b
    Example:
      pipeprobe-train finetune runs/simclr --train packs/train --val packs/val --out runs/finetuned
    """
    encoder, run_config = load_encoder(run)
    result = train_supervised(
        open_pack(train),
        open_pack(val),
        config=SupervisedConfig(encoder=encoder.name, **settings),
        initial=encoder,
        device=device,
        out=out,
        command=typed_command(),
    )
    print_result(f"{encoder.name}, {run_config.get('method', 'unknown')}, fine-tuned", result, out)
