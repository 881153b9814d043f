"""Frames to scores with ONNX Runtime. Knows nothing of HTTP, files or video.

Shape legend: N frames, S image side, D feature dimension, h w evidence map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving.device_buffers import BufferedRuns
from serving.devices import (
    Device,
    available_cores,
    import_onnxruntime,
    load_cuda_libraries,
    parse_device,
    providers_for,
)
from serving.errors import DeviceError, PairInvalidError
from serving.pairs.manifest import OUTPUTS, Manifest

if TYPE_CHECKING:
    from serving.pairs.pair import Pair

Verdict = Literal["defect", "normal"]

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
"""The only batch sizes that reach a GPU's session, where each new shape costs a slow first run and memory.

What is missing to the next of them is padded: below a full batch a GPU's time hardly grows. A CPU's grows with every
frame, and a new shape costs it nothing, so there batches of any size are run as they come.
"""

BATCH_ATOL = {"fp32": 1e-5, "fp16": 5e-3, "int8": 1e-5}
"""By variant, how far a frame's score may depend on which other frames share its batch.

Other batch sizes may take other kernels, which sum in another order; int8 sums are exact. The bounds are for any
processor: on an AMD EPYC, with AVX-512 and without, scores and logits of the shipped pair in fp32 and int8 were the
same to the last bit at every batch size from 1 to 32.
"""

_INPUT = "frames"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a pair says about N frames, in their order; all float32.

    Attributes:
        score: [N], calibrated probability of a defect.
        logit: [N], uncalibrated.
        embedding: [N, D], the encoder's features.
        evidence: [N, h, w], where the logit comes from; its mean over h and w is the logit.
    """

    score: NDArray[np.float32]
    logit: NDArray[np.float32]
    embedding: NDArray[np.float32]
    evidence: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.score)

    def verdicts(self, threshold: float) -> list[Verdict]:
        """`defect` where score >= threshold, else `normal`."""
        return ["defect" if value >= threshold else "normal" for value in self.score.tolist()]


class Scorer:
    """One session of one variant of a pair on one device; `score` may be called from several threads.

    Args:
        device: `cpu`, `cuda` or `cuda:INDEX`. It is used, or `DeviceError` is raised: nothing falls back.
        variant: `fp32`, `fp16` or `int8`; None takes int8 on a CPU and fp16 on a GPU where the pair has them,
            else fp32.
        threads: CPU threads of one `score` call; None takes all cores that this process may use.
        max_batch: most frames in one run of the session, 1 to 128; larger inputs are scored in chunks.
        cuda_graphs: capture the run of each batch size as a CUDA graph; `DeviceError` on a CPU.

    Raises `PairNotFoundError` for an unknown variant and `PairInvalidError` if the graph is not what the
    manifest declares.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        device: str = "cpu",
        variant: str | None = None,
        threads: int | None = None,
        max_batch: int = 32,
        cuda_graphs: bool = False,
    ) -> None:
        if not 1 <= max_batch <= BATCH_SIZES[-1]:
            raise ValueError(f"max_batch must be 1 to {BATCH_SIZES[-1]}, got {max_batch}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be positive, got {threads}")
        self.pair = pair
        self.manifest_sha256 = pair.manifest_sha256
        self._device = parse_device(device)
        self.device = str(self._device)
        self.variant = variant or default_variant(pair.manifest, self._device)
        self.threads = threads or available_cores()
        self.max_batch = max_batch
        self._sizes = (*(size for size in BATCH_SIZES if size < max_batch), max_batch)
        if cuda_graphs and self._device.kind != "cuda":
            raise DeviceError(
                f"CUDA graphs were asked for on {device}, which has none; name a cuda device or leave them"
            )
        self._session = _open_session(pair, self.variant, self._device, self.threads, cuda_graphs=cuda_graphs)
        self.provider: str = self._session.get_providers()[0]
        _check_graph(self._session, pair.manifest, self.variant)
        self._buffered = _buffered_runs(self._session, pair.manifest, self._device) if cuda_graphs else None

    @property
    def manifest(self) -> Manifest:
        return self.pair.manifest

    def score(self, frames: NDArray[np.uint8]) -> Scores:
        """Score frames, uint8 [N, S, S, 3], for any N including 0.

        Raises `TypeError` for another type or dtype, `ValueError` for another shape. A score depends on the
        other frames of the call by no more than `BATCH_ATOL`.
        """
        self._check_frames(frames)
        parts: list[list[NDArray[np.float32]]] = [
            self._run_padded(frames[start : start + self.max_batch]) for start in range(0, len(frames), self.max_batch)
        ]
        if not parts:
            return self._no_scores()
        score, logit, embedding, evidence = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Scores(score=score, logit=logit, embedding=embedding, evidence=evidence)

    def warm_up(self) -> None:
        """Run every batch size once, so that no caller pays for memory planning or kernel choice."""
        side = self.pair.manifest.image_size
        for size in self._sizes:
            self._run_padded(np.zeros((size, side, side, 3), np.uint8))

    def _run_padded(self, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """At most `max_batch` frames in one run."""
        n = len(frames)
        size = run_size(n, self._sizes, self._device)
        batch = np.ascontiguousarray(frames)
        if n < size:
            batch = np.concatenate([batch, np.zeros((size - n, *batch.shape[1:]), np.uint8)])
        return [output[:n] for output in self._run(batch)]

    def _run(self, batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        if self._buffered is not None:
            return self._buffered.run(batch)
        if self._device.kind == "cpu":
            return list(self._session.run(OUTPUTS, {_INPUT: batch}))
        # Bound per call, not per session: a binding holds one caller's arrays, and callers run at the same
        # time.
        binding = self._session.io_binding()
        binding.bind_cpu_input(_INPUT, batch)
        for output in OUTPUTS:
            binding.bind_output(output)
        self._session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    def _check_frames(self, frames: NDArray[np.uint8]) -> None:
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
            got = getattr(frames, "dtype", type(frames).__name__)
            raise TypeError(f"frames must be a uint8 array, got {got}; decode them with serving.frames")
        side = self.pair.manifest.image_size
        if frames.ndim != 4 or frames.shape[1:] != (side, side, 3):
            raise ValueError(f"frames must be [N, {side}, {side}, 3], got {list(frames.shape)}")

    def _no_scores(self) -> Scores:
        manifest = self.pair.manifest
        return Scores(
            score=np.zeros(0, np.float32),
            logit=np.zeros(0, np.float32),
            embedding=np.zeros((0, manifest.feature_dim), np.float32),
            evidence=np.zeros((0, *manifest.evidence_shape), np.float32),
        )


def run_size(n_frames: int, sizes: Sequence[int], device: Device) -> int:
    """How many frames the session is given for 1 <= `n_frames` <= the last of the ascending `sizes`."""
    return n_frames if device.kind == "cpu" else next(size for size in sizes if size >= n_frames)


def default_variant(manifest: Manifest, device: Device) -> str:
    """The fastest variant meant for the device, else fp32; `DeviceError` if the pair has neither."""
    preferred = "int8" if device.kind == "cpu" else "fp16"
    for name in (preferred, "fp32"):
        if name in manifest.variants:
            return name
    available = ", ".join(sorted(manifest.variants))
    raise DeviceError(f"pair {manifest.name} has no variant for {device}, only {available}; name one of these")


def _buffered_runs(session: Any, manifest: Manifest, device: Device) -> BufferedRuns:
    shapes: dict[str, Sequence[int]] = {
        "score": (),
        "logit": (),
        "embedding": (manifest.feature_dim,),
        "evidence": manifest.evidence_shape,
    }
    outputs = {name: shapes[name] for name in OUTPUTS}
    return BufferedRuns(session, device, input_name=_INPUT, side=manifest.image_size, outputs=outputs)


def _open_session(pair: Pair, variant: str, device: Device, threads: int, *, cuda_graphs: bool = False) -> Any:
    path = pair.variant_path(variant)
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # what matters of its warnings is raised below
    # Spinning threads would keep the cores from decoding the next frames.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device.kind == "cuda":
        load_cuda_libraries(onnxruntime, device)
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=providers_for(device, cuda_graphs=cuda_graphs)
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        reason = " ".join(str(error).split())[:300]
        if device.kind == "cuda":
            raise DeviceError(_no_cuda(device, reason)) from error
        raise PairInvalidError(f"{path} cannot be loaded by ONNX Runtime: {reason}") from error
    session.disable_fallback()
    expected = "CPUExecutionProvider" if device.kind == "cpu" else "CUDAExecutionProvider"
    if session.get_providers()[0] != expected:
        raise DeviceError(_no_cuda(device, f"ONNX Runtime fell back to {session.get_providers()[0]}"))
    return session


def _no_cuda(device: Device, reason: str) -> str:
    return (
        f"{device} was asked for but cannot be used: {reason}. Check that nvidia-smi lists the device and "
        "that its CUDA libraries are installed (pip install 'pipeprobe[serve,gpu]'; "
        "onnxruntime.preload_dlls() names those that fail to load), or ask for cpu"
    )


def _check_graph(session: Any, manifest: Manifest, variant: str) -> None:
    """The graph's inputs and outputs against the manifest; a leading dimension that is not a number is N."""
    side = manifest.image_size
    expected = {
        _INPUT: ("tensor(uint8)", [side, side, 3]),
        "score": ("tensor(float)", []),
        "logit": ("tensor(float)", []),
        "embedding": ("tensor(float)", [manifest.feature_dim]),
        "evidence": ("tensor(float)", list(manifest.evidence_shape)),
    }
    found = {value.name: value for value in (*session.get_inputs(), *session.get_outputs())}
    for name, (dtype, shape) in expected.items():
        value = found.get(name)
        if value is None:
            raise PairInvalidError(f"pair {manifest.name}, {variant}: the graph has no {name!r}, only {sorted(found)}")
        dynamic = bool(value.shape) and not isinstance(value.shape[0], int)
        if value.type != dtype or not dynamic or list(value.shape[1:]) != shape:
            raise PairInvalidError(
                f"pair {manifest.name}, {variant}: {name!r} is {value.type} {value.shape} in the graph, "
                f"the manifest declares {dtype} ['N', {', '.join(map(str, shape))}]"
            )
