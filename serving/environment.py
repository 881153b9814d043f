"""Which PIPEPROBE_* variables of an environment are settings, and what a misspelt one was meant to be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

from serving.errors import ConfigError

PREFIX = "PIPEPROBE_"

# Kubernetes and Docker put the address of every service beside a container into its environment. For a service
# called `pipeprobe` those are PIPEPROBE_SERVICE_HOST, PIPEPROBE_PORT=tcp://10.0.0.7:3000 and the like.
_LINK_NAME = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://.+")


def given_settings(environ: Mapping[str, str], known: Collection[str]) -> dict[str, str]:
    """Name, without prefix, and text of every PIPEPROBE_* variable that is neither empty nor an address of a service.

    Raises `ConfigError` for one that is not `known`: misspelt, it would silently leave a default.
    """
    given = {name.removeprefix(PREFIX): text.strip() for name, text in environ.items() if name.startswith(PREFIX)}
    settings = {name: text for name, text in given.items() if text and not _is_link(name, text)}
    for name in settings:
        if name not in known:
            raise ConfigError(f"{PREFIX}{name[:50]} is no setting{hint(name, known)}")
    return settings


def hint(name: str, known: Collection[str]) -> str:
    """What `name` was probably meant to be, as the end of a sentence."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {PREFIX}{close[0]}?" if close else "; the README lists them all"


def _is_link(name: str, text: str) -> bool:
    is_address = name.endswith("PORT") and _LINK_VALUE.fullmatch(text) is not None
    return is_address or _LINK_NAME.fullmatch(name) is not None
