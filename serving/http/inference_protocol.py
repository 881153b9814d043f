"""The Open Inference Protocol, version 2, over HTTP: metadata and health of the pairs, and `infer`.

GET  /v2, /v2/health/live, /v2/health/ready
GET  /v2/models[/{name}[/versions/{version}][/ready]]
POST /v2/models/{name}[/versions/{version}]/infer      tensors in, tensors out: `serving.http.infer_tensors`

`infer` is for callers who decode themselves, with a client library of the protocol: the frames must be of the
pair's image size already. Verdicts are not part of it; the operating points are in the pair's metadata. Errors
are problem documents as everywhere, with the protocol's member `error` beside the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.batching import ScoredFrame
from serving.errors import PipeprobeError
from serving.http.admission import admitted
from serving.http.bodies import read_tensors
from serving.http.infer_tensors import HEADER_LENGTH, InferRequest, encode_answer, parse_request
from serving.http.problem import answer_error
from serving.http.routing import engine_of
from serving.pairs.lanes import Lane
from serving.pairs.versions import version_of
from serving.scorer import Scores

Handler = Callable[[Request], Awaitable[Response]]


async def server_metadata(request: Request) -> Response:
    """`GET /v2`."""
    return JSONResponse({"name": "pipeprobe", "version": version_of("pipeprobe"), "extensions": ["binary_tensor_data"]})


async def live(request: Request) -> Response:
    """`GET /v2/health/live`."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """`GET /v2/health/ready`."""
    is_ready = engine_of(request).ready
    return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)


async def list_models(request: Request) -> Response:
    """`GET /v2/models`: the pairs that are served."""
    engine = engine_of(request)
    models = [{"name": lane.name, "version": lane.version, "default": lane is engine.default} for lane in engine.lanes]
    return JSONResponse({"models": sorted(models, key=lambda model: not model["default"])})


async def model_metadata(request: Request) -> Response:
    """`GET /v2/models/{name}[/versions/{version}]`."""
    lane = _named_lane(request)
    manifest, scorer = lane.manifest, lane.scorer
    side, map_shape = manifest.image_size, list(manifest.evidence_shape)
    outputs = {"score": [], "logit": [], "embedding": [manifest.feature_dim], "evidence": map_shape}
    return JSONResponse(
        {
            "name": manifest.name,
            "versions": engine_of(request).lanes.versions(manifest.name),
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "frames", "datatype": "UINT8", "shape": [-1, side, side, 3]}],
            "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, *shape]} for name, shape in outputs.items()],
            "properties": {
                "version": manifest.version,
                "encoder": manifest.encoder,
                "method": manifest.method,
                "variant": scorer.variant,
                "device": scorer.device,
                "provider": scorer.provider,
                "validated_on": manifest.validated_on,
                "default_operating_point": manifest.default_operating_point,
                "operating_points": {name: point.to_json() for name, point in manifest.operating_points.items()},
                "metrics": [metric.to_json() for metric in manifest.metrics],
                # What a batch that is scored over HTTP must know, and is known by.
                "manifest": manifest.to_json(),
                "manifest_sha256": scorer.manifest_sha256,
            },
        }
    )


async def model_ready(request: Request) -> Response:
    """`GET /v2/models/{name}[/versions/{version}]/ready`."""
    lane = _named_lane(request)
    is_ready = lane.batcher.alive
    return JSONResponse({"name": lane.name, "ready": is_ready}, status_code=200 if is_ready else 503)


async def infer(request: Request) -> Response:
    """`POST /v2/models/{name}[/versions/{version}]/infer`: all frames are scored, or none is answered for."""
    lane = _named_lane(request)
    async with admitted(request, lane) as admission:
        body = await read_tensors(request, admission.budget, admission.settings)
        most = admission.settings.max_batch_frames
        asked = parse_request(request.headers.get(HEADER_LENGTH), body, lane.manifest, most)
        del body
        outcomes = await admission.score(asked.frames, prepare=asked.as_frame)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        scored = [outcome for outcome in outcomes if isinstance(outcome, ScoredFrame)]
        return admission.answered(_answer(asked, lane, scored))


def _answer(asked: InferRequest, lane: Lane, frames: list[ScoredFrame]) -> Response:
    point = lane.operating_point(None)
    for frame in frames:
        lane.telemetry.scored(frame.score, point.name, "defect" if frame.score >= point.threshold else "normal")
        lane.telemetry.stage("decode", frame.decode_s)
        lane.telemetry.stage("queue", frame.queue_s)
        lane.telemetry.stage("infer", frame.infer_s)
    scores = Scores(
        score=np.array([frame.score for frame in frames], np.float32),
        logit=np.array([frame.logit for frame in frames], np.float32),
        embedding=np.stack([frame.embedding for frame in frames]),
        evidence=np.stack([frame.evidence for frame in frames]),
    )
    body, header_length = encode_answer(asked, scores, name=lane.name, version=lane.version)
    if header_length is None:
        return Response(body, media_type="application/json")
    return Response(body, media_type="application/octet-stream", headers={HEADER_LENGTH: str(header_length)})


def _named_lane(request: Request) -> Lane:
    lane = engine_of(request).lanes.find(request.path_params["name"], request.path_params.get("version"))
    request.state.pair = (lane.name, lane.version)
    return lane


def _with_error_member(handler: Handler) -> Handler:
    """The handler, its problem documents with the member `error` that the protocol's clients look for."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except PipeprobeError as error:
            return await answer_error(request, error, is_inference=True)

    return handle


_HANDLERS: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/v2", server_metadata),
    ("GET", "/v2/health/live", live),
    ("GET", "/v2/health/ready", ready),
    ("GET", "/v2/models", list_models),
    ("GET", "/v2/models/{name}", model_metadata),
    ("GET", "/v2/models/{name}/ready", model_ready),
    ("POST", "/v2/models/{name}/infer", infer),
    ("GET", "/v2/models/{name}/versions/{version}", model_metadata),
    ("GET", "/v2/models/{name}/versions/{version}/ready", model_ready),
    ("POST", "/v2/models/{name}/versions/{version}/infer", infer),
)
ROUTES = tuple((method, path, _with_error_member(handler)) for method, path, handler in _HANDLERS)
"""Method, path and handler of each route."""
