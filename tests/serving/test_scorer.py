from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.tiny_pair import (
    build_graph,
    grey_frames,
    random_frames,
    red_frames,
    reference_outputs,
    tiny_manifest,
    write_tiny_pair,
)

from serving import scorer as scorer_module
from serving.devices import Device, available_cores, parse_device, providers_for
from serving.durable import write_json_atomic
from serving.errors import DeviceError, PairInvalidError, PairNotFoundError
from serving.pairs.golden import GOLDEN_ATOL, verify_golden
from serving.pairs.pair import Pair, load_pair
from serving.scorer import BATCH_ATOL, BATCH_SIZES, Scorer, default_variant, run_size

VARIANTS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load_pair(write_tiny_pair(tmp_path_factory.mktemp("models"), variants=VARIANTS))


@pytest.fixture(scope="module")
def scorer(pair: Pair) -> Scorer:
    return Scorer(pair, variant="fp32", threads=1, max_batch=8)


def test_the_graph_computes_what_the_pair_promises(scorer: Scorer) -> None:
    frames = random_frames(21)
    scores = scorer.score(frames)
    for output, expected in reference_outputs(frames).items():
        got = getattr(scores, output)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(scores.evidence.mean((1, 2)), scores.logit, atol=1e-5)
    assert len(scores) == 21


def test_red_is_a_defect_and_the_threshold_itself_too(scorer: Scorer) -> None:
    scores = scorer.score(np.concatenate([red_frames(2), grey_frames(1)]))
    assert scores.verdicts(0.5) == ["defect", "defect", "normal"]
    assert scores.verdicts(float(scores.score[2]))[2] == "defect"
    assert scores.verdicts(float(np.nextafter(scores.score[2], 1)))[2] == "normal"


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_do_not_depend_on_the_company(pair: Pair, variant: str) -> None:
    frames = random_frames(19, seed=3)
    scorer = Scorer(pair, variant=variant, max_batch=8)
    alone = np.concatenate([scorer.score(frames[i : i + 1]).score for i in range(19)])
    together = scorer.score(frames).score
    order = np.random.default_rng(0).permutation(19)
    np.testing.assert_allclose(together, alone, atol=BATCH_ATOL[variant])
    np.testing.assert_allclose(scorer.score(frames[order]).score, alone[order], atol=BATCH_ATOL[variant])


def test_no_frames_have_no_scores(scorer: Scorer) -> None:
    scores = scorer.score(np.zeros((0, 32, 32, 3), np.uint8))
    assert len(scores) == 0
    assert scores.verdicts(0.5) == []
    assert scores.embedding.shape == (0, 4)
    assert scores.evidence.shape == (0, 4, 4)


def test_frames_need_not_be_contiguous(scorer: Scorer) -> None:
    wide = random_frames(6, 64)
    np.testing.assert_array_equal(
        scorer.score(wide[::2, ::2, ::2]).score, scorer.score(wide[::2, ::2, ::2].copy()).score
    )


def test_a_cpu_scores_no_frame_more_than_it_was_given(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(pair, variant="fp32", max_batch=24)
    sizes: list[int] = []
    run = Scorer._run

    def recording(self: Scorer, batch: Any) -> Any:
        sizes.append(len(batch))
        return run(self, batch)

    monkeypatch.setattr(Scorer, "_run", recording)
    scorer.warm_up()
    assert sizes == [1, 2, 4, 8, 16, 24]
    for n in range(60):
        sizes.clear()
        scorer.score(np.zeros((n, 32, 32, 3), np.uint8))
        assert sum(sizes) == n
        assert len(sizes) == -(-n // 24)


@given(n=st.integers(1, 128), last=st.integers(1, len(BATCH_SIZES)))
def test_few_batch_sizes_reach_a_gpu(n: int, last: int) -> None:
    sizes = BATCH_SIZES[:last]
    n = min(n, sizes[-1])
    size = run_size(n, sizes, parse_device("cuda"))
    assert size in sizes
    assert n <= size < 2 * n
    assert run_size(n, sizes, parse_device("cpu")) == n


@pytest.mark.parametrize(
    ("frames", "error", "says"),
    [
        ([[1]], TypeError, "got list"),
        (np.zeros((1, 32, 32, 3), np.float32), TypeError, "got float32"),
        (np.zeros((1, 32, 32, 3), np.int8), TypeError, "got int8"),
        (np.zeros((32, 32, 3), np.uint8), ValueError, r"\[N, 32, 32, 3\], got \[32, 32, 3\]"),
        (np.zeros((1, 3, 32, 32), np.uint8), ValueError, r"got \[1, 3, 32, 32\]"),
        (np.zeros((1, 64, 64, 3), np.uint8), ValueError, r"got \[1, 64, 64, 3\]"),
    ],
)
def test_anything_but_frames_is_refused(scorer: Scorer, frames: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        scorer.score(frames)


def test_threads_get_their_own_scores(pair: Pair) -> None:
    scorer = Scorer(pair, variant="fp32", threads=1, max_batch=4)
    batches = [random_frames(n, seed=n) for n in range(1, 25)]
    expected = [reference_outputs(batch)["score"] for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for got, wanted in zip(pool.map(scorer.score, batches), expected, strict=True):
            np.testing.assert_allclose(got.score, wanted, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_outputs_hold_after_loading(pair: Pair, variant: str) -> None:
    deviations = verify_golden(Scorer(pair, variant=variant))
    assert set(deviations) == {"score", "logit", "embedding", "evidence"}
    assert max(deviations.values()) <= GOLDEN_ATOL[variant]


def test_golden_outputs_of_other_weights_are_noticed(tmp_path: Path) -> None:
    folder = write_tiny_pair(tmp_path)
    with np.load(folder / "golden.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays["fp32_embedding"][3, 1] += 2e-4
    np.savez(folder / "golden.npz", **arrays)
    scorer = Scorer(load_pair(folder, verify=False))
    with pytest.raises(PairInvalidError, match=r"variant fp32 .* embedding is off by 0\.0002, allowed 0\.0001"):
        verify_golden(scorer)


def test_the_variant_follows_the_device(pair: Pair, tmp_path: Path) -> None:
    cpu, cuda = Device(kind="cpu"), Device(kind="cuda")
    assert default_variant(pair.manifest, cpu) == "int8"
    assert default_variant(pair.manifest, cuda) == "fp16"
    assert Scorer(pair).variant == "int8"
    plain = load_pair(write_tiny_pair(tmp_path / "a")).manifest
    assert default_variant(plain, cpu) == default_variant(plain, cuda) == "fp32"
    half = load_pair(write_tiny_pair(tmp_path / "b", variants=("fp16",))).manifest
    with pytest.raises(DeviceError, match="no variant for cpu, only fp16"):
        default_variant(half, cpu)
    with pytest.raises(PairNotFoundError, match="no variant 'int8'"):
        Scorer(load_pair(tmp_path / "a" / "tiny"), variant="int8")


def test_the_device_used_is_told(scorer: Scorer) -> None:
    assert (scorer.device, scorer.provider, scorer.variant) == ("cpu", "CPUExecutionProvider", "fp32")
    assert scorer.threads == 1


@pytest.mark.parametrize("name", ["gpu", "CPU", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "", "cuda:1 "])
def test_unknown_devices_are_refused(pair: Pair, name: str) -> None:
    with pytest.raises(DeviceError, match="use cpu, cuda or cuda:INDEX"):
        Scorer(pair, device=name)


def test_device_names_are_parsed() -> None:
    assert parse_device("cpu") == Device(kind="cpu")
    assert parse_device("cuda") == Device(kind="cuda", index=0)
    assert parse_device("cuda:1") == Device(kind="cuda", index=1)
    assert str(parse_device("cuda:1")) == "cuda:1"
    assert providers_for(parse_device("cuda:1"))[0][1]["device_id"] == 1


class SessionOnCpu:
    """A session that was asked for CUDA and fell back, as ONNX Runtime does without a word."""

    def __init__(self, *arguments: Any, **options: Any) -> None: ...
    def disable_fallback(self) -> None: ...
    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def test_a_fall_back_to_the_cpu_is_an_error(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = scorer_module.import_onnxruntime()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", SessionOnCpu)
    with pytest.raises(DeviceError, match=r"cuda:1 was asked for .* fell back to CPU.*pipeprobe\[serve,gpu\]"):
        Scorer(pair, device="cuda:1")


def test_a_build_without_cuda_is_named_with_the_remedy(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = scorer_module.import_onnxruntime()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match=r"no CUDA support; .*pip install"):
        Scorer(pair, device="cuda")


@pytest.mark.parametrize(("setting", "value"), [("max_batch", 0), ("max_batch", 129), ("threads", 0)])
def test_settings_out_of_range_are_refused(pair: Pair, setting: str, value: int) -> None:
    with pytest.raises(ValueError, match=setting):
        Scorer(pair, **{setting: value})  # type: ignore[arg-type]  # one setting at a time


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "chance"
    model.graph.node[-4].output[0] = "chance"


def fix_the_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def take_floats(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def take_other_sizes(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", 64, 64, 3]))
    del model.graph.output[3]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (rename_output, "the graph has no 'score'"),
        (fix_the_batch, r"'frames' is tensor\(uint8\) \[1, 32, 32, 3\]"),
        (take_floats, r"'frames' is tensor\(float\)"),
        (take_other_sizes, r"'frames' .*64, 64, 3\] in the graph, .* \['N', 32, 32, 3\]"),
    ],
)
def test_a_graph_that_is_not_as_declared_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    folder = write_tiny_pair(tmp_path)
    model = onnx.load_from_string(build_graph(32))
    change(model)
    (folder / "model.fp32.onnx").write_bytes(model.SerializeToString())
    manifest = tiny_manifest(folder, name="tiny", size=32, variants=["fp32"])
    write_json_atomic(folder / "manifest.json", manifest.to_json())
    with pytest.raises(PairInvalidError, match=says):
        Scorer(load_pair(folder))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_pair(tmp_path)
    (folder / "model.fp32.onnx").write_bytes(b"not a model")
    with pytest.raises(PairInvalidError, match=r"model\.fp32\.onnx cannot be loaded by ONNX Runtime"):
        Scorer(load_pair(folder, verify=False))


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_cores_are_those_that_a_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], most: int | None
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == (6 if most is None else most)


def test_a_cpu_has_no_cuda_graphs(pair: Pair) -> None:
    with pytest.raises(DeviceError, match="CUDA graphs were asked for on cpu"):
        Scorer(pair, cuda_graphs=True)


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_a_gpu_agrees_with_the_golden_outputs(pair: Pair, variant: str, cuda_graphs: bool) -> None:
    try:
        scorer = Scorer(pair, device="cuda", variant=variant, cuda_graphs=cuda_graphs)
    except DeviceError as error:
        pytest.skip(str(error))
    scorer.warm_up()
    assert scorer.provider == "CUDAExecutionProvider"
    assert max(verify_golden(scorer).values()) <= GOLDEN_ATOL[variant]
