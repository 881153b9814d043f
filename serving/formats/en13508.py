"""The exchange text of EN 13508-2, which inspection software in Europe imports (annex B: #A file, #B header, #C rows).

    #A1=ISO-8859-1          the encoding: UTF-8 instead where a name holds what ISO 8859-1 does not
    #A2=en                  the language of remarks
    #A3=,  #A4=.  #A5="     what separates fields, marks decimals and quotes texts
    #A6=2010                the version of the format
    #B01=AAA,ABA,ABS,ADE    header fields, their values on the next line
    #C=I,J,A,...            columns, an observation a line
    #Z                      the end

Header: AAA pipeline length, ABA standard, ABS file of the video, ADE general remark. Columns: I distance, J continuous
defect, A code, B C characterisation, D E quantities, F remark, G H clock positions, K at a joint, M photograph, N video
reference. After them come our own, `OWN_COLUMNS`, by their names. What is not known is empty, the pipeline length too:
nothing but a person can say which one a video shows.

A line is a row for most readers, so whatever would break a line becomes a space.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from serving.durable import write_bytes_atomic
from serving.formats.observation import OWN_COLUMNS, Observation, Origin, inspection_remark

FILE = "en13508.txt"

_DELIMITER, _DECIMAL, _QUOTE = ",", ".", '"'
_LINE_END = "\r\n"
_STANDARD = "EN 13508-2:2003+A1:2011"
_HEADER = ("AAA", "ABA", "ABS", "ADE")
_COLUMNS = {
    "I": "distance_m",
    "J": "continuous",
    "A": "code",
    "B": "char1",
    "C": "char2",
    "D": "quantity",
    "E": None,
    "F": "remark",
    "G": "clock_from",
    "H": "clock_to",
    "K": "at_joint",
    "M": "photo",
    "N": "video_time",
}

Value = str | int | float | None


def write_en13508(path: Path, origin: Origin, observations: Sequence[Observation]) -> None:
    """Write one inspection, in ISO 8859-1 if that holds all of it, else in UTF-8, as `#A1` declares."""
    lines = list(_body(origin, observations))
    text = _LINE_END.join(lines)
    try:
        text.encode("iso-8859-1")
        encoding = "ISO-8859-1"
    except UnicodeEncodeError:
        encoding = "UTF-8"
    head = (f"#A1={encoding}", "#A2=en", f"#A3={_DELIMITER}", f"#A4={_DECIMAL}", f"#A5={_QUOTE}", "#A6=2010")
    whole = _LINE_END.join((*head, text, ""))
    write_bytes_atomic(path, whole.encode(encoding))


def _body(origin: Origin, observations: Sequence[Observation]) -> Iterable[str]:
    yield f"#B01={_DELIMITER.join(_HEADER)}"
    yield _line(("", _STANDARD, origin.video, inspection_remark(origin, len(observations))))
    yield f"#C={_DELIMITER.join((*_COLUMNS, *OWN_COLUMNS))}"
    for observation in observations:
        names = (*_COLUMNS.values(), *OWN_COLUMNS)
        yield _line(None if name is None else getattr(observation, name) for name in names)
    yield "#Z"


def _line(values: Iterable[Value]) -> str:
    return _DELIMITER.join(map(_field, values))


def _field(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".").replace(".", _DECIMAL)
    if isinstance(value, int):
        return str(value)
    text = "".join(" " if _breaks(character) else character for character in _encodable(value))
    # A line that begins with # is one of the format's own.
    special = _DELIMITER in text or _QUOTE in text or text.startswith("#") or text != text.strip()
    return f"{_QUOTE}{text.replace(_QUOTE, 2 * _QUOTE)}{_QUOTE}" if special else text


def _breaks(character: str) -> bool:
    """Whether some reader may take it for the end of a line or of the file."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp")


def _encodable(text: str) -> str:
    """The text with bytes of file names that are none in any encoding as escapes."""
    return text.encode(errors="backslashreplace").decode()
