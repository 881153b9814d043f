"""`pipeprobe serve`: the HTTP scoring service, by BentoML."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    from serving.limits import Settings

_ROOT = Path(__file__).resolve().parents[2]
_CUDA_CHECK_TIMEOUT_S = 300


@click.command()
@click.option(
    "--pair",
    "pairs",
    multiple=True,
    metavar="NAME[@VERSION]",
    help="Serve this pair and no others, whatever is promoted; repeat for several, the default one first.  "
    "[default: follow models/index.json]",
)
@click.option(
    "--models",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that holds the pairs.  [default: the shipped models/]",
)
@click.option("--device", help="cpu, cuda or cuda:INDEX; nothing falls back.  [default: cpu]")
@click.option("--variant", type=click.Choice(["fp32", "fp16", "int8"]), help="[default: the fastest for the device]")
@click.option("--host", default="127.0.0.1", show_default=True, help="IP address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="TCP port.")
@click.option("--workers", type=click.IntRange(1, 64), help="Worker processes.  [default: 1]")
def command(
    pairs: tuple[str, ...],
    models: Path | None,
    device: str | None,
    variant: str | None,
    host: str,
    port: int,
    workers: int | None,
) -> None:
    """Start the HTTP scoring service; Ctrl-C stops it.

    Limits and everything else are set by PIPEPROBE_* variables; an option here wins over its variable.
    The address shows the API at /docs, metrics at /metrics. On another address than this machine's own,
    callers need an API key: `pipeprobe keys add NAME` makes one. A promotion (`pipeprobe models promote`) is
    followed while it runs, unless --pair or PIPEPROBE_PAIR pins the pairs.

    \b
    Example:
      pipeprobe serve --port 3000
      curl --data-binary @frame.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:3000/v1/score
    """
    from serving.environment import PREFIX
    from serving.http.access import check_access, is_loopback
    from serving.jobs.desk import check_folders
    from serving.limits import Settings
    from serving.pairs.pair import models_root

    options = {"PAIR": ",".join(pairs), "DEVICE": device, "VARIANT": variant, "WORKERS": workers, "MODELS": models}
    os.environ.update({PREFIX + name: str(value) for name, value in options.items() if value})
    os.environ[PREFIX + "MODELS"] = str(models_root().resolve())
    settings = Settings.from_env()
    if settings.key_file:  # the workers run in another folder, where a relative path would lead elsewhere
        os.environ[PREFIX + "KEY_FILE"] = str(settings.key_path.resolve())
    _check_address(host, port)
    check_access(settings, host)
    if settings.auth == "off" and not is_loopback(host):
        click.echo(f"{PREFIX}AUTH=off: everybody who can reach {host} may ask", err=True)
    check_folders(settings)
    served = _check_pairs(settings)
    url_host = f"[{host}]" if ":" in host else host
    click.echo(
        f"pipeprobe serves {served} on http://{url_host}:{port} "
        f"({', '.join(settings.device)}; workers: {settings.workers}); Ctrl-C stops it"
    )
    _serve(host, port)


def _serve(host: str, port: int) -> None:
    # BentoML keeps the workers' metrics in its home, and empties that folder at start: two services with one
    # home would wipe out each other's metrics. Nothing else of the home is used here.
    with tempfile.TemporaryDirectory(prefix="pipeprobe-", ignore_cleanup_errors=True) as home:
        os.environ["BENTOML_HOME"] = home
        os.environ["BENTOML_DO_NOT_TRACK"] = "True"
        from serving.http.supervision import watch_workers_closely
        from serving.service import PipeprobeService

        # The workers import the service by name from this folder. In the caller's, another package named
        # `serving` could lie.
        PipeprobeService.working_dir = str(_ROOT)
        watch_workers_closely()
        PipeprobeService.serve_http(host=host, port=port)


def _check_pairs(settings: Settings) -> str:
    """Names and versions of the pairs; raises here, once, what would otherwise end worker after worker."""
    from serving.devices import import_onnxruntime, parse_device
    from serving.pairs.opening import find_pairs, find_shadow
    from serving.scorer import default_variant

    import_onnxruntime()
    pairs = find_pairs(settings)
    shadow = find_shadow(settings)
    for pair in [*pairs, shadow] if shadow else pairs:
        for device in settings.device:
            pair.variant_path(settings.variant or default_variant(pair.manifest, parse_device(device)))
    if any(parse_device(device).kind == "cuda" for device in settings.device):
        _check_cuda(settings)
    return ", ".join(f"{pair.name} {pair.version}" for pair in pairs)


def _check_cuda(settings: Settings) -> None:
    """Open a session on each device, in a process of its own: this one would hold the memory for ever."""
    code = (
        "import sys\n"
        "from serving.errors import PipeprobeError\n"
        "from serving.pairs.opening import find_pairs\n"
        "from serving.limits import Settings\n"
        "from serving.scorer import Scorer\n"
        "settings = Settings.from_env()\n"
        "try:\n"
        "    for device in settings.device:\n"
        "        Scorer(find_pairs(settings)[0], device=device, variant=settings.variant or None)\n"
        "except PipeprobeError as error:\n"
        "    sys.exit(str(error))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=_CUDA_CHECK_TIMEOUT_S,
        check=False,
    )
    if result.returncode != 0:
        reason = result.stderr.strip().splitlines()
        raise DeviceError(reason[-1] if reason else f"{', '.join(settings.device)} cannot be used")


def _check_address(host: str, port: int) -> None:
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        raise ConfigError(f"--host {host!r} is no IP address; use 127.0.0.1, or 0.0.0.0 for all interfaces") from None
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used ({error})"
            raise ConfigError(f"{host}:{port} {reason}; name another with --port") from error
