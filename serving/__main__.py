"""`python -m serving` is `pipeprobe`, for environments whose scripts are not on the PATH."""

from serving.cli import main

main()
