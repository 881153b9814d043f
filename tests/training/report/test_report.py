from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from support.toy_study import PAPER, ToyStudy

from serving.errors import ConfigError
from training.cli import cli
from training.report.build import Report, write_report
from training.report.cells import Cell, Grid, Response
from training.report.document import Badge, Figure, Group, Heading, Paragraph, Strong, Table
from training.report.markdown import to_markdown
from training.report.names import method_order, style
from training.report.page import to_html
from training.report.results import read_study
from training.report.tables import pivot, precision_table
from training.report.wording import cell_text, correlation_text, counts_text, duration_text, p_text

TINY = ("simclr", "mae", "lejepa")
SHARES: tuple[float | None, ...] = (0.01, None)


def varied(method: str, encoder: str, proportion: float | None, seed: int) -> float:
    return 0.3 + 0.04 * len(method.removeprefix("le")) + 0.2 * (proportion is None) + 0.02 * seed


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Report]:
    folder = tmp_path_factory.mktemp("study")
    toy = ToyStudy(
        methods=TINY,
        proportions=SHARES,
        seeds=2,
        quality=varied,
        status={"simclr-vit_tiny-p1-s1": "diverged", "mae-vit_tiny-p1-s0": "collapsed"},
        lost=["lejepa-resnet18-all-s1"],
        begun=["supervised-resnet18-p1-s1"],
    )
    runs = toy.write(folder / "runs")
    return runs, folder / "report", write_report(runs, folder / "report")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_everything_is_written_and_nothing_half(unfinished: tuple[Path, Path, Report]) -> None:
    _, out, report = unfinished
    names = {path.name for path in out.iterdir()}
    pages = {"report.html", "report.md", "results.csv", "label_free.csv", "classes.csv"}
    figures = {"f1-by-proportion", "precision", "effects", "label-free", "spearman", "classes"}
    assert names == pages | {f"{name}.{suffix}" for name in figures for suffix in ("svg", "png")}
    assert {path.name for path in report.files} == names
    for name in figures:
        with Image.open(out / f"{name}.png") as image:
            assert min(image.size) > 300
            assert image.info.keys() == {"dpi"}


def test_the_command_writes_the_same_bytes(unfinished: tuple[Path, Path, Report], tmp_path: Path) -> None:
    runs, out, _ = unfinished
    done = CliRunner().invoke(cli, ["report", str(runs), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "planned runs have a result" in done.output
    assert "A gap to supervised training stays" in done.output
    for path in out.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def test_every_run_that_was_started_is_in_the_results(unfinished: tuple[Path, Path, Report]) -> None:
    _, out, report = unfinished
    rows = rows_of(out / "results.csv")
    started = {result.id for result in report.study.results} | set(report.study.unfinished)
    assert {row["id"] for row in rows} == started
    assert len(started) == len(report.study.planned) - 1
    by_id = {name: [row for row in rows if row["id"] == name] for name in started}
    # train, val at 1 %, balanced and natural, test balanced and natural; two thresholds each.
    assert len(by_id["simclr-resnet18-p1-s0"]) == 12
    assert [row["status"] for row in by_id["simclr-vit_tiny-p1-s1"]] == ["diverged"]
    assert by_id["simclr-vit_tiny-p1-s1"][0]["f1"] == ""
    assert {row["status"] for row in by_id["mae-vit_tiny-p1-s0"]} == {"collapsed"}
    assert [row["status"] for row in by_id["supervised-resnet18-p1-s1"]] == ["unfinished"]


def test_csv_values_are_those_of_the_results(unfinished: tuple[Path, Path, Report]) -> None:
    _, out, _ = unfinished
    row = next(
        row
        for row in rows_of(out / "results.csv")
        if (row["id"], row["data"], row["threshold_rule"]) == ("simclr-resnet18-p1-s1", "val_p1", "chosen")
    )
    assert float(row["f1"]) == pytest.approx(0.3 + 0.24 + 0.02 + 0.02)
    assert (row["family"], row["optim"], row["threshold"], row["n_defect"]) == ("simclr", "short", "0.31", "10")
    label_free = {row["id"]: row for row in rows_of(out / "label_free.csv")}
    assert float(label_free["simclr-resnet18-p1-s1"]["self_cluster"]) == pytest.approx(1 - 0.56)
    assert label_free["simclr-vit_tiny-p1-s1"]["rankme"] == ""
    classes = rows_of(out / "classes.csv")
    assert float(classes[0]["per_class.RB.f2"]) > 0
    assert classes[0]["mean_average_precision"] == ""
    assert {row["kind"] for row in classes} == {"ssl", "random"}


class Page(HTMLParser):
    """Collects what a browser would look up, and ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "data", "action", "srcset", "poster"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def test_the_page_needs_no_network_and_its_references_resolve(unfinished: tuple[Path, Path, Report]) -> None:
    _, out, _ = unfinished
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|\bfile:", text)
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert page.references
    inner = set(page.ids)
    assert len(inner) == len(page.ids)
    assert all(each.startswith("#") and each[1:] in inner for each in page.references)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= inner
    assert page.tags >= {"svg", "table", "details"}


def test_the_markdown_names_figures_that_are_there(unfinished: tuple[Path, Path, Report]) -> None:
    _, out, _ = unfinished
    text = (out / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"^!\[.*\]\((.+)\)$", text, re.MULTILINE)
    assert len(pictures) == 6
    assert all((out / name).is_file() for name in pictures)


def test_an_unfinished_study_is_said_to_be_so(unfinished: tuple[Path, Path, Report]) -> None:
    _, out, report = unfinished
    total = len(report.study.planned)
    for name in ("report.md", "report.html"):
        text = (out / name).read_text(encoding="utf-8")
        assert f"{total - 2} of {total} planned runs have a result" in text
        assert "The study is unfinished" in text
        for lost in ("lejepa-resnet18-all-s1", "supervised-resnet18-p1-s1", "simclr-vit_tiny-p1-s1"):
            assert lost in text


def test_what_was_run_is_told(unfinished: tuple[Path, Path, Report]) -> None:
    _, out, _ = unfinished
    text = (out / "report.md").read_text(encoding="utf-8")
    for fact in (
        "| `optim` | short |",
        "| `proportions` | 0.01, whole split |",
        "simulated pipes",
        "a processor, 2 cores",
        "torch 2.13.0",
        "0123abcd",
        "pipeprobe-train sweep study --data packs --out runs",
        "of 100 frames that it flags",
        "is a variant of this project",
        "masked conv (ours)",
        "random weights (floor)",
        "SimCLR, fine-tuned (ceiling)",
        "perfect scores would get 0.800",
    ):
        assert fact in text, fact


def test_cells_say_how_many_runs_they_are_of(unfinished: tuple[Path, Path, Report]) -> None:
    runs, _, _ = unfinished
    grid = Grid(read_study(runs))
    f1 = Response(data="val_p1", metric="f1", rule="published")

    def text(method: str, encoder: str, share: float | None) -> str:
        return cell_text(grid, Cell(method=method, encoder=encoder, proportion=share), f1)

    # 0.54 and 0.56: sd 0.02 / sqrt 2.
    assert text("simclr", "resnet18", 0.01) == "0.550 ± 0.014 (2)"
    assert text("simclr", "vit_tiny", 0.01) == "0.540 ± ? (1/2; 1 diverged)"
    assert text("mae", "vit_tiny", 0.01) == "0.430 ± 0.014 (2; 1 collapsed)"
    assert text("supervised", "resnet18", 0.01) == "0.700 ± ? (1/2)"
    assert text("mae", "resnet18", 0.01) == "-"


def test_a_cell_without_figures_says_why(tmp_path: Path) -> None:
    status = {f"simclr-resnet18-p1-s{seed}": "diverged" for seed in (0, 1)}
    lost = [f"byol-resnet18-p1-s{seed}" for seed in (0, 1)]
    toy = ToyStudy(methods=PAPER, proportions=(0.01,), seeds=2, status=status, lost=lost)
    grid = Grid(read_study(toy.write(tmp_path / "runs")))
    f1 = Response(data="val_p1", metric="f1", rule="published")
    texts = [
        cell_text(grid, Cell(method=method, encoder="resnet18", proportion=0.01), f1) for method in ("simclr", "byol")
    ]
    assert texts == ["2 diverged", "missing"]


def test_the_best_self_supervised_mean_of_a_column_stands_out(unfinished: tuple[Path, Path, Report]) -> None:
    runs, _, _ = unfinished
    table = pivot(Grid(read_study(runs)), Response(data="val_balanced", metric="f1", rule="published"))
    strong = [row[:2] for row in table.rows if not isinstance(row, Group) and isinstance(row[2], Strong)]
    # The longest name has the highest planted figure; baselines do not compete.
    assert strong == [("SimCLR", "ViT-Tiny"), ("masked conv (ours)", "ResNet-18")]
    groups = [row.text for row in table.rows if isinstance(row, Group)]
    assert groups == ["Methods of the published study", "Further methods", "Baselines"]


def test_precision_is_said_in_frames(unfinished: tuple[Path, Path, Report]) -> None:
    runs, _, _ = unfinished
    rows = [row for row in precision_table(Grid(read_study(runs)), 0.01).rows if not isinstance(row, Group)]
    # Precision is 0.9 of F1: 48.6 and 50.4.
    assert rows[0][:4] == ("SimCLR", "ResNet-18", "2", "49.5 ± 1.3")
    assert rows[1][:4] == ("SimCLR", "ViT-Tiny", "1", "48.6 ± ?")


@pytest.mark.parametrize(
    "toy",
    [
        ToyStudy(methods=("simclr",), baselines=(), encoders=("vit_tiny",), proportions=(0.05,), seeds=1),
        ToyStudy(methods=(), baselines=("random",), proportions=(None,), seeds=2, classes=False),
        ToyStudy(methods=("newcomer",), baselines=("transferred", "finetuned_mae"), proportions=(0.02,), seeds=2),
    ],
    ids=["one run", "baselines alone", "unknown method"],
)
def test_small_and_strange_studies_have_a_report(tmp_path: Path, toy: ToyStudy) -> None:
    write_report(toy.write(tmp_path / "runs"), tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "the study is complete" in text
    # One seed's spread is unknown, never none.
    assert ("± ? (1)" in text) == (toy.seeds == 1)
    assert toy.seeds > 1 or not re.search(r"± [0-9]", text)


def test_all_diverged_is_a_report_without_figures(tmp_path: Path) -> None:
    status = {f"simclr-{encoder}-p1-s0": "diverged" for encoder in ("resnet18", "vit_tiny")}
    toy = ToyStudy(methods=("simclr",), baselines=(), proportions=(0.01,), seeds=1, status=status)
    report = write_report(toy.write(tmp_path / "runs"), tmp_path / "out")
    assert {judgement.verdict for _, judgement in report.judged} == {"not tested"}
    assert len(rows_of(tmp_path / "out" / "results.csv")) == 2


def test_nothing_is_written_for_a_broken_study(unfinished: tuple[Path, Path, Report], tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        write_report(unfinished[0], taken)
    assert taken.read_text() == "mine"


def test_text_is_escaped_in_both_formats() -> None:
    blocks = [
        Heading(level=1, text="A <b> & C"),
        Paragraph(text="`a|b` and c|d <script> 15 % [x] f2_ciw*"),
        Table(caption="t", columns=("a", "b"), rows=(("x|y", Badge("not held")), Group(text="g")), left=2),
    ]
    page, text = to_html("T <i>", blocks), to_markdown(blocks)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<title>T &lt;i&gt;</title>" in page
    assert "15&nbsp;%" in page
    assert '<span class="badge not-held">not held</span>' in page
    assert "`a\\|b` and c\\|d \\<script\\> 15 % \\[x\\] f2_ciw\\*" in text
    assert "| x\\|y | **not held** |\n| **g** |  |" in text


def test_figures_in_one_page_keep_their_ids_apart() -> None:
    svg = b'<?xml version="1.0"?><svg xmlns="http://w"><metadata>x</metadata><g id="a"/><use xlink:href="#a"/></svg>'
    figures = [Figure(name=name, caption="c", svg=svg, png=b"") for name in ("one", "two")]
    page = to_html("t", [Heading(level=1, text="t"), *figures])
    assert page.count('id="one-a"') == page.count('href="#two-a"') == 1
    assert "http" not in page
    assert "metadata" not in page


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        Table(caption="t", columns=("a", "b"), rows=(("x",),))


def test_methods_have_an_order_and_a_look_of_their_own() -> None:
    names = ["supervised", "finetuned_simclr", "visreg", "unheard_of", "masked_conv", "random", "simclr", "mae"]
    assert method_order(names) == [
        "simclr", "mae", "masked_conv", "visreg", "unheard_of", "random", "supervised", "finetuned_simclr",
    ]  # fmt: skip
    known = [style(name) for name in ("simclr", "barlow_twins", "byol", "dino", "mae", "vicreg", "lejepa", "visreg")]
    assert len({look.colour for look in known}) == len({look.marker for look in known}) == 8


def test_words_for_figures() -> None:
    assert (p_text(0.0004), p_text(0.0123)) == ("< 0.001", "0.012")
    assert [duration_text(s) for s in (90, 1200, 9000)] == ["90 s", "20 min", "2.5 h"]
    assert counts_text([4242, None, 4830]) == "4,242 to 4,830"
    assert counts_text([None]) == correlation_text(None) == "-"
