"""A built Bento serves the same, far from the source tree."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from support.bento import build_bento
from support.live_service import live_service
from support.tiny_pair import red_frames, reference_outputs, write_tiny_pair
from support.video_files import red_between, write_h264
from support.video_jobs import wait_for_end

TITLE = '"title": "pipeprobe"'
TITLE_OF_BENTO = '"title": "pipeprobe out of a Bento"'


def _mark(tree: Path) -> None:
    """Leave a mark in the copied code that the installed code does not have."""
    path = tree / "serving" / "http" / "openapi.py"
    text = path.read_text()
    assert text.count(TITLE) == 1
    path.write_text(text.replace(TITLE, TITLE_OF_BENTO))


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bento")
    write_tiny_pair(folder / "models", name="packed")
    return build_bento(models=folder / "models", home=folder / "home", edit=_mark)


@pytest.fixture(scope="module")
def url(bento: Path) -> Iterator[str]:
    with live_service(bento=bento) as url:
        yield url


def test_holds_code_and_pairs_only(bento: Path) -> None:
    files = {path.relative_to(bento / "src") for path in (bento / "src").rglob("*") if path.is_file()}
    assert {path.parts[0] for path in files} == {"serving", "models", "bentofile.yaml"}
    assert Path("models/packed/model.fp32.onnx") in files
    assert not [path for path in files if "__pycache__" in path.parts or "samples" in path.parts]


def test_scores_with_its_own_code_and_pair(url: str) -> None:
    frame = red_frames(1)[0]
    png = io.BytesIO()
    Image.fromarray(frame).save(png, "PNG")
    answer = httpx.post(f"{url}/v1/score", content=png.getvalue(), timeout=10).json()
    assert answer["pair"] == "packed"
    assert answer["verdict"] == "defect"
    assert answer["score"] == pytest.approx(reference_outputs(frame[None])["score"][0], abs=1e-4)
    assert httpx.get(f"{url}/docs.json", timeout=10).json()["info"]["title"] == "pipeprobe out of a Bento"


def test_scores_a_video_with_its_own_code_and_pair(url: str, tmp_path: Path) -> None:
    video = write_h264(tmp_path / "run.mp4", red_between(1, 3), seconds=4).read_bytes()
    job = wait_for_end(url, httpx.post(f"{url}/v1/videos", content=video, timeout=20).json())
    assert (job["state"], job["pair"], job["summary"]["findings"]) == ("done", "packed", 1)
