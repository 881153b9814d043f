"""What the real service logs about requests and faults, as text and as JSON, and the spans that it exports."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from PIL import Image
from support.live_service import live_processes
from support.tiny_pair import red_frames, write_tiny_pair

from serving.monitoring.logs import CURRENT_REQUEST, JsonFormatter, log_request

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
WAIT_S = 30.0


class Collector:
    """A real OTLP/HTTP receiver on loopback that keeps the spans it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    collector.spans += [span for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def png() -> bytes:
    body = io.BytesIO()
    Image.fromarray(red_frames(1)[0]).save(body, "PNG")
    return body.getvalue()


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[Span]]:
    """The JSON lines and the exported spans of a service that has answered one request of each kind."""
    models = tmp_path_factory.mktemp("models")
    write_tiny_pair(models)
    collector = Collector()
    settings = {"log_format": "json", "trace_endpoint": collector.url, "trace_share": 0}
    with (
        collector.running(),
        live_processes(models=models, settings=settings) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        ids = {"traceparent": TRACEPARENT, "X-Request-Id": "mine-1"}
        assert client.post("/v1/score", content=png(), headers=ids).status_code == 200
        files = [("files", ("secret-name.png", png(), "image/png"))] * 3
        assert client.post("/v1/score/batch", files=files).status_code == 200
        assert client.post("/v1/score", content=b"junk", headers={"X-Request-Id": "mine-2"}).status_code == 415
        assert client.get("/secret/path?secret=query").status_code == 404
        assert client.get("/metrics").status_code == 200
        deadline = time.monotonic() + WAIT_S
        while not collector.spans and time.monotonic() < deadline:
            time.sleep(0.1)
        lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["logger"] == "serving.requests"], collector.spans


def test_a_request_is_one_line_that_says_what_it_was(exchanged: tuple[list[dict[str, Any]], list[Span]]) -> None:
    one, batch, bad, lost = exchanged[0]
    assert one["message"] == "POST /v1/score 200"
    assert {key: one[key] for key in ("request_id", "trace_id", "method", "route", "status", "pair")} == {
        "request_id": "mine-1",
        "trace_id": TRACE_ID,
        "method": "POST",
        "route": "/v1/score",
        "status": 200,
        "pair": "tiny",
    }
    assert (one["pair_version"], one["n_frames"], one["worker"]) == ("1.0.0", 1, 1)
    assert 0 < one["duration_ms"] < 60_000
    assert (batch["route"], batch["n_frames"]) == ("/v1/score/batch", 3)
    assert (bad["status"], bad["problem"], bad["request_id"]) == (415, "not-an-image", "mine-2")
    assert (lost["status"], lost["route"]) == (404, "other")
    assert len({line["trace_id"] for line in exchanged[0]}) == 4


def test_no_line_holds_what_callers_made_up(exchanged: tuple[list[dict[str, Any]], list[Span]]) -> None:
    assert "secret" not in json.dumps(exchanged[0])


def test_spans_go_to_the_collector_and_continue_the_callers_trace(
    exchanged: tuple[list[dict[str, Any]], list[Span]],
) -> None:
    # The share is 0: only the request whose caller decided to sample it is exported.
    assert {span.trace_id.hex() for span in exchanged[1]} == {TRACE_ID}
    (span,) = [span for span in exchanged[1] if span.kind == Span.SPAN_KIND_SERVER]
    assert span.name == "POST /v1/score"
    assert span.parent_span_id.hex() == "00f067aa0ba902b7"
    attributes = {item.key: item.value for item in span.attributes}
    assert attributes["pipeprobe.pair"].string_value == "tiny"
    assert attributes["pipeprobe.n_frames"].int_value == 1
    assert attributes["pipeprobe.request_id"].string_value == "mine-1"


def test_text_lines_and_none_for_probes(tmp_path: Path) -> None:
    write_tiny_pair(tmp_path / "models")
    with live_processes(models=tmp_path / "models") as service:
        headers = {"traceparent": TRACEPARENT, "X-Request-Id": "mine-3"}
        httpx.post(f"{service.url}/v1/score", content=png(), headers=headers)
        httpx.get(f"{service.url}/livez")
        lines = service.log.read_text().splitlines()
    (line,) = [line for line in lines if "/v1/score" in line]
    assert f"POST /v1/score 200 request_id=mine-3 trace_id={TRACE_ID} duration_ms=" in line
    assert "pair=tiny pair_version=1.0.0 n_frames=1" in line
    assert not any("livez" in line for line in lines)
    assert sum("ships no reference" in line for line in lines) == 1


def test_faults_carry_their_request_id_and_their_traceback() -> None:
    logger, stream = logging.Logger("somewhere"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(worker=2))
    logger.addHandler(handler)
    token = CURRENT_REQUEST.set({"request_id": "mine-4"})
    try:
        raise RuntimeError("broken\nin two lines")
    except RuntimeError:
        logger.exception("request %s failed", "mine-4")
    finally:
        CURRENT_REQUEST.reset(token)
    logger.warning("outside")
    fault, outside = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (fault["request_id"], fault["level"], fault["worker"]) == ("mine-4", "ERROR", 2)
    assert fault["exception"].startswith("Traceback")
    assert "broken\nin two lines" in fault["exception"]
    assert "request_id" not in outside
    assert set(outside) == {"time", "level", "logger", "worker", "message"}


def test_fields_that_are_unknown_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "serving.requests"):
        log_request(method="GET", route="/v2", status=200, request_id="x", pair=None)
    assert caplog.messages == ["GET /v2 200 request_id=x"]
    line = json.loads(JsonFormatter(worker=1).format(caplog.records[0]))
    assert "pair" not in line
    assert line["message"] == "GET /v2 200"
