"""Features of packed frames, computed once per encoder and pack.

    RUN/features/<encoder digest>-<pack digest>.npy    float32 [N, D], pooled features in pack order

Shapes: N frames, S pixels a side, D features.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from serving.errors import DataError
from serving.progress import track_progress
from training.backbones import Encoder
from training.data.normalise import normalise
from training.data.pack import Frames, Pack

FEATURES = "features"
_DIGEST_CHARS = 16


def encoder_digest(encoder: Encoder) -> str:
    """SHA-256, hexadecimal, of the encoder's name, size, weights and buffers."""
    digest = hashlib.sha256(f"{encoder.name} {encoder.image_size}".encode())
    for name, value in sorted(encoder.state_dict().items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def check_size(encoder: Encoder, pack: Pack) -> None:
    """Raise `DataError` unless the pack's frames have the size that the encoder takes."""
    if pack.size != encoder.image_size:
        raise DataError(
            f"the pack {pack.path} holds frames of {pack.size} px, the encoder takes {encoder.image_size} px: "
            f"pack the data again with --size {encoder.image_size}"
        )


def cached_features(
    run: Path, encoder: Encoder, pack: Pack, *, device: str = "cpu", batch_size: int = 128
) -> NDArray[np.float32]:
    """Features of every frame of `pack`, float32 [N, D] in pack order, read-only.

    They are computed in float32 (TF32 off, so that they agree with the exported graph) and kept under
    RUN/features; a second call with the same weights and the same pack only maps the file.

    Raises:
        DataError: the pack's frame size is not the encoder's.
    """
    check_size(encoder, pack)
    name = f"{encoder_digest(encoder)[:_DIGEST_CHARS]}-{pack.digest[:_DIGEST_CHARS]}.npy"
    path = run / FEATURES / name
    if not path.is_file():
        _write_features(path, encoder, pack, device=device, batch_size=batch_size)
    features: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    if features.shape != (len(pack), encoder.feature_dim):
        raise DataError(f"{path} holds {features.shape}, not {(len(pack), encoder.feature_dim)}: delete it")
    return features


def extract_features(
    encoder: Encoder, frames: Frames, *, device: str = "cpu", batch_size: int = 128
) -> Iterator[NDArray[np.float32]]:
    """Yield float32 [B, D] features of uint8 [N, S, S, 3] frames, batch after batch.

    The encoder is moved to `device`, and back to where it was afterwards, in evaluation mode.
    """
    home = next(encoder.parameters()).device
    encoder.eval().to(device)
    try:
        with torch.inference_mode(), full_float32():
            for start in range(0, len(frames), batch_size):
                # A copy, since torch wants writable memory and a pack is mapped read-only.
                batch = torch.from_numpy(np.array(frames[start : start + batch_size])).to(device)
                images = normalise(batch).contiguous(memory_format=torch.channels_last)
                yield encoder(images).float().cpu().numpy()
    finally:
        encoder.to(home)


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions and products in real float32: Ampere and later would otherwise round to TF32."""
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products


def _write_features(path: Path, encoder: Encoder, pack: Pack, *, device: str, batch_size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial")
    shape = (len(pack), encoder.feature_dim)
    try:
        # Mapped, not held in memory: a million frames make 2 GB.
        stored = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        done = 0
        with track_progress(f"features of {pack.path.name}", total=len(pack), unit="frames") as advance:
            for batch in extract_features(encoder, pack.frames, device=device, batch_size=batch_size):
                stored[done : done + len(batch)] = batch
                done += len(batch)
                advance(len(batch))
        stored.flush()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
