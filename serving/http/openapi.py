"""The service for readers: its OpenAPI document, the page that shows it, and the front page.

The pages load nothing from other sites; the Swagger files are the ones that BentoML serves itself.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from serving.errors import (
    BodyTooLargeError,
    CallerBusyError,
    DeadlineExceededError,
    ForbiddenError,
    NotAnImageError,
    OverloadedError,
    PairNotFoundError,
    PipeprobeError,
    RequestError,
    TruncatedFrameError,
    UnauthorizedError,
)
from serving.http.infer_tensors import HEADER_LENGTH, MAX_JSON_BYTES
from serving.jobs.openapi import job_paths, job_schemas
from serving.limits import Settings
from serving.pairs.manifest import OUTPUTS, Manifest
from serving.pairs.versions import version_of

_IMAGES = ("image/jpeg", "image/png", "image/bmp", "image/tiff", "image/webp", "image/gif")
_BINARY = {"type": "string", "format": "binary"}
_NUMBER = {"type": "number"}
_STRING = {"type": "string"}
_INTEGER = {"type": "integer"}
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_SCORING_ERRORS: tuple[type[PipeprobeError], ...] = (
    RequestError,
    UnauthorizedError,
    ForbiddenError,
    CallerBusyError,
    PairNotFoundError,
    BodyTooLargeError,
    NotAnImageError,
    TruncatedFrameError,
    OverloadedError,
    DeadlineExceededError,
)


def openapi_document(settings: Settings) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pipeprobe",
            "version": version_of("pipeprobe"),
            "description": "Scores sewer-inspection frames as defect or normal.",
        },
        "paths": {
            "/v1/score": {"post": _score_one(settings)},
            "/v1/score/batch": {"post": _score_batch(settings)},
            "/v1/score/raw": {"post": _score_raw(settings)},
            **job_paths(settings),
            "/v2": {"get": _get("Server metadata (Open Inference Protocol)")},
            "/v2/health/live": {"get": _get("Liveness")},
            "/v2/health/ready": {"get": _get("Readiness")},
            "/v2/models": {"get": _get("The pairs that are served")},
            "/v2/models/{name}": {"get": _get("Metadata of a pair", "name")},
            "/v2/models/{name}/ready": {"get": _get("Readiness of a pair", "name")},
            "/v2/models/{name}/infer": {"post": _infer(settings, "name")},
            "/v2/models/{name}/versions/{version}": {"get": _get("Metadata of a version of a pair", "name", "version")},
            "/v2/models/{name}/versions/{version}/ready": {
                "get": _get("Readiness of a version of a pair", "name", "version")
            },
            "/v2/models/{name}/versions/{version}/infer": {"post": _infer(settings, "name", "version")},
            "/livez": {"get": _get("Liveness", media_type="text/plain")},
            "/healthz": {"get": _get("Liveness", media_type="text/plain")},
            "/readyz": {"get": _get("Readiness: pairs loaded and warmed up", media_type="text/plain")},
            "/metrics": {"get": _get("Prometheus metrics", media_type="text/plain")},
        },
        "components": {"schemas": _schemas() | job_schemas(), "securitySchemes": _SECURITY},
        # None, where the service asks for none.
        "security": [{}, *({name: []} for name in _SECURITY)],
    }


def docs_page() -> str:
    """An HTML page that shows `/docs.json`."""
    return """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>pipeprobe: the API</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js" charset="utf-8"></script>
<script src="./static_content/swagger-ui-standalone-preset.js" charset="utf-8"></script>
<script src="./static_content/swagger-initializer.js" charset="utf-8"></script>
</body></html>
"""


def home_page(manifests: Sequence[Manifest]) -> str:
    """The front page: what is served, on what it was validated, and where to go on."""
    rows = "\n".join(
        f'<li><a href="./v2/models/{html.escape(m.name)}">{html.escape(m.name)}</a> '
        f"{html.escape(m.version)}; validated on: {html.escape(m.validated_on)}</li>"
        for m in manifests
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>pipeprobe</title>
<style>body {{ font-family: sans-serif; max-width: 45rem; margin: 3rem auto; line-height: 1.5 }}</style></head>
<body><h1>pipeprobe</h1>
<p>Scores sewer-inspection frames as defect or normal.</p>
<pre>curl --data-binary @frame.jpg -H 'Content-Type: image/jpeg' URL/v1/score</pre>
<h2>Pairs</h2>
<ul>
{rows}
</ul>
<p><a href="./docs">API</a> · <a href="./docs.json">OpenAPI</a> · <a href="./metrics">metrics</a> ·
<a href="./readyz">readiness</a></p>
</body></html>
"""


def _score_one(settings: Settings) -> dict[str, Any]:
    content: dict[str, Any] = {media_type: {"schema": _BINARY} for media_type in _IMAGES}
    content["multipart/form-data"] = {
        "schema": {"type": "object", "required": ["file"], "properties": {"file": _BINARY}}
    }
    return {
        "summary": "Score one frame",
        "description": f"At most {settings.max_frame_bytes} bytes and {settings.max_pixels} pixels.",
        "operationId": "score",
        "parameters": _options(),
        "requestBody": {"required": True, "content": content},
        "responses": {"200": _json("The frame's score", "Score"), **_errors()},
    }


def _score_batch(settings: Settings) -> dict[str, Any]:
    files = {"type": "array", "items": _BINARY}
    schema = {"type": "object", "required": ["files"], "properties": {"files": files}}
    return {
        "summary": "Score many frames",
        "description": (
            f"At most {settings.max_batch_frames} files and {settings.max_body_bytes} bytes. A frame that cannot "
            "be scored has a problem in its place; the others are scored all the same."
        ),
        "operationId": "score_batch",
        "parameters": _options(),
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}},
        "responses": {"200": _json("A result or a problem per frame, in order", "Batch"), **_errors()},
    }


def _score_raw(settings: Settings) -> dict[str, Any]:
    return {
        "summary": "Score frames that are decoded and resized already",
        "description": (
            "The body is an .npy file (numpy.save) of uint8 RGB frames, [N, S, S, 3] or one [S, S, 3], where S is the "
            "pair's image size, which /v2/models/{name} says. Resize as `serving.frames.resize_frame` does, or scores "
            f"differ. At most {settings.max_batch_frames} frames and {settings.max_body_bytes} bytes."
        ),
        "operationId": "score_raw",
        "parameters": _options(),
        "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": _BINARY}}},
        "responses": {"200": _json("A result or a problem per frame, in order", "Batch"), **_errors()},
    }


def _infer(settings: Settings, *path: str) -> dict[str, Any]:
    length = {
        "name": HEADER_LENGTH,
        "in": "header",
        "required": False,
        "description": "length of the JSON, if binary tensor data follow it",
        "schema": _INTEGER,
    }
    content = {
        "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
        "application/octet-stream": {"schema": _BINARY},
    }
    answers = _json("The outputs asked for, of all frames", "InferResponse")
    answers["content"]["application/octet-stream"] = {"schema": _BINARY}
    return {
        "summary": "Score frames of the pair's image size (Open Inference Protocol)",
        "description": (
            f"At most {settings.max_batch_frames} frames, {settings.max_body_bytes} bytes and {MAX_JSON_BYTES} bytes "
            "of JSON; binary tensor data are the better way for more than a few frames. Without `outputs` all are "
            "answered. If one frame cannot be scored, none is answered for."
        ),
        "operationId": "infer_version" if "version" in path else "infer",
        "parameters": [*_path_parameters(*path), length],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": answers, **_errors()},
    }


def _options() -> list[dict[str, Any]]:
    described = {
        "pair": ("name of the pair; the default one if absent", _STRING),
        "version": ("version of the pair, of those that are served; the one served by default if absent", _STRING),
        "operating_point": ("name of the threshold; the pair's default if absent", _STRING),
        "evidence": ("true: add the map of where the score comes from", {"type": "boolean", "default": False}),
    }
    return [
        {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
        for name, (text, schema) in described.items()
    ]


def _errors() -> dict[str, Any]:
    titles: dict[str, list[str]] = {}
    for error in _SCORING_ERRORS:
        titles.setdefault(str(error.status), []).append(error.title)
    content = {"application/problem+json": {"schema": _PROBLEM}}
    return {status: {"description": "; ".join(texts), "content": content} for status, texts in titles.items()}


def _get(summary: str, *path: str, media_type: str = "application/json") -> dict[str, Any]:
    answers: dict[str, Any] = {"200": {"description": summary, "content": {media_type: {}}}}
    if path:
        content = {"application/problem+json": {"schema": _PROBLEM}}
        answers["404"] = {"description": PairNotFoundError.title, "content": content}
    return {"summary": summary, "parameters": _path_parameters(*path), "responses": answers}


def _path_parameters(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": _STRING} for name in names]


def _json(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _schemas() -> dict[str, Any]:
    shape = {"type": "array", "items": _INTEGER}
    timings = {"type": "object", "additionalProperties": _NUMBER}
    result: dict[str, Any] = {
        "verdict": {"enum": ["defect", "normal"]},
        "score": _NUMBER | {"minimum": 0, "maximum": 1},
        "logit": _NUMBER,
        "evidence": _object(shape=shape, values={"type": "array", "items": _NUMBER}),
        "timings_ms": timings,
    }
    about = {
        "operating_point": _STRING,
        "threshold": _NUMBER,
        "pair": _STRING,
        "pair_version": _STRING,
        "request_id": _STRING,
    }
    item = _object(index=_INTEGER, name=_STRING, error=_PROBLEM, **result)
    return {
        "Score": _object(**result, **about),
        "Batch": _object(
            **about,
            n_frames=_INTEGER,
            n_failed=_INTEGER,
            results={"type": "array", "items": item},
            timings_ms=timings,
        ),
        "InferRequest": _object(
            id=_STRING,
            inputs={"type": "array", "minItems": 1, "maxItems": 1, "items": _tensor("UINT8", {"const": "frames"})},
            outputs={"type": "array", "items": _object(name={"enum": list(OUTPUTS)}, parameters={"type": "object"})},
            parameters=_object(binary_data_output={"type": "boolean", "default": False}),
        )
        | {"required": ["inputs"]},
        "InferResponse": _object(
            id=_STRING,
            model_name=_STRING,
            model_version=_STRING,
            outputs={"type": "array", "items": _tensor("FP32", {"enum": list(OUTPUTS)})},
        ),
        "Problem": _object(type=_STRING, title=_STRING, status=_INTEGER, detail=_STRING, request_id=_STRING),
    }


def _tensor(datatype: str, name: dict[str, Any]) -> dict[str, Any]:
    """`data` holds the values in row-major order; `parameters.binary_data_size` stands in its place."""
    properties = _object(
        name=name,
        datatype={"const": datatype},
        shape={"type": "array", "items": _INTEGER},
        data={"type": "array"},
        parameters=_object(binary_data_size=_INTEGER),
    )
    return properties | {"required": ["name", "datatype", "shape"]}
