"""Encoders: pooled features are the mean of the map, exactly; sizes; seeded weights."""

from __future__ import annotations

import pytest
import torch

from serving.errors import ConfigError
from training.backbones import ENCODERS, build_encoder, seeded_init
from training.runs import random_encoder


@pytest.mark.parametrize(
    ("name", "image_size", "map_shape"),
    [
        ("resnet18", 64, (2, 2)),
        ("resnet18", 112, (4, 4)),
        ("vit_tiny", 32, (4, 4)),
        ("vit_tiny", 112, (14, 14)),
        ("vit_tiny", 192, (12, 12)),
    ],
)
def test_the_pooled_feature_is_the_mean_of_the_map(name: str, image_size: int, map_shape: tuple[int, int]) -> None:
    encoder = random_encoder(name, image_size, seed=1)
    x = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, pooled = encoder.feature_map(x), encoder(x)
    assert features.shape == (2, encoder.feature_dim, *map_shape)
    assert encoder.map_shape == map_shape
    torch.testing.assert_close(pooled, features.mean((2, 3)), rtol=0, atol=0)


def test_a_probe_on_the_map_averages_to_the_probe_on_the_pooled_feature() -> None:
    encoder = random_encoder("vit_tiny", 32, seed=1)
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 3, 32, 32, generator=generator), torch.randn(192, generator=generator)
    with torch.no_grad():
        evidence = torch.einsum("ndhw,d->nhw", encoder.feature_map(x), weight)
        torch.testing.assert_close(evidence.mean((1, 2)), encoder(x) @ weight, rtol=1e-5, atol=1e-4)


def test_tokens_keep_their_place_in_the_map() -> None:
    """What changes in one patch changes that place of the map most."""
    encoder = random_encoder("vit_tiny", 32, seed=1)
    x = torch.zeros(1, 3, 32, 32)
    changed = x.clone()
    changed[:, :, 8:16, 24:32] = 3.0
    with torch.no_grad():
        moved = (encoder.feature_map(changed) - encoder.feature_map(x)).norm(dim=1)[0]
    assert moved.argmax() == 1 * 4 + 3


def test_there_is_no_class_token_and_no_classifier() -> None:
    names = [name for name, _ in random_encoder("vit_tiny", 32, seed=0).named_parameters()]
    assert not [name for name in names if "cls_token" in name or "head" in name or "fc_norm" in name]


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = random_encoder("resnet18", 32, seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    again, other = (random_encoder("resnet18", 32, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["trunk.conv1.weight"], other["trunk.conv1.weight"])


def test_the_global_generator_is_restored_after_an_error() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(ConfigError), seeded_init(1):
        build_encoder("resnet18", image_size=torch.randint(1, 2, ()).item())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "image_size", "words"),
    [("resnet50", 112, "resnet18, vit_tiny"), ("resnet18", 16, "at least 32"), ("vit_tiny", 100, "patches of 8 px")],
)
def test_what_cannot_be_built_is_said(name: str, image_size: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_encoder(name, image_size=image_size)


def test_names_are_those_of_the_table() -> None:
    assert {name: build_encoder(name, image_size=64).name for name in ENCODERS} == {name: name for name in ENCODERS}
