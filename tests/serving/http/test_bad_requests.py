"""Whatever is asked, and however wrongly, the answer is well-formed, names its request, and gives nothing away."""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.live_service import ROOT, live_service
from support.tiny_pair import red_frames, write_tiny_pair

PATHS = [
    "/v1/score",
    "/v1/score/batch",
    "/v1/score/raw",
    "/v2",
    "/v2/models",
    "/v2/models/tiny",
    "/v2/models/tiny/infer",
    "/v2/models/tiny/versions/1.0.0/infer",
    "/v2/models/nobody",
    "/metrics",
    "/docs.json",
    "/livez",
    "/readyz",
    "/schema.json",
    "/static_content/swagger-ui.css",
    "/static_content/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/static_content//etc/passwd",
    "/v2/models/..%2f..%2fetc",
    "/v1/score/",
    "//",
    "/%00",
    "/%ff%fe",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "SCORE"]
CONTENT_TYPES = [
    "image/jpeg",
    "multipart/form-data",
    "multipart/form-data; boundary=b",
    "multipart/form-data; boundary=",
    "application/json",
    "application/json; charset=nonsense",
    "application/x-www-form-urlencoded",
    "text/plain; =;;",
    "",
]
SECRET = f"secret-of-another-caller-{uuid.uuid4().hex}"
# What tells of the inside: code, paths of this machine, another caller's words.
GIVES_AWAY = re.compile(
    rf"Traceback|File \"|\.py\b|site-packages|{re.escape(str(ROOT))}|/tmp/|/root|/home|{SECRET}", re.IGNORECASE
)


def png(frame: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, "PNG")
    return data.getvalue()


def npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


GOOD = png(red_frames(1)[0])
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n%s\r\n--b--\r\n'
INFER = {"inputs": [{"name": "frames", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [1, 2]}]}
SEEDS = [GOOD, PART % GOOD, npy(red_frames(2)), json.dumps(INFER).encode(), b"{}", b"[" * 3000, b"", b"file=a&b"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    models = tmp_path_factory.mktemp("models")
    write_tiny_pair(models)
    limits = {"max_frame_bytes": 50_000, "max_body_bytes": 60_000, "max_pixels": 10_000, "max_batch_frames": 4}
    with live_service(models=models, settings=limits) as url, httpx.Client(base_url=url, timeout=20) as client:
        # Somebody else was here, with a file, a name and an id that nobody else may ever see.
        files = [("files", (SECRET, SECRET.encode(), "image/png"))] * 2
        client.post("/v1/score/batch", files=files, headers={"x-request-id": SECRET})
        client.post(f"/v1/score?{SECRET}={SECRET}", content=SECRET.encode())
        yield client


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Nearly right bodies: cut, with bytes changed, or with something after them; and whatever else."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=300))
    body = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 3))):
        if body:
            body[draw(st.integers(0, min(len(body), 400) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(body)))
    return bytes(body[:cut] if draw(st.booleans()) else body) + draw(st.sampled_from([b"", b"x", bytes(70_000)]))


_query = st.dictionaries(
    st.sampled_from(["pair", "version", "operating_point", "evidence", "other"]), st.text(max_size=20), max_size=2
)


@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    method=st.sampled_from(METHODS),
    path=st.one_of(st.sampled_from(PATHS), st.text(st.characters(codec="ascii"), max_size=20).map(lambda t: f"/{t}")),
    query=_query,
    content_type=st.sampled_from(CONTENT_TYPES),
    body=bodies(),
    chunked=st.booleans(),
)
@example("POST", "/v1/score", {"pair": "../../etc/passwd"}, "image/jpeg", GOOD, False)
@example("POST", "/v1/score", {"operating_point": "<script>"}, "image/jpeg", GOOD, True)
@example("POST", "/v1/score/raw", {}, "", npy(np.zeros(1, np.uint8)), True)
def test_every_answer_is_well_formed_and_gives_nothing_away(
    client: httpx.Client, method: str, path: str, query: dict[str, str], content_type: str, body: bytes, chunked: bool
) -> None:
    # Headers must be text without breaks, a path no fragment: the test is of the service, not of httpx.
    url = httpx.URL(client.base_url).copy_with(raw_path=re.sub(r"[^!$-~]|[?]", "%00", path).encode())
    response = client.request(
        method,
        url.copy_merge_params(query),
        content=iter([body[:40], body[40:]]) if chunked else body,
        headers={"content-type": content_type},
    )
    check(response, method)


def check(response: httpx.Response, method: str) -> None:
    assert response.status_code < 500, response.text
    assert not GIVES_AWAY.search(str(response.headers)), response.headers
    assert response.headers["x-request-id"]
    if response.status_code < 400:
        return
    assert response.headers["content-type"] == "application/problem+json"
    if method == "HEAD":
        return
    problem = response.json()
    # The Open Inference Protocol wants a member `error`; a problem document may have others.
    assert set(problem) - {"error"} == {"type", "title", "status", "detail", "request_id"}
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["type"].startswith("urn:pipeprobe:problem:")
    assert len(problem["detail"]) < 600
    assert not GIVES_AWAY.search(response.text), response.text


def test_the_check_would_notice() -> None:
    assert GIVES_AWAY.search(f'File "{Path(__file__)}", line 3')
    assert GIVES_AWAY.search(f"frame {SECRET} is bad")
    assert not GIVES_AWAY.search("the body has more than the 0.0572 MiB allowed; see /docs")
