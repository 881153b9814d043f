"""Bodies of the Open Inference Protocol's `infer`: JSON, and its binary tensor extension.

A body is a JSON object, or, if the header `Inference-Header-Content-Length` gives the length of one, that object
and then the bytes of the tensors, in their order, each as long as its parameter `binary_data_size` says. The one
input is `frames` UINT8 [N, S, S, 3]; the outputs are those of the graph, FP32. Shape legend: N frames, S image
side, D feature dimension, h w evidence map.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from serving.errors import BodyTooLargeError, RequestError
from serving.frames import Frame
from serving.pairs.manifest import OUTPUTS, Manifest
from serving.scorer import Scores

HEADER_LENGTH = "Inference-Header-Content-Length"

MAX_JSON_BYTES = 4 * 2**20
"""Most bytes of JSON: parsing it stops everything else and takes some ten times its size in memory."""

_INPUT = "frames"
_MAX_ID = 128


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """What was asked: the frames as bytes, S * S * 3 each, and which outputs, in order, binary or not."""

    id: str | None
    side: int
    frames: list[bytes]
    outputs: dict[str, bool]

    def as_frame(self, data: bytes) -> Frame:
        """A frame's bytes as uint8 [S, S, 3]."""
        return np.frombuffer(data, np.uint8).reshape(self.side, self.side, 3)


def parse_request(header_length: str | None, body: bytes, manifest: Manifest, max_frames: int) -> InferRequest:
    """Read the body of an infer request.

    Raises `RequestError`, which says what is wrong with which member, and `BodyTooLargeError` for more than
    `max_frames` frames or `MAX_JSON_BYTES` of JSON.
    """
    document, tensors = _split(header_length, body)
    request = _object(_load(document), "the body")
    identity = request.get("id")
    if identity is not None and (not isinstance(identity, str) or len(identity) > _MAX_ID):
        raise RequestError(f"id must be a string of at most {_MAX_ID} characters")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise RequestError(f"inputs must be a list of one tensor, {_INPUT!r}")
    frames = _frames(_object(inputs[0], "inputs[0]"), tensors, manifest.image_size, max_frames)
    return InferRequest(id=identity, side=manifest.image_size, frames=frames, outputs=_outputs(request))


def encode_answer(asked: InferRequest, scores: Scores, *, name: str, version: str) -> tuple[bytes, int | None]:
    """The answer's body, and the length of its JSON if tensors follow it."""
    described, tensors = [], []
    for output, binary in asked.outputs.items():
        values: NDArray[np.float32] = getattr(scores, output)
        tensor: dict[str, Any] = {"name": output, "datatype": "FP32", "shape": list(values.shape)}
        if binary:
            data = values.astype("<f4").tobytes()
            tensors.append(data)
            tensor["parameters"] = {"binary_data_size": len(data)}
        else:
            tensor["data"] = [float(f"{value:.9g}") for value in values.ravel().tolist()]
        described.append(tensor)
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": described}
    if asked.id is not None:
        answer["id"] = asked.id
    document = json.dumps(answer, allow_nan=False).encode()
    return b"".join((document, *tensors)), len(document) if tensors else None


def _split(header_length: str | None, body: bytes) -> tuple[bytes, memoryview]:
    """The JSON and the bytes behind it, which are not copied: there may be many."""
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit()) or int(header_length[:12]) > len(body):
            raise RequestError(f"{HEADER_LENGTH} must be a number of bytes, at most the body's {len(body)}")
        length = int(header_length)
    if length > MAX_JSON_BYTES:
        raise BodyTooLargeError(
            f"the body has more than {MAX_JSON_BYTES // 2**20} MiB of JSON; send the frames as binary tensor data"
        )
    return body[:length], memoryview(body)[length:]


def _load(document: bytes) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(document, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {type(error).__name__}; see {HEADER_LENGTH}") from error


def _frames(tensor: dict[str, Any], tensors: memoryview, side: int, max_frames: int) -> list[bytes]:
    """The bytes of each frame."""
    if tensor.get("name") != _INPUT or tensor.get("datatype") != "UINT8":
        raise RequestError(f"inputs[0] must be the tensor {_INPUT!r} of datatype UINT8")
    expected = [side, side, 3]
    n = _n_frames(tensor.get("shape"), expected)
    if n > max_frames:
        raise BodyTooLargeError(f"the request holds {n} frames, more than the {max_frames} allowed")
    size = math.prod(expected)
    data = _data(tensor, tensors, n * size)
    return [bytes(data[start : start + size]) for start in range(0, len(data), size)]


def _n_frames(shape: object, expected: list[int]) -> int:
    if isinstance(shape, list) and shape[1:] == expected:
        n = shape[0]
        if type(n) is int and n > 0:
            return n
    raise RequestError(f"inputs[0].shape must be [N, {', '.join(map(str, expected))}], N from 1: the pair's image size")


def _data(tensor: dict[str, Any], tensors: memoryview, size: int) -> bytes | memoryview:
    """The tensor's `size` bytes, from behind the JSON or out of it."""
    parameters = _object(tensor.get("parameters", {}), "inputs[0].parameters")
    binary_size = parameters.get("binary_data_size")
    if binary_size is None and not tensors:
        return _numbers(tensor.get("data"), size)
    if "data" in tensor or type(binary_size) is not int or not binary_size == len(tensors) == size:
        raise RequestError(
            f"inputs[0] must have either data, or a binary_data_size of {size} and that many bytes behind the JSON; "
            f"there are {len(tensors)}"
        )
    return tensors


def _numbers(data: object, size: int) -> bytes:
    """A flat or nested list of `size` whole numbers from 0 to 255."""
    try:
        values = np.array(data if isinstance(data, list) else None)
    except (ValueError, OverflowError):  # ragged, or numbers beyond any integer type
        values = np.array(None)
    if values.dtype.kind not in "iu" or values.size != size or values.min() < 0 or values.max() > 255:
        raise RequestError(f"inputs[0].data must be a list of {size} whole numbers from 0 to 255, flat or nested")
    return values.astype(np.uint8).tobytes()


def _outputs(request: dict[str, Any]) -> dict[str, bool]:
    """Which outputs are asked for, all if none is named, and whether each goes out as bytes."""
    parameters = _object(request.get("parameters", {}), "parameters")
    binary = _flag(parameters, "binary_data_output", "parameters", default=False)
    listed = request.get("outputs") or [{"name": name} for name in OUTPUTS]
    if not isinstance(listed, list):
        raise RequestError("outputs must be a list")
    outputs: dict[str, bool] = {}
    for number, value in enumerate(listed):
        where = f"outputs[{number}]"
        output = _object(value, where)
        name = output.get("name")
        if name not in OUTPUTS or name in outputs:
            raise RequestError(f"{where}.name must be one of {_listed(OUTPUTS)}, each at most once")
        outputs[name] = _flag(
            _object(output.get("parameters", {}), f"{where}.parameters"), "binary_data", where, default=binary
        )
    return outputs


def _flag(parameters: dict[str, Any], key: str, where: str, *, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise RequestError(f"{where}: {key} must be true or false")
    return value


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"{what} must be a JSON object")
    return value


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
