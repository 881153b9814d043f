"""`pipeprobe-train export`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click
from rich.console import Console
from rich.table import Table

from serving.pairs.manifest import VariantName
from serving.pairs.pair import load_pair
from training.commands.options import typed_command
from training.data.pack import open_pack
from training.export import VARIANTS, ExportConfig, export_pair


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--pack",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Labelled pack, best the one of val: sets the int8 ranges and judges the variants.",
)
@click.option("--name", required=True, help="The pair's name, and its folder's.")
@click.option("--version", required=True, help="The pair's version, such as 1.0.0.")
@click.option(
    "--out",
    default=Path("models"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of pairs.",
)
@click.option("--default", "make_default", is_flag=True, help="Serve this pair unless another is named.")
@click.option("--variants", default=",".join(VARIANTS), show_default=True, help="Which to export; fp32 must be one.")
@click.option("--calibration-frames", default=256, show_default=True, help="Most frames that set the int8 ranges.")
@click.option(
    "--gate-frames", default=2048, show_default=True, help="Most labelled frames that variants are judged on."
)
@click.option("--seed", default=0, show_default=True, help="Draws both.")
def command(
    run: Path,
    pack: Path,
    name: str,
    version: str,
    out: Path,
    make_default: bool,
    variants: str,
    calibration_frames: int,
    gate_frames: int,
    seed: int,
) -> None:
    """Export the encoder and probe of RUN as a pair that `pipeprobe` serves.

    Refused, with nothing written, if the float32 graph disagrees with torch on frames of the pack, or if another
    variant loses more than 0.005 AUROC. The first pair of a folder becomes its default.

    \b
    Example:
      pipeprobe-train export runs/simclr --pack packs/val --name simclr-r18 --version 1.0.0 --default
    """
    config = ExportConfig(
        name=name,
        version=version,
        variants=cast("tuple[VariantName, ...]", tuple(part.strip() for part in variants.split(","))),
        calibration_frames=calibration_frames,
        gate_frames=gate_frames,
        seed=seed,
    )
    folder = export_pair(
        run,
        pack=open_pack(pack),
        out=out,
        config=config,
        make_default=make_default,
        command=typed_command(),
    )
    console = Console()
    console.print(_variant_table(folder))
    console.print(f"wrote {folder}", soft_wrap=True)


def _variant_table(folder: Path) -> Table:
    manifest = load_pair(folder, verify=False).manifest
    gate = cast("dict[str, dict[str, dict[str, float]]]", manifest.training["gate"])
    table = Table(title=f"{manifest.name} {manifest.version}: variants on the gate's frames, on the CPU")
    for label in ("variant", "MB", "AUROC", "loss", "verdicts changed", "largest score change"):
        table.add_column(label, justify="left" if label == "variant" else "right")
    for name, variant in manifest.variants.items():
        report = gate["variants"][name]
        table.add_row(
            name,
            f"{(folder / variant.file).stat().st_size / 1e6:.1f}",
            f"{report['auroc']:.4f}",
            f"{report['auroc_loss']:+.4f}",
            f"{100 * report['verdicts_changed']:.2f} %",
            f"{report['max_score_change']:.4f}",
        )
    return table
