"""Frozen dataclasses to JSON and back: equal after the trip, and whatever does not fit is named with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest

from serving.errors import ConfigError
from training.config_json import check_choice, decode_config, encode_config


@dataclass(frozen=True, kw_only=True)
class Part:
    size: int
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"part: size must be positive, got {self.size}")


@dataclass(frozen=True, kw_only=True)
class LargePart(Part):
    colour: str = "grey"


@dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    on: bool
    kind: Literal["round", "square"]
    bounds: tuple[float, float]
    widths: tuple[int, ...]
    parts: tuple[Part, ...]
    part: Part
    limit: float | None = None
    spare: Part | None = None


WHOLE = Whole(
    name="w",
    on=True,
    kind="round",
    bounds=(0.1, 0.9),
    widths=(3, 2, 1),
    parts=(Part(size=1), Part(size=2, share=0.25)),
    part=Part(size=4),
)


def with_value(path: str, value: Any) -> Any:
    """`WHOLE` as JSON, with one value changed."""
    data: Any = encode_config(WHOLE)
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    return data


def test_a_config_is_written_as_plain_json_values() -> None:
    assert encode_config(WHOLE) == {
        "name": "w",
        "on": True,
        "kind": "round",
        "bounds": [0.1, 0.9],
        "widths": [3, 2, 1],
        "parts": [{"size": 1, "share": 0.5}, {"size": 2, "share": 0.25}],
        "part": {"size": 4, "share": 0.5},
        "limit": None,
        "spare": None,
    }


@pytest.mark.parametrize(
    "changes",
    [{}, {"limit": 2.5}, {"spare": Part(size=9)}, {"widths": (), "parts": ()}, {"on": False, "kind": "square"}],
)
def test_it_is_equal_after_the_trip(changes: dict[str, Any]) -> None:
    whole = Whole(**{field.name: getattr(WHOLE, field.name) for field in fields(Whole)} | changes)
    data = json.loads(json.dumps(encode_config(whole)))
    assert data == encode_config(whole)
    assert decode_config(Whole, data) == whole


def test_a_declared_type_can_be_overridden_by_a_narrower_one() -> None:
    data = with_value("part", {"size": 4, "share": 0.5, "colour": "red"})
    decoded = decode_config(Whole, data, kinds={"part": LargePart})
    assert decoded.part == LargePart(size=4, colour="red")
    with pytest.raises(ConfigError, match=r"config\.part: unknown keys \['colour'\]"):
        decode_config(Whole, data)


def test_whole_numbers_are_taken_for_fractions_but_not_the_reverse() -> None:
    for path in ("limit", "part.share"):
        decoded = decode_config(Whole, with_value(path, 3))
        value = decoded.limit if path == "limit" else decoded.part.share
        assert (value, type(value)) == (3.0, float)
    assert decode_config(Whole, with_value("bounds", [0, 1])).bounds == (0.0, 1.0)
    with pytest.raises(ConfigError, match=r"config\.part\.size must be int, got 4\.0"):
        decode_config(Whole, with_value("part.size", 4.0))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("typo", 1, r"config: unknown keys \['typo'\], missing keys \[\]"),
        ("part.typo", 1, r"config\.part: unknown keys \['typo'\]"),
        ("parts.1.typo", 1, r"config\.parts\[1\]: unknown keys \['typo'\]"),
        ("name", 1, r"config\.name must be str, got 1"),
        ("on", 1, r"config\.on must be bool, got 1"),
        ("part.size", True, r"config\.part\.size must be int, got True"),
        ("part.size", "4", r"config\.part\.size must be int, got '4'"),
        ("part.size", None, r"config\.part\.size must be int, got None"),
        ("part.share", False, r"config\.part\.share must be float, got False"),
        ("limit", "3", r"config\.limit must be float, got '3'"),
        ("kind", "oval", r"config\.kind must be one of round, square, got 'oval'"),
        ("kind", ["round"], r"config\.kind must be one of round, square"),
        ("bounds", [0.1], r"config\.bounds must have 2 entries, got 1"),
        ("bounds", [0.1, "x"], r"config\.bounds\[1\] must be float, got 'x'"),
        ("bounds", 0.1, r"config\.bounds must be a JSON array, got 0\.1"),
        ("widths", [1, 2.5], r"config\.widths\[1\] must be int, got 2\.5"),
        ("widths", "12", r"config\.widths must be a JSON array, got '12'"),
        ("part", [], r"config\.part must be a JSON object, got \[\]"),
        ("parts.0", None, r"config\.parts\[0\] must be a JSON object, got None"),
        ("spare", {"size": 1}, r"config\.spare: unknown keys \[\], missing keys \['share'\]"),
        ("part.size", 0, "part: size must be positive"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(path: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        decode_config(Whole, with_value(path, value))


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_only_an_object_is_a_config(data: Any) -> None:
    with pytest.raises(ConfigError, match="run must be a JSON object"):
        decode_config(Whole, data, where="run")


def test_every_key_has_to_be_there_even_one_with_a_default() -> None:
    data = encode_config(WHOLE)
    del data["limit"], data["name"]
    with pytest.raises(ConfigError, match=r"missing keys \['limit', 'name'\]"):
        decode_config(Whole, data)


def test_choices_are_named() -> None:
    check_choice("colour", "red", {"red": 1, "blue": 2})
    for wrong in ("green", None, ["red"]):
        with pytest.raises(ConfigError, match="colour must be one of red, blue, got"):
            check_choice("colour", wrong, {"red": 1, "blue": 2})
