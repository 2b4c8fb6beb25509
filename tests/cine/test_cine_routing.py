"""Which studies of an MR scanner the default route takes: those with a cine by phases."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable

import pytest
from cine_enhanced import enhanced
from cine_scanner import edit, stack, view
from pydicom.dataset import Dataset

from dicom_node.config import Route, SeriesRule
from dicom_node.schedule.completeness import StudyReading, read_study
from pipelines.cine.facts import frame_facts
from storage.jobs import SeriesSummary, StudyContents

NOW = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)
SAGITTAL = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}


def reading(images: list[Dataset], rule: SeriesRule | None = None) -> StudyReading:
    by_series: dict[str, list[Dataset]] = defaultdict(list)
    for ds in images:
        by_series[str(ds.SeriesInstanceUID)].append(ds)
    series = tuple(
        SeriesSummary(uid, "MR1", "MR", "", "", "", "", tuple(frame_facts(ds).to_json() for ds in members))
        for uid, members in by_series.items()
    )
    route = Route(destinations=("pacs",), series=(rule or SeriesRule(),))
    return read_study(StudyContents("1.2", 0, len(images), NOW, 0.0, series), {"cine": route})


def taken(images: list[Dataset]) -> set[str]:
    return set(reading(images).routes[0].series_instance_uids)


def ungated(images: list[Dataset], **changes: object) -> list[Dataset]:
    edit(images, TriggerTime=None, NominalInterval=None, HeartRate=None, CardiacNumberOfImages=None, FlipAngle=90)
    return edit(images, **changes)


OTHERS: dict[str, Callable[[], list[Dataset]]] = {
    "knee": lambda: edit(
        stack(slices=30, phases=1, pitch=4.0), **SAGITTAL, CardiacNumberOfImages=None, ScanningSequence="SE"
    ),
    "knee that kept the heart's attributes": lambda: edit(stack(slices=30, phases=1, pitch=4.0), **SAGITTAL),
    "dynamic contrast": lambda: ungated(
        stack(slices=20, phases=15, pitch=3.0),
        MRAcquisitionType="3D",
        SequenceVariant="SP",
        TemporalPositionIdentifier=lambda ds: ds.InstanceNumber % 15,
    ),
    "twelve echoes": lambda: ungated(
        stack(slices=10, phases=12), SequenceVariant="SP", EchoTime=lambda ds: 2.0 * (ds.InstanceNumber % 12)
    ),
    "brain, eight contrasts": lambda: [
        ds
        for series in range(8)
        for ds in ungated(stack(slices=10, phases=1, series=series), ScanningSequence="SE", SequenceVariant="SK")
    ],
    "diffusion": lambda: ungated(stack(slices=10, phases=30), ScanningSequence=["EP", "SE"]),
    "late enhancement alone": lambda: edit(
        stack(slices=8, phases=1), ScanningSequence=["GR", "IR"], InversionTime=280, CardiacNumberOfImages=None
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_study_without_cine_is_left_alone_and_told_why(name) -> None:
    found = reading(OTHERS[name]())
    assert found.routes[0].series_instance_uids == ()
    for series in found.routes[0].series:
        assert "minimum_phases" in series.sentence
        assert "it is not a cine" in series.sentence


@pytest.mark.parametrize("phases", [1, None])
def test_late_enhancement_alone_is_taken_where_a_rule_asks_for_no_cine(phases: int | None) -> None:
    found = reading(OTHERS["late enhancement alone"](), SeriesRule(minimum_phases=phases))
    assert len(found.routes[0].series_instance_uids) == 1


CINES: dict[str, Callable[[], list[Dataset]]] = {
    "one series": lambda: stack(slices=6),
    "one series a slice": lambda: stack(slices=6, series=lambda index: 10 + index),
    "one series a phase": lambda: edit(
        stack(slices=6),
        SeriesInstanceUID=lambda ds: f"1.2.3.{(ds.InstanceNumber - 1) % 20}",
    ),
    "Enhanced": lambda: [enhanced(stack(slices=6))],
    "without trigger times": lambda: edit(stack(slices=6), TriggerTime=None),
    "stripped of all that gates": lambda: edit(
        stack(slices=6),
        TriggerTime=None,
        NominalInterval=None,
        CardiacNumberOfImages=None,
        SequenceName="*tfi2d1_15",
    ),
    "long axis alone": lambda: view(0, series=3),
}


@pytest.mark.parametrize("name", CINES)
def test_a_cine_is_taken_however_its_series_are_cut(name) -> None:
    images = CINES[name]()
    assert taken(images) == {str(ds.SeriesInstanceUID) for ds in images}


def test_flow_and_late_enhancement_go_with_the_cine_and_localizers_do_not() -> None:
    enhancement = edit(stack(slices=6, phases=1, series=5), ScanningSequence=["GR", "IR"], InversionTime=280)
    flow = edit(view(30, series=6), ImageType=["ORIGINAL", "PRIMARY", "P"])
    localizer = edit(view(60, series=7, phases=1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    wanted = {str(images[0].SeriesInstanceUID) for images in (stack(slices=6), enhancement, flow)}
    assert taken(stack(slices=6) + enhancement + flow + localizer) == wanted


def test_the_short_axis_of_mixed_matrix_and_mirrored_axes_is_one_stack_to_wait_for() -> None:
    images = stack(slices=6)
    for ds in images[60:]:
        ds.Rows += 8
        row = [float(v) for v in ds.ImageOrientationPatient]
        ds.ImageOrientationPatient = [*(-v for v in row[:3]), *row[3:]]
        ds.ImagePositionPatient = [
            float(p) + r * ds.PixelSpacing[1] * (ds.Columns - 1)
            for p, r in zip(ds.ImagePositionPatient, row[:3], strict=True)
        ]
    (found,) = reading(images).completeness.stacks
    assert (found.short_axis, found.slices_complete, found.slices_expected) == (True, 6, 6)
    (found,) = reading(images[:-1]).completeness.stacks
    assert not found.complete
