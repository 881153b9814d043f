"""Frames scored by the HTTP service, for batches whose machine has better things to do than inference.

Frames travel as they go into the model, uint8 at the pair's size, and scores come back with the nine digits that tell a
float32 from all others: what is written is what a session here would have written. That holds up to how far a score
depends on its batch (`serving.scorer.BATCH_ATOL`), which is not at all where kernels sum in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serving.client import Client, ClientError, UnauthorisedError
from serving.client.results import PairFacts
from serving.errors import ConfigError, PairInvalidError
from serving.pairs.manifest import Manifest

# A batch may wait until a service was restarted, or until others' frames are through.
_DEADLINE_S = 300.0


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
        self._url = url
        try:
            self._client = Client(url, api_key=api_key, deadline_s=_DEADLINE_S)
        except ValueError as error:
            raise ConfigError(f"--server {url}: {error}") from error
        try:
            facts = self._facts(reference)
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
        """Score frames, uint8 [N, S, S, 3]; `ConfigError` if the service stays away or refuses them."""
        manifest = self.manifest
        try:
            scores = self._client.score_raw(frames, pair=manifest.name, version=manifest.version, evidence=True)
        except ClientError as error:
            raise self._lost(error) from error
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

    def _facts(self, reference: str | None) -> PairFacts:
        name, _, version = (reference or "").partition("@")
        try:
            if not name:
                default = next((model for model in self._client.models() if model.default), None)
                if default is None:
                    raise ConfigError(f"the service at {self._url} has no default pair: name one with --pair")
                name, version = default.name, default.version
            return self._client.pair_facts(name, version or None)
        except ClientError as error:
            raise self._lost(error) from error

    def _lost(self, error: ClientError) -> ConfigError:
        if isinstance(error, UnauthorisedError):
            return ConfigError(f"the service at {self._url} wants another API key (PIPEPROBE_API_KEY): {error}")
        return ConfigError(
            f"the service at {self._url} does not score these frames: {error}. What is done is kept: run it again when "
            "the service is back, or leave --server out to score here"
        )


def _manifest(facts: PairFacts, url: str) -> Manifest:
    try:
        return Manifest.from_json(dict(facts.manifest))
    except PairInvalidError as error:
        raise ConfigError(f"the service at {url} describes its pair as another release does: {error}") from error
