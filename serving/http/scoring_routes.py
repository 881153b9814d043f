"""The scoring routes: frames in, verdicts out, a problem in the place of each frame that cannot be scored.

POST /v1/score                          one frame: raw body, or multipart field `file`
POST /v1/score/batch                    many frames: the files of a multipart body
POST /v1/score/raw                      many frames that the caller decoded and resized: an .npy file
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.batching import ScoredFrame
from serving.engine import Engine
from serving.errors import PipeprobeError, RequestError
from serving.http.admission import Admission, admitted
from serving.http.bodies import read_batch, read_frame, read_raw
from serving.http.npy import to_frame
from serving.http.problem import problem_of
from serving.http.routing import engine_of
from serving.pairs.lanes import Lane
from serving.pairs.manifest import OperatingPoint

_OPTIONS = ("pair", "version", "operating_point", "evidence")
_SWITCH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class _Ask:
    """What a scoring request asks for besides its frames."""

    lane: Lane
    point: OperatingPoint
    evidence: bool

    @property
    def about(self) -> dict[str, Any]:
        return {
            "operating_point": self.point.name,
            "threshold": self.point.threshold,
            "pair": self.lane.name,
            "pair_version": self.lane.version,
        }


async def score_one(request: Request) -> Response:
    """`POST /v1/score`."""
    ask = _ask(request)
    async with admitted(request, ask.lane) as admission:
        data = await read_frame(request, admission.budget, admission.settings)
        (outcome,) = await admission.score([data])
        if isinstance(outcome, BaseException):
            raise outcome
        timings = _milliseconds(
            read=admission.read_s,
            decode=outcome.decode_s,
            queue=outcome.queue_s,
            infer=outcome.infer_s,
            total=admission.total_s,
        )
        about = ask.about | {"request_id": request.state.request_id, "timings_ms": timings}
        return admission.answered(JSONResponse(_result(ask, outcome) | about))


async def score_batch(request: Request) -> Response:
    """`POST /v1/score/batch`: 200 with a result or a problem for each frame, in the order of the request."""
    ask = _ask(request)
    async with admitted(request, ask.lane) as admission:
        uploads = await read_batch(request, admission.budget, admission.settings)
        outcomes = await admission.score([upload.data for upload in uploads])
        return _answer_batch(request, ask, admission, [upload.name for upload in uploads], outcomes)


async def score_raw(request: Request) -> Response:
    """`POST /v1/score/raw`: as `score_batch`, of uint8 frames [N, S, S, 3] or one [S, S, 3] at the pair's size S."""
    ask = _ask(request)
    side = ask.lane.manifest.image_size
    async with admitted(request, ask.lane) as admission:
        frames = await read_raw(request, admission.budget, admission.settings, side)
        outcomes = await admission.score(frames, prepare=lambda data: to_frame(data, side))
        return _answer_batch(request, ask, admission, [""] * len(frames), outcomes)


def _ask(request: Request) -> _Ask:
    """Read the query; raises `RequestError`, `PairNotFoundError`, `OperatingPointNotFoundError`."""
    query = request.query_params
    for key in query:
        if key not in _OPTIONS:
            raise RequestError(f"unknown query parameter {key[:50]!r}; there are {', '.join(_OPTIONS)}")
    evidence = _SWITCH.get(query.get("evidence", "false").lower())
    if evidence is None:
        raise RequestError(f"evidence={query['evidence'][:50]!r} is neither true nor false")
    lane = engine_of(request).lanes.find(query.get("pair"), query.get("version"))
    request.state.pair = (lane.name, lane.version)
    return _Ask(lane=lane, point=lane.operating_point(query.get("operating_point")), evidence=evidence)


def _result(ask: _Ask, scored: ScoredFrame) -> dict[str, Any]:
    verdict = "defect" if scored.score >= ask.point.threshold else "normal"
    telemetry = ask.lane.telemetry
    telemetry.scored(scored.score, ask.point.name, verdict)
    telemetry.stage("decode", scored.decode_s)
    telemetry.stage("queue", scored.queue_s)
    telemetry.stage("infer", scored.infer_s)
    result = {"verdict": verdict, "score": _shortest(scored.score), "logit": _shortest(scored.logit)}
    if ask.evidence:
        values = [_shortest(value) for value in scored.evidence.ravel().tolist()]
        result["evidence"] = {"shape": list(scored.evidence.shape), "values": values}
    return result


def _item(engine: Engine, ask: _Ask, outcome: ScoredFrame | BaseException, index: int) -> dict[str, Any]:
    if isinstance(outcome, ScoredFrame):
        timings = _milliseconds(decode=outcome.decode_s, queue=outcome.queue_s, infer=outcome.infer_s)
        return _result(ask, outcome) | {"timings_ms": timings}
    if not isinstance(outcome, PipeprobeError):
        raise outcome
    engine.telemetry.rejected(outcome.slug)
    return {"error": problem_of(outcome, f"frame {index}")}


def _answer_batch(
    request: Request,
    ask: _Ask,
    admission: Admission,
    names: Sequence[str],
    outcomes: Sequence[ScoredFrame | BaseException],
) -> Response:
    engine = engine_of(request)
    results = [
        {"index": index, "name": name} | _item(engine, ask, outcome, index)
        for index, (name, outcome) in enumerate(zip(names, outcomes, strict=True))
    ]
    body = ask.about | {
        "request_id": request.state.request_id,
        "n_frames": len(results),
        "n_failed": sum("error" in result for result in results),
        "results": results,
        "timings_ms": _milliseconds(read=admission.read_s, total=admission.total_s),
    }
    return admission.answered(JSONResponse(body))


def _milliseconds(**seconds: float) -> dict[str, float]:
    return {stage: round(1000 * value, 3) for stage, value in seconds.items()}


def _shortest(value: float) -> float:
    """A float32's value with the nine digits that tell it from all others, not the seventeen of a float64."""
    return float(f"{value:.9g}")
