"""The size that a compressed frame says it has, read from the head of its codestream without decoding it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEG2000MCLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

__all__ = ["FrameSize", "frame_size"]

_JPEG = frozenset(
    {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless}
)
_JPEG_2000 = frozenset(
    {JPEG2000Lossless, JPEG2000, JPEG2000MCLossless, JPEG2000MC, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K}
)

# ITU-T T.81 table B.1 and T.87 C.1.1: start of frame, but DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_SCAN_OR_END = frozenset({0xDA, 0xD9})
_MAX_TILES = 65535


@dataclass(frozen=True, slots=True)
class FrameSize:
    """What a codestream says of the frame it holds."""

    rows: int | None
    """``None`` where the encoding does not tell (RLE)."""
    columns: int | None
    samples: int | None
    bits: int | None
    """Bits of one sample."""
    bytes_per_pixel: int | None = None
    """Segments of an RLE frame: bytes of BitsAllocated, times samples (PS3.5 G.2)."""


def frame_size(codestream: bytes, transfer_syntax_uid: str) -> FrameSize | None:
    """Read the size of a compressed frame.

    Parameters
    ----------
    codestream : bytes
        One frame: its fragments put together.
    transfer_syntax_uid : str
        Its transfer syntax.

    Returns
    -------
    FrameSize or None
        ``None`` for a transfer syntax whose codestreams are not read here, and which nothing here decodes.

    Raises
    ------
    ValueError
        It is not a codestream of that transfer syntax.
    """
    syntax = UID(transfer_syntax_uid)
    try:
        if syntax in _JPEG:
            return _jpeg(codestream)
        if syntax in _JPEG_2000:
            return _jpeg_2000(codestream)
        if syntax == RLELossless:
            return _rle(codestream)
    except struct.error as error:
        raise ValueError("the codestream breaks off in its header") from error
    return None


def _jpeg(data: bytes) -> FrameSize:
    if data[:2] != b"\xff\xd8":
        raise ValueError("the codestream does not begin as JPEG does")
    at = 2
    while True:
        # ITU-T T.81 B.1.1.2: any number of fill bytes may precede a marker.
        if at >= len(data) or data[at] != 0xFF:
            raise ValueError("the codestream has no marker where one belongs")
        while at < len(data) and data[at] == 0xFF:
            at += 1
        marker = data[at] if at < len(data) else 0
        at += 1
        if marker in _WITHOUT_LENGTH:
            continue
        if marker in _SCAN_OR_END:
            raise ValueError("the codestream begins a scan before it says its size")
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _START_OF_FRAME:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", data, at + 2)
            return FrameSize(rows, columns, samples, bits)
        at += max(2, length)


def _jpeg_2000(data: bytes) -> FrameSize:
    data = _contiguous(data)
    if data[:4] != b"\xff\x4f\xff\x51":
        raise ValueError("the codestream does not begin as JPEG 2000 does")
    # ITU-T T.800 A.5.1: SIZ follows SOC at once.
    right, lower, left, upper, tile_width, tile_height, tile_left, tile_upper, samples = struct.unpack_from(
        ">8LH", data, 8
    )
    depth, across, down = struct.unpack_from(">3B", data, 42)
    if not tile_width or not tile_height or not across or not down or right <= left or lower <= upper:
        raise ValueError("the codestream says sizes that cannot be")
    tiles = -((tile_left - right) // tile_width) * -((tile_upper - lower) // tile_height)
    if tiles > _MAX_TILES:
        raise ValueError(f"the codestream has {tiles} tiles")
    rows, columns = -((upper - lower) // down), -((left - right) // across)
    return FrameSize(rows, columns, samples, (depth & 0x7F) + 1)


def _contiguous(data: bytes) -> bytes:
    """The codestream of a JP2 file, which some put where the bare codestream belongs (ITU-T T.800 I.4)."""
    if data[4:8] != b"jP  ":
        return data
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        if kind == b"jp2c":
            return data[at + head :]
        if length < head:
            break
        at += length
    raise ValueError("the codestream is a JP2 file without an image")


def _rle(data: bytes) -> FrameSize:
    # PS3.5 G.5: number of segments, then the offsets of fifteen.
    segments, *offsets = struct.unpack_from("<16L", data)
    used = offsets[:segments]
    if not 1 <= segments <= 15 or used != sorted(used) or used[0] != 64 or used[-1] >= len(data):
        raise ValueError("the RLE header does not fit its frame")
    return FrameSize(None, None, None, None, bytes_per_pixel=segments)
