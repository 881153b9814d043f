"""The HTTP routes: what goes in and out of the engine. Mounted into BentoML by `serving.service`.

POST /v1/score[/batch]                  frames to verdicts: `serving.scoring_routes`
GET  /v2, /v2/health/live, /v2/health/ready, /v2/models[/{name}[/versions/{version}][/ready]]
                                        Open Inference Protocol metadata
GET  /metrics, /docs.json, /docs, /     Prometheus, OpenAPI, its page, and a page for people
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from serving.engine import Engine, Lane
from serving.errors import PairNotFoundError, PipeprobeError
from serving.openapi import docs_page, home_page, openapi_document, package_version
from serving.problem import answer_disconnect, answer_error
from serving.scoring_routes import score_batch, score_one
from serving.telemetry import CONTENT_TYPE_LATEST

Handler = Callable[[Request], Awaitable[Response]]


def create_app() -> Starlette:
    """The mounted application; `app.state.engine` must be set before its lifespan begins."""
    routes: list[tuple[str, str, Handler]] = [
        ("POST", "/v1/score", score_one),
        ("POST", "/v1/score/batch", score_batch),
        ("GET", "/v2", server_metadata),
        ("GET", "/v2/health/live", live),
        ("GET", "/v2/health/ready", ready),
        ("GET", "/v2/models", list_models),
        ("GET", "/v2/models/{name}", model_metadata),
        ("GET", "/v2/models/{name}/ready", model_ready),
        ("GET", "/v2/models/{name}/versions/{version}", model_metadata),
        ("GET", "/v2/models/{name}/versions/{version}/ready", model_ready),
        ("GET", "/metrics", metrics),
        ("GET", "/docs.json", openapi),
        ("GET", "/docs", docs),
        ("GET", "/", home),
    ]
    return Starlette(
        routes=[Route(path, _named(path, handler), methods=[method]) for method, path, handler in routes],
        exception_handlers={PipeprobeError: answer_error, ClientDisconnect: answer_disconnect},
        lifespan=_lifespan,
    )


async def server_metadata(request: Request) -> Response:
    """`GET /v2`."""
    return JSONResponse({"name": "pipeprobe", "version": package_version(), "extensions": []})


async def live(request: Request) -> Response:
    """`GET /v2/health/live`."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """`GET /v2/health/ready`."""
    is_ready = _engine(request).ready
    return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)


async def list_models(request: Request) -> Response:
    """`GET /v2/models`: the pairs that are served."""
    engine = _engine(request)
    models = [
        {"name": lane.name, "version": lane.version, "default": lane is engine.default}
        for lane in engine.lanes.values()
    ]
    return JSONResponse({"models": models})


async def model_metadata(request: Request) -> Response:
    """`GET /v2/models/{name}[/versions/{version}]`."""
    lane = _named_lane(request)
    manifest, scorer = lane.manifest, lane.scorer
    side, map_shape = manifest.image_size, list(manifest.evidence_shape)
    outputs = {"score": [], "logit": [], "embedding": [manifest.feature_dim], "evidence": map_shape}
    return JSONResponse(
        {
            "name": manifest.name,
            "versions": [manifest.version],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "frames", "datatype": "UINT8", "shape": [-1, side, side, 3]}],
            "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, *shape]} for name, shape in outputs.items()],
            "properties": {
                "encoder": manifest.encoder,
                "method": manifest.method,
                "variant": scorer.variant,
                "device": scorer.device,
                "provider": scorer.provider,
                "validated_on": manifest.validated_on,
                "default_operating_point": manifest.default_operating_point,
                "operating_points": {name: point.to_json() for name, point in manifest.operating_points.items()},
                "metrics": [metric.to_json() for metric in manifest.metrics],
            },
        }
    )


async def model_ready(request: Request) -> Response:
    """`GET /v2/models/{name}[/versions/{version}]/ready`."""
    lane = _named_lane(request)
    is_ready = lane.batcher.alive
    return JSONResponse({"name": lane.name, "ready": is_ready}, status_code=200 if is_ready else 503)


async def metrics(request: Request) -> Response:
    """`GET /metrics`, of all workers together."""
    page = await run_in_threadpool(_engine(request).telemetry.exposition)
    return Response(page, media_type=CONTENT_TYPE_LATEST)


async def openapi(request: Request) -> Response:
    """`GET /docs.json`."""
    return JSONResponse(openapi_document(_engine(request).settings))


async def docs(request: Request) -> Response:
    """`GET /docs`."""
    return HTMLResponse(docs_page())


async def home(request: Request) -> Response:
    """`GET /`."""
    return HTMLResponse(home_page([lane.manifest for lane in _engine(request).lanes.values()]))


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    engine: Engine = app.state.engine
    engine.start()
    try:
        yield
    finally:
        await run_in_threadpool(engine.stop)


def _named(path: str, handler: Handler) -> Handler:
    """The handler, leaving its route's template where metrics are counted."""

    async def handle(request: Request) -> Response:
        request.state.route = path
        return await handler(request)

    return handle


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _named_lane(request: Request) -> Lane:
    lane = _engine(request).lane(request.path_params["name"])
    version = request.path_params.get("version", lane.version)
    if version != lane.version:
        raise PairNotFoundError(
            f"version {version[:50]!r} of pair {lane.name} is not served here; served: {lane.version}"
        )
    request.state.pair = (lane.name, lane.version)
    return lane
