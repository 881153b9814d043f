"""Settings are read once, and refused by name if they are wrong."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serving.errors import ConfigError
from serving.limits import Settings, settings_table


def test_defaults_hold_without_any_variable() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert settings.device_of(5) == "cpu"
    assert (settings.batch_of("cpu"), settings.batch_of("cuda:1")) == (8, 32)
    assert settings.decode_limits.max_bytes == settings.max_frame_bytes


def test_reads_what_is_set() -> None:
    settings = Settings.from_env(
        {
            "PIPEPROBE_PAIR": "first, second",
            "PIPEPROBE_DEVICE": "cuda:0,cuda:1",
            "PIPEPROBE_VARIANT": "fp16",
            "PIPEPROBE_DEADLINE_S": "2.5",
            "PIPEPROBE_MAX_QUEUE": "",
            "PIPEPROBE_THREADS": "3",
        }
    )
    assert settings.pair == ("first", "second")
    assert [settings.device_of(worker) for worker in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert (settings.variant, settings.deadline_s) == ("fp16", 2.5)
    assert settings.max_queue == Settings().max_queue
    assert settings.lone_threads() == 3


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.limits.available_cores", lambda: 8)
    alone, many = Settings(), Settings(workers=64)
    assert (alone.lone_threads(), alone.pool_threads(), alone.scorers_of("cpu")) == (8, 8, 8)
    assert (Settings(workers=4).lone_threads(), Settings(workers=4).scorers_of("cpu")) == (2, 2)
    assert many.lone_threads() == many.pool_threads() == many.scorers_of("cpu") == 1


def test_runs_of_one_thread_share_a_cpu_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.limits.available_cores", lambda: 8)
    assert (Settings().busy_threads("cpu"), Settings().busy_threads("cuda")) == (1, 8)
    assert (Settings(threads=3).busy_threads("cpu"), Settings(threads=3).lone_threads()) == (3, 3)
    threads_of_all, scorers_of_all = (1, 2, 3, 8), (8, 4, 2, 2)
    assert tuple(Settings(threads=threads).scorers_of("cpu") for threads in threads_of_all) == scorers_of_all
    assert Settings(threads=4).scorers_of("cuda:1") == Settings().scorers_of("cuda") == 1
    assert Settings(threads=4, scorers=3).scorers_of("cuda") == Settings(scorers=3).scorers_of("cpu") == 3


def test_graphs_are_for_gpus_alone() -> None:
    assert Settings(cuda_graphs=1, device=("cuda:0", "cuda:1")).cuda_graphs == 1
    with pytest.raises(ConfigError, match="PIPEPROBE_CUDA_GRAPHS=1 is refused; it may be 0 unless"):
        Settings(cuda_graphs=1, device=("cuda:0", "cpu"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MAX_QUEUE", "0", "1 to 100000"),
        ("MAX_QUEUE", "many", "not a whole number"),
        ("WORKERS", "1.5", "not a whole number"),
        ("DEADLINE_S", "nan", "0.01 to 3600"),
        ("DEADLINE_S", "soon", "not a number"),
        ("DEVICE", "gpu", "use cpu, cuda"),
        ("DEVICE", "cpu,", "use cpu, cuda"),
        ("VARIANT", "fp64", "fp32, fp16, int8"),
        ("AUTH", "on", "auto, required or off"),
        ("PAIR", "../elsewhere", "folders under models/"),
        ("MAX_BATCH_FRAMES", "300", "PIPEPROBE_MAX_QUEUE"),
        ("MAX_BODY_BYTES", str(2**30), "PIPEPROBE_MAX_BYTES_HELD"),
        ("JOBS", "jobs", "an absolute path"),
        ("VIDEO_ROOT", "off", "an absolute path"),
    ],
)
def test_refuses_wrong_values_by_name(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"PIPEPROBE_{name}") as caught:
        Settings.from_env({f"PIPEPROBE_{name}": value})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("PIPEPROBE_MAX_QUEU", "did you mean PIPEPROBE_MAX_QUEUE?"),
        ("PIPEPROBE_DEADLINE", "did you mean PIPEPROBE_DEADLINE_S?"),
        ("PIPEPROBE_MODEL", "did you mean PIPEPROBE_MODELS?"),
        ("PIPEPROBE_XYZZY", "the README lists them all"),
        ("PIPEPROBE_PORT", "no setting"),
    ],
)
def test_refuses_unknown_variables_with_the_closest_name(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is no setting") as caught:
        Settings.from_env({name: "1"})
    assert said in str(caught.value)


def test_leaves_alone_what_is_read_elsewhere_and_what_kubernetes_adds() -> None:
    links = {
        "PIPEPROBE_SERVICE_HOST": "10.0.0.7",
        "PIPEPROBE_SERVICE_PORT_HTTP": "3000",
        "PIPEPROBE_PORT": "tcp://10.0.0.7:3000",
        "PIPEPROBE_PORT_3000_TCP_ADDR": "10.0.0.7",
        "PIPEPROBE_METRICS_PORT_9090_TCP": "tcp://10.0.0.8:9090",
    }
    others = {"PIPEPROBE_MODELS": "/models", "PATH": "/bin", "OTHER_MAX_QUEUE": "0"}
    assert Settings.from_env(links | others) == Settings()


def test_says_all_that_is_wrong_at_once() -> None:
    with pytest.raises(ConfigError, match=r"PIPEPROBE_WORKERS=many .*; PIPEPROBE_MAX_QUEUE=0 "):
        Settings.from_env({"PIPEPROBE_WORKERS": "many", "PIPEPROBE_MAX_QUEUE": "0"})


def test_what_is_built_in_code_is_checked_reads_no_environment_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPEPROBE_MAX_QUEUE", "700")
    assert Settings().max_queue == 256
    assert Settings.from_env().max_queue == 700
    with pytest.raises(ConfigError, match="'max_que' is no setting; did you mean PIPEPROBE_MAX_QUEUE"):
        Settings(max_que=1)
    with pytest.raises(ValidationError, match="frozen"):
        Settings().max_queue = 1


def test_table_has_every_setting() -> None:
    rows = {row[0]: row for row in settings_table()}
    assert set(rows) == {f"PIPEPROBE_{name.upper()}" for name in (*Settings.model_fields, "MODELS", "API_KEY")}
    assert rows["PIPEPROBE_MAX_BATCH_FRAMES"][1:3] == ("64", "1 to 4096")
    assert all(allowed and meaning for _, _, allowed, meaning in rows.values())
