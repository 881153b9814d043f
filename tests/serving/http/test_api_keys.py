"""The file of API keys: hashed, private, whole at every moment, followed without a restart."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from pathlib import Path

import click.testing
import pytest

from serving.commands.keys import command
from serving.errors import ConfigError
from serving.http.api_keys import KeyRing, add_key, read_keys, revoke_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "keys.json"


def test_keeps_the_hash_of_a_long_random_key_and_never_the_key(path: Path) -> None:
    first, second = add_key(path, "lab"), add_key(path, "van", ["metrics", "score"])
    assert first != second
    assert len(first) >= len("pipeprobe_") + 43  # 256 bits in base64
    text = path.read_text()
    assert first not in text
    assert first.removeprefix("pipeprobe_") not in text
    lab, van = read_keys(path)
    assert (lab.name, lab.scopes, van.scopes) == ("lab", ("score",), ("metrics", "score"))
    assert lab.sha256 == hashlib.sha256(first.encode()).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o600


def test_finds_right_keys_only(path: Path) -> None:
    ring = KeyRing(path)
    assert ring.find("anything") is None
    keys = {name: add_key(path, name) for name in ("one", "two", "three")}
    for name, token in keys.items():
        found = ring.find(token)
        assert found is not None
        assert found.name == name
        for wrong in (token[:-1], token + "x", token.lower() + "é\udc80", " " + token, read_keys(path)[0].sha256, ""):
            assert ring.find(wrong) is None


def test_a_running_ring_follows_the_file(path: Path) -> None:
    ring = KeyRing(path)
    old = add_key(path, "old")
    assert ring.find(old) is not None
    new = add_key(path, "new")
    assert (len(ring), ring.find(new) is not None) == (2, True)
    revoke_key(path, "old")
    assert (ring.find(old), ring.find(new) is not None) == (None, True)
    path.unlink()
    assert ring.find(new) is None


def test_a_ring_lets_nobody_in_while_its_file_cannot_be_trusted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    token = add_key(path, "lab")
    ring = KeyRing(path)
    assert ring.find(token) is not None
    good = path.read_text()
    path.write_text(good[:40])
    assert ring.find(token) is None
    assert "no API key is accepted until this is mended" in caplog.text
    path.write_text(good)
    path.chmod(0o620)
    assert ring.find(token) is None
    path.chmod(0o600)
    assert ring.find(token) is not None


def test_refuses_files_that_others_can_write(path: Path) -> None:
    add_key(path, "lab")
    path.chmod(0o440)
    assert len(read_keys(path)) == 1
    path.chmod(0o602)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "keys": []}',
        '{"version": 1, "keys": [{"name": "a"}]}',
        '{"version": 1, "keys": [{"name": "a", "sha256": "00", "scopes": ["score"], "created": ""}]}',
    ],
)
def test_refuses_files_that_are_something_else(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_keys(path)


def test_refuses_scopes_and_names_twice(path: Path) -> None:
    add_key(path, "lab")
    value = json.loads(path.read_text())
    value["keys"] *= 2
    path.write_text(json.dumps(value))
    with pytest.raises(ConfigError, match="twice"):
        read_keys(path)
    value["keys"] = [value["keys"][0] | {"scopes": ["admin"]}]
    path.write_text(json.dumps(value))
    with pytest.raises(ConfigError, match="scopes"):
        read_keys(path)


@pytest.mark.parametrize("name", ["", "../x", "a b", ".hidden", "x" * 65, "a\nb"])
def test_refuses_names_that_cannot_stand_in_a_log(path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a key"):
        add_key(path, name)
    assert not path.exists()


def test_names_are_unique_and_revoking_an_unknown_one_says_which_there_are(path: Path) -> None:
    add_key(path, "lab")
    with pytest.raises(ConfigError, match="already"):
        add_key(path, "lab")
    with pytest.raises(ConfigError, match="there are: lab"):
        revoke_key(path, "van")


def test_several_at_once_lose_nobodys_key(path: Path) -> None:
    names = [f"key-{i}" for i in range(12)]
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        tokens = pool.starmap(add_key, [(path, name) for name in names])
    ring = KeyRing(path)
    found = [key.name for token in tokens if (key := ring.find(token))]
    assert found == names
    assert not list(path.parent.glob("*.partial"))


def test_the_command_shows_a_key_once(path: Path) -> None:
    def keys(*arguments: str) -> str:
        result = click.testing.CliRunner().invoke(command, [*arguments, "--file", str(path)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    token = keys("add", "lab", "--scope", "metrics", "--scope", "score").strip()
    found = KeyRing(path).find(token)
    assert found is not None
    listed = keys("list")
    assert listed.startswith("lab\tmetrics,score\t20")
    assert token not in listed
    keys("revoke", "lab")
    assert keys("list") == ""


def test_the_command_uses_the_file_of_the_service(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPEPROBE_SHARED_DATA", raising=False)
    monkeypatch.setenv("PIPEPROBE_KEY_FILE", str(path))
    assert click.testing.CliRunner().invoke(command, ["add", "lab"]).exit_code == 0
    assert [key.name for key in read_keys(path)] == ["lab"]
