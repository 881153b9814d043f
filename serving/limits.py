"""The service's settings: read from PIPEPROBE_* once at start, refused there if wrong.

Each field below says its environment variable, its range and what it is for; `settings_table` prints them as
the README's table. Everything that grows with what callers send has a bound here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from serving.devices import available_cores, parse_device
from serving.errors import ConfigError, DeviceError
from serving.frames import DecodeLimits
from serving.manifest import VARIANT_NAMES, is_plain_name

PREFIX = "PIPEPROBE_"
_MIB = 2**20


def _number(default: float, low: float, high: float, doc: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "doc": doc})


def _names(default: tuple[str, ...], doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the service serves, on what, and how much of it at once.

    Every field is read from the environment variable PIPEPROBE_<FIELD NAME>; lists are separated by commas.
    Raises `ConfigError`, naming the variable and what it may be, if a value is out of range.
    """

    pair: tuple[str, ...] = _names((), "pairs to serve, the default one first; none: models/index.json's default")
    device: tuple[str, ...] = _names(
        ("cpu",), "cpu, cuda or cuda:INDEX; of a list, the worker with index i takes the i-th, in turn"
    )
    variant: str = field(default="", metadata={"doc": "fp32, fp16 or int8; none: the fastest for the device"})
    workers: int = _number(1, 1, 64, "worker processes, each with its own sessions and its own limits below")
    threads: int = _number(0, 0, 256, "CPU threads of one session run; 0: the available cores over the workers")
    decode_threads: int = _number(0, 0, 256, "threads that decode frames; 0: the available cores over the workers")
    scorer_batch: int = _number(0, 0, 128, "most frames in one run of the session; 0: 4 on a CPU, 32 on a GPU")
    max_queue: int = _number(256, 1, 100_000, "frames admitted and not yet scored; above: 503")
    max_requests: int = _number(512, 1, 100_000, "scoring requests at the same time; above: 503")
    max_bytes_held: int = _number(512 * _MIB, _MIB, 2**40, "bytes of request bodies held at the same time; above: 503")
    max_body_bytes: int = _number(64 * _MIB, 1024, 4096 * _MIB, "bytes of one request body; above: 413")
    max_frame_bytes: int = _number(32 * _MIB, 1024, 1024 * _MIB, "bytes of one encoded frame; above: 413")
    max_pixels: int = _number(64_000_000, 1024, 10**9, "width x height of one frame; above: 413")
    max_batch_frames: int = _number(64, 1, 4096, "frames in one batch request; above: 413")
    deadline_s: float = _number(30.0, 0.01, 3600, "seconds from a request's headers to its answer; above: 504")
    access_log: int = _number(0, 0, 1, "1: one line a request in BentoML's log")

    def __post_init__(self) -> None:
        for setting in fields(self):
            if "low" in setting.metadata:
                _check_range(setting.name, getattr(self, setting.name), setting.metadata)
        for name in self.pair:
            _check(is_plain_name(name), "pair", name, "names of folders under models/")
        _check(bool(self.device), "device", "", "cpu, cuda or cuda:INDEX")
        for name in self.device:
            _check_device(name)
        _check(self.variant in ("", *VARIANT_NAMES), "variant", self.variant, f"one of {', '.join(VARIANT_NAMES)}")
        _check(
            self.max_batch_frames <= self.max_queue,
            "max_batch_frames",
            self.max_batch_frames,
            f"at most {PREFIX}MAX_QUEUE = {self.max_queue}, or no full batch could ever be admitted",
        )
        _check(
            self.max_body_bytes <= self.max_bytes_held,
            "max_body_bytes",
            self.max_body_bytes,
            f"at most {PREFIX}MAX_BYTES_HELD = {self.max_bytes_held}",
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """From PIPEPROBE_*; a variable that is unset or empty leaves its default."""
        values: dict[str, Any] = {}
        for setting in fields(cls):
            text = environ.get(PREFIX + setting.name.upper(), "").strip()
            if text:
                values[setting.name] = _parse(setting.name, text, setting.default)
        return cls(**values)

    @property
    def decode_limits(self) -> DecodeLimits:
        return DecodeLimits(max_bytes=self.max_frame_bytes, max_pixels=self.max_pixels)

    def device_of(self, worker: int) -> str:
        """The device of the worker with index `worker`, counted from 0."""
        return self.device[worker % len(self.device)]

    def batch_of(self, device: str) -> int:
        """Most frames in one run of the session on `device`.

        A CPU gains nothing from large batches; small ones keep it scoring while the next frames are decoded
        and answers go out. A GPU needs them.
        """
        return self.scorer_batch or (4 if parse_device(device).kind == "cpu" else 32)

    def session_threads(self) -> int:
        return self.threads or max(1, available_cores() // self.workers)

    def pool_threads(self) -> int:
        return self.decode_threads or max(1, available_cores() // self.workers)


def settings_table() -> list[tuple[str, str, str, str]]:
    """(variable, default, range, meaning) of every setting, for the documentation."""
    rows = []
    for setting in fields(Settings):
        assert setting.default is not MISSING
        default = ",".join(setting.default) if isinstance(setting.default, tuple) else f"{setting.default}"
        bounds = setting.metadata
        allowed = f"{bounds['low']} to {bounds['high']}" if "low" in bounds else "names"
        rows.append((PREFIX + setting.name.upper(), default, allowed, bounds["doc"]))
    return rows


def _parse(name: str, text: str, default: Any) -> Any:
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(","))
    kind = type(default)
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{PREFIX}{name.upper()}={text[:50]!r} is not {what}") from None


def _check_range(name: str, value: float, bounds: Mapping[str, Any]) -> None:
    low, high = bounds["low"], bounds["high"]
    # Written so that NaN fails as well.
    _check(low <= value <= high, name, value, f"{low} to {high} ({bounds['doc']})")


def _check_device(name: str) -> None:
    try:
        parse_device(name)
    except DeviceError as error:
        raise ConfigError(f"{PREFIX}DEVICE: {error}") from error


def _check(fits: bool, name: str, value: object, allowed: str) -> None:
    if not fits:
        raise ConfigError(f"{PREFIX}{name.upper()}={value} is refused; it may be {allowed}")
