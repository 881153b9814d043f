"""The Open Inference Protocol with a real client library against a real service."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from PIL import Image
from support.live_service import live_service
from support.tiny_pair import (
    FEATURE_DIM,
    random_frames,
    red_frames,
    reference_outputs,
    write_second_version,
    write_tiny_pair,
)
from tritonclient.utils import InferenceServerException

from serving.scorer import BATCH_ATOL

FRAMES = random_frames(3, 32, seed=1)
OUTPUTS = ("score", "logit", "embedding", "evidence")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    write_tiny_pair(models)
    write_second_version(models, bias=-20.0)
    settings = {"pair": "tiny,tiny@2.0.0", "max_batch_frames": 8, "max_body_bytes": 100_000}
    with live_service(models=models, settings=settings) as url:
        yield url


@pytest.fixture
def client(service: str) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(service.removeprefix("http://"))
    yield client
    client.close()


def tensor(frames: NDArray[np.uint8], *, binary: bool = True) -> triton.InferInput:
    value = triton.InferInput("frames", list(frames.shape), "UINT8")
    value.set_data_from_numpy(frames, binary_data=binary)
    return value


def test_says_what_there_is(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "2.0.0")
    assert not client.is_model_ready("tiny", "3.0.0")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("tiny")
    assert metadata["versions"] == ["1.0.0", "2.0.0"]
    assert metadata["properties"]["version"] == "1.0.0"
    assert client.get_model_metadata("tiny", "2.0.0")["properties"]["version"] == "2.0.0"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_answers_what_the_pair_computes(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool | None
) -> None:
    asked = (
        None if binary_out is None else [triton.InferRequestedOutput(name, binary_data=binary_out) for name in OUTPUTS]
    )
    result = client.infer("tiny", [tensor(FRAMES, binary=binary_in)], outputs=asked, request_id="frames-7")
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("frames-7", "tiny", "1.0.0")
    for name, expected in reference_outputs(FRAMES).items():
        got = result.as_numpy(name)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=1e-4, err_msg=name)


def test_answers_only_the_outputs_asked_for(client: triton.InferenceServerClient) -> None:
    result = client.infer("tiny", [tensor(FRAMES)], outputs=[triton.InferRequestedOutput("embedding")])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["embedding"]
    assert result.as_numpy("embedding").shape == (3, FEATURE_DIM)
    assert result.as_numpy("score") is None


def test_versions_answer_for_themselves(client: triton.InferenceServerClient, service: str) -> None:
    red = red_frames(1)
    scores = {
        version: client.infer("tiny", [tensor(red)], model_version=version).as_numpy("score")[0]
        for version in ("", "1.0.0", "2.0.0")
    }
    assert scores[""] == scores["1.0.0"] > 0.9
    assert scores["2.0.0"] < 0.1
    # And the same frames score the same over the protocol as over the scoring route.
    npy = httpx.post(f"{service}/v1/score?version=2.0.0", content=png(red[0]))
    assert npy.json()["score"] == pytest.approx(float(scores["2.0.0"]), abs=BATCH_ATOL["fp32"])
    assert npy.json()["pair_version"] == "2.0.0"


def png(frame: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("frames", "options", "status", "says"),
    [
        (FRAMES, {"model_name": "other"}, "404", "pair 'other' is not served here"),
        (FRAMES, {"model_version": "9"}, "404", "version '9' of pair 'tiny' is not served here"),
        (random_frames(1, 64), {}, "400", "must be [N, 32, 32, 3]"),
        (random_frames(9, 32), {}, "413", "9 frames, more than the 8 allowed"),
        (random_frames(40, 32), {}, "413", "MiB allowed"),
        (FRAMES, {"request_compression_algorithm": "gzip"}, "400", "Content-Encoding 'gzip' is not accepted"),
        (FRAMES, {"outputs": [triton.InferRequestedOutput("verdict")]}, "400", "must be one of score"),
    ],
)
def test_the_client_is_told_what_is_wrong(
    client: triton.InferenceServerClient, frames: NDArray[np.uint8], options: dict[str, Any], status: str, says: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(**({"model_name": "tiny", "inputs": [tensor(frames)]} | options))
    assert status in str(caught.value.status())
    assert says in caught.value.message()


def test_errors_are_problem_documents_too(service: str) -> None:
    response = httpx.post(f"{service}/v2/models/tiny/infer", json={"inputs": []})
    problem = response.json()
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "urn:pipeprobe:problem:bad-request"
    assert problem["error"] == problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]
    assert response.headers["x-pipeprobe-pair"] == "tiny"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/..%2F..%2Fmodels%2Ftiny",
        "/v2/models/%2Fetc%2Fpasswd",
        "/v2/models/%2e%2e",
        "/v2/models/tiny%40..%2Ftiny",
        "/v2/models/tiny/versions/..%2F1.0.0",
        "/v2/models/tiny/versions/%2e%2e",
        "/v2/models/tiny%00",
        "/v2/models/tiny/versions/2.0.0%0d%0aX-Evil:1",
    ],
)
def test_names_and_versions_lead_nowhere_else(service: str, path: str) -> None:
    for method, url in (("GET", path), ("GET", f"{path}/ready"), ("POST", f"{path}/infer")):
        response = httpx.request(method, service + url)
        assert response.status_code in (404, 405), url
        assert "x-evil" not in response.headers
        assert response.headers["content-type"] == "application/problem+json"
        assert "root:" not in response.text


def test_infer_counts_like_the_scoring_routes(service: str, client: triton.InferenceServerClient) -> None:
    def scored() -> float:
        lines = httpx.get(f"{service}/metrics").text.splitlines()
        prefix = 'pipeprobe_score_count{pair="tiny",version="1.0.0"}'
        return sum(float(line.split()[-1]) for line in lines if line.startswith(prefix))

    before = scored()
    client.infer("tiny", [tensor(FRAMES)])
    assert scored() == before + len(FRAMES)


def test_the_document_describes_infer(service: str) -> None:
    document = httpx.get(f"{service}/docs.json").json()
    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        operation = document["paths"][path]["post"]
        assert {"application/json", "application/octet-stream"} == set(operation["requestBody"]["content"])
        assert {"200", "400", "404", "413", "503", "504"} <= set(operation["responses"])
    assert "InferRequest" in document["components"]["schemas"]
