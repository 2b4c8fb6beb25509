"""Every pitfall of cine input that the design lists, on synthetic studies whose truth is known."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
from cine_enhanced import enhanced
from cine_scanner import (
    FRAME_OF_REFERENCE,
    SHORT_AXIS,
    edit,
    expected_values,
    frame,
    long_axis,
    mean_values,
    stack,
    value,
    view,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipelines.cine.assemble import assemble_datasets
from pipelines.cine.stack import CineStack, CineStudy, OmissionReason, View
from pipelines.cine.views import base_first


def assembled(images: list[Dataset]) -> CineStudy:
    (study,) = assemble_datasets(images)
    return study


def short_axis(images: list[Dataset]) -> CineStack:
    found = assembled(images).short_axis
    assert found is not None
    return found


def reasons(study: CineStudy) -> set[OmissionReason]:
    for entry in study.omissions:
        assert entry.detail.endswith(".")
    return {entry.reason for entry in study.omissions}


def left_out(study: CineStudy, reason: OmissionReason) -> int:
    return sum(len(entry.sop_instance_uids) for entry in study.omissions if entry.reason is reason)


# Splitting into series


def test_ge_single_stack_in_slice_major_order() -> None:
    found = short_axis(stack(slices=8, phases=20, pitch=9.0))
    assert found.pixels.shape == (20, 8, 34, 36)
    assert found.pixels.dtype == np.float32
    np.testing.assert_array_equal(mean_values(found.pixels), expected_values(20, 8))
    assert found.geometry.pitch == pytest.approx(9.0, abs=1e-4)
    assert found.geometry.pixel_spacing == (1.5, 1.5)
    np.testing.assert_allclose(found.trigger_times[:, 0], np.arange(20) * 40.0)
    np.testing.assert_allclose(found.rr_intervals, 800.0)
    assert found.retrospective
    assert found.resampled_slices == ()


def test_siemens_one_series_a_slice_with_an_rr_interval_of_its_own() -> None:
    intervals = [810, 790, 845, 802, 777, 830]
    found = short_axis(stack(slices=6, rr=lambda s: intervals[s], series=lambda s: 11 + s))
    np.testing.assert_array_equal(mean_values(found.pixels), expected_values(20, 6))
    np.testing.assert_allclose(found.rr_intervals, intervals)
    assert found.resampled_slices == ()
    assert len(found.series_instance_uids) == 6


def test_slices_ascend_along_the_normal_and_the_base_is_told() -> None:
    found = short_axis(stack(slices=5))
    along = found.geometry.positions @ found.geometry.normal
    assert (np.diff(along) > 0).all()
    row, column = SHORT_AXIS
    upside_down = short_axis(stack(slices=5, plane=(row, -column)))
    # The normal points from base to apex or back, and so does the order of the slices.
    assert {base_first(found), base_first(upside_down)} == {True, False}
    assert base_first(assembled(stack() + view(0, series=9)).stacks[1]) is None


# Order of the phases


def test_philips_instance_numbers_at_random() -> None:
    images = stack(slices=5)
    numbers = list(range(1, len(images) + 1))
    random.Random(1).shuffle(numbers)
    for ds, number in zip(images, numbers, strict=True):
        ds.InstanceNumber = number
    np.testing.assert_array_equal(mean_values(short_axis(images).pixels), expected_values(20, 5))


@pytest.mark.parametrize(
    "bogus",
    [
        pytest.param(lambda t: 0.0, id="all zero"),
        pytest.param(lambda t: 522.5, id="all the same"),
        pytest.param(lambda t: float((t * 7) % 20) ** 2, id="out of order"),
        pytest.param(lambda t: (19 - t) * 900.0, id="begin of the dynamic, against the phases"),
        pytest.param(lambda t: t % 3, id="three values"),
    ],
)
@pytest.mark.parametrize("order", ["TemporalPositionIdentifier", "private Philips", "private GE", "ContentTime"])
def test_bogus_trigger_time_is_not_used(bogus, order) -> None:
    images = stack(slices=5)
    shuffled = list(range(1, len(images) + 1))
    random.Random(2).shuffle(shuffled)
    for number, (ds, instance) in enumerate(zip(images, shuffled, strict=True)):
        phase = number % 20
        ds.TriggerTime = f"{bogus(phase):.1f}"
        ds.InstanceNumber = instance
        if order == "TemporalPositionIdentifier":
            ds.TemporalPositionIdentifier = phase + 1
        elif order == "private Philips":
            ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x08, "IS", str(phase + 1))
        elif order == "private GE":
            ds.private_block(0x0019, "OTHER", create=True).add_new(0xD7, "SS", 99 - phase)
            ds.private_block(0x0019, "GEMS_ACQU_01", create=True).add_new(0xD7, "SS", phase + 1)
        else:
            ds.ContentTime = f"1011{phase:02d}.5"
    found = short_axis(images)
    np.testing.assert_array_equal(mean_values(found.pixels), expected_values(20, 5))
    # Times then come from the RR interval: 20 phases in 800 ms.
    np.testing.assert_allclose(found.trigger_times[:, 0], np.arange(20) * 40.0)


@pytest.mark.parametrize(
    "keep",
    ["TriggerTime", "TemporalPositionIndex", "AcquisitionTime", "ContentTime", "InstanceNumber"],
)
def test_phases_are_ordered_by_whatever_attribute_is_there(keep) -> None:
    images = stack(slices=5)
    for number, ds in enumerate(images):
        phase = number % 20
        trigger = ds.TriggerTime
        edit([ds], TriggerTime=None, AcquisitionTime="101100", ContentTime="101105", InstanceNumber=None)
        if keep == "TriggerTime":
            ds.TriggerTime = trigger
        elif keep == "TemporalPositionIndex":
            ds.TemporalPositionIndex = phase + 1
        elif keep == "InstanceNumber":
            ds.InstanceNumber = number + 1
        else:
            setattr(ds, keep, f"101100.{phase * 40:03d}")
    random.Random(3).shuffle(images)
    np.testing.assert_array_equal(mean_values(short_axis(images).pixels), expected_values(20, 5))


def test_without_rr_interval_and_trigger_times_the_time_is_not_known() -> None:
    images = edit(stack(slices=5), TriggerTime=None, NominalInterval=None)
    found = short_axis(images)
    np.testing.assert_array_equal(mean_values(found.pixels), expected_values(20, 5))
    assert np.isnan(found.trigger_times).all()
    assert np.isnan(found.rr_intervals).all()


@pytest.mark.parametrize(
    ("attributes", "rr", "rate"),
    [
        ({"NominalInterval": 800, "HeartRate": None}, 800.0, 75.0),
        (
            {"NominalInterval": None, "HeartRate": 60, "TriggerTime": lambda ds: float(ds.TriggerTime) * 1.25},
            1000.0,
            60.0,
        ),
        ({"NominalInterval": 0, "HeartRate": None}, 800.0, 75.0),
        ({"NominalInterval": None, "RRIntervalTimeNominal": 800.0}, 800.0, 75.0),
        # Shorter than what the phases span: not an RR interval.
        ({"NominalInterval": 400}, 800.0, 75.0),
    ],
)
def test_rr_interval_and_heart_rate(attributes, rr, rate) -> None:
    study = assembled(edit(stack(slices=5), **attributes))
    assert study.short_axis is not None
    np.testing.assert_allclose(study.short_axis.rr_intervals, rr, rtol=1e-3)
    assert study.context.heart_rate_bpm == pytest.approx(rate, rel=1e-3)


# Duplicates and repeats


def test_distortion_corrected_reconstruction_is_preferred() -> None:
    corrected = stack(slices=5, series=1, made_of="NORM\\DIS2D")
    plain = stack(slices=5, series=2, made_of="NORM\\ND")
    for ds in plain:
        ds.AcquisitionTime = "120000"  # later, and still not chosen
    study = assembled(plain + corrected)
    assert study.short_axis is not None
    assert study.short_axis.series_instance_uids == (corrected[0].SeriesInstanceUID,)
    assert left_out(study, OmissionReason.DUPLICATE) == len(plain)


@pytest.mark.parametrize("rr", [800.0, 840.0])
@pytest.mark.parametrize("same_series", [False, True])
def test_latest_complete_repeat_of_a_slice_is_used(rr, same_series) -> None:
    first = stack(slices=5, series=lambda s: 10 + s)
    again = [
        frame(
            slice_index=2, phase=t, rr=rr, along=0.0, series=12 if same_series else 40, acquisition=9, instance=200 + t
        )
        for t in range(20)
    ]
    for ds in again:
        ds.PixelData = (np.frombuffer(ds.PixelData, np.uint16) + 500).tobytes()
    study = assembled(first + again)
    assert study.short_axis is not None
    expected = expected_values(20, 5)
    expected[:, 2] += 500
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected)
    assert left_out(study, OmissionReason.REPEATED_ACQUISITION) == 20
    assert reasons(study) == {OmissionReason.REPEATED_ACQUISITION}


def test_incomplete_repeat_is_not_used() -> None:
    first = stack(slices=5, series=lambda s: 10 + s)
    aborted = [frame(slice_index=2, phase=t, series=40, acquisition=9, instance=200 + t) for t in range(13)]
    study = assembled(first + aborted)
    assert study.short_axis is not None
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected_values(20, 5))
    assert left_out(study, OmissionReason.REPEATED_ACQUISITION) == 13


def test_slice_repeated_at_a_slightly_other_position() -> None:
    first = stack(slices=5, series=lambda s: 10 + s)
    again = [frame(slice_index=2, phase=t, along=2.0, series=40, acquisition=9, instance=200 + t) for t in range(20)]
    study = assembled(first + again)
    assert study.short_axis is not None
    assert study.short_axis.slices == 5
    assert study.short_axis.series_instance_uids[2] == again[0].SeriesInstanceUID
    assert left_out(study, OmissionReason.REPEATED_ACQUISITION) == 20


def test_the_same_file_twice_is_reported_and_changes_nothing() -> None:
    images = stack(slices=5)
    study = assembled(images + images[:7])
    assert study.short_axis is not None
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected_values(20, 5))
    assert left_out(study, OmissionReason.DUPLICATE) == 7


def test_interpolated_copy_in_another_matrix_is_a_duplicate() -> None:
    """GE ZIP512: the same slices reconstructed a second time, finer."""
    images = stack(slices=5)
    zipped = stack(slices=5, series=2)
    for ds in zipped:
        ds.Rows, ds.Columns, ds.PixelSpacing = 68, 72, [0.75, 0.75]
        ds.PixelData = np.zeros((68, 72), np.uint16).tobytes()
    study = assembled(images + zipped)
    assert [found.view for found in study.stacks] == [View.SAX]
    assert sum(len(entry.sop_instance_uids) for entry in study.omissions) == 100


# Missing frames and slices


@pytest.mark.parametrize("lost", [0, 1, 9, 19])
@pytest.mark.parametrize("numbered", [False, True])
def test_one_missing_frame_is_interpolated_cyclically(lost, numbered) -> None:
    images = stack(slices=5)
    if numbered:
        for number, ds in enumerate(images):
            del ds.TriggerTime
            ds.TemporalPositionIndex = number % 20 + 1
    del images[2 * 20 + lost]
    found = short_axis(images)
    expected = expected_values(20, 5)
    expected[lost, 2] = (value(2, (lost - 1) % 20) + value(2, (lost + 1) % 20)) / 2
    np.testing.assert_allclose(mean_values(found.pixels), expected, atol=1e-3)
    assert found.resampled_slices == (2,)
    np.testing.assert_allclose(found.trigger_times[:, 2], np.arange(20) * 40.0, atol=1e-6)


def test_two_missing_frames_reject_the_slice() -> None:
    images = stack(slices=6)
    lost = images[40:60]
    del images[45]
    del images[50]
    study = assembled(images)
    assert study.short_axis is not None
    assert study.short_axis.slices == 5
    assert left_out(study, OmissionReason.MISSING_FRAMES) == 18
    (entry,) = study.omissions
    assert set(entry.sop_instance_uids) < {ds.SOPInstanceUID for ds in lost}
    # The gap that it leaves is bridged by its neighbours.
    np.testing.assert_allclose(study.short_axis.geometry.slice_intervals(), [10, 15, 15, 10, 10], atol=1e-3)


def test_missing_frames_at_the_end_show_against_the_declared_number() -> None:
    images = stack(slices=5)
    del images[57:60]
    study = assembled(images)
    assert left_out(study, OmissionReason.MISSING_FRAMES) == 17


def test_a_slice_that_has_only_begun_to_arrive() -> None:
    study = assembled(stack(slices=5)[:86])
    assert study.short_axis is not None
    assert study.short_axis.slices == 4
    (entry,) = study.omissions
    assert (entry.reason, entry.detail) == (
        OmissionReason.MISSING_FRAMES,
        "6 of 20 phases were received at this position.",
    )


def test_a_trigger_delay_of_one_slice_is_no_missing_frame() -> None:
    images = stack(slices=5)
    edit(images[40:60], TriggerTime=lambda ds: float(ds.TriggerTime) + 40.0, NominalInterval=850)
    found = short_axis(images)
    assert found.resampled_slices == ()
    np.testing.assert_array_equal(mean_values(found.pixels), expected_values(20, 5))


def test_rr_interval_written_anew_for_each_frame() -> None:
    images = edit(stack(slices=5), NominalInterval=lambda ds: 800 + ds.InstanceNumber % 2)
    np.testing.assert_array_equal(mean_values(short_axis(images).pixels), expected_values(20, 5))


def test_synchronisation_none_beside_good_trigger_times() -> None:
    assert short_axis(edit(stack(slices=5), CardiacSynchronizationTechnique="NONE")).slices == 5


def test_every_slice_has_fewer_phases_than_declared() -> None:
    images = edit(stack(slices=5, phases=20), CardiacNumberOfImages=25)
    assert short_axis(images).phases == 20


def test_spacing_between_slices_is_not_believed() -> None:
    images = edit(stack(slices=5, pitch=10.0), SpacingBetweenSlices=3.3)
    assert short_axis(images).geometry.pitch == pytest.approx(10.0, abs=1e-4)


def test_breath_hold_rounding_of_positions_is_one_slice() -> None:
    images = stack(slices=5)
    normal = np.cross(*SHORT_AXIS)
    for number, ds in enumerate(images):
        jitter = 0.4 * ((number % 3) - 1)
        ds.ImagePositionPatient = [f"{v:.4f}" for v in np.array(ds.ImagePositionPatient, float) + jitter * normal]
    assert short_axis(images).slices == 5


# Different phase counts and RR intervals


def test_slice_with_another_number_of_phases_is_resampled() -> None:
    images = stack(slices=5, series=lambda s: s + 1, phases_of=lambda s: 30 if s == 3 else 20)
    # A wave over the cycle: the same in all slices, whatever the number of phases.
    for ds in images:
        u = float(ds.TriggerTime) / 800.0
        ds.PixelData = np.full((34, 36), round(1000 + 800 * np.cos(2 * np.pi * u)), np.uint16).tobytes()
    found = short_axis(images)
    assert found.phases == 20
    assert found.resampled_slices == (3,)
    wave = 1000 + 800 * np.cos(2 * np.pi * np.arange(20) / 20)
    np.testing.assert_allclose(found.pixels[:, :, 5, 5], np.tile(wave[:, None], 5), atol=10)
    np.testing.assert_allclose(found.trigger_times[:, 3], np.arange(20) * 40.0, atol=1e-6)
    assert {source.series_instance_uid for row in found.sources for source in row[3:4]} == {
        images[61].SeriesInstanceUID
    }


def test_a_slice_with_many_more_phases_in_slower_rhythm_keeps_normalised_time() -> None:
    images = stack(slices=5, series=lambda s: s + 1, rr=lambda s: 1100.0 if s == 0 else 800.0, phases_of=lambda s: 25)
    found = short_axis(images)
    assert found.resampled_slices == ()
    np.testing.assert_allclose(found.trigger_times[:, 0] / 1100.0, found.trigger_times[:, 1] / 800.0, atol=1e-6)


def test_prospective_gating_is_flagged() -> None:
    images = edit(stack(slices=5), TriggerTime=lambda ds: float(ds.TriggerTime) * 0.78)
    assert not short_axis(images).retrospective


def test_prospective_slices_of_unequal_length_are_not_wrapped_around() -> None:
    images = stack(slices=5, rr=640.0, series=lambda s: s + 1, phases_of=lambda s: 16 if s == 4 else 20)
    for ds in images:  # 32 ms a phase: 20 phases span 640 ms, 16 phases 512 ms, of 1000 ms
        phase = int(ds.InstanceNumber) - 1 - 20 * (int(ds.SeriesNumber) - 1)
        ds.TriggerTime, ds.NominalInterval = phase * 32.0, 1000
    found = short_axis(images)
    assert not found.retrospective
    assert found.resampled_slices == (4,)
    expected = [value(4, min(t, 15)) for t in range(20)]
    np.testing.assert_allclose(mean_values(found.pixels)[:, 4], expected, atol=1e-3)


# What is not cine


def dynamic(images: list[Dataset], step_s: float) -> list[Dataset]:
    for number, ds in enumerate(images):
        total = 36000 + number * step_s
        ds.AcquisitionTime = f"{int(total // 3600):02d}{int(total // 60 % 60):02d}{total % 60:09.6f}"
    return images


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        pytest.param(
            lambda: edit(view(0, series=5), Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2"),
            OmissionReason.NOT_MR,
            id="CT",
        ),
        pytest.param(
            lambda: edit(view(0, series=5)[:1], Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33"),
            OmissionReason.NOT_AN_IMAGE,
            id="SR",
        ),
        pytest.param(
            lambda: edit(view(0, series=5)[:1], SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
            OmissionReason.DERIVED,
            id="secondary capture",
        ),
        pytest.param(
            lambda: edit(view(0, series=5)[:1], SOPClassUID="1.2.840.10008.5.1.4.1.1.4.2"),
            OmissionReason.NOT_AN_IMAGE,
            id="spectroscopy",
        ),
        pytest.param(
            lambda: edit(view(0, series=5), ImageOrientationPatient=None),
            OmissionReason.NO_GEOMETRY,
            id="no orientation",
        ),
        pytest.param(
            lambda: edit(view(0, series=5), ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
            OmissionReason.NO_GEOMETRY,
            id="orientation that is none",
        ),
        pytest.param(lambda: edit(view(0, series=5), PixelSpacing=[0, 0]), OmissionReason.NO_GEOMETRY, id="no spacing"),
        pytest.param(
            lambda: edit(view(0, series=5), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
            OmissionReason.LOCALIZER,
            id="localizer",
        ),
        pytest.param(
            lambda: edit(view(0, series=5)[:3], SeriesDescription="3-plane loc"),
            OmissionReason.LOCALIZER,
            id="localizer by description",
        ),
        pytest.param(
            lambda: edit(view(0, series=5), ImageType=["ORIGINAL", "PRIMARY", "VELOCITY MAP", "P", "PCA"]),
            OmissionReason.FLOW,
            id="Philips flow",
        ),
        pytest.param(
            lambda: edit(view(0, series=5), ImageType=["ORIGINAL", "PRIMARY", "P", "ND"]),
            OmissionReason.FLOW,
            id="Siemens phase",
        ),
        pytest.param(
            lambda: edit(view(0, series=5), SequenceName="*fl2d1_v150in"), OmissionReason.FLOW, id="magnitude of flow"
        ),
        pytest.param(
            lambda: edit(view(0, series=5), SeriesDescription="SAX_TAG_8mm"), OmissionReason.TAGGED, id="tagged"
        ),
        pytest.param(
            lambda: edit(view(0, series=5), ImageType=["DERIVED", "PRIMARY", "M", "T1 MAP"]),
            OmissionReason.MAPPING,
            id="T1 map",
        ),
        pytest.param(
            lambda: edit(view(0, series=5)[:8], SeriesDescription="MOLLI_native"),
            OmissionReason.MAPPING,
            id="images of a mapping sequence",
        ),
        pytest.param(
            lambda: edit(view(0, series=5), ScanningSequence=["GR", "IR"], InversionTime=300),
            OmissionReason.LATE_ENHANCEMENT,
            id="inversion recovery",
        ),
        pytest.param(
            lambda: edit(view(0, series=5)[:1], SeriesDescription="PSIR_sax"),
            OmissionReason.LATE_ENHANCEMENT,
            id="late enhancement by description",
        ),
        pytest.param(
            lambda: edit(
                dynamic(view(0, series=5, phases=40), 0.8),
                TriggerTime=250,
                TemporalPositionIdentifier=lambda ds: ds.InstanceNumber,
                CardiacNumberOfImages=None,
            ),
            OmissionReason.PERFUSION,
            id="one image a beat",
        ),
        pytest.param(
            lambda: edit(view(0, series=5), ImageType=["ORIGINAL", "PRIMARY", "PERFUSION", "NONE"]),
            OmissionReason.PERFUSION,
            id="perfusion",
        ),
        pytest.param(
            lambda: edit(view(0, series=5), ImageType=["DERIVED", "SECONDARY", "MPR"]), OmissionReason.DERIVED, id="MPR"
        ),
        pytest.param(lambda: edit(view(0, series=5), ScanningSequence="SE"), OmissionReason.NOT_CINE, id="spin echo"),
        pytest.param(lambda: edit(view(0, series=5), ScanningSequence=["EP", "GR"]), OmissionReason.NOT_CINE, id="EPI"),
        pytest.param(
            lambda: edit(
                view(0, series=5),
                ScanningSequence="RM",
                SequenceVariant="NONE",
                MRAcquisitionType="3D",
                NominalInterval=None,
                TriggerTime=None,
            ),
            OmissionReason.NOT_CINE,
            id="a 3D volume",
        ),
        pytest.param(
            lambda: edit(view(0, series=5)[:1], CardiacNumberOfImages=None), OmissionReason.NOT_CINE, id="one image"
        ),
        pytest.param(lambda: edit(view(0, series=5, phases=6)), OmissionReason.TOO_FEW_PHASES, id="six phases"),
        pytest.param(
            lambda: edit(
                dynamic(view(0, series=5, phases=80), 0.045),
                TriggerTime=lambda ds: (ds.InstanceNumber - 1) * 45.0,
                TemporalPositionIdentifier=lambda ds: ds.InstanceNumber,
            ),
            OmissionReason.REAL_TIME,
            id="real time with numbered frames",
        ),
        pytest.param(
            lambda: edit(
                dynamic(view(0, series=5, phases=80), 0.045),
                TriggerTime=None,
                NominalInterval=None,
                CardiacNumberOfImages=None,
            ),
            OmissionReason.REAL_TIME,
            id="real time without trigger",
        ),
        pytest.param(
            lambda: edit(view(0, series=5), CardiacSynchronizationTechnique="REALTIME"),
            OmissionReason.REAL_TIME,
            id="real time as stated",
        ),
        pytest.param(lambda: edit(view(0, series=5), SyntheticData="YES"), OmissionReason.OWN_OUTPUT, id="synthetic"),
        pytest.param(
            lambda: edit(view(0, series=5), ManufacturerModelName="dicom-node"),
            OmissionReason.OWN_OUTPUT,
            id="own output",
        ),
        pytest.param(lambda: edit(view(0, series=5), SOPInstanceUID=""), OmissionReason.UNREADABLE, id="no UID"),
    ],
)
def test_what_is_not_cine_is_left_out_with_its_reason(images, reason) -> None:
    other = images()
    study = assembled(stack(slices=5) + other)
    assert [found.view for found in study.stacks] == [View.SAX]
    assert reasons(study) == {reason}


def test_own_output_by_contributing_equipment() -> None:
    equipment = Dataset()
    equipment.Manufacturer, equipment.ManufacturerModelName = "Somebody", "dicom-node"
    derived = edit(view(0, series=5), ContributingEquipmentSequence=Sequence([equipment]))
    assert reasons(assembled(stack() + derived)) == {OmissionReason.OWN_OUTPUT}


def phase_of(images: list[Dataset], image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "P", "ND")) -> list[Dataset]:
    """Phase images that were acquired with ``images``."""
    return edit(
        copy.deepcopy(images),
        SOPInstanceUID=lambda ds: ds.SOPInstanceUID + ".7",
        SeriesInstanceUID=lambda ds: ds.SeriesInstanceUID + ".7",
        ImageType=list(image_type),
        PixelData=np.random.default_rng(1).integers(0, 4096, 34 * 36).astype(np.uint16).tobytes(),
    )


SPOILED = {"SequenceVariant": "SP", "FlipAngle": 15}
BALANCED = {"SequenceVariant": "SS", "FlipAngle": 60}


def of_slice(images: list[Dataset], index: int) -> list[Dataset]:
    return [ds for ds in images if int(np.frombuffer(ds.PixelData, np.uint16)[-1] - 10) // 40 == index]


@pytest.mark.parametrize("slices", [(2,), (0, 1, 2, 3, 4)])
def test_a_balanced_cine_of_which_phase_images_were_kept_is_cine(slices) -> None:
    images = edit(stack(slices=5), **BALANCED)
    phase = [ds for index in slices for ds in phase_of(of_slice(images, index))]
    study = assembled(images + phase)
    assert study.short_axis is not None
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected_values(20, 5))
    assert reasons(study) == {OmissionReason.FLOW}
    assert left_out(study, OmissionReason.FLOW) == len(phase)


@pytest.mark.parametrize("kind", [BALANCED, SPOILED], ids=["balanced", "spoiled"])
@pytest.mark.parametrize(
    "image_type",
    ["P", "PHASE", "PHASE MAP", "PHASE_MAP", "PHASE CONTRAST", "PHASE_CONTRAST", "PhaseContrast", "VELOCITY-MAP"],
)
def test_a_magnitude_with_phase_images_is_never_preferred_to_a_cine(image_type, kind) -> None:
    cine = edit(stack(slices=5, series=lambda s: 10 + s), **BALANCED)
    magnitude = [frame(slice_index=2, phase=t, series=40, acquisition=9, instance=200 + t) for t in range(20)]
    edit(magnitude, **kind)
    for ds in magnitude:
        ds.PixelData = (np.frombuffer(ds.PixelData, np.uint16) + 500).tobytes()
    study = assembled(cine + magnitude + phase_of(magnitude, ("ORIGINAL", "PRIMARY", image_type)))
    assert study.short_axis is not None
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected_values(20, 5))
    assert reasons(study) == {OmissionReason.FLOW}
    assert left_out(study, OmissionReason.FLOW) == 40


def test_a_spoiled_magnitude_with_phase_images_stays_flow() -> None:
    cine = edit(stack(slices=5), **BALANCED)
    aorta = edit(view(30, series=40), **SPOILED)
    beside = [frame(slice_index=5, phase=t, along=30.0, series=41, instance=300 + t) for t in range(20)]
    edit(beside, **SPOILED)
    study = assembled(cine + aorta + beside + phase_of(aorta + beside))
    assert [found.view for found in study.stacks] == [View.SAX]
    assert study.stacks[0].slices == 5
    assert reasons(study) == {OmissionReason.FLOW}


def test_the_bigger_stack_is_not_measured_when_it_is_the_magnitude_of_flow() -> None:
    cine = edit(stack(slices=5), **BALANCED)
    flow = edit(
        stack(slices=8, series=40),
        **BALANCED,
        FrameOfReferenceUID="1.2.3.4",
        SOPInstanceUID=lambda ds: ds.SOPInstanceUID + ".40",
    )
    study = assembled(cine + flow + phase_of(flow))
    assert study.short_axis is not None
    assert study.short_axis.slices == 5


@pytest.mark.parametrize("description", ["SA perf rest", "localizer", "PSIR", "t1map", "flow", "real time"])
def test_a_description_alone_does_not_exclude_a_plain_cine(description) -> None:
    images = edit(stack(slices=5), SeriesDescription=description)
    assert short_axis(images).slices == 5


def test_spoiled_gradient_echo_cine_is_cine() -> None:
    assert short_axis(edit(stack(slices=5), SequenceVariant="SP")).slices == 5


def test_cine_of_which_the_anonymiser_left_little() -> None:
    bare = edit(
        stack(slices=5), ScanningSequence=None, SequenceVariant=None, MRAcquisitionType=None, ImageType=None,
        AcquisitionDate=None, AcquisitionTime=None, ContentDate=None, ContentTime=None, CardiacNumberOfImages=None,
        FrameOfReferenceUID=None, SeriesNumber=None, AcquisitionNumber=None,
    )  # fmt: skip
    np.testing.assert_array_equal(mean_values(short_axis(bare).pixels), expected_values(20, 5))


# Geometry


def test_mixed_views_in_one_series_are_split_by_orientation() -> None:
    images = stack(slices=6, series=1)
    for angle in (0, 62, 122):
        images += view(angle, series=1)
    for number, ds in enumerate(images, 1):
        ds.InstanceNumber = number
        ds.SOPInstanceUID = f"1.2.3.{number}"
    study = assembled(images)
    assert [found.view for found in study.stacks] == [View.SAX, View.LAX_2CH, View.LAX_3CH, View.LAX_4CH]
    assert study.omissions == ()


def test_frames_of_reference_are_never_merged() -> None:
    here = stack(slices=5, series=1)
    there = edit(
        stack(slices=3, series=2, plane=SHORT_AXIS), FrameOfReferenceUID=FRAME_OF_REFERENCE + ".2",
        SOPInstanceUID=lambda ds: ds.SOPInstanceUID + ".9",
    )  # fmt: skip
    study = assembled(here + there)
    assert [(found.slices, found.frame_of_reference_uid) for found in study.stacks] == [(5, FRAME_OF_REFERENCE)]
    assert left_out(study, OmissionReason.DIFFERENT_GEOMETRY) == 60


def test_few_slices_in_another_frame_of_reference_are_left_out() -> None:
    stray = edit(stack(slices=1, series=2), FrameOfReferenceUID=FRAME_OF_REFERENCE + ".2")
    study = assembled(stack(slices=5) + stray)
    assert study.short_axis is not None
    assert study.short_axis.slices == 5
    assert reasons(study) == {OmissionReason.DIFFERENT_GEOMETRY}


def test_a_frame_of_reference_for_each_image_tells_nothing() -> None:
    """Sunnybrook: the anonymiser drew one for each image."""
    images = edit(stack(slices=5), FrameOfReferenceUID=lambda ds: f"1.2.3.{ds.InstanceNumber}")
    assert short_axis(images).slices == 5


def test_images_of_another_size_lie_in_the_same_stack() -> None:
    images = stack(slices=5)
    for ds in images[-20:]:
        ds.Rows, ds.PixelData = 33, ds.PixelData[: 33 * 36 * 2]
    study = assembled(images)
    assert study.short_axis is not None
    assert (study.short_axis.slices, study.short_axis.regridded_slices) == (5, (4,))
    np.testing.assert_array_equal(
        study.short_axis.pixels[:, 4, 1:33, 1:].mean(axis=(1, 2)), expected_values(20, 5)[:, 4]
    )
    assert study.omissions == ()


def test_transverse_stack_is_not_short_axis() -> None:
    transverse = (np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
    study = assembled(stack(slices=8, plane=transverse) + view(0, series=2) + view(122, series=3))
    assert study.short_axis is None
    assert reasons(study) == {OmissionReason.DIFFERENT_GEOMETRY}


def test_short_axis_of_a_heart_on_the_right_is_confirmed_by_the_long_axis_views() -> None:
    mirror = np.array([-1.0, 1.0, 1.0])

    def mirrored(plane: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return plane[0] * mirror, plane[1] * mirror

    images = stack(slices=8, plane=mirrored(SHORT_AXIS))
    images += stack(slices=1, series=2, plane=mirrored(long_axis(0)))
    images += stack(slices=1, series=3, plane=mirrored(long_axis(122)))
    assert short_axis(images).slices == 8
    assert not short_axis(images).view_open
    # By itself the direction is too odd to be believed: the segmentation has to show it.
    assert short_axis(stack(slices=8, plane=mirrored(SHORT_AXIS))).view_open


@pytest.mark.parametrize("stated", [None, "", "0"])
def test_a_thickness_that_no_image_states_is_the_distance_of_slices_and_known_not_to_be_stated(
    stated: str | None,
) -> None:
    geometry = short_axis(edit(stack(slices=5, pitch=9.5), SliceThickness=stated)).geometry
    assert geometry.slice_thickness == pytest.approx(9.5, abs=1e-4)
    assert not geometry.thickness_stated
    assert short_axis(stack(slices=5)).geometry.thickness_stated
    # One image that states it is enough.
    images = edit(stack(slices=5, pitch=9.5), SliceThickness=stated)
    images[0].SliceThickness = "7"
    geometry = short_axis(images).geometry
    assert (geometry.slice_thickness, geometry.thickness_stated) == (7.0, True)


def test_too_few_or_too_dense_short_axis_slices() -> None:
    assert reasons(assembled(stack(slices=2))) == {OmissionReason.DIFFERENT_GEOMETRY}
    assert short_axis(stack(slices=3)).slices == 3
    dense = edit(stack(slices=8, pitch=2.5), SliceThickness=2.5)
    assert reasons(assembled(dense)) == {OmissionReason.DIFFERENT_GEOMETRY}
    # Over a whole ventricle, thin slices are a short axis: only on them does AHA segment 17 have a thickness.
    thin = edit(stack(slices=24, pitch=3.0, phases=12), SliceThickness=3.0)
    assert short_axis(thin).geometry.pitch == pytest.approx(3.0, abs=1e-4)
    assert short_axis(thin).slices == 24
    assert short_axis(stack(slices=5, pitch=17.7)).geometry.pitch == pytest.approx(17.7, abs=1e-4)


# Views


@pytest.mark.parametrize(
    ("angle", "name"),
    [
        (0, View.LAX_2CH),
        (-15, View.LAX_2CH),
        (14, View.LAX_2CH),
        (62, View.LAX_3CH),
        (75, View.LAX_3CH),
        (48, View.LAX_3CH),
        (122, View.LAX_4CH),
        (135, View.LAX_4CH),
        (108, View.LAX_4CH),
    ],
)
@pytest.mark.parametrize("label", ["", "cine 4CH", "cine 2CH"])
def test_chamber_view_by_the_angle_about_the_long_axis(angle, name, label) -> None:
    study = assembled(stack(slices=6) + edit(view(angle, series=4), SeriesDescription=label))
    assert [found.view for found in study.stacks] == [View.SAX, name]


def test_a_label_decides_between_two_views_that_geometry_leaves_open() -> None:
    between = 31.0
    for label, name in (("2CH", View.LAX_2CH), ("3CH", View.LAX_3CH)):
        study = assembled(stack(slices=6) + edit(view(between, series=4), SeriesDescription=label))
        assert study.stacks[1].view is name


def test_planes_beside_the_left_ventricle_are_not_its_views() -> None:
    from cine_scanner import RIGHT

    images = stack(slices=6) + view(0, series=2) + view(62, series=3) + view(122, series=4)
    images += view(2, series=5, aside=50 * RIGHT)  # two-chamber view of the right ventricle
    images += view(30, series=6, aside=35 * RIGHT)  # right ventricular outflow tract
    study = assembled(images)
    by_series = {found.series_instance_uids[0][-1]: found.view for found in study.stacks[1:]}
    assert by_series == {"2": View.LAX_2CH, "3": View.LAX_3CH, "4": View.LAX_4CH, "5": View.LAX, "6": View.RVOT}


def test_views_without_a_short_axis_stack() -> None:
    study = assembled(view(0, series=2) + view(62, series=3) + view(122, series=4))
    assert [found.view for found in study.stacks] == [View.LAX_2CH, View.LAX_3CH, View.LAX_4CH]


# Studies


def test_several_studies_are_kept_apart() -> None:
    one = stack(slices=5)
    two = edit(stack(slices=7), StudyInstanceUID="1.3.9", SOPInstanceUID=lambda ds: ds.SOPInstanceUID + ".2")
    mixed = one + two
    random.Random(4).shuffle(mixed)
    studies = assemble_datasets(mixed)
    assert [(study.context.study_instance_uid, study.stacks[0].slices) for study in studies] == [
        (one[0].StudyInstanceUID, 5),
        ("1.3.9", 7),
    ]


def test_context_of_the_study() -> None:
    images = edit(
        stack(slices=5), PatientSex="F", PatientAge="061Y", PatientSize=1.68, PatientWeight=70, HeartRate=72,
        ManufacturerModelName="Scanner 3", MagneticFieldStrength=15000,
    )  # fmt: skip
    context = assembled(images).context
    assert (context.sex, context.age_years, context.height_m, context.weight_kg) == ("F", 61.0, 1.68, 70.0)
    assert (context.heart_rate_bpm, context.manufacturer, context.model_name) == (72.0, "Test", "Scanner 3")
    assert context.field_strength_t == 1.5


def test_context_from_centimetres_and_birth_date_and_nonsense() -> None:
    images = edit(stack(slices=5), PatientSex="", PatientBirthDate="19630301", PatientSize=168, PatientWeight=0)
    context = assembled(images).context
    assert (context.sex, context.age_years, context.height_m, context.weight_kg) == (None, 60.0, 1.68, None)
    odd = edit(stack(slices=5), PatientBirthDate="00000000", StudyDate="20120000")
    assert assembled(odd).context.age_years is None


def test_nothing_at_all() -> None:
    assert assemble_datasets([]) == []
    assert reasons(assembled([Dataset()])) == {OmissionReason.UNREADABLE}


def test_enhanced_real_time_is_left_out() -> None:
    images = [enhanced(stack(slices=5))]
    images[0].CardiacSynchronizationTechnique = "REALTIME"
    study = assembled(images)
    assert study.stacks == ()
    assert reasons(study) == {OmissionReason.REAL_TIME}
