"""Grey values: every way in which MR stores them gives the same float32 frame."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from cine_enhanced import enhanced
from cine_scanner import COLUMNS, ROWS, edit, expected_values, frame, frame_pixels, mean_values, stack
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from pipelines.cine.assemble import assemble, assemble_datasets
from pipelines.cine.pixels import UndecodableError, decode_frame
from pipelines.cine.stack import OmissionReason


def with_pixels(stored: np.ndarray, *, signed: bool = False, bits: int = 16, allocated: int = 16) -> Dataset:
    ds = frame()
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, bits, bits - 1
    ds.PixelRepresentation = int(signed)
    ds.PixelData = stored.tobytes()
    return ds


RAMP = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)


def test_unsigned_and_signed() -> None:
    np.testing.assert_array_equal(decode_frame(with_pixels(RAMP.astype(np.uint16)), None), RAMP)
    signed = (RAMP - 100).astype(np.int16)
    values = decode_frame(with_pixels(signed, signed=True), None)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, signed)
    np.testing.assert_array_equal(
        decode_frame(with_pixels((RAMP % 256).astype(np.uint8), bits=8, allocated=8), None), RAMP % 256
    )


def test_bits_above_bits_stored_are_dropped() -> None:
    """Overlays were once kept there, and signed values need not be extended."""
    ds = with_pixels((RAMP | 0x8000).astype(np.uint16), bits=12)
    np.testing.assert_array_equal(decode_frame(ds, None), RAMP)
    twelve = ((RAMP - 100) & 0x0FFF).astype(np.uint16)
    np.testing.assert_array_equal(decode_frame(with_pixels(twelve, signed=True, bits=12), None), RAMP - 100)


def test_rescale() -> None:
    ds = with_pixels(RAMP.astype(np.uint16))
    ds.RescaleSlope, ds.RescaleIntercept = "2.5", "-7"
    np.testing.assert_allclose(decode_frame(ds, None), RAMP * 2.5 - 7)
    ds.RescaleSlope = "0"
    np.testing.assert_allclose(decode_frame(ds, None), RAMP - 7.0)


def test_monochrome1_is_inverted() -> None:
    ds = with_pixels(RAMP.astype(np.uint16), bits=12)
    ds.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_array_equal(decode_frame(ds, None), 4095 - RAMP)
    ds = with_pixels((RAMP - 100).astype(np.int16), signed=True)
    ds.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_array_equal(decode_frame(ds, None), -1 - (RAMP - 100))


def test_rescale_of_each_enhanced_frame() -> None:
    ds = enhanced([frame(phase=t) for t in range(3)])
    for number, group in enumerate(ds.PerFrameFunctionalGroupsSequence, 1):
        item = Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = number, 10 * number, "US"
        group.PixelValueTransformationSequence = pydicom.Sequence([item])
    for number in (1, 2, 3):
        np.testing.assert_allclose(decode_frame(ds, number), frame_pixels(0, number - 1) * number + 10.0 * number)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_transfer_syntaxes_from_files(tmp_path, syntax) -> None:
    paths = []
    for number, ds in enumerate(stack(slices=3, phases=12)):
        if syntax == ImplicitVRLittleEndian:
            ds.file_meta.TransferSyntaxUID = syntax
        else:
            ds.compress(syntax, generate_instance_uid=False)
        paths.append(tmp_path / f"{number}")
        ds.save_as(paths[-1], enforce_file_format=True)
    (study,) = assemble(paths)
    assert study.short_axis is not None
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected_values(12, 3))
    np.testing.assert_array_equal(study.short_axis.pixels[5, 0], frame_pixels(0, 5))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_compressed_enhanced(tmp_path, syntax) -> None:
    ds = enhanced(stack(slices=3, phases=12))
    if syntax != ExplicitVRLittleEndian:
        ds.compress(syntax, generate_instance_uid=False)
    ds.save_as(tmp_path / "enhanced", enforce_file_format=True)
    (study,) = assemble([tmp_path / "enhanced"])
    assert study.short_axis is not None
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected_values(12, 3))
    assert study.short_axis.sources[0][0].frame_number is not None


@pytest.mark.parametrize(
    "damage",
    [
        {"PixelData": None},
        {"PixelData": b"\0" * 10},
        {"SamplesPerPixel": 3},
        {"BitsAllocated": 7},
        {"PhotometricInterpretation": None},
    ],
)
def test_undecodable_frames_are_reported_and_interpolated(damage) -> None:
    images = stack(slices=5)
    edit(images[45:46], **damage)
    with pytest.raises(UndecodableError):
        decode_frame(images[45], None)
    (study,) = assemble_datasets(images)
    assert study.short_axis is not None
    assert study.short_axis.resampled_slices == (2,)
    np.testing.assert_allclose(mean_values(study.short_axis.pixels), expected_values(20, 5), atol=1e-3)
    (entry,) = study.omissions
    assert entry.reason is OmissionReason.UNREADABLE
    assert entry.sop_instance_uids == (images[45].SOPInstanceUID,)


def test_only_chosen_frames_are_decoded() -> None:
    """Pixels of what is left out are never touched: they may be undecodable."""
    other = edit(stack(slices=1, series=7), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], PixelData=b"")
    (study,) = assemble_datasets(stack(slices=5) + other)
    assert {entry.reason for entry in study.omissions} == {OmissionReason.LOCALIZER}
