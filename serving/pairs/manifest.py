"""What a pair declares about itself: the schema of `manifest.json`, validated when built and when read.

Nothing about a pair is guessed from its weights. A manifest that is missing a key, has one too many, or
states something impossible raises `PairInvalidError` with the place inside the file.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal, TypeAlias

from serving.errors import OperatingPointNotFoundError, PairInvalidError

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | str | int | float | bool | None"
VariantName = Literal["fp32", "fp16", "int8"]

SCHEMA_VERSION = 1
GOLDEN_FILE = "golden.npz"

OUTPUTS = ("score", "logit", "embedding", "evidence")
"""The outputs of every variant's graph, in order."""
VARIANT_NAMES: tuple[VariantName, ...] = ("fp32", "fp16", "int8")

# No separators and no leading dot: such a name can neither leave its folder nor hide in it.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_plain_name(name: str) -> bool:
    """Whether `name` is safe as a pair's or a file's name: one path component, no leading dot."""
    return _PLAIN_NAME.fullmatch(name) is not None


class Record:
    """JSON reading and writing for the dataclasses below: unknown and missing keys are errors."""

    what: ClassVar[str]

    def to_json(self) -> dict[str, JSON]:
        """As a JSON object; tuples become lists."""
        return {
            field.name: _to_json(getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]  # every Record is a dataclass
        }

    @classmethod
    def from_json(cls, value: JSON) -> typing.Self:
        """From a JSON object; raises `PairInvalidError` naming the key that is unknown, missing or wrong."""
        built = _from_json(cls, value, cls.what)
        assert isinstance(built, cls)
        return built


@dataclass(frozen=True, kw_only=True)
class Calibration(Record):
    """Platt scaling, already inside the graph: score = sigmoid(slope * logit + intercept).

    `n` frames of `data` were used to fit it.
    """

    slope: float
    intercept: float
    n: int
    data: str

    what: ClassVar[str] = "calibration"

    def __post_init__(self) -> None:
        _check_finite("calibration", slope=self.slope, intercept=self.intercept)
        _check(self.slope > 0, f"calibration: slope {self.slope} must be positive, else scores are reversed")
        _check(self.n > 0, f"calibration: n {self.n} must be positive")


@dataclass(frozen=True, kw_only=True)
class OperatingPoint(Record):
    """A named threshold: the verdict is `defect` if score >= threshold.

    `criterion` says what it was chosen for; recall, precision and specificity were measured at it on the `n`
    frames of `data`.
    """

    name: str
    threshold: float
    criterion: str
    recall: float
    precision: float
    specificity: float
    n: int
    data: str

    what: ClassVar[str] = "operating point"

    def __post_init__(self) -> None:
        where = f"operating point {self.name!r}"
        _check(is_plain_name(self.name), f"{where}: the name must be letters, digits, '.', '_' and '-'")
        for key in ("threshold", "recall", "precision", "specificity"):
            value = getattr(self, key)
            _check(0 <= value <= 1, f"{where}: {key} {value} is outside [0, 1]")
        _check(self.n > 0, f"{where}: n {self.n} must be positive")


@dataclass(frozen=True, kw_only=True)
class Metric(Record):
    """A measured number with its 95 % interval [low, high]: on `n` frames of `data`, by `command`."""

    name: str
    data: str
    value: float
    low: float
    high: float
    n: int
    command: str = ""

    what: ClassVar[str] = "metric"

    def __post_init__(self) -> None:
        where = f"metric {self.name!r} on {self.data!r}"
        _check_finite(where, value=self.value, low=self.low, high=self.high)
        _check(self.low <= self.high, f"{where}: the interval [{self.low}, {self.high}] is reversed")
        _check(self.n > 0, f"{where}: n {self.n} must be positive")


@dataclass(frozen=True, kw_only=True)
class Variant(Record):
    """One ONNX file of the pair: its arithmetic precision in words and the device it is meant for."""

    name: VariantName
    file: str
    precision: str
    device: Literal["cpu", "cuda", "any"]

    what: ClassVar[str] = "variant"

    def __post_init__(self) -> None:
        _check(
            is_plain_name(self.file) and self.file.endswith(".onnx"),
            f"variant {self.name!r}: file {self.file!r} must be the plain name of an .onnx file",
        )


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """`manifest.json`: all that a scorer, a reader of its results and an auditor must know about a pair.

    Attributes:
        name, version: how requests and results refer to the pair.
        encoder, method: the backbone, and the self-supervised method that pretrained it.
        image_size: side of the square input, pixels.
        feature_dim: D of `embedding` [N, D].
        evidence_shape: (h, w) of `evidence` [N, h, w].
        training: settings, data and seeds of the training, as JSON.
        validated_on: what the metrics cover, in words; above all whether real sewers are among it.
        variants: precision name -> ONNX file.
        files: file name -> SHA-256, of every file in the folder but the manifest.
        created: ISO 8601 time.
    """

    name: str
    version: str
    encoder: str
    method: str
    image_size: int
    feature_dim: int
    evidence_shape: tuple[int, int]
    calibration: Calibration
    operating_points: dict[str, OperatingPoint]
    metrics: list[Metric]
    training: dict[str, JSON]
    validated_on: str
    git_revision: str
    packages: dict[str, str]
    hardware: str
    variants: dict[str, Variant]
    files: dict[str, str]
    created: str
    schema_version: int = SCHEMA_VERSION
    input_dtype: str = "uint8"
    input_layout: str = "NHWC"
    default_operating_point: str = "balanced"

    what: ClassVar[str] = "manifest"

    def __post_init__(self) -> None:
        _check(
            self.schema_version == SCHEMA_VERSION,
            f"schema_version {self.schema_version} is not {SCHEMA_VERSION}, the one this release reads; "
            "export the pair again or use the release that wrote it",
        )
        for key in ("name", "version"):
            value = getattr(self, key)
            _check(is_plain_name(value), f"{key} {value!r} must be letters, digits, '.', '_', '+' and '-'")
        _check(1 <= self.image_size <= 4096, f"image_size {self.image_size} is outside [1, 4096]")
        _check(self.feature_dim > 0, f"feature_dim {self.feature_dim} must be positive")
        _check(min(self.evidence_shape) > 0, f"evidence_shape {self.evidence_shape} must be positive")
        _check(self.input_dtype == "uint8", f"input_dtype {self.input_dtype!r} is not 'uint8'")
        _check(self.input_layout == "NHWC", f"input_layout {self.input_layout!r} is not 'NHWC'")
        self._check_created()
        self._check_operating_points()
        self._check_files()

    def _check_created(self) -> None:
        try:
            datetime.fromisoformat(self.created)
        except ValueError as error:
            raise PairInvalidError(f"created {self.created!r} is not an ISO 8601 time") from error

    def _check_operating_points(self) -> None:
        for key, point in self.operating_points.items():
            _check(key == point.name, f"operating_points: the key {key!r} holds a point named {point.name!r}")
        _check(
            self.default_operating_point in self.operating_points,
            f"default_operating_point {self.default_operating_point!r} is not among operating_points "
            f"({_listed(self.operating_points)})",
        )

    def _check_files(self) -> None:
        for file, digest in self.files.items():
            _check(is_plain_name(file), f"files: {file!r} is not a plain file name inside the pair's folder")
            _check(_SHA256.fullmatch(digest) is not None, f"files: {digest!r} of {file} is not a SHA-256")
        _check(GOLDEN_FILE in self.files, f"files: {GOLDEN_FILE}, the reference outputs, is missing")
        _check(bool(self.variants), "variants: a pair needs at least one")
        for key, variant in self.variants.items():
            _check(key == variant.name, f"variants: the key {key!r} holds a variant named {variant.name!r}")
            _check(variant.file in self.files, f"variants: {variant.file} of {key} is not among files")

    def operating_point(self, name: str | None = None) -> OperatingPoint:
        """The named operating point, or the default; `OperatingPointNotFoundError` lists what there is."""
        wanted = self.default_operating_point if name is None else name
        point = self.operating_points.get(wanted)
        if point is None:
            raise OperatingPointNotFoundError(
                f"pair {self.name} has no operating point {wanted[:50]!r}; it has {_listed(self.operating_points)}"
            )
        return point


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise PairInvalidError(message)


def _check_finite(where: str, **values: float) -> None:
    for key, value in values.items():
        _check(math.isfinite(value), f"{where}: {key} {value} is not a finite number")


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"


def _to_json(value: Any) -> JSON:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, dict):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    assert value is None or isinstance(value, str | int | float), f"{type(value)} is not JSON"
    return value


def _from_json(kind: Any, value: Any, where: str) -> Any:
    """`value` as the declared type `kind`, of those that the dataclasses above use; never coerces."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where)
    if origin is Literal:
        _check(value in arguments, f"{where}: {value!r} is not one of {', '.join(map(repr, arguments))}")
        return value
    if origin is dict:
        _check_type(value, dict, where)
        return {key: _from_json(arguments[1], item, f"{where}: {key}") for key, item in value.items()}
    if origin in (list, tuple):
        _check_type(value, list, where)
        if origin is list:
            return [_from_json(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
        _check(len(value) == len(arguments), f"{where}: {value!r} does not have {len(arguments)} elements")
        return tuple(_from_json(item_kind, item, where) for item_kind, item in zip(arguments, value, strict=True))
    if origin in (typing.Union, types.UnionType):
        return value  # only `JSON` is a union, and what json.loads returned is that
    if kind is float and type(value) is int:
        return float(value)
    _check_type(value, kind, where)
    return value


def _check_type(value: Any, kind: type, where: str) -> None:
    # bool is an int to isinstance, and `"n": true` is not a count.
    got = type(value).__name__
    _check(type(value) is kind, f"{where}: expected {kind.__name__}, got {got} {str(value)[:50]!r}")


def _build(cls: Any, value: Any, where: str) -> Any:
    _check_type(value, dict, where)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(value) - set(fields))
    _check(not unknown, f"{where}: unknown key {', '.join(map(repr, unknown))}; known: {', '.join(fields)}")
    required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    missing = [name for name in required if name not in value]
    _check(not missing, f"{where}: missing key {', '.join(map(repr, missing))}")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _from_json(hints[key], item, f"{where}: {key}") for key, item in value.items()})
