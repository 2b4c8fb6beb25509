"""Reads the header of a data set as it came off the network, and checks that the encoding is whole.

pydicom takes a truncated data set for a short one and says nothing. A receiver must not: Success for half an image is a
lost image. So the structure is walked here, to the last byte, values untouched, and what identifies the object is
picked up on the way, without the cost of a data set of pydicom's. How an element is told from the next is in
:mod:`pipelines.cine.structure`.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass

from pydicom.charset import convert_encodings
from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.errors import CannotUnderstandError
from pipelines.cine.structure import SHORT_VRS, StructureError, element_at, may_be_padding, padding, tag_at

__all__ = ["SPECIFIC_CHARACTER_SET", "Header", "read_header"]

SPECIFIC_CHARACTER_SET = 0x00080005

_SHORT_VR_NUMBERS = frozenset(int.from_bytes(vr, "little") for vr in SHORT_VRS)
"""As :data:`_numbers` reads them: looking up a number is quicker than looking up bytes."""
_numbers = struct.Struct("<HHHH").unpack_from


@dataclass(frozen=True, slots=True)
class Header:
    """Raw values of some top-level elements of a data set."""

    values: Mapping[int, bytes]
    """By tag, group in the upper half."""
    encodings: tuple[str, ...]
    """Python's names for what Specific Character Set says."""


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
    offset, end, found, last = 0, len(view), False, 0
    if not implicit and end and not bytes(view[4:6]).isalpha():
        # One element may be in implicit VR; a data set that begins so is in another transfer syntax than it says.
        raise CannotUnderstandError("the data set does not begin in explicit VR, as its transfer syntax says")
    try:
        while offset < end:
            if not implicit and offset + 8 <= end:
                # Nearly all elements, and so without a call each.
                group, number, vr, length = _numbers(view, offset)
                after = offset + 8 + length
                if length and vr in _SHORT_VR_NUMBERS and after <= end:
                    found = True
                    if (last := group << 16 | number) in tags:
                        values[last] = bytes(view[offset + 8 : after])
                    offset = after
                    continue
            if may_be_padding(view, offset):
                # Some senders pad the end of the data set.
                if padding(view, offset, last):
                    break
                # In implicit VR a tag and a length may look like blanks: (0020,000D) with 32 bytes, for one.
                if not implicit or offset + 8 > end or tag_at(view, offset) <= last:
                    raise CannotUnderstandError(f"the data set breaks off, or holds no element, at byte {offset}")
            element = element_at(view, offset, end, implicit)
            offset = element.end
            if not element.stray:
                found, last = True, element.tag
                if element.tag in tags:
                    values[element.tag] = bytes(view[element.value : element.value + element.length])
    except StructureError as error:
        raise CannotUnderstandError(str(error)) from error
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
