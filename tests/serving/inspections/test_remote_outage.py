"""A real service that dies, restarts, is busy, or asks for a key, while it scores a batch of videos."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.live_service import LiveService, free_port, live_processes, live_service
from support.video_files import red_between, write_h264
from support.written_files import contents

from serving.cli import cli
from serving.errors import ConfigError
from serving.http.api_keys import add_key, revoke_key
from serving.inspections.remote_scorer import RemoteScorer
from serving.inspections.video_settings import VideoSettings
from serving.inspections.videos import score_videos
from serving.scorer import Scorer

VARYING = "timing.json"
# Of pictures in one colour each, the service would hardly be asked for anything.
SETTINGS = VideoSettings(every_s=0.2, repeat_stills=True, distance="none")


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("footage")
    return [write_h264(folder / name, red_between(4, 7), seconds=20) for name in ("a.mp4", "b.mp4")]


@pytest.fixture(scope="module")
def expected(footage: list[Path], scorer: Scorer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the batch is with a session here."""
    out = tmp_path_factory.mktemp("here")
    score_videos(footage, out, scorer, SETTINGS)
    return without_timing(out)


def without_timing(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(out).items() if name != VARYING}


def kill_all(service: LiveService) -> None:
    """The supervisor and its workers, at once."""
    os.killpg(service.process.pid, signal.SIGKILL)
    service.process.wait(20)


@contextmanager
def held_up(url: str) -> Iterator[None]:
    """A request whose body does not come, in the only place that the service has for one."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = "POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\nx"
        connection.sendall(head.encode())
        yield


def test_a_service_that_is_killed_and_started_again_in_the_middle_of_a_video_costs_nothing_but_time(
    models: Path, footage: list[Path], expected: dict[str, bytes], tmp_path: Path
) -> None:
    port, n_scored = free_port(), 0
    with ExitStack() as stack:
        first = stack.enter_context(live_processes(models=models, port=port))

        def restart_once(video: Path, time_s: float) -> None:
            nonlocal n_scored
            n_scored += 1
            if n_scored == 20:
                kill_all(first)
                starting.start()

        def start_again() -> None:
            time.sleep(1)  # meanwhile it is missed
            stack.enter_context(live_processes(models=models, port=port))

        starting = threading.Thread(target=start_again)
        with RemoteScorer(first.url) as remote:
            results = score_videos(footage, tmp_path, remote, SETTINGS, on_sample=restart_once)
        starting.join()
    assert [(each.status, each.complete) for each in results] == [("scored", True)] * 2
    assert without_timing(tmp_path) == expected


def test_a_service_that_stays_away_fails_its_videos_alone_and_the_next_call_scores_them(
    models: Path,
    footage: list[Path],
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.inspections.remote_scorer._DEADLINE_S", 5.0)
    port = free_port()
    done: list[float] = []
    with live_processes(models=models, port=port) as service, RemoteScorer(service.url) as remote:

        def kill_at_the_second(video: Path, time_s: float) -> None:
            if video.name == "b.mp4" and service.process.poll() is None:
                kill_all(service)

        third = write_h264(tmp_path / "c.mp4", red_between(1, 2), seconds=20)
        a, b, c = score_videos(
            [*footage, third],
            tmp_path / "out",
            remote,
            SETTINGS,
            on_sample=kill_at_the_second,
            on_done=lambda result: done.append(time.monotonic()),
        )
    assert [each.status for each in (a, b, c)] == ["scored", "failed", "failed"]
    assert f"b.mp4: the service at {service.url} does not score its frames now" in b.reason
    assert "run the command again when it is back" in b.reason
    assert f"the service at {service.url} is still away" in c.reason
    # It was waited for once.
    assert done[2] - done[1] < done[1] - done[0]
    assert not (tmp_path / "out" / "b").exists()
    with live_service(models=models) as url, RemoteScorer(url) as remote:
        again = score_videos(footage, tmp_path / "out", remote, SETTINGS)
    assert [each.status for each in again] == ["kept", "scored"]
    assert without_timing(tmp_path / "out") == expected


def test_a_service_that_is_busy_is_waited_for(
    models: Path, footage: list[Path], expected: dict[str, bytes], tmp_path: Path
) -> None:
    done = threading.Event()
    with live_service(models=models, settings={"max_requests": 1}) as url, RemoteScorer(url) as remote:

        def score() -> None:
            score_videos(footage, tmp_path, remote, SETTINGS)
            done.set()

        scoring = threading.Thread(target=score)
        with held_up(url):
            scoring.start()
            assert not done.wait(5)
        scoring.join()
    assert done.is_set()
    assert without_timing(tmp_path) == expected


def test_the_key_comes_from_the_environment_and_a_wrong_one_is_said_plainly(
    models: Path, footage: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = tmp_path / "keys.json"
    right, for_metrics = add_key(key_file, "lab"), add_key(key_file, "prometheus", ("metrics",))
    with live_service(models=models, settings={"auth": "required", "key_file": key_file}) as url:

        def run(key: str | None) -> Result:
            arguments = ["videos", str(footage[0]), "--out", str(tmp_path / "out"), "--server", url]
            return CliRunner(env={"PIPEPROBE_API_KEY": key}).invoke(cli, arguments)

        for key, message in (
            (None, "wants an API key: set PIPEPROBE_API_KEY (401"),
            ("n0-such-key", "wants another API key than the one in PIPEPROBE_API_KEY (401"),
            (for_metrics, "wants another API key than the one in PIPEPROBE_API_KEY (403"),
        ):
            refused = run(key)
            assert isinstance(refused.exception, ConfigError)
            assert message in str(refused.exception)
            assert str(key) not in str(refused.exception)
        assert not (tmp_path / "out").exists()
        assert run(right).exit_code == 0

        # A key that is revoked meanwhile would fail every other video as well.
        with RemoteScorer(url, api_key=right) as remote:

            def revoke(video: Path, time_s: float) -> None:
                if time_s == 0:
                    revoke_key(key_file, "lab")

            with pytest.raises(ConfigError, match="wants another API key than the one in PIPEPROBE_API_KEY"):
                score_videos(footage, tmp_path / "revoked", remote, SETTINGS, on_sample=revoke)
