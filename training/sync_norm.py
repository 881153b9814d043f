"""Batch norm over the batches of all processes, on any device.

torch's own `SyncBatchNorm` refuses tensors on the CPU, so that what runs on GPUs could not be tested without them.

Shapes: N samples of one process, W processes, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from serving.errors import ConfigError
from training.distributed import gather, world_size


class SynchronisedBatchNorm(nn.Module):
    """Takes the place of a `BatchNorm1d` or `BatchNorm2d`: its parameters and buffers, under its names.

    Checkpoints are therefore interchangeable. In training, mean and biased variance are those of all W N samples, and
    the running variance is updated with the unbiased one, as torch has it. In evaluation it is the plain norm.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        if norm.momentum is None or not norm.track_running_stats:
            raise ConfigError(f"{norm} keeps no running averages, which batch norm over several processes needs")
        self.eps, self.momentum = norm.eps, norm.momentum
        self.train(norm.training)
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(norm, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] or [N, C, h, w], as many samples in every process -> the same shape and dtype, normalised."""
        if not self.training:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance = self._batch_statistics(wide)
        self._track(mean.detach(), variance.detach(), samples=world_size() * x.numel() // x.shape[1])
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        per_channel = (1, -1) + (1,) * (x.ndim - 2)
        return torch.addcmul(shift.view(per_channel), wide, scale.view(per_channel)).to(x.dtype)

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance over all processes, [C] each; differentiable.

        Put together from those of each process, as sums of squares would lose what large means leave of the variance.
        """
        own = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
        variances, means = gather(torch.stack(own)[None]).unbind(1)
        mean = means.mean(0)
        return mean, variances.mean(0) + (means - mean).square().mean(0)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, *, samples: int) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * (samples / (samples - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


def synchronise_norms(module: nn.Module) -> None:
    """Replace every batch norm below `module` by a synchronised one, in place; `state_dict` stays as it is.

    Raises:
        ConfigError: a batch norm of another kind, which may do more than normalise.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d) and type(child) in (nn.BatchNorm1d, nn.BatchNorm2d):
            setattr(module, name, SynchronisedBatchNorm(child))
        elif isinstance(child, _BatchNorm):
            raise ConfigError(f"{name}, a {type(child).__name__}, cannot be synchronised: train in one process")
        else:
            synchronise_norms(child)
