"""Who may ask what: API keys in front of every page but those of health.

A key is required unless the service can be reached from this machine alone, or PIPEPROBE_AUTH says otherwise.
That is judged by the sockets on which this process listens, not by what somebody declared: a Bento that is
started by another command, or in a container, is judged the same, and where nothing is known keys are required.

    PIPEPROBE_AUTH          auto: required unless all listening sockets are loopback | required | off
    PIPEPROBE_METRICS_AUTH  the same for /metrics, which a key of the scope `metrics` opens | auto: as PIPEPROBE_AUTH
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import stat
from functools import cached_property
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.environment import PREFIX
from serving.errors import ConfigError, ForbiddenError, PipeprobeError, UnauthorizedError
from serving.http.api_keys import ApiKey, KeyRing, read_keys
from serving.http.problem import problem_of, problem_response
from serving.limits import Settings
from serving.monitoring.telemetry import Telemetry

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"})
"""Pages that probes ask without a key; they say nothing but ready or not."""

METRICS_PATH = "/metrics"

_CHALLENGE = 'Bearer realm="pipeprobe"'
_DESCRIPTORS = "/dev/fd"


class AccessGuard:
    """ASGI middleware: 401 without a key, 403 with one for something else; sets `request.state.caller` to its name.

    It goes inside `ProblemMiddleware`, which has given the request its id.
    """

    def __init__(self, app: ASGIApp, settings: Settings, telemetry: Telemetry) -> None:
        self._app = app
        self._settings = settings
        self._telemetry = telemetry
        self._ring = KeyRing(settings.key_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no WebSocket is served, so none gets past here
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            self._check(scope)
        except PipeprobeError as error:
            self._telemetry.rejected(error.slug)
            scope["state"]["problem"] = error.slug
            headers = {"WWW-Authenticate": _CHALLENGE} if isinstance(error, UnauthorizedError) else None
            response = problem_response(problem_of(error), scope["state"]["request_id"], headers=headers)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raise `UnauthorizedError` or `ForbiddenError`, or leave the key's name in the request's state."""
        path = scope["path"]
        key = self._key(Headers(scope=scope))
        if key is not None:
            scope["state"]["caller"] = key.name
        for_metrics = path == METRICS_PATH
        if path in OPEN_PATHS or not self._required(for_metrics=for_metrics):
            return
        if key is None:
            raise UnauthorizedError("an API key is needed: send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`")
        wanted = "metrics" if for_metrics else "score"
        if wanted not in key.scopes:
            raise ForbiddenError(f"key {key.name!r} is for {' and '.join(key.scopes)} only, not for {wanted}")

    def _key(self, headers: Headers) -> ApiKey | None:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        token = bearer.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        return self._ring.find(token) if token else None

    def _required(self, *, for_metrics: bool) -> bool:
        return requires_key(self._settings, for_metrics=for_metrics, loopback=self._loopback)

    @cached_property
    def _loopback(self) -> bool:
        """Looked at with the first request, when the process surely listens."""
        hosts = listening_hosts()
        loopback = bool(hosts) and all(is_loopback(host) for host in hosts)
        if not loopback and self._settings.auth == "auto" and not len(self._ring):
            logger.error("refusing all requests: %s", _no_keys(self._settings, f"it listens on {hosts or 'unknown'}"))
        return loopback


def requires_key(settings: Settings, *, for_metrics: bool, loopback: bool) -> bool:
    """Whether a request needs a key; `loopback`: the service can be reached from this machine alone."""
    choice = settings.auth
    if for_metrics and settings.metrics_auth != "auto":
        choice = settings.metrics_auth
    return choice == "required" or (choice == "auto" and not loopback)


def check_access(settings: Settings, host: str) -> None:
    """Raise `ConfigError` if nobody could get in: keys are required on `host`, and there are none.

    That is how a service is kept from being open to a network because nobody thought of it.
    """
    loopback = is_loopback(host)
    if not any(requires_key(settings, for_metrics=metrics, loopback=loopback) for metrics in (False, True)):
        return
    if not read_keys(settings.key_path):
        why = f"it would listen on {host}" if not loopback else f"{PREFIX}AUTH or {PREFIX}METRICS_AUTH asks for them"
        raise ConfigError(_no_keys(settings, why))


def is_loopback(host: str) -> bool:
    """Whether an IP address is this machine's own; a name is not, since what it resolves to can change."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listening_hosts() -> list[str]:
    """Addresses of the TCP sockets on which this process listens; empty where that cannot be found out."""
    descriptors = [int(name) for name in os.listdir(_DESCRIPTORS)] if Path(_DESCRIPTORS).is_dir() else []  # noqa: PTH208
    return [host for descriptor in descriptors if (host := _listening_host(descriptor)) is not None]


def _listening_host(descriptor: int) -> str | None:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
        borrowed = socket.socket(fileno=descriptor)
    except OSError:  # closed meanwhile
        return None
    try:
        is_tcp = borrowed.family in (socket.AF_INET, socket.AF_INET6)
        listens = is_tcp and borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return str(borrowed.getsockname()[0]) if listens else None
    finally:
        borrowed.detach()  # somebody else's: not to be closed here


def _no_keys(settings: Settings, why: str) -> str:
    return (
        f"API keys are required since {why}, and {settings.key_path} holds none. Make one with `pipeprobe keys add "
        f"NAME`, listen on 127.0.0.1, or say with {PREFIX}AUTH=off that everybody may ask"
    )
