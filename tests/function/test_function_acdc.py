"""Function of real ventricles, from expert contours: what is known of the groups must come out."""

from __future__ import annotations

from pathlib import Path

import hearts
import numpy as np
import pytest

from pipelines.cine.stack import StudyContext
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import VentricularFunction
from pipelines.function.measure import measure_function
from pipelines.function.slices import SliceMeasures, measure_slices
from pipelines.segmentation.labels import Label
from pipelines.training.acdc import AcdcPatient, find_patients, read_patient, to_stack

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def cohort(acdc_dir: Path) -> list[tuple[AcdcPatient, SliceMeasures, VentricularFunction]]:
    """Every fourth patient: four of each group."""
    measured = []
    for folder in find_patients(acdc_dir)[::4]:
        patient = read_patient(folder)
        stack = to_stack(patient)
        segmentation = hearts.segmentation_of(np.stack([frame.labels for frame in patient.frames]))
        slices = measure_slices(stack, segmentation)
        keyframes = find_keyframes(stack, slices.lv_ml)
        measured.append((patient, slices, measure_function(stack, slices, keyframes, StudyContext("1.2.3"))))
    return measured


def test_every_heart_is_measured_whole(cohort) -> None:
    assert len(cohort) == 20
    for patient, slices, function in cohort:
        assert slices.base_first, patient.identifier
        assert not slices.above_base.any(), patient.identifier
        assert (function.keyframes.end_diastole, function.keyframes.end_systole) == (0, 1)
        assert function.rv is not None
        assert function.wall is not None
        assert np.isnan(function.wall.ed_thickness_mm).sum() <= 1
        assert 2.5 < np.nanmin(function.wall.ed_thickness_mm) < np.nanmax(function.wall.ed_thickness_mm) < 30


def test_volumes_are_those_of_the_voxels(cohort) -> None:
    for patient, _, function in cohort:
        spacing = patient.geometry.pixel_spacing
        voxel_ml = spacing[0] * spacing[1] * patient.geometry.pitch / 1000
        for frame, volume in ((patient.ed, function.lv.edv_ml), (patient.es, function.lv.esv_ml)):
            # Filled papillary muscles add a little.
            assert volume == pytest.approx((frame.labels == Label.LV).sum() * voxel_ml, rel=0.02)


def test_groups_are_what_they_are_called(cohort) -> None:
    def median(group: str, value) -> float:
        return float(np.median([value(function) for patient, _, function in cohort if patient.group == group]))

    def ef(function: VentricularFunction) -> float:
        return function.lv.ejection_fraction_percent

    assert median("NOR", ef) > 55
    assert median("HCM", ef) > 55
    assert median("DCM", ef) < 35
    assert median("MINF", ef) < 45
    assert median("DCM", lambda f: f.lv.edv_ml) > 1.4 * median("NOR", lambda f: f.lv.edv_ml)
    assert median("RV", lambda f: f.rv.edv_ml / f.lv.edv_ml) > 1.2 * median("NOR", lambda f: f.rv.edv_ml / f.lv.edv_ml)
    thickest = {group: median(group, lambda f: np.nanmax(f.wall.ed_thickness_mm)) for group in ("NOR", "HCM", "DCM")}
    assert thickest["HCM"] > 1.3 * max(thickest["NOR"], thickest["DCM"])
    assert median("NOR", lambda f: np.nanmedian(f.wall.thickening_percent)) > 40
    assert median("DCM", lambda f: np.nanmedian(f.wall.thickening_percent)) < 30
