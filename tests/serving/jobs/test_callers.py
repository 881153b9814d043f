"""Callers with API keys see their own video jobs alone; folders that cannot be used are found out at start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click.testing
import httpx
import pytest
from support.live_service import free_port, live_service
from support.tiny_pair import write_tiny_pair
from support.video_files import red_between, write_h264

from serving.commands.serve import command as serve
from serving.engine import Engine
from serving.errors import ConfigError
from serving.http.api_keys import add_key
from serving.jobs.desk import NoDesk, open_desk
from serving.limits import Settings


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_pair(folder)
    return folder


@pytest.fixture
def callers(models: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two callers of a service that asks for keys."""
    key_file = tmp_path / "keys.json"
    tokens = [add_key(key_file, name) for name in ("north", "south")]
    with live_service(models=models, settings={"auth": "required", "key_file": key_file}) as url:
        north, south = (
            httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=20) for token in tokens
        )
        with north, south:
            yield north, south


def test_callers_see_and_end_their_own_jobs_alone(callers: tuple[httpx.Client, httpx.Client], tmp_path: Path) -> None:
    north, south = callers
    video = write_h264(tmp_path / "run.mp4", red_between(1, 2), seconds=3).read_bytes()
    key = {"Idempotency-Key": "run-1"}
    job = north.post("/v1/videos", content=video, headers=key).json()
    for method, path in (("GET", ""), ("GET", "/result"), ("GET", "/files/findings.json"), ("DELETE", "")):
        assert south.request(method, f"/v1/videos/{job['id']}{path}").status_code == 404
    assert south.get("/v1/videos").json()["jobs"] == []
    assert [each["id"] for each in north.get("/v1/videos").json()["jobs"]] == [job["id"]]
    other = south.post("/v1/videos", content=video, headers=key)
    assert other.json()["id"] != job["id"]
    assert httpx.get(str(north.base_url.join("/v1/videos")), timeout=20).status_code == 401


def test_a_folder_that_is_named_must_be_usable_and_the_default_need_not(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for variable in ("PIPEPROBE_JOBS", "PIPEPROBE_VIDEO_ROOT"):
        with monkeypatch.context() as patch:
            patch.setenv("PIPEPROBE_MODELS", str(models))
            patch.setenv(variable, str(tmp_path / "file" / "folder"))
            result = click.testing.CliRunner().invoke(serve, ["--port", str(free_port())])
        assert isinstance(result.exception, ConfigError), result.output
        assert variable in str(result.exception)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    # The engine is not looked at where there is no folder.
    desk = open_desk(Settings(), Engine.__new__(Engine))
    assert isinstance(desk, NoDesk)
    assert "PIPEPROBE_JOBS names one" in desk.reason
