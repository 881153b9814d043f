"""What the client returns. Shape legend: h w evidence map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving.client.errors import BadAnswerError, ClientError


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the service says about one frame.

    `score` is a calibrated probability in [0, 1]; `verdict` compares it with `threshold`, that of the
    `operating_point`. `evidence`, if asked for, is float32 [h, w]: where the score comes from. `name` is the
    file's name, or empty. Times are in milliseconds, as the service measured them.
    """

    name: str
    verdict: Literal["defect", "normal"]
    score: float
    logit: float
    operating_point: str
    threshold: float
    pair: str
    pair_version: str
    request_id: str
    timings_ms: Mapping[str, float]
    evidence: NDArray[np.float32] | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Stands in a frame's place when it could not be scored; the other frames are not affected."""

    name: str
    error: ClientError


@dataclass(frozen=True, kw_only=True)
class Model:
    """A pair that is served."""

    name: str
    version: str
    default: bool


@dataclass(frozen=True, kw_only=True)
class PairFacts:
    """What a served pair is: its manifest as JSON, that file's SHA-256, and the variant and device that score."""

    manifest: Mapping[str, Any] = field(repr=False)
    manifest_sha256: str
    variant: str
    device: str


def score_of(result: Mapping[str, Any], about: Mapping[str, Any], name: str) -> Score:
    """A frame's members of an answer, and those that the whole answer has in common, as a `Score`."""
    try:
        evidence = result.get("evidence")
        return Score(
            name=name,
            verdict=_verdict(result["verdict"]),
            score=float(result["score"]),
            logit=float(result["logit"]),
            operating_point=str(about["operating_point"]),
            threshold=float(about["threshold"]),
            pair=str(about["pair"]),
            pair_version=str(about["pair_version"]),
            request_id=str(about["request_id"]),
            timings_ms={str(stage): float(value) for stage, value in result["timings_ms"].items()},
            evidence=None if evidence is None else _evidence(evidence),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadAnswerError(f"the answer holds no score as pipeprobe gives it: {error!r}") from error


def _verdict(value: str) -> Literal["defect", "normal"]:
    if value == "defect":
        return "defect"
    if value == "normal":
        return "normal"
    raise ValueError(f"verdict {value!r}")


def _evidence(value: Mapping[str, Any]) -> NDArray[np.float32]:
    return np.asarray(value["values"], np.float32).reshape(value["shape"])
