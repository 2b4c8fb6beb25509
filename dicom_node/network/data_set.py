"""Reads the header of a data set as it came off the network, and checks that the encoding is whole.

pydicom takes a truncated data set for a short one and says nothing. A receiver must not: Success for half an image is a
lost image. So the structure is walked here, to the last byte, values untouched, and what identifies the object is
picked up on the way, without the cost of a data set of pydicom's.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pydicom.charset import convert_encodings
from pydicom.uid import ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from dicom_node.errors import CannotUnderstandError

__all__ = ["SPECIFIC_CHARACTER_SET", "Header", "read_header"]

SPECIFIC_CHARACTER_SET = 0x00080005

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset(str(vr).encode("ascii") for vr in EXPLICIT_VR_LENGTH_32)
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_MAXIMUM_DEPTH = 64

_BULK = frozenset(
    {
        0x00420011,  # EncapsulatedDocument
        0x54000100,  # WaveformSequence
        0x56000020,  # SpectroscopyData
        0x7FE00008,  # FloatPixelData
        0x7FE00009,  # DoubleFloatPixelData
        0x7FE00010,  # PixelData
    }
)

_SHORT_VR_NUMBERS = frozenset(int.from_bytes(vr, "little") for vr in _SHORT_VRS)
"""As :data:`_numbers` reads them: looking up a number is quicker than looking up bytes."""
_numbers = struct.Struct("<HHHH").unpack_from
_short_header = struct.Struct("<HH2sH").unpack_from
_implicit_header = struct.Struct("<HHL").unpack_from
_length32 = struct.Struct("<L").unpack_from


@dataclass(frozen=True, slots=True)
class Header:
    """Raw values of some top-level elements of a data set."""

    values: Mapping[int, bytes]
    """By tag, group in the upper half."""
    encodings: tuple[str, ...]
    """Python's names for what Specific Character Set says."""


class _Element(NamedTuple):
    tag: int
    value: int
    """Offset of the first byte of the value."""
    length: int
    """Of the value; for a sequence of undefined length without its delimiter."""
    end: int
    """Offset of the next element."""


def read_header(data: bytes | memoryview, transfer_syntax_uid: str, tags: Container[int]) -> Header:
    """Walk a data set to its end and pick up elements.

    Parameters
    ----------
    data
        The whole encoded data set, without File Meta Information.
    transfer_syntax_uid
        The transfer syntax it was negotiated in; little endian, not deflated.
    tags
        Which elements to pick up. They must hold Specific Character Set for texts to be decoded.

    Raises
    ------
    CannotUnderstandError
        The data set is empty, breaks off, or is not encoded in that transfer syntax (PS3.5 7.1, 7.5, A.4).
    """
    # Released however this ends: a traceback that holds a view would keep the file mapped.
    with memoryview(data) as view:
        return _header(view, transfer_syntax_uid == ImplicitVRLittleEndian, tags)


def _header(view: memoryview, implicit: bool, tags: Container[int]) -> Header:
    values: dict[int, bytes] = {}
    offset, end, found = 0, len(view), False
    try:
        while offset < end:
            if not implicit and offset + 8 <= end:
                # Nearly all elements, and so without a call each.
                group, number, vr, length = _numbers(view, offset)
                after = offset + 8 + length
                if vr in _SHORT_VR_NUMBERS and after <= end:
                    found = True
                    if (tag := group << 16 | number) in tags:
                        values[tag] = bytes(view[offset + 8 : after])
                    offset = after
                    continue
            if not any(view[offset : offset + 8]):
                # Some senders pad the end of the data set with zeros.
                if any(view[offset:]):
                    raise CannotUnderstandError(f"the data set holds no element at byte {offset}")
                break
            element = _element(view, offset, end, implicit, 0)
            offset, found = element.end, True
            if element.tag in tags:
                values[element.tag] = bytes(view[element.value : element.value + element.length])
    except (struct.error, LookupError) as error:
        raise CannotUnderstandError(f"the data set cannot be parsed near byte {offset}") from error
    if not found:
        raise CannotUnderstandError("the data set is empty")
    return Header(values, _encodings(values.get(SPECIFIC_CHARACTER_SET, b"")))


@functools.lru_cache(maxsize=64)
def _encodings(character_set: bytes) -> tuple[str, ...]:
    try:
        return tuple(convert_encodings(character_set.decode("latin-1").rstrip(" \0").split("\\")))
    except (LookupError, ValueError):
        # A damaged Specific Character Set spoils descriptions; that is no reason to lose the image.
        return ("iso8859",)


def _element(view: memoryview, offset: int, end: int, implicit: bool, depth: int) -> _Element:
    if offset + 8 > end:
        raise CannotUnderstandError(f"the data set breaks off at byte {offset}, in the header of an element")
    vr: bytes | None
    if implicit:
        group, number, length = _implicit_header(view, offset)
        vr, value = None, offset + 8
    else:
        group, number, vr, length = _short_header(view, offset)
        value = offset + 8
        if vr in _LONG_VRS:
            if value + 4 > end:
                raise CannotUnderstandError(f"the data set breaks off at byte {value}, in the header of an element")
            (length,) = _length32(view, value)
            value += 4
        elif vr not in _SHORT_VRS:
            raise CannotUnderstandError(
                f"element ({group:04X},{number:04X}) at byte {offset} has no value representation of PS3.5 6.2"
            )
    tag = group << 16 | number
    if tag >> 16 == 0xFFFE:
        raise CannotUnderstandError(f"({group:04X},{number:04X}) at byte {offset}, outside a sequence")
    if length != _UNDEFINED:
        if value + length > end:
            raise CannotUnderstandError(
                f"the data set breaks off in element ({group:04X},{number:04X}): "
                f"{length} bytes announced, {end - value} there"
            )
        return _Element(tag, value, length, value + length)
    if vr not in (None, b"SQ", b"UN", b"OB", b"OW"):
        raise CannotUnderstandError(f"element ({group:04X},{number:04X}) may not have an undefined length")
    # Encapsulated pixel data are items of bytes (PS3.5 A.4), everything else items of elements; UN of undefined length
    # is a sequence in implicit VR whatever the transfer syntax (PS3.5 6.2.2).
    encapsulated = tag in _BULK or vr in (b"OB", b"OW")
    last = _items(view, value, end, implicit or vr == b"UN", encapsulated, depth + 1)
    return _Element(tag, value, last - value, last + 8)


def _items(view: memoryview, offset: int, end: int, implicit: bool, encapsulated: bool, depth: int) -> int:
    """Walk the items of a sequence of undefined length; returns the offset of its delimiter."""
    if depth > _MAXIMUM_DEPTH:
        raise CannotUnderstandError(f"sequences are nested more than {_MAXIMUM_DEPTH} deep")
    while True:
        if offset + 8 > end:
            raise CannotUnderstandError(f"the data set breaks off at byte {offset}, within a sequence")
        group, number, length = _implicit_header(view, offset)
        tag = group << 16 | number
        if tag == _SEQUENCE_END:
            return offset
        if tag != _ITEM:
            raise CannotUnderstandError(f"({group:04X},{number:04X}) at byte {offset} where an item belongs")
        offset += 8
        if length != _UNDEFINED:
            if offset + length > end:
                raise CannotUnderstandError(f"the data set breaks off in an item at byte {offset}")
            offset += length
        elif encapsulated:
            raise CannotUnderstandError(f"fragment of undefined length at byte {offset}")
        else:
            offset = _item_elements(view, offset, end, implicit, depth)


def _item_elements(view: memoryview, offset: int, end: int, implicit: bool, depth: int) -> int:
    while True:
        if offset + 8 > end:
            raise CannotUnderstandError(f"the data set breaks off at byte {offset}, within an item")
        group, number, _ = _implicit_header(view, offset)
        if group << 16 | number == _ITEM_END:
            return offset + 8
        offset = _element(view, offset, end, implicit, depth).end
