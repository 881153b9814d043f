"""A real S3-compatible server in a process of its own, and what lies in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from support.live_service import free_port
from support.ray_runs import wait_until

BUCKET = "bucket"


@dataclass(frozen=True)
class Store:
    """The server's bucket; `environment` is what another process needs to find it."""

    environment: dict[str, str]
    fs: Any

    def url(self, name: str) -> str:
        return f"s3://{BUCKET}/{name}"

    def send(self, path: Path, name: str) -> None:
        self.fs.put_file(str(path), f"{BUCKET}/{name}")

    def contents(self, folder: str) -> dict[str, bytes]:
        """The bytes of every object below a folder, by its name there."""
        self.fs.invalidate_cache()
        paths = self.fs.find(f"{BUCKET}/{folder}")
        return {path.removeprefix(f"{BUCKET}/{folder}/"): self.fs.cat_file(path) for path in paths}

    def names(self, folder: str) -> set[str]:
        self.fs.invalidate_cache()
        return {path.removeprefix(f"{BUCKET}/{folder}/") for path in self.fs.find(f"{BUCKET}/{folder}")}


@contextmanager
def object_store() -> Iterator[Store]:
    """A server on loopback with an empty bucket, found by everything in this process that looks for S3."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        fs = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
        type(fs).clear_instance_cache()  # those that an earlier server's tests have made go on looking for it
        wait_until(lambda: process.poll() is not None or _is_up(fs))
        fs.mkdir(BUCKET)
        yield Store(environment, fs)
    finally:
        process.kill()
        process.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _is_up(fs: Any) -> bool:
    try:
        fs.ls("")
    except Exception:  # whatever the client calls a server that is not there yet
        return False
    return True
