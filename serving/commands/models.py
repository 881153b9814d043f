"""`pipeprobe models`: which pairs there are, whether they are sound, and which one is the default."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serving.errors import PairError, PipeprobeError
from serving.pairs.pair import Manifest, Pair, find_pair, load_folder, models_root, pair_folders
from serving.pairs.pair_index import INDEX_FILE, PairIndex, read_index

_VARIANTS = ("fp32", "fp16", "int8")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Look at the pairs in models/, verify them, and change which one is the default.

    A pair is named as NAME or NAME@VERSION. A running service follows the default by itself, unless
    PIPEPROBE_PAIR pins it to certain pairs.

    \b
    Examples:
      pipeprobe models list
      pipeprobe models verify simclr-resnet18@1.1.0
      pipeprobe models promote simclr-resnet18@1.1.0
      pipeprobe models rollback
    """


def _options(*, as_json: bool = True, device: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that the subcommands share."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        if device:
            function = click.option(
                "--device", default="cpu", show_default=True, help="Where golden frames are scored: cpu, cuda:INDEX."
            )(function)
        if as_json:
            function = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(function)
        return click.option(
            "--models",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Folder that holds the pairs.  [default: $PIPEPROBE_MODELS, else the shipped models/]",
        )(function)

    return decorate


@command.command("list")
@_options()
def list_pairs(models: Path | None, as_json: bool) -> None:
    """Table of all pairs and versions; the default is marked.

    Folders that cannot be used are listed with the reason. Their files are not hashed: `verify` does that.

    \b
    Examples:
      pipeprobe models list
      pipeprobe models list --json
    """
    folder = models or models_root()
    default = _index(folder)
    rows = [_row(folder, name, is_default=default is not None and name == default.default) for name in _folders(folder)]
    if as_json:
        history = [] if default is None else [entry.__dict__ for entry in default.history]
        _print_json({"default": None if default is None else default.default, "pairs": rows, "history": history})
        return
    table = Table(
        title=f"Pairs in {folder}; * is the default",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in ("", "name", "version", "encoder", "method", "px", "variants", "created"):
        table.add_column(column, no_wrap=True)
    broken = []
    for row in rows:
        mark = "[green]*[/]" if row["default"] else ""
        if row["error"] is not None:
            table.add_row(mark, f"[red]{escape(row['folder'])}[/]", *[""] * 6)
            broken.append(f"[red]{escape(row['folder'])} cannot be used: {escape(row['error'])}[/]")
            continue
        cells = (row["name"], row["version"], row["encoder"], row["method"], str(row["image_size"]))
        table.add_row(mark, *map(escape, cells), ", ".join(row["variants"]), row["created"][:10])
    console = Console()
    console.print(table)
    for line in broken:
        console.print(line)


@command.command("show")
@click.argument("pair", required=False)
@_options()
def show(pair: str | None, models: Path | None, as_json: bool) -> None:
    """What PAIR (the default one if absent) is: operating points, metrics, variants, where it comes from.

    \b
    Examples:
      pipeprobe models show
      pipeprobe models show simclr-resnet18@1.0.0 --json
    """
    found = find_pair(models or models_root(), pair, verify=False)
    if as_json:
        _print_json({"folder": str(found.path), **found.manifest.to_json()})
        return
    console, manifest = Console(soft_wrap=True), found.manifest
    console.print(f"[bold]{found.reference}[/], in {escape(str(found.path))}")
    facts = {
        "encoder": f"{manifest.encoder}, pretrained by {manifest.method}, {manifest.image_size} px",
        "validated on": manifest.validated_on,
        "variants": "; ".join(f"{v.name} ({v.precision}, for {v.device})" for v in manifest.variants.values()),
        "created": f"{manifest.created}, revision {manifest.git_revision}",
        "calibrated on": f"{manifest.calibration.n} frames: {manifest.calibration.data}",
    }
    for label, text in facts.items():
        console.print(f"{label}: {text}", markup=False, highlight=False)
    console.print(_points_table(manifest))
    console.print(_metrics_table(manifest))


@command.command("verify")
@click.argument("pairs", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every pair and version in the folder.")
@click.option("--variant", "variants", multiple=True, type=click.Choice(_VARIANTS), help="Only this one; repeatable.")
@_options(device=True)
@click.pass_context
def verify(
    ctx: click.Context,
    pairs: Sequence[str],
    every: bool,
    variants: Sequence[str],
    models: Path | None,
    as_json: bool,
    device: str,
) -> None:
    """Check PAIRS (the default one if none is named) as a service would before serving them.

    Every file's SHA-256 is compared with the manifest, and every variant re-scores its golden frames. The exit
    code is 0 if all are sound, 1 if one is not.

    \b
    Examples:
      pipeprobe models verify
      pipeprobe models verify --all --json
      pipeprobe models verify simclr-resnet18@1.1.0 --variant int8
    """
    from serving.pairs.promotion import verify_pair

    folder = models or models_root()
    load = load_folder if every or not pairs else find_pair
    names = _folders(folder) if every else pairs or [read_index(folder).default]
    results: list[dict[str, Any]] = []
    for name in names:
        try:
            deviations = verify_pair(load(folder, name), device=device, variants=variants)
            results.append({"pair": name, "sound": True, "deviations": deviations, "error": None})
        except PipeprobeError as error:
            results.append({"pair": name, "sound": False, "deviations": {}, "error": str(error)})
    if as_json:
        _print_json(results)
    else:
        _print_verified(results)
    ctx.exit(0 if all(result["sound"] for result in results) else 1)


@command.command("promote")
@click.argument("pair")
@_options(device=True)
def promote(pair: str, models: Path | None, as_json: bool, device: str) -> None:
    """Make PAIR the default, if it verifies; running services that follow the default pick it up.

    The index is replaced in one step: whatever happens, the default is the one before or the new one.

    \b
    Examples:
      pipeprobe models promote simclr-resnet18@1.1.0
      pipeprobe models promote simclr-resnet18@1.1.0 --device cuda:0 --json
    """
    from serving.pairs.promotion import promote as promote_pair

    folder = models or models_root()
    change = promote_pair(folder, pair, device=device)
    _report_change(change.before, change.now, as_json)


@command.command("rollback")
@_options(device=True)
def rollback(models: Path | None, as_json: bool, device: str) -> None:
    """Make the default of before the last promotion the default again, if it still verifies.

    \b
    Examples:
      pipeprobe models rollback
      pipeprobe models rollback --json
    """
    from serving.pairs.promotion import rollback as roll_back

    change = roll_back(models or models_root(), device=device)
    _report_change(change.before, change.now, as_json)


def _index(models: Path) -> PairIndex | None:
    return read_index(models) if (models / INDEX_FILE).is_file() else None


def _folders(models: Path) -> list[str]:
    folders = pair_folders(models)
    if not folders:
        raise PairError(f"there are no pairs in {models}; name their folder with --models, or export one")
    return folders


def _row(models: Path, folder: str, *, is_default: bool) -> dict[str, Any]:
    keys = ("name", "version", "encoder", "method", "image_size", "variants", "created", "validated_on")
    row: dict[str, Any] = {"folder": folder, "default": is_default, "error": None, **dict.fromkeys(keys)}
    try:
        manifest = load_folder(models, folder, verify=False).manifest
    except PairError as error:
        return row | {"error": str(error)}
    return row | {key: getattr(manifest, key) for key in keys} | {"variants": sorted(manifest.variants)}


def _points_table(manifest: Manifest) -> Table:
    table = Table(title="Operating points", title_justify="left")
    for column in ("name", "threshold", "recall", "precision", "specificity", "n", "chosen for"):
        table.add_column(column, justify="left" if column in ("name", "chosen for") else "right")
    for point in manifest.operating_points.values():
        mark = " (default)" if point.name == manifest.default_operating_point else ""
        figures = (point.threshold, point.recall, point.precision, point.specificity)
        table.add_row(point.name + mark, *(f"{value:.3f}" for value in figures), str(point.n), escape(point.criterion))
    return table


def _metrics_table(manifest: Manifest) -> Table:
    table = Table(title="Measured, with 95 % intervals", title_justify="left")
    for column in ("metric", "on", "value", "n"):
        table.add_column(column, justify="right" if column == "n" else "left")
    for metric in manifest.metrics:
        value = f"{metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"
        table.add_row(escape(metric.name), escape(metric.data), value, str(metric.n))
    return table


def _print_verified(results: Sequence[dict[str, Any]]) -> None:
    console = Console(soft_wrap=True)
    for result in results:
        if not result["sound"]:
            console.print(f"[red]not sound[/] {escape(result['pair'])}: {escape(result['error'])}")
            continue
        worst = {variant: max(outputs.values()) for variant, outputs in result["deviations"].items()}
        off = ", ".join(f"{variant} off by {value:.2g}" for variant, value in worst.items())
        console.print(f"[green]sound[/] {escape(result['pair'])}: SHA-256 of all files; golden outputs: {off}")


def _report_change(before: str, now: Pair, as_json: bool) -> None:
    if as_json:
        _print_json({"before": before or None, "default": now.path.name, "name": now.name, "version": now.version})
    elif before == now.path.name:
        click.echo(f"{now.reference} was the default already; it verifies")
    else:
        click.echo(f"{now.reference} is the default now; before: {before or 'none'}")


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
