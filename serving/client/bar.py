"""A progress bar for `score_many`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serving.client.core import Progress


@contextmanager
def progress_bar(description: str = "frames") -> Iterator[Progress]:
    """Yield a `progress` that draws on standard error, where a person looks at it; needs `rich`.

    with progress_bar() as progress:
        results = client.score_many(paths, progress=progress)
    """
    # The client itself does without rich.
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)

        def progress(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield progress
