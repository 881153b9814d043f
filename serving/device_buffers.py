"""Runs of a session through buffers that stay on the device: one set for each batch size, used again and again.

A run then allocates nothing, and on a GPU it can be captured as a CUDA graph: the few hundred launches of kernels
become one. That pays where the launches take longer than the kernels, which is small batches of small models. A graph
holds addresses, so its buffers must stay where they are, and ONNX Runtime keeps captured graphs by thread, so one
thread does all runs; others wait for it, as they would for the device.

Shape legend: N frames of a batch size, S image side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.devices import Device, import_onnxruntime

# ONNX Runtime's name of the run option that tells graphs of one session apart.
_GRAPH_ID = "gpu_graph_id"


@dataclass(frozen=True, kw_only=True)
class _Buffers:
    """Input and outputs of one batch size on the device, bound to each other, and how to run them."""

    frames: Any
    outputs: list[Any]
    binding: Any
    options: Any


class BufferedRuns:
    """Replaces `session.run` for known batch sizes; safe to use from several threads.

    Args:
        session: opened with the provider option `enable_cuda_graph` if runs shall be captured.
        side: S.
        outputs: shape of each output without its leading N; all are float32.
    """

    def __init__(
        self, session: Any, device: Device, *, input_name: str, side: int, outputs: Mapping[str, Sequence[int]]
    ) -> None:
        self._session = session
        self._device = device
        self._input_name = input_name
        self._side = side
        self._outputs = {name: tuple(shape) for name, shape in outputs.items()}
        self._buffers: dict[int, _Buffers] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="session")

    def run(self, batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Run uint8 [N, S, S, 3]; the outputs are the caller's own copies."""
        return self._thread.submit(self._run_here, batch).result()

    def _run_here(self, batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        size = len(batch)
        if size not in self._buffers:
            self._buffers[size] = self._allocate(size)
        buffers = self._buffers[size]
        buffers.frames.update_inplace(batch)
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        return [np.array(output.numpy()) for output in buffers.outputs]

    def _allocate(self, size: int) -> _Buffers:
        onnxruntime = import_onnxruntime()
        place = (self._device.kind, self._device.index)
        allocate = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        frames = allocate([size, self._side, self._side, 3], np.uint8, *place)
        outputs = {name: allocate([size, *shape], np.float32, *place) for name, shape in self._outputs.items()}
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input_name, frames)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, str(size))
        return _Buffers(frames=frames, outputs=list(outputs.values()), binding=binding, options=options)
