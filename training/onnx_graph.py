"""The exported graph: built from encoder, probe and calibration; divided, halved and run.

    frames uint8 [N, S, S, 3] -> normalise -> trunk -> feature map [N, D, h, w] -> head -> four outputs

Shapes: N frames, S pixels a side, D features, h x w places.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from serving.pairs.manifest import OUTPUTS, Calibration
from training.backbones import Encoder
from training.data.normalise import normalise
from training.probe import LinearProbe

OPSET = 20
BATCH = "N"
_FLOAT16_MAX = float(np.finfo(np.float16).max)


class ExportError(RuntimeError):
    """The exporter produced a graph of another form than this module relies on."""


class PairModule(nn.Module):
    """Everything between a packed frame and its score, as one module.

    The probe is applied at each place of the feature map as a 1x1 convolution. Pooled features are the map's mean,
    so the mean of `evidence` is the probe's logit: the bias, added at each place, is in the mean once.
    """

    def __init__(self, encoder: Encoder, probe: LinearProbe, calibration: Calibration) -> None:
        super().__init__()
        self.encoder = encoder
        self.probe = nn.Conv2d(encoder.feature_dim, 1, kernel_size=1)
        with torch.no_grad():
            self.probe.weight.copy_(torch.from_numpy(probe.weight).view(1, -1, 1, 1))
            self.probe.bias.fill_(probe.bias)  # type: ignore[union-attr]  # Conv2d has one unless bias=False
        self.slope = calibration.slope
        self.intercept = calibration.intercept

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """uint8 [N, S, S, 3] -> score [N], logit [N], embedding [N, D], evidence [N, h, w], all float32."""
        features = self.encoder.feature_map(normalise(frames))
        evidence = self.probe(features).squeeze(1)
        logit = evidence.mean((1, 2))
        score = torch.sigmoid(self.slope * logit + self.intercept)
        return score, logit, features.mean((2, 3)), evidence


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Where the graph divides: the trunk reads the tensor `images` and leaves the tensor `features`."""

    images: str
    features: str
    before: frozenset[str]
    trunk: frozenset[str]
    head: frozenset[str]


def export_graph(encoder: Encoder, probe: LinearProbe, calibration: Calibration) -> ModelProto:
    """The pair's float32 graph, any N, by torch's exporter; batch norms are folded into convolutions."""
    module = PairModule(encoder, probe, calibration).eval()
    side = encoder.image_size
    # Two frames: the exporter takes a size of one for a constant.
    example = torch.zeros((2, side, side, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["frames"],
        output_names=list(OUTPUTS),
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    return _cleaned(program.model_proto)


def divide(model: ModelProto) -> Parts:
    """Find the trunk: from the first convolution's input to the tensor whose mean is `embedding`.

    Raises:
        ExportError: the graph has another form, or has unnamed nodes.
    """
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    pooling = makers["embedding"]
    first = next((node for node in graph.node if node.op_type == "Conv"), None)
    if first is None or pooling.op_type != "ReduceMean" or any(not node.name for node in graph.node):
        raise ExportError("expected named nodes, a convolution, and a mean that makes `embedding`")
    images, features = first.input[0], pooling.input[0]
    before = {node.name for node in _ancestors(makers, [images])}
    # What does not hang on the frames (shapes folded to constants) goes with the part that uses it.
    trunk = {node.name for node in _ancestors(makers, [features])} - before
    head = {node.name for node in graph.node} - before - trunk
    return Parts(
        images=images,
        features=features,
        before=frozenset(before),
        trunk=frozenset(trunk),
        head=frozenset(head),
    )


def to_float16(model: ModelProto) -> ModelProto:
    """A copy whose trunk computes in float16; normalisation, head, inputs and outputs stay as they were.

    Weights beyond float16's range are clipped to it; the accuracy gate judges what that does.
    """
    half = ModelProto()
    half.CopyFrom(model)
    parts = divide(half)
    graph = half.graph
    trunk = [node for node in graph.node if node.name in parts.trunk]
    shared = {name for node in graph.node if node.name not in parts.trunk for name in node.input}
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    halved = {name for node in trunk for name in node.input if name in weights}
    for name in sorted(halved):
        array = np.clip(numpy_helper.to_array(weights[name]), -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16)
        if name in shared:
            graph.initializer.append(numpy_helper.from_array(array, f"{name}_half"))
        else:
            weights[name].CopyFrom(numpy_helper.from_array(array, name))
    renamed = {name: f"{name}_half" for name in halved & shared} | {parts.images: "images_half"}
    for node in trunk:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = ["features_half" if name == parts.features else name for name in node.output]
        _halve_attributes(node)
    _insert_casts(half, parts)
    # The exporter's intermediate types no longer hold; ONNX Runtime infers them.
    del graph.value_info[:]
    onnx.checker.check_model(half, full_check=True)
    return half


def run_graph(model: ModelProto, frames: NDArray[np.uint8], *, batch_size: int = 32) -> dict[str, NDArray[np.float32]]:
    """Outputs of `model` for uint8 [N, S, S, 3] on ONNX Runtime's CPU provider: name -> float32 [N, ...]."""
    session = cpu_session(model)
    chunks = [
        session.run(list(OUTPUTS), {"frames": np.ascontiguousarray(frames[i : i + batch_size])})
        for i in range(0, len(frames), batch_size)
    ]
    return {name: np.concatenate([chunk[i] for chunk in chunks]) for i, name in enumerate(OUTPUTS)}


def cpu_session(model: ModelProto) -> onnxruntime.InferenceSession:
    """A session on the CPU provider, using as many threads as torch does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Errors only: the graph optimiser's warnings are about its own passes.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _cleaned(model: ModelProto) -> ModelProto:
    """Without stack traces (they hold paths of the exporting machine), and with the batch dimension named."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.graph.doc_string = ""
    (batch,) = {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == batch:
                dim.dim_param = BATCH
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    onnx.checker.check_model(model, full_check=True)
    return model


def _ancestors(makers: dict[str, NodeProto], tensors: Iterable[str]) -> list[NodeProto]:
    found: dict[str, NodeProto] = {}
    waiting = [makers[name] for name in tensors if name in makers]
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found[node.name] = node
            waiting += [makers[name] for name in node.input if name in makers]
    return list(found.values())


def _halve_attributes(node: NodeProto) -> None:
    """Casts to float32 and float32 constants inside the trunk become float16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(attribute.t).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(array, attribute.t.name))


def _insert_casts(model: ModelProto, parts: Parts) -> None:
    """float32 -> float16 in front of the trunk and back behind it, at places that keep the order of nodes."""
    nodes = []
    casts = {
        "images_half": helper.make_node(
            "Cast", [parts.images], ["images_half"], name="Cast_into_trunk", to=TensorProto.FLOAT16
        ),
        "features_half": helper.make_node(
            "Cast", ["features_half"], [parts.features], name="Cast_out_of_trunk", to=TensorProto.FLOAT
        ),
    }
    for node in model.graph.node:
        if "images_half" in node.input and "images_half" in casts:
            nodes.append(casts.pop("images_half"))
        nodes.append(node)
        if "features_half" in node.output:
            nodes.append(casts.pop("features_half"))
    if casts:
        raise ExportError(f"found no place for the casts {sorted(casts)}")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
