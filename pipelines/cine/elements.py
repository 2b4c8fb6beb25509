"""Lenient access to the elements of a data set.

Real headers hold invalid UIDs, dates such as ``20120000``, text where a number belongs and sequences without items.
What cannot be read is absent here, never an exception: the assembler then decides by what is left.
"""

from __future__ import annotations

import datetime
import errno
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, cast

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

__all__ = [
    "DAMAGE",
    "Layers",
    "items",
    "number",
    "numbers",
    "of_storage",
    "private_number",
    "raw",
    "seconds",
    "text",
    "texts",
    "unreadable",
]

DAMAGE: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What pydicom and its decoders raise on damaged input; a length that is not there may ask for all memory."""


def of_storage(error: BaseException) -> bool:
    """Whether an exception of :data:`DAMAGE` tells of the storage and not of what a file holds.

    The file may be read another time, so whatever it holds must not be passed over.
    """
    if not isinstance(error, OSError):
        return False
    # A place before the start of a file is where a damaged length leads. pydicom has no number for a file that is gone
    # when the rest of it is asked for.
    return error.errno not in (None, errno.EINVAL) or str(error).startswith("Deferred read")


Layers = Sequence[Mapping[Any, DataElement | RawDataElement]]
"""Attribute tables, the most specific first: per-frame and shared functional groups, then the data set."""

_DECIMAL_COMMA = re.compile(r"[+-]?([0-9]+,[0-9]*|,[0-9]+)([eE][+-]?[0-9]{1,2})?")
_DS_LENGTH = 16
"""Characters of one decimal string (PS3.5 6.2)."""
_OF_BYTES = frozenset({"UN", "OB", "OW"})
"""Value representations that say nothing of a number or text."""
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}


def raw(dataset: Dataset, where: int | str) -> DataElement | RawDataElement | None:
    """An element as it was read: raw where nobody has asked for its value; ``None`` where it is absent."""
    # The overloads of pydicom know neither raw nor absent elements.
    return cast("DataElement | RawDataElement | None", dataset.get_item(where))


def _tag(where: int | str) -> int:
    return where if isinstance(where, int) else _tag_of(where)


@cache
def _tag_of(keyword: str) -> int:
    found = tag_for_keyword(keyword)
    if found is None:
        raise KeyError(f"{keyword} is not a DICOM keyword")
    return found


def _element(layers: Layers, where: int | str) -> DataElement | RawDataElement | None:
    tag = _tag(where)
    for layer in layers:
        element = layer.get(tag)
        if element is not None and element.value not in (None, b"", ""):
            return element
    return None


def _values(element: DataElement | RawDataElement) -> list[Any]:
    value = element.value
    if isinstance(element, RawDataElement) and isinstance(value, bytes):
        vr = element.VR
        if vr is None or vr in _OF_BYTES:
            try:
                vr = dictionary_VR(element.tag)
            except KeyError:
                vr = "UN"
        code = _BINARY.get(vr[:2])
        if code is not None:
            size = struct.calcsize(code)
            count = len(value) // size
            order = "<" if element.is_little_endian else ">"
            return list(struct.unpack(f"{order}{count}{code}", value[: count * size]))
        return [part.strip(" \0") for part in value.decode("latin-1").split("\\")]
    if isinstance(value, str):
        return [part.strip(" \0") for part in value.split("\\")]
    if isinstance(value, bytes):
        return [part.strip(" \0") for part in value.decode("latin-1").split("\\")]
    if isinstance(value, Iterable):
        return list(value)
    return [value]


def texts(layers: Layers, where: int | str) -> tuple[str, ...]:
    """Values of a text element; empty when absent."""
    element = _element(layers, where)
    return () if element is None else tuple(str(value) for value in _values(element))


def text(layers: Layers, where: int | str) -> str:
    """First value of a text element, ``""`` when absent."""
    return next(iter(texts(layers, where)), "")


def numbers(layers: Layers, where: int | str) -> tuple[float, ...]:
    """Values of a numeric element; empty when absent or when any value is not a finite number.

    A decimal comma is read as a point, and empty values behind the last are passed over.
    """
    element = _element(layers, where)
    if element is None:
        return ()
    raw = element.value
    if type(raw) is bytes and b"_" not in raw:
        # Nearly all, and so without a look at each.
        try:
            found = tuple(map(float, _values(element)))
        except ValueError:
            pass
        else:
            return found if all(map(math.isfinite, found)) else ()
    values = _numbers(_present(element))
    return () if None in values else tuple(value for value in values if value is not None)


def unreadable(layers: Layers, keyword: str) -> str:
    """Which value of a numeric element cannot be read, as a sentence; ``""`` when there is none."""
    element = _element(layers, keyword)
    if element is None:
        return ""
    present = _present(element)
    for index, (value, read) in enumerate(zip(present, _numbers(present), strict=True), 1):
        if read is None:
            which = f"Value {index} of {keyword}" if len(present) > 1 else keyword
            shown = "".join(char if char.isascii() and char.isprintable() else "?" for char in str(value)[:_DS_LENGTH])
            return f"{which} cannot be read as a number ('{shown}')."
    return ""


def _present(element: DataElement | RawDataElement) -> list[Any]:
    values = _values(element)
    while values and values[-1] in ("", None):
        values = values[:-1]
    return values


def _numbers(values: Iterable[Any]) -> list[float | None]:
    """Each value as a number, ``None`` where it is none."""
    read: list[float | None] = []
    for value in values:
        try:
            found = float(value)
            # Python takes 1_000 for a number; DICOM does not.
            read.append(found if math.isfinite(found) and not (isinstance(value, str) and "_" in value) else None)
        except (ValueError, TypeError, OverflowError):
            comma = isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value)
            read.append(float(value.replace(",", ".")) if comma else None)
    return read


def number(layers: Layers, where: int | str) -> float | None:
    """First value of a numeric element, ``None`` when absent or not a number."""
    return next(iter(numbers(layers, where)), None)


def items(dataset: Dataset, where: int | str) -> list[Dataset]:
    """Items of a sequence; empty when it is absent, empty or damaged."""
    try:
        element = dataset.get(_tag(where))
        value = None if element is None else element.value
        return [item for item in value or () if isinstance(item, Dataset)]
    except DAMAGE:
        return []


def private_number(layers: Layers, group: int, creator: str, offset: int) -> float | None:
    """A private number, its block resolved by its private creator (PS3.5 7.8.1), however that is spelt."""
    for layer in layers:
        for block in range(0x10, 0x100):
            reserved = layer.get((group << 16) | block)
            if reserved is None:
                # Blocks are reserved from 0x10 upwards, with gaps only after somebody removed one.
                if block > 0x20:
                    break
                continue
            if _spelling(text([layer], (group << 16) | block)) == _spelling(creator):
                where = (group << 16) | (block << 8) | offset
                element = layer.get(where)
                if element is not None:
                    return _private_value(element)
    return None


def _spelling(creator: str) -> str:
    """A private creator as it is compared: scanners and archives write one in several cases and with other blanks."""
    return " ".join(creator.casefold().split())


def _private_value(element: DataElement | RawDataElement) -> float | None:
    value = element.value
    if isinstance(element, RawDataElement) and isinstance(value, bytes) and element.VR in (None, "UN"):
        # Without a VR: text digits (IS) or a binary integer or float.
        try:
            return float(value.decode("ascii").split("\\")[0].strip(" \0"))
        except ValueError:
            code = {2: "H", 4: "i"}.get(len(value))
            if code is None:
                return None
            return float(struct.unpack(("<" if element.is_little_endian else ">") + code, value)[0])
    try:
        return float(_values(element)[0])
    except (ValueError, TypeError, IndexError, struct.error):
        return None


def seconds(date: str, time: str) -> float | None:
    """Seconds on a common axis from DA and TM, or from one DT given as ``time``; an impossible date counts as day 0.

    A decimal comma is read as a point; colons in times and signs between the parts of a date are passed over.
    """
    if not date and len(time) >= 12 and time[:12].isdigit():
        date, time = time[:8], time[8:]
    clock = time.split("+")[0].split("-")[0].replace(",", ".")
    if ":" in clock:
        # 9:05:03 for 090503.
        clock = "".join("0" + part if len(part.partition(".")[0]) == 1 else part for part in clock.split(":"))
    if len(clock) < 2 or not clock.replace(".", "", 1).isdigit():
        return None
    if not date.isdigit():
        date = date.replace(".", "").replace("-", "").replace("/", "")
    whole, _, fraction = clock.partition(".")
    whole = whole.ljust(6, "0")
    within_day = int(whole[:2]) * 3600 + int(whole[2:4]) * 60 + int(whole[4:6]) + float(f"0.{fraction or 0}")
    try:
        day = datetime.date(int(date[:4]), int(date[4:6]), int(date[6:8])).toordinal()
    except ValueError:
        day = 0
    return day * 86400.0 + within_day
