"""The routes of video jobs in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from serving.errors import (
    BodyTooLargeError,
    DeadlineExceededError,
    ForbiddenError,
    IdempotencyError,
    JobError,
    JobNotFoundError,
    JobsOffError,
    OperatingPointNotFoundError,
    OverloadedError,
    PairNotFoundError,
    PipeprobeError,
    RequestError,
    StorageFullError,
    TooManyJobsError,
    UnauthorizedError,
    VideoError,
)
from serving.inspections.video_settings import DISTANCES_FROM, VideoSettings
from serving.jobs.documents import BASE
from serving.jobs.job import JOB_STATES
from serving.limits import Settings

JSON = dict[str, Any]

_STRING: JSON = {"type": "string"}
_NUMBER: JSON = {"type": "number"}
_BOOLEAN: JSON = {"type": "boolean"}
_INTEGER: JSON = {"type": "integer"}
_BINARY: JSON = {"type": "string", "format": "binary"}
_TIME: JSON = {"type": ["string", "null"], "format": "date-time"}
_STATE: JSON = {"enum": list(JOB_STATES)}
_SECONDS = ("every_s", "min_duration_s", "join_gap_s")
_DEFAULTS = VideoSettings()
_DISTANCE: JSON = {"enum": list(DISTANCES_FROM), "default": _DEFAULTS.distance}


def job_paths(settings: Settings) -> JSON:
    """The paths, to be merged with those of the rest of the service."""
    job_id = _in_path("id")
    unknown: tuple[type[PipeprobeError], ...] = (JobNotFoundError, JobsOffError)
    return {
        BASE: {"post": _submit(settings), "get": _list()},
        f"{BASE}/{{id}}": {
            "get": {
                "summary": "State and progress of a video job",
                "parameters": [job_id],
                "responses": {"200": _json("The job", "VideoJob"), **_errors(unknown)},
            },
            "delete": {
                "summary": "End a video job that waits or runs; delete one that has ended",
                "parameters": [job_id],
                "responses": {
                    "200": _json("Its work has stopped and its files are gone", "VideoJob"),
                    "202": _json("Its work is being stopped", "VideoJob"),
                    "204": {"description": "It had ended; it is deleted with its results"},
                    **_errors(unknown),
                },
            },
        },
        f"{BASE}/{{id}}/result": {
            "get": {
                "summary": "Findings of a video job that is done, as `pipeprobe videos` writes them",
                "parameters": [job_id],
                "responses": {
                    "200": {"description": "findings.json", "content": {"application/json": {}}},
                    **_errors((*unknown, JobError)),
                },
            }
        },
        f"{BASE}/{{id}}/files/{{name}}": {
            "get": {
                "summary": "A file that a video job has made; the job's `files` lists them",
                "parameters": [job_id, _in_path("name")],
                "responses": {
                    "200": {
                        "description": "The file",
                        "content": {kind: {} for kind in ("application/json", "text/csv", "image/jpeg")},
                    },
                    **_errors((*unknown, JobError)),
                },
            }
        },
    }


def job_schemas() -> JSON:
    """The schemas that the paths refer to."""
    optional_string: JSON = {"type": ["string", "null"]}
    job: dict[str, JSON] = {
        "id": _STRING,
        "state": _STATE,
        "video": _object(name=_STRING, source={"enum": ["upload", "path"]}, bytes={"type": ["integer", "null"]}),
        "pair": _STRING,
        "pair_version": _STRING,
        "settings": _object(
            every_s=_NUMBER,
            every_m={"type": ["number", "null"]},
            repeat_stills=_BOOLEAN,
            operating_point=optional_string,
            min_duration_s=_NUMBER,
            join_gap_s=_NUMBER,
            distance=_DISTANCE,
        ),
        "frames_done": _INTEGER,
        "progress": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "cancelling": {"type": "boolean"},
        "attempts": _INTEGER,
        "created_at": _TIME,
        "started_at": _TIME,
        "ended_at": _TIME,
        "reason": optional_string,
        "summary": {"type": ["object", "null"]},
        "result": optional_string,
        "files": {"type": "object", "additionalProperties": _STRING},
    }
    page: dict[str, JSON] = {"jobs": {"type": "array", "items": _reference("VideoJob")}, "next": optional_string}
    return {"VideoJob": _object(**job), "VideoJobs": _object(**page)}


def _submit(settings: Settings) -> JSON:
    form = {"type": "object", "required": ["file"], "properties": {"file": _BINARY}}
    path = {"type": "object", "required": ["path"], "properties": {"path": _STRING}, "additionalProperties": False}
    seconds = {name: (f"as of `pipeprobe videos`; {getattr(_DEFAULTS, name)} if absent", _NUMBER) for name in _SECONDS}
    query = {
        "pair": ("name of the pair; the default one if absent", _STRING),
        "version": ("version of the pair; the promoted one if absent", _STRING),
        "operating_point": ("name of the threshold; the pair's default if absent", _STRING),
        **seconds,
        "every_m": ("most metres between two scored frames; time alone decides if absent", _NUMBER),
        "repeat_stills": ("whether frames are scored that show what the last scored one does", _BOOLEAN),
        "distance": ("what says where along the pipe; sidecar: VIDEO.distance.csv beside a video by path", _DISTANCE),
        "name": ("what a video sent as raw body is called", _STRING),
    }
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "A request that is repeated with the same key gets the same job",
        "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
    }
    accepted = _json("The job is queued", "VideoJob") | {"headers": {"Location": {"schema": _STRING}}}
    errors = (
        *(RequestError, JobsOffError, PairNotFoundError, OperatingPointNotFoundError, BodyTooLargeError, VideoError),
        *(IdempotencyError, TooManyJobsError, OverloadedError, StorageFullError, DeadlineExceededError),
    )
    return {
        "summary": "Have a whole inspection video scored",
        "description": f"At most {settings.max_video_bytes} bytes; or a path under the service's folder of videos.",
        "operationId": "submit_video",
        "parameters": [*(_in_query(name, *about) for name, about in query.items()), key],
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": _BINARY},
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": path},
            },
        },
        "responses": {"202": accepted, **_errors(errors)},
    }


def _list() -> JSON:
    return {
        "summary": "Video jobs, the latest first",
        "parameters": [
            _in_query("state", "only those in this state", _STATE),
            _in_query("limit", "most jobs on a page", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}),
            _in_query("before", "where the page begins; taken from `next`", {"type": "integer", "minimum": 1}),
        ],
        "responses": {
            "200": _json("A page, and where the next one is", "VideoJobs"),
            **_errors((RequestError, JobsOffError)),
        },
    }


def _errors(errors: tuple[type[PipeprobeError], ...]) -> JSON:
    titles: dict[str, list[str]] = {}
    guarded: tuple[type[PipeprobeError], ...] = (*errors, UnauthorizedError, ForbiddenError)
    for error in guarded:
        titles.setdefault(str(error.status), []).append(error.title)
    content = {"application/problem+json": {"schema": _reference("Problem")}}
    return {status: {"description": "; ".join(texts), "content": content} for status, texts in titles.items()}


def _in_query(name: str, description: str, schema: JSON) -> JSON:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _in_path(name: str) -> JSON:
    return {"name": name, "in": "path", "required": True, "schema": _STRING}


def _json(description: str, schema: str) -> JSON:
    return {"description": description, "content": {"application/json": {"schema": _reference(schema)}}}


def _reference(schema: str) -> JSON:
    return {"$ref": f"#/components/schemas/{schema}"}


def _object(**properties: JSON) -> JSON:
    return {"type": "object", "properties": properties}
