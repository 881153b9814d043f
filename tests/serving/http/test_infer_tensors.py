"""Bodies of the inference protocol: what is read out of them, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from support.tiny_pair import random_frames, write_tiny_pair

from serving.errors import BodyTooLargeError, RequestError
from serving.http.infer_tensors import MAX_JSON_BYTES, InferRequest, encode_answer, parse_request
from serving.pairs.pair import Manifest, load_pair
from serving.scorer import Scores

FRAMES = random_frames(2, 32)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return load_pair(write_tiny_pair(tmp_path_factory.mktemp("models"))).manifest


def tensor(**changes: Any) -> dict[str, Any]:
    described = {"name": "frames", "datatype": "UINT8", "shape": [2, 32, 32, 3], "data": FRAMES.ravel().tolist()}
    return {key: value for key, value in (described | changes).items() if value is not ...}


def parse(manifest: Manifest, request: Any, behind: bytes = b"", length: str | None = None) -> InferRequest:
    document = json.dumps(request).encode()
    if length is None and behind:
        length = str(len(document))
    return parse_request(length, document + behind, manifest, 4)


@pytest.mark.parametrize("data", [FRAMES.tolist(), FRAMES.ravel().tolist(), FRAMES.reshape(2, -1).tolist()])
def test_json_data_may_be_flat_or_nested(manifest: Manifest, data: list[Any]) -> None:
    asked = parse(manifest, {"inputs": [tensor(data=data)]})
    np.testing.assert_array_equal([asked.as_frame(frame) for frame in asked.frames], FRAMES)
    assert asked.outputs == {"score": False, "logit": False, "embedding": False, "evidence": False}
    assert asked.id is None


def test_binary_data_follow_the_json(manifest: Manifest) -> None:
    size = {"binary_data_size": FRAMES.nbytes}
    request = {
        "id": "a",
        "inputs": [tensor(data=..., parameters=size)],
        "outputs": [{"name": "logit"}, {"name": "score", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True},
    }
    asked = parse(manifest, request, FRAMES.tobytes())
    np.testing.assert_array_equal([asked.as_frame(frame) for frame in asked.frames], FRAMES)
    assert (asked.id, asked.outputs) == ("a", {"logit": True, "score": False})


BINARY = {"data": ..., "parameters": {"binary_data_size": FRAMES.nbytes}}
REFUSED: list[tuple[Any, bytes, str]] = [
    ([], b"", "the body must be a JSON object"),
    ({}, b"", "inputs must be a list of one tensor"),
    ({"inputs": [tensor(), tensor()]}, b"", "inputs must be a list of one tensor"),
    ({"inputs": ["frames"]}, b"", r"inputs\[0\] must be a JSON object"),
    ({"inputs": [tensor(name="images")]}, b"", "must be the tensor 'frames'"),
    ({"inputs": [tensor(datatype="FP32")]}, b"", "datatype UINT8"),
    ({"inputs": [tensor(shape=[2, 64, 64, 3])]}, b"", r"must be \[N, 32, 32, 3\]"),
    ({"inputs": [tensor(shape=[0, 32, 32, 3])]}, b"", r"must be \[N, 32, 32, 3\]"),
    ({"inputs": [tensor(shape=[True, 32, 32, 3])]}, b"", r"must be \[N, 32, 32, 3\]"),
    ({"inputs": [tensor(shape=[2.0, 32, 32, 3])]}, b"", r"must be \[N, 32, 32, 3\]"),
    ({"inputs": [tensor(shape="2")]}, b"", r"must be \[N, 32, 32, 3\]"),
    ({"inputs": [tensor(data=[1, 2, 3])]}, b"", "6144 whole numbers from 0 to 255"),
    ({"inputs": [tensor(data=[256] * 6144)]}, b"", "from 0 to 255"),
    ({"inputs": [tensor(data=[-1] * 6144)]}, b"", "from 0 to 255"),
    ({"inputs": [tensor(data=[0.5] * 6144)]}, b"", "whole numbers"),
    ({"inputs": [tensor(data=["1"] * 6144)]}, b"", "whole numbers"),
    ({"inputs": [tensor(data=[10**30] * 6144)]}, b"", "whole numbers"),
    ({"inputs": [tensor(data=[[1], 2])]}, b"", "whole numbers"),
    ({"inputs": [tensor(data=None)]}, b"", "whole numbers"),
    ({"inputs": [tensor(data=...)]}, b"", "whole numbers"),
    ({"inputs": [tensor(**BINARY)]}, b"", "there are 0"),
    ({"inputs": [tensor(**BINARY)]}, bytes(6143), "there are 6143"),
    ({"inputs": [tensor(**BINARY)]}, bytes(6145), "there are 6145"),
    ({"inputs": [tensor(parameters=BINARY["parameters"])]}, bytes(6144), "either data, or a binary_data_size"),
    ({"inputs": [tensor(data=...)]}, bytes(6144), "a binary_data_size of 6144"),
    ({"inputs": [tensor(parameters=7)]}, b"", "parameters must be a JSON object"),
    ({"inputs": [tensor()], "outputs": [{"name": "verdict"}]}, b"", "must be one of score, logit"),
    ({"inputs": [tensor()], "outputs": [{"name": ["score"]}]}, b"", "must be one of score, logit"),
    ({"inputs": [tensor()], "outputs": [{"name": "score"}, {"name": "score"}]}, b"", "each at most once"),
    ({"inputs": [tensor()], "outputs": "score"}, b"", "outputs must be a list"),
    ({"inputs": [tensor()], "parameters": {"binary_data_output": "yes"}}, b"", "must be true or false"),
    ({"inputs": [tensor()], "id": 7}, b"", "id must be a string"),
    ({"inputs": [tensor()], "id": "x" * 129}, b"", "id must be a string"),
]


@pytest.mark.parametrize(("request_", "behind", "says"), REFUSED)
def test_what_is_wrong_is_named(manifest: Manifest, request_: Any, behind: bytes, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        parse(manifest, request_, behind)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"inputs": NaN}'])
def test_what_is_no_json_is_refused(manifest: Manifest, body: bytes) -> None:
    with pytest.raises(RequestError, match="the body is not JSON"):
        parse_request(None, body, manifest, 4)


@pytest.mark.parametrize("length", ["-1", "x", "", "1e3", "99999999999999999999", "²", "100000"])
def test_a_header_length_that_cannot_be_is_refused(manifest: Manifest, length: str) -> None:
    with pytest.raises(RequestError, match="must be a number of bytes"):
        parse_request(length, b'{"inputs": []}', manifest, 4)


def test_too_many_frames_and_too_much_json_are_refused(manifest: Manifest) -> None:
    with pytest.raises(BodyTooLargeError, match="5 frames, more than the 4 allowed"):
        parse(manifest, {"inputs": [tensor(shape=[5, 32, 32, 3])]})
    with pytest.raises(BodyTooLargeError, match="MiB of JSON; send the frames as binary"):
        parse_request(None, b" " * (MAX_JSON_BYTES + 1), manifest, 4)


def test_answers_hold_what_was_asked_for_in_that_order() -> None:
    scores = Scores(
        score=np.array([0.25, 1 / 3], np.float32),
        logit=np.array([-1.5, 2], np.float32),
        embedding=np.arange(8, dtype=np.float32).reshape(2, 4),
        evidence=np.zeros((2, 4, 4), np.float32),
    )
    asked = InferRequest(id="7", side=32, frames=[], outputs={"embedding": True, "score": False, "logit": True})
    body, length = encode_answer(asked, scores, name="tiny", version="1.0.0")
    assert length is not None
    assert json.loads(body[:length]) == {
        "id": "7",
        "model_name": "tiny",
        "model_version": "1.0.0",
        "outputs": [
            {"name": "embedding", "datatype": "FP32", "shape": [2, 4], "parameters": {"binary_data_size": 32}},
            {"name": "score", "datatype": "FP32", "shape": [2], "data": [0.25, 0.333333343]},
            {"name": "logit", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
        ],
    }
    np.testing.assert_array_equal(np.frombuffer(body[length:], "<f4"), [*range(8), -1.5, 2])
    plain = InferRequest(id=None, side=32, frames=[], outputs={"score": False})
    body, length = encode_answer(plain, scores, name="tiny", version="1.0.0")
    assert length is None
    assert "id" not in json.loads(body)
