"""File Meta Information (PS3.10 7.1), written and read by hand: the data set behind it stays exactly as it was."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from dicom_node.errors import CannotUnderstandError
from dicom_node.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

__all__ = [
    "FileMeta",
    "content_digest",
    "decode_file_meta",
    "digest_of_file",
    "encode_file_meta",
    "mapped_file",
]

_PREFIX, _GROUP = slice(128, 132), b"\x02\x00"
_LONG_VRS = frozenset(str(vr).encode("ascii") for vr in EXPLICIT_VR_LENGTH_32)
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What the File Meta Information says of the data set behind it."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    length: int
    """Of preamble, prefix and File Meta Information: where the data set begins."""
    source_ae_title: str = ""
    """Of whoever sent it to whoever wrote the file; empty where that is not said."""


def decode_file_meta(data: bytes | memoryview) -> FileMeta:
    """Read the File Meta Information at the beginning of a Part 10 file.

    Raises
    ------
    CannotUnderstandError
        There is none, it breaks off, or it lacks the SOP class, the SOP instance or the transfer syntax.
    """
    values, offset = _elements(data)
    return FileMeta(
        _identifier(values, 0x0002),
        _identifier(values, 0x0003),
        _identifier(values, 0x0010),
        offset,
        _source_ae_title(values.get(0x0016, b"")),
    )


def _elements(data: bytes | memoryview) -> tuple[dict[int, bytes], int]:
    """Values by element number, and where the data set begins."""
    if bytes(data[_PREFIX]) == b"DICM":
        offset = _PREFIX.stop
    elif bytes(data[:2]) == _GROUP:
        # dicomweb-client leaves preamble and prefix out where the data set in memory has none.
        offset = 0
    else:
        raise CannotUnderstandError("it is not a DICOM file (PS3.10 7.1)")
    values: dict[int, bytes] = {}
    while bytes(data[offset : offset + 2]) == _GROUP:
        header = bytes(data[offset : offset + 12])
        long = header[4:6] in _LONG_VRS
        start = offset + (12 if long else 8)
        if start > min(len(data), _LONGEST):
            raise CannotUnderstandError("its File Meta Information breaks off")
        length = int.from_bytes(header[8:12] if long else header[6:8], "little")
        if start + length > min(len(data), _LONGEST):
            raise CannotUnderstandError("its File Meta Information breaks off")
        values[int.from_bytes(header[2:4], "little")] = bytes(data[start : start + length])
        offset = start + length
    return values, offset


def _source_ae_title(value: bytes) -> str:
    title = value.decode("ascii", "replace").strip(" \0")
    return title if len(title) <= 16 and title.isascii() and title.isprintable() else ""


def _identifier(values: dict[int, bytes], number: int) -> str:
    value = values.get(number, b"").rstrip(b" \0").lstrip(b" ")
    # Digits and dots are for the judgement of the data set; here it must only be fit for a log and a ledger.
    if not value or len(value) > 64 or not value.isascii() or not value.decode("ascii").isprintable():
        raise CannotUnderstandError(f"its File Meta Information has no valid (0002,{number:04X})")
    return value.decode("ascii")


def encode_file_meta(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae_title: str = ""
) -> bytes:
    """Preamble, prefix and File Meta Information of a Part 10 file.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid
        Of the data set that follows.
    source_ae_title
        The peer that sent it, if known.
    """
    elements = (
        _element(0x0001, b"OB", b"\x00\x01"),
        _element(0x0002, b"UI", _uid(sop_class_uid)),
        _element(0x0003, b"UI", _uid(sop_instance_uid)),
        _element(0x0010, b"UI", _uid(transfer_syntax_uid)),
        _element(0x0012, b"UI", _uid(IMPLEMENTATION_CLASS_UID)),
        _element(0x0013, b"SH", _text(IMPLEMENTATION_VERSION_NAME)),
        _element(0x0016, b"AE", _text(source_ae_title)) if source_ae_title else b"",
    )
    body = b"".join(elements)
    return b"\x00" * 128 + b"DICM" + _element(0x0000, b"UL", struct.pack("<L", len(body))) + body


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if vr == b"OB":
        return struct.pack("<HH2sHL", 0x0002, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value


def _uid(value: str) -> bytes:
    # What a peer takes for a UID may be anything; the object is refused for it, and kept aside under this.
    encoded = value.encode("ascii", "replace")
    return encoded + b"\x00" * (len(encoded) % 2)


def _text(value: str) -> bytes:
    encoded = value.encode("ascii")
    return encoded + b" " * (len(encoded) % 2)


def content_digest(content: memoryview) -> str | None:
    """The digest that an instance file is named by (:class:`storage.files.StoredFile`), of what it holds.

    Returns
    -------
    str or None
        ``None`` when the File Meta Information is damaged. What was quarantined for it may name no valid SOP instance.
    """
    try:
        values, offset = _elements(content)
    except CannotUnderstandError:
        return None
    digest = hashlib.sha256(values.get(0x0010, b"").rstrip(b" \0") + b"\0")
    with content[offset:] as data:
        digest.update(data)
    return digest.hexdigest()


def digest_of_file(path: Path) -> str | None:
    """The :func:`content_digest` of what a file holds."""
    with mapped_file(path) as content:
        return content_digest(content)


@contextlib.contextmanager
def mapped_file(path: Path) -> Iterator[memoryview]:
    """The content of a file, for the time of the block."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            yield memoryview(b"")
            return
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as whole:
            yield whole
