"""The encoder read off a pair's graph: the same function for scoring and for training, for both encoders."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.tiny_pair import write_tiny_pair
from support.toy_packs import toy_pack
from torch import Tensor, nn

from serving.durable import sha256_file
from serving.errors import ConfigError, DataError
from serving.pairs.pair import MANIFEST_FILE, Pair, load_pair
from training import runs
from training.backbones import Encoder, build_encoder, seeded_init
from training.data.normalise import normalise
from training.export import ExportConfig, export_pair
from training.probe import ProbeConfig, run_probe
from training.retrain.recover import encoder_from_pair, settle_batch_norms

SIZES = {"resnet18": 32, "vit_tiny": 32}


def unlike_a_fresh_one(name: str, size: int) -> Encoder:
    """An encoder no weight of which is what it was initialised to: statistics, slopes of both signs, shifts."""
    with seeded_init(1):
        encoder = build_encoder(name, image_size=size)
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                module.weight.data[::3] *= -1
                nn.init.normal_(module.bias, std=0.2)
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.bias, std=0.2)
        # A filter that training has killed.
        next(module for module in encoder.modules() if isinstance(module, nn.Conv2d)).weight.data[5] = 0
    return encoder.eval()


@pytest.fixture(scope="module", params=["resnet18", "vit_tiny"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Pair]:
    """An encoder, and the pair that it was exported to."""
    size = SIZES[request.param]
    run = tmp_path_factory.mktemp("run")
    encoder = unlike_a_fresh_one(request.param, size)
    runs.save_encoder(run, encoder)
    runs.write_json_atomic(run / "config.json", {"encoder": encoder.name, "image_size": size, "method": "random"})
    train, val = toy_pack("train", n=72, size=size), toy_pack("val", n=72, size=size)
    run_probe(run, train=train, val=val, config=ProbeConfig(replicates=100))
    config = ExportConfig(name="first", version="1.0.0", variants=("fp32",))
    return encoder, load_pair(export_pair(run, pack=val, out=tmp_path_factory.mktemp("models"), config=config))


def images(n: int, size: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return normalise(torch.from_numpy(rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)))


@torch.no_grad()
def test_features_are_those_of_the_encoder_that_was_exported(exported: tuple[Encoder, Pair]) -> None:
    encoder, pair = exported
    found = encoder_from_pair(pair)
    x = images(8, encoder.image_size)
    expected = encoder(x)
    scale = float(expected.abs().max())
    assert float((found(x) - expected).abs().max()) < 1e-5 * scale
    if encoder.name == "vit_tiny":
        weights = encoder.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in found.state_dict().items())


@torch.no_grad()
def test_settled_it_is_the_same_function_in_evaluation_and_in_training(exported: tuple[Encoder, Pair]) -> None:
    encoder, pair = exported
    found = encoder_from_pair(pair)
    views = images(64, 24 if encoder.name == "resnet18" else encoder.image_size, seed=3)
    expected, on_views = encoder(images(8, encoder.image_size)), encoder(views)
    settle_batch_norms(found, [views[:40], views[40:]])
    scale = float(expected.abs().max())
    assert float((found(images(8, encoder.image_size)) - expected).abs().max()) < 1e-5 * scale
    found.train()
    # In training mode the batch's own statistics count, and on those views they are the stored ones.
    assert float((found(views) - on_views).abs().max()) < 1e-4 * float(on_views.abs().max())


@torch.no_grad()
def test_filters_in_front_of_batch_norms_get_the_length_of_fresh_ones(exported: tuple[Encoder, Pair]) -> None:
    encoder, pair = exported
    found = encoder_from_pair(pair)
    settle_batch_norms(found, [images(16, encoder.image_size)])
    with seeded_init(0):
        fresh = build_encoder(encoder.name, image_size=encoder.image_size)
    if encoder.name == "vit_tiny":
        assert torch.equal(found.state_dict()["trunk.norm.weight"], encoder.state_dict()["trunk.norm.weight"])
        return
    for (name, module), other in zip(found.named_modules(), fresh.modules(), strict=True):
        if isinstance(module, nn.Conv2d) and isinstance(other, nn.Conv2d):
            lengths, wanted = (each.weight.flatten(1).norm(dim=1) for each in (module, other))
            alive = lengths > 0
            assert (~alive).sum() == (1 if name == "trunk.conv1" else 0)
            torch.testing.assert_close(lengths[alive], wanted.mean().expand(int(alive.sum())), rtol=1e-4, atol=1e-6)


def test_it_can_be_trained_on(exported: tuple[Encoder, Pair]) -> None:
    encoder, pair = exported
    found = encoder_from_pair(pair).train()
    found(images(4, encoder.image_size)).square().mean().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in found.parameters() if parameter.requires_grad)


def test_a_graph_that_does_something_else_is_refused(exported: tuple[Encoder, Pair], tmp_path: Path) -> None:
    _, pair = exported
    folder = shutil.copytree(pair.path, tmp_path / pair.name)
    model = onnx.load(folder / "model.fp32.onnx")
    (tensor,) = (
        t
        for t in model.graph.initializer
        if t.name.endswith(("conv1.weight", "patch_embed.proj.weight")) and "layer" not in t.name
    )
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), tensor.name))
    onnx.save(model, folder / "model.fp32.onnx")
    manifest = (folder / MANIFEST_FILE).read_text()
    old = sha256_file(pair.path / "model.fp32.onnx")
    (folder / MANIFEST_FILE).write_text(manifest.replace(old, sha256_file(folder / "model.fp32.onnx")))
    with pytest.raises(DataError, match=r"differs from it by .* on the golden frames.*--from-scratch"):
        encoder_from_pair(load_pair(folder))


def test_a_pair_that_training_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(patch_mean, variants fp32\) cannot be trained on.*--init RUN"):
        encoder_from_pair(load_pair(write_tiny_pair(tmp_path)))
