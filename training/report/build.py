"""From a study folder to the report's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving.durable import write_bytes_atomic, write_text_atomic
from serving.errors import ConfigError
from training.report.cells import Grid
from training.report.claims import Claim, judge_all
from training.report.csv_files import write_csv_files
from training.report.document import figures_of
from training.report.judges import Judgement
from training.report.markdown import to_markdown
from training.report.page import to_html
from training.report.results import Study, read_study
from training.report.sections import TITLE, report_blocks

HTML, MARKDOWN = "report.html", "report.md"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was read, judged and written."""

    study: Study
    judged: list[tuple[Claim, Judgement]]
    files: list[Path]


def write_report(runs: Path, out: Path) -> Report:
    """Read the study in `runs` and write its report to `out`, each file whole; the pages come last.

    The same results give the same bytes.

    Raises:
        DataError: see `read_study`; nothing is written then.
        ConfigError: `out` is no folder.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file: name a folder")
    study = read_study(runs)
    grid = Grid(study)
    judged = judge_all(grid)
    blocks = report_blocks(grid, judged)
    files = write_csv_files(out, study)
    for figure in figures_of(blocks):
        for suffix, data in (("svg", figure.svg), ("png", figure.png)):
            files.append(out / f"{figure.name}.{suffix}")
            write_bytes_atomic(files[-1], data)
    for name, text in ((MARKDOWN, to_markdown(blocks)), (HTML, to_html(TITLE, blocks))):
        files.append(out / name)
        write_text_atomic(files[-1], text)
    return Report(study=study, judged=judged, files=files)
