"""Frames scored by the HTTP service, for batches whose machine has better things to do than inference.

Frames travel as they go into the model, uint8 at the pair's size, and scores come back with the nine digits that tell a
float32 from all others: what is written is what a session here would have written. That holds up to how far a score
depends on its batch (`serving.scorer.BATCH_ATOL`), which is not at all where kernels sum in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serving.client import (
    BadAnswerError,
    Client,
    ClientError,
    ConnectionFailedError,
    ServiceError,
    TimedOutError,
    UnauthorisedError,
)
from serving.client.results import PairFacts
from serving.client.retries import Retries
from serving.errors import ConfigError, PairInvalidError, ScoringError
from serving.pairs.manifest import Manifest

# A batch may wait until a service was restarted, or until others' frames are through. The time bounds how often it is
# tried: with the client's own waits of 5 s on average, it never comes to so many.
_DEADLINE_S = 300.0
_RETRIES = Retries(max_retries=1000)
# A service that was never there is rather a misspelt URL; one that stayed away is looked for before each further video.
_START_S, _LOOK_S = 20.0, 5.0
_LATER = "run the command again when it is back: what is done is kept"


API_KEY_VARIABLE = "PIPEPROBE_API_KEY"
"""Where the key for the service is found; not an argument, which every list of processes shows."""


@dataclass(frozen=True, kw_only=True)
class RemoteScores:
    """Of N frames, float32: score [N], logit [N], evidence [N, h, w]."""

    score: NDArray[np.float32]
    logit: NDArray[np.float32]
    evidence: NDArray[np.float32]


class RemoteScorer:
    """The pair of a service as a `FrameScorer`; close it, or use it in a `with`.

    The version that is found at the start is asked for by name until the end, also if another is promoted meanwhile.

    Args:
        url: where the service is.
        reference: NAME or NAME@VERSION; None is the service's default pair.
        variant: what the service must score with; None takes what it has.
        api_key: sent as a Bearer token.

    Raises `ConfigError` if the service cannot be reached, refuses the key, or serves no such pair or variant.
    """

    def __init__(
        self, url: str, *, reference: str | None = None, variant: str | None = None, api_key: str | None = None
    ) -> None:
        self._url, self._api_key = url, api_key
        self._is_away = False
        try:
            self._client = Client(url, api_key=api_key, deadline_s=_DEADLINE_S, retries=_RETRIES)
        except ValueError as error:
            raise ConfigError(f"--server {url}: {error}") from error
        try:
            with Client(url, api_key=api_key, deadline_s=_START_S) as client:
                facts = self._facts(client, reference)
            self.manifest = _manifest(facts, url)
            if variant not in (None, facts.variant):
                raise ConfigError(f"the service at {url} scores with {facts.variant}, not with {variant}: leave it out")
        except BaseException:
            self.close()
            raise
        self.manifest_sha256 = facts.manifest_sha256
        self.variant = facts.variant
        self.device = facts.device

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def score(self, frames: NDArray[np.uint8]) -> RemoteScores:
        """Score frames, uint8 [N, S, S, 3].

        Raises `ScoringError` if the service stays away, overloaded or broken, and `ConfigError` if it would refuse
        those of every other video as well.
        """
        manifest = self.manifest
        if self._is_away:
            self._look()
        try:
            scores = self._client.score_raw(frames, pair=manifest.name, version=manifest.version, evidence=True)
        except ClientError as error:
            if not _concerns_now_alone(error):
                raise self._refused(error) from error
            self._is_away = True
            raise ScoringError(
                f"the service at {self._url} does not score its frames now: {error}; {_LATER}"
            ) from error
        maps = [each.evidence for each in scores if each.evidence is not None]
        evidence = np.stack(maps) if maps else np.zeros((0, *manifest.evidence_shape), np.float32)
        if evidence.shape != (len(frames), *manifest.evidence_shape):
            raise ConfigError(
                f"the service at {self._url} answers with evidence of {evidence.shape}, not of the pair's"
            )
        return RemoteScores(
            score=np.array([each.score for each in scores], np.float32),
            logit=np.array([each.logit for each in scores], np.float32),
            evidence=evidence,
        )

    def _facts(self, client: Client, reference: str | None) -> PairFacts:
        name, _, version = (reference or "").partition("@")
        try:
            if not name:
                default = next((model for model in client.models() if model.default), None)
                if default is None:
                    raise ConfigError(f"the service at {self._url} has no default pair: name one with --pair")
                name, version = default.name, default.version
            return client.pair_facts(name, version or None)
        except ClientError as error:
            raise self._refused(error) from error

    def _look(self) -> None:
        """Raise `ScoringError` if the service is still away: a batch does not wait for it again at each video."""
        with Client(self._url, api_key=self._api_key, timeout_s=_LOOK_S, deadline_s=_LOOK_S) as client:
            self._is_away = not client.ready()
        if self._is_away:
            raise ScoringError(f"the service at {self._url} is still away; {_LATER}")

    def _refused(self, error: ClientError) -> ConfigError:
        if isinstance(error, UnauthorisedError):
            given = "another API key than the one in" if self._api_key else "an API key: set"
            return ConfigError(f"the service at {self._url} wants {given} {API_KEY_VARIABLE} ({error})")
        return ConfigError(
            f"the service at {self._url} does not score these frames: {error}. What is done is kept: run it again when "
            "the service is back, or leave --server out to score here"
        )


def _concerns_now_alone(error: ClientError) -> bool:
    """Whether the same request may be answered later; not if it was understood and refused."""
    if isinstance(error, ServiceError):
        return error.status >= 500 or error.status == HTTPStatus.TOO_MANY_REQUESTS
    return isinstance(error, ConnectionFailedError | TimedOutError | BadAnswerError)


def _manifest(facts: PairFacts, url: str) -> Manifest:
    try:
        return Manifest.from_json(dict(facts.manifest))
    except PairInvalidError as error:
        raise ConfigError(f"the service at {url} describes its pair as another release does: {error}") from error
