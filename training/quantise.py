"""The int8 variant: static quantisation in QDQ form, calibrated on real frames.

What stays in float32, and why: the normalisation (it is exact and cheap), the head (it is tiny, and scores,
embeddings and evidence would take its rounding undamped) and, in a transformer, everything but the inputs of the
products with weights (attention, norms and the residual stream lose accuracy and gain no time).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.onnx_graph import divide

# The convolutional trunk is quantised whole, so that int8 runs from one convolution to the next.
CONVOLUTIONAL = ("Conv", "Relu", "Add", "MaxPool")
PRODUCTS = ("MatMul", "Gemm")


class _Frames(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands frames to the calibrator in batches."""

    def __init__(self, frames: NDArray[np.uint8], batch_size: int) -> None:
        self._batches: Iterator[dict[str, NDArray[np.uint8]]] = iter(
            [{"frames": frames[i : i + batch_size]} for i in range(0, len(frames), batch_size)]
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._batches, None)


def quantise_int8(model: ModelProto, frames: NDArray[np.uint8], *, batch_size: int = 16) -> ModelProto:
    """A copy of `model` whose trunk computes in int8; its ranges are those that uint8 [n, S, S, 3] `frames` take.

    Weights are quantised per channel and to 7 bits: processors without VNNI add pairs of 8 x 8-bit products in
    16 bits and would saturate, so the same file would score differently there.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, ready, done = (Path(folder) / f"{name}.onnx" for name in ("plain", "ready", "int8"))
        onnx.save(model, plain)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        prepared = onnx.load(ready)
        parts = divide(prepared)
        transformer = any(node.op_type == "LayerNormalization" for node in prepared.graph.node)
        quantize_static(
            prepared,
            done,
            _Frames(frames, batch_size),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS if transformer else CONVOLUTIONAL),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=sorted(parts.before | parts.head),
            extra_options={
                "MatMulConstBOnly": True,
                # A transformer's few huge activations would set the scale of the whole residual stream.
                "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
            },
        )
        return onnx.load(done)
