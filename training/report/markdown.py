"""A report as GitHub-flavoured Markdown; figures are linked as SVG files beside it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from training.report.document import (
    Badge,
    Block,
    Bullets,
    Code,
    Details,
    Figure,
    Group,
    Heading,
    Paragraph,
    Strong,
    Table,
)

# What Markdown would take for markup outside of `code`; underscores inside words are safe in this dialect.
_SPECIAL = re.compile(r"([\\*<>|#~\[\]])")
_CODE = re.compile(r"(`[^`]*`)")


def to_markdown(blocks: Sequence[Block]) -> str:
    """The whole document, ending in a newline."""
    return "\n\n".join(_block(block) for block in blocks) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {_text(block.text)}"
        case Paragraph():
            return _text(block.text)
        case Bullets():
            return "\n".join(f"* {_text(item)}" for item in block.items)
        case Code():
            return f"```\n{block.text}\n```"
        case Table():
            return _table(block)
        case Figure():
            return f"![{_text(block.caption)}]({block.name}.svg)\n\n{_text(block.caption)}"
        case Details():
            inner = "\n\n".join(_block(each) for each in block.blocks)
            return f"<details>\n<summary>{html.escape(block.summary)}</summary>\n\n{inner}\n\n</details>"


def _table(table: Table) -> str:
    lines = [
        _line(table.columns),
        _line([":--" if column < table.left else "--:" for column in range(len(table.columns))]),
        *(_row(row, len(table.columns)) for row in table.rows),
    ]
    return f"{_text(table.caption)}\n\n" + "\n".join(lines)


def _row(row: tuple[str, ...] | Group, width: int) -> str:
    if isinstance(row, Group):
        return _line([f"**{_text(row.text)}**", *[""] * (width - 1)])
    return _line([_cell(cell) for cell in row])


def _cell(cell: str) -> str:
    text = _text(cell)
    return f"**{text}**" if isinstance(cell, Strong | Badge) and text else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """Text with what Markdown would take for markup escaped, but for code."""
    parts = _CODE.split(text)
    return "".join(part.replace("|", "\\|") if i % 2 else _SPECIAL.sub(r"\\\1", part) for i, part in enumerate(parts))
