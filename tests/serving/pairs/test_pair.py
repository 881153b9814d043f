from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_pair import build_graph, write_tiny_pair

from serving.durable import sha256_file, write_json_atomic
from serving.errors import (
    ConfigError,
    OperatingPointNotFoundError,
    PairInvalidError,
    PairNotFoundError,
)
from serving.pairs.golden import load_golden
from serving.pairs.pair import (
    Manifest,
    OperatingPoint,
    Pair,
    find_pair,
    load_pair,
    models_root,
    pair_folders,
    write_index,
)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_tiny_pair(tmp_path / "models")
    return tmp_path / "models"


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def relist(folder: Path, file: str) -> None:
    """Make the manifest agree with a changed file."""
    digest = sha256_file(folder / file)
    edit_manifest(folder, lambda manifest: manifest["files"].update({file: digest}))


def test_a_manifest_round_trips_through_json(models: Path) -> None:
    manifest = load_pair(models / "tiny").manifest
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert manifest.evidence_shape == (4, 4)


def set_key(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def edit(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = to

    return edit


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (set_key("colour", to=1), "manifest: unknown key 'colour'"),
        (set_key("calibration", "offset", to=1), "manifest: calibration: unknown key 'offset'"),
        (set_key("operating_points", "balanced", "f1", to=1), "operating_points: balanced: unknown key 'f1'"),
        (lambda m: m.pop("encoder"), "manifest: missing key 'encoder'"),
        (lambda m: m["metrics"][0].pop("low"), r"metrics\[0\]: missing key 'low'"),
        (set_key("schema_version", to=2), "schema_version 2 is not 1"),
        (set_key("image_size", to="32"), "image_size: expected int, got str"),
        (set_key("image_size", to=True), "image_size: expected int, got bool"),
        (set_key("image_size", to=0), "image_size 0 is outside"),
        (set_key("feature_dim", to=0), "feature_dim 0"),
        (set_key("evidence_shape", to=[4]), "does not have 2 elements"),
        (set_key("evidence_shape", to=[4, 0]), "evidence_shape"),
        (set_key("input_dtype", to="float32"), "input_dtype 'float32' is not 'uint8'"),
        (set_key("input_layout", to="NCHW"), "input_layout 'NCHW' is not 'NHWC'"),
        (set_key("name", to="../evil"), "name '../evil'"),
        (set_key("version", to=""), "version ''"),
        (set_key("created", to="yesterday"), "not an ISO 8601 time"),
        (set_key("operating_points", "balanced", "threshold", to=1.5), "threshold 1.5 is outside"),
        (set_key("operating_points", "balanced", "recall", to=-0.1), "recall -0.1 is outside"),
        (set_key("operating_points", "balanced", "n", to=0), "n 0 must be positive"),
        (set_key("operating_points", "balanced", "name", to="other"), "holds a point named 'other'"),
        (set_key("default_operating_point", to="best"), "'best' is not among operating_points"),
        (set_key("calibration", "slope", to=-1), "slope -1.0 must be positive"),
        (set_key("metrics", 0, "low", to=1.5), "reversed"),
        (set_key("metrics", 0, "value", to=float("nan")), "NaN is not JSON"),
        (set_key("variants", to={}), "at least one"),
        (set_key("variants", "fp32", "name", to="fp64"), "'fp64' is not one of 'fp32', 'fp16', 'int8'"),
        (set_key("variants", "fp32", "file", to="../model.onnx"), "plain name of an .onnx file"),
        (set_key("variants", "fp32", "file", to="other.onnx"), "other.onnx of fp32 is not among files"),
        (set_key("files", "../../etc/passwd", to="0" * 64), "'../../etc/passwd' is not a plain file name"),
        (set_key("files", "/etc/passwd", to="0" * 64), "'/etc/passwd' is not a plain file name"),
        (set_key("files", ".hidden", to="0" * 64), "'.hidden' is not a plain file name"),
        (set_key("files", "CARD.md", to="abc"), "'abc' of CARD.md is not a SHA-256"),
        (lambda m: m["files"].pop("golden.npz"), "golden.npz, the reference outputs, is missing"),
        (set_key("files", "notes.txt", to="0" * 64), "notes.txt, listed in the manifest, is missing"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(
    models: Path, edit: Callable[[dict[str, Any]], object], says: str
) -> None:
    edit_manifest(models / "tiny", edit)
    with pytest.raises(PairInvalidError, match=says) as caught:
        load_pair(models / "tiny")
    assert str(models / "tiny") in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\udcff"])
def test_a_manifest_that_is_no_json_object_is_refused(models: Path, text: str) -> None:
    (models / "tiny" / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(PairInvalidError, match=r"manifest\.json: "):
        load_pair(models / "tiny")


def test_a_changed_file_is_named_with_both_digests_and_the_remedy(models: Path) -> None:
    model = models / "tiny" / "model.fp32.onnx"
    expected = sha256_file(model)
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(PairInvalidError, match=r"model\.fp32\.onnx was changed or damaged") as caught:
        load_pair(models / "tiny")
    for part in (expected, sha256_file(model), "export the pair again"):
        assert part in str(caught.value)
    assert load_pair(models / "tiny", verify=False).name == "tiny"


@pytest.mark.parametrize(
    "file", ["other.onnx", "extra.NPZ", "sub/model.onnx", "model.onnx.data", "weights.bin", "notes.md", ".w"]
)
def test_unlisted_model_files_are_refused(models: Path, file: str) -> None:
    path = models / "tiny" / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(build_graph(32))
    with pytest.raises(PairInvalidError, match=f"{file} is not listed in the manifest"):
        load_pair(models / "tiny")


def test_what_a_killed_writer_left_behind_does_no_harm(models: Path) -> None:
    (models / "tiny" / ".manifest.json.0a1b2c3d.partial").write_bytes(b"{")
    (models / "tiny" / ".DS_Store").write_bytes(b"\0")
    assert load_pair(models / "tiny").name == "tiny"


@pytest.mark.parametrize("file", ["weights.pkl", "model.PT", "sub/probe.joblib", "encoder.pth"])
def test_pickles_are_refused_even_if_listed(models: Path, file: str) -> None:
    path = models / "tiny" / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps({"weight": 1}))
    if path.parent == models / "tiny":
        relist(models / "tiny", file)
    with pytest.raises(PairInvalidError, match=f"{file} may be a pickle"):
        load_pair(models / "tiny")


def test_golden_outputs_are_never_unpickled(models: Path) -> None:
    class Boom:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("a pickle was loaded",))

    folder = models / "tiny"
    np.savez(folder / "golden.npz", frames=np.array([Boom()], dtype=object))
    relist(folder, "golden.npz")
    with pytest.raises(PairInvalidError, match="no archive of plain arrays"):
        load_golden(load_pair(folder))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda arrays: arrays.pop("fp32_logit"), "array 'fp32_logit' is missing"),
        (lambda arrays: arrays.update(frames=arrays["frames"][:, :16]), r"frames is uint8 \[8, 16, 32, 3\]"),
        (lambda arrays: arrays.update(fp32_score=arrays["fp32_score"][:3]), r"expected float32 \[8\]"),
        (lambda arrays: arrays.update(fp32_logit=arrays["fp32_logit"].astype(float)), "is float64"),
    ],
)
def test_golden_outputs_must_fit_the_manifest(
    models: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    folder = models / "tiny"
    with np.load(folder / "golden.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    change(arrays)
    np.savez(folder / "golden.npz", **arrays)
    relist(folder, "golden.npz")
    with pytest.raises(PairInvalidError, match=says):
        load_golden(load_pair(folder))


def test_golden_outputs_come_by_variant(tmp_path: Path) -> None:
    folder = write_tiny_pair(tmp_path, variants=("fp32", "int8"))
    golden = load_golden(load_pair(folder))
    assert golden.frames.shape == (8, 32, 32, 3)
    assert set(golden.outputs) == {"fp32", "int8"}
    assert golden.outputs["int8"]["evidence"].shape == (8, 4, 4)


def test_pairs_are_found_by_name_and_by_default(models: Path) -> None:
    write_tiny_pair(models, name="other")
    assert pair_folders(models) == ["other", "tiny"]
    assert find_pair(models).name == "other"
    assert find_pair(models, "tiny").name == "tiny"
    write_index(models, "tiny")
    assert find_pair(models).name == "tiny"


@pytest.mark.parametrize(
    "name",
    ["nope", "../models/tiny", "", ".", "/etc", "tiny/", "tiny@", "tiny@2.0.0", "tiny@../tiny", "@1.0.0", "a@b@c"],
)
def test_an_unknown_pair_is_answered_with_those_that_exist(models: Path, name: str) -> None:
    with pytest.raises(PairNotFoundError, match=r"available: tiny"):
        find_pair(models, name)


def test_an_index_must_exist_and_be_one(models: Path) -> None:
    (models / "index.json").write_text('{"default": 3}')
    with pytest.raises(PairInvalidError, match=r"index\.json: expected"):
        find_pair(models)
    (models / "index.json").write_text("{")
    with pytest.raises(PairInvalidError, match=r"index\.json: is not readable JSON"):
        find_pair(models)
    (models / "index.json").unlink()
    with pytest.raises(PairNotFoundError, match=r"available: tiny\).*pipeprobe models promote"):
        find_pair(models)
    with pytest.raises(PairNotFoundError, match="no pair 'gone'"):
        write_index(models, "gone")


def test_a_folder_must_be_named_as_its_pair(models: Path) -> None:
    (models / "tiny").rename(models / "renamed")
    with pytest.raises(PairInvalidError, match=r"manifest names the pair 'tiny', version '1\.0\.0'; rename the folder"):
        find_pair(models, "renamed")


def test_a_folder_without_a_manifest_is_no_pair(tmp_path: Path) -> None:
    with pytest.raises(PairNotFoundError, match=r"has no manifest\.json"):
        load_pair(tmp_path)


def test_models_root_follows_the_environment(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPEPROBE_MODELS", str(models))
    assert models_root() == models
    monkeypatch.setenv("PIPEPROBE_MODELS", str(models / "gone"))
    with pytest.raises(ConfigError, match=r"PIPEPROBE_MODELS=.*gone is no folder"):
        models_root()
    monkeypatch.delenv("PIPEPROBE_MODELS")
    assert models_root().name == "models"


def test_operating_points_are_found_by_name(models: Path) -> None:
    manifest = load_pair(models / "tiny").manifest
    assert manifest.operating_point().name == "balanced"
    assert manifest.operating_point("recall_99").threshold == 0.1
    with pytest.raises(OperatingPointNotFoundError, match="it has balanced, recall_95, recall_99"):
        manifest.operating_point("best")


def test_an_unknown_variant_is_answered_with_those_that_exist(models: Path) -> None:
    pair = load_pair(models / "tiny")
    assert isinstance(pair, Pair)
    assert pair.variant_path("fp32").is_file()
    with pytest.raises(PairNotFoundError, match="no variant 'int8'; it has fp32"):
        pair.variant_path("int8")


def test_what_an_exporter_builds_is_validated_before_it_is_written() -> None:
    with pytest.raises(PairInvalidError, match="operating point 'x': threshold 2"):
        OperatingPoint(name="x", threshold=2, criterion="", recall=1, precision=1, specificity=1, n=1, data="none")


def test_not_a_number_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomic(tmp_path / "x.json", {"value": float("nan")})
