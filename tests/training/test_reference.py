"""`pipeprobe-train reference`: a pair's next version, which says what it was validated on and scores as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner
from support.tiny_pair import write_tiny_pair
from support.toy_packs import toy_pack

from serving.durable import sha256_file
from serving.errors import ConfigError, DataError
from serving.monitoring.drift_reference import load_reference, make_reference
from serving.pairs.pair import load_pair
from serving.scorer import Scorer
from training import reference as module
from training.cli import cli
from training.reference import add_reference


@pytest.fixture(autouse=True)
def plain_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny pair was not trained, so there is nothing for a card to say."""
    monkeypatch.setattr(module, "write_card", lambda manifest: f"# {manifest.name} {manifest.version}\n")


def test_the_new_version_differs_in_the_reference_only(tmp_path: Path) -> None:
    old = write_tiny_pair(tmp_path / "models", variants=("fp32", "int8"))
    pack = toy_pack("val", n=300, size=32)
    new = add_reference(old, pack=pack, version="1.0.1", out=tmp_path / "models", command="typed /data/here")
    assert new.name == "tiny@1.0.1"
    before, after = load_pair(old), load_pair(new)
    assert after.version == "1.0.1"
    assert load_reference(before, "fp32") is None
    assert sha256_file(new / "model.fp32.onnx") == sha256_file(old / "model.fp32.onnx")
    record = cast("dict[str, Any]", after.manifest.training["reference"])
    assert (record["frames"], record["command"]) == (300, "typed here")
    for variant in ("fp32", "int8"):
        said = Scorer(after, device="cpu", variant=variant).score(np.asarray(pack.frames[:]))
        expected, found = make_reference(said.score, said.embedding), load_reference(after, variant)
        assert found is not None
        np.testing.assert_array_equal(found.counts, expected.counts)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5, atol=1e-6)
    assert not [path for path in (tmp_path / "models").iterdir() if path.name.startswith(".")]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    old = write_tiny_pair(tmp_path)
    with pytest.raises(ConfigError, match="never overwritten"):
        add_reference(old, pack=toy_pack("val", n=30, size=32), version="1.0.0", out=tmp_path)


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    old = write_tiny_pair(tmp_path)
    with pytest.raises(DataError, match="pack them again"):
        add_reference(old, pack=toy_pack("val", n=30, size=64), version="1.0.1", out=tmp_path)


def test_a_version_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="version"):
        add_reference(write_tiny_pair(tmp_path), pack=toy_pack("val", n=30, size=32), version="../up", out=tmp_path)


def test_the_command_says_what_it_does() -> None:
    result = CliRunner().invoke(cli, ["reference", "--help"])
    assert result.exit_code == 0
    assert "--pack" in result.output
