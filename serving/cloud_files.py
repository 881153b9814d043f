"""Folders behind URLs: object stores and whatever else fsspec knows, with errors that say what to do.

fsspec is imported here alone, and only when a URL is given. Names are below the folder, with slashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from serving.errors import ConfigError, VideoError

_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
# Small objects on their way at a time.
_AT_ONCE = 8
# What stores call the state of an object that changes when its content does.
_MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An object: size in bytes, and a mark that is another one when its content is; empty where a store has none."""

    size: int
    mark: str


def is_url(place: str) -> bool:
    """Whether it is more than a path of this machine; `file:` is one."""
    scheme, separator, _ = place.partition("://")
    return bool(separator) and scheme != "file"


def local_path(place: str) -> Path:
    """The path of a place that is no URL, or a `file://` one."""
    if place.startswith("file://"):
        return Path(unquote(urlsplit(place).path))
    return Path(place)


class CloudFolder:
    """A folder at a URL such as `s3://bucket/folder`.

    Everything raises `ConfigError` where the store refuses, cannot be reached or is not known.
    """

    def __init__(self, url: str) -> None:
        fsspec = _import_fsspec(url)
        self.url = url.rstrip("/")
        with _explained(self.url):
            try:
                self._fs, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
            except ValueError as error:
                raise ConfigError(f"{url}: {error}; known are s3://, gs://, az:// and others of fsspec") from error
        self._root = str(root).rstrip("/")

    def __reduce__(self) -> tuple[type[CloudFolder], tuple[str]]:
        """For other processes, which have connections and credentials of their own."""
        return CloudFolder, (self.url,)

    def entries(self, below: str = "") -> dict[str, Entry]:
        """All objects below the folder, or a folder in it, by name; none where there is no such folder."""
        with _explained(self.url):
            self._fs.invalidate_cache()
            found: Mapping[str, Mapping[str, Any]] = self._fs.find(self._path(below).rstrip("/"), detail=True)
        # Of an object, fsspec finds the object itself.
        inside = {path: info for path, info in found.items() if path.startswith(f"{self._root}/")}
        return {self._name(path): _entry(info) for path, info in inside.items() if info["type"] == "file"}

    def entry(self, name: str) -> Entry:
        """Of one object, as it is now. Raises `VideoError` if it is gone."""
        with _explained(self.url), _of_a_video(f"{self.url}/{name}"):
            return _entry(self._fs.info(self._path(name), refresh=True))

    def fetch(self, name: str, to: Path) -> None:
        """Write an object's content to a file. Raises `VideoError` if it is gone, or must not be read."""
        with _explained(self.url), _of_a_video(f"{self.url}/{name}"):
            self._fs.get_file(self._path(name), str(to))

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        """The content of some small objects."""
        with _explained(self.url):
            return dict(zip(names, self._each(lambda name: self._fs.cat_file(self._path(name)), names), strict=True))

    def write(self, name: str, data: bytes) -> None:
        """Put an object in place of what is there."""
        with _explained(self.url):
            self._fs.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Put an object unless there is one of that name, in one step where the store can; whether it was put."""
        with _explained(self.url):
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
        return True

    def send(self, files: Mapping[str, Path]) -> None:
        """Put files, by name."""
        with _explained(self.url):
            self._each(lambda name: self._fs.put_file(str(files[name]), self._path(name)), list(files))

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects, which are there."""
        with _explained(self.url):
            self._each(lambda name: self._fs.rm_file(self._path(name)), names)

    def _each(self, call: Callable[[str], Any], names: Sequence[str]) -> list[Any]:
        """What `call` returns for each name, several at a time.

        fsspec's own calls for many objects take [brackets] in their names for patterns.
        """
        with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="cloud") as threads:
            return list(threads.map(call, names))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _name(self, path: str) -> str:
        return path.removeprefix(f"{self._root}/")


def _import_fsspec(url: str) -> ModuleType:
    try:
        import fsspec.core
    except ImportError as error:
        raise ConfigError(f"{url} needs fsspec ({error}): pip install 'pipeprobe[cloud]'") from error
    module: ModuleType = fsspec
    return module


def _entry(info: Mapping[str, Any]) -> Entry:
    mark = next((info[name] for name in _MARKS if info.get(name)), "")
    # One call of a store gives a time as a number, another as what it is.
    mark = mark.timestamp() if isinstance(mark, datetime) else mark
    return Entry(size=int(info["size"] or 0), mark=str(mark).strip('"'))


@contextmanager
def _of_a_video(url: str) -> Iterator[None]:
    """Around what concerns one object alone: without it, the others can be had all the same."""
    try:
        yield
    except FileNotFoundError as error:
        raise VideoError(f"{url} is not there any more: run the command again") from error
    except PermissionError as error:
        raise VideoError(f"{url} must not be read with these credentials ({error})") from error


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Errors of a store with their remedies. Botocore's are told by name, so that it need not be there."""
    try:
        yield
    except (ConfigError, VideoError, FileExistsError):
        raise
    except ImportError as error:
        raise ConfigError(f"{url}: {error}: pip install 'pipeprobe[cloud]' brings S3's") from error
    except PermissionError as error:
        raise ConfigError(
            f"{url} is refused ({error}): the credentials must be valid and may list, read, write and delete there"
        ) from error
    except FileNotFoundError as error:
        raise ConfigError(f"{url}: {error}; create the bucket, or mend its name") from error
    except Exception as error:
        if any(each.__name__ in _NO_CREDENTIALS for each in type(error).__mro__):
            raise ConfigError(
                f"{url}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
        raise ConfigError(
            f"{url} cannot be used ({type(error).__name__}: {error}); what is done is kept: run it again when it can "
            "(AWS_ENDPOINT_URL names another S3 than Amazon's)"
        ) from error
