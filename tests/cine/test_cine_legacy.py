"""Classic cine converted to Legacy Converted Enhanced MR by an independent implementation."""

from __future__ import annotations

import warnings

import numpy as np
from cine_scanner import edit, expected_values, mean_values, stack
from highdicom.legacy import LegacyConvertedEnhancedMRImage
from pydicom.uid import generate_uid

from pipelines.cine.assemble import assemble_datasets


def test_legacy_converted_enhanced_mr() -> None:
    images = edit(
        stack(slices=4, phases=12, rr=lambda s: 800.0 + 15 * s),
        PatientID="1", PatientName="Test^Phantom", PatientBirthDate="", PatientSex="", StudyID="", StudyTime="",
        AccessionNumber="", ReferringPhysicianName="", ManufacturerModelName="Test", SoftwareVersions="1",
        DeviceSerialNumber="1", PositionReferenceIndicator="", PatientPosition="HFS", ScanOptions="", EchoTrainLength=1,
        LargestImagePixelValue=None,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = LegacyConvertedEnhancedMRImage(
            images,
            series_instance_uid=generate_uid(),
            series_number=7,
            sop_instance_uid=generate_uid(),
            instance_number=1,
        )
    (study,) = assemble_datasets([converted])
    assert study.short_axis is not None
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected_values(12, 4))
    np.testing.assert_allclose(study.short_axis.rr_intervals, [800, 815, 830, 845])
    np.testing.assert_allclose(study.short_axis.trigger_times[1], np.array([800, 815, 830, 845]) / 12, atol=1e-3)
    assert study.short_axis.sources[3][2].frame_number is not None
