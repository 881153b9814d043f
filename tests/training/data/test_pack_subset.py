"""Subsets of packs: the frames that were chosen, in their order, told apart by digest, read only when asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_study import memory_pack

from serving.errors import ConfigError
from training.data.loader import epoch_batches, epoch_order
from training.data.pack import Pack
from training.data.pack_subset import FrameRows, select_frames

ROWS = np.array([7, 2, 30, 11], dtype=np.int64)


class CountedFrames:
    """Frames that remember how many of them were read."""

    def __init__(self, frames: np.ndarray) -> None:
        self._frames, self.read = frames, 0
        self.shape, self.nbytes = frames.shape, frames.nbytes

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, places: Any, /) -> np.ndarray:
        found = self._frames[places]
        self.read += len(found)
        return found


@pytest.fixture
def pack() -> Pack:
    return memory_pack("train", n=36, size=8)


def test_everything_known_of_a_frame_goes_with_it(pack: Pack) -> None:
    subset = select_frames(pack, ROWS, subset={"seed": 3})
    np.testing.assert_array_equal(subset.frames[:], pack.frames[ROWS])
    for column in ("labels", "classes", "inspections"):
        np.testing.assert_array_equal(getattr(subset, column), getattr(pack, column)[ROWS])
    assert subset.names == ("00007.png", "00002.png", "00030.png", "00011.png")
    assert (len(subset), subset.size, subset.source, subset.split) == (4, 8, pack.source, "train")
    assert subset.index == {"subset": {"seed": 3}}
    assert select_frames(pack, ROWS).index == {"subset": None}


def test_frames_are_read_by_places_slices_and_one_by_one_and_no_others(pack: Pack) -> None:
    counted = CountedFrames(np.asarray(pack.frames))
    rows = FrameRows(counted, ROWS)
    assert (len(rows), rows.shape, rows.nbytes, counted.read) == (4, (4, 8, 8, 3), 4 * 8 * 8 * 3, 0)
    np.testing.assert_array_equal(rows[np.array([3, 0])], pack.frames[[11, 7]])
    np.testing.assert_array_equal(rows[1:3], pack.frames[[2, 30]])
    assert counted.read == 4
    np.testing.assert_array_equal(rows[2], pack.frames[30])


def test_a_subset_of_a_subset_is_one_of_the_whole(pack: Pack) -> None:
    nested = select_frames(select_frames(pack, ROWS), np.array([2, 0]))
    np.testing.assert_array_equal(nested.frames[:], pack.frames[[30, 7]])
    assert nested.names == ("00030.png", "00007.png")


def test_the_digest_tells_frames_their_order_and_their_pack_apart(pack: Pack) -> None:
    other = memory_pack("val", n=36, size=8)
    digests = [
        select_frames(chosen, rows).digest
        for chosen, rows in ((pack, ROWS), (pack, ROWS[::-1]), (pack, ROWS[:3]), (other, ROWS))
    ]
    assert len({*digests, pack.digest, other.digest}) == 6
    assert select_frames(pack, ROWS.astype(np.int32)).digest == digests[0]


def test_training_reads_a_subset_like_any_pack(pack: Pack) -> None:
    subset = select_frames(pack, ROWS)
    batches = list(epoch_batches(subset, batch_size=2, epoch=1, seed=5, device=torch.device("cpu"), resident=False))
    order = epoch_order(len(subset), seed=5, epoch=1)
    np.testing.assert_array_equal(torch.cat(batches).numpy(), pack.frames[ROWS[order]])


@pytest.mark.parametrize("rows", [[], [-1], [36], [0, 99]])
def test_refuses_no_frame_and_frames_that_are_not_there(pack: Pack, rows: list[int]) -> None:
    with pytest.raises(ConfigError, match="has 36 frames: choose one at least, and only those it has"):
        select_frames(pack, np.array(rows, dtype=np.int64))


def test_refuses_a_frame_twice(pack: Pack) -> None:
    with pytest.raises(ConfigError, match="a frame of train was chosen twice"):
        select_frames(pack, np.array([4, 5, 4]))
