"""Pictures that show the same thing, found by a perceptual hash, mirrored and turned copies included.

The hash of a picture is the signs, about their median, of the 63 lowest cosine coefficients of its 32 x 32 grey
version (pHash, Zauner 2010, without the constant term). Mirroring a picture flips the signs of odd coefficients and
transposing it transposes them, so the hashes of all eight orientations come from one transform.

Bounds, measured on 700 photographs of concrete and 640 simulated sewer frames of 40 pipes: re-encoding at quality 40,
halving, brightening and darkening move at most 8 bits in 93 to 100 of 100 pictures. Of all pairs of different upright
pictures, one (concrete) and none (frames of different pipes) are that close. Copies that someone mirrored or turned
lie within 2 bits; with eight chances for a pair to be close, the bound for those is 4, which one pair of different
pictures meets. Looser bounds would chain the frames of any large sewer data set into one group.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from serving.errors import FrameError
from serving.frames import decode_bytes, resize_frame

MAX_DISTANCE = 8
MAX_DISTANCE_TURNED = 4
HASH_SIDE = 32
_COEFFICIENTS = 8
ORIENTATIONS = 8
_LUMA = np.array([0.299, 0.587, 0.114])
_ROWS_AT_A_TIME = 1024


def _cosines() -> NDArray[np.float64]:
    frequency, place = np.arange(_COEFFICIENTS)[:, None], np.arange(HASH_SIDE)[None, :]
    return np.cos(np.pi * (2 * place + 1) * frequency / (2 * HASH_SIDE))


_COSINES = _cosines()
_ODD = np.where(np.arange(_COEFFICIENTS) % 2, -1.0, 1.0)


def hash_picture(frame: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hashes of a frame, uint8 [H, W, 3], in eight orientations, the one it has first: uint64 [8], 63 bits used."""
    grey = resize_frame(frame, HASH_SIDE) @ _LUMA
    upright = _COSINES @ grey @ _COSINES.T
    hashes = []
    for coefficients in (upright, upright.T):
        for rows in (np.ones(_COEFFICIENTS), _ODD):
            for columns in (np.ones(_COEFFICIENTS), _ODD):
                signed = (coefficients * rows[:, None] * columns).ravel()[1:]
                bits = np.packbits(np.append(signed > np.median(signed), False))
                hashes.append(bits.view(np.uint64)[0])
    return np.array(hashes, np.uint64)


def hash_image(data: bytes) -> NDArray[np.uint64] | None:
    """`hash_picture` of an encoded image; None if it cannot be decoded, which whoever packs it will report."""
    try:
        return hash_picture(decode_bytes(data, HASH_SIDE))
    except FrameError:
        return None


def near_pairs(hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of near-duplicates among `hashes`, uint64 [N, 8], as `hash_picture` gives them.

    They are at most `MAX_DISTANCE` bits apart, or `MAX_DISTANCE_TURNED` after mirroring or turning one of them. All
    pairs are compared, so that none is missed; the time grows with N squared, to minutes at 100,000 pictures.
    """
    for start in range(0, len(hashes), _ROWS_AT_A_TIME):
        rows = hashes[start : start + _ROWS_AT_A_TIME, :1]
        rest = hashes[start:]
        near = np.bitwise_count(rows ^ rest[None, :, 0]) <= MAX_DISTANCE
        for orientation in range(1, ORIENTATIONS):
            near |= np.bitwise_count(rows ^ rest[None, :, orientation]) <= MAX_DISTANCE_TURNED
        for i, j in np.argwhere(near).tolist():
            if i < j:
                yield start + i, start + j


class Groups:
    """Disjoint groups of the numbers 0 to n - 1, merged pair by pair (union-find with path halving)."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, item: int) -> int:
        """The smallest number of the group that `item` is in."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, a: int, b: int) -> None:
        """Merge the groups of `a` and `b`."""
        low, high = sorted((self.find(a), self.find(b)))
        self._parent[high] = low

    def numbers(self) -> NDArray[np.int32]:
        """A group number for each item, int32 [n], counted from 0 in order of first appearance."""
        roots = [self.find(item) for item in range(len(self._parent))]
        _, numbers = np.unique(roots, return_inverse=True)
        return numbers.astype(np.int32)
