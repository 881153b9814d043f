"""DINO (Caron et al.: Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021).

Shapes: N frames, D features, B bottleneck features, K prototypes, V views of which the first two are global.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.errors import ConfigError
from training.backbones import Encoder
from training.distributed import gather
from training.heads import build_mlp
from training.methods.base import Method, MethodConfig, encode_views, wide
from training.optim import average_into, cosine_ramp

GLOBAL_VIEWS = 2


@dataclass(frozen=True, kw_only=True)
class DINOConfig(MethodConfig):
    """DINO's settings.

    Attributes:
        momentum: of the teacher at the start; it rises to 1 along half a cosine.
        student_temperature: tau_s.
        teacher_temperatures: tau_t at the start and after the warm-up, between which it rises linearly.
        teacher_warmup: share of the run over which it rises.
        centre_momentum: of the running mean of the teacher's outputs, which is taken off them.
        frozen_share: share of the run in which the prototypes stay as they are.
        head: hidden and bottleneck widths.
        prototypes: K.
    """

    momentum: float = 0.996
    student_temperature: float = 0.1
    teacher_temperatures: tuple[float, float] = (0.04, 0.04)
    teacher_warmup: float = 0.0
    centre_momentum: float = 0.9
    frozen_share: float = 0.0
    head: tuple[int, ...] = (2048, 2048, 256)
    prototypes: int = 4096

    def __post_init__(self) -> None:
        sizes = [view.size for view in self.views.views for _ in range(view.count)]
        if len(sizes) < GLOBAL_VIEWS or len(set(sizes[:GLOBAL_VIEWS])) > 1:
            raise ConfigError(f"dino needs two global views of one size first, the view spec makes {sizes} px")
        temperatures = (self.student_temperature, *self.teacher_temperatures)
        if not all(temperature > 0 for temperature in temperatures):
            raise ConfigError(f"dino: temperatures must be positive, got {temperatures}")
        if self.prototypes < 2:
            raise ConfigError(f"dino: prototypes must be at least 2, got {self.prototypes}")
        for name in ("momentum", "centre_momentum", "teacher_warmup", "frozen_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"dino: {name} must lie in [0, 1], got {getattr(self, name)}")


class DINO(Method):
    """From any view, predict which prototypes an averaged copy of the network assigns to the global ones."""

    Config = DINOConfig

    def __init__(self, encoder: Encoder, config: DINOConfig) -> None:
        super().__init__(encoder, config)
        self.config = config
        self.head = DINOHead(encoder.feature_dim, config.head, config.prototypes)
        self.teacher = copy.deepcopy(nn.Sequential(encoder, self.head)).requires_grad_(False)
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(config.prototypes))

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        student = [gather(logits) for logits in encode_views(self.encoder, self.head, views)]
        with torch.no_grad():
            both = self.teacher(torch.cat(views[:GLOBAL_VIEWS]))
            teacher = [wide(gather(logits)) for logits in both.chunk(GLOBAL_VIEWS)]
        loss = dino_loss(
            student,
            teacher,
            centre=self.centre,
            student_temperature=self.config.student_temperature,
            teacher_temperature=self.teacher_temperature(progress),
        )
        self.centre.lerp_(torch.cat(teacher).mean(0), 1 - self.config.centre_momentum)
        return loss

    def teacher_temperature(self, progress: float) -> float:
        """tau_t at this point of the run."""
        first, last = self.config.teacher_temperatures
        warmup = self.config.teacher_warmup
        return last if progress >= warmup else first + (last - first) * progress / warmup

    def after_backward(self, progress: float) -> None:
        if progress < self.config.frozen_share:
            self.head.prototypes.grad = None

    def after_step(self, progress: float) -> None:
        momentum = cosine_ramp(self.config.momentum, 1.0, progress)
        average_into(self.teacher, nn.Sequential(self.encoder, self.head), momentum=momentum)


class DINOHead(nn.Module):
    """MLP without norms, unit bottleneck, cosine to unit prototypes: [N, D] -> [N, K].

    Prototypes of length 1 are the authors' weight-normalised last layer with its gain fixed to 1.
    """

    def __init__(self, feature_dim: int, widths: tuple[int, ...], prototypes: int) -> None:
        super().__init__()
        self.mlp = build_mlp((feature_dim, *widths), norm_output=False, norm_hidden=False)
        self.prototypes = nn.Parameter(torch.randn(prototypes, widths[-1]))

    def forward(self, features: Tensor) -> Tensor:
        """[N, D] -> logits [N, K]."""
        bottleneck = self.mlp(features)
        # Divided by a small temperature, bfloat16 cosines would be too coarse.
        with torch.autocast(features.device.type, enabled=False):
            unit = functional.normalize(wide(bottleneck), dim=1)
            return functional.linear(unit, functional.normalize(self.prototypes, dim=1).to(unit.dtype))


def dino_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    centre: Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Cross-entropy between views (Caron et al. 2021, equations 1 to 3), mean over pairs of views and frames.

        L = mean_{g, v != g} mean_n -sum_k softmax((t_g - c) / tau_t)_k log softmax(s_v / tau_s)_k

    with g over the teacher's views and v over the student's, in the same order; a view is not compared with itself.

    Args:
        student: V tensors [N, K], logits.
        teacher: the first views' logits by the teacher, [N, K] each; taken as constants.
        centre: c, [K].
        student_temperature, teacher_temperature: tau_s and tau_t.

    Returns:
        float32 scalar (float64 for float64 input), computed in that precision under autocast too.

    Raises:
        ValueError: shapes differ, or there is no pair.
    """
    shapes = {tuple(logits.shape) for logits in (*student, *teacher)}
    if len(student) < 2 or not 0 < len(teacher) <= len(student) or len(shapes) != 1 or student[0].ndim != 2:
        raise ValueError(
            f"two or more views of one shape [N, K] needed, the teacher's being the first of the student's, got "
            f"{len(student)} and {len(teacher)} views of shapes {sorted(shapes)}"
        )
    if centre.shape != student[0].shape[1:]:
        raise ValueError(f"the centre must be [{student[0].shape[1]}], one for each prototype: {tuple(centre.shape)}")
    with torch.autocast(student[0].device.type, enabled=False):
        targets = [((wide(logits.detach()) - centre) / teacher_temperature).softmax(1) for logits in teacher]
        logs = [(wide(logits) / student_temperature).log_softmax(1) for logits in student]
        pairs = [
            -(target * log).sum(1).mean() for g, target in enumerate(targets) for v, log in enumerate(logs) if v != g
        ]
        return torch.stack(pairs).mean()
