"""The assembler on real cardiac MR of two vendors, classic and rewritten as Enhanced MR."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from cine_enhanced import STYLES
from pydicom.dataset import Dataset

from pipelines.cine.assemble import assemble, assemble_datasets, dicom_files
from pipelines.cine.facts import completeness, frame_facts
from pipelines.cine.stack import CineStudy, PhaseEncoding, View
from pipelines.cine.views import base_first

pytestmark = [pytest.mark.real_data, pytest.mark.filterwarnings("ignore:Invalid value for VR")]


@pytest.fixture(scope="module")
def sunnybrook(sunnybrook_dir: Path) -> dict[str, CineStudy]:
    studies = assemble(dicom_files(sunnybrook_dir))
    assert len(studies) == 2
    found = {}
    for study in studies:
        assert study.short_axis is not None
        found["SCD0000101" if study.short_axis.slices == 12 else "SCD0000301"] = study
    return found


@pytest.fixture(scope="module")
def siemens_vida(siemens_vida_dir: Path) -> CineStudy:
    (study,) = assemble(dicom_files(siemens_vida_dir))
    return study


def datasets(folder: Path) -> list[Dataset]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid UIDs, on purpose
        return [pydicom.dcmread(path) for path in dicom_files(folder)]


@pytest.mark.parametrize(
    ("patient", "slices", "pitch", "spacing", "heart_rate", "encoding"),
    [
        ("SCD0000101", 12, 10.0, 1.367188, 79.0, PhaseEncoding.COLUMN),
        ("SCD0000301", 10, 8.0, 1.2891, 65.0, PhaseEncoding.ROW),
    ],
)
def test_sunnybrook_short_axis(sunnybrook, patient, slices, pitch, spacing, heart_rate, encoding) -> None:
    study = sunnybrook[patient]
    (stack,) = study.stacks
    assert stack.view is View.SAX
    assert stack.pixels.shape == (20, slices, 256, 256)
    assert stack.geometry.pitch == pytest.approx(pitch, abs=1e-3)
    assert stack.geometry.pixel_spacing == (spacing, spacing)
    assert stack.geometry.slice_thickness == pitch
    assert stack.retrospective
    assert stack.phase_encoding is encoding
    assert stack.resampled_slices == ()
    assert base_first(stack) is False
    assert study.omissions == ()
    assert study.context.heart_rate_bpm == heart_rate
    assert study.context.manufacturer == "GE MEDICAL SYSTEMS"
    assert len(stack.series_instance_uids) == 1
    assert stack.frame_of_reference_uid


def test_sunnybrook_phase_and_slice_of_every_source(sunnybrook, sunnybrook_dir) -> None:
    """The contours are named by instance number: slice-major, 20 phases, from one end to the other."""
    for study in sunnybrook.values():
        (stack,) = study.stacks
        numbers = np.array([[source.instance_number for source in row] for row in stack.sources])
        assert (np.diff(numbers, axis=0) == 1).all()
        steps = np.diff(numbers[0])
        assert set(steps) in ({20}, {-20})
        assert (np.diff(stack.trigger_times, axis=0) > 0).all()
        assert (stack.trigger_times[-1] < stack.rr_intervals).all()
        assert all(source.frame_number is None for row in stack.sources for source in row)


def test_sunnybrook_pixels_are_those_of_the_sources(sunnybrook, sunnybrook_dir) -> None:
    by_uid = {str(ds.SOPInstanceUID): ds for ds in datasets(sunnybrook_dir / "SCD0000301")}
    (stack,) = sunnybrook["SCD0000301"].stacks
    for phase, index in ((0, 0), (7, 4), (19, 9)):
        source = by_uid[stack.sources[phase][index].sop_instance_uid]
        np.testing.assert_array_equal(stack.pixels[phase, index], source.pixel_array)
        np.testing.assert_allclose(
            stack.geometry.positions[index], np.array(source.ImagePositionPatient, float), atol=1e-3
        )
        assert stack.trigger_times[phase, index] == pytest.approx(float(source.TriggerTime))


def test_sunnybrook_left_ventricle_is_where_the_contours_say(sunnybrook, sunnybrook_dir) -> None:
    """Endocardial contours lie in bright blood of the frame with their instance number."""
    for patient, study in sunnybrook.items():
        (stack,) = study.stacks
        place = {
            source.instance_number: (phase, index)
            for phase, row in enumerate(stack.sources)
            for index, source in enumerate(row)
        }
        contours = sorted((sunnybrook_dir / patient).rglob("*icontour*.txt"))
        assert contours
        brighter = []
        for path in contours:
            phase, index = place[int(path.name.split("-")[2])]
            x, y = np.loadtxt(path).mean(axis=0)
            image = stack.pixels[phase, index]
            inside = image[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].mean()
            brighter.append(inside > np.percentile(image, 70))
        assert np.mean(brighter) > 0.9


def test_siemens_vida_stacks(siemens_vida) -> None:
    """Views as anatomy has them: the second "4CH" is a 3CH, the second "2CH" is right ventricular."""
    views = {
        int(stack.series_instance_uids[0].rpartition(".")[2]): stack.view
        for stack in siemens_vida.stacks
        if stack.view is not View.SAX
    }
    assert views == {17: View.LAX_4CH, 0: View.LAX_3CH, 26: View.LAX_2CH, 9: View.LAX, 35: View.RVOT}
    stack = siemens_vida.short_axis
    assert stack is not None
    assert stack.pixels.shape == (25, 6, 208, 256)
    assert stack.geometry.pitch == pytest.approx(17.70, abs=0.01)
    assert stack.geometry.slice_thickness == 6.0
    assert stack.geometry.pixel_spacing == (1.40625, 1.40625)
    np.testing.assert_allclose(stack.rr_intervals, [831, 814, 776, 829, 860, 863])
    assert len(stack.series_instance_uids) == 6
    assert stack.resampled_slices == ()
    assert stack.retrospective
    assert base_first(stack) is False
    assert siemens_vida.omissions == ()
    assert siemens_vida.context.field_strength_t == 3.0
    for long_axis in siemens_vida.stacks[1:]:
        assert (long_axis.phases, long_axis.slices) == (25, 1)
        angle = np.degrees(np.arccos(abs(long_axis.geometry.normal @ stack.geometry.normal)))
        assert 65 < angle <= 90


def test_siemens_vida_base_is_where_the_mitral_valve_is(siemens_vida, siemens_vida_dir) -> None:
    points: dict[str, list[list[float]]] = {}
    for line in next(siemens_vida_dir.rglob("GPFile_000.txt")).read_text().splitlines()[1:]:
        cells = line.split("\t")
        points.setdefault(cells[3], []).append([float(v) for v in cells[:3]])
    stack = siemens_vida.short_axis
    normal = stack.geometry.normal
    valve = np.mean(points["MITRAL_VALVE"], axis=0) @ normal
    apex = np.mean(points["APEX_POINT"], axis=0) @ normal
    assert (valve > apex) is np.True_
    assert base_first(stack) is False
    # The short-axis contours lie in the slices of the stack.
    along = np.array(points["SAX_LV_ENDOCARDIAL"]) @ normal
    slices = stack.geometry.positions @ normal
    assert np.abs(along[:, None] - slices[None]).min(axis=1).max() < 0.1


@pytest.mark.parametrize("style", STYLES)
def test_enhanced_multi_frame_gives_the_same_stacks(siemens_vida, siemens_vida_dir, style) -> None:
    (study,) = assemble_datasets(STYLES[style](datasets(siemens_vida_dir)))
    assert_same(study, siemens_vida)


@pytest.mark.parametrize("style", STYLES)
def test_enhanced_sunnybrook(sunnybrook, sunnybrook_dir, style) -> None:
    images = datasets(sunnybrook_dir / "SCD0000301")
    for ds in images:
        ds.FrameOfReferenceUID = images[0].FrameOfReferenceUID  # the anonymiser drew one for each image
    (study,) = assemble_datasets(STYLES[style](images))
    assert_same(study, sunnybrook["SCD0000301"])


def assert_same(study: CineStudy, other: CineStudy) -> None:
    assert [stack.view for stack in study.stacks] == [stack.view for stack in other.stacks]
    assert study.omissions == other.omissions == ()
    for stack, same in zip(study.stacks, other.stacks, strict=True):
        np.testing.assert_array_equal(stack.pixels, same.pixels)
        np.testing.assert_allclose(stack.geometry.positions, same.geometry.positions)
        np.testing.assert_allclose(stack.geometry.row_direction, same.geometry.row_direction, atol=1e-5)
        np.testing.assert_allclose(stack.geometry.column_direction, same.geometry.column_direction, atol=1e-5)
        assert stack.geometry.pixel_spacing == same.geometry.pixel_spacing
        np.testing.assert_allclose(stack.trigger_times, same.trigger_times)
        np.testing.assert_allclose(stack.rr_intervals, same.rr_intervals)
        assert stack.retrospective == same.retrospective
        if stack.sources[0][0].frame_number is not None:
            frames = [(s.sop_instance_uid, s.frame_number) for row in stack.sources for s in row]
            assert len(set(frames)) == len(frames)


def test_any_order_of_files_and_any_split_into_series(siemens_vida, siemens_vida_dir) -> None:
    images = datasets(siemens_vida_dir)
    rng = random.Random(8)
    rng.shuffle(images)
    for ds in images:
        ds.SeriesInstanceUID = f"1.2.3.{rng.randrange(4)}"
        ds.SeriesDescription = ""
        ds.ProtocolName = ""
    (study,) = assemble_datasets(images)
    assert_same(study, siemens_vida)


def test_two_studies_and_other_files_in_one_folder(sunnybrook, siemens_vida, siemens_vida_dir, tmp_path) -> None:
    vida = list(dicom_files(siemens_vida_dir))
    assert len(vida) == 275
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    (study,) = assemble([*vida, *dicom_files(tmp_path)])
    assert len(study.stacks) == len(siemens_vida.stacks)
    assert [entry.reason for entry in study.omissions] == ["unreadable"]


def test_completeness_of_the_real_studies(sunnybrook_dir, siemens_vida_dir) -> None:
    facts = [frame_facts(ds) for ds in datasets(siemens_vida_dir)]
    state = completeness(facts)
    assert state.complete
    assert state.sentence == "short axis 6 of 6 slices, complete; long axis 5 of 5 views"
    short_axis = state.stacks[0]
    assert (short_axis.slices_seen, short_axis.phases_expected, short_axis.frames_received) == (6, 25, 150)
    ge = sorted(datasets(sunnybrook_dir / "SCD0000101"), key=lambda ds: int(ds.InstanceNumber))
    facts = [frame_facts(ds) for ds in ge]
    assert completeness(facts).complete
    partial = completeness(facts[:187])
    assert not partial.complete
    assert partial.sentence == "short axis 9 of 10 slices, waiting"
