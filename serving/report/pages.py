"""Data to HTML that stands alone: style, script and data inlined, nothing fetched.

Pictures stay files beside the page, as relative addresses. They lie there anyway as deliverables of their own; inlined
they would add a third to their size, twice on disk, and make a page of hundreds of findings slow to open.

Data reach the page as JSON in a script element that no browser runs, and from there only text nodes and attributes.
The page's content security policy admits this very script and style by their hashes, pictures, and no connections.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

Page = Literal["video", "index"]

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS: dict[Page, tuple[str, ...]] = {
    "video": ("dom.js", "review.js", "timeline.js", "findings_list.js", "viewer.js", "video.js"),
    "index": ("dom.js", "index.js"),
}
# Characters with which text could end a script element, or begin markup, inside JSON's strings.
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def render(page: Page, title: str, data: Any) -> str:
    """The HTML of a page; `data` is anything that JSON can hold, of whatever content."""
    style, script = _style(), _script(page)
    policy = (
        f"default-src 'none'; img-src 'self' file: data: blob:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    values = {
        "title": html.escape(printable(title)),
        "policy": html.escape(policy, quote=False),
        "style": style,
        "script": script,
        "data": embed_json(data),
    }
    # One pass: what is filled in is never searched for placeholders itself.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _asset(f"{page}.html"))


def embed_json(data: Any) -> str:
    """JSON in ASCII that can stand in a script element: it cannot close it, whatever text it holds."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: _ESCAPES[match[0]], text)


def printable(name: str) -> str:
    """A file name as text that UTF-8 can hold; bytes that are no text become question marks."""
    return name.encode("utf-8", "replace").decode()


def _style() -> str:
    return _asset("style.css")


@cache
def _script(page: Page) -> str:
    parts = "\n".join(_asset(name) for name in _SCRIPTS[page])
    return f'(() => {{\n"use strict";\n{parts}\n}})();\n'


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
