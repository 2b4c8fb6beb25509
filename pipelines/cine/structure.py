"""The structure of an encoded data set (PS3.5 7), walked to its last byte, values untouched.

What scanners send nearly right is walked as they mean it: value representations that PS3.5 6.2 does not list, lengths
of 16 bits where 32 belong and the other way round, elements and items in implicit VR within explicit VR, explicit VR
within UN, delimiters too many or too few, padding behind the last element, encapsulated frames without a delimiter.
What is cut short is an error. `mended` writes such a data set as PS3.5 has it, for readers that are less patient.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

__all__ = [
    "LONG_VRS",
    "SHORT_VRS",
    "Element",
    "StructureError",
    "element_at",
    "may_be_padding",
    "mended",
    "padding",
    "tag_at",
]

SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VRS = frozenset(str(vr).encode("ascii") for vr in EXPLICIT_VR_LENGTH_32)
_KNOWN = SHORT_VRS | LONG_VRS
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DELIMITERS = frozenset({_ITEM_END, _SEQUENCE_END})
_CHARACTER_SET, _NUMBER_OF_FRAMES, _PIXEL_DATA = 0x00080005, 0x00280008, 0x7FE00010
_BULK = frozenset(
    {
        0x00420011,  # EncapsulatedDocument
        0x54000100,  # WaveformSequence
        0x56000020,  # SpectroscopyData
        0x7FE00008,  # FloatPixelData
        0x7FE00009,  # DoubleFloatPixelData
        _PIXEL_DATA,
    }
)
_WHITE = b"\0 \r\n\t\x1a"
_FILL = b"\xff"
_MAXIMUM_DEPTH = 64
_LOOK_AHEAD = 5
"""Elements of unknown value representation in a row that are told apart by what follows them."""

_short_header = struct.Struct("<HH2sH").unpack_from
_implicit_header = struct.Struct("<HHL").unpack_from
_length32 = struct.Struct("<L").unpack_from


class StructureError(ValueError):
    """A data set breaks off, or is not encoded in its transfer syntax."""


class Element(NamedTuple):
    """Where one element lies."""

    tag: int
    vr: bytes | None
    """``None`` in implicit VR, and where PS3.5 lists none such."""
    value: int
    """Offset of the first byte of the value."""
    length: int
    """Of the value; for a sequence of undefined length without its delimiter."""
    end: int
    """Offset of the next element."""
    undefined: bool
    """Whether its length is undefined."""
    implicit: bool
    """Whether its items are in implicit VR."""

    @property
    def stray(self) -> bool:
        """Whether it is a delimiter or an item that stands where an element belongs, and means nothing."""
        return self.tag >> 16 == 0xFFFE


def padding(view: memoryview, offset: int, last: int) -> bool:
    """Tell whether all from an offset on is padding behind the last element.

    Zeros are; blanks only behind a group above 0020, and ends of lines, FF and a delimiter that is cut short behind
    pixel data, where no cut can leave them of an element that would follow.
    """
    beginning = bytes(view[offset : offset + 64])
    if beginning.strip(_WHITE) and (last != _PIXEL_DATA or (beginning.strip(_FILL) and len(view) - offset >= 8)):
        return False
    rest = bytes(view[offset:])
    if last == _PIXEL_DATA:
        return not rest.strip(_WHITE) or not rest.strip(_FILL) or (len(rest) < 8 and _begins_delimiter(rest))
    return not rest.strip(b"\0") or (last >> 16 > 0x0020 and not rest.strip(b"\0 "))


def _begins_delimiter(rest: bytes) -> bool:
    """Tell whether bytes are the beginning of an item or sequence delimiter."""
    return any(struct.pack("<HHL", tag >> 16, tag & 0xFFFF, 0).startswith(rest) for tag in _DELIMITERS)


def may_be_padding(view: memoryview, offset: int) -> bool:
    """Tell whether there is too little for an element at an offset, or nothing that one can begin with."""
    beginning = bytes(view[offset : offset + 8])
    return len(beginning) < 8 or not beginning.strip(_WHITE) or not beginning.strip(_FILL)


def element_at(view: memoryview, offset: int, end: int, implicit: bool, depth: int = 0) -> Element:
    """Find where an element ends.

    Parameters
    ----------
    view
        The data set.
    offset, end
        Where the element begins, and where the data set or item that holds it ends.
    implicit
        Whether the elements are in implicit VR.
    depth
        Sequences that it lies in.

    Raises
    ------
    StructureError
        It breaks off, or cannot be an element.
    """
    if offset + 8 > end:
        raise StructureError(f"the data set breaks off at byte {offset}, in the header of an element")
    group, number, vr, length = _short_header(view, offset)
    tag = group << 16 | number
    if tag >> 16 == 0xFFFE:
        if depth == 0 and tag in _DELIMITERS and not any(view[offset + 4 : offset + 8]):
            return Element(tag, None, offset + 8, 0, offset + 8, False, False)
        if depth == 0 and tag == _ITEM:
            return _stray_item(view, offset, end, implicit)
        raise StructureError(f"({group:04X},{number:04X}) at byte {offset}, outside a sequence")
    value = offset + 8
    if implicit:
        vr = None
        (length,) = _length32(view, offset + 4)
    elif vr in LONG_VRS:
        if value + 4 > end:
            raise StructureError(f"the data set breaks off at byte {value}, in the header of an element")
        (length,) = _length32(view, value)
        value += 4
        # Reserved bytes that are not zero may be a length of 16 bits, before a value that begins with zeros.
        if any(view[offset + 6 : offset + 8]) and value + length <= end:
            other = _of_other_length(view, offset, end, tag)
            if other is not None and not _goes_on(view, value + length, end, tag, _LOOK_AHEAD):
                return other
    elif vr not in SHORT_VRS or (not length and _long_after_all(view, offset, end, tag)):
        return _odd_element(view, offset, end, depth)
    if length != _UNDEFINED:
        if value + length > end:
            other = None if implicit else _of_other_length(view, offset, end, tag)
            if other is not None:
                return other
            raise StructureError(
                f"the data set breaks off in element ({group:04X},{number:04X}): "
                f"{length} bytes announced, {end - value} there"
            )
        return Element(tag, vr, value, length, value + length, False, implicit)
    of_bytes_or_items = vr in (None, b"SQ", b"UN", b"OB", b"OW")
    if not of_bytes_or_items and (value + 8 > end or tag_at(view, value) != _ITEM):
        raise StructureError(f"element ({group:04X},{number:04X}) may not have an undefined length")
    # Encapsulated pixel data are items of bytes (PS3.5 A.4), everything else items of elements; UN of undefined length
    # is a sequence in implicit VR whatever the transfer syntax (PS3.5 6.2.2).
    inner = implicit or (vr != b"SQ" and not _explicit_items(view, value, end))
    if tag in _BULK or vr in (b"OB", b"OW"):
        return _encapsulated(view, tag, vr, value, end, inner)
    last = _items(view, value, end, inner, depth + 1)
    return Element(tag, vr, value, last - value, last + 8, True, inner)


def _stray_item(view: memoryview, offset: int, end: int, implicit: bool) -> Element:
    """An item outside a sequence, of defined length, that holds whole elements: no fragment of pixel data."""
    _, _, length = _implicit_header(view, offset)
    start, last = offset + 8, offset + 8 + length
    if length == _UNDEFINED or last > end:
        raise StructureError(f"(FFFE,E000) at byte {offset}, outside a sequence")
    place = start
    while place < last:
        place = element_at(view, place, last, implicit, 1).end
    return Element(_ITEM, None, start, length, last, False, implicit)


def _odd_element(view: memoryview, offset: int, end: int, depth: int) -> Element:
    """An element whose value representation PS3.5 6.2 does not list, by the reading that fits what follows."""
    tag = tag_at(view, offset)
    for value, length in _readings(view, offset, end):
        if length == _UNDEFINED:
            inner = not _explicit_items(view, value, end)
            try:
                last = _items(view, value, end, inner, depth + 1)
            except StructureError:
                continue
            return Element(tag, None, value, last - value, last + 8, True, inner)
        if _goes_on(view, value + length, end, tag, _LOOK_AHEAD):
            return Element(tag, None, value, length, value + length, False, True)
    raise StructureError(
        f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) at byte {offset} breaks off, or has no value representation of "
        "PS3.5 6.2 and no length that fits"
    )


def _long_after_all(view: memoryview, offset: int, end: int, tag: int) -> bool:
    """Tell whether an element of a short value representation has a length of 32 bits: by 16 bits it would be empty."""
    if offset + 16 > end or (tag_at(view, offset + 8) > tag and bytes(view[offset + 12 : offset + 14]) in _KNOWN):
        return False
    last = offset + 12 + int(_length32(view, offset + 8)[0])
    return last <= end and _goes_on(view, last, end, tag, _LOOK_AHEAD)


def _of_other_length(view: memoryview, offset: int, end: int, tag: int) -> Element | None:
    """An element that breaks off by its value representation, and does not by a length of 16 bits.

    Not in bulk data: what is cut short there stays so.
    """
    length = int(_short_header(view, offset)[3])
    last = offset + 8 + length
    if tag in _BULK or not length or last > end or not _goes_on(view, last, end, tag, _LOOK_AHEAD):
        return None
    return Element(tag, None, offset + 8, length, last, False, True)


def _explicit_items(view: memoryview, offset: int, end: int) -> bool:
    """Tell whether the first element of the first item is in explicit VR, where implicit VR belongs."""
    if offset + 16 > end or tag_at(view, offset) != _ITEM or bytes(view[offset + 12 : offset + 14]) not in _KNOWN:
        return False
    # Two capitals may be the lower half of a length: of one that fits and has zeros above them.
    (length,) = _length32(view, offset + 12)
    return length > 0xFFFF or offset + 16 + length > end


def tag_at(view: memoryview, offset: int) -> int:
    """Tag of the element at an offset, group in the upper half."""
    group, number, _ = _implicit_header(view, offset)
    return int(group << 16 | number)


def _readings(view: memoryview, offset: int, end: int) -> Iterator[tuple[int, int]]:
    """Offset and length of a value by each way in which its header may be meant, as far as it fits."""
    _, _, vr, short = _short_header(view, offset)
    (implicit,) = _length32(view, offset + 4)
    # PS3.5 7.1.2: a value representation that is not listed has a length of 32 bits, behind two reserved bytes.
    long = _length32(view, offset + 8)[0] if offset + 12 <= end and short == 0 else None
    readings = [(offset + 12, long), (offset + 8, short), (offset + 8, implicit)]
    if not all(0x3F <= byte <= 0x5A for byte in vr):
        # No letters: implicit VR, of which these bytes are the lower half of the length.
        readings = [(offset + 8, implicit), (offset + 8, short), (offset + 12, long)]
    for value, length in readings:
        if length == _UNDEFINED:
            if value + 8 <= end and tag_at(view, value) in {_ITEM, _SEQUENCE_END}:
                yield value, length
        elif length is not None and value + length <= end:
            yield value, length


def _goes_on(view: memoryview, offset: int, end: int, tag: int, look: int) -> bool:
    """Tell whether an element, a delimiter or the end can be at an offset behind the element ``tag``."""
    if offset == end:
        return True
    if offset + 8 > end:
        return end == len(view) and padding(view, offset, tag)
    following = tag_at(view, offset)
    if following in _DELIMITERS or (following == 0 and end == len(view) and padding(view, offset, tag)):
        return True
    if following <= tag or following >> 16 == 0xFFFE:
        return False
    if bytes(view[offset + 4 : offset + 6]) in _KNOWN:
        return True
    return any(
        length == _UNDEFINED or look == 0 or _goes_on(view, value + length, end, following, look - 1)
        for value, length in _readings(view, offset, end)
    )


def _items(view: memoryview, offset: int, end: int, implicit: bool, depth: int) -> int:
    """Walk the items of a sequence of undefined length; returns the offset of its delimiter."""
    if depth > _MAXIMUM_DEPTH:
        raise StructureError(f"sequences are nested more than {_MAXIMUM_DEPTH} deep")
    for tag, place, _ in _each_item(view, offset, end, implicit, depth):
        if tag == _SEQUENCE_END:
            return place
    raise StructureError(f"the data set breaks off at byte {end}, within a sequence")


def _each_item(view: memoryview, offset: int, end: int, implicit: bool, depth: int) -> Iterator[tuple[int, int, int]]:
    """Tag, offset of the first element and end of the last of each item, and at last the place of the delimiter."""
    while True:
        if offset + 8 > end:
            raise StructureError(f"the data set breaks off at byte {offset}, within a sequence")
        group, number, length = _implicit_header(view, offset)
        tag = group << 16 | number
        if tag == _SEQUENCE_END:
            yield tag, offset, offset
            return
        if tag == _ITEM_END and not length:
            offset += 8
            continue
        if tag != _ITEM:
            raise StructureError(f"({group:04X},{number:04X}) at byte {offset} where an item belongs")
        offset += 8
        if length != _UNDEFINED:
            if offset + length > end:
                raise StructureError(f"the data set breaks off in an item at byte {offset}")
            yield tag, offset, offset + length
            offset += length
        else:
            last = _item_elements(view, offset, end, implicit, depth)
            yield tag, offset, last
            # The delimiter of the sequence ends an item that has none.
            offset = last if tag_at(view, last) == _SEQUENCE_END else last + 8


def _item_elements(view: memoryview, offset: int, end: int, implicit: bool, depth: int) -> int:
    """Walk an item of undefined length; returns the offset of its delimiter, or of that of its sequence."""
    while True:
        if offset + 8 > end:
            raise StructureError(f"the data set breaks off at byte {offset}, within an item")
        if tag_at(view, offset) in _DELIMITERS:
            return offset
        offset = element_at(view, offset, end, implicit, depth).end


def _encapsulated(view: memoryview, tag: int, vr: bytes | None, value: int, end: int, implicit: bool) -> Element:
    """Walk encapsulated pixel data, to the delimiter or, where that lacks, to the end of the last whole frame."""
    offset, fragments, last = value, 0, b""
    while True:
        if offset + 8 > end or not any(view[offset : offset + 8]):
            if tag == _PIXEL_DATA and not any(view[offset:]) and _all_frames(view, value, fragments, last):
                return Element(tag, vr, value, offset - value, len(view), True, implicit)
            raise StructureError(f"the data set breaks off at byte {offset}, within a sequence")
        group, number, length = _implicit_header(view, offset)
        found = group << 16 | number
        if found == _SEQUENCE_END:
            return Element(tag, vr, value, offset - value, offset + 8, True, implicit)
        if found != _ITEM:
            raise StructureError(f"({group:04X},{number:04X}) at byte {offset} where an item belongs")
        if length == _UNDEFINED:
            raise StructureError(f"fragment of undefined length at byte {offset}")
        offset += 8
        if offset + length > end:
            raise StructureError(f"the data set breaks off in an item at byte {offset}")
        last = bytes(view[max(offset, offset + length - 3) : offset + length])
        offset, fragments = offset + length, fragments + 1


def _all_frames(view: memoryview, value: int, fragments: int, last: bytes) -> bool:
    """Tell whether fragments without a delimiter are all there: enough of them, the last to the end of its codestream.

    JPEG, JPEG-LS and JPEG 2000 end in FFD9. RLE says nothing of its end, but has one fragment a frame (PS3.5 A.4.2).
    """
    frames = 1
    for implicit in (False, True):
        offset = 0
        try:
            # No further: not into the pixel data themselves.
            while offset + 8 < value and tag_at(view, offset) <= _NUMBER_OF_FRAMES:
                element = element_at(view, offset, value, implicit)
                if element.tag == _NUMBER_OF_FRAMES:
                    frames = int(bytes(view[element.value : element.value + element.length]).strip(b" \0") or b"1")
                    break
                offset = element.end
        except ValueError:
            continue
        break
    return fragments - 1 >= frames and (last.rstrip(b"\0").endswith(b"\xff\xd9") or fragments - 1 == frames)


def mended(view: memoryview, implicit: bool) -> bytes:
    """Write a data set as PS3.5 has it: what has no listed value representation as UN, sequences with delimiters.

    A Specific Character Set that cannot be one is left out.

    Raises
    ------
    StructureError
        It breaks off, or is not encoded in that transfer syntax.
    """
    return b"".join(_mended(view, 0, len(view), implicit, 0))


def _mended(view: memoryview, offset: int, end: int, implicit: bool, depth: int) -> Iterator[bytes]:
    last = 0
    while offset < end:
        if depth == 0 and may_be_padding(view, offset) and padding(view, offset, last):
            return
        element = element_at(view, offset, end, implicit, depth)
        start, offset, last = offset, element.end, element.tag
        if element.stray or (element.tag == _CHARACTER_SET and not _text(view, element)):
            continue
        tag = struct.pack("<HH", element.tag >> 16, element.tag & 0xFFFF)
        content = view[element.value : element.value + element.length]
        if element.undefined and (element.tag in _BULK or element.vr in (b"OB", b"OW")):
            yield bytes(view[start : element.value])
            yield bytes(content)
            yield struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        elif element.vr == b"SQ" or (element.undefined and not element.implicit):
            yield tag + b"SQ\0\0" + struct.pack("<L", _UNDEFINED)
            yield from _mended_items(view, element, depth)
        elif (element.vr is None or (element.undefined and element.vr != b"UN")) and not implicit:
            yield tag + b"UN\0\0" + struct.pack("<L", _UNDEFINED if element.undefined else element.length)
            yield bytes(content)
            if element.undefined:
                yield struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        else:
            yield bytes(view[start : element.end])


def _text(view: memoryview, element: Element) -> bool:
    """Tell whether a value is printable ASCII, padded at its end at most."""
    value = bytes(view[element.value : element.value + element.length]).rstrip(b"\0 ")
    return all(0x20 <= byte < 0x7F for byte in value)


def _mended_items(view: memoryview, sequence: Element, depth: int) -> Iterator[bytes]:
    end = sequence.value + sequence.length
    offset = sequence.value
    items = []
    if sequence.undefined:
        items = [
            (first, last)
            for tag, first, last in _each_item(view, offset, end + 8, sequence.implicit, depth + 1)
            if tag == _ITEM
        ]
    else:
        while offset < end:
            tag, (length,) = tag_at(view, offset), _length32(view, offset + 4)
            if tag != _ITEM:
                break
            last = _item_elements(view, offset + 8, end, False, depth + 1) if length == _UNDEFINED else 0
            items.append((offset + 8, last or offset + 8 + length))
            offset = last + 8 if last else offset + 8 + length
    for first, last in items:
        yield struct.pack("<HHL", 0xFFFE, 0xE000, _UNDEFINED)
        yield from _mended(view, first, last, False, depth + 1)
        yield struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    yield struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
