"""A click group whose subcommands are imported only when they are asked for.

`pipeprobe --help` should not pay for ONNX Runtime, and `pipeprobe-train simulate` not for timm.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """Subcommands by name: `{"score": ("serving.commands.score", "Score image files.")}`.

    The second string is the line that the group's `--help` shows, so that listing imports nothing.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        command = importlib.import_module(self._lazy[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._lazy.items()])


def run_group(group: click.Group) -> None:
    """Run a console script; errors that a user can mend end as one line and exit code 2."""
    from serving.errors import PipeprobeError

    try:
        group.main()
    except PipeprobeError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(2) from error
