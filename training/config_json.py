"""Frozen dataclasses to JSON values and back; what a config does not know is an error."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from serving.errors import ConfigError


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise `ConfigError`, naming the choices, unless `value` is one of them."""
    # As a tuple, in which what cannot be hashed can be looked for too.
    if value not in tuple(choices):
        raise ConfigError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def encode_config(config: Any) -> dict[str, Any]:
    """A config as JSON values; `decode_config` gives an equal one."""
    return _encode(asdict(config))  # type: ignore[no-any-return] # a mapping stays one


def decode_config(kind: Any, data: Any, *, where: str = "config", kinds: Mapping[str, Any] | None = None) -> Any:
    """Build the dataclass `kind` from JSON values; `kinds` overrides the declared types of some of its fields.

    Raises:
        ConfigError: a key is unknown or missing, or a value of the wrong kind or out of range.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a JSON object, got {data!r}")
    hints = {**get_type_hints(kind), **(kinds or {})}
    names = [field.name for field in fields(kind)]
    unknown, missing = sorted(set(data) - set(names)), sorted(set(names) - set(data))
    if unknown or missing:
        raise ConfigError(f"{where}: unknown keys {unknown}, missing keys {missing}")
    return kind(**{name: _decode(hints[name], data[name], f"{where}.{name}") for name in names})


def _encode(value: Any) -> Any:
    """Tuples as lists, so that what is written equals what is read back."""
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return value


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return decode_config(kind, value, where=where)
    if origin is Literal:
        check_choice(where, value, arguments)
        return value
    if origin in (Union, types.UnionType):
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _decode(inner, value, where)
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where} must be {kind.__name__}, got {value!r}")
    return value


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where} must be a JSON array, got {value!r}")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ConfigError(f"{where} must have {len(arguments)} entries, got {len(value)}")
    return tuple(
        _decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )
