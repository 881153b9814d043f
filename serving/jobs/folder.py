"""Where the files of video jobs lie, and how much room there is for more.

    jobs.sqlite             the table
    incoming/<id>           an upload while it streams in
    files/<id>/upload/<name>          a job's video
    files/<id>/claim-<n>/<stem>/...   what the n-th taking of the job has made of it
    files/<id>/claim-<n>.log          what its process writes to standard error, while it runs

The default lies in the home of whoever runs the service: it outlasts a reboot, which a folder under /tmp does not;
no other user of the machine can put a table or a link there first; and neither a source tree nor a read-only
Bento is written to. The folders are closed to other users, since videos and results are the callers' own.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ConfigError, StorageFullError
from serving.jobs.job import Job

OFF = "off"
_RETRY_S = 60.0
_MIB = 2**20


def default_folder() -> Path:
    """`pipeprobe/jobs` under the user's folder for state. Raises `ConfigError` if the user has no home."""
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise ConfigError(f"there is no home folder for video jobs ({error}); name one in PIPEPROBE_JOBS") from error
    return base / "pipeprobe" / "jobs"


@dataclass(frozen=True)
class JobsFolder:
    """The folder of the jobs; made by `open`."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> JobsFolder:
        """Make what is missing. Raises `ConfigError` if that cannot be done or others could write there."""
        folder = cls(root.absolute())
        try:
            for path in (folder.root, folder.incoming, folder.files):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(folder.root, os.W_OK | os.X_OK):
                raise PermissionError(13, "permission denied")
            if stat.S_IMODE(folder.root.stat().st_mode) & stat.S_IWOTH:
                raise ConfigError(f"{root} can be written by every user; close it: chmod o-w {root}")
        except OSError as error:
            raise ConfigError(
                f"{root} cannot hold video jobs: {error.strerror or error}; name another folder in PIPEPROBE_JOBS, "
                f"or {OFF}"
            ) from error
        return folder

    @property
    def table(self) -> Path:
        return self.root / "jobs.sqlite"

    @property
    def incoming(self) -> Path:
        return self.root / "incoming"

    @property
    def files(self) -> Path:
        return self.root / "files"

    def of(self, job_id: str) -> Path:
        """All that belongs to a job."""
        return self.files / job_id

    def upload(self, job_id: str, name: str) -> Path:
        return self.of(job_id) / "upload" / name

    def claim(self, job: Job) -> Path:
        """What the present taking of the job writes to."""
        return self.of(job.id) / f"claim-{job.claim}"

    def log(self, job: Job) -> Path:
        return self.of(job.id) / f"claim-{job.claim}.log"

    def results(self, job: Job) -> Path:
        """The folder of a done job's results, as `pipeprobe videos` makes it."""
        return self.claim(job) / Path(job.name).stem

    def result_names(self, job: Job) -> list[str]:
        """Names of a done job's files, with the folder that some lie in; empty if they have been deleted."""
        results = self.results(job)
        # Walking follows no link, and a folder that is not there has nothing in it.
        paths = (Path(parent) / name for parent, _, names in os.walk(results) for name in names)
        return sorted(path.relative_to(results).as_posix() for path in paths if not path.is_symlink())

    def incoming_bytes(self) -> int:
        """What uploads that still stream in have written so far."""
        return sum(size for _, size in sizes(self.incoming))

    def check_room(self, n_bytes: int, *, kept: int, max_kept: int, min_free: int) -> None:
        """Raise `StorageFullError` unless `n_bytes` more fit, beside `kept`, both into the share and on the disk."""
        if kept + n_bytes > max_kept:
            raise StorageFullError(
                f"the videos and results of jobs fill the {max_kept / _MIB:.0f} MiB allowed; "
                "delete jobs that are no longer needed, or try again later",
                retry_after_s=_RETRY_S,
            )
        if shutil.disk_usage(self.root).free - n_bytes < min_free:
            raise StorageFullError("the disk has no room for this video; try again later", retry_after_s=_RETRY_S)


def sizes(folder: Path) -> Iterator[tuple[Path, int]]:
    """Every file below `folder` with its bytes; what vanishes meanwhile is left out."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            try:
                yield path, path.lstat().st_size
            except FileNotFoundError:
                continue
