"""Packs: they hold what was decoded, survive kills, and refuse whatever would mix or hide something."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from support.datasets import write_folders, write_sewer_ml

from serving.errors import ConfigError, DataError
from serving.frames import decode_bytes
from training.commands.pack import command
from training.data import pack as pack_module
from training.data import shards as shards_module
from training.data.frame_table import FrameTable
from training.data.pack import CorruptFramesError, Pack, PackError, build_pack, open_pack
from training.data.sewer_ml import read_sewer_ml

REPOSITORY = Path(__file__).resolve().parents[3]
SIZE = 24


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_module, "SHARD_FRAMES", 8)


@pytest.fixture
def table(tmp_path: Path) -> FrameTable:
    return read_sewer_ml(write_sewer_ml(tmp_path / "set"), "train")


def build(table: FrameTable, out: Path, *, size: int = SIZE, skip_corrupt: bool = False) -> Pack:
    return build_pack(table, size=size, out=out, workers=1, skip_corrupt=skip_corrupt)


def decoded_names(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each image that this process decodes."""
    calls: list[int] = []

    def counting(data: bytes, size: int) -> np.ndarray:
        calls.append(len(data))
        return decode_bytes(data, size)

    monkeypatch.setattr(shards_module, "decode_bytes", counting)
    return calls


def damage(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ 1]))


def test_holds_what_serving_decodes(table: FrameTable, tmp_path: Path) -> None:
    build(table, tmp_path / "pack")
    pack = open_pack(tmp_path / "pack")
    assert (len(pack), pack.size, pack.source, pack.split) == (40, SIZE, "Sewer-ML", "train")
    assert pack.names == table.names
    assert pack.frames.shape == (40, SIZE, SIZE, 3)
    for i, name in enumerate(pack.names):
        np.testing.assert_array_equal(pack.frames[i], decode_bytes(table.store.read(name), SIZE))
    for column in ("labels", "classes", "inspections"):
        np.testing.assert_array_equal(getattr(pack, column), getattr(table, column))
    assert not pack.frames.flags.writeable
    assert pack.index["labels"] == {"defect": 20, "normal": 20, "unlabelled": 0}
    assert sorted(p.name for p in pack.path.iterdir()) == [
        ".lock",
        "columns.npz",
        "frames.u8",
        "index.json",
        "names.txt",
    ]


def test_processes_do_not_change_the_pack(table: FrameTable, tmp_path: Path) -> None:
    alone = build(table, tmp_path / "one")
    together = build_pack(table, size=SIZE, out=tmp_path / "two", workers=2)
    assert together.digest == alone.digest
    assert (tmp_path / "two" / "frames.u8").read_bytes() == (tmp_path / "one" / "frames.u8").read_bytes()
    assert build(table, tmp_path / "other", size=16).digest != alone.digest


def children_of(pid: int) -> set[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    direct = {int(child) for child in path.read_text().split()} if path.exists() else set()
    return direct.union(*map(children_of, direct))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: object, what: str, timeout_s: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


@pytest.mark.parametrize("also", ["nothing else", "a damaged shard", "a torn line"])
def test_continues_after_a_kill(table: FrameTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, also: str) -> None:
    whole = build(table, tmp_path / "whole")
    # Reading a FIFO that nobody writes to blocks: the last shard hangs, the others get done, and then comes the kill.
    last = tmp_path / "set" / "train" / table.names[-1]
    kept_image = last.read_bytes()
    last.unlink()
    os.mkfifo(last)
    script = (
        "from pathlib import Path; from training.data import pack; pack.SHARD_FRAMES = 8\n"
        "from training.data.sewer_ml import read_sewer_ml\n"
        f"table = read_sewer_ml(Path({str(tmp_path / 'set')!r}), 'train')\n"
        f"pack.build_pack(table, size={SIZE}, out=Path({str(tmp_path / 'pack')!r}), workers=2)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY)
    journal = tmp_path / "pack" / "building" / "shards.jsonl"
    wait_until(lambda: journal.exists() and len(journal.read_text().splitlines()) == 4, "four shards")
    workers = children_of(process.pid)
    assert len(workers) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(map(is_running, workers)), "the workers to leave with their parent")
    with pytest.raises(PackError, match="it is unfinished: run the same pack command again"):
        open_pack(tmp_path / "pack")

    last.unlink()
    last.write_bytes(kept_image)
    if also == "a damaged shard":
        damage(tmp_path / "pack" / "frames.u8", 3)
    elif also == "a torn line":
        journal.write_bytes(journal.read_bytes()[:-20])
    calls = decoded_names(monkeypatch)
    resumed = build(table, tmp_path / "pack")
    assert len(calls) == (8 if also == "nothing else" else 16)
    assert resumed.digest == whole.digest
    open_pack(tmp_path / "pack", verify=True)


def test_a_finished_pack_is_not_made_again(table: FrameTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(table, tmp_path / "pack")
    calls = decoded_names(monkeypatch)
    assert build(table, tmp_path / "pack").digest == first.digest
    assert calls == []


def test_corrupt_images_stop_the_pack_or_are_left_out_on_record(table: FrameTable, tmp_path: Path) -> None:
    images = tmp_path / "set" / "train"
    gone = [2, 9, 10, 39]
    for i in gone:
        (images / table.names[i]).write_bytes((images / table.names[i]).read_bytes()[:400])
    with pytest.raises(CorruptFramesError, match=r"(?s)4 of 40 images cannot be decoded:\n  train00002\.png is a PNG"):
        build(table, tmp_path / "pack")
    pack = build(table, tmp_path / "pack", skip_corrupt=True)
    rest = [i for i in range(40) if i not in gone]
    assert pack.names == tuple(table.names[i] for i in rest)
    assert [entry["name"] for entry in pack.index["corrupt"]] == [table.names[i] for i in gone]
    assert "cut short" in pack.index["corrupt"][0]["reason"]
    np.testing.assert_array_equal(pack.labels, table.labels[rest])
    for row, i in enumerate(rest):
        np.testing.assert_array_equal(pack.frames[row], decode_bytes(table.store.read(table.names[i]), SIZE))
    open_pack(tmp_path / "pack", verify=True)
    with pytest.raises(PackError, match="was made with --skip-corrupt and lacks 4 frames"):
        build(table, tmp_path / "pack")


def test_mended_images_are_tried_again(table: FrameTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set" / "train" / table.names[20]
    sound = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(CorruptFramesError, match=r"train00020\.png is empty"):
        build(table, tmp_path / "pack")
    path.write_bytes(sound)
    calls = decoded_names(monkeypatch)
    assert len(build(table, tmp_path / "pack")) == 40
    assert len(calls) == 8


def test_an_image_that_vanishes_is_an_error_not_a_corrupt_frame(table: FrameTable, tmp_path: Path) -> None:
    (tmp_path / "set" / "train" / table.names[5]).unlink()
    with pytest.raises(DataError, match=r"train00005\.png cannot be read: No such file"):
        build(table, tmp_path / "pack", skip_corrupt=True)


@pytest.mark.parametrize("finished", [True, False])
def test_refuses_to_mix_sizes_and_sources(table: FrameTable, tmp_path: Path, finished: bool) -> None:
    out = tmp_path / "pack"
    if finished:
        build(table, out)
    else:
        (tmp_path / "set" / "train" / table.names[0]).rename(tmp_path / "aside.png")
        with pytest.raises(DataError, match="cannot be read"):
            build(table, out)
    with pytest.raises(PackError, match=r"holds another pack \(size 24 there, 32 asked for\)"):
        build(table, out, size=32)
    with pytest.raises(PackError, match=r"holds another pack \(frames 40 there, 8 asked for; table_digest"):
        build(table.select(np.arange(8)), out)


def test_refuses_a_folder_of_other_things(table: FrameTable, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"set holds other things \(SewerML_Train.csv"):
        build(table, tmp_path / "set")


def test_refuses_a_second_writer(table: FrameTable, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    out.mkdir()
    with (out / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PackError, match="is being written by another process"):
            build(table, out)
    assert len(build(table, out)) == 40


def test_refuses_a_disk_that_is_too_small(table: FrameTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(PackError, match=r"needs 0\.\d+ GiB, and the disk has 0\.00 GiB free"):
        build(table, tmp_path / "pack")


def test_opening_notices_damage(table: FrameTable, tmp_path: Path) -> None:
    out = build(table, tmp_path / "pack").path
    damage(out / "frames.u8", 10 * SIZE * SIZE * 3)
    open_pack(out, verify=False)
    with pytest.raises(PackError, match="frames 8 to 15 are damaged"):
        open_pack(out)
    os.truncate(out / "frames.u8", 100)
    with pytest.raises(PackError, match=r"frames\.u8 must hold 40 frames, 69120 bytes, and does not"):
        open_pack(out, verify=False)


@pytest.mark.parametrize("name", ["columns.npz", "names.txt"])
def test_opening_notices_changed_columns(table: FrameTable, tmp_path: Path, name: str) -> None:
    out = build(table, tmp_path / "pack").path
    damage(out / name, 12)
    with pytest.raises(PackError, match=f"{name} is missing or was changed"):
        open_pack(out, verify=False)


def test_opening_needs_an_index_of_this_schema(table: FrameTable, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"has no index\.json: not a pack"):
        open_pack(tmp_path)
    out = build(table, tmp_path / "pack").path
    index = json.loads((out / "index.json").read_text())
    (out / "index.json").write_text(json.dumps(index | {"schema_version": 99}))
    with pytest.raises(PackError, match="has schema version 99, this code reads 1"):
        open_pack(out)
    (out / "index.json").write_text("{")
    with pytest.raises(PackError, match="is not an index of a pack"):
        open_pack(out)


def run_command(*arguments: str | Path) -> str:
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_command_packs_a_subset(table: FrameTable, tmp_path: Path) -> None:
    arguments = ("--split", "train", "--size", "16", "--workers", "1", "--defect-proportion", "0.2")
    text = run_command(tmp_path / "set", *arguments, "--subset-seed", "3", "--out", tmp_path / "pack")
    assert "25 frames of 16 px (5 defect, 20 normal, 0 unlabelled), 0 corrupt left out, 0.0 MB" in text
    subset = open_pack(tmp_path / "pack").index["subset"]
    assert (subset["seed"], subset["n_defect"], subset["left_out"]["defect"]) == (3, 5, 15)
    with pytest.raises(PackError, match="holds another pack"):
        run_command(tmp_path / "set", *arguments, "--subset-seed", "4", "--out", tmp_path / "pack")


def test_command_packs_folders(tmp_path: Path) -> None:
    write_folders(tmp_path / "set", defect=8, normal=12)
    text = run_command(
        tmp_path / "set", "--split", "val", "--size", "16", "--out", tmp_path / "pack", "--shares", "50,50,0"
    )
    assert "val: 10 of 20 frames, by whole groups" in text
    assert "10 frames of 16 px (4 defect, 6 normal, 0 unlabelled)" in text


def test_command_asks_when_the_source_is_unclear(table: FrameTable, tmp_path: Path) -> None:
    common = ("--split", "train", "--size", "16", "--out", tmp_path / "pack")
    with pytest.raises(DataError, match="has neither annotations"):
        run_command(tmp_path, *common)
    write_folders(tmp_path / "set", defect=2, normal=2)
    with pytest.raises(DataError, match=r"has both SewerML_Train.csv and defect/: say which counts with --kind"):
        run_command(tmp_path / "set", *common)
    with pytest.raises(ConfigError, match=r"--subset-frames needs --defect-proportion"):
        run_command(tmp_path / "set", *common, "--subset-frames", "10")
    with pytest.raises(DataError, match=r"Sewer-ML has the splits train, val, test, not 'all'"):
        run_command(tmp_path / "set", "--split", "all", "--size", "16", "--out", tmp_path / "p", "--kind", "sewer-ml")
