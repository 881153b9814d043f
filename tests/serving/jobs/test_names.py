"""What comes from callers and ends up in paths: file names, paths under the root, multipart bodies."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import RequestError, VideoError
from serving.jobs.multipart import MultipartFile
from serving.jobs.uploads import safe_name
from serving.jobs.video_root import plain_path, resolve_video


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("run 17.mpg", "run 17.mpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\videos\\run.avi", "run.avi"),
        ("..", "video"),
        ("", "video"),
        (".hidden.mp4", "hidden.mp4"),
        ("a\0b\n.mp4", "ab.mp4"),
        ("Straße Süd.mp4", "Straße Süd.mp4"),
        ("x" * 300 + ".mp4", "x" * 116 + ".mp4"),
    ],
)
def test_names_of_uploads(given_name: str, kept: str) -> None:
    assert safe_name(given_name) == kept


@given(st.text(max_size=400))
def test_any_name_becomes_one_plain_file_name(name: str) -> None:
    kept = safe_name(name)
    assert Path(kept).name == kept
    assert kept not in (".", "..")
    assert 1 <= len(kept.encode()) <= 120
    assert Path(kept).stem not in ("", ".", "..")
    assert safe_name(kept) == kept


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    (root / "north").mkdir(parents=True)
    (root / "north" / "run.mpg").touch()
    (tmp_path / "secret.mpg").touch()
    (root / "alias.mpg").symlink_to(root / "north" / "run.mpg")
    (root / "escape.mpg").symlink_to(tmp_path / "secret.mpg")
    (root / "outside").symlink_to(tmp_path)
    (root / "circle").symlink_to(root / "circle")
    return root


@pytest.mark.parametrize("path", ["north/run.mpg", "./north//run.mpg", "alias.mpg"])
def test_finds_what_lies_under_the_root(path: str, root: Path) -> None:
    assert resolve_video(root, plain_path(path)).samefile(root / "north" / "run.mpg")


@pytest.mark.parametrize(
    "path", ["escape.mpg", "outside/secret.mpg", "circle", "north", "missing.mpg", "north/run.mpg/x"]
)
def test_what_lies_elsewhere_is_as_good_as_missing(path: str, root: Path) -> None:
    with pytest.raises(VideoError) as caught:
        resolve_video(root, plain_path(path))
    assert str(caught.value) == "there is no such video in the service's folder of videos"


@pytest.mark.parametrize(
    "path",
    ["../secret.mpg", "north/../../secret.mpg", "/etc/passwd", "..", ".", "", "a\0b", "a\\..\\b", 7, None, ["a"]],
)
def test_refuses_paths_that_would_lead_out(path: object) -> None:
    with pytest.raises(RequestError):
        plain_path(path)


def form(*parts: tuple[str, bytes], end: bytes = b"--B--\r\n") -> bytes:
    sections = [
        b"--B\r\nContent-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + data + b"\r\n"
        for disposition, data in parts
    ]
    return b"".join(sections) + end


VIDEO = b"\r\n--A\r\n-B\r\n--" + bytes(range(256)) * 5
FILE = 'name="file"; filename="run.mpg"'


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_a_form_gives_its_file_however_it_is_cut(step: int) -> None:
    body = form((FILE, VIDEO))
    parser = MultipartFile("multipart/form-data; boundary=B")
    data = b"".join(piece for i in range(0, len(body), step) for piece in parser.feed(body[i : i + step]))
    parser.check_complete()
    assert (data, parser.name) == (VIDEO, "run.mpg")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (form((FILE, b"a"), (FILE, b"b")), "more than one file"),
        (form(('name="every_s"', b"1")), "no file"),
        (form((FILE, b"a"), end=b""), "ends before"),
        (b"--B--\r\n", "holds no file|malformed"),
        (b"nonsense", "malformed"),
    ],
)
def test_refuses_other_forms(body: bytes, said: str) -> None:
    parser = MultipartFile("multipart/form-data; boundary=B")

    def read() -> None:
        parser.feed(body)
        parser.check_complete()

    with pytest.raises(RequestError, match=said):
        read()


def test_refuses_a_form_without_boundary() -> None:
    with pytest.raises(RequestError, match="boundary"):
        MultipartFile("multipart/form-data")
