"""The commands of a Markdown file, as a reader would copy them."""

from __future__ import annotations

import re
from pathlib import Path


def shell_commands(markdown: Path) -> list[str]:
    """Every command in the ```sh blocks of `markdown`, in order; continued lines joined, comments dropped."""
    commands: list[str] = []
    for block in re.findall(r"^```sh\n(.*?)^```", markdown.read_text(), flags=re.MULTILINE | re.DOTALL):
        joined = re.sub(r"\\\n\s*", " ", block)
        lines = (re.sub(r"\s+#.*$", "", line).strip() for line in joined.splitlines())
        commands.extend(line for line in lines if line and not line.startswith("#"))
    return commands
