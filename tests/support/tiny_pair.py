"""A real pair that needs no training: its score rises with how red a frame is.

Built with onnx alone. Patches of 8 x 8 pixels are averaged to four features: redness (red minus the mean of
green and blue, in [-1, 1]), red, green and blue. The probe looks at redness only, so a red frame is a defect
and a grey one is normal. Every arithmetic is of the real thing: normalisation inside, strided convolution,
pooled features, a probe applied per location, calibration.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serving.durable import sha256_file, write_bytes_atomic, write_json_atomic, write_text_atomic
from serving.monitoring.drift_reference import REFERENCE_FILE, Reference, make_reference, reference_bytes
from serving.pairs.pair import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    Calibration,
    Manifest,
    Metric,
    OperatingPoint,
    Variant,
    VariantName,
    write_index,
)

PATCH = 8
FEATURE_DIM = 4
PROBE_WEIGHT, PROBE_BIAS = 12.0, -4.0
SLOPE, INTERCEPT = 0.8, 0.1
MEAN = np.array([0.5, 0.45, 0.4], np.float32)
STD = np.array([0.25, 0.2, 0.22], np.float32)

_DEVICES: dict[str, Any] = {"fp32": "any", "fp16": "cuda", "int8": "cpu"}


def red_frames(n: int, size: int = 32) -> NDArray[np.uint8]:
    """`n` frames that the tiny pair calls `defect`, uint8 [n, size, size, 3]."""
    frames = np.zeros((n, size, size, 3), np.uint8)
    frames[..., 0] = 230
    return frames


def grey_frames(n: int, size: int = 32) -> NDArray[np.uint8]:
    """`n` frames that the tiny pair calls `normal`, uint8 [n, size, size, 3]."""
    return np.full((n, size, size, 3), 120, np.uint8)


def random_frames(n: int, size: int = 32, *, seed: int = 0) -> NDArray[np.uint8]:
    """`n` frames of blocky noise with scores all over [0, 1], uint8 [n, size, size, 3]."""
    generator = np.random.default_rng(seed)
    tint = generator.uniform(0, 255, (n, 1, 1, 3))
    noise = generator.uniform(-60, 60, (n, size, size, 3))
    return np.clip(tint + noise, 0, 255).astype(np.uint8)


def reference_outputs(frames: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """What the fp32 variant must answer, computed in float64 without the graph."""
    n, size = frames.shape[:2]
    cells = size // PATCH
    colours = (frames / 255.0).reshape(n, cells, PATCH, cells, PATCH, 3).mean((2, 4))
    redness = colours[..., 0] - colours[..., 1:].mean(-1)
    features = np.concatenate([redness[..., None], colours], -1)
    evidence = PROBE_WEIGHT * redness + PROBE_BIAS
    logit = evidence.mean((1, 2))
    score = 1 / (1 + np.exp(-(SLOPE * logit + INTERCEPT)))
    return {"score": score, "logit": logit, "embedding": features.mean((1, 2)), "evidence": evidence}


def write_tiny_pair(
    models: Path,
    *,
    name: str = "tiny",
    size: int = 32,
    variants: Sequence[VariantName] = ("fp32",),
    version: str = "1.0.0",
    folder_name: str | None = None,
    bias: float = PROBE_BIAS,
    default: bool = True,
) -> Path:
    """Write the pair as `models/<name>` (`size` a multiple of 8) and, with `default`, make it that.

    `folder_name` puts a further version beside the first, as `<name>@<version>`; another `bias` makes it score
    otherwise.
    """
    folder = models / (folder_name or name)
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.concatenate([red_frames(1, size), grey_frames(1, size), random_frames(6, size)])
    golden: dict[str, Any] = {"frames": frames}
    for variant in variants:
        model = build_graph(size, variant, bias)
        write_bytes_atomic(folder / f"model.{variant}.onnx", model)
        for output, value in _run(model, frames).items():
            golden[f"{variant}_{output}"] = value
    np.savez(folder / GOLDEN_FILE, **golden)
    write_text_atomic(folder / "CARD.md", "# tiny\nA pair for tests: red frames are defects.\n")
    manifest = tiny_manifest(folder, name=name, size=size, variants=variants, version=version)
    write_json_atomic(folder / MANIFEST_FILE, manifest.to_json())
    if default:
        write_index(models, folder.name)
    return folder


def write_second_version(models: Path, *, version: str = "2.0.0", bias: float = PROBE_BIAS, size: int = 32) -> Path:
    """Write `models/tiny@<version>` beside the tiny pair, without making it the default."""
    return write_tiny_pair(models, version=version, folder_name=f"tiny@{version}", bias=bias, size=size, default=False)


def add_reference(folder: Path, frames: NDArray[np.uint8]) -> dict[str, Reference]:
    """Give the pair in `folder` a reference of what it says about `frames`, for drift; by variant."""
    manifest = Manifest.from_json(json.loads((folder / MANIFEST_FILE).read_text()))
    outputs = {name: _run((folder / v.file).read_bytes(), frames) for name, v in manifest.variants.items()}
    references = {name: make_reference(found["score"], found["embedding"]) for name, found in outputs.items()}
    write_bytes_atomic(folder / REFERENCE_FILE, reference_bytes(references))
    files = manifest.files | {REFERENCE_FILE: sha256_file(folder / REFERENCE_FILE)}
    write_json_atomic(folder / MANIFEST_FILE, replace(manifest, files=files).to_json())
    return references


def tiny_manifest(
    folder: Path, *, name: str, size: int, variants: Sequence[VariantName], version: str = "1.0.0"
) -> Manifest:
    """The manifest of the tiny pair whose files lie in `folder`."""
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_FILE}
    points = {
        point: OperatingPoint(
            name=point,
            threshold=threshold,
            criterion=criterion,
            recall=0.98,
            precision=0.97,
            specificity=0.96,
            n=100,
            data="red and grey frames",
        )
        for point, threshold, criterion in (
            ("balanced", 0.5, "largest F1"),
            ("recall_95", 0.3, "largest threshold with recall >= 0.95"),
            ("recall_99", 0.1, "largest threshold with recall >= 0.99"),
        )
    }
    return Manifest(
        name=name,
        version=version,
        encoder="patch_mean",
        method="none",
        image_size=size,
        feature_dim=FEATURE_DIM,
        evidence_shape=(size // PATCH, size // PATCH),
        calibration=Calibration(slope=SLOPE, intercept=INTERCEPT, n=100, data="red and grey frames"),
        operating_points=points,
        metrics=[Metric(name="auroc", data="red and grey frames", value=0.99, low=0.98, high=1.0, n=100)],
        training={"seed": 0},
        validated_on="coloured squares only, no sewer",
        git_revision="unknown",
        packages={"onnx": onnx.__version__},
        hardware="any",
        variants={
            variant: Variant(name=variant, file=f"model.{variant}.onnx", precision=variant, device=_DEVICES[variant])
            for variant in variants
        },
        files=files,
        created="2026-01-01T00:00:00+00:00",
    )


def build_graph(size: int, variant: VariantName = "fp32", bias: float = PROBE_BIAS) -> bytes:
    """The serialised ONNX model; fp16 computes in half precision, int8 stores its convolution in 8 bits."""
    work = TensorProto.FLOAT16 if variant == "fp16" else TensorProto.FLOAT
    dtype = np.float16 if variant == "fp16" else np.float32
    weight, patch_bias = _patch_filters()
    constants: dict[str, NDArray[Any]] = {
        "mean": (255 * MEAN).reshape(1, 3, 1, 1).astype(dtype),
        "std": (255 * STD).reshape(1, 3, 1, 1).astype(dtype),
        "patch_bias": patch_bias.astype(dtype),
        "probe_weight": np.array([PROBE_WEIGHT, 0, 0, 0], dtype).reshape(1, FEATURE_DIM, 1, 1),
        "probe_bias": np.array([bias], dtype),
        "slope": np.array(SLOPE, dtype),
        "intercept": np.array(INTERCEPT, dtype),
        "axis_1": np.array([1], np.int64),
        "axes_23": np.array([2, 3], np.int64),
        "axes_12": np.array([1, 2], np.int64),
    }
    nodes = []
    if variant == "int8":
        scale = float(np.abs(weight).max()) / 127
        constants["patch_quantised"] = np.round(weight / scale).astype(np.int8)
        constants["patch_scale"] = np.array(scale, np.float32)
        nodes.append(helper.make_node("DequantizeLinear", ["patch_quantised", "patch_scale"], ["patch_weight"]))
    else:
        constants["patch_weight"] = weight.astype(dtype)
    nodes += _nodes(work)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", size, size, 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", FEATURE_DIM]),
            helper.make_tensor_value_info("evidence", TensorProto.FLOAT, ["N", size // PATCH, size // PATCH]),
        ],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    # Named versions, not the newest that onnx knows: ONNX Runtime reads those only months later.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString()
    return serialised


def _patch_filters() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Convolution that undoes the normalisation and averages: weight [4, 3, 8, 8], bias [4]."""
    mix = np.array([[1, -0.5, -0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    weight = np.repeat(np.repeat((mix * STD / PATCH**2)[:, :, None, None], PATCH, 2), PATCH, 3)
    return weight.astype(np.float32), (mix @ MEAN).astype(np.float32)


def _nodes(work: int) -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("Cast", ["frames"], ["numbers"], to=work),
        node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
        node("Sub", ["planes", "mean"], ["centred"]),
        node("Div", ["centred", "std"], ["normalised"]),
        node(
            "Conv",
            ["normalised", "patch_weight", "patch_bias"],
            ["features"],
            kernel_shape=[PATCH, PATCH],
            strides=[PATCH, PATCH],
        ),
        node("ReduceMean", ["features", "axes_23"], ["pooled"], keepdims=0),
        node("Conv", ["features", "probe_weight", "probe_bias"], ["located"], kernel_shape=[1, 1]),
        node("Squeeze", ["located", "axis_1"], ["map"]),
        node("ReduceMean", ["map", "axes_12"], ["raw"], keepdims=0),
        node("Mul", ["raw", "slope"], ["scaled"]),
        node("Add", ["scaled", "intercept"], ["shifted"]),
        node("Sigmoid", ["shifted"], ["probability"]),
        *(
            node("Cast", [inner], [output], to=TensorProto.FLOAT)
            for inner, output in (
                ("probability", "score"),
                ("raw", "logit"),
                ("pooled", "embedding"),
                ("map", "evidence"),
            )
        ),
    ]


def _run(model: bytes, frames: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"frames": frames}), strict=True))
