"""The servers of the benchmark, all up at once; those whose turn it is not are stopped, so that none slows another."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from support.live_service import ROOT, clean_environment, free_port, started

from serving.pairs.pair import find_pair
from serving.scorer import default_variant, parse_device

PEERS = Path(__file__).parent
START_TIMEOUT_S = 120.0

OURS = {
    # LitServe logs no line a request at its level of logging either.
    "PIPEPROBE_ACCESS_LOG": "0",
    # Slow beside other programs is for the figures to show; nothing shall be refused for it.
    "PIPEPROBE_DEADLINE_S": "600",
}
"""Settings of ours that are not the default ones."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server, stopped but in its turns."""

    url: str
    process: subprocess.Popen[bytes]

    @contextmanager
    def turn(self) -> Iterator[Server]:
        """Let it run inside the block."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield self
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)


@contextmanager
def all_servers(models: Path, folder: Path, lit: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Server]]:
    """pipeprobe, plain BentoML, the empty app, and LitServe once for each of `lit`: (workers, threads, batch)."""
    models = models.resolve()
    pair = find_pair(models)
    model = pair.variant_path(default_variant(pair.manifest, parse_device("cpu")))
    plain = {"PEER_MODEL": str(model), "PEER_SIDE": str(pair.manifest.image_size)}
    python = [sys.executable, "-m"]
    address = ["--host", "127.0.0.1", "--port"]
    with ExitStack() as stack:

        def start(name: str, command: list[str], port: int, ready: str, **environment: str) -> Server:
            home = folder / name
            home.mkdir()
            env = clean_environment(home) | {"PYTHONPATH": str(ROOT)} | environment
            cwd = ROOT if name == "pipeprobe" else PEERS
            process = stack.enter_context(started(command, cwd=cwd, env=env, log=home / "log"))
            url = f"http://127.0.0.1:{port}"
            stack.callback(_end_group, process.pid)
            _wait(url + ready, process, home / "log")
            os.killpg(process.pid, signal.SIGSTOP)
            return Server(url=url, process=process)

        ports = [free_port() for _ in range(3 + len(lit))]
        p = [str(port) for port in ports]
        serve = [*python, "serving", "serve", "--models", str(models), "--port", p[0]]
        bento = [*python, "bentoml", "serve", "bentoml_peer:Plain", *address, p[1]]
        empty = [*python, "uvicorn", "empty_app:app", "--log-level", "warning", *address, p[2]]
        yield {
            "pipeprobe": start("pipeprobe", serve, ports[0], "/readyz", **OURS),
            "bentoml": start("bentoml", bento, ports[1], "/readyz", **plain),
            "empty": start("empty", empty, ports[2], "/"),
        } | {
            name: start(
                name,
                [sys.executable, "litserve_peer.py", str(models), str(port), *map(str, options)],
                port,
                "/health",
            )
            for port, (name, options) in zip(ports[3:], lit.items(), strict=True)
        }


def _end_group(group: int) -> None:
    """Wake and end a server with all that it started: LitServe's workers outlive it otherwise, and burn a core."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGCONT)
        os.killpg(group, signal.SIGTERM)
        time.sleep(3)
        os.killpg(group, signal.SIGKILL)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{url} did not answer:\n{log.read_text(errors='replace')[-3000:]}")
