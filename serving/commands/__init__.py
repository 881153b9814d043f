"""One file per `pipeprobe` subcommand; each exports `command`."""
