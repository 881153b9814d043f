"""Many callers at once, sound and damaged frames, some who hang up: everybody gets their own answer and only theirs.

Scores must equal those of the bare scorer within 1e-6, whichever frames met in a batch. `BATCH_ATOL` promises less,
for processors whose kernels differ by batch size; on an AMD EPYC with AVX-512, fp32 and int8 scores of the tiny and of
the shipped pair were the same to the last bit at every batch size from 1 to 32.
"""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.live_service import live_service
from support.tiny_pair import random_frames, write_tiny_pair

from serving.frames import decode_bytes
from serving.pairs.pair import find_pair
from serving.scorer import Scorer

SIZE, SIDE_LIMIT, MAX_BATCH = 32, 100, 6
ATOL = 1e-6
# Of many frames those whose scores tell them apart.
FAR_APART = 1e-3

BAD = {"empty": 422, "junk": 415, "cut": 422, "huge": 413}
"""Kinds of frames that cannot be scored, and the status of their problem."""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A frame, as a file and as pixels, and its score alone."""

    file: bytes
    pixels: np.ndarray
    score: float


@dataclass(frozen=True)
class Pool:
    url: str
    frames: list[Sound]


def encoded(frame: np.ndarray, kind: str) -> bytes:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return data.getvalue()


def sound_frames(scorer: Scorer) -> list[Sound]:
    """Frames of many scores: PNG files at the model's size, and larger JPEG files that are resized."""
    files = [encoded(frame, "PNG") for frame in random_frames(60, SIZE, seed=3)]
    files += [encoded(frame, "JPEG") for frame in random_frames(60, 2 * SIZE, seed=4)]
    kept: list[Sound] = []
    for file in files:
        pixels = decode_bytes(file, SIZE)
        score = float(scorer.score(pixels[None]).score[0])
        if all(abs(score - other.score) > FAR_APART for other in kept):
            kept.append(Sound(file=file, pixels=pixels, score=score))
    return kept


@pytest.fixture(scope="module", params=["fp32", "int8"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    models = tmp_path_factory.mktemp("models")
    write_tiny_pair(models, size=SIZE, variants=("fp32", "int8"))
    frames = sound_frames(Scorer(find_pair(models, "tiny"), variant=request.param, threads=1))
    assert len(frames) >= 20
    limits = {"max_pixels": SIDE_LIMIT**2, "max_batch_frames": MAX_BATCH, "deadline_s": 60, "max_queue": 10_000}
    with live_service(models=models, settings=limits | {"variant": request.param}) as url:
        yield Pool(url, frames)


Frame = int | str
"""A place in the pool, or a kind of bad frame."""

_frame = st.one_of(st.integers(0, 19), st.sampled_from(sorted(BAD)))
_request = st.one_of(
    st.tuples(st.just("one"), st.lists(_frame, min_size=1, max_size=1)),
    st.tuples(st.just("batch"), st.lists(_frame, min_size=1, max_size=MAX_BATCH)),
    st.tuples(st.just("raw"), st.lists(st.integers(0, 19), min_size=1, max_size=MAX_BATCH)),
    st.tuples(st.just("hang up"), st.lists(_frame, min_size=1, max_size=MAX_BATCH)),
)
_marks = itertools.count()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.lists(_request, min_size=1, max_size=6), min_size=8, max_size=16))
def test_every_answer_belongs_to_its_request(pool: Pool, callers: list[list[tuple[str, list[Frame]]]]) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(base_url=pool.url, timeout=60) as client:
            await asyncio.gather(*(call(client, pool.frames, requests) for requests in callers))

    asyncio.run(main())


async def call(client: httpx.AsyncClient, frames: list[Sound], requests: list[tuple[str, list[Frame]]]) -> None:
    """One caller's requests, one after the other."""
    for kind, wanted in requests:
        mark = f"{next(_marks):08d}"
        headers = {"x-request-id": f"id-{mark}"}
        payloads = [payload_of(frames, frame, mark) for frame in wanted]
        files = [("files", (f"{mark}-{i}", payload, "image/png")) for i, payload in enumerate(payloads)]
        if kind == "hang up":
            request = asyncio.ensure_future(client.post("/v1/score/batch", files=files, headers=headers))
            await asyncio.sleep(0.002 * len(wanted))
            request.cancel()
            await asyncio.wait([request])
            continue
        if kind == "one":
            response = await client.post("/v1/score", content=payloads[0], headers=headers)
        elif kind == "batch":
            response = await client.post("/v1/score/batch", files=files, headers=headers)
        else:
            data = io.BytesIO()
            np.save(data, np.stack([frames[place].pixels for place in wanted if isinstance(place, int)]))
            response = await client.post("/v1/score/raw", content=data.getvalue(), headers=headers)
        assert response.json()["request_id"] == headers["x-request-id"] == response.headers["x-request-id"]
        check(response, kind, frames, wanted, mark)


def payload_of(frames: list[Sound], frame: Frame, mark: str) -> bytes:
    if isinstance(frame, int):
        return frames[frame].file
    if frame == "huge":
        return encoded(np.zeros((SIDE_LIMIT + 1, SIDE_LIMIT, 3), np.uint8), "PNG")
    return {"empty": b"", "junk": mark.encode(), "cut": frames[0].file[:200]}[frame]


def check(response: httpx.Response, kind: str, frames: list[Sound], wanted: list[Frame], mark: str) -> None:
    answer = response.json()
    if kind == "one":
        results = [answer if response.status_code == 200 else {"error": answer}]
        if isinstance(wanted[0], str):
            assert response.status_code == BAD[wanted[0]]
    else:
        assert response.status_code == 200, answer
        results = answer["results"]
        assert [result["index"] for result in results] == list(range(len(wanted)))
        names = [f"{mark}-{i}" if kind == "batch" else "" for i in range(len(wanted))]
        assert [result["name"] for result in results] == names
        assert answer["n_failed"] == sum(isinstance(frame, str) for frame in wanted)
    for frame, result in zip(wanted, results, strict=True):
        if isinstance(frame, int):
            assert result["score"] == pytest.approx(frames[frame].score, abs=ATOL, rel=0)
        else:
            assert result["error"]["status"] == BAD[frame]
            if frame == "junk":
                assert mark in result["error"]["detail"]


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (lambda data: data[:-1], 400),
        (lambda data: data + b"x", 400),
        (lambda data: data[:60], 400),
        (lambda data: b"", 400),
        (lambda data: b"\x80\x04" + data, 400),
    ],
)
def test_raw_files_must_be_exactly_as_long_as_they_say(pool: Pool, spoil, status: int) -> None:  # type: ignore[no-untyped-def]
    file = io.BytesIO()
    np.save(file, pool.frames[0].pixels)
    data = spoil(file.getvalue())
    for body in (data, iter([data[:50], data[50:]])):  # with a declared length, and in chunks without one
        response = httpx.post(f"{pool.url}/v1/score/raw", content=body, timeout=20)
        assert (response.status_code, response.json()["type"]) == (status, "urn:pipeprobe:problem:bad-request")


def test_raw_takes_one_frame_without_a_batch_and_no_more_than_allowed(pool: Pool) -> None:
    def ask(array: np.ndarray) -> httpx.Response:
        file = io.BytesIO()
        np.save(file, array)
        return httpx.post(f"{pool.url}/v1/score/raw?evidence=true", content=file.getvalue(), timeout=20)

    answer = ask(pool.frames[0].pixels).json()
    assert answer["n_frames"] == 1
    assert answer["results"][0]["score"] == pytest.approx(pool.frames[0].score, abs=ATOL)
    assert answer["results"][0]["evidence"]["shape"] == [4, 4]
    assert ask(np.zeros((MAX_BATCH + 1, SIZE, SIZE, 3), np.uint8)).status_code == 413
    assert "[N, 32, 32, 3]" in ask(np.zeros((1, SIZE, SIZE + 1, 3), np.uint8)).json()["detail"]
