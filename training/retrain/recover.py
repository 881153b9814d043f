"""The trainable encoder of a pair that ships only its graph.

Weights of convolutions, products and layer norms are read off the float32 graph, in the order in which the network
uses them. A transformer is recovered exactly. In a ResNet the exporter has folded each batch norm into the
convolution before it, and what a fold has multiplied cannot be told apart again, nor need it be: any batch norm that
undoes itself on the statistics that it stores gives the same function,

    y = w' * x,    z = (y - m) / sqrt(v + eps) * sqrt(v + eps) + (m + b') = y + b',

with w' and b' the folded weight and bias. So `encoder_from_pair` computes in evaluation mode what the graph does,
whatever m and v are. For training they matter: there m and v come from the batch. `settle_batch_norms` measures them
on the views that training will show, so that in training mode, too, the encoder starts as the function that it was.

Shapes: N views of s x s pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor, nn

from serving.errors import ConfigError, DataError
from serving.pairs.golden import load_golden
from serving.pairs.pair import Pair
from training.backbones import ENCODERS, Encoder, build_encoder, seeded_init
from training.data.normalise import normalise
from training.features import full_float32
from training.gate import PARITY_TOLERANCE
from training.onnx_graph import ExportError, divide

Array = NDArray[np.float32]

VARIANT = "fp32"
_REMEDY = "start from a run folder that has its encoder.pt (--init RUN), or anew (--from-scratch)"


@dataclass(frozen=True)
class _Layer:
    """A layer with weights, in the order of use; `norm` is the batch norm right behind a convolution."""

    module: nn.Module
    norm: nn.BatchNorm2d | None = None


def encoder_from_pair(pair: Pair) -> Encoder:
    """The encoder of `pair` in evaluation mode, on the CPU: its features are the graph's embeddings.

    Raises:
        ConfigError: training does not know this encoder, or the pair has no float32 graph.
        DataError: the graph has another form, or the encoder found does not answer the golden frames as it does.
    """
    manifest = pair.manifest
    if manifest.encoder not in ENCODERS or VARIANT not in manifest.variants:
        raise ConfigError(
            f"the encoder of pair {pair.name} ({manifest.encoder}, variants {', '.join(manifest.variants)}) cannot be "
            f"trained on: that takes one of {', '.join(ENCODERS)} with variant {VARIANT}; {_REMEDY}"
        )
    with seeded_init(0):
        encoder = build_encoder(manifest.encoder, image_size=manifest.image_size).eval()
    _fill(encoder, onnx.load(pair.variant_path(VARIANT)), pair)
    _check(encoder, pair)
    return encoder


@torch.no_grad()
def settle_batch_norms(encoder: Encoder, views: Iterable[Tensor]) -> None:
    """Give the batch norms the statistics of `views`, float32 [N, 3, s, s] each; evaluation stays as it is.

    Filters get the length of freshly drawn ones on the way. In front of a batch norm a filter's length changes nothing
    but how far an optimiser's step turns it, and learning rates are stated for lengths as they are drawn. An encoder
    without batch norms is left alone.
    """
    layers = [layer for layer in _layers(encoder) if layer.norm is not None]
    moments = [_Moments() for _ in layers]
    hooks = [
        layer.module.register_forward_hook(lambda _module, _input, output, seen=seen: seen.add(output))
        for layer, seen in zip(layers, moments, strict=True)
    ]
    try:
        for batch in views:
            encoder(batch)
    finally:
        for hook in hooks:
            hook.remove()
    with seeded_init(0):
        fresh = build_encoder(encoder.name, image_size=encoder.image_size)
    lengths = [_mean_length(layer.module) for layer in _layers(fresh) if layer.norm is not None]
    for layer, seen, length in zip(layers, moments, lengths, strict=True):
        assert layer.norm is not None
        _settle(layer.module, layer.norm, seen, length)


class _Moments:
    """Mean and variance of each channel over all places of all views, summed in float64."""

    def __init__(self) -> None:
        self._n = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, output: Tensor) -> None:
        values = output.detach().double()
        self._n += values.numel() // values.shape[1]
        self._sum = self._sum + values.sum((0, 2, 3))
        self._squares = self._squares + values.square().sum((0, 2, 3))

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """float64 [C] each."""
        mean = torch.as_tensor(self._sum) / self._n
        return mean, (torch.as_tensor(self._squares) / self._n - mean.square()).clamp_min(0.0)


def _settle(convolution: nn.Module, norm: nn.BatchNorm2d, seen: _Moments, length: float) -> None:
    """Rewrite norm and filter: same function in evaluation, `seen` as the statistics, filters of `length`."""
    weight = _weight(convolution)
    mean, variance = seen.mean_and_variance()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    slope = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * slope
    norms = weight.double().flatten(1).norm(dim=1)
    stretch = torch.where(norms > 0, length / norms.clamp_min(1e-30), 1.0)
    weight.copy_(weight.double() * stretch[:, None, None, None])
    norm.running_mean.copy_(mean * stretch)
    norm.running_var.copy_(variance * stretch.square())
    # From the values as they are stored, so that their rounding cancels.
    deviation = torch.sqrt(norm.running_var.double() + norm.eps)
    norm.weight.copy_(slope / stretch * deviation)
    norm.bias.copy_(shift + norm.running_mean.double() * slope / stretch)


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _mean_length(convolution: nn.Module) -> float:
    return float(_weight(convolution).detach().double().flatten(1).norm(dim=1).mean())


@torch.no_grad()
def _layers(encoder: Encoder) -> list[_Layer]:
    """Layers with weights in the order of use, found by one pass; a batch norm goes with its convolution."""
    order: list[nn.Module] = []
    kinds = (nn.Conv2d, nn.Linear, nn.LayerNorm, nn.BatchNorm2d)
    modules = [module for module in encoder.modules() if isinstance(module, kinds)]
    hooks = [module.register_forward_hook(lambda module, _input, _output: order.append(module)) for module in modules]
    training = encoder.training
    try:
        encoder.eval()(torch.zeros(1, 3, encoder.image_size, encoder.image_size))
    finally:
        encoder.train(training)
        for hook in hooks:
            hook.remove()
    layers = []
    for place, module in enumerate(order):
        if isinstance(module, nn.BatchNorm2d):
            continue
        following = order[place + 1] if place + 1 < len(order) else None
        layers.append(_Layer(module, following if isinstance(following, nn.BatchNorm2d) else None))
    return layers


@torch.no_grad()
def _fill(encoder: Encoder, model: ModelProto, pair: Pair) -> None:
    """Copy the graph's weights into `encoder`; batch norms become the addition of the folded bias."""
    layers, found = _layers(encoder), _Graph(model, pair).weights()
    shapes = [tuple(_weight(layer.module).shape) for layer in layers]
    if shapes != [weight.shape for weight, _ in found]:
        raise DataError(
            f"{pair.path}: the {VARIANT} graph has {len(found)} layers with weights of other shapes than the "
            f"{len(layers)} of {encoder.name}; {_REMEDY}"
        )
    for layer, (weight, bias) in zip(layers, found, strict=True):
        _weight(layer.module).copy_(torch.from_numpy(weight.copy()))
        if layer.norm is not None:
            _make_addition(layer.norm, bias)
        elif isinstance(layer.module.bias, Tensor):
            layer.module.bias.copy_(torch.from_numpy(bias.copy()))
    position = getattr(encoder.trunk, "pos_embed", None)
    if position is not None:
        position.copy_(torch.from_numpy(_Graph(model, pair).position(tuple(position.shape)).copy()))


def _make_addition(norm: nn.BatchNorm2d, bias: Array) -> None:
    """Let `norm` add `bias`, in evaluation mode, and do nothing else."""
    norm.reset_running_stats()
    norm.weight.fill_(float(np.sqrt(1 + norm.eps)))
    norm.bias.copy_(torch.from_numpy(bias.copy()))


class _Graph:
    """The trunk's weights as the exporter leaves them: Conv, MatMul followed by Add, LayerNormalization."""

    def __init__(self, model: ModelProto, pair: Pair) -> None:
        try:
            trunk = divide(model).trunk
        except (ExportError, KeyError) as error:
            raise DataError(f"{pair.path}: the {VARIANT} graph has an unknown form ({error}); {_REMEDY}") from error
        self._pair = pair
        self._nodes = [node for node in model.graph.node if node.name in trunk]
        self._arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._adders = {name: node for node in self._nodes if node.op_type == "Add" for name in node.input}

    def weights(self) -> list[tuple[Array, Array]]:
        """Weight and bias of each layer in the order of use; a missing bias is zeros."""
        found = []
        for node in self._nodes:
            given = [self._arrays[name] for name in node.input[1:] if name in self._arrays]
            if node.op_type in ("Conv", "LayerNormalization") and given:
                found.append((given[0], given[1] if len(given) > 1 else np.zeros(len(given[0]), np.float32)))
            elif node.op_type == "MatMul" and given and given[0].ndim == 2:
                found.append((given[0].T, self._added(node, given[0].shape[1])))
        return found

    def _added(self, node: NodeProto, width: int) -> Array:
        """The bias that is added to what `node` makes."""
        adder = self._adders.get(node.output[0])
        names = [name for name in adder.input if name in self._arrays] if adder is not None else []
        return self._arrays[names[0]] if names else np.zeros(width, np.float32)

    def position(self, shape: tuple[int, ...]) -> Array:
        """The position embedding: what is added and has its shape, [1, T, D]."""
        for node in self._nodes:
            for name in node.input if node.op_type == "Add" else ():
                if name in self._arrays and self._arrays[name].shape == shape:
                    return self._arrays[name]
        raise DataError(f"{self._pair.path}: the {VARIANT} graph adds no position embedding of {shape}; {_REMEDY}")


@torch.no_grad()
def _check(encoder: Encoder, pair: Pair) -> None:
    """Compare features with the golden embeddings, by the tolerance that an export must keep."""
    golden = load_golden(pair)
    expected = golden.outputs[VARIANT]["embedding"]
    with full_float32():
        found = encoder(normalise(torch.from_numpy(golden.frames))).numpy()
    difference = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not difference <= PARITY_TOLERANCE["embedding"]:
        raise DataError(
            f"{pair.path}: the encoder read off the {VARIANT} graph differs from it by {difference:.2g} on the golden "
            f"frames, allowed {PARITY_TOLERANCE['embedding']:.2g}; {_REMEDY}"
        )
