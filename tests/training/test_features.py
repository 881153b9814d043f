from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.toy_packs import toy_pack

from serving.errors import DataError
from training import features as module
from training.data.normalise import normalise
from training.features import cached_features, encoder_digest
from training.runs import random_encoder


def test_features_are_the_encoders_and_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack, encoder = toy_pack("val", n=30), random_encoder("resnet18", 64, 0)
    found = cached_features(tmp_path, encoder, pack, batch_size=8)
    with torch.inference_mode():
        expected = encoder(normalise(torch.from_numpy(pack.frames))).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32
    assert [path.suffix for path in (tmp_path / "features").iterdir()] == [".npy"]

    monkeypatch.setattr(module, "extract_features", lambda *_args, **_kwargs: pytest.fail("computed twice"))
    np.testing.assert_array_equal(cached_features(tmp_path, encoder, pack), found)


def test_other_weights_or_frames_are_other_features(tmp_path: Path) -> None:
    pack = toy_pack("val", n=12)
    cached_features(tmp_path, random_encoder("resnet18", 64, 0), pack)
    cached_features(tmp_path, random_encoder("resnet18", 64, 1), pack)
    cached_features(tmp_path, random_encoder("resnet18", 64, 0), toy_pack("train", n=12))
    assert len(list((tmp_path / "features").iterdir())) == 3


def test_a_killed_computation_leaves_nothing_that_looks_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "extract_features", die)
    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path, random_encoder("resnet18", 64, 0), toy_pack("val", n=12))
    assert list((tmp_path / "features").iterdir()) == []


def test_wrong_size_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--size 32"):
        cached_features(tmp_path, random_encoder("resnet18", 32, 0), toy_pack("val", n=12))


def test_digest_covers_buffers() -> None:
    encoder = random_encoder("resnet18", 64, 0)
    before = encoder_digest(encoder)
    next(buffer for name, buffer in encoder.named_buffers() if name.endswith("running_mean")).add_(1)
    assert encoder_digest(encoder) != before
