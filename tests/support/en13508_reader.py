"""A reader of EN 13508-2's exchange text, written from the description of the format and from nothing of ours.

What the format says: lines `#A1=`..`#A6=` declare encoding, language, delimiter, decimal sign, quote and version. Then,
for each inspection, one or more pairs of a line `#Bnn=` with field codes and a line with their values, a line `#C=`
with column codes, a line per observation, and `#Z`. A field that holds the delimiter is quoted; a quote in a quoted
field is doubled. Whatever departs from that is a `ValueError`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Inspection:
    header: dict[str, str] = field(default_factory=dict)
    columns: list[str] | None = None
    observations: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Exchange:
    encoding: str
    language: str
    delimiter: str
    decimal: str
    quote: str
    version: str
    inspections: list[Inspection]

    def number(self, text: str) -> float | None:
        """A numeric field; None if it is empty."""
        if not text:
            return None
        if not re.fullmatch(rf"[+-]?\d+({re.escape(self.decimal)}\d+)?", text):
            raise ValueError(f"{text!r} is no number with the decimal sign {self.decimal!r}")
        return float(text.replace(self.decimal, "."))


def read_en13508(path: Path) -> Exchange:
    data = path.read_bytes()
    declared = re.match(rb"#A1=([A-Za-z0-9-]+)\r?\n", data)
    if declared is None:
        raise ValueError("the file does not begin with its encoding")
    encoding = declared.group(1).decode("ascii")
    lines = data.decode(encoding).split("\n")
    if lines.pop() != "":
        raise ValueError("the last line does not end")
    lines = [line.removesuffix("\r") for line in lines]
    if any("\r" in line for line in lines):
        raise ValueError("a line breaks where some readers see an end and others do not")
    head: dict[str, str] = {}
    while lines and lines[0].startswith("#A"):
        code, equals, value = lines.pop(0)[1:].partition("=")
        if not equals or code in head:
            raise ValueError(f"#{code} has no value or two")
        head[code] = value
    if sorted(head) != ["A1", "A2", "A3", "A4", "A5", "A6"] or any(len(head[c]) != 1 for c in ("A3", "A4", "A5")):
        raise ValueError(f"not a head: {head}")
    exchange = Exchange(*(head[code] for code in ("A1", "A2", "A3", "A4", "A5", "A6")), inspections=[])
    _read_inspections(lines, exchange)
    return exchange


def _read_inspections(lines: list[str], exchange: Exchange) -> None:
    current: Inspection | None = None
    waiting: list[str] | None = None  # codes of a #B line whose values come next
    for line in lines:
        if waiting is not None:
            values = _split(line, exchange)
            if current is None or len(values) != len(waiting):
                raise ValueError(f"{len(waiting)} header fields but {len(values)} values")
            current.header |= dict(zip(waiting, values, strict=True))
            waiting = None
        elif line.startswith("#B"):
            number, equals, codes = line[2:].partition("=")
            if not equals or not re.fullmatch(r"\d\d", number):
                raise ValueError(f"not a header line: {line}")
            current = current or Inspection()
            waiting = codes.split(exchange.delimiter)
        elif line.startswith("#C="):
            if current is None or current.columns is not None:
                raise ValueError("columns without an inspection, or twice")
            current.columns = line[3:].split(exchange.delimiter)
        elif line == "#Z":
            if current is None or current.columns is None:
                raise ValueError("an end without an inspection")
            exchange.inspections.append(current)
            current = None
        elif line.startswith("#"):
            raise ValueError(f"an unknown line: {line}")
        else:
            if current is None or current.columns is None:
                raise ValueError(f"a row outside of an inspection: {line}")
            values = _split(line, exchange)
            if len(values) != len(current.columns):
                raise ValueError(f"{len(current.columns)} columns but {len(values)} values")
            current.observations.append(dict(zip(current.columns, values, strict=True)))
    if current is not None or waiting is not None:
        raise ValueError("the file ends before #Z")


def _split(line: str, exchange: Exchange) -> list[str]:
    fields, i = [], 0
    while True:
        text = ""
        if line[i : i + 1] == exchange.quote:
            i += 1
            while True:
                end = line.index(exchange.quote, i)
                text += line[i:end]
                i = end + 1
                if line[i : i + 1] != exchange.quote:
                    break
                text += exchange.quote
                i += 1
        else:
            end = line.find(exchange.delimiter, i)
            end = len(line) if end < 0 else end
            text, i = line[i:end], end
            if exchange.quote in text:
                raise ValueError(f"a quote within a field that is not quoted: {text!r}")
        fields.append(text)
        if i == len(line):
            return fields
        if line[i] != exchange.delimiter:
            raise ValueError(f"{line[i]!r} after a quoted field")
        i += 1
