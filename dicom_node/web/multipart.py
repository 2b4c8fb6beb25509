"""multipart/related (RFC 2387, RFC 2046 5.1) as STOW-RS uses it: one DICOM file a part (PS3.18 8.6.1.2)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dicom_node.errors import CannotUnderstandError

__all__ = ["DICOM", "MediaType", "MultipartReader", "MultipartWriter", "PartBegins", "PartEnds"]

DICOM = "application/dicom"
_CHUNK = 1 << 18
_LONGEST_BOUNDARY = 200

# It warns of every malformed body; what matters is logged by the service.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class MediaType:
    """A Content-Type (RFC 9110 8.3.1).

    Attributes
    ----------
    name
        Lower case.
    parameters
        Names in lower case, values as given, without quotes.
    """

    name: str
    parameters: dict[str, str]

    @classmethod
    def of(cls, value: str) -> MediaType:
        """Read a header's value."""
        name, parameters = parse_options_header(value.encode("latin-1", "replace"))
        return cls(
            name.decode("latin-1").lower(),
            {key.decode("latin-1").lower(): one.decode("latin-1") for key, one in parameters.items()},
        )


@dataclass(frozen=True, slots=True)
class PartBegins:
    """Its headers are complete."""

    content_type: str
    """As given; ``""`` when the part has none."""


@dataclass(frozen=True, slots=True)
class PartEnds:
    """The delimiter behind it was found: the part is whole."""


class MultipartReader:
    """Reads a multipart body as it comes in; holds no more of it than a delimiter's length.

    Parameters
    ----------
    boundary
        Parameter of the Content-Type.

    Raises
    ------
    CannotUnderstandError
        There can be no such boundary.
    """

    def __init__(self, boundary: str) -> None:
        self.ended = False
        self._found: list[PartBegins | bytes | PartEnds] = []
        self._name, self._value, self._content_type = b"", b"", b""
        # RFC 2046 5.1.1 has at most 70 characters; those of Orthanc have 73.
        if not 1 <= len(boundary) <= _LONGEST_BOUNDARY or not boundary.isascii() or not boundary.isprintable():
            raise CannotUnderstandError(f"the boundary must have 1 to {_LONGEST_BOUNDARY} printable ASCII characters")
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._part_data,
                "on_part_end": self._part_ends,
                "on_end": self._ends,
            },
        )

    def feed(self, data: bytes) -> Iterator[PartBegins | bytes | PartEnds]:
        """What the next bytes of the body bring, in order.

        Raises
        ------
        CannotUnderstandError
            The body is not framed as RFC 2046 wants it; what was found before that is given first.
        """
        malformed: FormParserError | None = None
        try:
            self._parser.write(data)
        except FormParserError as error:
            malformed = error
        found, self._found = self._found, []
        yield from found
        if malformed is not None:
            raise CannotUnderstandError(f"the multipart body is malformed: {malformed}") from malformed

    def _part_begins(self) -> None:
        self._content_type = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        if self._name.lower() == b"content-type":
            self._content_type = self._value
        self._name, self._value = b"", b""

    def _headers_end(self) -> None:
        self._found.append(PartBegins(self._content_type.decode("latin-1").strip()))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._found.append(data[start:end])

    def _part_ends(self) -> None:
        self._found.append(PartEnds())

    def _ends(self) -> None:
        self.ended = True


class MultipartWriter:
    """Body of a request that stores files, byte for byte, never more than a piece of one in memory.

    Parameters
    ----------
    files
        Part 10 files.
    progress
        Called before each piece.

    Attributes
    ----------
    content_type
        Of the request.
    content_length
        Of the body, bytes.
    """

    def __init__(self, files: Sequence[Path], progress: Callable[[], None] = lambda: None) -> None:
        # As long as a random boundary is, no file holds it by chance.
        boundary = secrets.token_hex(32)
        self._files, self._progress = files, progress
        self._head = f"--{boundary}\r\nContent-Type: {DICOM}\r\n\r\n".encode("ascii")
        self._end = f"--{boundary}--\r\n".encode("ascii")
        self.content_type = f'multipart/related; type="{DICOM}"; boundary={boundary}'
        self.content_length = len(self._end) + sum(len(self._head) + path.stat().st_size + 2 for path in files)

    def __iter__(self) -> Iterator[bytes]:
        for path in self._files:
            yield self._head
            with path.open("rb") as file:
                while piece := file.read(_CHUNK):
                    self._progress()
                    yield piece
            yield b"\r\n"
        yield self._end
