"""Parameter groups, optimisers, the schedules of a run, and the averaged copy of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from serving.errors import ConfigError

# Parameters that are neither decayed nor scaled by LARS though they have two dimensions or more.
EXEMPT_NAMES = ("pos_embed", "cls_token", "mask_token")

OptimiserName = Literal["lars", "adamw", "sgd"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """An optimiser and its schedule.

    Attributes:
        name: `lars`, `adamw` or `sgd`.
        lr: greatest learning rate, at the end of the warm-up.
        weight_decay: of the parameters that are decayed at all (see `parameter_groups`).
        final_weight_decay: what it rises or falls to along a half cosine; null keeps it as it is.
        warmup_epochs: of linear warm-up from 0; may be a fraction.
        momentum: of LARS and SGD.
        trust: LARS's trust coefficient.
        betas: of AdamW.
        clip_grad_norm: greatest norm of the whole gradient; null for none.
    """

    name: OptimiserName
    lr: float
    weight_decay: float
    warmup_epochs: float
    final_weight_decay: float | None = None
    momentum: float = 0.9
    trust: float = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    clip_grad_norm: float | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(OptimiserName):
            raise ConfigError(f"no optimiser {self.name!r}; there are {', '.join(get_args(OptimiserName))}")
        for name in ("lr", "trust"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"optimiser: {name} must be positive, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_epochs"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"optimiser: {name} must not be negative, got {getattr(self, name)}")
        if self.final_weight_decay is not None and not self.final_weight_decay >= 0:
            raise ConfigError(f"optimiser: final_weight_decay must not be negative, got {self.final_weight_decay}")
        if not all(0 <= value < 1 for value in (self.momentum, *self.betas)):
            raise ConfigError(f"optimiser: momentum and betas must lie in [0, 1): {self.momentum}, {self.betas}")
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            raise ConfigError(f"optimiser: clip_grad_norm must be positive, got {self.clip_grad_norm}")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights, decayed and adapted by LARS; and biases, norms, position embedding and class token,
    which are neither (`adapt` false, no decay)."""
    weights: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_exempt = parameter.ndim <= 1 or name.rpartition(".")[2] in EXEMPT_NAMES
        (exempt if is_exempt else weights).append(parameter)
    return [
        {"params": weights, "weight_decay": weight_decay, "adapt": True},
        {"params": exempt, "weight_decay": 0.0, "adapt": False},
    ]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of `config` over the trainable parameters of `model`."""
    groups = parameter_groups(model, config.weight_decay)
    if config.name == "lars":
        return LARS(groups, lr=config.lr, momentum=config.momentum, trust=config.trust)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


class LARS(torch.optim.Optimizer):
    """Momentum SGD with a learning rate per layer (You, Gitman, Ginsburg: arXiv 1708.03888), clipped.

    For a weight w with gradient g and decay d, momentum accumulates

        min(trust * |w| / (|g| + d |w|) / lr, 1) * (g + d w)

    and w moves by -lr times that, so the layer-wise rate only ever slows a layer down (the clipping is that of
    NVIDIA apex's LARC). Layers whose weight or gradient is zero, and groups with `adapt` false, take plain momentum
    steps at lr.
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], *, lr: float, momentum: float = 0.9, trust: float = 0.02
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override] # torch's own overloads
        """One step. `closure`, if given, is called first with gradients on, and its value returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, parameter.grad, group)
        return loss

    def _step_one(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        decay = group["weight_decay"]
        direction = gradient.add(parameter, alpha=decay) if decay else gradient
        if group["adapt"]:
            weight_norm, gradient_norm = parameter.norm(), gradient.norm()
            rate = group["trust"] * weight_norm / (gradient_norm + decay * weight_norm) / group["lr"]
            scalable = (weight_norm > 0) & (gradient_norm > 0)
            direction = direction * torch.where(scalable, rate.clamp(max=1.0), 1.0)
        state = self.state[parameter]
        if "momentum_buffer" in state:
            state["momentum_buffer"].mul_(group["momentum"]).add_(direction)
        else:
            state["momentum_buffer"] = direction.clone()
        parameter.add_(state["momentum_buffer"], alpha=-group["lr"])


def learning_rate(config: OptimConfig, *, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """Rate of step `step` (from 0): linear warm-up, whose last step has the greatest rate, then cosine to 0."""
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup + 1) / (total_steps - warmup + 1)))


def cosine_ramp(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at progress 1 along half a cosine; flat at both ends."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


def apply_schedules(optimizer: torch.optim.Optimizer, config: OptimConfig, *, lr: float, progress: float) -> None:
    """Set the rate of all groups, and the weight decay of those that are decayed at all."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["adapt"] and config.final_weight_decay is not None:
            group["weight_decay"] = cosine_ramp(config.weight_decay, config.final_weight_decay, progress)


@torch.no_grad()
def average_into(average: nn.Module, online: nn.Module, *, momentum: float) -> None:
    """average <- momentum * average + (1 - momentum) * online, for all parameters; buffers are copied.

    The exponential moving average of BYOL and DINO. Running means and variances of batch norm are averages already.

    Raises:
        ValueError: momentum is not in [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
    for kept, new in zip(average.parameters(), online.parameters(), strict=True):
        kept.lerp_(new, 1 - momentum)
    for copied, buffer in zip(average.buffers(), online.buffers(), strict=True):
        copied.copy_(buffer)
