"""Promotion and rollback: verified, in one step, and whole after a kill at any moment."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.tiny_pair import build_graph, write_second_version, write_tiny_pair

from serving.cli import cli
from serving.durable import sha256_file, write_json_atomic
from serving.errors import PairError, PairInvalidError, PairNotFoundError
from serving.pairs.pair import find_pair
from serving.pairs.pair_index import read_index
from serving.pairs.promotion import promote, rollback


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """tiny 1.0.0, the default, and 2.0.0 beside it."""
    write_tiny_pair(tmp_path / "models")
    write_second_version(tmp_path / "models")
    return tmp_path / "models"


def answer_otherwise(folder: Path) -> None:
    """Another model under right SHA-256 sums: only the golden outputs can tell."""
    (folder / "model.fp32.onnx").write_bytes(build_graph(32, bias=3.0))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.fp32.onnx"] = sha256_file(folder / "model.fp32.onnx")
    write_json_atomic(folder / "manifest.json", manifest)


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["models", *map(str, arguments)], env={"COLUMNS": "160"})
    if isinstance(result.exception, PairError):
        return 2, str(result.exception)
    return result.exit_code, result.output


def test_promotes_and_goes_back(models: Path) -> None:
    change = promote(models, "tiny@2.0.0")
    assert (change.before, change.now.reference) == ("tiny", "tiny@2.0.0")
    assert find_pair(models).version == "2.0.0"
    change = rollback(models)
    assert (change.before, change.now.reference) == ("tiny@2.0.0", "tiny@1.0.0")
    assert find_pair(models).version == "1.0.0"
    with pytest.raises(PairNotFoundError, match="none to go back to"):
        rollback(models)


def test_refuses_what_does_not_verify(models: Path) -> None:
    before = (models / "index.json").read_bytes()
    answer_otherwise(models / "tiny@2.0.0")
    with pytest.raises(PairInvalidError, match="answers its golden frames differently"):
        promote(models, "tiny@2.0.0")
    with (models / "tiny@2.0.0" / "model.fp32.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(PairInvalidError, match="was changed or damaged"):
        promote(models, "tiny@2.0.0")
    with pytest.raises(PairNotFoundError):
        promote(models, "../models/tiny@2.0.0")
    assert (models / "index.json").read_bytes() == before


def test_does_not_go_back_to_what_no_longer_verifies(models: Path) -> None:
    promote(models, "tiny@2.0.0")
    answer_otherwise(models / "tiny")
    with pytest.raises(PairInvalidError, match="answers its golden frames differently"):
        rollback(models)
    assert find_pair(models).version == "2.0.0"


KILL = """
import os, signal, sys
from pathlib import Path
moment = sys.argv[1]
rename = Path.replace
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def rename_and_die(self, target):
    rename(self, target)
    die()
if moment == "half written":
    os.fsync = die
elif moment == "before the rename":
    Path.replace = die
else:
    Path.replace = rename_and_die
from serving.pairs.promotion import promote
promote(Path(sys.argv[2]), "tiny@2.0.0")
"""


@pytest.mark.parametrize(
    ("moment", "default"), [("half written", "tiny"), ("before the rename", "tiny"), ("after the rename", "tiny@2.0.0")]
)
def test_a_kill_leaves_the_default_before_or_the_new_one(models: Path, moment: str, default: str) -> None:
    result = subprocess.run([sys.executable, "-c", KILL, moment, str(models)], timeout=60, check=False)
    assert result.returncode == -signal.SIGKILL
    assert read_index(models).default == default
    assert find_pair(models).path.name == default
    # Nobody is locked out, and what the killed one left behind is in nobody's way.
    assert promote(models, "tiny@2.0.0").now.version == "2.0.0"
    assert rollback(models).now.version == "1.0.0"


# The command.


def test_lists_pairs_with_the_default_and_what_is_wrong(models: Path) -> None:
    (models / "tiny@2.0.0" / "golden.npz").unlink()
    code, text = run("list", "--models", models)
    assert code == 0
    assert "1.0.0" in text
    assert "cannot be used" in text
    listed = json.loads(run("list", "--models", models, "--json")[1])
    assert listed["default"] == "tiny"
    assert [(pair["folder"], pair["default"], pair["version"]) for pair in listed["pairs"]] == [
        ("tiny", True, "1.0.0"),
        ("tiny@2.0.0", False, None),
    ]
    assert "golden.npz" in listed["pairs"][1]["error"]


def test_shows_what_a_pair_is(models: Path) -> None:
    code, text = run("show", "tiny@2.0.0", "--models", models)
    assert code == 0
    for words in ("tiny@2.0.0", "coloured squares only, no sewer", "balanced (default)", "recall_95", "auroc"):
        assert words in text
    assert json.loads(run("show", "--models", models, "--json")[1])["version"] == "1.0.0"


def test_verifies_one_or_all(models: Path) -> None:
    assert run("verify", "--models", models)[0] == 0
    answer_otherwise(models / "tiny@2.0.0")
    code, text = run("verify", "--all", "--models", models)
    assert code == 1
    assert "sound tiny:" in text
    assert "not sound tiny@2.0.0:" in text
    code, text = run("verify", "tiny@2.0.0", "tiny@9", "--models", models, "--json")
    assert code == 1
    assert [result["sound"] for result in json.loads(text)] == [False, False]
    # After a promotion the plain folder is still looked at itself, not through the name's promoted version.
    write_second_version(models)
    promote(models, "tiny@2.0.0")
    answer_otherwise(models / "tiny")
    assert "not sound tiny:" in run("verify", "--all", "--models", models)[1]


def test_promotes_and_rolls_back_by_command(models: Path) -> None:
    assert run("promote", "tiny@2.0.0", "--models", models) == (0, "tiny@2.0.0 is the default now; before: tiny\n")
    assert "was the default already" in run("promote", "tiny@2.0.0", "--models", models)[1]
    assert json.loads(run("rollback", "--models", models, "--json")[1]) == {
        "before": "tiny@2.0.0",
        "default": "tiny",
        "name": "tiny",
        "version": "1.0.0",
    }
    code, text = run("rollback", "--models", models)
    assert code == 2
    assert "none to go back to" in text
    code, text = run("promote", "../tiny", "--models", models)
    assert code == 2
    assert "available: tiny, tiny@2.0.0" in text


def test_a_folder_without_pairs_is_said_to_be_one(tmp_path: Path) -> None:
    code, text = run("list", "--models", tmp_path)
    assert code == 2
    assert "no pairs in" in text


def test_versions_answer_differently(models: Path) -> None:
    """What the service's tests of promotion rest on."""
    folder = write_second_version(models, version="3.0.0", bias=-20.0)
    first, third = (np.load(path / "golden.npz")["fp32_score"] for path in (models / "tiny", folder))
    assert first[0] > 0.9 > 0.1 > third[0]
