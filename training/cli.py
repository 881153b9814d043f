"""`pipeprobe-train`: from footage, or simulated pipes, to an exported pair."""

from __future__ import annotations

import click

from serving.lazy_group import LazyGroup, run_group

COMMANDS = {
    "simulate": ("training.commands.simulate", "Draw simulated pipes: frames or inspection videos."),
    "pack": ("training.commands.pack", "Decode a data set once into a memory-mapped pack."),
    "pretrain": ("training.commands.pretrain", "Pretrain an encoder without labels."),
    "probe": ("training.commands.probe", "Fit and measure a linear probe on a frozen encoder."),
    "classes": ("training.commands.classes", "Fit and measure a probe for each of the 17 Sewer-ML classes."),
    "supervised": ("training.commands.supervised", "Train a supervised baseline."),
    "finetune": ("training.commands.finetune", "Train a pretrained encoder further on labels: the ceiling."),
    "sweep": ("training.commands.sweep", "Run the study: methods, encoders, shares of defects, seeds."),
    "report": ("training.commands.report", "Turn the results of a study into tables, figures and verdicts."),
    "export": ("training.commands.export", "Export encoder and probe as a pair for serving."),
    "reference": ("training.commands.reference", "Give a pair a reference that drift is measured from."),
    "retrain": ("training.commands.retrain", "Make a new pair from your own footage and labels, the whole way."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pipeprobe")
def cli() -> None:
    """Train encoders and probes on simulated pipes, Sewer-ML or your own footage."""


def main() -> None:
    """Entry point of the console script."""
    run_group(cli)
