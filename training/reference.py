"""A new version of a pair that says what it was validated on, so that a service can measure drift from that.

Exports write the reference themselves; this is for pairs that were exported without one, or validated on other
frames since. The weights are copied, so scores stay the same.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from serving.durable import sha256_file, write_bytes_atomic, write_json_atomic, write_text_atomic
from serving.errors import ConfigError, DataError
from serving.monitoring.drift_reference import REFERENCE_FILE, Reference, make_reference, reference_bytes
from serving.pairs.golden import verify_golden
from serving.pairs.manifest import is_plain_name
from serving.pairs.pair import MANIFEST_FILE, Pair, load_pair
from serving.pairs.pair_index import new_folder
from serving.scorer import Scorer
from training.card import CARD_FILE, write_card
from training.data.pack import Pack
from training.gate import Outputs
from training.probe import describe_pack
from training.provenance import portable

_BLOCK_FRAMES = 256


def references_of(outputs: Mapping[str, Outputs]) -> dict[str, Reference]:
    """The reference of each variant, from what it says about the same frames."""
    return {name: make_reference(found["score"], found["embedding"]) for name, found in outputs.items()}


def write_reference(folder: Path, references: Mapping[str, Reference]) -> None:
    """Write the pair's reference; its manifest must list it."""
    write_bytes_atomic(folder / REFERENCE_FILE, reference_bytes(references))


def add_reference(pair: Path, *, pack: Pack, version: str, out: Path, command: str = "") -> Path:
    """Write the pair in folder `pair` under `out` as `version`, with a reference of what it says about `pack`.

    Returns the new folder. Raises `ConfigError` if that version is there already or is no version, `DataError` if
    the pack's frames are of another size.
    """
    loaded = load_pair(pair)
    if not is_plain_name(version):
        raise ConfigError(f"version {version!r} must be letters, digits, '.', '_', '+' and '-'")
    if pack.size != loaded.manifest.image_size:
        raise DataError(
            f"{pack.path} holds frames of {pack.size} px, pair {loaded.name} takes {loaded.manifest.image_size}: pack "
            "them again at that size"
        )
    out.mkdir(parents=True, exist_ok=True)
    folder = new_folder(out, loaded.name, version)
    references = {variant: _measure(loaded, variant, pack) for variant in loaded.manifest.variants}
    partial = out / f".{folder.name}.{secrets.token_hex(4)}.partial"
    try:
        shutil.copytree(pair, partial)
        write_reference(partial, references)
        _write_manifest(partial, loaded, version, pack, command)
        written = load_pair(partial)
        for variant in written.manifest.variants:
            verify_golden(Scorer(written, device="cpu", variant=variant))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _measure(pair: Pair, variant: str, pack: Pack) -> Reference:
    scorer = Scorer(pair, device="cpu", variant=variant)
    parts = [
        scorer.score(np.asarray(pack.frames[start : start + _BLOCK_FRAMES]))
        for start in range(0, len(pack), _BLOCK_FRAMES)
    ]
    scores, embeddings = (
        np.concatenate(column) for column in zip(*((p.score, p.embedding) for p in parts), strict=True)
    )
    return make_reference(scores, embeddings)


def reference_record(pack: dict[str, Any], n_frames: int, command: str) -> dict[str, Any]:
    """What the manifest says of a reference: which frames of which pack (see `describe_pack`), and by what command."""
    made = datetime.now(UTC).isoformat(timespec="seconds")
    record: dict[str, Any] = portable({"pack": pack, "frames": n_frames, "command": command, "created": made})
    return record


def _write_manifest(folder: Path, pair: Pair, version: str, pack: Pack, command: str) -> None:
    training = pair.manifest.training | {"reference": reference_record(describe_pack(pack), len(pack), command)}
    manifest = replace(pair.manifest, version=version, training=training)
    write_text_atomic(folder / CARD_FILE, write_card(manifest))
    names = {*manifest.files, REFERENCE_FILE, CARD_FILE}
    files = {name: sha256_file(folder / name) for name in sorted(names)}
    write_json_atomic(folder / MANIFEST_FILE, replace(manifest, files=files).to_json())
