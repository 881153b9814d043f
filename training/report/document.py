"""The blocks that a report is made of; `html` and `markdown` write them out.

Text may hold `code` between backticks and nothing else that is marked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading; level 1 is the title of the report."""

    level: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """Running text; a note is set smaller."""

    text: str
    note: bool = False


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """An unordered list."""

    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Code:
    """Lines to be typed or compared as they are."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """A row that names the rows below it."""

    text: str


class Strong(str):
    """A cell that stands out."""


class Badge(str):
    """A cell with a verdict."""


Row = tuple[str, ...] | Group


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under columns; the first `left` columns hold text, the others figures; `prose` is text of any length.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    left: int = 1
    prose: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if not isinstance(row, Group) and len(row) != len(self.columns):
                raise ValueError(f"{self.caption}: {len(row)} cells under {len(self.columns)} columns: {row}")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture in both formats; `name` is the file's without a suffix, `caption` also serves who cannot see it."""

    name: str
    caption: str
    svg: bytes
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Details:
    """Blocks that are shown when asked for."""

    summary: str
    blocks: tuple[Block, ...]


Block = Heading | Paragraph | Bullets | Code | Table | Figure | Details


def figures_of(blocks: Sequence[Block]) -> list[Figure]:
    """All figures, also those within details."""
    found: list[Figure] = []
    for block in blocks:
        if isinstance(block, Figure):
            found.append(block)
        elif isinstance(block, Details):
            found += figures_of(block.blocks)
    return found
