"""The service's settings: read from PIPEPROBE_* once at start, refused there if wrong.

Each field below says its environment variable, its range and what it is for; `settings_table` prints them as
the README's table. Everything that grows with what callers send has a bound here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Le
from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from serving.devices import available_cores, parse_device
from serving.environment import PREFIX, given_settings, hint
from serving.errors import ConfigError, DeviceError
from serving.frames import DecodeLimits
from serving.inspections.video_settings import HANG_S, LONGEST_HANG_S, SHORTEST_HANG_S
from serving.pairs.manifest import VARIANT_NAMES
from serving.pairs.pair_index import is_pair_reference

_MIB = 2**20

OTHER_VARIABLES = {
    "MODELS": ("a folder", "folder of the pairs; none: models/ beside the packages, else ./models"),
    "API_KEY": ("a key", "what `pipeprobe videos --server` shows a service; the service itself takes no notice of it"),
}
"""What they may be and what for, of variables that are read elsewhere: more than the service, or others, need them."""


def _number(default: float, low: float, high: float, doc: str) -> Any:
    return Field(default=default, ge=low, le=high, description=doc)


def _text(default: str | tuple[str, ...], allowed: str, doc: str) -> Any:
    return Field(default=default, description=doc, json_schema_extra={"allowed": allowed})


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


Auth = Literal["auto", "required", "off"]


class Settings(BaseSettings):
    """What the service serves, on what, and how much of it at once.

    Every field is read from the environment variable PIPEPROBE_<FIELD NAME> by `from_env`, and by nothing
    else: `Settings(...)` takes what it is given and the defaults. Lists are separated by commas. Raises
    `ConfigError`, naming the variable and what it may be, if a value is wrong.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    pair: Names = _text(
        (),
        "names",
        "pairs to serve and no others, as NAME or NAME@VERSION, the default first; none: follow models/index.json",
    )
    watch_s: float = _number(
        2.0, 0, 3600, "seconds between looks at models/index.json for another default, if pair is empty; 0: never"
    )
    keep_versions: int = _number(1, 0, 16, "defaults of before that stay served after a promotion, by their version")
    shadow: str = _text("", "NAME or NAME@VERSION", "candidate that scores the default pair's frames as well, unseen")
    shadow_queue: int = _number(256, 1, 100_000, "frames that wait for the shadow; above: dropped and counted")
    device: Names = _text(
        ("cpu",), "names", "cpu, cuda or cuda:INDEX; of a list, the worker with index i takes the i-th, in turn"
    )
    variant: str = _text("", "names", "fp32, fp16 or int8; none: the fastest for the device")
    workers: int = _number(1, 1, 64, "worker processes, each with its own sessions and its own limits below")
    threads: int = _number(
        0,
        0,
        256,
        "CPU threads of one session run; 0: one under load, else the available cores over the workers",
    )
    decode_threads: int = _number(0, 0, 256, "threads that decode frames; 0: the available cores over the workers")
    scorer_batch: int = _number(0, 0, 128, "most frames in one run of the session; 0: 8 on a CPU, 32 on a GPU")
    scorers: int = _number(
        0, 0, 16, "session runs at the same time; 0: on a CPU as many as keep its cores busy, else 1"
    )
    cuda_graphs: int = _number(
        0, 0, 1, "1: one CUDA graph for each batch size, on GPUs only; whether it pays depends on pair and GPU"
    )
    max_queue: int = _number(256, 1, 100_000, "frames admitted and not yet scored; above: 503")
    max_requests: int = _number(512, 1, 100_000, "scoring requests at the same time; above: 503")
    max_caller_requests: int = _number(
        0, 0, 100_000, "scoring requests of one API key, or of one address, at the same time; above: 429; 0: no limit"
    )
    max_bytes_held: int = _number(512 * _MIB, _MIB, 2**40, "bytes of request bodies held at the same time; above: 503")
    max_body_bytes: int = _number(64 * _MIB, 1024, 4096 * _MIB, "bytes of one request body; above: 413")
    max_frame_bytes: int = _number(32 * _MIB, 1024, 1024 * _MIB, "bytes of one encoded frame; above: 413")
    max_pixels: int = _number(64_000_000, 1024, 10**9, "width x height of one frame; above: 413")
    max_batch_frames: int = _number(64, 1, 4096, "frames in one batch request; above: 413")
    deadline_s: float = _number(30.0, 0.01, 3600, "seconds from a request's headers to its answer; above: 504")
    auth: Auth = _text(
        "auto", "auto, required or off", "API keys: auto requires them unless only this machine can reach the service"
    )
    metrics_auth: Auth = _text(
        "auto", "auto, required or off", "API keys with the scope metrics for /metrics; auto: as PIPEPROBE_AUTH"
    )
    key_file: str = _text("", "a file", "file of the API keys; none: ~/.config/pipeprobe/keys.json")
    drift_window_frames: int = _number(
        10_000, 0, 10_000_000, "newest frames whose drift is measured, of all workers together; 0: none"
    )
    drift_window_s: float = _number(0, 0, 10**9, "seconds after which a frame leaves that window; 0: no bound")
    access_log: int = _number(1, 0, 1, "1: one line a request in the log")
    log_format: str = _text("text", "text or json", "how the workers log")
    trace_endpoint: str = _text(
        "", "a URL", "where spans go by OTLP/HTTP, as http://collector:4318/v1/traces; none: nowhere"
    )
    trace_share: float = _number(1.0, 0, 1, "share of requests traced, of those that come without a traceparent")
    jobs: str = _text(
        "", "a folder, or off", "folder of the video jobs; none: pipeprobe/jobs in $XDG_STATE_HOME or ~/.local/state"
    )
    video_root: str = _text("", "a folder", "folder whose videos a job may name by path; none: uploads only")
    max_video_bytes: int = _number(8192 * _MIB, 1024, 2**42, "bytes of one uploaded video; above: 413")
    max_uploads: int = _number(4, 1, 1000, "videos being uploaded at the same time; above: 503")
    upload_timeout_s: float = _number(3600.0, 1, 10**6, "seconds that one upload may take; above: 504")
    max_jobs: int = _number(100, 1, 10**6, "video jobs that wait or run, of all workers; above: 429")
    max_jobs_kept: int = _number(1000, 1, 10**6, "ended video jobs that are kept; the oldest go first")
    max_jobs_bytes: int = _number(50 * 1024 * _MIB, _MIB, 2**50, "bytes of all videos and results of jobs; above: 507")
    min_free_bytes: int = _number(1024 * _MIB, 0, 2**50, "bytes of the disk that video jobs leave free; below: 507")
    jobs_running: int = _number(1, 1, 64, "video jobs that run at the same time, of all workers")
    job_threads: int = _number(1, 1, 256, "CPU threads of one video job's session")
    job_nice: int = _number(10, 0, 19, "how far video jobs stand back behind live frames, as of the command nice")
    job_attempts: int = _number(3, 1, 100, "times that a video job is begun, if its process is killed, before it fails")
    job_timeout_s: float = _number(6 * 3600.0, 1, 10**7, "seconds that one video job may run before it fails")
    job_hang_s: float = _number(
        HANG_S,
        SHORTEST_HANG_S,
        LONGEST_HANG_S,
        "seconds without a sign of life after which what reads a job's video is ended and goes on behind that piece",
    )
    job_lease_s: float = _number(15.0, 1, 3600, "seconds after which a video job whose process is gone is taken again")
    keep_upload_h: float = _number(0.0, 0, 10**5, "hours that an uploaded video is kept after its job has ended")
    keep_result_h: float = _number(168.0, 0.001, 10**5, "hours that an ended video job and its results are kept")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """From PIPEPROBE_*; a variable that is unset or empty leaves its default, an unknown one is refused."""
        source = EnvSettingsSource(cls)
        given = given_settings(environ, _known())
        source.env_vars = {(PREFIX + name).lower(): text for name, text in given.items()}
        return cls(**source())

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed: `from_env` reads the environment, once, and from where it is told to."""
        return (init_settings,)

    @model_validator(mode="wrap")
    @classmethod
    def _name_what_is_wrong(cls, values: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return build(values)
        except ValidationError as error:
            raise ConfigError("; ".join(_wrong_value(details) for details in error.errors())) from None

    @field_validator("pair")
    @classmethod
    def _check_pairs(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            _check(is_pair_reference(name), "pair", name, "NAME or NAME@VERSION of folders under models/")
        return names

    @field_validator("shadow")
    @classmethod
    def _check_shadow(cls, name: str) -> str:
        _check(not name or is_pair_reference(name), "shadow", name, "NAME or NAME@VERSION of a folder under models/")
        return name

    @field_validator("device")
    @classmethod
    def _check_devices(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        _check(bool(names), "device", "", "cpu, cuda or cuda:INDEX")
        for name in names:
            try:
                parse_device(name)
            except DeviceError as error:
                raise ConfigError(f"{PREFIX}DEVICE: {error}") from error
        return names

    @field_validator("variant")
    @classmethod
    def _check_variant(cls, name: str) -> str:
        _check(name in ("", *VARIANT_NAMES), "variant", name, f"one of {', '.join(VARIANT_NAMES)}")
        return name

    @field_validator("log_format")
    @classmethod
    def _check_log_format(cls, name: str) -> str:
        _check(name in ("text", "json"), "log_format", name, "text or json")
        return name

    @field_validator("trace_endpoint")
    @classmethod
    def _check_trace_endpoint(cls, url: str) -> str:
        _check(url == "" or url.startswith(("http://", "https://")), "trace_endpoint", url, "an http(s):// URL")
        return url

    @field_validator("jobs", "video_root")
    @classmethod
    def _check_folder(cls, name: str, info: ValidationInfo) -> str:
        # The workers run in another folder than the one in which the service was started.
        is_absolute = Path(name).is_absolute() or name == "" or (info.field_name == "jobs" and name.lower() == "off")
        _check(is_absolute, info.field_name or "", name, "an absolute path")
        return name

    @model_validator(mode="after")
    def _check_each_against_others(self) -> Self:
        _check(
            self.max_batch_frames <= self.max_queue,
            "max_batch_frames",
            self.max_batch_frames,
            f"at most {PREFIX}MAX_QUEUE = {self.max_queue}, or no full batch could ever be admitted",
        )
        _check(
            not self.cuda_graphs or all(parse_device(name).kind == "cuda" for name in self.device),
            "cuda_graphs",
            self.cuda_graphs,
            f"0 unless every {PREFIX}DEVICE is a GPU",
        )
        _check(
            self.max_body_bytes <= self.max_bytes_held,
            "max_body_bytes",
            self.max_body_bytes,
            f"at most {PREFIX}MAX_BYTES_HELD = {self.max_bytes_held}",
        )
        return self

    @property
    def decode_limits(self) -> DecodeLimits:
        return DecodeLimits(max_bytes=self.max_frame_bytes, max_pixels=self.max_pixels)

    @property
    def key_path(self) -> Path:
        """The file of the API keys, whether it exists or not."""
        if self.key_file:
            return Path(self.key_file)
        return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "pipeprobe" / "keys.json"

    def device_of(self, worker: int) -> str:
        """The device of the worker with index `worker`, counted from 0."""
        return self.device[worker % len(self.device)]

    def batch_of(self, device: str) -> int:
        """Most frames in one run of the session on `device`.

        A CPU gains little from large batches; small ones keep it scoring while the next frames are decoded and answers
        go out. A GPU needs them.
        """
        return self.scorer_batch or (8 if parse_device(device).kind == "cpu" else 32)

    def scorers_of(self, device: str) -> int:
        """Runs of one session on `device` at the same time: on a CPU, as many as keep its cores busy.

        Where a run has several threads these are two at least, since the threads of one wait for each other at the end
        of every layer.
        """
        if self.scorers or parse_device(device).kind != "cpu":
            return self.scorers or 1
        return max(self._cores() // self.busy_threads(device), 2 if self.threads > 1 else 1)

    def busy_threads(self, device: str) -> int:
        """CPU threads of one session run under load: side by side, runs of one thread never wait for each other."""
        return self.threads or (1 if parse_device(device).kind == "cpu" else self._cores())

    def lone_threads(self) -> int:
        """CPU threads of one session run that has the machine to itself: all there are, for the sake of latency."""
        return self.threads or self._cores()

    def pool_threads(self) -> int:
        return self.decode_threads or self._cores()

    def _cores(self) -> int:
        return max(1, available_cores() // self.workers)


def settings_table() -> list[tuple[str, str, str, str]]:
    """(variable, default, range, meaning) of every PIPEPROBE_* variable, for the documentation."""
    rows = []
    for name, info in Settings.model_fields.items():
        default = ",".join(info.default) if isinstance(info.default, tuple) else f"{info.default}"
        rows.append((PREFIX + name.upper(), default, _allowed(info), info.description or ""))
    return rows + [(PREFIX + name, "", allowed, doc) for name, (allowed, doc) in OTHER_VARIABLES.items()]


def _allowed(info: FieldInfo) -> str:
    """What a field may be: `1 to 64`, or words."""
    if isinstance(info.json_schema_extra, dict):
        return str(info.json_schema_extra["allowed"])
    low = next(bound.ge for bound in info.metadata if isinstance(bound, Ge))
    high = next(bound.le for bound in info.metadata if isinstance(bound, Le))
    return f"{low} to {high}"


def _wrong_value(details: Any) -> str:
    """One of pydantic's errors as a sentence that names the variable and what it may be."""
    name = str(details["loc"][0])
    info = Settings.model_fields.get(name)
    if info is None:
        return f"{name!r} is no setting{hint(name.upper(), _known())}"
    kinds = {
        "int_parsing": "not a whole number",
        "int_from_float": "not a whole number",
        "float_parsing": "not a number",
    }
    said = kinds.get(details["type"], "refused")
    value = str(details["input"])[:50]
    return f"{PREFIX}{name.upper()}={value} is {said}; it may be {_allowed(info)} ({info.description})"


def _known() -> list[str]:
    return [*(field.upper() for field in Settings.model_fields), *OTHER_VARIABLES]


def _check(fits: bool, name: str, value: object, allowed: str) -> None:
    if not fits:
        raise ConfigError(f"{PREFIX}{name.upper()}={value} is refused; it may be {allowed}")
