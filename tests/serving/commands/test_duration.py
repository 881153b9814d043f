"""Times on the command line."""

from __future__ import annotations

import click
import pytest

from serving.commands.duration import Duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("0.5", 0.5), ("1s", 1.0), ("200ms", 0.2), ("2 min", 120.0), (".25s", 0.25), (" 3 ", 3.0)]
)
def test_units(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1", "1h", "0.25m", "1e3", "nan", "1,5"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"say 0[.]5, 0[.]5s, 500ms or 2min"):
        Duration().convert(text, None, None)
