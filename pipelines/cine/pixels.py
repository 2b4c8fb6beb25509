"""Decoding the frames that were chosen, as float32 grey values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from pipelines.cine import elements
from pipelines.cine.codestream import FrameSize, frame_size
from pipelines.cine.declared import MAX_FRAME_PIXELS
from pipelines.cine.decoder import DecoderDiedError, decode_apart
from pipelines.cine.elements import Layers, number, text

__all__ = ["DecoderStoppedError", "PixelFormat", "UndecodableError", "check_frame", "decode_frame"]


class UndecodableError(ValueError):
    """Pixels are absent, damaged, or in a transfer syntax that cannot be decoded."""


class DecoderStoppedError(UndecodableError):
    """The decoder did not survive the frame."""


_PLAIN = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the pixels of an object are stored (PS3.3 C.7.6.3, PS3.5 8.1)."""

    syntax: UID
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool
    photometric_interpretation: str

    @classmethod
    def of(cls, dataset: Dataset) -> PixelFormat:
        """Read the pixel format of a data set.

        Raises
        ------
        UndecodableError
            An attribute is absent, or the values of several cannot be together.
        """
        top: Layers = (dict(dataset.items()),)

        def whole(keyword: str, absent: int | None = None) -> int:
            value = number(top, keyword)
            if value is None:
                if absent is None:
                    raise UndecodableError(f"{keyword} is absent")
                return absent
            return int(value)

        meta: Layers = (dict(dataset.file_meta.items()),) if hasattr(dataset, "file_meta") else ()
        # Without file meta information, what PS3.5 10.1 makes the default.
        syntax = UID(text(meta, "TransferSyntaxUID") or ImplicitVRLittleEndian)
        stored = whole("BitsStored")
        found = cls(
            syntax=syntax,
            rows=whole("Rows"),
            columns=whole("Columns"),
            samples=whole("SamplesPerPixel", 1),
            allocated=whole("BitsAllocated"),
            stored=stored,
            high=whole("HighBit", stored - 1),
            signed=bool(whole("PixelRepresentation", 0)),
            photometric_interpretation=text(top, "PhotometricInterpretation").upper(),
        )
        found._check()
        return found

    @property
    def encapsulated(self) -> bool:
        """Whether each frame is a codestream of its own (PS3.5 A.4)."""
        return bool(self.syntax.is_transfer_syntax and self.syntax.is_encapsulated)

    @property
    def apart(self) -> bool:
        """Whether its frames go to the decoder in the other process. RLE and native frames hold no surprise."""
        return self.encapsulated and self.syntax != RLELossless

    @property
    def plain(self) -> bool:
        """Whether its frames lie in PixelData cell by cell, little endian."""
        return self.syntax in _PLAIN

    def _check(self) -> None:
        if self.samples != 1:
            raise UndecodableError(f"SamplesPerPixel is {self.samples}; a cine frame has one sample")
        if self.photometric_interpretation not in {"MONOCHROME1", "MONOCHROME2"}:
            raise UndecodableError("PhotometricInterpretation is neither MONOCHROME1 nor MONOCHROME2")
        if self.allocated not in {8, 16, 32}:
            raise UndecodableError(f"BitsAllocated is {self.allocated}; 8, 16 and 32 are decoded")
        if not (1 <= self.stored <= self.high + 1 <= self.allocated):
            raise UndecodableError(
                f"BitsStored {self.stored} and HighBit {self.high} do not fit BitsAllocated {self.allocated}"
            )
        if not 0 < self.rows * self.columns <= MAX_FRAME_PIXELS:
            raise UndecodableError(f"an image of {self.rows} × {self.columns} pixels is larger than what is decoded")


def check_frame(dataset: Dataset, frame_number: int | None, form: PixelFormat | None = None) -> None:
    """Hold what a frame declares against what is there, without decoding it.

    Parameters
    ----------
    dataset : pydicom.Dataset
        MR image object with its pixel data.
    frame_number : int or None
        1-based frame of a multi-frame object.
    form : PixelFormat, optional
        Of the object, where it was read before.

    Raises
    ------
    UndecodableError
        Pixels are not there, its codestream has another size than Rows × Columns, or it is larger than what is decoded.
    OSError
        The file of the object cannot be read any more.
    """
    stored = form or PixelFormat.of(dataset)
    element = elements.raw(dataset, "PixelData")
    if element is None:
        raise UndecodableError("PixelData is absent")
    if stored.encapsulated:
        _codestream(dataset, stored, frame_number)
        return
    if _undefined(element):
        raise UndecodableError(f"PixelData is in fragments, which {stored.syntax.name} does not have")
    there = len(element.value) if element.value is not None else getattr(element, "length", 0)
    wanted = (frame_number or 1) * stored.rows * stored.columns * stored.allocated // 8
    if there < wanted:
        raise UndecodableError(f"PixelData has {there} bytes; Rows, Columns and BitsAllocated ask for {wanted}")


def _undefined(element: DataElement | RawDataElement) -> bool:
    """Tell whether an element was written with an undefined length."""
    if isinstance(element, RawDataElement):
        return element.length == 0xFFFFFFFF
    return element.is_undefined_length


def _codestream(dataset: Dataset, stored: PixelFormat, frame_number: int | None) -> tuple[bytes, FrameSize | None]:
    """The bytes of one encapsulated frame, and what they say of its size."""
    top: Layers = (dict(dataset.items()),)
    try:
        offsets = None
        if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
            offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
        codestream = get_frame(
            dataset.PixelData,
            (frame_number or 1) - 1,
            extended_offsets=offsets,
            number_of_frames=int(number(top, "NumberOfFrames") or 1),
        )
        size = frame_size(codestream, stored.syntax)
    except elements.DAMAGE as error:
        if elements.of_storage(error):
            raise
        raise UndecodableError(_words(error)) from error
    if size is None:
        return codestream, None
    if size.rows is not None and (size.rows, size.columns, size.samples) != (stored.rows, stored.columns, 1):
        raise UndecodableError(
            f"its codestream is an image of {size.rows} × {size.columns} pixels of {size.samples} samples; "
            f"its header says {stored.rows} × {stored.columns} of one"
        )
    if size.bytes_per_pixel is not None and size.bytes_per_pixel != stored.allocated // 8:
        raise UndecodableError(
            f"its RLE frame has {size.bytes_per_pixel} segments; BitsAllocated {stored.allocated} makes "
            f"{stored.allocated // 8}"
        )
    return codestream, size


def decode_frame(dataset: Dataset, frame_number: int | None, form: PixelFormat | None = None) -> NDArray[np.float32]:
    """Decode one frame.

    Parameters
    ----------
    dataset : pydicom.Dataset
        MR image object with its pixel data, in any transfer syntax that pydicom's plug-ins decode.
    frame_number : int or None
        1-based frame of a multi-frame object.
    form : PixelFormat, optional
        Of the object, where `check_frame` has passed the frame.

    Returns
    -------
    (R, C) float32
        Grey values after the modality LUT (PS3.3 C.11.1: stored value × RescaleSlope + RescaleIntercept);
        MONOCHROME1 is inverted, so that bright is always more signal. Padding (PS3.3 C.7.5.1.1.2) that is brighter or
        darker than the whole image has the darkest value of the image.

    Raises
    ------
    UndecodableError
        The frame cannot be decoded; `DecoderStoppedError` when the decoder did not survive it.
    OSError
        The file of the object cannot be read any more.
    """
    if form is None:
        form = PixelFormat.of(dataset)
        check_frame(dataset, frame_number, form)
    lowest = form.high + 1 - form.stored
    try:
        if form.apart:
            codestream, size = _codestream(dataset, form, frame_number)
            lowest = _lowest_bit(form, size)
            stored = decode_apart(_attributes(form), codestream)
        elif form.plain:
            stored = _plain(dataset, frame_number, form)
        else:
            # HighBit decides which bits count, not BitsStored alone.
            stored = pixel_array(dataset, index=(frame_number or 1) - 1, raw=True, correct_unused_bits=False)
    except DecoderDiedError as error:
        raise DecoderStoppedError(str(error)) from error
    except UndecodableError:
        raise
    except elements.DAMAGE as error:
        if elements.of_storage(error):
            raise
        raise UndecodableError(_words(error)) from error
    if stored.shape != (form.rows, form.columns) or stored.dtype.kind not in "iu":
        raise UndecodableError("the frame is not a single channel of whole numbers in the size of its header")
    values = _without_padding(dataset, form, stored, lowest)
    slope, intercept = _rescale(dataset, frame_number)
    if form.photometric_interpretation == "MONOCHROME1":
        # low + high - value keeps the range of the stored values.
        bits = form.stored
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if form.signed else (0, (1 << bits) - 1)
        values = np.float32(low + high) - values
    return values * np.float32(slope) + np.float32(intercept)


def _without_padding(
    dataset: Dataset, form: PixelFormat, stored: NDArray[np.generic], lowest: int
) -> NDArray[np.float32]:
    """Stored values, padding made as dark as the darkest of the image where it is beyond all of its values.

    Padding is compared before the modality LUT (PS3.3 C.7.5.1.1.2), in its cell as it is and, like a value, without the
    bits about BitsStored. A value among those of the image moves no window, and may be no padding but its own.
    """
    top: Layers = (dict(dataset.items()),)
    first = number(top, "PixelPaddingValue")
    if first is None:
        return _values(stored, form.stored, lowest)
    limit = number(top, "PixelPaddingRangeLimit")
    low, high = sorted(_of_sign(value, form.signed) for value in (first, first if limit is None else limit))
    padded = np.zeros(stored.shape, dtype=np.bool_)
    if lowest == 0:
        cells = stored.astype(np.int64)
        padded = (cells >= low) & (cells <= high)
    if padded.all():
        return _values(stored, form.stored, lowest)
    # Cells of padding may hold more bits than BitsStored: how the others are read does not depend on them.
    values = _values(np.where(padded, stored[~padded][0], stored), form.stored, lowest)
    padded |= (values >= low) & (values <= high)
    image = values[~padded]
    if image.size and padded.any():
        dark = float(image.max() if form.photometric_interpretation == "MONOCHROME1" else image.min())
        if low > image.max() or high < image.min():
            return np.where(padded, np.float32(dark), values)
    return _values(stored, form.stored, lowest)


def _of_sign(value: float, signed: bool) -> int:
    """A value of US or SS as PixelRepresentation means it: implicit VR does not tell them apart, senders mix them."""
    whole = int(value)
    if signed and 0x7FFF < whole <= 0xFFFF:
        return whole - 0x10000
    return whole + 0x10000 if not signed and -0x8000 <= whole < 0 else whole


def _plain(dataset: Dataset, frame_number: int | None, form: PixelFormat) -> NDArray[np.generic]:
    """Stored cells of a native frame, little endian."""
    count = form.rows * form.columns
    kind = np.dtype(f"<{'i' if form.signed else 'u'}{form.allocated // 8}")
    place = ((frame_number or 1) - 1) * count * kind.itemsize
    cells = np.frombuffer(dataset.PixelData, dtype=kind, count=count, offset=place)
    return cells.reshape(form.rows, form.columns)


def _attributes(form: PixelFormat) -> dict[str, Any]:
    """The Image Pixel module as the decoder gets it."""
    return {
        "TransferSyntaxUID": str(form.syntax),
        "Rows": form.rows,
        "Columns": form.columns,
        "SamplesPerPixel": form.samples,
        "PhotometricInterpretation": form.photometric_interpretation,
        "BitsAllocated": form.allocated,
        "BitsStored": form.stored,
        "HighBit": form.high,
        "PixelRepresentation": int(form.signed),
    }


def _words(error: Exception) -> str:
    # The first line: pydicom lists the fate of every plug-in, and whole element values, below it.
    reason = str(error).partition("\n")[0][:120].rstrip(" .:")
    return reason if type(error) is ValueError else f"{type(error).__name__}: {reason}"


def _lowest_bit(form: PixelFormat, size: FrameSize | None) -> int:
    """Where the values of a codestream begin, whose samples are either whole cells or BitsStored alone."""
    lowest = form.high + 1 - form.stored
    if lowest == 0 or size is None or size.bits is None or size.bits > form.high:
        return lowest
    if size.bits <= form.stored:
        return 0
    raise UndecodableError(
        f"HighBit {form.high} and BitsStored {form.stored} do not fit a codestream of {size.bits} bits"
    )


def _values(stored: NDArray[np.generic], bits: int, lowest: int) -> NDArray[np.float32]:
    """The BitsStored bits from ``lowest`` on, without what lies about them (retired overlays), the sign extended.

    Where values go beyond BitsStored, dropping bits would wrap them: bright blood becomes dark. An image is smoother as
    it was meant, so whole cells are read where these are the smoother ones; overlays and stray bits are never.
    """
    above = stored.dtype.itemsize * 8 - bits - lowest
    if above <= 0 and lowest == 0:
        return stored.astype(np.float32)
    # Up and down again: an arithmetic shift extends the sign, a logical one clears the bits.
    values = np.right_shift(np.left_shift(stored, max(above, 0)), max(above, 0) + lowest)
    if lowest == 0 and not np.array_equal(values, stored) and _roughness(stored) < _roughness(values):
        return stored.astype(np.float32)
    return values.astype(np.float32)


def _roughness(values: NDArray[np.generic]) -> float:
    """Sum of the differences of neighbours in a row and in a column."""
    grey = values.astype(np.float64)
    return float(np.abs(np.diff(grey, axis=0)).sum() + np.abs(np.diff(grey, axis=1)).sum())


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
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if number(layers, keyword) is None and text(layers, keyword):
            raise UndecodableError(elements.unreadable(layers, keyword).rstrip("."))
    slope = number(layers, "RescaleSlope")
    if slope is None and elements.items(dataset, "ModalityLUTSequence"):
        raise UndecodableError("its grey values lie in ModalityLUTSequence, which no MR image has")
    return (1.0 if slope is None or slope == 0 else slope), number(layers, "RescaleIntercept") or 0.0
