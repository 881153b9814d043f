"""One function called many times over a Ray cluster: several calls to a GPU if they fit, and again after a death.

All machines must see the same files under the same paths. Ray is imported here alone, and only when it is asked for.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, TypeVar

from serving.errors import ConfigError

RETRIES = 3
"""Of one call, after its worker died for whatever reason."""

# Nothing but settings and a line of text passes between processes; Ray's least is 75 MiB.
_OBJECT_STORE_BYTES = 100 * 2**20
# For a machine of a cluster to take a connection.
_CONNECT_S = 10

A = TypeVar("A")
R = TypeVar("R")


class WorkerLostError(Exception):
    """The worker of a call died, and so did those that tried it again."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where to run, and what one call gets there.

    Attributes:
        task: what one call does, for messages: `an experiment`.
        address: of a running cluster, as Ray understands it; None starts Ray on this machine for as long as it takes.
        address_option: what the user names the address with.
        gpus: share of a GPU for one call; 0 runs on the CPU.
        cpus: cores for one call, and its threads.
    """

    task: str
    address: str | None = None
    address_option: str = "--address"
    gpus: float = 0.0
    cpus: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.gpus <= 1:
            raise ConfigError(f"{self.task} runs on one GPU or a share of it, in [0, 1], got {self.gpus}")
        if self.cpus < 1:
            raise ConfigError(f"{self.task} needs a core at least, got {self.cpus}")

    @property
    def device(self) -> str:
        """In a worker, which sees no other GPU than its own."""
        return "cuda" if self.gpus else "cpu"


def cluster_of(engine: str, device: str, options: Mapping[str, Any], *, task: str) -> Cluster | None:
    """The cluster that a command was asked for; None for the engine `local`.

    Args:
        options: what was given, None if nothing, by the names of the options for the cluster's address, for the GPUs
            and for the cores of one call, in this order.

    Raises:
        ConfigError: an option is for Ray and the engine is not, the device names one GPU, or Ray is not installed.
    """
    if engine == "local":
        misplaced = [name for name, value in options.items() if value is not None]
        if misplaced:
            raise ConfigError(f"{', '.join(misplaced)}: for --engine ray alone, and the engine is local")
        return None
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"Ray chooses the GPU of each worker: say --device cuda, not {device}")
    import_ray()
    (address_option, address), (_, gpus), (_, cpus) = options.items()
    return Cluster(
        task=task,
        address=address,
        address_option=address_option,
        gpus=float(device == "cuda") if gpus is None else gpus,
        cpus=cpus or 1,
    )


def import_ray() -> ModuleType:
    """Ray, or a `ConfigError` that says how to install it."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"Ray cannot be imported ({error}); install it: pip install 'pipeprobe[cluster]'") from error
    module: ModuleType = ray
    return module


class Calls(Generic[A, R]):
    """Calls of `function`, each with one argument and a name, handed in at any time and taken out as they end."""

    def __init__(self, ray: ModuleType, cluster: Cluster, function: Callable[[A], R]) -> None:
        self._ray = ray
        # Ray would repeat without end what its memory monitor killed, so that repeating is done here.
        self._remote = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=0)(function)
        self._pending: dict[Any, tuple[Any, A]] = {}
        self._deaths: Counter[Any] = Counter()

    def __len__(self) -> int:
        """How many are waiting or running."""
        return len(self._pending)

    def add(self, name: Any, argument: A) -> None:
        self._pending[self._remote.remote(argument)] = name, argument

    def next_ended(self) -> tuple[Any, R | Exception]:
        """Wait until a call ends: its name and what it returned, raised, or, as `WorkerLostError`, died of."""
        while True:
            (ready,), _ = self._ray.wait(list(self._pending), num_returns=1)
            name, argument = self._pending.pop(ready)
            try:
                result: R = self._ray.get(ready)
            except self._ray.exceptions.RayTaskError as error:
                cause: Exception = error.cause
                cause.__cause__ = error  # has the worker's traceback
                return name, cause
            except self._ray.exceptions.RayError as error:
                self._deaths[name] += 1
                if self._deaths[name] > RETRIES:
                    summary = str(error).partition("\n")[0]
                    return name, WorkerLostError(f"its worker died {self._deaths[name]} times; Ray says: {summary}")
                self.add(name, argument)
            else:
                return name, result


@contextmanager
def connected(cluster: Cluster) -> Iterator[ModuleType]:
    """Ray, started here or joined, until the end of the block.

    Raises `ConfigError` if there is no cluster at the address, or if this machine has no room for a call.
    """
    ray = import_ray()
    # Workers' own output would be mixed with the progress; what matters of it is in the files that they write.
    if cluster.address is None:
        # A cluster that was started for this command reports to nobody.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    else:
        try:
            _check_listening(cluster.address)
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"no Ray cluster can be reached at {cluster.address} ({error}): start one with `ray start --head`, or "
                f"leave {cluster.address_option} out to use this machine alone"
            ) from error
    try:
        check_room(ray, cluster)
        yield ray
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Raise `OSError` if nothing answers at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def check_room(ray: ModuleType, cluster: Cluster) -> None:
    """Refuse what would wait for ever on this machine; a cluster elsewhere may still grow."""
    found = ray.cluster_resources()
    cpus, gpus = found.get("CPU", 0), found.get("GPU", 0)
    if cluster.address is None and (cluster.cpus > cpus or cluster.gpus > gpus):
        raise ConfigError(
            f"{cluster.task} asks for {cluster.cpus} cores and {cluster.gpus:g} GPUs, and Ray finds "
            f"{cpus:g} and {gpus:g} here: ask for less, or name a cluster with {cluster.address_option}"
        )
