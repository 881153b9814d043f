"""One file per `pipeprobe-train` subcommand; each exports `command`."""
