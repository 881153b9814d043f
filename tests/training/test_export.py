from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper
from PIL import Image
from support.toy_packs import ToyPack, toy_pack

from serving.errors import ConfigError, DataError
from serving.monitoring.drift_reference import load_reference
from serving.pairs.golden import load_golden
from serving.pairs.pair import find_pair, load_pair, write_index
from serving.pairs.promotion import promote
from serving.scorer import Scorer
from training import export as module
from training import runs
from training.cli import cli
from training.data.normalise import normalise
from training.export import ExportConfig, export_pair, validated_on
from training.gate import ExportRefusedError, check_accuracy, check_evidence, check_parity, torch_outputs
from training.onnx_graph import divide, run_graph
from training.probe import ProbeConfig, load_probe, run_probe
from training.quantise import quantise_int8
from training.runs import load_encoder, random_encoder


def make_run(folder: Path, encoder: str, size: int) -> tuple[Path, ToyPack]:
    """A run folder with an untrained encoder and a probe, and the pack to export it with."""
    runs.save_encoder(folder, random_encoder(encoder, size, 0))
    config = {"encoder": encoder, "image_size": size, "method": "random", "pack": "/data/secret/packs/train"}
    (folder / "config.json").write_text(json.dumps(config))
    val = toy_pack("val", size=size)
    train = toy_pack("train", size=size)
    run_probe(folder, train=train, val=val, config=ProbeConfig(replicates=100))
    return folder, val


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ToyPack]:
    return make_run(tmp_path_factory.mktemp("resnet"), "resnet18", 64)


@pytest.fixture(scope="module")
def models(resnet: tuple[Path, ToyPack], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pairs with one, in all variants."""
    out = tmp_path_factory.mktemp("models")
    run, pack = resnet
    export_pair(run, pack=pack, out=out, config=ExportConfig(name="first", version="1.0.0"), command="typed")
    return out


@pytest.fixture(scope="module")
def fp32(models: Path) -> ModelProto:
    return onnx.load(models / "first" / "model.fp32.onnx")


def test_every_variant_scores_packed_frames_as_torch_does(models: Path, resnet: tuple[Path, ToyPack]) -> None:
    run, pack = resnet
    encoder, _ = load_encoder(run)
    probe = load_probe(run)
    with torch.inference_mode():
        logits = probe.linear.logits(encoder(normalise(torch.from_numpy(pack.frames[:20]))).numpy())
    pair = find_pair(models)
    assert set(pair.manifest.variants) == {"fp32", "fp16", "int8"}
    for variant, share in (("fp32", 1e-4), ("fp16", 0.02), ("int8", 0.35)):
        scores = Scorer(pair, variant=variant).score(pack.frames[:20])
        assert np.abs(scores.logit - logits).max() < share * np.abs(logits).max(), variant
        np.testing.assert_allclose(scores.evidence.mean((1, 2)), scores.logit, rtol=1e-4, atol=1e-4)
        assert scores.embedding.shape == (20, 512)
        one = Scorer(pair, variant=variant).score(pack.frames[:1])
        assert one.score[0] == pytest.approx(scores.score[0], abs=5e-3)


def test_manifest_says_how_the_pair_came_about(models: Path) -> None:
    manifest = load_pair(models / "first").manifest
    assert (manifest.name, manifest.version, manifest.encoder, manifest.method) == (
        "first",
        "1.0.0",
        "resnet18",
        "random",
    )
    assert manifest.evidence_shape == (2, 2)
    assert manifest.validated_on == "simulated pipes only; not validated on real sewers"
    assert set(manifest.operating_points) == {"balanced", "recall_95", "recall_99", "specificity_95"}
    assert {metric.data for metric in manifest.metrics} == {"train", "val"}
    text = (models / "first" / "manifest.json").read_text()
    assert "/data/secret" not in text
    assert '"pack": "train"' in text
    gate = manifest.training["gate"]
    assert set(gate["variants"]) == {"fp32", "fp16", "int8"}
    assert json.loads((models / "index.json").read_text()) == {"default": "first", "pairs": ["first"]}


def test_card_states_data_limits_and_variants(models: Path) -> None:
    card = (models / "first" / "CARD.md").read_text()
    for words in ("simulated pipes only", "not validated on real sewers", "AUROC", "`recall_99`", "`int8`"):
        assert words in card
    lines = [line.split() for line in card.splitlines() if line.startswith("pipeprobe-train ")]
    assert [words[1] for words in lines] == ["pretrain", "probe", "export"]
    for _, name, *arguments in lines:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= known


def test_golden_frames_range_from_low_to_high_scores(models: Path) -> None:
    golden = load_golden(load_pair(models / "first"))
    scores = golden.outputs["fp32"]["score"]
    assert len(golden.frames) == 8
    assert np.all(np.diff(scores) >= 0)
    assert scores[-1] - scores[0] > 0.5


def test_the_reference_is_what_each_variant_says_about_the_gates_frames(
    models: Path, resnet: tuple[Path, ToyPack]
) -> None:
    pair = find_pair(models)
    record = cast("dict[str, Any]", pair.manifest.training["reference"])
    assert record["frames"] == cast("dict[str, Any]", pair.manifest.training["gate"])["gate_frames"]
    _, pack = resnet
    said = Scorer(pair, device="cpu", variant="fp32").score(np.asarray(pack.frames[:]))
    for variant in pair.manifest.variants:
        reference = load_reference(pair, variant)
        assert reference is not None
        assert reference.n_frames == record["frames"]
        # Of most frames of the pack, so close to the mean of all.
        assert np.abs((reference.mean - said.embedding.mean(0)) / reference.scale).mean() < 0.5
    assert "## Drift" in (pair.path / "CARD.md").read_text()


def test_files_are_single_and_hold_no_paths_of_this_machine(models: Path) -> None:
    for file in (models / "first").glob("*.onnx"):
        content = file.read_bytes()
        assert b"/training/" not in content
        assert b"site-packages" not in content
        model = onnx.load_model_from_string(content)
        assert not any(tensor.data_location for tensor in model.graph.initializer)
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    sizes = {file.name: file.stat().st_size for file in (models / "first").glob("*.onnx")}
    assert sizes["model.int8.onnx"] < 0.3 * sizes["model.fp32.onnx"]
    assert sizes["model.fp16.onnx"] < 0.55 * sizes["model.fp32.onnx"]


def test_batch_norms_are_folded_and_head_stays_float(fp32: ModelProto, models: Path) -> None:
    assert not any(node.op_type == "BatchNormalization" for node in fp32.graph.node)
    half = onnx.load(models / "first" / "model.fp16.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in half.graph.initializer}
    convolutions = [node for node in half.graph.node if node.op_type == "Conv"]
    dtypes = [str(stored[node.input[1]]) for node in convolutions]
    assert dtypes == ["float16"] * 20 + ["float32"]


def test_a_further_version_goes_beside_the_first_and_none_is_overwritten(
    models: Path, resnet: tuple[Path, ToyPack], tmp_path: Path
) -> None:
    run, pack = resnet
    (tmp_path / "first").symlink_to(models / "first")
    write_index(tmp_path, "first")
    config = ExportConfig(name="first", version="1.1.0", variants=("fp32",))
    assert export_pair(run, pack=pack, out=tmp_path, config=config) == tmp_path / "first@1.1.0"
    assert find_pair(tmp_path).version == "1.0.0"
    assert find_pair(tmp_path, "first@1.0.0").path == tmp_path / "first"
    promote(tmp_path, "first@1.1.0")
    assert find_pair(tmp_path, "first").version == "1.1.0"
    for version in ("1.0.0", "1.1.0"):
        config = ExportConfig(name="first", version=version)
        with pytest.raises(ConfigError, match="exists and pairs are never overwritten"):
            export_pair(run, pack=pack, out=tmp_path, config=config)


def test_a_probe_of_other_weights_is_refused(resnet: tuple[Path, ToyPack], tmp_path: Path) -> None:
    run, pack = resnet
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_bytes((run / "config.json").read_bytes())
    runs.save_encoder(other, random_encoder("resnet18", 64, 1))
    (other / "probe").symlink_to(run / "probe")
    with pytest.raises(DataError, match="other weights"):
        export_pair(other, pack=pack, out=tmp_path, config=ExportConfig(name="x", version="1"))


def test_a_probe_that_knows_nothing_is_refused(resnet: tuple[Path, ToyPack], tmp_path: Path) -> None:
    run, pack = resnet
    copy = shutil.copytree(run, tmp_path / "run")
    record = json.loads((copy / "probe" / "probe.json").read_text())
    (copy / "probe" / "probe.json").write_text(json.dumps(record | {"informative": False}))
    with pytest.raises(DataError, match="no better than chance"):
        export_pair(copy, pack=pack, out=tmp_path, config=ExportConfig(name="x", version="1"))


def spoiled(model: ModelProto, factor: float) -> ModelProto:
    """A copy with the weights of the first convolution scaled."""
    copy = ModelProto()
    copy.CopyFrom(model)
    first = next(node for node in copy.graph.node if node.op_type == "Conv")
    (tensor,) = (t for t in copy.graph.initializer if t.name == first.input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return copy


def coarse(model: ModelProto) -> ModelProto:
    """A quantised graph whose activation scales are 64 times too large: about four levels are left of 256."""
    copy = ModelProto()
    copy.CopyFrom(model)
    scales = {node.input[1] for node in copy.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in copy.graph.initializer:
        if tensor.name in scales:
            value = numpy_helper.to_array(tensor) * np.float32(64)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return copy


def test_parity_gate_refuses_a_graph_that_computes_something_else(
    fp32: ModelProto, resnet: tuple[Path, ToyPack]
) -> None:
    run, pack = resnet
    encoder, _ = load_encoder(run)
    probe = load_probe(run)
    expected = torch_outputs(encoder, probe.linear, probe.calibration, pack.frames[:8])
    assert max(check_parity(expected, run_graph(fp32, pack.frames[:8])).values()) < 1e-4
    with pytest.raises(ExportRefusedError, match="disagree"):
        check_parity(expected, run_graph(spoiled(fp32, 1.01), pack.frames[:8]))
    broken = {name: np.full_like(value, np.nan) for name, value in expected.items()}
    with pytest.raises(ExportRefusedError, match="nan"):
        check_parity(expected, broken)


def test_accuracy_gate_refuses_an_absurd_quantisation(fp32: ModelProto, resnet: tuple[Path, ToyPack]) -> None:
    _, pack = resnet
    reference = run_graph(fp32, pack.frames)
    absurd = coarse(quantise_int8(fp32, pack.frames[:32]))
    with pytest.raises(ExportRefusedError, match=r"int8 loses 0\.\d+ AUROC"):
        check_accuracy("int8", run_graph(absurd, pack.frames), reference, pack.labels, threshold=0.5)
    overflowed = reference | {"score": np.full_like(reference["score"], np.nan)}
    with pytest.raises(ExportRefusedError, match="fp16 scores real frames as NaN"):
        check_accuracy("fp16", overflowed, reference, pack.labels, threshold=0.5)


def test_evidence_gate_refuses_a_map_that_is_not_the_logit(fp32: ModelProto, resnet: tuple[Path, ToyPack]) -> None:
    outputs = run_graph(fp32, resnet[1].frames[:4])
    check_evidence("fp32", outputs)
    with pytest.raises(ExportRefusedError, match="evidence"):
        check_evidence("fp32", outputs | {"evidence": outputs["evidence"] * 1.01})


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_a_refused_export_leaves_nothing_behind(
    variant: str,
    fp32: ModelProto,
    resnet: tuple[Path, ToyPack],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, pack = resnet
    bad = spoiled(fp32, 1.01) if variant == "fp32" else fp32
    monkeypatch.setattr(module, "export_graph", lambda *_: bad)
    monkeypatch.setattr(module, "quantise_int8", lambda *arguments: coarse(quantise_int8(*arguments)))
    config = ExportConfig(name="bad", version="1", variants=("fp32", "int8"))
    with pytest.raises(ExportRefusedError, match="torch disagree" if variant == "fp32" else "int8 loses"):
        export_pair(run, pack=pack, out=tmp_path / "models", config=config)
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models").iterdir())


def test_vit_exports_with_products_in_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, pack = make_run(tmp_path / "run", "vit_tiny", 32)
    # Photographs grouped by nothing: every frame is its own inspection.
    pack.inspections[:] = -1
    out = tmp_path / "models"
    config = ExportConfig(name="vit", version="1", variants=("fp32", "int8"), calibration_frames=32)
    folder = export_pair(run, pack=pack, out=out, config=config)
    manifest = load_pair(folder).manifest
    assert manifest.evidence_shape == (4, 4)
    int8 = onnx.load(folder / "model.int8.onnx")
    assert sum(node.op_type == "DequantizeLinear" for node in int8.graph.node) >= 2 * 48
    assert divide(onnx.load(folder / "model.fp32.onnx")).head


def test_folders_of_photographs_become_a_pair_by_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photographs = toy_pack("photographs", n=360, strength=100.0)
    for number, (frame, label) in enumerate(zip(photographs.frames, photographs.labels, strict=True)):
        path = Path("photos", "defect" if label else "normal", f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(path)

    def type_command(line: str) -> str:
        result = CliRunner().invoke(cli, line.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    for split in ("train", "val"):
        type_command(f"pack photos --split {split} --size 64 --out packs/{split} --workers 1")
    probed = type_command(
        "probe runs/floor --random-init resnet18 --train packs/train --val packs/val --evaluate again=packs/val"
    )
    assert "AUROC" in probed
    assert "recall_99" in probed
    # The untrained encoder is kept as a run of its own, and is the same when asked for again.
    type_command("probe runs/floor --random-init resnet18 --train packs/train --val packs/val")
    exported = type_command(
        "export runs/floor --pack packs/val --name photos --version 1.0.0 --out pairs --variants fp32"
    )
    assert "pairs/photos" in exported
    manifest = find_pair(Path("pairs")).manifest
    assert "photos" in manifest.validated_on
    assert manifest.validated_on.endswith("not validated on anything else")
    assert manifest.method == "random"


def test_real_sources_are_named() -> None:
    data = {"train": {"source": "x"}, "val": {"source": "Sewer-ML"}, "extra": {"source": "simulated: a"}}
    assert validated_on(data) == "Sewer-ML, simulated: a; not validated on anything else"


def test_config_is_checked() -> None:
    with pytest.raises(ConfigError, match="with fp32"):
        ExportConfig(name="a", version="1", variants=("int8",))
    with pytest.raises(ConfigError, match=r"name '\.\./a'"):
        ExportConfig(name="../a", version="1")
