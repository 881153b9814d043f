"""A report as one HTML page that needs nothing else: styles and figures are inside; no script, no address."""

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

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width: 80rem;
  padding: 1.5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; }
h2 { font-size: 1.4rem; margin-top: 3rem; border-bottom: 1px solid #ccc; padding-bottom: .3rem; }
h3 { font-size: 1.1rem; margin-top: 2rem; }
p, li { max-width: 52rem; }
p.note, figcaption { font-size: .87rem; color: #555; }
nav ul { columns: 2; padding-left: 1.2rem; max-width: 52rem; }
a { color: #0b57a4; }
code, pre { font-family: ui-monospace, monospace; font-size: .88em; background: #f4f4f4; border-radius: 3px; }
code { padding: .05em .3em; overflow-wrap: anywhere; }
pre { padding: .7rem 1rem; overflow-x: auto; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .28rem .55rem; text-align: right; vertical-align: top; border-bottom: 1px solid #e4e4e4; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
th.left, td.left { text-align: left; }
td { white-space: nowrap; }
table.prose td { white-space: normal; }
tr.group th { text-align: left; background: #f4f4f4; border-bottom: 1px solid #ccc; font-size: .8rem; }
tbody tr:not(.group):hover { background: #f7fafd; }
.badge { display: inline-block; white-space: nowrap; font-weight: 600; border-radius: 3px; padding: 0 .5em;
  border: 1px solid; }
.held { color: #0a5a2c; background: #e6f4ea; }
.not-held { color: #8c1d18; background: #fdecea; }
.not-held-undecided { color: #7a4b00; background: #fff4e0; }
.not-tested { color: #4a4a4a; background: #f0f0f0; }
figure { margin: 1.5rem 0; }
figure svg { max-width: 100%; height: auto; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; color: #0b57a4; }
@media print { body { max-width: none; } .wide { overflow: visible; } table { font-size: .7rem; } }
"""

_CODE = re.compile(r"`([^`]*)`")
_SVG = re.compile(r"<svg\b.*</svg>", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_NAMESPACE = re.compile(r'\sxmlns(?::\w+)?="[^"]*"')
_SVG_ID = re.compile(r'(\bid="|="#|url\(#)')


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The whole page."""
    contents = "".join(
        f'<li><a href="#{_anchor(block.text)}">{_text(block.text)}</a></li>'
        for block in blocks
        if isinstance(block, Heading) and block.level == 2
    )
    nav = f"<nav><ul>{contents}</ul></nav>"
    body = [_block(block) for block in blocks]
    # The contents stand below the title, wherever that is.
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join([body[0], nav, *body[1:]])
        + "\n</body>\n</html>\n"
    )


def _block(block: Block) -> str:
    match block:
        case Heading():
            return f'<h{block.level} id="{_anchor(block.text)}">{_text(block.text)}</h{block.level}>'
        case Paragraph():
            opening = '<p class="note">' if block.note else "<p>"
            return f"{opening}{_text(block.text)}</p>"
        case Bullets():
            return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in block.items) + "</ul>"
        case Code():
            return f"<pre>{html.escape(block.text)}</pre>"
        case Table():
            return _table(block)
        case Figure():
            return f"<figure>{_inline_svg(block)}<figcaption>{_text(block.caption)}</figcaption></figure>"
        case Details():
            inner = "\n".join(_block(each) for each in block.blocks)
            return f"<details><summary>{_text(block.summary)}</summary>\n{inner}\n</details>"


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col" class="{_side(column, table)}">{_text(name)}</th>'
        for column, name in enumerate(table.columns)
    )
    rows = "\n".join(_row(row, table) for row in table.rows)
    prose = ' class="prose"' if table.prose else ""
    return (
        f'<div class="wide"><table{prose}><caption>{_text(table.caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(row: tuple[str, ...] | Group, table: Table) -> str:
    if isinstance(row, Group):
        return f'<tr class="group"><th colspan="{len(table.columns)}" scope="rowgroup">{_text(row.text)}</th></tr>'
    return "<tr>" + "".join(_cell(cell, column, table) for column, cell in enumerate(row)) + "</tr>"


def _cell(cell: str, column: int, table: Table) -> str:
    text = _text(cell)
    if isinstance(cell, Badge):
        text = f'<span class="badge {_anchor(cell)}">{text}</span>'
    elif isinstance(cell, Strong):
        text = f"<strong>{text}</strong>"
    return f'<td class="{_side(column, table)}">{text}</td>'


def _side(column: int, table: Table) -> str:
    return "left" if column < table.left else "figure"


def _inline_svg(figure: Figure) -> str:
    """The SVG without prologue, metadata and namespaces, which HTML knows; its ids are made the figure's own."""
    match = _SVG.search(figure.svg.decode())
    if match is None:
        raise ValueError(f"{figure.name} is not an SVG")
    svg = _NAMESPACE.sub("", _METADATA.sub("", match[0]))
    svg = _SVG_ID.sub(lambda found: f"{found[1]}{figure.name}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(figure.caption)}"', 1)


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _text(text: str) -> str:
    # A number and its sign of per cent stay on one line.
    return _CODE.sub(r"<code>\1</code>", html.escape(text)).replace(" %", "&nbsp;%")
