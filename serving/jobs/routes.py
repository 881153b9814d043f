"""Video jobs over HTTP.

POST   /v1/videos                    a video (raw body, or the file of a multipart form), or JSON {"path": ...}
GET    /v1/videos                    the caller's jobs, the latest first, page by page
GET    /v1/videos/{id}               state and progress
GET    /v1/videos/{id}/result        the findings of a job that is done
GET    /v1/videos/{id}/files/{name}  any file that it has made
DELETE /v1/videos/{id}               end a job that waits or runs; delete one that has ended
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from serving.errors import (
    BodyTooLargeError,
    ConfigError,
    DeadlineExceededError,
    JobError,
    JobNotFoundError,
    RequestError,
)
from serving.http.routing import engine_of
from serving.inspections.text_reader import is_installed
from serving.inspections.video_settings import VideoSettings
from serving.jobs.desk import JobDesk, NoDesk, Wish, new_id
from serving.jobs.documents import BASE, describe, page_link
from serving.jobs.job import JOB_STATES, Job

_NUMBERS = ("every_s", "every_m", "min_duration_s", "join_gap_s")
OPTIONS = ("pair", "version", "operating_point", "distance", *_NUMBERS, "repeat_stills", "name")
_PAGE, _MAX_PAGE = 50, 500
_JSON_BYTES = 64 * 1024
_CANCEL_WAIT_S = 8.0
_KEY = re.compile(r"[!-~]{1,200}")

# Content types by ending: guessing would differ from system to system.
_MEDIA_TYPES = {".json": "application/json", ".csv": "text/csv; charset=utf-8", ".jpg": "image/jpeg"}

Handler = Callable[[Request], Awaitable[Response]]


async def submit(request: Request) -> Response:
    """`POST /v1/videos`: 202 with the job and where to ask for it."""
    desk = _desk(request)
    wish = _wish(request)
    await run_in_threadpool(desk.check_may_submit, wish)
    job_id = new_id()
    if _media_type(request) == "application/json":
        path = await _read_path(request, desk.settings.deadline_s)
        job, is_new = await run_in_threadpool(desk.submit_path, job_id, path, wish)
    else:
        async with desk.receive(request, job_id, request.query_params.get("name", "")) as received:
            job, is_new = await run_in_threadpool(desk.submit_upload, job_id, received, wish)
    headers = {"Location": f"{BASE}/{job.id}"} | ({} if is_new else {"Idempotency-Replayed": "true"})
    return JSONResponse(await _described(desk, job), status_code=202, headers=headers)


async def list_jobs(request: Request) -> Response:
    """`GET /v1/videos`."""
    desk = _desk(request)
    query = request.query_params
    _refuse_others(request, ("state", "limit", "before"))
    state = query.get("state")
    if not (state is None or state in JOB_STATES):
        raise RequestError(f"state={state[:50]!r} is none; there are {', '.join(JOB_STATES)}")
    limit = _whole_number(query.get("limit", str(_PAGE)), "limit", _MAX_PAGE)
    before = _whole_number(query["before"], "before", 2**62) if "before" in query else None
    # One more than asked for tells whether there is another page.
    jobs = await run_in_threadpool(desk.store.page, _caller(request), state=state, before=before, limit=limit + 1)
    following = page_link(jobs[limit - 1].seq, limit, state) if len(jobs) > limit else None
    described = [await _described(desk, job) for job in jobs[:limit]]
    return JSONResponse({"jobs": described, "next": following})


async def show(request: Request) -> Response:
    """`GET /v1/videos/{id}`."""
    desk = _desk(request)
    job = await _job(request, desk)
    # Often enough for a bar that moves, seldom enough to cost nothing.
    headers = None if job.ended else {"Retry-After": "1"}
    return JSONResponse(await _described(desk, job), headers=headers)


async def result(request: Request) -> Response:
    """`GET /v1/videos/{id}/result`: `findings.json`."""
    return await _file(request, "findings.json")


async def result_file(request: Request) -> Response:
    """`GET /v1/videos/{id}/files/{name}`."""
    return await _file(request, request.path_params["name"])


async def delete(request: Request) -> Response:
    """`DELETE /v1/videos/{id}`.

    200 with the job once its work has stopped and its files are gone; 202 if that takes longer; 204 for a job that
    had ended before: it is deleted with its results.
    """
    desk = _desk(request)
    job = await _job(request, desk)
    if job.ended:
        await run_in_threadpool(desk.cleanup.forget, job)
        return Response(status_code=204)
    job = await run_in_threadpool(desk.cancel, job, wait_s=_CANCEL_WAIT_S)
    return JSONResponse(await _described(desk, job), status_code=200 if job.ended else 202)


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", BASE, submit),
    ("GET", BASE, list_jobs),
    ("GET", f"{BASE}/{{id}}", show),
    ("DELETE", f"{BASE}/{{id}}", delete),
    ("GET", f"{BASE}/{{id}}/result", result),
    ("GET", f"{BASE}/{{id}}/files/{{name:path}}", result_file),
)


def _desk(request: Request) -> JobDesk:
    desk: JobDesk | NoDesk = request.app.state.jobs
    if isinstance(desk, NoDesk):
        raise desk.refuse()
    return desk


def _caller(request: Request) -> str:
    """The name of the API key, if the service asks for keys: jobs of others are as good as not there."""
    return str(getattr(request.state, "caller", None) or "")


async def _job(request: Request, desk: JobDesk) -> Job:
    return await run_in_threadpool(desk.store.get, request.path_params["id"], _caller(request))


async def _described(desk: JobDesk, job: Job) -> dict[str, object]:
    names = await run_in_threadpool(desk.folder.result_names, job) if job.state == "done" else []
    return describe(job, names)


async def _file(request: Request, name: str) -> Response:
    desk = _desk(request)
    job = await _job(request, desk)
    if job.state != "done":
        reason = f": {job.reason}" if job.state == "failed" else ""
        raise JobError(f"the job is {job.state}, so it has no results{reason}")
    # Compared with what is there, never joined to a path first: a name cannot lead elsewhere.
    if name not in await run_in_threadpool(desk.folder.result_names, job):
        raise JobNotFoundError(f"job {job.id} has no file {name[:50]!r}; its `files` lists those there are")
    path = desk.folder.results(job) / name
    headers = {"X-Content-Type-Options": "nosniff"}
    return FileResponse(path, media_type=_MEDIA_TYPES.get(path.suffix, "application/octet-stream"), headers=headers)


def _wish(request: Request) -> Wish:
    """Read query and headers; raises `RequestError`, `PairNotFoundError`, `OperatingPointNotFoundError`."""
    query = request.query_params
    _refuse_others(request, OPTIONS)
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise RequestError("an Idempotency-Key must be 1 to 200 visible ASCII characters")
    lane = engine_of(request).lanes.find(query.get("pair"), query.get("version"))
    request.state.pair = (lane.name, lane.version)
    given: dict[str, Any] = {name: _number(query[name], name) for name in _NUMBERS if name in query}
    if "repeat_stills" in query:
        given["repeat_stills"] = _truth(query["repeat_stills"], "repeat_stills")
    if "distance" in query:
        given["distance"] = query["distance"][:50]
    if given.get("distance") == "osd" and not is_installed():
        raise RequestError("distance=osd: this service cannot read pictures' texts; it takes auto, sidecar and none")
    try:
        settings = VideoSettings(operating_point=lane.operating_point(query.get("operating_point")).name, **given)
    except ConfigError as error:
        raise RequestError(str(error)) from error
    return Wish(
        caller=_caller(request),
        pair=lane.name,
        pair_version=lane.version,
        settings=settings,
        idempotency_key=key,
    )


async def _read_path(request: Request, deadline_s: float) -> object:
    body = bytearray()
    try:
        async with asyncio.timeout(deadline_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _JSON_BYTES:
                    raise BodyTooLargeError(f"the JSON has more than the {_JSON_BYTES} bytes allowed")
    except TimeoutError:
        raise DeadlineExceededError(f"the request was not done within {deadline_s:g} s") from None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not JSON") from error
    if not isinstance(document, dict) or set(document) != {"path"}:
        raise RequestError('the JSON must be {"path": "..."}; options go into the query')
    return document["path"]


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _refuse_others(request: Request, known: tuple[str, ...]) -> None:
    for key in request.query_params:
        if key not in known:
            raise RequestError(f"unknown query parameter {key[:50]!r}; there are {', '.join(known)}")


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"{name}={text[:50]!r} is not a number") from None


def _truth(text: str, name: str) -> bool:
    if text not in ("true", "false"):
        raise RequestError(f"{name}={text[:50]!r} is neither true nor false")
    return text == "true"


def _whole_number(text: str, name: str, largest: int) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 20 or not 1 <= int(text) <= largest:
        raise RequestError(f"{name}={text[:50]!r} is not a whole number from 1 to {largest}")
    return int(text)
