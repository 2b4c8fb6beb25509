"""Late enhancement and what is only recognised: told by the header and the images, whatever the series are called."""

from __future__ import annotations

import numpy as np
import pytest
from cine_scanner import edit, stack, view
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from pipelines.cine.assemble import assemble_datasets
from pipelines.cine.stack import CineStudy, OmissionReason, Reconstruction, View

SLICES, PHASES = 6, 12
FEW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


def assembled(images: list[Dataset]) -> CineStudy:
    (study,) = assemble_datasets(images)
    return study


def cine() -> list[Dataset]:
    return stack(slices=SLICES, phases=PHASES)


def enhancement(
    reconstruction: Reconstruction = Reconstruction.MAGNITUDE,
    *,
    series: int = 30,
    told_by: str = "ImageType",
    **rest: object,
) -> list[Dataset]:
    """One image a slice, prepared by inversion; a heart that is bright in dark or grey air."""
    images = edit(
        stack(slices=SLICES, phases=1, series=series, acquisition=3),
        ScanningSequence=["GR", "IR"], SequenceVariant=["SK", "SP", "MP"], SequenceName="*tfl2d1_25", InversionTime=280,
        FlipAngle=20, TriggerTime="560", CardiacNumberOfImages=None, SeriesDescription="series",
    )  # fmt: skip
    sensitive = reconstruction is Reconstruction.PHASE_SENSITIVE
    for number, ds in enumerate(images):
        pixels = np.full((ds.Rows, ds.Columns), 900 if sensitive else 20, dtype="<u2")
        pixels[8:26, 8:26] = 850 if sensitive else 30
        pixels[12:20, 12:20] = 2000 + number
        ds.PixelData = pixels.tobytes()
        if told_by == "ImageType":
            ds.ImageType = ["ORIGINAL", "PRIMARY", "R" if sensitive else "M"]
        else:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        if told_by == "rescale" and sensitive:
            ds.RescaleSlope, ds.RescaleIntercept = 1, -900
    return images


@FEW
@given(
    told_by=st.sampled_from(["ImageType", "grey values", "rescale"]),
    names=st.sampled_from(["", "LGE", "cine sax", "PSIR", "localizer", "T1 map"]),
    agent=st.booleans(),
    inversion_ms=st.sampled_from([180.0, 280.0, 450.0]),
    as_times=st.booleans(),
    seed=st.randoms(use_true_random=False),
)
def test_magnitude_and_phase_sensitive_stacks_are_told_apart(
    told_by, names, agent, inversion_ms, as_times, seed
) -> None:
    images = [
        *enhancement(told_by=told_by),
        *enhancement(Reconstruction.PHASE_SENSITIVE, told_by=told_by, series=31),
    ]
    edit(images, SeriesDescription=names, ContrastBolusAgent="Gd" if agent else None)
    if as_times:
        edit(images, InversionTime=None, InversionTimes=[inversion_ms])
    else:
        edit(images, InversionTime=inversion_ms)
    together = cine() + images
    seed.shuffle(together)
    study = assembled(together)
    assert study.omissions == ()
    assert study.short_axis is not None
    assert study.short_axis.pixels.shape[:2] == (PHASES, SLICES)
    assert [(found.view, found.reconstruction, found.slices) for found in study.late_enhancement] == [
        (View.SAX, Reconstruction.MAGNITUDE, SLICES),
        (View.SAX, Reconstruction.PHASE_SENSITIVE, SLICES),
    ]
    for found, series in zip(study.late_enhancement, (30, 31), strict=True):
        assert {source.series_instance_uid.rsplit(".")[-1] for source in found.sources} == {str(series)}
        np.testing.assert_allclose(found.inversion_times_ms, inversion_ms)
        np.testing.assert_allclose(found.trigger_times_ms, 560)
        np.testing.assert_allclose(found.geometry.positions, study.short_axis.geometry.positions, atol=1e-5)
        heart = found.pixels[:, 12:20, 12:20].mean(axis=(1, 2))
        np.testing.assert_allclose(np.diff(heart), 1.0)


@pytest.mark.parametrize("stated", [None, "", "0"])
def test_a_thickness_that_no_late_enhancement_states_is_the_distance_of_its_slices(stated: str | None) -> None:
    apart = 9.0
    images = edit(enhancement(), SliceThickness=stated)
    normal = np.cross(*np.array(images[0].ImageOrientationPatient, dtype=float).reshape(2, 3))
    for number, ds in enumerate(images):
        place = np.array(images[0].ImagePositionPatient, dtype=float)
        ds.ImagePositionPatient = [f"{value:.4f}" for value in place + (apart * number if number else 0.0) * normal]
    (late,) = assembled([*cine(), *images]).late_enhancement
    assert late.geometry.slice_thickness == pytest.approx(apart, abs=1e-3)
    assert not late.geometry.thickness_stated
    images[0].SliceThickness = "7"
    (late,) = assembled([*cine(), *images]).late_enhancement
    assert (late.geometry.slice_thickness, late.geometry.thickness_stated) == (7.0, True)


def test_views_of_long_axis_late_enhancement() -> None:
    images = cine()
    for series, angle in ((40, 0), (41, 62), (42, 122)):
        images += edit(
            view(angle, series=series, phases=1),
            ScanningSequence=["GR", "IR"],
            InversionTime=300,
            CardiacNumberOfImages=None,
        )
    study = assembled(images)
    assert [found.view for found in study.late_enhancement] == [View.LAX_2CH, View.LAX_3CH, View.LAX_4CH]
    assert study.omissions == ()


def test_a_repeated_slice_in_another_matrix_is_placed_on_the_grid() -> None:
    images = enhancement()
    again = edit(
        enhancement(series=32)[2:3], AcquisitionTime="113000", SOPInstanceUID=lambda ds: ds.SOPInstanceUID + ".5"
    )
    for ds in again:
        ds.PixelData = np.pad(
            np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns), ((0, 4), (0, 0))
        ).tobytes()
        ds.Rows += 4
    study = assembled(cine() + images + again)
    (found,) = study.late_enhancement
    assert (found.slices, found.regridded_slices, found.interpolated_slices) == (SLICES, (2,), ())
    assert found.sources[2].sop_instance_uid == again[0].SOPInstanceUID
    (entry,) = study.omissions
    assert entry.reason is OmissionReason.REPEATED_ACQUISITION


def look_locker() -> list[Dataset]:
    images = stack(slices=1, phases=PHASES, series=50)
    for number, ds in enumerate(images):
        ds.InversionTimes = [150.0 + 35 * number]
    return images


RECOGNISED = {
    "Look-Locker": (look_locker, OmissionReason.LATE_ENHANCEMENT),
    "STIR": (lambda: edit(enhancement(), ScanningSequence=["SE", "IR"]), OmissionReason.LATE_ENHANCEMENT),
    "T1 map": (lambda: typed(enhancement(), "T1 MAP"), OmissionReason.MAPPING),
    "phase image of PSIR": (lambda: typed(enhancement(), "P"), OmissionReason.LATE_ENHANCEMENT),
    "flow": (lambda: typed(view(0, series=50), "P"), OmissionReason.FLOW),
    "localizer": (lambda: typed(view(0, series=50), "LOCALIZER"), OmissionReason.LOCALIZER),
    "perfusion": (lambda: typed(view(0, series=50), "PERFUSION"), OmissionReason.PERFUSION),
    "tagging": (lambda: edit(view(0, series=50), SeriesDescription="tag"), OmissionReason.TAGGED),
}


def typed(images: list[Dataset], value: str) -> list[Dataset]:
    return edit(images, ImageType=["ORIGINAL", "PRIMARY", value])


@pytest.mark.parametrize("name", RECOGNISED)
def test_what_is_recognised_is_listed_and_still_left_out_with_its_reason(name) -> None:
    images, kind = RECOGNISED[name]
    others = images()
    study = assembled(cine() + others)
    assert study.late_enhancement == ()
    (series,) = study.recognised
    assert (series.kind, series.series_instance_uid) == (kind, others[0].SeriesInstanceUID)
    assert series.instances == len(others)
    assert {uid for entry in study.omissions for uid in entry.sop_instance_uids} == {ds.SOPInstanceUID for ds in others}
