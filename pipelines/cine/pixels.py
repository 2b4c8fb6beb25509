"""Decoding the frames that were chosen, as float32 grey values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from pipelines.cine import elements
from pipelines.cine.elements import number, text

__all__ = ["UndecodableError", "decode_frame"]


class UndecodableError(ValueError):
    """Pixels are absent, damaged, or in a transfer syntax that cannot be decoded."""


def decode_frame(dataset: Dataset, frame_number: int | None) -> NDArray[np.float32]:
    """Decode one frame.

    Parameters
    ----------
    dataset : pydicom.Dataset
        MR image object with its pixel data, in any transfer syntax that pydicom's plug-ins decode.
    frame_number : int or None
        1-based frame of a multi-frame object.

    Returns
    -------
    (R, C) float32
        Grey values after the modality LUT (PS3.3 C.11.1: stored value × RescaleSlope + RescaleIntercept);
        MONOCHROME1 is inverted, so that bright is always more signal.

    Raises
    ------
    UndecodableError
        The frame cannot be decoded.
    """
    try:
        stored = pixel_array(dataset, index=(frame_number or 1) - 1, raw=True)
    except elements.DAMAGE as error:
        # The first line: pydicom lists the fate of every plug-in, and whole element values, below it.
        reason = str(error).partition("\n")[0][:120].rstrip(" .:")
        raise UndecodableError(f"{type(error).__name__}: {reason}") from error
    if stored.ndim != 2 or stored.dtype.kind not in "iu":
        raise UndecodableError("the frame is not a single channel of whole numbers")
    top = (dict(dataset.items()),)
    bits = int(number(top, "BitsStored") or 16)
    signed = bool(number(top, "PixelRepresentation"))
    values = _stored_bits(stored, bits)
    slope, intercept = _rescale(dataset, frame_number)
    if text(top, "PhotometricInterpretation").upper() == "MONOCHROME1":
        # low + high - value keeps the range of the stored values.
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        values = np.float32(low + high) - values
    return values * np.float32(slope) + np.float32(intercept)


def _stored_bits(stored: NDArray[np.generic], bits: int) -> NDArray[np.float32]:
    """Drop what may lie above BitsStored (retired overlays) and extend the sign from there."""
    above = stored.dtype.itemsize * 8 - bits
    if above <= 0:
        return stored.astype(np.float32)
    # Up and down again: an arithmetic shift extends the sign, a logical one clears the bits.
    return np.right_shift(np.left_shift(stored, above), above).astype(np.float32)


def _rescale(dataset: Dataset, frame_number: int | None) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept of the frame: per-frame, then shared functional groups, then the data set."""
    groups = []
    if frame_number is not None:
        per_frame = elements.items(dataset, "PerFrameFunctionalGroupsSequence")
        groups += per_frame[frame_number - 1 : frame_number]
        groups += elements.items(dataset, "SharedFunctionalGroupsSequence")[:1]
    layers = [
        dict(item.items()) for group in groups for item in elements.items(group, "PixelValueTransformationSequence")[:1]
    ]
    layers.append(dict(dataset.items()))
    slope = number(layers, "RescaleSlope")
    return (1.0 if slope is None or slope == 0 else slope), number(layers, "RescaleIntercept") or 0.0
