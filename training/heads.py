"""The one builder of the perceptrons that pretraining methods put on an encoder and throw away afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from serving.errors import ConfigError


def build_mlp(widths: Sequence[int], *, norm_output: bool, norm_hidden: bool = True) -> nn.Sequential:
    """Linear layers through `widths`: [N, widths[0]] -> [N, widths[-1]].

    Args:
        widths: input, hidden and output widths, at least two.
        norm_output: batch norm without scale and shift on the output; else the last layer has a bias.
        norm_hidden: between the layers batch norm and ReLU; else GELU alone, as transformers have it.

    Raises:
        ConfigError: fewer than two widths, or one that is not positive.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ConfigError(f"an MLP needs at least two positive widths, got {list(widths)}")
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths[:-1]):
        if norm_hidden:
            # The norm that follows takes the mean away, so a bias would do nothing.
            layers += [nn.Linear(width_in, width_out, bias=False), nn.BatchNorm1d(width_out), nn.ReLU(inplace=True)]
        else:
            layers += [nn.Linear(width_in, width_out), nn.GELU()]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=not norm_output))
    if norm_output:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)
