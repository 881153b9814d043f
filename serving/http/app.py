"""The HTTP routes: what goes in and out of the engine. Mounted into BentoML by `serving.service`.

POST /v1/score[/batch|/raw]             frames to verdicts: `serving.http.scoring_routes`
     /v1/videos[/...]                   whole videos, as jobs: `serving.jobs.routes`
*    /v2/...                            Open Inference Protocol: `serving.http.inference_protocol`
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

from serving.engine import Engine
from serving.errors import PipeprobeError
from serving.http import inference_protocol
from serving.http.openapi import docs_page, home_page, openapi_document
from serving.http.problem import answer_disconnect, answer_error
from serving.http.routing import engine_of
from serving.http.scoring_routes import score_batch, score_one, score_raw
from serving.jobs.desk import JobDesk, NoDesk
from serving.jobs.routes import ROUTES as JOB_ROUTES
from serving.monitoring.telemetry import CONTENT_TYPE_LATEST

Handler = Callable[[Request], Awaitable[Response]]


def create_app() -> Starlette:
    """The mounted application; `app.state.engine` and `app.state.jobs` must be set before its lifespan begins."""
    routes: list[tuple[str, str, Handler]] = [
        ("POST", "/v1/score", score_one),
        ("POST", "/v1/score/batch", score_batch),
        ("POST", "/v1/score/raw", score_raw),
        *JOB_ROUTES,
        *inference_protocol.ROUTES,
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


async def metrics(request: Request) -> Response:
    """`GET /metrics`, of all workers together."""
    page = await run_in_threadpool(engine_of(request).telemetry.exposition)
    return Response(page, media_type=CONTENT_TYPE_LATEST)


async def openapi(request: Request) -> Response:
    """`GET /docs.json`."""
    return JSONResponse(openapi_document(engine_of(request).settings))


async def docs(request: Request) -> Response:
    """`GET /docs`."""
    return HTMLResponse(docs_page())


async def home(request: Request) -> Response:
    """`GET /`."""
    return HTMLResponse(home_page([lane.manifest for lane in engine_of(request).lanes]))


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    engine: Engine = app.state.engine
    jobs: JobDesk | NoDesk = app.state.jobs
    engine.start()
    jobs.start()
    try:
        yield
    finally:
        await run_in_threadpool(jobs.stop)
        await engine.stop()


def _named(path: str, handler: Handler) -> Handler:
    """The handler, leaving its route's template where metrics are counted."""

    async def handle(request: Request) -> Response:
        request.state.route = path
        return await handler(request)

    return handle
