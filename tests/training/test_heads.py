"""The MLP builder: layers, biases and norms where they belong."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch
from torch import nn

from serving.errors import ConfigError
from training.heads import build_mlp


def describe(head: nn.Sequential) -> list[str]:
    names = []
    for layer in head:
        bias = getattr(layer, "bias", None) is not None
        names.append(type(layer).__name__ + (" with bias" if bias else ""))
    return names


def test_a_normed_head_ends_in_a_norm_without_scale_and_shift() -> None:
    head = build_mlp((8, 16, 4), norm_output=True)
    assert describe(head) == ["Linear", "BatchNorm1d with bias", "ReLU", "Linear", "BatchNorm1d"]
    out = head(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)


def test_a_plain_head_ends_in_a_linear_layer_with_bias() -> None:
    head = build_mlp((8, 16, 12, 4), norm_output=False)
    hidden = ["Linear", "BatchNorm1d with bias", "ReLU"]
    assert describe(head) == [*hidden, *hidden, "Linear with bias"]
    assert [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)] == [(16, 8), (12, 16), (4, 12)]


def test_a_head_without_hidden_norms_has_biases_and_gelu() -> None:
    head = build_mlp((8, 16, 12, 4), norm_output=False, norm_hidden=False)
    hidden = ["Linear with bias", "GELU"]
    assert describe(head) == [*hidden, *hidden, "Linear with bias"]
    assert [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)] == [(16, 8), (12, 16), (4, 12)]


def test_a_head_without_norms_treats_each_row_alone() -> None:
    """In training too, where batch norm would let the rows see each other."""
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    plain, normed = (build_mlp((8, 16, 4), norm_output=False, norm_hidden=norm).train() for norm in (False, True))
    with torch.no_grad():
        torch.testing.assert_close(plain(rows)[:3], plain(rows[:3]))
        assert not torch.allclose(normed(rows)[:3], normed(rows[:3]), atol=1e-3)


def test_hidden_layers_without_norms_are_those_of_the_formula() -> None:
    """W2 gelu(W1 x + b1) + b2, with gelu(x) = x Phi(x)."""
    head = build_mlp((3, 4, 2), norm_output=False, norm_hidden=False).double()
    (w1, b1), (w2, b2) = ((layer.weight.detach(), layer.bias.detach()) for layer in (head[0], head[2]))
    x = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
    hidden = [v * NormalDist().cdf(v) for v in (w1 @ x + b1).tolist()]
    expected = w2 @ torch.tensor(hidden, dtype=torch.float64) + b2
    torch.testing.assert_close(head(x[None])[0].detach(), expected, rtol=1e-12, atol=1e-12)


def test_the_output_norm_goes_with_either_kind_of_hidden_layers() -> None:
    head = build_mlp((8, 16, 4), norm_output=True, norm_hidden=False)
    assert describe(head) == ["Linear with bias", "GELU", "Linear", "BatchNorm1d"]


def test_two_widths_make_one_layer() -> None:
    assert describe(build_mlp((8, 4), norm_output=False)) == ["Linear with bias"]


@pytest.mark.parametrize("widths", [(8,), (), (8, 0, 4)])
def test_widths_that_make_no_head_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="two positive widths"):
        build_mlp(widths, norm_output=True)
