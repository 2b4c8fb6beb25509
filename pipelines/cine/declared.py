"""What an object declares, held against what it holds, before anything is made in the size it declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from pipelines.cine import elements
from pipelines.cine.elements import number, text

__all__ = ["MAX_FRAMES", "MAX_FRAME_PIXELS", "MAX_ITEMS", "MAX_STUDY_PIXELS", "DeclaredError", "frames_there"]

MAX_FRAMES = 10_000
"""Frames of one object that are read. The largest cine objects have some hundreds."""
MAX_ITEMS = 300_000
"""Items of the sequences of one object that are read: some thirty for each of `MAX_FRAMES` frames."""
MAX_FRAME_PIXELS = 1 << 24
"""Rows × Columns of one frame that are decoded: 4096 × 4096."""
MAX_STUDY_PIXELS = 1 << 29
"""Pixels of one study that are decoded: 2 GiB of float32, 50 phases of 40 slices of 512 × 512."""

_FEWEST_BYTES = 8
"""An encapsulated frame takes at least the header of one item (PS3.5 A.4)."""


class DeclaredError(ValueError):
    """An object declares more than it holds, or more than is read of one object."""


def frames_there(
    dataset: Dataset, top: Mapping[Any, DataElement | RawDataElement], described: int, *, size: int | None = None
) -> int:
    """Number of frames of an object, of which no more are taken than it holds.

    Parameters
    ----------
    dataset : pydicom.Dataset
        MR image object, with or without its pixel data.
    top : mapping
        Its raw elements.
    described : int
        Items of its Per-frame Functional Groups Sequence.
    size : int, optional
        Bytes of its file, where the data set was read without pixels.

    Returns
    -------
    int
        NumberOfFrames (1 where it is absent), or ``described`` where that is less but not none.

    Raises
    ------
    DeclaredError
        There is no room for so many frames in the object, or there are more than `MAX_FRAMES`.
    """
    frames = int(number((top,), "NumberOfFrames") or 1)
    if frames < 1:
        raise DeclaredError(f"NumberOfFrames is {frames}.")
    if described:
        frames = min(frames, described)
    elif frames > 1:
        room = _room(dataset, (top,), size)
        if room is not None and frames > room:
            raise DeclaredError(f"NumberOfFrames is {frames}, but the object holds pixels of at most {room}.")
    if frames > MAX_FRAMES:
        raise DeclaredError(f"The object has {frames} frames; more than {MAX_FRAMES} are not read.")
    return frames


def _room(dataset: Dataset, top: elements.Layers, size: int | None) -> int | None:
    """How many frames the bytes of an object have room for; ``None`` when that is not known."""
    element = elements.raw(dataset, "PixelData")
    if element is not None:
        length = getattr(element, "length", None)
        size = len(element.value) if element.value is not None else length
    if size is None:
        return None
    bits = (number(top, "Rows") or 0) * (number(top, "Columns") or 0) * (number(top, "BitsAllocated") or 0)
    syntax = text((dict(dataset.file_meta.items()),), "TransferSyntaxUID") if hasattr(dataset, "file_meta") else ""
    native = not (UID(syntax).is_transfer_syntax and (UID(syntax).is_encapsulated or UID(syntax).is_deflated))
    return int(8 * size // bits) if native and bits > 0 else size // _FEWEST_BYTES
