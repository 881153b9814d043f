"""The pages in a real browser, opened from disk: what a reviewer does from the first look to the labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, BrowserContext, Page, expect
from support.browser import chromium
from support.reports import write_failures, write_scored
from support.video_files import red_between, write_h264

from serving.cli import cli
from serving.durable import sha256_file
from serving.report.write import write_reports
from training.data.sewer_ml import read_sewer_ml

HOSTILE = "<img src=x onerror=document.title='owned'>'\"&</script>.mp4"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("footage") / "run.mp4"
    write_h264(path, red_between(2.0, 4.0), seconds=8)
    return path


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, video: Path) -> Path:
    """A batch: the video with three findings, one incomplete, one without findings, one of a bad name, two failed."""
    folder = tmp_path_factory.mktemp("out")
    intervals = [(1.0, 1.5), (2.0, 4.0), (6.0, 7.0)]
    write_scored(folder / "run", video="run.mp4", sha256=sha256_file(video), duration_s=8.0, intervals=intervals)
    write_scored(
        folder / "part", video="part.mpg", intervals=[(1.0, 2.0)], unscored=[(30.0, 50.0)], lost=[(55.0, 56.5)]
    )
    write_scored(folder / "clean", video="clean.mpg", intervals=[])
    write_scored(folder / "bad name #1", video=HOSTILE, intervals=[(1.0, 2.0)])
    write_failures(folder, [("/a/empty.mpg", "/a/empty.mpg is empty: 0 bytes"), ("/a/text.mpg", "is a text file")])
    write_reports(folder)
    return folder


@dataclass
class Visit:
    """A page in a browser profile of its own, and all that went wrong or over the wire while it was open."""

    page: Page
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, context: BrowserContext) -> Visit:
        visit = cls(page=context.new_page())
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("pageerror", lambda error: visit.problems.append(str(error)))
        visit.page.on("console", lambda message: visit.problems.append(message.text))
        return visit

    def open(self, path: Path) -> Page:
        self.page.goto(path.as_uri())
        return self.page

    def heading(self) -> str:
        return self.page.locator("#decision-heading").inner_text()

    def check(self) -> None:
        assert self.problems == []
        assert all(url.startswith("file:///") for url in self.requests), self.requests


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.set_default_timeout(10_000)
    visit = Visit.of(context)
    yield visit
    context.close()
    visit.check()


def test_findings_are_reached_by_click_and_by_key(visit: Visit, out: Path) -> None:
    page = visit.open(out / "run" / "report.html")
    assert page.locator("#title").inner_text() == "run.mp4"
    assert visit.heading() == "Finding 1 of 3"
    page.locator(".finding[data-number='2'] rect").click()
    assert visit.heading() == "Finding 2 of 3"
    expect(page.locator("#picture")).to_have_attribute("src", "peak_002.jpg")
    expect(page.locator("#picture")).to_have_js_property("naturalWidth", 128)
    page.keyboard.press("e")
    expect(page.locator("#picture")).to_have_attribute("src", "peak_002_bare.jpg")
    for key, number in (("n", 3), ("ArrowRight", 3), ("ArrowLeft", 2), ("p", 1), ("p", 1)):
        page.keyboard.press(key)
        assert visit.heading() == f"Finding {number} of 3"
    page.locator("#findings button").nth(2).click()
    assert visit.heading() == "Finding 3 of 3"
    page.locator(".plot").hover(position={"x": 600, "y": 60})
    assert "score 0." in page.locator("#readout").inner_text()


def test_everything_needed_fits_on_the_screen(visit: Visit, out: Path) -> None:
    page = visit.open(out / "run" / "report.html")
    for place in ("#save", "#timeline", "#picture", "#accept", "#reject", "#next", "footer"):
        box = page.locator(place).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 800, place
    assert page.locator("html").evaluate("html => html.scrollWidth") <= 1280


def test_a_review_survives_is_saved_and_becomes_labels(visit: Visit, out: Path, video: Path, tmp_path: Path) -> None:
    page = visit.open(out / "run" / "report.html")
    page.keyboard.press("r")
    page.keyboard.press("j")
    assert visit.heading() == "Finding 2 of 3"
    page.keyboard.press("c")
    page.keyboard.type("ro")
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    page.keyboard.type("a remark: anr <b>")
    page.keyboard.press("Escape")
    assert (
        "2 of 3 findings decided; not saved to a file yet, kept in this browser" in page.locator("#state").inner_text()
    )
    page.keyboard.press("s")
    assert "Enter the reviewer's name first" in page.locator("#state").inner_text()
    page.keyboard.type("A. Reviewer")
    page.reload()
    expect(page.locator("#reviewer")).to_have_value("A. Reviewer")
    assert "2 of 3" in page.locator("#state").inner_text()
    with page.expect_download() as downloading:
        page.locator("#save").click()
    assert downloading.value.suggested_filename == "run.mp4.review.json"
    downloading.value.save_as(tmp_path / "run.mp4.review.json")
    assert page.locator("#state").inner_text() == "2 of 3 findings decided"
    saved = json.loads((tmp_path / "run.mp4.review.json").read_text(encoding="utf-8"))
    assert saved["video_sha256"] == sha256_file(video)
    assert [each["decision"] for each in saved["findings"]] == ["rejected", "accepted", "unreviewed"]
    assert (saved["findings"][1]["code"], saved["findings"][1]["remark"]) == ("RO", "a remark: anr <b>")
    command = ["review", "import", str(tmp_path / "run.mp4.review.json"), "--videos", str(video.parent)]
    result = CliRunner().invoke(cli, [*command, "--out", str(tmp_path / "reviewed")])
    assert result.exit_code == 0, result.output
    table = read_sewer_ml(tmp_path / "reviewed", "train")
    assert sorted(table.labels.tolist()) == [0, *[1] * (len(table.labels) - 1)]


def test_a_saved_review_goes_on_in_another_browser(visit: Visit, out: Path, tmp_path: Path) -> None:
    page = visit.open(out / "part" / "report.html")
    page.locator("#reviewer").fill("B. Reviewer")
    page.locator("#accept").click()
    with page.expect_download() as downloading:
        page.keyboard.press("s")
    downloading.value.save_as(tmp_path / "saved.json")
    page.evaluate("() => localStorage.clear()")
    page.reload()
    assert page.locator("#state").inner_text() == "0 of 1 finding decided"
    page.locator("#open-file").set_input_files(tmp_path / "saved.json")
    expect(page.locator("#accept")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#reviewer")).to_have_value("B. Reviewer")
    (tmp_path / "notes.json").write_text("{}")
    page.locator("#open-file").set_input_files(tmp_path / "notes.json")
    expect(page.locator("#state")).to_have_text("notes.json: that is no review file")


def test_the_evidence_is_framed_where_it_points_somewhere(visit: Visit, tmp_path: Path) -> None:
    document = write_scored(tmp_path / "run", intervals=[(1.0, 2.0), (4.0, 5.0)])
    of = {"picture_width": 720, "picture_height": 576}
    for finding, box in zip(
        document["findings"],
        ({"x": 180, "y": 288, "width": 360, "height": 144}, {"x": 0, "y": 0, "width": 720, "height": 576}),
        strict=True,
    ):
        finding["evidence_box"] = box | of
    (tmp_path / "run" / "findings.json").write_text(json.dumps(document))
    write_reports(tmp_path)
    page = visit.open(tmp_path / "run" / "report.html")
    # The picture has 128 x 96 pixels.
    for name, value in (("x", "32"), ("y", "48"), ("width", "64"), ("height", "24")):
        expect(page.locator("#box rect")).to_have_attribute(name, value)
    page.keyboard.press("e")
    expect(page.locator("#box rect")).to_have_count(0)
    page.keyboard.press("e")
    expect(page.locator("#box rect")).to_have_count(1)
    page.keyboard.press("n")
    expect(page.locator("#box rect")).to_have_count(0)
    expect(page.locator("#caption")).to_contain_text("does not say where")


def test_what_was_not_scored_is_said_plainly(visit: Visit, out: Path) -> None:
    page = visit.open(out / "part" / "report.html")
    assert "Not scored, so look at it yourself: 00:00:30 to 00:00:50" in page.locator("#notices").inner_text()
    assert (
        "Lost with a decoder that crashed or hung, 1.5 s: 00:00:55 to 00:00:56" in page.locator("#notices").inner_text()
    )
    assert page.locator(".plot .lost").count() == 1
    assert page.locator(".unscored").count() == 1
    page = visit.open(out / "clean" / "report.html")
    assert page.locator("#findings-heading").inner_text() == "No findings"


def test_names_do_not_run(visit: Visit, out: Path) -> None:
    page = visit.open(out / "bad name #1" / "report.html")
    assert page.locator("#title").inner_text() == HOSTILE
    assert page.title() == HOSTILE
    page = visit.open(out / "index.html")
    page.get_by_role("link", name=HOSTILE).click()
    assert page.locator("#title").inner_text() == HOSTILE
    page.locator(".trail").click()
    expect(page).to_have_title("Inspections")


def test_the_index_sorts_and_filters(visit: Visit, out: Path) -> None:
    page = visit.open(out / "index.html")

    def names() -> list[str]:
        return page.locator("#rows th").all_inner_texts()

    assert names() == ["empty.mpg", "text.mpg", "run.mp4", HOSTILE, "part.mpg", "clean.mpg"]
    assert "2 videos could not be scored" in page.locator("#notices").inner_text()
    assert "1 video was scored in part" in page.locator("#notices").inner_text()
    assert "0 bytes" in page.locator("#rows tr").first.inner_text()
    page.get_by_role("button", name="Findings", exact=True).click()
    assert names()[0] == "run.mp4"
    assert names()[-2:] == ["empty.mpg", "text.mpg"]
    page.get_by_role("button", name="Video").press("Enter")
    assert names() == [HOSTILE, "clean.mpg", "empty.mpg", "part.mpg", "run.mp4", "text.mpg"]
    expect(page.locator("th[data-key=video]")).to_have_attribute("aria-sort", "ascending")
    page.locator("body").press("/")
    page.keyboard.type("mpg t")
    assert names() == ["empty.mpg", "part.mpg", "text.mpg"]
    page.locator("#filter").fill("")
    page.locator("#status").select_option("incomplete")
    assert names() == ["part.mpg"]
    assert page.locator("#shown").inner_text() == "1 of 6 shown"


def test_on_paper_there_is_the_list_and_no_controls(visit: Visit, out: Path) -> None:
    page = visit.open(out / "run" / "report.html")
    page.locator("#remark").fill("seen from both sides")
    page.emulate_media(media="print")
    assert not page.locator("#viewer").is_visible()
    assert not page.locator("#save").is_visible()
    assert page.locator("#findings li").count() == 3
    assert "seen from both sides" in page.locator("#findings li").first.inner_text()
