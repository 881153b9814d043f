"""`pipeprobe keys`: add, list and revoke the API keys of the service."""

from __future__ import annotations

from pathlib import Path

import click

from serving.http.api_keys import SCOPES, Scope, add_key, read_keys, revoke_key


def _path(given: Path | None) -> Path:
    from serving.limits import Settings

    return given or Settings.from_env().key_path


_file = click.option(
    "--file",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of the keys.  [default: $PIPEPROBE_KEY_FILE, else pipeprobe/keys.json in the user's configuration]",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Add, list and revoke API keys; a running service follows without a restart.

    \b
    Example:
      pipeprobe keys add inspection-lab
      pipeprobe keys add prometheus --scope metrics
      curl -H "Authorization: Bearer $KEY" --data-binary @frame.jpg http://HOST:3000/v1/score
    """


@command.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=("score",),
    show_default=True,
    help="What it opens: metrics for /metrics, score for everything else; repeat for both.",
)
@_file
def add(name: str, scopes: tuple[Scope, ...], file: Path | None) -> None:
    """Make a key called NAME and print it; it cannot be shown again.

    \b
    Example:
      pipeprobe keys add inspection-lab
      pipeprobe keys add prometheus --scope metrics
    """
    path = _path(file)
    click.echo(add_key(path, name, scopes))
    click.echo(f"This is shown once; {path} keeps only its hash.", err=True)


@command.command("list")
@_file
def list_keys(file: Path | None) -> None:
    """Print name, scopes and date of every key.

    \b
    Example:
      pipeprobe keys list
    """
    for key in read_keys(_path(file)):
        click.echo(f"{key.name}\t{','.join(key.scopes)}\t{key.created}")


@command.command()
@click.argument("name")
@_file
def revoke(name: str, file: Path | None) -> None:
    """Revoke the key called NAME at once.

    \b
    Example:
      pipeprobe keys revoke inspection-lab
    """
    revoke_key(_path(file), name)
    click.echo(f"{name} is revoked")
