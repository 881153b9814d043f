"""Versions side by side, the default and what it was before."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread

import pytest
from support.tiny_pair import write_second_version, write_tiny_pair

from serving.errors import ConfigError, PairInvalidError, PairNotFoundError
from serving.pairs.pair import find_pair
from serving.pairs.pair_index import (
    find_folder,
    is_pair_reference,
    new_folder,
    pair_folders,
    read_index,
    write_index,
)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_tiny_pair(tmp_path / "models")
    return tmp_path / "models"


def test_the_shipped_index_and_pair_are_read() -> None:
    shipped = Path(__file__).resolve().parents[3] / "models"
    assert read_index(shipped).history == ()
    pair = find_pair(shipped)
    assert pair.path.name == pair.name == "simclr-resnet18"
    assert find_pair(shipped, pair.reference).path == pair.path


def test_versions_lie_side_by_side_and_are_found_by_name_and_version(models: Path) -> None:
    write_second_version(models)
    assert pair_folders(models) == ["tiny", "tiny@2.0.0"]
    assert find_pair(models, "tiny@1.0.0").path.name == "tiny"
    assert find_pair(models, "tiny@2.0.0").version == "2.0.0"
    assert find_pair(models).version == "1.0.0"


def test_a_name_alone_is_the_version_promoted_last(models: Path) -> None:
    write_second_version(models)
    write_tiny_pair(models, name="other", default=False)
    assert find_folder(models, "tiny") == "tiny"
    write_index(models, "tiny@2.0.0")
    assert find_folder(models, "tiny") == "tiny@2.0.0"
    write_index(models, "other")
    assert find_folder(models, "tiny") == "tiny@2.0.0"
    assert find_pair(models).name == "other"


def test_a_name_alone_that_could_be_several_is_refused(models: Path) -> None:
    for version in ("3.0.0", "4.0.0"):
        write_tiny_pair(models, name="other", version=version, folder_name=f"other@{version}", default=False)
    with pytest.raises(PairNotFoundError, match=r"several versions.*name one: other@3\.0\.0, other@4\.0\.0"):
        find_folder(models, "other")
    write_tiny_pair(models, name="other", version="1.0.0", default=False)
    assert find_folder(models, "other") == "other"


def test_a_version_folder_must_hold_that_version(models: Path) -> None:
    write_second_version(models).rename(models / "tiny@3.0.0")
    with pytest.raises(PairInvalidError, match=r"names the pair 'tiny', version '2\.0\.0'; rename the folder to"):
        find_pair(models, "tiny@3.0.0")


def test_the_index_remembers_what_the_default_was(models: Path) -> None:
    write_second_version(models)
    write_index(models, "tiny@2.0.0")
    write_index(models, "tiny@2.0.0")
    index = json.loads((models / "index.json").read_text())
    assert (index["default"], index["pairs"]) == ("tiny@2.0.0", ["tiny", "tiny@2.0.0"])
    assert [entry["default"] for entry in index["history"]] == ["tiny"]
    back = read_index(models).rolled_back()
    assert (back.default, back.history) == ("tiny", ())
    with pytest.raises(PairNotFoundError, match="none to go back to"):
        back.rolled_back()


def test_an_index_of_an_older_release_is_read(models: Path) -> None:
    (models / "index.json").write_text('{"default": "tiny", "pairs": ["tiny"]}')
    assert read_index(models).default == "tiny"
    write_second_version(models)
    write_index(models, "tiny@2.0.0")
    assert read_index(models).rolled_back().default == "tiny"


@pytest.mark.parametrize(
    "text",
    [
        '{"default": "tiny"}',
        '{"default": "tiny", "pairs": [], "other": 1}',
        '{"default": "tiny", "pairs": [], "history": ["tiny"]}',
        '{"default": "tiny", "pairs": [], "history": [{"default": "tiny"}]}',
        '{"default": "tiny", "pairs": [], "history": [{"default": 1, "until": "now"}]}',
        '{"default": ["tiny"], "pairs": []}',
        "[]",
    ],
)
def test_an_index_of_another_shape_is_refused(models: Path, text: str) -> None:
    (models / "index.json").write_text(text)
    with pytest.raises(PairInvalidError, match=r"index\.json: expected"):
        read_index(models)


@pytest.mark.parametrize("folder", ["../models/tiny", "/etc", "gone", ".", "tiny/../tiny"])
def test_an_index_that_points_elsewhere_is_refused(models: Path, folder: str) -> None:
    (models / "index.json").write_text(json.dumps({"default": folder, "pairs": [folder]}))
    with pytest.raises(PairNotFoundError, match="available: tiny"):
        find_pair(models)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("tiny", True),
        ("tiny@1.0.0", True),
        ("tiny@", False),
        ("@1", False),
        ("a@b@c", False),
        ("../tiny", False),
        ("tiny@../x", False),
        (".tiny", False),
        ("tiny@.1", False),
        ("ti ny", False),
        ("tiny\n", False),
    ],
)
def test_references_are_plain(text: str, fits: bool) -> None:
    assert is_pair_reference(text) is fits


def test_a_new_version_goes_beside_the_others(models: Path) -> None:
    assert new_folder(models, "other", "1.0.0") == models / "other"
    assert new_folder(models, "tiny", "1.1.0") == models / "tiny@1.1.0"
    with pytest.raises(ConfigError, match="exists and pairs are never overwritten"):
        new_folder(models, "tiny", "1.0.0")
    write_second_version(models)
    with pytest.raises(ConfigError, match=r"tiny@2\.0\.0 exists"):
        new_folder(models, "tiny", "2.0.0")


def test_changes_at_the_same_time_lose_nothing(models: Path) -> None:
    names = [f"pair{i}" for i in range(6)]
    for name in names:
        write_tiny_pair(models, name=name, default=False)
    threads = [Thread(target=write_index, args=(models, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    index = read_index(models)
    assert sorted([index.default, *(entry.default for entry in index.history)]) == sorted([*names, "tiny"])
