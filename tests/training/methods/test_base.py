"""What methods share: draws that do not depend on the number of processes, views passed together, precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training import distributed
from training.data.augment import masked_view
from training.methods.base import Method, MethodConfig, encode_views, wide
from training.runs import random_encoder


class Still(Method):
    """The least that a method can be."""

    Config = MethodConfig

    def loss(self, views: list[Tensor], progress: float) -> Tensor:
        return progress * views[0].sum()


@pytest.fixture
def method() -> Still:
    return Still(random_encoder("vit_tiny", 32, seed=0), MethodConfig(views=masked_view(32)))


def test_draws_follow_the_methods_generator_alone(method: Still) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    method.generator.manual_seed(3)
    first, second = (method.draw_uniform(4, 6) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.shape == (4, 6)
    assert first.dtype == torch.float32
    assert bool(((first >= 0) & (first < 1)).all())
    assert not torch.equal(first, second)
    torch.manual_seed(6)
    method.generator.manual_seed(3)
    assert torch.equal(method.draw_uniform(4, 6), first)


@pytest.mark.parametrize("processes", [1, 2, 3, 6])
def test_a_frame_gets_the_same_draws_however_many_processes_there_are(
    method: Still, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method.generator.manual_seed(3)
    whole = [method.draw_uniform(6, 5) for _ in range(2)]
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        method.generator.manual_seed(3)
        shares.append([method.draw_uniform(6 // processes, 5) for _ in range(2)])
    for draw in range(2):
        assert torch.equal(torch.cat([share[draw] for share in shares]), whole[draw])


class Counting(nn.Module):
    """Flattens, and notes the shape of what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passed.append(tuple(x.shape))
        return x.mean((2, 3))


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([8, 8], [(6, 8)]),
        ([8, 8, 4, 4, 4], [(6, 8), (9, 4)]),
        ([8], [(3, 8)]),
        # Only neighbours go together, so that views keep their order.
        ([8, 4, 8], [(3, 8), (3, 4), (3, 8)]),
    ],
)
def test_neighbouring_views_of_one_size_pass_as_one_batch(sizes: list[int], batches: list[tuple[int, int]]) -> None:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(3, 3, size, size, generator=generator) for size in sizes]
    encoder, head = Counting(), nn.Linear(3, 2)
    outputs = encode_views(encoder, head, views)
    assert encoder.passed == [(n, 3, size, size) for n, size in batches]
    assert len(outputs) == len(views)
    for view, output in zip(views, outputs, strict=True):
        torch.testing.assert_close(output, head(view.mean((2, 3))))


def test_views_are_encoded_as_each_alone_would_be(method: Still) -> None:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(2, 3, size, size, generator=generator) for size in (32, 32, 16, 16)]
    head = nn.Linear(192, 4)
    with torch.no_grad():
        for view, output in zip(views, encode_views(method.encoder, head, views), strict=True):
            torch.testing.assert_close(output, head(method.encoder(view)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_losses_are_computed_in_float32_or_float64(given: torch.dtype, expected: torch.dtype) -> None:
    assert wide(torch.ones(2, dtype=given)).dtype == expected


def test_calling_a_method_is_asking_for_its_loss(method: Still) -> None:
    views = [torch.ones(1, 3, 2, 2)]
    assert float(method(views, 0.5)) == float(method.loss(views, 0.5)) == 6.0


def test_a_method_without_a_loss_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="loss"):
        Method(random_encoder("vit_tiny", 32, seed=0), MethodConfig(views=masked_view(32)))
