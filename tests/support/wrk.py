"""wrk, a compiled load generator, and what it costs: its share of the cores is part of every figure.

Debian and Ubuntu have it as a package: apt-get install wrk.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# wrk runs Lua in its threads. The requests are composed once; `done` prints what its own report rounds.
_SCRIPT = """
local requests = {}
function init(args)
  for number = 1, tonumber(args[1]) do
    local file = assert(io.open(args[2] .. "/" .. number, "rb"))
    requests[number] = file:read("*a")
    file:close()
  end
end
local turn = 0
function request()
  turn = turn + 1
  return requests[turn % #requests + 1]
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.stderr:write(string.format(
    '{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "failed": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.timeout + errors.status))
end
"""


@dataclass(frozen=True, kw_only=True)
class WrkRun:
    """Requests a second, latency in milliseconds, failures of any kind, processor milliseconds of wrk a request."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_ms: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def wrk_version() -> str | None:
    """What is installed; None if nothing is."""
    if shutil.which("wrk") is None:
        return None
    return subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split("[")[0].strip()


def http_post(path: str, body: bytes, content_type: str) -> bytes:
    """A whole HTTP/1.1 request."""
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def multipart(field: str, frames: Sequence[bytes]) -> tuple[bytes, str]:
    """Frames as files of a multipart body, all under one field name; the body and its content type."""
    boundary = "frame-of-the-benchmark"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{index}.jpg"\r\n'
        f"Content-Type: image/jpeg\r\n\r\n".encode()
        + frame
        + b"\r\n"
        for index, frame in enumerate(frames)
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def run_wrk(url: str, requests: Sequence[bytes], *, clients: int, seconds: int) -> WrkRun:
    """One thread of wrk with that many connections, each sending its next request when the last is answered."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, request in enumerate(requests, start=1):
            (folder / str(number)).write_bytes(request)
        script = folder / "requests.lua"
        script.write_text(_SCRIPT)
        options = ["-t1", f"-c{clients}", f"-d{seconds}", "--timeout", "60", "-s", str(script), url]
        process = subprocess.Popen(
            ["wrk", *options, "--", str(len(requests)), name], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        report = process.stderr.read()
        # The one way to learn what exactly this child has used.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"wrk ended with {process.returncode}: {report.decode(errors='replace')}")
    figures = json.loads(report)
    return WrkRun(
        requests_per_s=(figures["requests"] - figures["failed"]) / figures["seconds"],
        p50_ms=figures["p50_ms"],
        p99_ms=figures["p99_ms"],
        failed=figures["failed"],
        cpu_ms=1000 * (usage.ru_utime + usage.ru_stime) / max(1, figures["requests"]),
    )
