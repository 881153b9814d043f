"""What tests of all pretraining methods share: gradients by finite differences, and short runs on drawn frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.backbones import seeded_init
from training.data.augment import make_views
from training.methods import METHODS, Method, MethodConfig
from training.optim import OptimConfig, build_optimizer
from training.runs import random_encoder

# Side of the frames that short runs are on, in pixels.
SIZE = 32

# Of golden curves. Learning rates are constant there.
ADAMW = OptimConfig(name="adamw", lr=5e-4, weight_decay=0.05, warmup_epochs=0)
LARS = OptimConfig(name="lars", lr=0.03, weight_decay=1e-4, warmup_epochs=0)


def assert_is_the_equation(
    loss: Callable[..., Tensor],
    reference: Callable[..., float],
    *inputs: Tensor,
    rel: float = 1e-5,
    noise: float = 1e-8,
) -> None:
    """Value and gradient of `loss` at float64 `inputs` are those of `reference`, a function of NumPy arrays.

    Gradients are compared with central differences of the reference, entry by entry, to `rel` or `noise`; values
    to 1e-11, and to 1e-5 for float32 inputs, for which the loss must be float32.
    """
    arrays = [x.detach().numpy().copy() for x in inputs]
    expected = reference(*arrays)
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*leaves)
    assert value.dtype == torch.float64
    assert float(value.detach()) == pytest.approx(expected, rel=1e-11)
    single = loss(*(x.detach().float() for x in inputs))
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(expected, rel=1e-5)
    value.backward()
    for leaf, estimate in zip(leaves, _central_differences(reference, arrays), strict=True):
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.numpy(), estimate, rtol=rel, atol=noise)


def _central_differences(
    reference: Callable[..., float], arrays: list[NDArray[np.float64]], delta: float = 1e-5
) -> list[NDArray[np.float64]]:
    gradients = []
    for array in arrays:
        gradient = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            kept, values = array[place], []
            for shift in (delta, -delta):
                array[place] = kept + shift
                values.append(reference(*arrays))
            array[place] = kept
            gradient[place] = (values[0] - values[1]) / (2 * delta)
        gradients.append(gradient)
    return gradients


def assert_same_value_and_gradient(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor, rtol: float = 1e-8
) -> None:
    """Both functions of float64 `inputs` agree, and so do their gradients."""
    our_leaves, their_leaves = ([x.detach().clone().requires_grad_() for x in inputs] for _ in range(2))
    our_loss, their_loss = ours(*our_leaves), theirs(*their_leaves)
    torch.testing.assert_close(our_loss, their_loss, rtol=rtol, atol=0)
    our_loss.backward()
    their_loss.backward()
    for mine, other in zip(our_leaves, their_leaves, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=rtol, atol=1e-12)


def build_method(name: str, encoder: str, config: MethodConfig) -> Method:
    """The method on a fresh encoder for frames of `SIZE`, in training mode; always with the same weights."""
    with seeded_init(0):
        return METHODS[name](random_encoder(encoder, SIZE, seed=0).train(), config)


def drawn_frames(count: int = 16) -> Tensor:
    """uint8 [count, SIZE, SIZE, 3]: blocks of 8 px in random colours."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, size=(count, SIZE // 8, SIZE // 8, 3))
    return torch.from_numpy(np.repeat(np.repeat(blocks, 8, axis=1), 8, axis=2).astype(np.uint8))


def same_views(method: Method) -> list[Tensor]:
    """The views of `drawn_frames`, always the same."""
    return make_views(drawn_frames(), method.views, torch.Generator().manual_seed(0))


def training_losses(method: Method, optim: OptimConfig, steps: int) -> list[float]:
    """Losses of `steps` steps on `drawn_frames`, as the loop takes them but at a constant rate.

    Views are the same at each step, and so is what the method draws: fresh ones would bury the slope under their own
    differences. Progress goes from 0 to 1 over these steps, so schedules make a shorter run another one.
    """
    optimizer, losses, views = build_optimizer(method, optim), [], same_views(method)
    for step in range(steps):
        method.generator.manual_seed(0)
        loss = method.loss(views, step / steps)
        optimizer.zero_grad()
        loss.backward()
        method.after_backward(step / steps)
        if optim.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(method.parameters(), optim.clip_grad_norm)
        optimizer.step()
        method.after_step((step + 1) / steps)
        losses.append(float(loss.detach()))
    return losses


def gradients_after_one_loss(method: Method) -> tuple[set[str], set[str]]:
    """Names of the trainable parameters that a loss gives no finite gradient, and of frozen ones that it gives one."""
    method.loss(same_views(method), 0.0).backward()
    parameters = dict(method.named_parameters())
    with_gradient = {name for name, p in parameters.items() if p.grad is not None and bool(p.grad.isfinite().all())}
    trainable = {name for name, p in parameters.items() if p.requires_grad}
    return trainable - with_gradient, {name for name, p in parameters.items() if p.grad is not None} - trainable
