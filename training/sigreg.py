"""How far embeddings are from a standard Gaussian: LeJEPA's statistic, as a loss and as a measure.

Shapes: N frames, D features, M directions, K knots.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# The paper's grid: 17 knots on [-5, 5], 0 among them.
LAST_KNOT = 5.0
KNOTS = 17


def random_directions(features: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` directions drawn evenly from the unit sphere of `features` dimensions.

    Args:
        features: D >= 1.
        count: M >= 1.
        generator: on the CPU.

    Returns:
        float32 [D, M] on the CPU, each column of length 1.

    Raises:
        ValueError: a count below 1.
    """
    if features < 1 or count < 1:
        raise ValueError(f"at least one direction of at least one feature needed, got {count} of {features}")
    # A Gaussian knows no direction, so its normalised draws are even over the sphere.
    return functional.normalize(torch.randn(features, count, generator=generator), dim=0)


def sigreg(embeddings: Tensor, directions: Tensor) -> Tensor:
    """Sketched isotropic Gaussian regularisation (Balestriero and LeCun: LeJEPA, arXiv:2511.08544, section 4).

    The Epps-Pulley statistic against the standard normal, averaged over directions a_m (SIGReg with T = Epps-Pulley):

        1/M sum_m  N * integral_-5^5 |phi_m(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt
        phi_m(t) = 1/N sum_n exp(i t <a_m, z_n>)

    with the trapezoid rule on 17 evenly spaced knots, window and target characteristic function both exp(-t^2 / 2)
    as in the paper's algorithm 1. Embeddings are neither centred nor scaled: mean 0 and variance 1 are part of the
    target. Factor N makes the expectation for standard normal embeddings sqrt(2 pi) (1 - 1/sqrt(3)) = 1.06
    whatever N is; elsewhere the statistic grows in proportion to N, so compare values of equal N only. Along a
    direction, differences beyond some 5 lie outside what the grid resolves (it repeats after 2 pi / 0.625 = 10.1).

    Args:
        embeddings: [N, D], N >= 1, any float dtype. The whole batch: the statistic is no mean over parts of it.
        directions: [D, M], each column of length 1 (see `random_directions`), any float dtype and device.

    Returns:
        scalar >= 0 on the embeddings' device, float32 (float64 for float64 input), computed in that precision under
        autocast too. Differentiable in both arguments. Keeps 8 N M numbers for the backward pass.

    Raises:
        ValueError: not a matrix of embeddings, or directions of another width.
    """
    if embeddings.ndim != 2 or embeddings.numel() == 0:
        raise ValueError(f"embeddings must be [N, D] with N, D >= 1, got {tuple(embeddings.shape)}")
    if directions.ndim != 2 or len(directions) != embeddings.shape[1] or directions.shape[1] == 0:
        expected = f"[{embeddings.shape[1]}, M] with M >= 1"
        raise ValueError(f"directions must be {expected}, got {tuple(directions.shape)}")
    with torch.autocast(embeddings.device.type, enabled=False):
        z = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        # The integrand is even in t and 0 at t = 0, so the positive knots suffice, each counted twice: but the last
        # one, at which the trapezoid rule gives half the weight.
        step = 2 * LAST_KNOT / (KNOTS - 1)
        t = step * torch.arange(1, KNOTS // 2 + 1, dtype=z.dtype, device=z.device)
        gaussian = torch.exp(-t.square() / 2)
        weight = 2 * step * gaussian
        weight[-1] /= 2
        angles = (z @ directions.to(z))[:, :, None] * t
        distance = (angles.cos().mean(dim=0) - gaussian).square() + angles.sin().mean(dim=0).square()
        return len(z) * (distance @ weight).mean()
