"""The clients against the real service."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.clients import CallClient
from support.images import encode
from support.live_service import ROOT, live_service
from support.tiny_pair import grey_frames, random_frames, red_frames, reference_outputs, write_tiny_pair

from serving.client import (
    Batching,
    Client,
    Failure,
    FrameRefusedError,
    Model,
    Score,
    ServiceError,
    UnauthorisedError,
    UnavailableError,
    UnreadableError,
    progress_bar,
)
from serving.http.api_keys import add_key

FRAMES = random_frames(40, seed=3)
RED, GREY = red_frames(1)[0], grey_frames(1)[0]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    write_tiny_pair(models)
    with live_service(models=models, settings={"max_batch_frames": 8, "max_frame_bytes": 20_000}) as url:
        yield url


def test_scores_whatever_is_a_frame(call: CallClient, url: str, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(encode(RED))
    expected = reference_outputs(RED[None])
    for frame, name in ((path, "red.png"), (path.read_bytes(), ""), (Image.fromarray(RED), ""), (RED, "")):
        score = call(url, "score", frame)
        assert isinstance(score, Score)
        assert (score.name, score.verdict, score.pair, score.pair_version) == (name, "defect", "tiny", "1.0.0")
        assert (score.score, score.logit) == pytest.approx((expected["score"][0], expected["logit"][0]), abs=1e-4)
        assert score.evidence is None
        assert score.request_id
        assert score.timings_ms["total"] > 0


def test_options_reach_the_service(call: CallClient, url: str) -> None:
    score = call(url, "score", GREY, pair="tiny", operating_point="recall_99", evidence=True)
    assert (score.operating_point, score.threshold) == ("recall_99", 0.1)
    assert np.allclose(score.evidence, reference_outputs(GREY[None])["evidence"][0], atol=1e-4)


def test_errors_have_types(call: CallClient, url: str) -> None:
    with pytest.raises(FrameRefusedError, match="is not an image") as caught:
        call(url, "score", b"no image")
    assert caught.value.status == 415
    assert caught.value.request_id
    with pytest.raises(UnreadableError):
        call(url, "score", "/nowhere.jpg")
    with pytest.raises(ServiceError, match="no operating point") as caught_point:
        call(url, "score_many", [RED], operating_point="best")
    assert caught_point.value.status == 404


def test_many_frames_come_back_in_order_and_bad_ones_alone(call: CallClient, url: str) -> None:
    frames: list[object] = list(FRAMES)
    frames[7], frames[20], frames[39] = b"no image", "/nowhere.jpg", bytes(20_001)
    seen: list[tuple[int, int | None]] = []
    # Batches of 16 are above what this service takes: they are halved.
    client = {"batching": Batching(max_frames=16, concurrency=3)}
    results = call(url, "score_many", frames, progress=lambda *done: seen.append(done), client=client)
    expected = reference_outputs(FRAMES)["score"]
    errors = {7: FrameRefusedError, 20: UnreadableError, 39: FrameRefusedError}
    assert len(results) == 40
    for index, result in enumerate(results):
        if index in errors:
            assert isinstance(result, Failure)
            assert isinstance(result.error, errors[index])
        else:
            assert result.score == pytest.approx(expected[index], abs=1e-4)
    assert seen == sorted(seen)
    assert seen[-1] == (40, 40)


def test_an_iterator_has_no_total(call: CallClient, url: str) -> None:
    seen: list[tuple[int, int | None]] = []
    results = call(url, "score_many", iter(FRAMES[:3]), progress=lambda *done: seen.append(done))
    assert len(results) == 3
    assert seen == [(3, None)]
    assert call(url, "score_many", []) == []


def test_a_bar_follows(url: str) -> None:
    with Client(url) as client, progress_bar() as progress:
        assert len(client.score_many(FRAMES[:3], progress=progress)) == 3


def test_says_what_is_served(call: CallClient, url: str) -> None:
    assert call(url, "models") == [Model(name="tiny", version="1.0.0", default=True)]
    assert call(url, "ready") is True


def test_an_overloaded_service_is_waited_for_or_reported(call: CallClient, tmp_path: Path) -> None:
    write_tiny_pair(tmp_path)
    settings = {"max_requests": 1, "max_queue": 8, "max_batch_frames": 8}
    with live_service(models=tmp_path, settings=settings) as url:
        client = {"batching": Batching(max_frames=4, concurrency=8), "deadline_s": 60.0}
        results = call(url, "score_many", FRAMES, client=client)
        failures = [result for result in results if isinstance(result, Failure)]
    assert all(isinstance(failure.error, UnavailableError) for failure in failures)
    assert len(failures) < len(FRAMES) / 2


def test_keys_let_in_and_are_missed(call: CallClient, tmp_path: Path) -> None:
    write_tiny_pair(tmp_path / "models")
    token = add_key(tmp_path / "keys.json", "lab")
    settings = {"auth": "required", "key_file": tmp_path / "keys.json"}
    with live_service(models=tmp_path / "models", settings=settings) as url:
        assert call(url, "score", RED, client={"api_key": token}).verdict == "defect"
        assert call(url, "ready") is True
        for wrong in (None, token[:-1] + "?"):
            with pytest.raises(UnauthorisedError) as caught:
                call(url, "score_many", [RED, GREY], client={"api_key": wrong})
            assert caught.value.status == 401


@pytest.mark.parametrize("url", ["127.0.0.1:3000", "ftp://host", "/v1", ""])
def test_refuses_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="http://"):
        Client(url)


PROGRAM = """
import json, sys
class Blocker:
    BLOCKED = {"onnxruntime", "bentoml", "starlette", "torch", "av", "rich", "click", "prometheus_client", "pydantic"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
import serving.client
print(json.dumps([name for name in sys.modules if name.startswith("serving")]))
"""


def test_needs_httpx_numpy_and_pillow_only() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(
        name in ("serving", "serving.client") or name.startswith("serving.client.") for name in eval(done.stdout)
    )
