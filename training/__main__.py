"""`python -m training` is `pipeprobe-train`, for environments whose scripts are not on the PATH."""

from training.cli import main

main()
