"""Where the bytes of frames lie: files in folders, or members of zip archives read without unpacking them."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from serving.errors import DataError, FrameError, TruncatedFrameError

_LOCAL_HEADER = struct.Struct("<4s22x2H")  # signature, lengths of the name and of the extra field
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Place(Protocol):
    """Where one frame's bytes lie; small and picklable, and opens its own file handle for every read."""

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            DataError: the file is gone or cannot be read.
            FrameError: its bytes are damaged.
        """
        ...


class FilePlace(NamedTuple):
    """A file of its own."""

    path: str

    def read(self) -> bytes:
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}; see to the disk and run again") from error


class ZipPlace(NamedTuple):
    """A member of a zip archive, found by its offset, so that reading it needs no central directory."""

    archive: str
    offset: int
    packed_bytes: int
    crc: int
    method: int

    def read(self) -> bytes:
        try:
            with Path(self.archive).open("rb") as file:
                file.seek(self.offset)
                signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
                packed = file.read(self.packed_bytes)
        except OSError as error:
            raise DataError(
                f"{self.archive} cannot be read: {error.strerror}; see to the disk and run again"
            ) from error
        except struct.error as error:
            raise DataError(f"{self.archive} ends before byte {self.offset}: fetch it again") from error
        if signature != b"PK\x03\x04":
            raise DataError(f"{self.archive} has no member at byte {self.offset}: it changed while it was read")
        return self._unpack(packed)

    def _unpack(self, packed: bytes) -> bytes:
        try:
            data = packed if self.method == zipfile.ZIP_STORED else zlib.decompress(packed, wbits=-15)
        except zlib.error as error:
            raise TruncatedFrameError(f"is damaged inside {self.archive} ({error})") from error
        if zlib.crc32(data) != self.crc:
            raise TruncatedFrameError(f"is damaged inside {self.archive} (its checksum does not match)")
        return data


class ImageStore:
    """Encoded frames by name. Picklable, and shared by nobody: workers get the `part` that they need."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def read(self, name: str) -> bytes:
        """The encoded image `name`; errors as in `Place.read`, those of damaged bytes without the name."""
        try:
            return self._places[name].read()
        except KeyError as error:
            raise FrameError(f"there is no image {name}") from error

    def part(self, names: Iterable[str]) -> ImageStore:
        """A store of these images alone, cheap to send to another process."""
        return ImageStore({name: self._places[name] for name in names})


def find_images(names: Iterable[str], folders: Iterable[Path], archives: Iterable[Path]) -> ImageStore:
    """Look the wanted images up by base name, in folders (with all below them) and zip archives.

    Images of other names are ignored, and wanted ones that are nowhere are left out of the store.

    Raises:
        DataError: an image is there twice, or an archive is damaged, encrypted or compressed unusually.
    """
    wanted = frozenset(names)
    places: dict[str, Place] = {}
    found_in: dict[str, Path] = {}
    for container, found in _walk(folders, archives, wanted):
        for name, place in found:
            if name in places:
                raise DataError(
                    f"image {name} is in both {found_in[name]} and {container}: remove one, names must be unique"
                )
            places[name], found_in[name] = place, container
    return ImageStore(places)


def _walk(
    folders: Iterable[Path], archives: Iterable[Path], wanted: frozenset[str]
) -> Iterator[tuple[Path, Iterable[tuple[str, Place]]]]:
    for folder in folders:
        for parent, subfolders, files in os.walk(folder):
            subfolders.sort()
            yield Path(parent), [(name, FilePlace(f"{parent}/{name}")) for name in files if name in wanted]
    for archive in archives:
        yield archive, _archive_members(archive, wanted)


def _archive_members(archive: Path, wanted: frozenset[str]) -> list[tuple[str, Place]]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive} is not a whole zip archive ({error}): fetch it again") from error
    found: list[tuple[str, Place]] = []
    for member in members:
        name = member.filename.rpartition("/")[2]
        # macOS adds a `._NAME` of its own beside every file; those match no wanted name.
        if name not in wanted or stat.S_ISLNK(member.external_attr >> 16):
            continue
        if member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS:
            raise DataError(
                f"{archive}: member {member.filename} is encrypted or not compressed by deflate: "
                "unpack the archive into the image folder beside it"
            )
        place = ZipPlace(str(archive), member.header_offset, member.compress_size, member.CRC, member.compress_type)
        found.append((name, place))
    return found
