"""Every command of both command lines: its help teaches, and a user's mistake ends in one line and exit code 2."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

import serving.cli
import training.cli
from serving.errors import DeviceError
from serving.lazy_group import LazyGroup, run_group

GROUPS = {"pipeprobe": serving.cli.cli, "pipeprobe-train": training.cli.cli}


# By name only: importing them here would let one broken command hide the tests of all the others.
COMMANDS = [(program, name) for program, group in GROUPS.items() for name in group.list_commands(click.Context(group))]


def leaves(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """A command's own path, or those of the commands below it if it is a group."""
    command: click.Command | None = GROUPS[path[0]]
    for name in path[1:]:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from leaves((*path, name))
    else:
        yield path


def invoke(path: tuple[str, ...], *arguments: str) -> tuple[int, str]:
    """Exit code and output of a command, as the console script would run it."""
    result = CliRunner().invoke(GROUPS[path[0]], [*path[1:], *arguments], prog_name=path[0], terminal_width=100)
    return result.exit_code, result.output


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_teaches_with_an_example(path: tuple[str, ...]) -> None:
    for leaf in leaves(path):
        check_help(leaf)


def check_help(path: tuple[str, ...]) -> None:
    code, text = invoke(path, "--help")
    assert code == 0
    assert f"Usage: {' '.join(path)}" in text
    body = text.partition("\n")[2]
    assert re.search(rf"(?m)^ +(\$ )?{re.escape(' '.join(path))}\b", body), f"no example of {path} in:\n{text}"
    undocumented = [line for line in text.splitlines() if re.fullmatch(r"  --?[\w, -]+(?: [A-Z]+)?", line)]
    assert not [line for line in undocumented if not _continued(line, text)], "an option has no help"


def _continued(line: str, text: str) -> bool:
    """Whether the help of a long option follows on the next line."""
    lines = text.splitlines()
    after = lines[lines.index(line) + 1 :]
    return bool(after) and after[0].startswith(" " * 8)


@pytest.mark.parametrize("program", GROUPS)
def test_the_group_lists_its_commands_without_importing_them(program: str) -> None:
    code, text = invoke((program,), "--help")
    assert code == 0
    for name in GROUPS[program].list_commands(click.Context(GROUPS[program])):
        assert re.search(rf"(?m)^  {name} +\w.*\.$", text)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_an_unknown_option_ends_with_exit_code_2(path: tuple[str, ...]) -> None:
    for leaf in leaves(path):
        code, text = invoke(leaf, "--no-such-option")
        assert code == 2
        assert "No such option" in text
        assert "Traceback" not in text


@pytest.mark.parametrize("program", GROUPS)
def test_an_unknown_command_ends_with_exit_code_2(program: str) -> None:
    code, text = invoke((program,), "no-such-command")
    assert code == 2
    assert "No such command" in text


@pytest.mark.parametrize("program", GROUPS)
def test_the_version_is_told(program: str) -> None:
    code, text = invoke((program,), "--version")
    assert code == 0
    assert re.search(r"version \d+\.\d+", text)


def test_errors_that_a_user_can_mend_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def command() -> None:
        raise DeviceError("cuda was asked for; install the gpu extra")

    group = LazyGroup("test", lazy={"fail": ("unused", "Fail.")})
    monkeypatch.setattr(LazyGroup, "get_command", lambda self, ctx, name: command)
    monkeypatch.setattr("sys.argv", ["test", "fail"])
    with pytest.raises(SystemExit) as caught:
        run_group(group)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: cuda was asked for; install the gpu extra\n"
