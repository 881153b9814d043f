"""Keys are asked for wherever the service could be reached by others, whoever started it and however."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import click.testing
import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from support.live_service import ROOT, clean_environment, free_port, live_service, started, wait_until_ready
from support.tiny_pair import write_tiny_pair

from serving.commands.serve import command as serve
from serving.errors import ConfigError
from serving.http.access import OPEN_PATHS, AccessGuard, is_loopback, listening_hosts
from serving.http.api_keys import add_key, revoke_key
from serving.http.problem import ProblemMiddleware
from serving.http.request_record import Recorder
from serving.limits import Settings
from serving.monitoring.telemetry import Telemetry

PATHS = ("/v1/score", "/v1/score/batch", "/v2", "/v2/models", "/docs", "/docs.json", "/", "/made/up", "/livez/x")


async def _caller(request: Request) -> Response:
    return JSONResponse({"caller": getattr(request.state, "caller", None)})


def ask(settings: Settings, path: str = "/who", headers: dict[str, str] | None = None) -> httpx.Response:
    """One request through the guard, in a process that listens nowhere."""
    telemetry = Telemetry(CollectorRegistry())
    inner = Starlette(routes=[Route(path, _caller) for path in ("/who", "/metrics", *OPEN_PATHS)])
    app = ProblemMiddleware(AccessGuard(inner, settings, telemetry), Recorder(telemetry=telemetry, log_requests=False))

    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(main())


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def settings(key_file: Path) -> Settings:
    return Settings(auth="required", key_file=str(key_file))


def test_lets_keys_in_by_either_header_and_names_them(settings: Settings, key_file: Path) -> None:
    token = add_key(key_file, "lab")
    for headers in ({"Authorization": f"Bearer {token}"}, {"authorization": f"bearer  {token}"}, {"X-Api-Key": token}):
        response = ask(settings, headers=headers)
        assert (response.status_code, response.json()) == (200, {"caller": "lab"})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer pipeprobe_wrong"},
        {"Authorization": "Basic bGFiOmxhYg=="},
        {"X-Api-Key": "lab"},
        {"X-Api-Key": "x" * 5000},
    ],
)
def test_refuses_everything_else_as_a_problem(settings: Settings, key_file: Path, headers: dict[str, str]) -> None:
    add_key(key_file, "lab")
    response = ask(settings, headers=headers)
    problem = response.json()
    assert (response.status_code, problem["status"]) == (401, 401)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert problem["type"] == "urn:pipeprobe:problem:unauthorized"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert str(key_file) not in response.text


def test_health_pages_stay_open(settings: Settings) -> None:
    for path in OPEN_PATHS:
        assert ask(settings, path).status_code == 200
    for path in PATHS:
        assert ask(settings, path).status_code == 401, path


def test_keys_open_what_they_are_for(settings: Settings, key_file: Path) -> None:
    lab, prometheus = add_key(key_file, "lab"), add_key(key_file, "prometheus", ["metrics"])
    status = {
        (name, path): ask(settings, path, {"X-Api-Key": token}).status_code
        for name, token in (("lab", lab), ("prometheus", prometheus))
        for path in ("/who", "/metrics")
    }
    assert status == {
        ("lab", "/who"): 200,
        ("lab", "/metrics"): 403,
        ("prometheus", "/who"): 403,
        ("prometheus", "/metrics"): 200,
    }


@pytest.mark.parametrize(
    ("auth", "metrics_auth", "who", "metrics"),
    [
        ("auto", "auto", 401, 401),  # where nothing is known of the address, keys are required
        ("off", "auto", 200, 200),
        ("off", "required", 200, 401),
        ("required", "off", 401, 200),
    ],
)
def test_metrics_are_protected_separately(key_file: Path, auth: str, metrics_auth: str, who: int, metrics: int) -> None:
    settings = Settings(auth=auth, metrics_auth=metrics_auth, key_file=str(key_file))
    assert (ask(settings).status_code, ask(settings, "/metrics").status_code) == (who, metrics)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("localhost", False)],
)
def test_knows_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_finds_the_sockets_that_listen_and_leaves_all_as_they_are() -> None:
    n_open = len(list(Path("/dev/fd").iterdir()))
    before = listening_hosts()
    with socket.socket() as listener, socket.socket() as bound:
        listener.bind(("127.0.0.1", 0))
        bound.bind(("127.0.0.1", 0))
        assert listening_hosts() == before
        listener.listen()
        assert sorted(listening_hosts()) == sorted([*before, "127.0.0.1"])
        socket.create_connection(listener.getsockname(), timeout=5).close()
    assert len(list(Path("/dev/fd").iterdir())) == n_open


# Real services.


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_pair(folder)
    return folder


def test_a_service_on_loopback_needs_none(models: Path) -> None:
    with live_service(models=models) as url:
        assert httpx.get(f"{url}/v2/models", timeout=10).status_code == 200


@pytest.fixture
def open_to_the_network(models: Path, key_file: Path, tmp_path: Path) -> Iterator[str]:
    """BentoML's own command, on all interfaces, with no key in sight."""
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:PipeprobeService"]
    command += ["--host", "0.0.0.0", "--port", str(port)]
    environment = clean_environment(tmp_path) | {"PIPEPROBE_MODELS": str(models), "PIPEPROBE_KEY_FILE": str(key_file)}
    with started(command, cwd=ROOT, env=environment, log=tmp_path / "log") as process:
        wait_until_ready(f"http://127.0.0.1:{port}", process, log=tmp_path / "log")
        yield f"http://127.0.0.1:{port}"


def test_a_service_that_bentoml_starts_fails_closed_and_follows_keys(
    open_to_the_network: str, key_file: Path, tmp_path: Path
) -> None:
    with httpx.Client(base_url=open_to_the_network, timeout=10) as client:
        for path in (*PATHS, "/metrics", "/static_content/swagger-ui.css", "/schema.json"):
            assert client.get(path).status_code == 401, path
        assert "pipeprobe keys add NAME" in (tmp_path / "log").read_text()
        token = add_key(key_file, "lab")
        headers = {"Authorization": f"Bearer {token}"}
        assert client.get("/v2/models", headers=headers).status_code == 200
        revoke_key(key_file, "lab")
        assert client.get("/v2/models", headers=headers).status_code == 401
        assert client.get("/livez").status_code == 200


def test_serve_follows_a_key_file_that_is_named_from_where_it_was_started(models: Path, tmp_path: Path) -> None:
    token = add_key(tmp_path / "keys.json", "lab")
    port = free_port()
    command = [sys.executable, "-m", "serving", "serve", "--host", "0.0.0.0", "--port", str(port)]
    environment = clean_environment(tmp_path) | {"PIPEPROBE_MODELS": str(models), "PIPEPROBE_KEY_FILE": "keys.json"}
    environment["PYTHONPATH"] = str(ROOT)
    with started(command, cwd=tmp_path, env=environment, log=tmp_path / "log") as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, log=tmp_path / "log")
        assert httpx.get(f"{url}/v2/models", timeout=10).status_code == 401
        assert httpx.get(f"{url}/v2/models", headers={"X-Api-Key": token}, timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("host", "variables", "refused"),
    [
        ("0.0.0.0", {}, True),
        ("127.0.0.1", {"PIPEPROBE_AUTH": "required"}, True),
        ("127.0.0.1", {"PIPEPROBE_METRICS_AUTH": "required"}, True),
        ("0.0.0.0", {"PIPEPROBE_AUTH": "off", "PIPEPROBE_PAIR": "missing"}, False),
        ("127.0.0.1", {"PIPEPROBE_PAIR": "missing"}, False),
    ],
)
def test_serve_refuses_to_be_open_by_accident(
    models: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch, host: str, variables: dict[str, str], refused: bool
) -> None:
    """What is not refused goes on to look for a pair that is not there, so that nothing starts here."""
    monkeypatch.delenv("PIPEPROBE_SHARED_DATA", raising=False)
    for name, value in {"PIPEPROBE_KEY_FILE": str(key_file), "PIPEPROBE_MODELS": str(models), **variables}.items():
        monkeypatch.setenv(name, value)
    result = click.testing.CliRunner().invoke(serve, ["--host", host, "--port", str(free_port())])
    says_keys = isinstance(result.exception, ConfigError) and "pipeprobe keys add NAME" in str(result.exception)
    assert says_keys is refused, result.exception
