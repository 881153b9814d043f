"""What both clients do, without doing any I/O: each method here is a generator as `exchange` describes it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray

from serving.client.errors import (
    BadAnswerError,
    ClientError,
    ConnectionFailedError,
    FrameRefusedError,
    Problem,
    ServiceError,
    TimedOutError,
    UnavailableError,
    error_of,
)
from serving.client.exchange import Call, Steps, exchange, json_of
from serving.client.frames import FrameLike, Payload
from serving.client.results import Failure, Model, PairFacts, Score, score_of
from serving.client.retries import Retries

Progress = Callable[[int, int | None], None]
"""Told, after every batch, how many frames are done and of how many; None where nobody knows."""

_OCTETS = "application/octet-stream"


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How `score_many` cuts its frames into requests, and how many of those are under way at once.

    The service takes 64 frames and 64 MiB a request by default. A batch that it finds too large is halved.
    """

    max_frames: int = 32
    max_bytes: int = 16 * 2**20
    concurrency: int = 4

    def __post_init__(self) -> None:
        if min(self.max_frames, self.max_bytes, self.concurrency) < 1:
            raise ValueError(f"frames, bytes and concurrency must be positive: {self}")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked for besides the score; absent names mean the service's defaults."""

    pair: str | None = None
    version: str | None = None
    operating_point: str | None = None
    evidence: bool = False

    def params(self) -> dict[str, str]:
        given = {"pair": self.pair, "version": self.version, "operating_point": self.operating_point}
        params = {name: value for name, value in given.items() if value is not None}
        return params | ({"evidence": "true"} if self.evidence else {})


@dataclass(frozen=True, kw_only=True)
class Core:
    """What a client was told when it was made.

    Args:
        timeout_s: longest silence of the service during an attempt; also of making a connection.
        deadline_s: longest time for a request with all its retries.
    """

    url: httpx.URL
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float
    connect_timeout_s: float
    deadline_s: float
    retries: Retries
    batching: Batching

    def __post_init__(self) -> None:
        if self.url.scheme not in ("http", "https") or not self.url.host:
            raise ValueError(f"the service's address must begin with http:// or https://, got {str(self.url)!r}")
        if min(self.timeout_s, self.connect_timeout_s, self.deadline_s) <= 0:
            raise ValueError("timeouts and the deadline must be positive")

    def timeout(self, remaining_s: float) -> httpx.Timeout:
        """The limits of an attempt that has `remaining_s` left."""
        return httpx.Timeout(min(self.timeout_s, remaining_s), connect=min(self.connect_timeout_s, remaining_s))

    def score(self, payload: Payload, options: Options) -> Steps[Score]:
        call = Call(
            method="POST",
            path="/v1/score",
            params=options.params(),
            headers={"content-type": _OCTETS},
            content=payload.data,
        )
        reply = yield from exchange(call, deadline_s=self.deadline_s, retries=self.retries)
        body = json_of(reply)
        return score_of(body, body, payload.name)

    def score_batch(self, payloads: Sequence[Payload], options: Options) -> Steps[list[Score | Failure]]:
        """A result for each payload. What concerns the whole call (a wrong key, an unknown pair) is raised."""
        # Nobody's file names leave the machine: order is all that is needed to tell the answers apart.
        files = [("files", (str(index), payload.data, _OCTETS)) for index, payload in enumerate(payloads)]
        call = Call(method="POST", path="/v1/score/batch", params=options.params(), files=files)
        try:
            reply = yield from exchange(call, deadline_s=self.deadline_s, retries=self.retries)
        except FrameRefusedError as error:
            if error.status != 413 or len(payloads) == 1:
                return _failures(payloads, error)
            half = len(payloads) // 2
            first = yield from self.score_batch(payloads[:half], options)
            second = yield from self.score_batch(payloads[half:], options)
            return first + second
        except (ConnectionFailedError, TimedOutError, UnavailableError) as error:
            return _failures(payloads, error)
        body = json_of(reply)
        results = _results_of(body, len(payloads))
        return [_outcome(result, body, payload) for result, payload in zip(results, payloads, strict=True)]

    def score_raw(self, frames: NDArray[np.uint8], options: Options) -> Steps[list[Score]]:
        """A score for each of the frames [N, S, S, 3]; those of the service's smaller requests are sent in halves."""
        if not len(frames):
            return []
        call = Call(
            method="POST",
            path="/v1/score/raw",
            params=options.params(),
            headers={"content-type": _OCTETS},
            content=_npy_of(frames),
        )
        try:
            reply = yield from exchange(call, deadline_s=self.deadline_s, retries=self.retries)
        except FrameRefusedError as error:
            if error.status != 413 or len(frames) == 1:
                raise
            half = len(frames) // 2
            first = yield from self.score_raw(frames[:half], options)
            second = yield from self.score_raw(frames[half:], options)
            return first + second
        body = json_of(reply)
        outcomes = [_outcome(result, body, Payload(name="", data=b"")) for result in _results_of(body, len(frames))]
        scores = []
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                raise outcome.error
            scores.append(outcome)
        return scores

    def pair_facts(self, name: str, version: str | None) -> Steps[PairFacts]:
        path = f"/v2/models/{quote(name, safe='')}"
        path += f"/versions/{quote(version, safe='')}" if version else ""
        reply = yield from exchange(self._get(path), deadline_s=self.deadline_s, retries=self.retries)
        try:
            about = json_of(reply)["properties"]
            return PairFacts(
                manifest=dict(about["manifest"]),
                manifest_sha256=str(about["manifest_sha256"]),
                variant=str(about["variant"]),
                device=str(about["device"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadAnswerError(f"the answer describes no pair as this release does: {error!r}") from error

    def models(self) -> Steps[list[Model]]:
        reply = yield from exchange(self._get("/v2/models"), deadline_s=self.deadline_s, retries=self.retries)
        try:
            return [
                Model(name=str(model["name"]), version=str(model["version"]), default=bool(model["default"]))
                for model in json_of(reply)["models"]
            ]
        except (KeyError, TypeError) as error:
            raise BadAnswerError(f"the answer lists no pairs as pipeprobe does: {error!r}") from error

    def ready(self) -> Steps[bool]:
        """Asked once: whoever wants to wait asks again."""
        try:
            yield from exchange(self._get("/readyz"), deadline_s=self.deadline_s, retries=Retries(max_retries=0))
        except (ServiceError, ConnectionFailedError, TimedOutError):
            return False
        return True

    def _get(self, path: str) -> Call:
        return Call(method="GET", path=path)


class Gathering:
    """The results of `score_many` as they come in, batch by batch, in any order."""

    def __init__(self, frames: Iterable[FrameLike], progress: Progress | None) -> None:
        self._total = len(frames) if isinstance(frames, Sized) else None
        self._progress = progress
        self._results: dict[int, Score | Failure] = {}

    def add(self, indices: Sequence[int], results: Sequence[Score | Failure]) -> None:
        self._results.update(zip(indices, results, strict=True))
        self._report()

    def add_failures(self, failures: Mapping[int, Failure]) -> None:
        if failures:
            self._results.update(failures)
            self._report()

    def in_order(self) -> list[Score | Failure]:
        return [self._results[index] for index in range(len(self._results))]

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(len(self._results), self._total)


def headers_of(api_key: str | None) -> dict[str, str]:
    """The headers of every request. Raises `ValueError` for a key that no header can hold, without showing it."""
    headers = {"user-agent": "pipeprobe-client"}
    if api_key is not None:
        if not (api_key and api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise ValueError("the API key is empty or holds characters that no key has")
        headers["authorization"] = f"Bearer {api_key}"
    return headers


def _npy_of(frames: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(frames), allow_pickle=False)
    return file.getvalue()


def _results_of(body: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    results = body.get("results")
    if not isinstance(results, list) or [r.get("index") for r in results] != list(range(n)):
        raise BadAnswerError(f"the answer does not hold the {n} frames that were sent, in order")
    return results


def _outcome(result: Mapping[str, object], about: Mapping[str, object], payload: Payload) -> Score | Failure:
    problem = result.get("error")
    if problem is None:
        return score_of(result, about, payload.name)
    if not isinstance(problem, dict):
        raise BadAnswerError(f"a frame's error is no problem document: {str(problem)[:200]}")
    request_id = about.get("request_id")
    found = Problem.from_json(problem, request_id=str(request_id) if request_id else None)
    return Failure(name=payload.name, error=error_of(found))


def _failures(payloads: Sequence[Payload], error: ClientError) -> list[Score | Failure]:
    return [Failure(name=payload.name, error=error) for payload in payloads]
