"""Encoders: pooled features are the mean of the map, exactly; sizes; seeded weights."""

from __future__ import annotations

import math

import pytest
import torch

from serving.errors import ConfigError
from training.backbones import ENCODERS, ViTTiny, build_encoder, seeded_init
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


@pytest.mark.parametrize(
    ("name", "image_size", "size", "side"),
    [
        ("resnet18", 64, 40, 2),
        ("resnet18", 64, 24, 1),
        ("resnet18", 64, 17, 1),
        ("resnet18", 32, 64, 2),
        ("vit_tiny", 32, 16, 2),
        ("vit_tiny", 32, 8, 1),
        ("vit_tiny", 112, 56, 7),
        ("vit_tiny", 32, 40, 5),
        ("vit_tiny", 192, 96, 6),
    ],
)
def test_the_pooled_feature_of_a_view_of_another_size_is_the_mean_of_its_map(
    name: str, image_size: int, size: int, side: int
) -> None:
    encoder = random_encoder(name, image_size, seed=1)
    encoder.check_view_size(size)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, pooled = encoder.feature_map(x), encoder(x)
    assert features.shape == (2, encoder.feature_dim, side, side)
    assert pooled.shape == (2, encoder.feature_dim)
    torch.testing.assert_close(pooled, features.mean((2, 3)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "image_size"), [("resnet18", 64), ("resnet18", 112), ("vit_tiny", 32), ("vit_tiny", 192)]
)
def test_the_stride_is_that_of_the_map(name: str, image_size: int) -> None:
    encoder = random_encoder(name, image_size, seed=1)
    x = torch.zeros(1, 3, 4 * encoder.stride, 4 * encoder.stride)
    with torch.no_grad():
        assert encoder.feature_map(x).shape[2:] == (4, 4)
    assert encoder.map_shape == (math.ceil(image_size / encoder.stride),) * 2


@pytest.mark.parametrize(
    ("name", "image_size", "size", "words"),
    [
        ("resnet18", 64, 16, "resnet18 takes views of at least 17 px, .* got 16 px"),
        ("vit_tiny", 112, 60, "cuts patches of 8 px, so views must be a multiple of that, got 60 px"),
        ("vit_tiny", 112, 4, "must be a multiple of that, got 4 px"),
        ("vit_tiny", 112, 0, "must be a multiple of that, got 0 px"),
        ("vit_tiny", 192, 104, "at image_size=192 cuts patches of 16 px"),
    ],
)
def test_views_that_do_not_fit_are_refused_with_the_remedy(name: str, image_size: int, size: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        random_encoder(name, image_size, seed=0).check_view_size(size)


@pytest.mark.parametrize("shape", [(60, 60), (112, 60), (56, 112), (112, 56)])
def test_vit_does_not_cut_pixels_off_unseen(shape: tuple[int, int]) -> None:
    """Neither what is no multiple of the patch, nor what is not square."""
    encoder = random_encoder("vit_tiny", 112, seed=0)
    with pytest.raises((AssertionError, RuntimeError)), torch.no_grad():
        encoder(torch.zeros(1, 3, *shape))


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


def vit(image_size: int) -> ViTTiny:
    encoder = random_encoder("vit_tiny", image_size, seed=1)
    assert isinstance(encoder, ViTTiny)
    return encoder


def test_embedding_and_encoding_are_timms_forward_pass() -> None:
    encoder = vit(32)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = encoder.encode(encoder.embed(x))
        assert tokens.shape == (2, 16, 192)
        assert torch.equal(tokens, encoder.trunk.forward_features(x))
        assert torch.equal(encoder.feature_map(x), tokens.transpose(1, 2).view(2, 192, 4, 4))


def test_a_token_is_the_projected_patch_plus_its_position() -> None:
    encoder = vit(32)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    projection = encoder.trunk.patch_embed.proj
    with torch.no_grad():
        patch = x[0, :, 8:16, 24:32]
        expected = (projection.weight * patch).sum((1, 2, 3)) + projection.bias + encoder.trunk.pos_embed[0, 1 * 4 + 3]
        torch.testing.assert_close(encoder.embed(x)[0, 1 * 4 + 3], expected, rtol=1e-5, atol=1e-5)


def test_encoding_takes_some_of_the_tokens_in_any_order() -> None:
    """Places are in the tokens alone, so the order does not matter; which tokens there are does."""
    encoder = vit(32)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = encoder.embed(x)
        some, shuffled = tokens[:, [1, 4, 9]], tokens[:, [9, 1, 4]]
        encoded = encoder.encode(some)
        assert encoded.shape == (2, 3, 192)
        torch.testing.assert_close(encoder.encode(shuffled)[:, [1, 2, 0]], encoded, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(encoder.encode(tokens)[:, [1, 4, 9]], encoded, atol=1e-2)


def position_of_views(encoder: ViTTiny, size: int) -> torch.Tensor:
    """[size / patch, size / patch, D]: what the embedding adds to the patches of black views."""
    black, side = torch.zeros(1, 3, size, size), size // encoder.stride
    with torch.no_grad():
        added = encoder.embed(black) - encoder.trunk.patch_embed(black)
    return added.view(side, side, encoder.feature_dim)


def test_views_of_the_frames_size_have_the_learned_positions() -> None:
    encoder = vit(112)
    torch.testing.assert_close(position_of_views(encoder, 112).view(1, 196, 192), encoder.trunk.pos_embed.detach())


@pytest.mark.parametrize("size", [56, 80, 168])
def test_positions_of_other_views_are_resampled_over_the_plane(size: int) -> None:
    """Features that are constant, or rise along rows or columns, do so at another size too, from edge to edge; at the
    edges themselves the antialiased cubic sees only one side."""
    encoder = vit(112)
    line = torch.linspace(0.0, 14.0, 15)[:-1] + 0.5
    with torch.no_grad():
        plane = encoder.trunk.pos_embed.view(14, 14, 192)
        plane[..., 0], plane[..., 1], plane[..., 2] = 0.7, line[:, None], line[None, :]
    found, side = position_of_views(encoder, size), size // 8
    centres = (torch.arange(side) + 0.5) * 14 / side
    torch.testing.assert_close(found[..., 0], torch.full((side, side), 0.7), atol=1e-5, rtol=0)
    for feature, expected in ((1, centres[:, None].expand(side, side)), (2, centres[None, :].expand(side, side))):
        inner = slice(2, -2) if size > 56 else slice(1, -1)
        torch.testing.assert_close(found[inner, inner, feature], expected[inner, inner], atol=0.06, rtol=0)
        torch.testing.assert_close(found[..., feature], expected, atol=0.6, rtol=0)


def test_a_smaller_view_teaches_all_learned_positions() -> None:
    encoder = vit(112)
    encoder(torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    gradient = encoder.trunk.pos_embed.grad
    assert bool((gradient.abs().sum(2) > 0).all())


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
