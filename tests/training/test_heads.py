"""The MLP builder: layers, biases and norms where they belong."""

from __future__ import annotations

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


def test_two_widths_make_one_layer() -> None:
    assert describe(build_mlp((8, 4), norm_output=False)) == ["Linear with bias"]


@pytest.mark.parametrize("widths", [(8,), (), (8, 0, 4)])
def test_widths_that_make_no_head_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="two positive widths"):
        build_mlp(widths, norm_output=True)
