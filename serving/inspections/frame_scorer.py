"""What a batch of inspections needs of whatever scores its frames: a session here, or a service elsewhere.

Shape legend: N frames, S image side, h w evidence map.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.pairs.manifest import Manifest


class FrameScores(Protocol):
    """What a pair says about N frames, in their order; all float32: score [N], logit [N], evidence [N, h, w]."""

    @property
    def score(self) -> NDArray[np.float32]: ...

    @property
    def logit(self) -> NDArray[np.float32]: ...

    @property
    def evidence(self) -> NDArray[np.float32]: ...


class ScorerIdentity(Protocol):
    """A variant of a pair on a kind of device, whether it is open here or not.

    It decides which finished videos a later call keeps, so that two scorers that give the same scores should say the
    same.
    """

    @property
    def manifest(self) -> Manifest: ...

    @property
    def manifest_sha256(self) -> str: ...

    @property
    def variant(self) -> str: ...

    @property
    def device(self) -> str: ...


class FrameScorer(ScorerIdentity, Protocol):
    """What scores: `serving.scorer.Scorer`, or `serving.inspections.remote_scorer.RemoteScorer`."""

    def score(self, frames: NDArray[np.uint8]) -> FrameScores:
        """Score frames, uint8 [N, S, S, 3]."""
        ...
