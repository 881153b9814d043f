"""The one file of a multipart body, piece by piece as it streams in; nothing is kept in memory or in /tmp."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.errors import RequestError

MULTIPART = "multipart/form-data"


class MultipartFile:
    """Feed it the body; it hands out the bytes of the file, whatever its field is called.

    Raises `RequestError` if the body is malformed, holds a second file, or a field that is none.
    """

    def __init__(self, content_type: str) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise RequestError("the multipart body's Content-Type names no boundary")
        self.name = ""
        self._complete = False
        self._n_files = 0
        self._pieces: list[bytes] = []
        self._header: list[bytearray] = [bytearray(), bytearray()]
        self._is_file = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise _malformed(error) from error

    def feed(self, chunk: bytes) -> list[bytes]:
        """The pieces of the file that are in this chunk of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(error) from error
        pieces, self._pieces = self._pieces, []
        return pieces

    def check_complete(self) -> None:
        """Raise `RequestError` if the body ended before its last boundary, or held no file."""
        if not self._complete:
            raise RequestError("the multipart body is malformed: it ends before its last boundary")
        if self._n_files == 0:
            raise RequestError("the multipart body holds no file; send the video as one, with a file name")

    def _on_part_begin(self) -> None:
        self._is_file = False

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _on_header_end(self) -> None:
        field, value = (bytes(part) for part in self._header)
        self._header = [bytearray(), bytearray()]
        if field.lower() != b"content-disposition":
            return
        options = parse_options_header(value)[1]
        if b"filename" in options:
            self._is_file = True
            self.name = options[b"filename"].decode(errors="replace")

    def _on_headers_finished(self) -> None:
        if not self._is_file:
            raise RequestError("the multipart body has a field that is no file; options go into the query")
        self._n_files += 1
        if self._n_files > 1:
            raise RequestError("the multipart body holds more than one file; send one video a request")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def _on_end(self) -> None:
        self._complete = True


def _malformed(error: FormParserError) -> RequestError:
    return RequestError(f"the multipart body is malformed: {error}")
