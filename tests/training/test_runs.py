"""Run folders: what is written comes back, and what is broken is named. Provenance says what made a number."""

from __future__ import annotations

import json
import pickle
import subprocess
from pathlib import Path

import pytest
import torch

from serving.errors import DataError
from training import provenance as provenance_module
from training.runs import (
    ENCODER,
    load_encoder,
    load_tensors,
    provenance,
    random_encoder,
    read_json,
    save_encoder,
    save_tensors,
    update_run,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"encoder": "vit_tiny", "image_size": 32, "seed": 1}))
    return tmp_path


def test_an_encoder_comes_back_as_it_was(run: Path) -> None:
    encoder = random_encoder("vit_tiny", 32, seed=1)
    save_encoder(run, encoder.to(memory_format=torch.channels_last))
    loaded, config = load_encoder(run)
    assert config["seed"] == 1
    assert not loaded.training
    saved = encoder.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())


def test_an_unfinished_run_says_how_to_go_on(run: Path) -> None:
    with pytest.raises(DataError, match="--resume"):
        load_encoder(run)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        load_encoder(tmp_path)


def test_an_encoder_of_another_config_is_refused(run: Path) -> None:
    save_encoder(run, random_encoder("vit_tiny", 64, seed=1))
    with pytest.raises(DataError, match="image_size=64"):
        load_encoder(run)


def test_weights_that_do_not_fit_are_refused(run: Path) -> None:
    save_tensors(run / ENCODER, {"encoder": "vit_tiny", "image_size": 32, "state_dict": {"a": torch.ones(1)}})
    with pytest.raises(DataError, match="does not fit"):
        load_encoder(run)


@pytest.mark.parametrize("content", [b"", b"not tensors", pickle.dumps(Path("/"), protocol=2)])
def test_files_that_are_not_tensors_are_refused_without_running_them(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "encoder.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as tensors"):
        load_tensors(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    save_tensors(path, {"a": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot be read"):
        load_tensors(path)


@pytest.mark.parametrize(("content", "words"), [("{", "is not JSON"), ("[1]", "must hold a JSON object")])
def test_broken_json_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(DataError, match=words):
        read_json(tmp_path / "run.json")


def test_run_json_keeps_what_is_not_updated(tmp_path: Path) -> None:
    update_run(tmp_path, status="running", seed=3)
    update_run(tmp_path, status="finished")
    assert read_json(tmp_path / "run.json") == {"status": "finished", "seed": 3}


def test_provenance_names_command_commit_packages_and_hardware() -> None:
    made = provenance("pipeprobe-train pretrain packs/x")
    assert made["command"] == "pipeprobe-train pretrain packs/x"
    assert made["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "numpy", "timm"} <= set(made["packages"])
    assert "cores" in made["hardware"]
    assert json.loads(json.dumps(made)) == made


def test_the_revision_is_that_of_the_checkout_and_says_when_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance_module, "__file__", str(tmp_path / "training" / "provenance.py"))
    assert provenance_module.git_revision() == "unknown"
    file = tmp_path / "a"
    file.write_text("1")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "a"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    clean = provenance_module.git_revision()
    assert len(clean) == 40
    file.write_text("2")
    assert provenance_module.git_revision() == f"{clean}-dirty"
