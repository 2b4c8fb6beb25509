"""Key-phase series: grey values, geometry, and what the header says of them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from interop.judges import entity_errors
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from dicom_node.results.gate import check
from dicom_node.results.keyphase import decimal, stored_pixels
from dicom_node.results.sources import frame_layers
from dicom_node.results.ventricular_function.groups import KEY_PHASE
from pipelines.function.findings import VentricularFunction
from results.conftest import Encoded
from results.synthetic import encoded, write_cine


@given(
    hnp.arrays(np.int32, (3, 4), elements=st.integers(-32768, 32767)),
    st.sampled_from([(1.0, 0.0), (2.0, -1024.0), (0.5, 12.0), (0.0123, 3.3), (15.75, 0.0)]),
)
def test_integral_sources_come_back_exactly(stored: np.ndarray, rescale: tuple[float, float]) -> None:
    slope, intercept = rescale
    grey = (stored * slope + intercept).astype(np.float32)
    pixels = stored_pixels(grey, slope=slope, intercept=intercept, bits_stored=12)
    back = (pixels.values.astype(np.float64) * pixels.slope + pixels.intercept).astype(np.float32)
    assert pixels.exact
    np.testing.assert_array_equal(back, grey)
    assert pixels.values.max() < 2**pixels.bits_stored


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32)))
def test_any_grey_values_come_back_within_half_a_step(grey: np.ndarray) -> None:
    pixels = stored_pixels(grey, slope=1.0, intercept=0.0, bits_stored=12)
    back = pixels.values.astype(np.float64) * pixels.slope + pixels.intercept
    assert pixels.values.dtype.itemsize == 2
    assert np.abs(back - grey).max() <= 0.51 * pixels.slope + 1e-6 * np.abs(grey).max()


@given(st.floats(-1e9, 1e9, allow_nan=False))
def test_decimal_strings_fit_and_are_near(value: float) -> None:
    text = decimal(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("slope", "intercept", "signed"), [(None, 0.0, False), (None, 0.0, True), (1.7, -20.0, False)])
def test_a_series_gives_back_the_source_frames(
    tmp_path: Path, slope: float | None, intercept: float, signed: bool
) -> None:
    cine = write_cine(tmp_path, slope=slope, intercept=intercept, signed=signed, phases=12, slices=4)
    objects, sources = encoded(cine)
    assert not any(check(objects, sources))
    for role in (KEY_PHASE["ED"], KEY_PHASE["ES"]):
        series = [each for each in objects if each.role == role]
        assert len(series) == 4
        for each in series:
            expected = each.expected
            source = sources.header(expected.source.sop_instance_uid)
            made = each.dataset
            np.testing.assert_array_equal(np.asarray(made.ImagePositionPatient), source.ImagePositionPatient)
            np.testing.assert_allclose(
                np.asarray(made.ImageOrientationPatient, float), np.asarray(source.ImageOrientationPatient, float)
            )
            assert made.PixelSpacing == source.PixelSpacing
            assert made.FrameOfReferenceUID == source.FrameOfReferenceUID
            assert (made.WindowCenter, made.WindowWidth) == (source.WindowCenter, source.WindowWidth)
            assert expected.tolerance == 0.0


@pytest.mark.parametrize(
    ("protocols", "kept"),
    [
        (("SAX", "SAX", "SAX", "SAX"), "SAX"),
        # As scanners write it that make a series of each breath-hold.
        (("SAX_b1", "SAX_b2", "SAX_b3", "SAX_b4"), None),
        (("SAX", "SAX", None, "SAX"), None),
    ],
)
def test_a_series_has_one_protocol_name_or_none(
    tmp_path: Path, protocols: tuple[str | None, ...], kept: str | None
) -> None:
    cine = write_cine(tmp_path / "images", series_per_slice=True, phases=12, slices=4)
    for path in cine.paths:
        image = dcmread(path)
        name = protocols[int(image.SeriesInstanceUID.rpartition(".")[2]) - 1]
        if name is not None:
            image.ProtocolName = name
            image.save_as(path)
    objects, _ = encoded(cine)
    series = [each for each in objects if each.role in KEY_PHASE.values()]
    assert len(series) == 8
    assert {each.dataset.get("ProtocolName") for each in series} == {kept}
    written = [tmp_path / f"{each.sop_instance_uid}.dcm" for each in series]
    for path, each in zip(written, series, strict=True):
        path.write_bytes(each.content)
    assert entity_errors(cine.paths, written) == []


def test_the_header_says_what_the_image_is(result: Encoded) -> None:
    function = result.findings[VentricularFunction]
    stack = result.cine.study.short_axis
    assert stack is not None
    phases = (function.keyframes.end_diastole, function.keyframes.end_systole)
    for role, phase in zip((KEY_PHASE["ED"], KEY_PHASE["ES"]), phases, strict=True):
        images = result.written(role)
        assert len({image.SeriesInstanceUID for image in images}) == 1
        assert [image.InstanceNumber for image in images] == list(range(1, stack.slices + 1))
        for index, image in enumerate(images):
            assert image.ImageType[0] == "DERIVED"
            assert image.ContentQualification == "RESEARCH"
            assert image.BodyPartExamined == "HEART"
            assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == (
                stack.sources[phase][index].sop_instance_uid
            )
            assert image.SourceImageSequence[0].SpatialLocationsPreserved == "YES"
            assert "ContrastBolusAgent" not in image
            purposes = [
                item.PurposeOfReferenceCodeSequence[0].CodeValue for item in image.ContributingEquipmentSequence
            ]
            assert purposes == ["109101", "109102", "109102"]
            assert image.ContributingEquipmentSequence[0].ManufacturerModelName == "Scanner 9"
            assert "ab" * 32 in image.ContributingEquipmentSequence[2].ContributionDescription


def test_functional_groups_are_read_before_the_data_set() -> None:
    header = Dataset()
    header.SOPClassUID = EnhancedMRImageStorage
    header.ImageComments, header.FlipAngle = "top", "10"
    shared, per_frame = Dataset(), [Dataset(), Dataset()]
    timing, position = Dataset(), Dataset()
    timing.FlipAngle = "55"
    shared.MRTimingAndRelatedParametersSequence = [timing]
    position.ImagePositionPatient = [1, 2, 3]
    per_frame[1].PlanePositionSequence = [position]
    header.SharedFunctionalGroupsSequence = [shared]
    header.PerFrameFunctionalGroupsSequence = per_frame

    def first(keyword: str, frame: int | None) -> object:
        return next((layer[keyword].value for layer in frame_layers(header, frame) if keyword in layer), None)

    assert first("ImagePositionPatient", 2) == [1, 2, 3]
    assert first("ImagePositionPatient", 1) is None
    assert first("FlipAngle", 1) == 55
    assert first("FlipAngle", None) == 10


def test_what_a_scanner_writes_against_the_standard_does_not_spoil_the_image(tmp_path: Path) -> None:
    header = Dataset()
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header.ScanningSequence, header.SequenceVariant = ["FGRE", "GR"], "FIESTA"
        header.MRAcquisitionType, header.PatientPosition = "MULTI", None
        header.WindowCenter, header.WindowWidth = "0", "0"
        header.ProtocolName = "x" * 80
        header.AcquisitionDate = "20120000"
        header.ReceiveCoilName, header.NominalInterval, header.AcquisitionMatrix = "8CARDIAC", "900", [256, 0, 0, 192]
        cine = write_cine(tmp_path, phases=8, slices=4, size=64, header=header)
    objects, sources = encoded(cine)
    assert [str(problem) for found in check(objects, sources) for problem in found] == []
    image = next(each.dataset for each in objects if each.role == KEY_PHASE["ED"])
    assert (image.ScanningSequence, image.SequenceVariant) == ("GR", "NONE")
    assert image.WindowWidth > 100
    assert (image.ReceiveCoilName, image.NominalInterval, image.AcquisitionMatrix) == (
        "8CARDIAC",
        900,
        [256, 0, 0, 192],
    )
    assert "ProtocolName" not in image
    assert "AcquisitionDate" not in image
