"""From a run with a probe to a pair: build the variants, gate them, write the folder whole or not at all.

Shapes: N frames, S pixels a side.
"""

from __future__ import annotations

import io
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from serving.durable import sha256_file, write_bytes_atomic, write_json_atomic, write_text_atomic
from serving.errors import ConfigError, DataError
from serving.monitoring.drift_reference import Reference
from serving.pairs.golden import verify_golden
from serving.pairs.manifest import GOLDEN_FILE, JSON, Manifest, Variant, VariantName, is_plain_name
from serving.pairs.pair import INDEX_FILE, MANIFEST_FILE, load_pair, write_index
from serving.pairs.pair_index import new_folder, read_index
from serving.scorer import Scorer
from training import runs
from training.backbones import Encoder
from training.card import CARD_FILE, write_card
from training.data.pack import Pack
from training.features import check_size, encoder_digest
from training.gate import (
    EVIDENCE_TOLERANCE,
    MAX_AUROC_LOSS,
    PARITY_TOLERANCE,
    Outputs,
    VariantReport,
    check_accuracy,
    check_evidence,
    check_parity,
    torch_outputs,
)
from training.metrics import group_ids
from training.onnx_graph import OPSET, export_graph, run_graph, to_float16
from training.operating_points import DEFAULT
from training.probe import FittedProbe, describe_pack, hold_out_groups, load_probe
from training.provenance import portable, provenance
from training.quantise import quantise_int8
from training.reference import reference_record, references_of, write_reference

VARIANTS: tuple[VariantName, ...] = get_args(VariantName)
GOLDEN_FRAMES = 8
PARITY_FRAMES = 64

_PRECISION: dict[VariantName, str] = {
    "fp32": "float32",
    "fp16": "float16 encoder; float32 normalisation and head",
    "int8": "int8 encoder (static QDQ, 7-bit weights per channel); float32 normalisation and head",
}
_DEVICE: dict[VariantName, Literal["any", "cpu", "cuda"]] = {"fp32": "any", "fp16": "cuda", "int8": "cpu"}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, and on how many frames to calibrate and judge it.

    Attributes:
        name, version: of the pair; its folder is called `name`.
        variants: fp32 is always among them, since the others are judged against it.
        calibration_frames: most frames that set the int8 ranges.
        gate_frames: most labelled frames, of other inspections, that the variants are judged on.
        seed: draws both.
    """

    name: str
    version: str
    variants: tuple[VariantName, ...] = VARIANTS
    calibration_frames: int = 256
    gate_frames: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("name", "version"):
            if not is_plain_name(getattr(self, key)):
                raise ConfigError(f"{key} {getattr(self, key)!r} must be letters, digits, '.', '_', '+' and '-'")
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown or "fp32" not in self.variants or len(set(self.variants)) != len(self.variants):
            raise ConfigError(
                f"variants must be some of {', '.join(VARIANTS)}, with fp32, each once; got {self.variants}"
            )
        if self.calibration_frames < 1 or self.gate_frames < 2:
            raise ConfigError("calibration_frames must be at least 1 and gate_frames at least 2")


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """The variants' graphs and what the gate found."""

    models: dict[VariantName, ModelProto]
    reports: dict[str, VariantReport]
    parity: dict[str, float]
    golden: dict[str, NDArray[Any]]
    references: dict[str, Reference]


def export_pair(
    run: Path, *, pack: Pack, out: Path, config: ExportConfig, make_default: bool = False, command: str = ""
) -> Path:
    """Export the encoder and probe of `run` as a pair under `out`; returns its folder.

    The folder is called as the pair; a further version of a pair that is there goes beside it, as NAME@VERSION.

    Args:
        run: a run folder with a probe.
        pack: labelled frames, best those of `val`: some set the int8 ranges, others judge the variants.
        out: the folder of pairs; its index.json is brought up to date.
        make_default: name the new pair as the default (the first pair of a folder always is).
        command: what was typed, for the record.

    Raises:
        ExportRefusedError: a variant failed the gate; nothing was written.
        ConfigError: that version of a pair of that name exists.
        DataError: the probe is of another encoder, or the pack does not fit.
    """
    folder = new_folder(out, config.name, config.version)
    encoder, run_config = runs.load_encoder(run)
    probe = load_probe(run)
    if probe.record["encoder_digest"] != encoder_digest(encoder):
        raise DataError(f"the probe of {run} was fitted on other weights than its encoder has: fit it again")
    if not probe.record["informative"]:
        raise DataError(
            f"the probe of {run} ranks held-out frames no better than chance: there is nothing to serve. Look at the "
            "labels, pretrain longer, or add data"
        )
    check_size(encoder, pack)
    calibration_part, gate_part = _draw_parts(pack, config)
    judged = _build_and_judge(encoder, probe, pack, calibration_part, gate_part, config)
    gate_record = _gate_record(pack, judged, calibration_part, gate_part)
    partial = out / f".{folder.name}.{secrets.token_hex(4)}.partial"
    try:
        _write_pair(partial, encoder, probe, run_config, judged, gate_record, config, command)
        _verify(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _update_index(out, folder.name, make_default)
    return folder


def _draw_parts(pack: Pack, config: ExportConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in `pack` of the calibration frames and of the gate frames, which are of other inspections."""
    rng = np.random.default_rng(config.seed)
    known = np.flatnonzero(np.asarray(pack.labels) >= 0)
    labels = np.asarray(pack.labels)[known]
    groups = group_ids(np.asarray(pack.inspections)[known], len(known))
    share = min(0.5, max(0.1, config.calibration_frames / max(1, len(known))))
    held_out = hold_out_groups(labels, groups, share, rng)
    calibration = rng.permutation(known[held_out])[: config.calibration_frames]
    gate = rng.permutation(known[~held_out])[: config.gate_frames]
    return np.sort(calibration), np.sort(gate)


def _build_and_judge(
    encoder: Encoder,
    probe: FittedProbe,
    pack: Pack,
    calibration_part: NDArray[np.int64],
    gate_part: NDArray[np.int64],
    config: ExportConfig,
) -> _Judged:
    frames, labels = np.asarray(pack.frames[gate_part]), np.asarray(pack.labels)[gate_part]
    models: dict[VariantName, ModelProto] = {"fp32": export_graph(encoder, probe.linear, probe.calibration)}
    if "fp16" in config.variants:
        models["fp16"] = to_float16(models["fp32"])
    if "int8" in config.variants:
        models["int8"] = quantise_int8(models["fp32"], np.asarray(pack.frames[calibration_part]))
    some = np.linspace(0, len(frames) - 1, min(PARITY_FRAMES, len(frames))).astype(int)
    outputs: dict[str, Outputs] = {name: run_graph(model, frames) for name, model in models.items()}
    expected = torch_outputs(encoder, probe.linear, probe.calibration, frames[some])
    parity = check_parity(expected, {name: value[some] for name, value in outputs["fp32"].items()})
    threshold = probe.operating_points[DEFAULT].threshold
    reports = {}
    for name, found in outputs.items():
        check_evidence(name, found)
        reports[name] = check_accuracy(name, found, outputs["fp32"], labels, threshold=threshold)
    return _Judged(
        models=models,
        reports=reports,
        parity=parity,
        golden=_golden(frames, outputs),
        references=references_of(outputs),
    )


def _golden(frames: NDArray[np.uint8], outputs: Mapping[str, Outputs]) -> dict[str, NDArray[Any]]:
    """Frames from the lowest score to the highest, with every variant's outputs."""
    order = np.argsort(outputs["fp32"]["logit"], kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(GOLDEN_FRAMES, len(order))).astype(int)]
    arrays: dict[str, NDArray[Any]] = {"frames": frames[chosen]}
    for variant, found in outputs.items():
        arrays |= {f"{variant}_{name}": value[chosen] for name, value in found.items()}
    return arrays


def _gate_record(
    pack: Pack, judged: _Judged, calibration_part: NDArray[np.int64], gate_part: NDArray[np.int64]
) -> dict[str, Any]:
    return {
        "pack": describe_pack(pack),
        "calibration_frames": len(calibration_part),
        "gate_frames": len(gate_part),
        "tolerances": {
            "torch against fp32": PARITY_TOLERANCE,
            "mean evidence against logit": EVIDENCE_TOLERANCE,
            "AUROC loss": MAX_AUROC_LOSS,
        },
        "torch against fp32": judged.parity,
        "variants": {name: report.to_json() for name, report in judged.reports.items()},
        "opset": OPSET,
    }


def _write_pair(
    folder: Path,
    encoder: Encoder,
    probe: FittedProbe,
    run_config: dict[str, Any],
    judged: _Judged,
    gate_record: dict[str, Any],
    config: ExportConfig,
    command: str,
) -> None:
    variants = {}
    for name, model in judged.models.items():
        file = f"model.{name}.onnx"
        write_bytes_atomic(folder / file, model.SerializeToString())
        variants[name] = Variant(name=name, file=file, precision=_PRECISION[name], device=_DEVICE[name])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **judged.golden)
    write_bytes_atomic(folder / GOLDEN_FILE, buffer.getvalue())
    write_reference(folder, judged.references)
    made_by = provenance(command)
    manifest_fields: dict[str, Any] = {
        "name": config.name,
        "version": config.version,
        "encoder": encoder.name,
        "method": str(run_config.get("method", "unknown")),
        "image_size": encoder.image_size,
        "feature_dim": encoder.feature_dim,
        "evidence_shape": encoder.map_shape,
        "calibration": probe.calibration,
        "operating_points": probe.operating_points,
        "metrics": probe.metrics,
        "training": _training_record(run_config, probe, gate_record, config, made_by),
        "validated_on": validated_on(probe.record["data"]),
        "git_revision": made_by["git_revision"],
        "packages": made_by["packages"],
        "hardware": made_by["hardware"],
        "variants": variants,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # The card is written from the manifest and listed in it: without files first, then with them.
    draft = Manifest(**manifest_fields, files={v.file: "0" * 64 for v in variants.values()} | {GOLDEN_FILE: "0" * 64})
    write_text_atomic(folder / CARD_FILE, write_card(draft))
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    write_json_atomic(folder / MANIFEST_FILE, Manifest(**manifest_fields, files=files).to_json())


def _training_record(
    run_config: dict[str, Any],
    probe: FittedProbe,
    gate_record: dict[str, Any],
    config: ExportConfig,
    made_by: dict[str, Any],
) -> dict[str, JSON]:
    kept = ("config", "l2", "data", "calibration_quality", "command", "git_revision", "hardware", "packages")
    record = {
        "pretraining": run_config,
        "probe": {key: probe.record[key] for key in kept},
        "export": {**asdict(config), "command": made_by["command"]},
        "gate": gate_record,
        "reference": reference_record(gate_record["pack"], gate_record["gate_frames"], made_by["command"]),
    }
    without_folders: dict[str, JSON] = portable(record)
    return without_folders


def validated_on(data: Mapping[str, Any]) -> str:
    """In words, what the metrics cover; `data` are the packs that probe.json describes."""
    sources = sorted({str(part["source"]) for name, part in data.items() if name != "train"})
    if all(is_simulated(source) for source in sources):
        return "simulated pipes only; not validated on real sewers"
    return f"{', '.join(sources)}; not validated on anything else"


def is_simulated(source: str) -> bool:
    """Whether a pack says that its frames were rendered."""
    return source.lower().startswith("simulat")


def _verify(folder: Path) -> None:
    """Load the folder as a server would and re-score the golden frames on the CPU, each variant."""
    pair = load_pair(folder)
    for variant in pair.manifest.variants:
        verify_golden(Scorer(pair, device="cpu", variant=variant))


def _update_index(out: Path, folder: str, make_default: bool) -> None:
    default = folder if make_default or not (out / INDEX_FILE).is_file() else read_index(out).default
    write_index(out, default)
