"""Batches of packed frames: which, in which order, and that reading ahead ends."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from support.datasets import write_sewer_ml

from serving.errors import ConfigError
from training.data import loader
from training.data.loader import epoch_batches, epoch_order, resident_frames
from training.data.pack import Pack, build_pack
from training.data.sewer_ml import read_sewer_ml


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder = tmp_path_factory.mktemp("loader")
    table = read_sewer_ml(write_sewer_ml(folder / "set", train=42), "train")
    return build_pack(table, size=16, out=folder / "pack", workers=1)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "frames"]


@pytest.mark.parametrize("resident", [False, True])
def test_each_frame_once_in_the_order_of_the_epoch(pack: Pack, resident: bool) -> None:
    batches = list(epoch_batches(pack, batch_size=10, epoch=3, seed=7, drop_last=False, resident=resident))
    assert [len(batch) for batch in batches] == [10, 10, 10, 10, 2]
    assert {batch.dtype for batch in batches} == {torch.uint8}
    expected = pack.frames[epoch_order(42, seed=7, epoch=3)]
    np.testing.assert_array_equal(torch.cat(batches).numpy(), expected)
    assert readers() == []


def test_order_depends_on_seed_and_epoch_alone(pack: Pack) -> None:
    torch.manual_seed(1)
    first = epoch_order(42, seed=7, epoch=3)
    torch.manual_seed(2)
    np.testing.assert_array_equal(epoch_order(42, seed=7, epoch=3), first)
    others = [epoch_order(42, seed=7, epoch=4), epoch_order(42, seed=3, epoch=7), epoch_order(42, seed=8, epoch=3)]
    assert not any(np.array_equal(other, first) for other in others)


@pytest.mark.parametrize("resident", [False, True])
def test_only_the_frames_asked_for(pack: Pack, resident: bool) -> None:
    indices = np.array([40, 3, 17, 5, 6])
    batches = list(epoch_batches(pack, batch_size=2, epoch=0, seed=0, indices=indices, resident=resident))
    assert [len(batch) for batch in batches] == [2, 2]
    order = indices[epoch_order(5, seed=0, epoch=0)][:4]
    np.testing.assert_array_equal(torch.cat(batches).numpy(), pack.frames[order])


@pytest.mark.parametrize("resident", [False, True])
def test_processes_that_share_batches_read_each_frame_once(pack: Pack, resident: bool) -> None:
    whole = list(epoch_batches(pack, batch_size=10, epoch=3, seed=7))
    parts = [
        list(epoch_batches(pack, batch_size=10, epoch=3, seed=7, share=share, resident=resident))
        for share in (slice(0, 5), slice(5, 10))
    ]
    assert [len(batch) for part in parts for batch in part] == [5] * 8
    for batch, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat((first, second)), batch)
    with pytest.raises(ConfigError, match="not full cannot be shared"):
        epoch_batches(pack, batch_size=10, epoch=0, seed=0, drop_last=False, share=slice(0, 5))


@pytest.mark.parametrize("how", ["close", "drop", "exception"])
def test_thread_ends_when_the_consumer_stops_early(pack: Pack, how: str) -> None:
    batches = epoch_batches(pack, batch_size=1, epoch=0, seed=0)
    next(batches)
    assert len(readers()) == 1
    if how == "close":
        batches.close()
    elif how == "exception":
        with suppress(KeyError):
            raise KeyError(next(batches))
    del batches
    gc.collect()
    deadline = time.monotonic() + 5
    while readers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert readers() == []


def test_errors_of_the_thread_reach_the_consumer(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk went away")

    monkeypatch.setattr(loader, "_read_batch", fail)
    with pytest.raises(OSError, match="the disk went away"):
        next(epoch_batches(pack, batch_size=4, epoch=0, seed=0))


def test_batches_are_the_consumers_own(pack: Pack) -> None:
    (batch,) = epoch_batches(pack, batch_size=42, epoch=0, seed=0)
    batch.zero_()
    assert pack.frames.any()


def test_resident_frames_are_copied_once(pack: Pack) -> None:
    cpu = torch.device("cpu")
    assert resident_frames(pack, cpu) is resident_frames(pack, cpu)
    np.testing.assert_array_equal(resident_frames(pack, cpu).numpy(), pack.frames)


def test_refuses_what_gives_no_batch(pack: Pack) -> None:
    with pytest.raises(ConfigError, match="42 frames do not fill a batch of 43"):
        epoch_batches(pack, batch_size=43, epoch=0, seed=0)
    with pytest.raises(ConfigError, match="has 42 frames; the indices go from 0 to 42"):
        epoch_batches(pack, batch_size=1, epoch=0, seed=0, indices=np.array([0, 42]))
    with pytest.raises(ConfigError, match="batch size must be positive"):
        epoch_batches(pack, batch_size=0, epoch=0, seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("resident", [False, True])
def test_batches_reach_the_gpu(pack: Pack, resident: bool) -> None:
    batches = list(epoch_batches(pack, batch_size=10, epoch=1, seed=0, device="cuda", resident=resident))
    assert all(batch.is_cuda for batch in batches)
    expected = pack.frames[epoch_order(42, seed=0, epoch=1)][:40]
    np.testing.assert_array_equal(torch.cat(batches).cpu().numpy(), expected)
