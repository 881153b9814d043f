"""`pipeprobe-train retrain`: one's own footage and a few hundred labels to a new pair."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import click
import torch
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from serving.pairs.manifest import VariantName
from serving.pairs.pair import models_root
from training.backbones import ENCODERS
from training.commands.options import device_option, typed_command
from training.data.folders import FolderSplit
from training.export import VARIANTS
from training.methods import METHODS
from training.retrain.compare import FEW_INSPECTIONS, RULE, Measured
from training.retrain.estimate import Estimate, in_words
from training.retrain.job import Outcome, RetrainConfig, RetrainOptions, Weighed
from training.retrain.learn import RUN
from training.retrain.run import retrain
from training.retrain.split import CUT_OPTION, SplitPlan
from training.retrain.start import Start

_TITLES = {
    "estimate": "measuring how long it will take",
    "likeness": "looking for near-duplicate images",
    "split": "splitting inspections into train, val and held-out test",
    "pack": "packing frames",
    "initial": "taking the encoder to start from",
    "pretrain": "pretraining on the footage, without labels",
    "probe": "fitting and calibrating the probe",
    "compare": "comparing with the default pair",
    "export": "exporting, by the gate of `pipeprobe-train export`",
}
# Takes no time; what it settles is said.
_QUIET = ("recipe",)
_ROWS = {
    "auroc": "AUROC",
    "f1": "F1",
    "recall": "recall",
    "precision": "precision",
    "false_alarms": "false alarms",
}
_VERDICTS = {
    "better": "BETTER: the interval of the AUROC difference lies above 0",
    "not worse": "NOT WORSE: the interval of the AUROC difference does not reach what would matter",
    "unclear": "UNCLEAR: the interval of the AUROC difference reaches too far down to rule out a loss; label more "
    "inspections to narrow it",
    "worse": "WORSE: the interval of the AUROC difference lies below 0",
    "knows nothing": "KNOWS NOTHING: the new pair's AUROC may be that of guessing; look at the labels, add more, or "
    "pretrain longer",
}


@click.command()
@click.option(
    "--footage",
    required=True,
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Folder of videos or images, with all below it; may be repeated.",
)
@click.option(
    "--labels",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Labels file; not needed where folders defect/ and normal/ say it.",
)
@click.option(
    "--out",
    default=Path("retrain"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for all that is made on the way.",
)
@click.option("--init", help="Start from this pair (name or folder) or run folder.  [default: the default pair]")
@click.option("--from-scratch", is_flag=True, help="Start from freshly drawn weights.")
@click.option("--method", type=click.Choice(list(METHODS)), help="Pretraining method.  [default: that of the start]")
@click.option("--encoder", type=click.Choice(list(ENCODERS)), help="With --from-scratch.  [default: resnet18]")
@click.option("--image-size", type=int, help="With --from-scratch: side of frames in pixels.  [default: 112]")
@click.option("--every", "every_s", default=1.0, show_default=True, help="Seconds between frames taken from a video.")
@click.option("--epochs", type=int, help="Passes of pretraining over the frames.  [default: about 3000 steps]")
@click.option("--minutes", type=float, help="Or: about how long pretraining may take on this machine.")
@click.option("--batch-size", default=64, show_default=True, help="Frames a step; fewer where there are few frames.")
@click.option(
    "--shares", default="60,15,25", show_default=True, help="Per cent of inspections for train, val and held-out test."
)
@click.option(CUT_OPTION, "within", is_flag=True, help="Too few inspections: split frames of one; measures too well.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the split and all training.")
@click.option(
    "--models", type=click.Path(file_okay=False, path_type=Path), help="Folder of pairs.  [default: where they are]"
)
@click.option("--name", help="Of the new pair.  [default: the default pair's, with -retrained]")
@click.option("--version", default="1.0.0", show_default=True, help="Of the new pair.")
@click.option("--variants", default=",".join(VARIANTS), show_default=True, help="Which to export; fp32 must be one.")
@click.option("--export-anyway", is_flag=True, help="Export even if the comparison speaks against it.")
@click.option("--promote", is_flag=True, help="Make the new pair the default, if it is exported.")
@device_option
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of training.  [default: all cores]")
@click.option("--workers", type=click.IntRange(min=1), help="Decoding processes.  [default: all cores]")
def command(footage: tuple[Path, ...], labels: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Make a new pair from your own footage, and compare it with the default pair on inspections held out.

    Takes videos, images and a labels file, splits by inspection, goes on pretraining the default pair's encoder on
    your frames, fits and calibrates a probe, measures both pairs on the same held-out inspections, and exports the new
    one if it is better or not worse. Says beforehand how long it will take. The same command continues after an
    interruption. Footage is only read.

    The labels file is a CSV with the columns Filename,Label for images, Video,Time_s,Label for instants and
    Video,From_s,To_s,Label for intervals of videos, in seconds; Label is defect or normal. Each video is one
    inspection; images of one inspection share the text in a column Inspection, or a line of inspections.csv.

    \b
    Examples:
      pipeprobe-train retrain --footage videos --labels labels.csv
      pipeprobe-train retrain --footage photos --minutes 30
      pipeprobe-train retrain --footage videos --labels labels.csv --promote
    """
    logging.basicConfig(format="%(message)s", handlers=[RichHandler(console=Console(stderr=True), show_path=False)])
    threads = options.pop("threads")
    if threads is not None:
        torch.set_num_threads(threads)
    printer = _Printer()
    config, how = _config(footage, labels, options), _options(options)
    try:
        outcome = retrain(config, how, out, printer)
    except KeyboardInterrupt as error:
        click.echo(f"stopped; the same command goes on from here ({out} holds what is done)", err=True)
        raise click.Abort from error
    printer.conclude(outcome, how)


def _config(footage: tuple[Path, ...], labels: tuple[Path, ...], options: Mapping[str, Any]) -> RetrainConfig:
    shares = FolderSplit.from_text(options["shares"], seed=options["seed"]).shares
    kept = (
        *("init", "from_scratch", "method", "encoder", "image_size"),
        *("every_s", "epochs", "minutes", "batch_size"),
    )
    return RetrainConfig(
        footage=tuple(str(path.resolve()) for path in footage),
        labels=tuple(str(path.resolve()) for path in labels),
        split=SplitPlan(shares=shares, seed=options["seed"], within=options["within"]),
        **{key: options[key] for key in kept},
    )


def _options(options: Mapping[str, Any]) -> RetrainOptions:
    variants = tuple(part.strip() for part in options["variants"].split(","))
    kept = ("name", "version", "export_anyway", "promote", "device", "workers")
    return RetrainOptions(
        models=options["models"] or models_root(),
        variants=cast("tuple[VariantName, ...]", variants),
        command=typed_command(),
        **{key: options[key] for key in kept},
    )


class _Printer:
    """Says on the terminal what happens."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def begun(self, stage: str, reason: str) -> None:
        if stage in _QUIET:
            return
        again = f" (again: {reason})" if reason else ""
        self._print(f"{_title(stage)} ...{again}", style="bold")

    def done(self, stage: str, kept: bool, seconds: float) -> None:
        if stage in _QUIET:
            return
        if kept:
            self._print(f"{_title(stage)}: kept from before, {in_words(seconds)}", style="dim")
        else:
            self._print(f"{_title(stage)}: done in {in_words(seconds)}", style="dim")

    def say(self, text: str) -> None:
        self._print(f"  {text}")

    def expect(self, estimate: Estimate, start: Start) -> None:
        table = Table(title="Expected, as measured on this machine")
        table.add_column("work")
        table.add_column("about", justify="right")
        steps = max(1, estimate.training_frames // estimate.batch_size)
        if estimate.video_frames:
            table.add_row(f"reading {estimate.video_frames} frames from videos", in_words(estimate.extract_s))
        if estimate.pack_s:
            table.add_row("decoding images", in_words(estimate.pack_s))
        table.add_row(
            f"pretraining: {estimate.epochs} epochs of {steps} steps of {estimate.batch_size} frames, "
            f"{estimate.step_s:.2f} s a step ({estimate.precision})",
            in_words(estimate.pretrain_s),
        )
        table.add_row("probes, comparison, export", in_words(estimate.measure_s))
        table.add_row("in all", in_words(estimate.total_s), style="bold")
        self._console.print(table)
        self._print(
            f"  {start.method} goes on from {start.words}, {start.encoder} at {start.image_size} px; on the disk: "
            f"{estimate.bytes_needed / 2**20:.0f} MiB for frames and packs"
        )
        if estimate.undeclared:
            self._print(f"  {estimate.undeclared} videos do not say how long they are and are not counted")
        self._print("  --minutes or --epochs makes it shorter. Ctrl-C stops; the same command goes on.")

    def compare(self, weighed: Weighed) -> None:
        if not weighed.measured:
            self._print("There is no default pair to compare with.")
            return
        self._console.print(_comparison_table(weighed))
        self._print("  False alarms: the share of normal frames judged defect.")
        if weighed.other:
            which = "the encoder as it was, with a probe of its own" if weighed.chosen == RUN else "after pretraining"
            other = weighed.other["auroc"].new
            self._print(f"  Not taken, since it ranked val no better: {which}; held out, its AUROC is {_figure(other)}")
        if weighed.inspections < FEW_INSPECTIONS:
            self._print(f"  {weighed.inspections} inspections held out are few: take the intervals for rough guesses.")
        self._print(f"  The rule: {RULE}.")
        self._print(_VERDICTS[str(weighed.verdict)], style="bold")

    def conclude(self, outcome: Outcome, options: RetrainOptions) -> None:
        """What came out, and what to do with it."""
        pair = outcome.pair
        if pair is None:
            self._print(
                "Nothing was exported. --export-anyway with the same command exports it all the same.", style="bold"
            )
            return
        self._print(f"wrote {pair}", style="bold")
        before = outcome.promoted_over
        if before is None:
            self._print(_how_to_promote(pair.name, options.models))
            return
        back = f" To go back to {before}: pipeprobe models rollback --models {options.models}" if before else ""
        self._print(f"{pair.name} is now the default pair of {options.models}.{back}")

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, soft_wrap=True, markup=False)


def _title(stage: str) -> str:
    if stage.startswith("frames-"):
        return f"reading videos at {stage.removeprefix('frames-')} px"
    return _TITLES[stage]


def _comparison_table(weighed: Weighed) -> Table:
    table = Table(
        title=f"Held out: {weighed.frames} labelled frames of {weighed.inspections} inspections, judged at `balanced`, "
        "with 95 % intervals"
    )
    for label in ("", f"default: {weighed.default}", "new", "difference, paired"):
        table.add_column(label, justify="right" if label else "left")
    for key, label in _ROWS.items():
        table.add_row(label, *_cells(weighed.measured[key]))
    return table


def _cells(measured: Measured) -> tuple[str, str, str]:
    difference = measured.difference
    return (
        _figure(measured.default),
        _figure(measured.new),
        f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})",
    )


def _figure(estimate: Any) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _how_to_promote(name: str, models: Path) -> str:
    return (
        f"To try it: pipeprobe score FRAMES --pair {name}\n"
        "To serve it unless another pair is named: give this command again with --promote, or "
        f"pipeprobe models promote {name} --models {models}"
    )
