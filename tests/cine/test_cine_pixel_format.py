"""Every freedom that PS3.5 8.1 and 8.2 leave in storing the pixels of one frame."""

from __future__ import annotations

import io
import struct

import numpy as np
import pydicom
import pytest
from cine_enhanced import enhanced
from cine_scanner import COLUMNS, ROWS, frame, frame_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, get_frame
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from pipelines.cine.pixels import UndecodableError, check_frame, decode_frame
from pipelines.segmentation.grid import intensity_window

PIXELS = ROWS * COLUMNS


@st.composite
def formats(draw: st.DrawFn) -> tuple[int, int, int, bool]:
    """BitsAllocated, BitsStored, HighBit, signed."""
    allocated = draw(st.sampled_from([8, 16, 32]))
    stored = draw(st.integers(2, allocated))
    high = draw(st.integers(stored - 1, allocated - 1))
    return allocated, stored, high, draw(st.booleans())


def values_of(form: tuple[int, int, int, bool], seed: int) -> np.ndarray:
    _, stored, _, signed = form
    low, high = (-(1 << (stored - 1)), 1 << (stored - 1)) if signed else (0, 1 << stored)
    return np.random.default_rng(seed).integers(low, high, (ROWS, COLUMNS))


def cells(values: np.ndarray, form: tuple[int, int, int, bool], seed: int) -> np.ndarray:
    """Values in their cells, the other bits at random (PS3.5 8.1.1 leaves them open)."""
    allocated, stored, high, _ = form
    lowest = high + 1 - stored
    own = ((1 << stored) - 1) << lowest
    noise = np.random.default_rng(seed + 1).integers(0, 1 << allocated, values.shape)
    return ((noise & ~own) | ((values << lowest) & own)).astype(f"u{allocated // 8}")


def holding(stored: np.ndarray, form: tuple[int, int, int, bool], syntax: UID = ExplicitVRLittleEndian) -> Dataset:
    """As read from a file of that transfer syntax."""
    ds = frame()
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, signed = form
    ds.PixelRepresentation = int(signed)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    if syntax == ExplicitVRBigEndian and form[0] == 8:
        # OW: two 8-bit cells to a word, which is swapped (PS3.5 8.1.2).
        data = np.frombuffer(data, "<u2").byteswap().tobytes()
    ds.PixelData = data
    ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


def rle(stored: np.ndarray) -> bytes:
    """One RLE frame of literal runs, a segment for each byte, the most significant first (PS3.5 G)."""
    planes = stored.astype(stored.dtype.newbyteorder(">")).view(np.uint8).reshape(stored.size, stored.dtype.itemsize).T
    segments = []
    for plane in planes:
        data = plane.tobytes()
        runs = [data[at : at + 128] for at in range(0, len(data), 128)]
        segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
        segments.append(segment + b"\x80" * (len(segment) % 2))
    offsets = [64 + sum(len(before) for before in segments[:index]) for index in range(len(segments))]
    return struct.pack("<16L", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(segments)


NATIVE = st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])


@given(formats(), st.integers(0, 1000), NATIVE)
@settings(max_examples=150, deadline=None)
def test_native_cells_of_any_format(form, seed, syntax) -> None:
    values = values_of(form, seed)
    decoded = decode_frame(holding(cells(values, form, seed), form, syntax), None)
    np.testing.assert_array_equal(decoded, values.astype(np.float32))


def blobs(largest: int, seed: int) -> np.ndarray:
    """Bright round cavities on a dim ground, with noise, as in a cine; values from 0 to ``largest``."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    image = np.full((ROWS, COLUMNS), 0.1)
    for _ in range(3):
        row, column, radius = random.uniform(8, 26), random.uniform(8, 26), random.uniform(3, 9)
        image += 0.9 / (1 + np.exp(np.hypot(rows - row, columns - column) - radius))
    image += random.normal(0, 0.01, image.shape)
    return np.rint((image - image.min()) / np.ptp(image) * largest).astype(np.int64)


@given(st.integers(8, 15), st.floats(1.1, 3.9), st.booleans(), st.integers(0, 1000), NATIVE)
@settings(max_examples=60, deadline=None)
def test_values_beyond_bits_stored_do_not_wrap(stored, beyond, signed, seed, syntax) -> None:
    """Bits above are dropped where they are stray, and read where dropping them would turn bright blood dark."""
    largest = min(int(beyond * (1 << (stored - signed))), 32767)
    values = blobs(largest, seed)
    form = (16, stored, stored - 1, signed)
    decoded = decode_frame(holding(values.astype("u2"), form, syntax), None)
    np.testing.assert_array_equal(decoded, values)
    low = blobs((1 << (stored - signed)) - 1, seed)
    mark = (low > low.mean()).astype(np.int64) << min(stored + 1, 15)
    decoded = decode_frame(holding((low | mark).astype("u2"), form, syntax), None)
    np.testing.assert_array_equal(decoded, low)


@given(formats(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_rle_cells_of_any_format(form, seed) -> None:
    values = values_of(form, seed)
    ds = holding(cells(values, form, seed), form)
    ds.PixelData = encapsulate([rle(cells(values, form, seed))])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = RLELossless
    np.testing.assert_array_equal(decode_frame(ds, None), values.astype(np.float32))


@given(st.integers(2, 16), st.booleans(), st.integers(0, 1000), st.sampled_from([JPEGLSLossless, JPEG2000Lossless]))
@settings(max_examples=40, deadline=None)
def test_codestreams_of_bits_stored(stored, signed, seed, syntax) -> None:
    form = (16, stored, stored - 1, signed)
    # Smooth, so that the codecs of the tests have room for what they write.
    values = np.sort(values_of(form, seed).ravel()).reshape(ROWS, COLUMNS)
    ds = holding(values.astype("i2" if signed else "u2"), form)
    ds.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(decode_frame(ds, None), values)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_high_bit_of_a_codestream(syntax: UID) -> None:
    """Whole cells are shifted, BitsStored alone are not, and anything between is declined."""
    values = frame_pixels(2, 7)
    for bits, shift in ((16, 4), (12, 0)):
        ds = holding(values << shift, (16, bits, bits - 1, False))
        ds.compress(syntax, generate_instance_uid=False)
        ds.BitsStored, ds.HighBit = 12, 15
        np.testing.assert_array_equal(decode_frame(ds, None), values)
    ds = holding(values, (16, 14, 13, False))
    ds.compress(syntax, generate_instance_uid=False)
    ds.BitsStored, ds.HighBit = 12, 15
    with pytest.raises(UndecodableError, match="codestream of 14 bits"):
        decode_frame(ds, None)


@given(st.integers(0, 70), st.integers(0, 70), st.integers(0, 70))
@settings(max_examples=100, deadline=None)
def test_bits_that_cannot_be_are_declined_by_name(allocated: int, stored: int, high: int) -> None:
    ds = frame()
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, stored, high
    ds.PixelData = bytes(PIXELS * 4)
    if allocated in {8, 16, 32} and 1 <= stored <= high + 1 <= allocated:
        assert decode_frame(ds, None).shape == (ROWS, COLUMNS)
    else:
        with pytest.raises(UndecodableError, match="Bits"):
            decode_frame(ds, None)


def test_high_bit_absent_is_the_one_below_bits_stored() -> None:
    ds = frame(phase=3)
    del ds.HighBit
    np.testing.assert_array_equal(decode_frame(ds, None), frame_pixels(0, 3))


def test_padding_and_excess_behind_the_last_pixel() -> None:
    ds = frame(phase=3)
    ds.PixelData = ds.PixelData + bytes(2)
    np.testing.assert_array_equal(decode_frame(ds, None), frame_pixels(0, 3))
    odd = np.arange(33 * 35, dtype=np.uint8).reshape(33, 35)
    ds = frame()
    ds.Rows, ds.Columns = odd.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = odd.tobytes() + b"\0"
    np.testing.assert_array_equal(decode_frame(ds, None), odd)


@given(st.integers(1, 6), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_frames_in_any_number_of_fragments_with_or_without_offsets(
    fragments: int, offsets: bool, several: bool
) -> None:
    ds = frame(phase=3)
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    codestream = get_frame(ds.PixelData, 0, number_of_frames=1)
    if several:
        other = frame(phase=9)
        other.compress(JPEG2000Lossless, generate_instance_uid=False)
        ds = enhanced([frame(phase=3), frame(phase=9)])
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        frames = [codestream, get_frame(other.PixelData, 0, number_of_frames=1)]
    else:
        frames = [codestream]
    ds.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=offsets)
    ds["PixelData"].VR = "OB"
    np.testing.assert_array_equal(decode_frame(ds, 1), frame_pixels(0, 3))
    if several:
        np.testing.assert_array_equal(decode_frame(ds, 2), frame_pixels(0, 9))


def test_extended_offset_table() -> None:
    frames = []
    for phase in (3, 9):
        ds = frame(phase=phase)
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
        frames.append(get_frame(ds.PixelData, 0, number_of_frames=1))
    ds = enhanced([frame(phase=3), frame(phase=9)])
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    ds["PixelData"].VR = "OB"
    np.testing.assert_array_equal(decode_frame(ds, 2), frame_pixels(0, 9))


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"SamplesPerPixel": 3}, "SamplesPerPixel"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PhotometricInterpretation"),
        ({"PhotometricInterpretation": "YBR_FULL"}, "PhotometricInterpretation"),
        ({"BitsAllocated": 12}, "BitsAllocated"),
        ({"BitsAllocated": 1}, "BitsAllocated"),
        ({"BitsStored": None}, "BitsStored"),
        ({"Rows": None}, "Rows"),
        ({"Rows": 0}, "0 × 36"),
    ],
)
def test_what_a_cine_frame_cannot_be_is_declined_by_name(attributes: dict[str, object], named: str) -> None:
    ds = frame()
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    with pytest.raises(UndecodableError, match=named):
        check_frame(ds, None)


def test_float_pixels_are_declined() -> None:
    ds = frame()
    del ds.PixelData
    ds.FloatPixelData = np.zeros((ROWS, COLUMNS), "<f4").tobytes()
    with pytest.raises(UndecodableError, match="PixelData is absent"):
        decode_frame(ds, None)


def test_grey_values_by_a_table_are_declined_by_name() -> None:
    ds, table = frame(phase=3), Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4096, 0, 16], "US"
    table.add_new("LUTData", "OW", (2 * np.arange(4096)).astype("<u2").tobytes())
    ds.ModalityLUTSequence = [table]
    with pytest.raises(UndecodableError, match="ModalityLUTSequence"):
        decode_frame(ds, None)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_a_rescale_that_cannot_be_read_is_declined_and_one_with_a_comma_is_read(keyword: str) -> None:
    ds = frame(phase=3)
    tag = pydicom.tag.Tag(keyword)
    for value, fits in ((b"1,5 ", True), (b"1;5 ", False)):
        ds._dict[tag] = pydicom.dataelem.RawDataElement(tag, "DS", 4, value, 0, False, True)
        if fits:
            expected = frame_pixels(0, 3) * 1.5 if keyword == "RescaleSlope" else frame_pixels(0, 3) + 1.5
            np.testing.assert_allclose(decode_frame(ds, None), expected)
        else:
            with pytest.raises(UndecodableError, match=rf"{keyword} cannot be read as a number \('1;5'\)"):
                decode_frame(ds, None)


@st.composite
def paddings(draw: st.DrawFn) -> tuple[tuple[int, int, int, bool], int, int | None]:
    """A format of 16 bits, PixelPaddingValue as it is in the cell, and PixelPaddingRangeLimit."""
    signed = draw(st.booleans())
    stored = draw(st.integers(11, 16))
    below, above = (-2000, 30000) if signed else (0, 65535)
    value = draw(st.sampled_from([below, above]))
    limit = draw(st.sampled_from([None, value, value + (9 if value == below else -9)]))
    return (16, stored, stored - 1, signed), value, limit


@given(
    paddings(), st.booleans(), st.integers(0, 1000), st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian])
)
@settings(max_examples=80, deadline=None)
def test_padding_is_as_dark_as_the_darkest_of_the_image(padding, inverted, seed, syntax) -> None:
    form, value, limit = padding
    image = blobs(900, seed) + 20
    padded = np.zeros(image.shape, dtype=bool)
    padded[:8] = padded[:, -5:] = True
    cells = np.where(padded, value, image)
    if limit is not None:
        cells[:3] = limit
    ds = holding(cells.astype(np.int64).astype("<u2"), form, syntax)
    if inverted:
        ds.PhotometricInterpretation = "MONOCHROME1"
    ds.RescaleSlope, ds.RescaleIntercept = 2, 7
    plain = decode_frame(ds, None)
    vr = "SS" if form[3] else "US"
    ds.add_new("PixelPaddingValue", vr, value)
    if limit is not None:
        ds.add_new("PixelPaddingRangeLimit", vr, limit)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    decoded = decode_frame(pydicom.dcmread(io.BytesIO(buffer.getvalue())), None)
    np.testing.assert_array_equal(decoded[~padded], plain[~padded])
    assert set(decoded[padded]) == {decoded[~padded].min()}


@pytest.mark.parametrize(("value", "limit"), [(500, None), (0, 4095), (64, 700), (4000, None)])
def test_padding_that_is_none_changes_nothing(value: int, limit: int | None) -> None:
    """Among the values of the image, all of it, or nowhere."""
    ds = holding((blobs(900, 3) + 20).astype("<u2"), (16, 12, 11, False))
    plain = decode_frame(ds, None)
    ds.PixelPaddingValue = value
    if limit is not None:
        ds.PixelPaddingRangeLimit = limit
    np.testing.assert_array_equal(decode_frame(ds, None), plain)


def test_padding_moves_no_window() -> None:
    """The corners that distortion correction leaves empty."""
    image = blobs(900, 5) + 20
    corner = np.add.outer(np.arange(ROWS), np.arange(COLUMNS)) < 16
    form = (16, 16, 15, True)
    ds = holding(np.where(corner, -2000, image).astype("<i2").view("<u2"), form)
    true = intensity_window(decode_frame(holding(np.where(corner, 20, image).astype("<u2"), form), None))
    assert intensity_window(decode_frame(ds, None))[0] < true[0] - 1000
    ds.PixelPaddingValue = -2000
    assert intensity_window(decode_frame(ds, None)) == pytest.approx(true)
