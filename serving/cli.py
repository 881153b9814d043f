"""`pipeprobe`: serve the scoring service, score image files and inspection videos."""

from __future__ import annotations

import click

from serving.lazy_group import LazyGroup, run_group

COMMANDS = {
    "serve": ("serving.commands.serve", "Start the HTTP scoring service."),
    "score": ("serving.commands.score", "Score image files."),
    "videos": ("serving.commands.videos", "Score inspection videos and write their findings."),
    "report": ("serving.commands.report", "Write the pages of inspections scored earlier."),
    "evaluate": ("serving.commands.evaluate", "Compare findings with what is known to be in the videos."),
    "review": ("serving.commands.review", "Turn reviews of findings into labelled frames."),
    "keys": ("serving.commands.keys", "Add, list and revoke the API keys of the service."),
    "models": ("serving.commands.models", "List, verify, promote and roll back pairs."),
    "bench": (
        "serving.commands.bench",
        "Measure the service beside what this machine could do, and say what to change.",
    ),
    "demo": ("serving.commands.demo", "Serve, score sample frames and a sample inspection, and stop."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pipeprobe")
def cli() -> None:
    """Score sewer-inspection frames and videos as defect or normal."""


def main() -> None:
    """Entry point of the console script."""
    run_group(cli)
