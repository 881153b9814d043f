from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving import errors
from serving.errors import FrameError, OverloadedError, PairError, PipeprobeError


def descendants(cls: type[PipeprobeError]) -> Iterator[type[PipeprobeError]]:
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from descendants(child)


ALL = list(descendants(PipeprobeError))


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = {
        line.split()[0]: int(line.split()[1])
        for line in (raw.strip(" │├└─") for raw in (errors.__doc__ or "").splitlines())
        if line.split(" ")[0].endswith("Error") and len(line.split()) > 2
    }
    assert drawn == {cls.__name__: cls.status for cls in ALL}


def test_each_problem_type_has_its_own_slug_and_title() -> None:
    assert len({cls.slug for cls in ALL}) == len(ALL)
    assert len({cls.title for cls in ALL}) == len(ALL)


def test_whoever_sent_a_bad_frame_gets_a_client_error() -> None:
    assert all(400 <= cls.status < 500 for cls in [FrameError, *descendants(FrameError)])
    assert PairError.status == 500


def test_overload_says_when_to_come_back() -> None:
    with pytest.raises(PipeprobeError, match="queue is full") as caught:
        raise OverloadedError("the queue is full", retry_after_s=1.5)
    assert isinstance(caught.value, OverloadedError)
    assert caught.value.retry_after_s == 1.5
