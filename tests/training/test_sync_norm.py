"""A synchronised batch norm in one process is a batch norm; over several, see `test_distributed`."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from serving.errors import ConfigError
from training.backbones import build_encoder
from training.sync_norm import SynchronisedBatchNorm, synchronise_norms

SHAPES = {"1d": (6, 5), "2d": (4, 5, 3, 2)}


def norm_of(kind: str, *, affine: bool = True) -> nn.BatchNorm1d | nn.BatchNorm2d:
    norm = (nn.BatchNorm1d if kind == "1d" else nn.BatchNorm2d)(5, eps=1e-3, momentum=0.3, affine=affine)
    if affine:
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, 5))
            norm.bias.copy_(torch.linspace(-1, 1, 5))
    return norm.double()


def drawn(kind: str) -> Tensor:
    return 3 + 2 * torch.randn(SHAPES[kind], dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", list(SHAPES))
def test_values_gradients_and_running_averages_are_torchs(kind: str, affine: bool) -> None:
    theirs = norm_of(kind, affine=affine)
    ours = SynchronisedBatchNorm(copy.deepcopy(theirs))
    inputs = [drawn(kind).requires_grad_() for _ in range(2)]
    weights = torch.randn(SHAPES[kind], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs = [norm(x) for norm, x in zip((ours, theirs), inputs, strict=True)]
    for output in outputs:
        (output * weights).sum().backward()
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-10, atol=1e-12)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-12)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.eval()(inputs[0]), theirs.eval()(inputs[1]), rtol=1e-12, atol=1e-12)


def test_half_precision_goes_in_and_out_and_statistics_are_float32() -> None:
    ours = SynchronisedBatchNorm(norm_of("2d").float())
    x = (100 + drawn("2d")).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ours(x)
    assert y.dtype == torch.bfloat16
    assert ours.running_mean.dtype == torch.float32
    expected = 0.3 * x.float().mean((0, 2, 3))
    torch.testing.assert_close(ours.running_mean, expected, rtol=1e-5, atol=0)


def test_large_means_leave_the_variance_as_it_is() -> None:
    ours = SynchronisedBatchNorm(nn.BatchNorm1d(1, affine=False, momentum=1.0))
    ours(10_000 + torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    assert float(ours.running_var) == pytest.approx(5 / 3, rel=1e-5)


def test_an_encoder_keeps_the_order_and_identity_of_its_parameters() -> None:
    encoder = build_encoder("resnet18", image_size=32)
    names, parameters = list(encoder.state_dict()), list(encoder.parameters())
    synchronise_norms(encoder)
    assert sum(isinstance(module, SynchronisedBatchNorm) for module in encoder.modules()) == 20
    assert list(encoder.state_dict()) == names
    assert all(mine is other for mine, other in zip(encoder.parameters(), parameters, strict=True))


@pytest.mark.parametrize(
    "norm", [BatchNormAct2d(3), nn.BatchNorm3d(3), nn.BatchNorm2d(3, track_running_stats=False)], ids=str
)
def test_norms_that_are_more_or_less_than_that_are_refused(norm: nn.Module) -> None:
    with pytest.raises(ConfigError):
        synchronise_norms(nn.Sequential(norm))
