"""Reading DICOM files as pydicom does, and those that are nearly right as they are meant."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian

from pipelines.cine import elements
from pipelines.cine.declared import MAX_ITEMS, DeclaredError
from pipelines.cine.structure import LONG_VRS, SHORT_VRS, StructureError, mended

__all__ = ["read_object"]

_VRS = frozenset(vr.decode("ascii") for vr in SHORT_VRS | LONG_VRS)
# pydicom names more than one where the data set decides.
_AMBIGUOUS = frozenset({"US or SS", "OB or OW", "US or OW", "US or SS or OW"})
_MODALITY, _ROWS, _COLUMNS, _PIXEL_DATA = 0x00080060, 0x00280010, 0x00280011, 0x7FE00010
_ITEM = b"\xfe\xff\x00\xe0"
_CHUNK = 1 << 24


def read_object(
    path: Path,
    *,
    stop_before_pixels: bool = False,
    defer_size: int | None = None,
    specific_tags: Sequence[str] | None = None,
    force: bool = False,
) -> Dataset:
    """Read a DICOM file; what the receiver accepts though PS3.5 does not have it so is read as it is meant.

    Parameters
    ----------
    path, stop_before_pixels, defer_size, specific_tags, force
        As `pydicom.dcmread` takes them.

    Raises
    ------
    DeclaredError
        Its sequences have more items than are read of one object.
    OSError
        It cannot be read at all, see `elements.of_storage`.
    Exception
        Another one of `elements.DAMAGE`, as pydicom raises it.
    """
    _limit_items(path)
    names = None if specific_tags is None else list(specific_tags)
    options: dict[str, Any] = {"stop_before_pixels": stop_before_pixels, "specific_tags": names, "force": force}
    problem: Exception | None = None
    try:
        dataset = pydicom.dcmread(path, defer_size=defer_size, **options)
        if _as_it_should_be(dataset, complete=not stop_before_pixels, wanted=names):
            return dataset
    except elements.DAMAGE as error:
        if elements.of_storage(error):
            raise
        problem = error
    try:
        return pydicom.dcmread(io.BytesIO(_mended(path)), **options)
    except elements.DAMAGE as error:
        if elements.of_storage(error):
            raise
        # Not nearly right: what pydicom made of it stands.
        if problem is not None:
            raise problem from None
        return dataset


def _limit_items(path: Path) -> None:
    """Count what may be items before each becomes a data set of its own, a hundred times its size."""
    if path.stat().st_size < 8 * MAX_ITEMS:
        return
    found, overlap = 0, b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found += (overlap + chunk).count(_ITEM)
            overlap = chunk[-3:]
    if found > MAX_ITEMS:
        raise DeclaredError(f"The object has {found} items; more than {MAX_ITEMS} are not read.")


def _as_it_should_be(dataset: Dataset, *, complete: bool, wanted: Sequence[str] | None) -> bool:
    """Tell whether a reading shows no sign that pydicom lost its way."""
    table = dict(dataset.items())
    if not table:
        return False
    for element in table.values():
        # Nearly all, and so without a call each.
        if not (type(element) is RawDataElement and element.VR in _VRS) and not _listed(element):
            return False
    if wanted is not None:
        return all(keyword in dataset for keyword in wanted)
    # An image without size or pixels may be one that was left in the middle.
    if elements.text((table,), _MODALITY) != "MR":
        return True
    return _ROWS in table and _COLUMNS in table and (not complete or _PIXEL_DATA in table)


def _listed(element: DataElement | RawDataElement) -> bool:
    """Tell whether an element has a value representation that there is, and its items too as far as they are read."""
    if isinstance(element, RawDataElement):
        if element.VR is None:
            return bool(element.is_implicit_VR) and element.tag.group != 0xFFFE
        return element.VR in _VRS
    if element.VR == "SQ":
        return all(_listed(inner) for item in element.value for inner in dict(item.items()).values())
    return element.VR in _VRS or element.VR in _AMBIGUOUS


def _mended(path: Path) -> bytes:
    """The file with its data set as PS3.5 has it.

    Raises
    ------
    StructureError
        It cannot be told how the data set is meant.
    """
    data = path.read_bytes()
    syntax = UID(ImplicitVRLittleEndian)
    start = 0
    if data[128:132] == b"DICM":
        # (0002,0000) UL: the length of the rest of the group (PS3.10 7.1).
        if data[132:140] != b"\x02\0\0\0UL\x04\0":
            raise StructureError("the file meta information does not say how long it is")
        (length,) = struct.unpack_from("<L", data, 140)
        start = 144 + length
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            meta = pydicom.filereader.read_file_meta_info(path)
        syntax = UID(elements.text((dict(meta.items()),), "TransferSyntaxUID"))
    if not syntax.is_transfer_syntax or syntax.is_deflated or not syntax.is_little_endian:
        raise StructureError(f"data sets of transfer syntax {syntax} are not mended")
    with memoryview(data) as whole, whole[start:] as view:
        return data[:start] + mended(view, syntax.is_implicit_VR)
