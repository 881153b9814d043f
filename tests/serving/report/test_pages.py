"""Pages hold hostile text without running it, and follow from the files alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.reports import SHA256, made_up_frames, write_failures, write_scored

from serving.cli import cli
from serving.errors import ConfigError
from serving.formats.frames_parquet import write_frames
from serving.report.data import index_data, read_finished, video_data
from serving.report.pages import embed_json, render
from serving.report.write import write_index, write_reports, write_video_report

HOSTILE = "</script><script>alert(1)</script>&{{script}}\"'<!--.mp4"


class Elements(HTMLParser):
    """Tags with their attributes, and the text of each script element, as an HTML parser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style", "title"):
            self.texts.setdefault(self._open, []).append(data)


def data_of(page: str) -> Any:
    return json.loads(Elements(page).texts["script"][0])


@given(st.recursive(st.text() | st.sampled_from([HOSTILE, "\u2028]]>"]), lambda inner: st.lists(inner, max_size=3)))
def test_any_data_survive_the_script_element(data: Any) -> None:
    embedded = embed_json(data)
    assert json.loads(embedded) == data
    assert not set("<>&") & set(embedded)
    assert embedded.isascii()


@pytest.mark.parametrize("page", ["video", "index"])
def test_hostile_names_stay_text(page: Any) -> None:
    text = render(page, HOSTILE, {"video": HOSTILE})
    elements = Elements(text)
    assert [attributes.get("type") for tag, attributes in elements.tags if tag == "script"] == [
        "application/json",
        None,
    ]
    assert data_of(text) == {"video": HOSTILE}
    assert "".join(elements.texts["title"]) == HOSTILE


@pytest.mark.parametrize("page", ["video", "index"])
def test_nothing_is_fetched_and_only_the_inlined_script_may_run(page: Any) -> None:
    text = render(page, "run", {})
    elements = Elements(text)
    for tag, attributes in elements.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not attributes.get("src", "")
        assert attributes.get("href", "../index.html") == "../index.html"
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in text
    policy = next(a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    for kind, content in (("style", elements.texts["style"][0]), ("script", elements.texts["script"][1])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_scripts_never_parse_data_as_markup() -> None:
    for script in (Path(sys.modules["serving.report"].__path__[0]) / "assets").glob("*.js"):
        text = script.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            script
        )
        assert len(text.splitlines()) < 400


def test_a_video_page_shows_the_findings_and_every_frame(tmp_path: Path) -> None:
    document = write_scored(tmp_path / "run", unscored=[(20.0, 25.0)], lost=[(30.0, 31.0)])
    data = data_of(write_video_report(tmp_path / "run").read_text(encoding="utf-8"))
    assert data["video_sha256"] == SHA256
    assert data["unscored"] == [[20.0, 25.0]]
    assert data["lost"] == [[30.0, 31.0]]
    assert data["frames"]["times_s"] == [n / 2 for n in range(120)]
    assert data["frames"]["scores"].count(0.9) == 8 + 2
    assert data["frames"]["distances_m"] is None
    assert [(each["start_s"], each["end_s"]) for each in data["findings"]] == [(10.0, 14.0), (40.0, 41.0)]
    assert data["findings"][1]["photo"] == "peak_002.jpg"
    assert data["findings"][1]["bare_photo"] == "peak_002_bare.jpg"
    facts = dict(data["facts"])
    assert facts["Decoded / skipped / corrupt / lost"] == "120 / 1,355 / 0 / 25"
    assert facts["Pair"] == "tiny 1.0 (fp32, cpu)"
    other = {**document, "scoring": {**document["scoring"], "enter": 0.7}}
    assert video_data(tmp_path / "run", other)["findings_id"] != data["findings_id"]


def test_folders_of_earlier_releases_lack_only_the_bare_pictures_and_what_was_lost(tmp_path: Path) -> None:
    document = write_scored(tmp_path / "run", with_bare=False)
    del document["reading"]["lost"], document["reading"]["lost_stretches"]
    assert index_data(tmp_path, {tmp_path / "run": document})["rows"][0]["lost_s"] == 0.0
    assert [each["bare_photo"] for each in video_data(tmp_path / "run", document)["findings"]] == [None, None]


def test_distances_are_shown_where_known(tmp_path: Path) -> None:
    document = write_scored(tmp_path / "run", duration_s=2.0, intervals=())
    write_frames(tmp_path / "run" / "frames.parquet", made_up_frames([0.0, 0.5], [0.1, 0.2], [None, 1.25]), {})
    assert video_data(tmp_path / "run", document)["frames"]["distances_m"] == [None, 1.25]


def test_the_index_has_every_video_worst_first(tmp_path: Path) -> None:
    write_scored(tmp_path / "clean", video="clean.mpg", intervals=())
    write_scored(tmp_path / "short", video="short.mpg", intervals=[(1.0, 3.0)], lost=[(7.0, 8.5), (59.0, 60.0)])
    write_scored(tmp_path / "long", video="long.mpg", intervals=[(1.0, 9.0)], unscored=[(30.0, 40.0)])
    write_failures(tmp_path, [("/archive/broken.mpg", "/archive/broken.mpg is empty: 0 bytes")])
    rows = data_of(write_index(tmp_path).read_text(encoding="utf-8"))["rows"]
    assert [row["video"] for row in rows] == ["broken.mpg", "long.mpg", "short.mpg", "clean.mpg"]
    assert [row["status"] for row in rows] == ["failed", "incomplete", "incomplete", "complete"]
    assert rows[0]["href"] is None
    assert "0 bytes" in rows[0]["reason"]
    assert rows[1]["reason"] == "not scored: 00:00:30 to 00:00:40"
    assert rows[1]["found_s"] == 8.0
    assert rows[2]["href"] == "short/report.html"
    assert rows[2]["reason"] == "lost with its decoder: 00:00:07 to 00:00:08, 00:00:59 to 00:01:00"
    assert [row["lost_s"] for row in rows] == [None, 0.0, 2.5, 0.0]


def test_links_lead_to_folders_of_any_name(tmp_path: Path) -> None:
    name = 'a b#1 ?"%<é'
    write_scored(tmp_path / name)
    documents, _ = read_finished(tmp_path)
    (row,) = index_data(tmp_path, documents)["rows"]
    assert row["href"] == "a%20b%231%20%3F%22%25%3C%C3%A9/report.html"


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are always UTF-8 there")
def test_names_that_are_no_text_do_not_stop_a_page(tmp_path: Path) -> None:
    name = os.fsdecode(b"run-\xff.mp4")
    page = render("video", name, {"video": name}).encode()
    assert b"<title>run-?.mp4</title>" in page
    assert data_of(page.decode()) == {"video": name}


def test_the_command_writes_what_is_missing_and_leaves_the_rest(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_scored(tmp_path / name)
    assert write_reports(tmp_path) == (2, [])
    pages = [tmp_path / "index.html", tmp_path / "one" / "report.html", tmp_path / "two" / "report.html"]
    before = [(page.read_bytes(), page.stat().st_mtime_ns) for page in pages]
    pages[1].unlink()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "findings.json").write_text('{"schema": "pipeprobe-findings/0"}')
    result = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert result.exit_code == 0
    assert "2 reports written" in result.output
    assert "old was written by another release" in result.output
    assert [page.read_bytes() for page in pages] == [content for content, _ in before]
    assert pages[2].stat().st_mtime_ns == before[2][1]


def test_folders_that_hold_nothing_or_damage_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no scored videos"):
        write_reports(tmp_path)
    write_scored(tmp_path / "run")
    (tmp_path / "run" / "frames.parquet").write_text("time,value\n1,2\n")
    with pytest.raises(ConfigError, match=r"frames\.parquet is not what"):
        write_reports(tmp_path)
    (tmp_path / "run" / "frames.parquet").unlink()
    with pytest.raises(ConfigError, match=r"frames\.parquet cannot be read"):
        write_reports(tmp_path)
