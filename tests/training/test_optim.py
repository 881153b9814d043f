"""Parameter groups, LARS against steps worked out by hand, the schedule."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from serving.errors import ConfigError
from training.backbones import build_encoder
from training.optim import LARS, OptimConfig, build_optimizer, learning_rate, parameter_groups

CONFIG = OptimConfig(name="lars", lr=0.4, weight_decay=0.1, warmup_epochs=2)


def lars_on(weight: torch.Tensor, **options: object) -> tuple[nn.Parameter, LARS]:
    parameter = nn.Parameter(weight.clone())
    group = {"params": [parameter], "weight_decay": 0.0, "adapt": True, **options}
    return parameter, LARS([group], lr=0.5, momentum=0.9, trust=0.02)


def step_with(optimizer: LARS, parameter: nn.Parameter, gradient: torch.Tensor) -> None:
    parameter.grad = gradient
    optimizer.step()


def test_lars_scales_a_layer_down_to_its_trust_ratio() -> None:
    # |w| = 5, |g| = 1: rate 0.02 * 5 / 1 = 0.1 < lr = 0.5.
    parameter, optimizer = lars_on(torch.tensor([3.0, 4.0]))
    step_with(optimizer, parameter, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(parameter.data, torch.tensor([3.0 - 0.1 * 0.6, 4.0 - 0.1 * 0.8]))


def test_lars_never_speeds_a_layer_up() -> None:
    # |g| = 0.1: rate 0.02 * 5 / 0.1 = 1.0, clipped to lr = 0.5.
    parameter, optimizer = lars_on(torch.tensor([3.0, 4.0]))
    step_with(optimizer, parameter, torch.tensor([0.06, 0.08]))
    torch.testing.assert_close(parameter.data, torch.tensor([3.0 - 0.5 * 0.06, 4.0 - 0.5 * 0.08]))


def test_lars_with_decay_and_momentum() -> None:
    # |w| = 5, |g| = 1, d = 0.1: rate 0.02 * 5 / (1 + 0.1 * 5) = 1/15; direction g + d w = (0.9, 1.2).
    parameter, optimizer = lars_on(torch.tensor([3.0, 4.0]), weight_decay=0.1)
    gradient = torch.tensor([0.6, 0.8])
    step_with(optimizer, parameter, gradient.clone())
    first = torch.tensor([3.0 - 0.9 / 15, 4.0 - 1.2 / 15])
    torch.testing.assert_close(parameter.data, first)
    # w = (2.94, 3.92), |w| = 4.9: rate 0.098 / 1.49; g + d w = (0.894, 1.192); the buffer keeps 0.9 of the last.
    step_with(optimizer, parameter, gradient.clone())
    rate = 0.098 / 1.49
    moved = torch.tensor([rate * 0.894 + 0.9 * 0.9 / 15, rate * 1.192 + 0.9 * 1.2 / 15])
    torch.testing.assert_close(parameter.data, first - moved)


@pytest.mark.parametrize("weight", [[0.0, 0.0], [3.0, 4.0]])
def test_lars_leaves_exempt_layers_and_zero_weights_to_plain_momentum(weight: list[float]) -> None:
    parameter, optimizer = lars_on(torch.tensor(weight), adapt=weight == [0.0, 0.0])
    step_with(optimizer, parameter, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(parameter.data, torch.tensor(weight) - 0.5 * torch.tensor([0.6, 0.8]))


def test_lars_does_not_touch_gradients_and_survives_a_zero_one() -> None:
    parameter, optimizer = lars_on(torch.tensor([0.0, 0.0]), weight_decay=0.1)
    gradient = torch.zeros(2)
    step_with(optimizer, parameter, gradient)
    step_with(optimizer, parameter, gradient)
    assert torch.equal(gradient, torch.zeros(2))
    assert torch.equal(parameter.data, torch.zeros(2))


def test_lars_without_trust_limit_is_torch_sgd() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    lars = LARS([{"params": [ours], "weight_decay": 0.01, "adapt": True}], lr=0.1, momentum=0.9, trust=1e9)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        gradient = torch.randn(4, 3, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        lars.step()
        sgd.step()
    torch.testing.assert_close(ours.data, theirs.data)


@pytest.mark.parametrize("encoder", ["resnet18", "vit_tiny"])
def test_biases_norms_and_position_embedding_are_exempt(encoder: str) -> None:
    model = build_encoder(encoder, image_size=32)
    model.register_parameter("cls_token", nn.Parameter(torch.zeros(1, 1, 4)))
    model.register_parameter("frozen", nn.Parameter(torch.zeros(2, 2), requires_grad=False))
    decayed, exempt = parameter_groups(model, 0.05)
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names = {by_id[id(parameter)] for parameter in decayed["params"]}
    exempt_names = {by_id[id(parameter)] for parameter in exempt["params"]}
    assert (decayed["weight_decay"], decayed["adapt"]) == (0.05, True)
    assert (exempt["weight_decay"], exempt["adapt"]) == (0.0, False)
    assert decayed_names | exempt_names | {"frozen"} == set(by_id.values())
    assert all(name.endswith("weight") and "norm" not in name and ".bn" not in name for name in decayed_names)
    assert "cls_token" in exempt_names
    assert ("trunk.pos_embed" in exempt_names) == (encoder == "vit_tiny")


def test_the_named_optimiser_is_built() -> None:
    model = nn.Linear(3, 2)
    adamw = build_optimizer(model, replace(CONFIG, name="adamw", betas=(0.9, 0.95)))
    assert isinstance(adamw, torch.optim.AdamW)
    assert [group["betas"] for group in adamw.param_groups] == [(0.9, 0.95)] * 2
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.1, 0.0]
    assert isinstance(build_optimizer(model, CONFIG), LARS)


def test_the_rate_rises_linearly_then_falls_as_a_cosine() -> None:
    rates = [learning_rate(CONFIG, step=step, total_steps=20, steps_per_epoch=2) for step in range(20)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4:] == pytest.approx([0.2 * (1 + math.cos(math.pi * k / 17)) for k in range(1, 17)])
    assert rates == [*sorted(rates[:4]), *sorted(rates[4:], reverse=True)]
    assert all(rate > 0 for rate in rates)


def test_a_schedule_without_warmup_and_one_that_is_all_warmup() -> None:
    no_warmup, all_warmup = replace(CONFIG, warmup_epochs=0), replace(CONFIG, warmup_epochs=99)
    assert learning_rate(no_warmup, step=0, total_steps=9, steps_per_epoch=3) < 0.4
    assert learning_rate(all_warmup, step=8, total_steps=9, steps_per_epoch=3) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "sgd"},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"weight_decay": -1.0},
        {"momentum": 1.0},
        {"betas": (0.9, 1.0)},
        {"clip_grad_norm": 0.0},
        {"warmup_epochs": -1},
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(CONFIG, **changes)
