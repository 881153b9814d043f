"""Runs through buffers that stay: the same outputs as the session's own, whoever asks, and nobody's but the caller's.

On a CPU, where ONNX Runtime has the same buffers and bindings; captured graphs need a GPU (`test_scorer.py`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from support.tiny_pair import FEATURE_DIM, PATCH, build_graph, random_frames

from serving.device_buffers import BufferedRuns
from serving.devices import parse_device, providers_for

SIDE = 32
OUTPUTS = {"score": (), "logit": (), "embedding": (FEATURE_DIM,), "evidence": (SIDE // PATCH, SIDE // PATCH)}


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(build_graph(SIDE), providers=["CPUExecutionProvider"])


@pytest.fixture
def runs(session: onnxruntime.InferenceSession) -> BufferedRuns:
    return BufferedRuns(session, parse_device("cpu"), input_name="frames", side=SIDE, outputs=OUTPUTS)


def test_answers_what_the_session_answers(runs: BufferedRuns, session: onnxruntime.InferenceSession) -> None:
    for seed, size in enumerate((1, 4, 2, 4, 1)):
        frames = random_frames(size, SIDE, seed=seed)
        expected = session.run(list(OUTPUTS), {"frames": frames})
        for got, want in zip(runs.run(frames), expected, strict=True):
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, want)
    assert sorted(runs._buffers) == [1, 2, 4]


def test_a_later_run_leaves_earlier_answers_alone(runs: BufferedRuns) -> None:
    first = runs.run(random_frames(2, SIDE, seed=1))
    kept = [output.copy() for output in first]
    runs.run(random_frames(2, SIDE, seed=2))
    for got, want in zip(first, kept, strict=True):
        np.testing.assert_array_equal(got, want)


def test_threads_do_not_see_each_others_frames(runs: BufferedRuns, session: onnxruntime.InferenceSession) -> None:
    batches = [random_frames(2, SIDE, seed=seed) for seed in range(30)]
    expected = [session.run(["score"], {"frames": frames})[0] for frames in batches]
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda frames: runs.run(frames)[0], batches))
    np.testing.assert_array_equal(got, expected)


def test_a_refused_batch_does_not_stop_the_next(runs: BufferedRuns) -> None:
    with pytest.raises(Exception, match=r"[Ss]hape|elements|size"):
        runs.run(random_frames(1, SIDE)[:, :8])
    assert runs.run(random_frames(1, SIDE))[0].shape == (1,)


def test_only_asked_for_graphs_are_captured() -> None:
    cuda = parse_device("cuda:1")
    assert "enable_cuda_graph" not in providers_for(cuda)[0][1]
    assert providers_for(cuda, cuda_graphs=True)[0][1]["enable_cuda_graph"] == 1
