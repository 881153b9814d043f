"""Memory that a reader shares with the process that decodes for it: pictures cross it with one copy in and one out.

A few slots, used in turn. It has no name: it goes with the last of the two processes, however that ends. Pages that
nothing was ever written to take no memory.
"""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

SLOTS = 4
"""More only hold memory: whoever reads takes a picture out as soon as it is there."""

SLOT_BYTES = 4 * 2**20
"""A picture of 8 bits at the size that `serving.inspections.pictures` holds at most."""


def make_memory() -> int:
    """A descriptor of memory for all slots; whoever calls closes it."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("pipeprobe-pictures")
    else:
        with tempfile.TemporaryFile() as file:  # has no name either
            memory = os.dup(file.fileno())
    os.ftruncate(memory, SLOTS * SLOT_BYTES)
    return memory


class Slots:
    """The slots of `make_memory`, in either process."""

    def __init__(self, memory: int) -> None:
        self._bytes = np.frombuffer(mmap.mmap(memory, SLOTS * SLOT_BYTES), np.uint8)

    def __getitem__(self, slot: int) -> NDArray[np.uint8]:
        """uint8 [SLOT_BYTES], shared."""
        return self._bytes[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]
