"""Progress bars for long work: on stderr, and only where a person is looking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[..., None]


@contextmanager
def track_progress(description: str, *, total: int | None, unit: str) -> Iterator[Advance]:
    """Yield `advance(steps=1, note="")`; the bar shows done/total, the rate in `unit`/s and `note`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total, rate="", note="")

        def advance(steps: int = 1, note: str = "") -> None:
            progress.advance(task, steps)
            speed = progress.tasks[task].speed
            progress.update(task, rate=f"{speed:.1f} {unit}/s" if speed else "", note=note)

        yield advance
