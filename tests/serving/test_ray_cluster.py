"""Ray and what is asked of it: where it is missing, where no cluster answers, what would wait for ever."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from support.ray_runs import ray_folder

from serving.errors import ConfigError
from serving.ray_cluster import Cluster, check_room, cluster_of, connected, import_ray


@pytest.mark.parametrize(("gpus", "device"), [(0.0, "cpu"), (0.25, "cuda"), (1.0, "cuda")])
def test_calls_run_on_the_gpu_that_they_are_given_a_share_of(gpus: float, device: str) -> None:
    assert Cluster(task="a task", gpus=gpus).device == device


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": 2.0}, r"a task runs on one GPU or a share of it, in \[0, 1\], got 2.0"),
        ({"gpus": -0.5}, r"a task runs on one GPU or a share of it, in \[0, 1\], got -0.5"),
        ({"cpus": 0}, "a task needs a core at least, got 0"),
    ],
)
def test_refuses_shares_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cluster(task="a task", **changes)


def asked(**given: Any) -> dict[str, Any]:
    return {"--address": None, "--gpus": None, "--cpus": None} | {f"--{name}": value for name, value in given.items()}


def test_a_command_gets_the_cluster_that_it_was_asked_for() -> None:
    assert cluster_of("local", "cuda:1", asked(), task="a task") is None
    assert cluster_of("ray", "cpu", asked(), task="a task") == Cluster(task="a task")
    assert cluster_of("ray", "cuda", asked(cpus=2), task="a task") == Cluster(task="a task", gpus=1.0, cpus=2)
    shared = cluster_of("ray", "cuda", asked(address="auto", gpus=0.25), task="a task")
    assert shared == Cluster(task="a task", address="auto", gpus=0.25)


@pytest.mark.parametrize(
    ("engine", "device", "given", "message"),
    [
        ("local", "cpu", {"cpus": 2, "address": "auto"}, "--address, --cpus: for --engine ray alone"),
        ("ray", "cuda:1", {}, "Ray chooses the GPU of each worker: say --device cuda, not cuda:1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    engine: str, device: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        cluster_of(engine, device, asked(**given), task="a task")


def test_a_missing_ray_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray cannot be imported .*pip install 'pipeprobe\[cluster\]'"):
        import_ray()


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster = Cluster(task="a task", address=address, address_option="--ray-address")
    with ray_folder() as folder:
        monkeypatch.setenv("RAY_TMPDIR", str(folder))
        with (
            pytest.raises(
                ConfigError,
                match=rf"no Ray cluster can be reached at {address} .*`ray start --head`, or leave --ray-address out",
            ),
            connected(cluster),
        ):
            pass


class OneCore:
    """What Ray says of a small machine."""

    @staticmethod
    def cluster_resources() -> dict[str, float]:
        return {"CPU": 1.0, "memory": 2e9}


def test_what_would_wait_for_ever_is_refused() -> None:
    ray: Any = OneCore
    for cluster in (Cluster(task="a task", cpus=2), Cluster(task="a task", gpus=0.25)):
        with pytest.raises(ConfigError, match="Ray finds 1 and 0 here: ask for less, or name a cluster with --address"):
            check_room(ray, cluster)
    check_room(ray, Cluster(task="a task"))
    # A cluster elsewhere may still get a machine that has room.
    check_room(ray, Cluster(task="a task", cpus=2, address="auto"))
