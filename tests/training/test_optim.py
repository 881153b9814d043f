"""Parameter groups, LARS and SGD against steps worked out by hand, the schedules, the averaged copy."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from serving.errors import ConfigError
from training.backbones import build_encoder
from training.optim import (
    LARS,
    OptimConfig,
    OptimiserName,
    apply_schedules,
    average_into,
    build_optimizer,
    cosine_ramp,
    learning_rate,
    parameter_groups,
)

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
    for token in ("cls_token", "mask_token"):
        model.register_parameter(token, nn.Parameter(torch.zeros(1, 1, 4)))
    model.register_parameter("frozen", nn.Parameter(torch.zeros(2, 2), requires_grad=False))
    decayed, exempt = parameter_groups(model, 0.05)
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed_names = {by_id[id(parameter)] for parameter in decayed["params"]}
    exempt_names = {by_id[id(parameter)] for parameter in exempt["params"]}
    assert (decayed["weight_decay"], decayed["adapt"]) == (0.05, True)
    assert (exempt["weight_decay"], exempt["adapt"]) == (0.0, False)
    assert decayed_names | exempt_names | {"frozen"} == set(by_id.values())
    assert all(name.endswith("weight") and "norm" not in name and ".bn" not in name for name in decayed_names)
    assert {"cls_token", "mask_token"} <= exempt_names
    assert ("trunk.pos_embed" in exempt_names) == (encoder == "vit_tiny")


def test_the_named_optimiser_is_built() -> None:
    model = nn.Linear(3, 2)
    adamw = build_optimizer(model, replace(CONFIG, name="adamw", betas=(0.9, 0.95)))
    assert isinstance(adamw, torch.optim.AdamW)
    assert [group["betas"] for group in adamw.param_groups] == [(0.9, 0.95)] * 2
    sgd = build_optimizer(model, replace(CONFIG, name="sgd", momentum=0.8))
    assert isinstance(sgd, torch.optim.SGD)
    assert [group["momentum"] for group in sgd.param_groups] == [0.8] * 2
    lars = build_optimizer(model, replace(CONFIG, trust=0.01, momentum=0.8))
    assert isinstance(lars, LARS)
    assert [(group["trust"], group["momentum"]) for group in lars.param_groups] == [(0.01, 0.8)] * 2
    for optimizer in (adamw, sgd, lars):
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
        assert [group["lr"] for group in optimizer.param_groups] == [0.4] * 2


def test_sgd_decays_and_gathers_momentum_on_weights_and_leaves_biases_undecayed() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
        model.bias.fill_(4.0)
    optimizer = build_optimizer(model, replace(CONFIG, name="sgd", lr=0.1, weight_decay=0.5, momentum=0.9))
    for _ in range(2):
        model.weight.grad, model.bias.grad = torch.tensor([[1.0, 1.0]]), torch.tensor([1.0])
        optimizer.step()
    # Weights: g + d w = (1.5, 0), so w = (0.85, -2); then (1.425, 0) + 0.9 (1.5, 0) = (2.775, 0).
    torch.testing.assert_close(model.weight.data, torch.tensor([[0.85 - 0.2775, -2.0]]))
    # Bias: 1, then 1 + 0.9.
    torch.testing.assert_close(model.bias.data, torch.tensor([4 - 0.1 - 0.19]))


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
    ("progress", "expected"),
    [
        (0.0, 0.04),
        (0.25, 0.4 - 0.18 * (1 + math.sqrt(0.5))),
        (1 / 3, 0.4 - 0.36 * 0.75),
        (0.5, 0.22),
        (1.0, 0.4),
    ],
)
def test_a_ramp_is_half_a_cosine(progress: float, expected: float) -> None:
    assert cosine_ramp(0.04, 0.4, progress) == pytest.approx(expected)
    assert cosine_ramp(0.4, 0.04, 1 - progress) == pytest.approx(expected)


def test_a_ramp_ends_exactly_where_it_shall_and_is_flat_at_both_ends() -> None:
    assert cosine_ramp(0.996, 1.0, 1.0) == 1.0
    assert cosine_ramp(0.3, 0.3, 0.7) == pytest.approx(0.3)
    steps = [cosine_ramp(0.0, 1.0, k / 100) for k in range(101)]
    rises = [after - before for before, after in pairwise(steps)]
    assert min(rises) > 0
    assert max(rises[0], rises[-1]) < 0.02 * max(rises)


def test_schedules_set_the_rate_of_all_and_the_decay_of_those_that_are_decayed() -> None:
    config = replace(CONFIG, name="adamw", weight_decay=0.04, final_weight_decay=0.4)
    optimizer = build_optimizer(nn.Linear(3, 2), config)
    for progress, decay in ((0.0, 0.04), (0.5, 0.22), (1.0, 0.4)):
        apply_schedules(optimizer, config, lr=0.3 * progress, progress=progress)
        assert [group["lr"] for group in optimizer.param_groups] == [0.3 * progress] * 2
        assert [group["weight_decay"] for group in optimizer.param_groups] == [pytest.approx(decay), 0.0]


def test_a_decay_may_fall_to_nothing_and_without_an_end_it_stays() -> None:
    for final, expected in ((0.0, 0.05), (None, 0.1)):
        config = replace(CONFIG, final_weight_decay=final)
        optimizer = build_optimizer(nn.Linear(3, 2), config)
        apply_schedules(optimizer, config, lr=0.1, progress=0.5)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [pytest.approx(expected), 0.0]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_scheduled_decay_is_the_one_applied(name: OptimiserName) -> None:
    config = replace(CONFIG, name=name, weight_decay=0.0, final_weight_decay=0.8)
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(model, config)
    apply_schedules(optimizer, config, lr=0.5, progress=0.5)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(2.0)
    model.weight.grad, model.bias.grad = torch.zeros(1, 1), torch.zeros(1)
    optimizer.step()
    # Half way the decay is 0.4: w - 0.5 * 0.4 w, for AdamW and for the first step of SGD alike.
    assert float(model.weight.detach()) == pytest.approx(2 * (1 - 0.2))
    assert float(model.bias.detach()) == 2.0


def test_schedules_still_know_the_groups_after_a_checkpoint() -> None:
    config = replace(CONFIG, final_weight_decay=0.3)
    model = nn.Linear(3, 2)
    optimizer, resumed = build_optimizer(model, config), build_optimizer(model, config)
    resumed.load_state_dict(optimizer.state_dict())
    apply_schedules(resumed, config, lr=0.1, progress=1.0)
    assert [group["weight_decay"] for group in resumed.param_groups] == [0.3, 0.0]


def normed(weight: float, mean: float, batches: int) -> nn.Module:
    """A linear layer and a batch norm, all parameters `weight`, the norm's running mean `mean`."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(weight)
        model[1].running_mean.fill_(mean)
        model[1].num_batches_tracked.fill_(batches)
    return model


def test_the_average_keeps_its_share_of_parameters_and_copies_buffers() -> None:
    average, online = normed(1.0, 5.0, 3), normed(2.0, 7.0, 9)
    average_into(average, online, momentum=0.9)
    average_into(average, online, momentum=0.9)
    # 0.9 + 0.1 * 2 = 1.1; 0.9 * 1.1 + 0.1 * 2 = 1.19.
    for parameter in average.parameters():
        torch.testing.assert_close(parameter.data, torch.full_like(parameter, 1.19))
    assert float(average[1].running_mean[0]) == 7.0
    assert int(average[1].num_batches_tracked) == 9
    assert {float(value) for parameter in online.parameters() for value in parameter.detach().flatten()} == {2.0}


def test_at_the_ends_the_average_is_one_of_the_two_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    for momentum, weight in ((1.0, 0.3), (0.0, 0.7)):
        average, online = normed(0.3, 0.0, 0), normed(0.7, 0.0, 0)
        noise = torch.randn(3, 2, generator=generator)
        with torch.no_grad():
            average[0].weight.add_(noise)
            online[0].weight.add_(noise)
        average_into(average, online, momentum=momentum)
        assert torch.equal(average[0].weight.data, torch.full((3, 2), weight) + noise)


def test_the_average_takes_no_part_in_gradients_and_shares_nothing_with_the_network() -> None:
    average, online = normed(1.0, 0.0, 0).requires_grad_(False), normed(2.0, 0.0, 0)
    average_into(average, online, momentum=0.0)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    with torch.no_grad():
        online[0].weight.fill_(9.0)
    assert float(average[0].weight[0, 0]) == 2.0


@pytest.mark.parametrize("momentum", [-0.1, 1.1, math.nan])
def test_a_momentum_out_of_range_is_refused(momentum: float) -> None:
    average = normed(1.0, 0.0, 0)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\]"):
        average_into(average, normed(2.0, 0.0, 0), momentum=momentum)
    assert float(average[0].weight[0, 0].detach()) == 1.0


def test_networks_of_different_shape_are_not_averaged() -> None:
    with pytest.raises(ValueError, match="zip"):
        average_into(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), momentum=0.5)


def test_an_unknown_optimiser_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no optimiser 'adam'; there are lars, adamw, sgd"):
        replace(CONFIG, name="adam")


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 0.0},
        {"lr": math.nan},
        {"trust": 0.0},
        {"weight_decay": -1.0},
        {"weight_decay": math.nan},
        {"final_weight_decay": -0.1},
        {"final_weight_decay": math.nan},
        {"momentum": 1.0},
        {"betas": (0.9, 1.0)},
        {"clip_grad_norm": 0.0},
        {"warmup_epochs": -1},
        {"warmup_epochs": math.nan},
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        replace(CONFIG, **changes)
