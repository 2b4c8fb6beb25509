"""One ventricle in whatever way its slices are encoded, and one kind of cine in a stack: variants drawn at random."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from cine_enhanced import enhanced
from cine_scanner import FRAME_OF_REFERENCE, SHORT_AXIS, edit, expected_values, mean_values, stack, view
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from pipelines.analysis import run
from pipelines.cine.assemble import assemble_datasets
from pipelines.cine.facts import completeness, frame_facts
from pipelines.cine.stack import CineStack, CineStudy, OmissionReason
from pipelines.errors import RefusalReason
from pipelines.ventricular_function.steps import ShortAxis, short_axis

# Not shrunk: an assembly is too slow for that, and its inputs are few and speak for themselves.
FEW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
SLICES, PHASES = 6, 12


def assembled(images: list[Dataset]) -> CineStudy:
    (study,) = assemble_datasets(images)
    return study


def slices_of(images: list[Dataset]) -> list[list[Dataset]]:
    return [list(group) for _, group in itertools.groupby(images, key=lambda ds: str(ds.ImagePositionPatient))]


def patterned(**rest: object) -> list[Dataset]:
    """A stack whose grey values tell row, column, slice and phase apart."""
    images = stack(slices=SLICES, phases=PHASES, **rest)
    for ds in images:
        rows, columns = np.mgrid[: ds.Rows, : ds.Columns]
        pixels = 100 + rows * 40 + columns + (np.frombuffer(ds.PixelData, "<u2")[-1] % 40) * 2
        ds.PixelData = pixels.astype("<u2").tobytes()
    return images


def geometry(ds: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    row, column = np.array(ds.ImageOrientationPatient, dtype=float).reshape(2, 3)
    return np.array(ds.ImagePositionPatient, dtype=float), row, column, np.array(ds.PixelSpacing, dtype=float)


def write(ds: Dataset, pixels: np.ndarray, position: np.ndarray, row: np.ndarray, column: np.ndarray) -> None:
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelData = np.ascontiguousarray(pixels).astype("<u2").tobytes()
    ds.ImagePositionPatient = [f"{v:.6f}" for v in position]
    ds.ImageOrientationPatient = [f"{v:.9f}" for v in (*row, *column)]


def mirror_columns(ds: Dataset) -> None:
    position, row, column, spacing = geometry(ds)
    write(ds, ds.pixel_array[:, ::-1], position + row * spacing[1] * (ds.Columns - 1), -row, column)


def mirror_rows(ds: Dataset) -> None:
    position, row, column, spacing = geometry(ds)
    write(ds, ds.pixel_array[::-1], position + column * spacing[0] * (ds.Rows - 1), row, -column)


def exchange_axes(ds: Dataset) -> None:
    position, row, column, spacing = geometry(ds)
    write(ds, ds.pixel_array.T, position, column, row)
    ds.PixelSpacing = list(spacing[::-1])


def more_rows_below(ds: Dataset) -> None:
    position, row, column, _ = geometry(ds)
    write(ds, np.pad(ds.pixel_array, ((0, 8), (0, 0))), position, row, column)


def more_rows_above(ds: Dataset) -> None:
    position, row, column, spacing = geometry(ds)
    write(ds, np.pad(ds.pixel_array, ((8, 0), (0, 0))), position - 8 * spacing[0] * column, row, column)


def more_columns(ds: Dataset) -> None:
    position, row, column, spacing = geometry(ds)
    write(ds, np.pad(ds.pixel_array, ((0, 0), (5, 4))), position - 5 * spacing[1] * row, row, column)


LOSSLESS: tuple[Callable[[Dataset], None], ...] = (
    mirror_columns, mirror_rows, exchange_axes, more_rows_below, more_rows_above, more_columns,
)  # fmt: skip


@FEW
@given(data=st.data())
def test_matrix_and_axes_of_some_slices_change_no_grey_value_and_no_place(data) -> None:
    spacing = data.draw(st.sampled_from([[1.5, 1.5], [1.5, 1.2], [1.25, 1.5]]), label="spacing")
    reference = assembled(edit(patterned(), PixelSpacing=spacing)).short_axis
    assert reference is not None
    images = edit(patterned(series=lambda index: 1 + index), PixelSpacing=spacing)
    changed = data.draw(st.sets(st.integers(0, SLICES - 1), min_size=1, max_size=SLICES // 2 - 1), label="slices")
    for index in changed:
        for change in data.draw(st.lists(st.sampled_from(LOSSLESS), min_size=1, max_size=3, unique=True)):
            for ds in slices_of(images)[index]:
                change(ds)
    study = assembled(images)
    found = study.short_axis
    assert found is not None
    assert study.omissions == ()
    assert found.slices == SLICES
    assert set(found.regridded_slices) <= changed
    assert found.interpolated_slices == ()
    np.testing.assert_array_equal(found.pixels, reference.pixels)
    np.testing.assert_allclose(found.geometry.positions, reference.geometry.positions, atol=1e-4)


@FEW
@given(
    cut=st.sets(st.integers(0, SLICES - 1), min_size=1, max_size=3),
    tilt_deg=st.floats(0.2, 4.0),
    scale=st.floats(0.95, 1.06),
    turn_deg=st.floats(-20, 20),
    about=st.sampled_from(["row", "column", "normal"]),
)
def test_tilt_spacing_and_turn_of_some_slices_leave_one_stack(cut, tilt_deg, scale, turn_deg, about) -> None:
    images = stack(slices=SLICES, phases=PHASES)
    for index in cut:
        for ds in slices_of(images)[index]:
            position, row, column, spacing = geometry(ds)
            centre = position + row * spacing[1] * (ds.Columns - 1) / 2 + column * spacing[0] * (ds.Rows - 1) / 2
            axis = {"row": row, "column": column, "normal": np.cross(row, column)}[about]
            row, column = (turned(v, axis, turn_deg if about == "normal" else tilt_deg) for v in (row, column))
            spacing = spacing * scale
            ds.PixelSpacing = [f"{v:.6f}" for v in spacing]
            corner = centre - row * spacing[1] * (ds.Columns - 1) / 2 - column * spacing[0] * (ds.Rows - 1) / 2
            write(ds, ds.pixel_array, corner, row, column)
    study = assembled(images)
    found = study.short_axis
    assert found is not None
    assert (found.slices, study.omissions) == (SLICES, ())
    assert found.geometry.pitch == pytest.approx(10.0, abs=0.03)
    inner = found.pixels[:, :, 8:-8, 8:-8].mean(axis=(2, 3))
    np.testing.assert_allclose(inner, expected_values(PHASES, SLICES), rtol=1e-5)


@FEW
@given(step_deg=st.floats(0.1, 0.8), first=st.integers(0, SLICES - 1), about=st.sampled_from([0, 1]))
def test_slices_that_turn_more_and_more_leave_one_stack(step_deg, first, about) -> None:
    """A stack whose planes follow a bent axis: no two neighbours differ by much, its ends by up to 5°."""
    images = stack(slices=SLICES, phases=PHASES)
    for index, group in enumerate(slices_of(images)):
        for ds in group:
            position, row, column, spacing = geometry(ds)
            half = row * spacing[1] * (ds.Columns - 1) / 2 + column * spacing[0] * (ds.Rows - 1) / 2
            axes = [turned(v, (row, column)[about], step_deg * (index - first)) for v in (row, column)]
            after = axes[0] * spacing[1] * (ds.Columns - 1) / 2 + axes[1] * spacing[0] * (ds.Rows - 1) / 2
            write(ds, ds.pixel_array, position + half - after, *axes)
    study = assembled(images)
    found = study.short_axis
    assert found is not None
    assert (found.slices, study.omissions) == (SLICES, ())
    np.testing.assert_allclose(
        found.pixels[:, :, 8:-8, 8:-8].mean(axis=(2, 3)), expected_values(PHASES, SLICES), rtol=1e-5
    )


def turned(vector: np.ndarray, axis: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    around = np.cross(axis, vector) * np.sin(angle) + axis * (axis @ vector) * (1 - np.cos(angle))
    return np.asarray(vector * np.cos(angle) + around)


def test_the_grid_is_placed_where_the_tissue_is() -> None:
    """A pattern that is linear in space comes back as such from a turned and rescaled slice."""
    images = stack(slices=4, phases=PHASES)
    for index, group in enumerate(slices_of(images)):
        for ds in group:
            if index == 2:
                position, row, column, spacing = geometry(ds)
                row, column = (turned(v, np.cross(row, column), 12.0) for v in (row, column))
                ds.PixelSpacing = [1.6, 1.55]
                write(ds, ds.pixel_array, position, row, column)
            position, row, column, spacing = geometry(ds)
            rows, columns = np.mgrid[: ds.Rows, : ds.Columns]
            points = position + rows[..., None] * spacing[0] * column + columns[..., None] * spacing[1] * row
            write(ds, np.rint(ramp(points)), position, row, column)
    found = assembled(images).short_axis
    assert found is not None
    assert found.interpolated_slices == (2,)
    rows, columns = np.mgrid[10:24, 10:26]
    points = found.geometry.to_patient(2.0, rows, columns)
    assert np.abs(found.pixels[:, 2, 10:24, 10:26] - ramp(points)).max() < 1.5


def ramp(points: np.ndarray) -> np.ndarray:
    """Grey value at points (…, 3), linear in space."""
    return np.asarray(2000 + 20 * (points @ SHORT_AXIS[0]) + 5 * (points @ SHORT_AXIS[1]))


@pytest.mark.parametrize("as_enhanced", [False, True])
def test_a_repeat_with_mirrored_axes_replaces_its_slices(as_enhanced) -> None:
    images = stack(slices=SLICES, phases=PHASES)
    again = edit(
        stack(slices=SLICES, phases=PHASES, series=2, acquisition=2),
        PixelData=lambda ds: (np.frombuffer(ds.PixelData, "<u2") + 500).tobytes(),
    )
    again = [ds for group in slices_of(again)[1:3] for ds in group]
    for ds in again:
        mirror_columns(ds)
    study = assembled([enhanced(images), enhanced(again)] if as_enhanced else images + again)
    found = study.short_axis
    assert found is not None
    assert found.slices == SLICES
    wanted = expected_values(PHASES, SLICES)
    wanted[:, 1:3] += 500
    np.testing.assert_array_equal(mean_values(found.pixels)[:, [0, 3, 4, 5]], wanted[:, [0, 3, 4, 5]])
    np.testing.assert_allclose(found.pixels[:, 1:3, 1:, 1:-1].mean(axis=(2, 3)), wanted[:, 1:3])
    assert {entry.reason for entry in study.omissions} == {OmissionReason.REPEATED_ACQUISITION}


def test_a_stack_that_was_planned_again_is_measured_from_one_prescription() -> None:
    """Offset by 4 mm and tilted by 2°: slices of both would lie between one another."""
    again = edit(
        stack(slices=SLICES, phases=PHASES, series=2, acquisition=2, aside=4.0 * np.cross(*SHORT_AXIS)),
        SOPInstanceUID=lambda ds: ds.SOPInstanceUID + ".7",
    )
    for ds in again:
        position, row, column, _ = geometry(ds)
        write(ds, ds.pixel_array, position, row, turned(column, row, 2.0))
    study = assembled(stack(slices=SLICES, phases=PHASES) + again)
    found = study.short_axis
    assert found is not None
    assert found.geometry.pitch == pytest.approx(10.0, abs=0.1)
    assert found.slices in {SLICES, SLICES + 1}
    assert {entry.reason for entry in study.omissions} == {OmissionReason.REPEATED_ACQUISITION}


def test_a_frame_of_reference_for_each_series_tells_nothing() -> None:
    images = stack(slices=SLICES, phases=PHASES, series=lambda index: 10 + index)
    edit(images, FrameOfReferenceUID=lambda ds: f"{FRAME_OF_REFERENCE}.{ds.SeriesNumber}")
    study = assembled(images)
    assert study.short_axis is not None
    assert (study.short_axis.slices, study.omissions) == (SLICES, ())


REFERENCES: dict[str, Callable[[Dataset], str]] = {
    "absent": lambda ds: "",
    "drawn for each image": lambda ds: f"2.25.{ds.InstanceNumber}{ds.SOPInstanceUID[-6:].replace('.', '')}",
    "drawn for each series": lambda ds: f"2.25.{ds.SeriesNumber}",
}


@FEW
@given(
    which=st.sets(st.integers(0, SLICES - 1), min_size=3, max_size=SLICES),
    how=st.sampled_from(sorted(REFERENCES)),
    beside=st.booleans(),
)
def test_a_frame_of_reference_that_tells_nothing_splits_nothing(which, how, beside) -> None:
    images = stack(slices=SLICES, phases=PHASES, series=lambda index: 10 + index)
    for index in which:
        edit(slices_of(images)[index], FrameOfReferenceUID=REFERENCES[how])
    study = assembled(images + (view(90.0, series=90, phases=PHASES) if beside else []))
    found = study.short_axis
    assert found is not None
    assert (found.slices, study.omissions) == (SLICES, ())
    if SLICES - len(which) > 1:
        assert found.frame_of_reference_uid == FRAME_OF_REFERENCE
    complete = completeness([frame_facts(ds) for ds in images])
    assert [one.slices_complete for one in complete.stacks] == [SLICES]


@FEW
@given(
    which=st.sets(st.integers(0, SLICES - 1), min_size=1, max_size=2),
    columns=st.integers(-12, 12),
    rows=st.integers(-12, 12),
)
def test_slices_of_another_field_of_view_keep_the_heart_in_its_place(which, columns, rows) -> None:
    """The technologist moves the field of view by some centimetres in the middle of the stack."""
    reference = assembled(patterned()).short_axis
    assert reference is not None
    images = patterned()
    for index in which:
        for ds in slices_of(images)[index]:
            position, row, column, spacing = geometry(ds)
            moved = np.roll(ds.pixel_array, (-rows, -columns), axis=(0, 1))
            write(ds, moved, position + columns * spacing[1] * row + rows * spacing[0] * column, row, column)
    study = assembled(images)
    found = study.short_axis
    assert found is not None
    assert (found.slices, study.omissions, found.interpolated_slices) == (SLICES, (), ())
    # Tissue lies within a centimetre of where it lies in the other slices, and exactly where the geometry says.
    aside = found.geometry.positions - reference.geometry.positions
    assert np.linalg.norm(aside, axis=1).max() <= 10.0
    index = min(which)
    points = reference.geometry.to_patient(float(index), *np.mgrid[16:20, 16:20])
    steps = points - found.geometry.positions[index]
    at_row = np.rint(steps @ found.geometry.column_direction / found.geometry.pixel_spacing[0]).astype(int)
    at_column = np.rint(steps @ found.geometry.row_direction / found.geometry.pixel_spacing[1]).astype(int)
    values = found.pixels[:, index, at_row, at_column]
    np.testing.assert_array_equal(values, reference.pixels[:, index, 16:20, 16:20])


# What continues the stack and cannot be measured with it


def continued(first: int, **changes: object) -> list[Dataset]:
    images = stack(slices=SLICES, phases=PHASES)
    edit([ds for group in slices_of(images)[first:] for ds in group], **changes)
    return images


@pytest.mark.parametrize(
    ("images", "measured"),
    [
        pytest.param(lambda: continued(4, FrameOfReferenceUID=FRAME_OF_REFERENCE + ".2"), 4, id="Frame of Reference"),
        pytest.param(lambda: continued(3, FrameOfReferenceUID=FRAME_OF_REFERENCE + ".2"), 3, id="half and half"),
        pytest.param(lambda: tilted(4, 9.0), 4, id="9 degrees"),
        pytest.param(lambda: continued(4, SequenceVariant="SP", SequenceName="*fl2d1"), 4, id="spoiled"),
    ],
)
def test_volumes_of_a_stack_that_goes_on_elsewhere_are_declined(images, measured) -> None:
    study = assembled(images())
    assert study.short_axis is not None
    assert study.short_axis.slices == measured
    omitted = [entry for entry in study.omissions if entry.reason is OmissionReason.CONTINUED_ELSEWHERE]
    assert sum(len(entry.sop_instance_uids) for entry in omitted) == (SLICES - measured) * PHASES
    (refusal, *_) = run([short_axis], {CineStudy: study}, [ShortAxis]).refusals
    assert refusal.reason is RefusalReason.SPLIT_STACK
    assert "continue the short-axis stack" in refusal.sentence


def tilted(first: int, degrees: float) -> list[Dataset]:
    images = stack(slices=SLICES, phases=PHASES)
    for ds in [ds for group in slices_of(images)[first:] for ds in group]:
        position, row, column, spacing = geometry(ds)
        middle = column * spacing[0] * (ds.Rows - 1) / 2
        after = turned(column, row, degrees)
        write(ds, ds.pixel_array, position + middle - after * spacing[0] * (ds.Rows - 1) / 2, row, after)
    return images


def test_an_extra_slice_elsewhere_does_not_decline_the_stack() -> None:
    study = assembled(continued(5, FrameOfReferenceUID=FRAME_OF_REFERENCE + ".2"))
    assert not run([short_axis], {CineStudy: study}, [ShortAxis]).refusals


# One kind of cine in a stack, the latest only within a kind


def later(images: list[Dataset], **changes: object) -> list[Dataset]:
    """Copies as a later series on the same geometry, with other grey values."""
    made = [copy.deepcopy(ds) for ds in images]
    edit(
        made,
        SeriesInstanceUID=lambda ds: ds.SeriesInstanceUID + ".88",
        SOPInstanceUID=lambda ds: ds.SOPInstanceUID + ".88",
        SeriesNumber=88,
        AcquisitionTime="170000",
        ContentTime="170005",
        PixelData=lambda ds: (np.frombuffer(ds.PixelData, "<u2") + 3000).tobytes(),
        **changes,
    )
    return made


def with_phase_images(images: list[Dataset]) -> list[Dataset]:
    phase = [copy.deepcopy(ds) for ds in images]
    edit(
        phase,
        ImageType=["ORIGINAL", "PRIMARY", "P"],
        SOPInstanceUID=lambda ds: ds.SOPInstanceUID + ".9",
        SeriesInstanceUID=lambda ds: ds.SeriesInstanceUID + ".9",
    )
    return images + phase


OTHERS: dict[str, Callable[[list[Dataset]], list[Dataset]]] = {
    "tagged by name": lambda images: later(images, SeriesDescription="sax_tag_grid", FlipAngle=10),
    "tagged, spoiled": lambda images: later(images, SequenceName="*fl2d9", SequenceVariant="SP", FlipAngle=10),
    "tagged, described as grid": lambda images: later(images, SeriesDescription="sax_grid_3sl", FlipAngle=14),
    "spoiled by flip angle alone": lambda images: later(images, FlipAngle=12),
    "spoiled GE": lambda images: later(images, SequenceVariant=["SS", "SP", "SK"], SequenceName="fgre"),
    "flow magnitude": lambda images: later(images, SequenceName="*fl2d1r3", SequenceVariant="SP", FlipAngle=20),
    "flow magnitude with its phase": lambda images: with_phase_images(later(images)),
    "flow without times": lambda images: with_phase_images(
        edit(later(images), AcquisitionTime=None, AcquisitionDate=None, SequenceName="*fl2d1r3")
    ),
    "Look-Locker": lambda images: look_locker(later(images, FlipAngle=7)),
    "Look-Locker of one time": lambda images: look_locker(later(images), unused=()),
    "inversion time": lambda images: later(images, InversionTime=250),
    "fat of a Dixon": lambda images: later(images, ImageType=["ORIGINAL", "PRIMARY", "M", "FAT"]),
    "fat of a Dixon, Philips": lambda images: later(images, ImageType=["ORIGINAL", "PRIMARY", "F", "F", "FFE"]),
    "out of phase": lambda images: later(images, ImageType=["ORIGINAL", "PRIMARY", "M", "OPP_PHASE"]),
    "subtraction": lambda images: later(images, ImageType=["DERIVED", "PRIMARY", "SUBTRACTION"]),
    "tagged, numbered": lambda images: later(images, SeriesDescription="sax_TAG3"),
    "velocity by name": lambda images: later(images, SeriesDescription="sax velocity, magnitude"),
    "strain-encoded": lambda images: later(images, SeriesDescription="sax fastSENC"),
    "T2 prepared": lambda images: later(images, SeriesDescription="T2prep_SSFP_sax"),
    "inversion by name": lambda images: later(images, ProtocolName="IR_TFE"),
    "inversion by ScanOptions": lambda images: later(images, ScanOptions=["IR", "SAT1"]),
    "black blood by name": lambda images: later(images, SeriesDescription="DIR black blood"),
    "a volume": lambda images: later(images, MRAcquisitionType="3D"),
    "phase contrast by name": lambda images: later(images, ProtocolName="sax_pc_tp"),
}


def look_locker(images: list[Dataset], unused: tuple[float, ...] = (1.7976931348623157e308,)) -> list[Dataset]:
    for number, ds in enumerate(images):
        ds.InversionTimes = [100.0 + 35 * (number % PHASES), *unused]
    return images


@settings(FEW, max_examples=25)
@given(
    other=st.sampled_from(sorted(OTHERS)),
    which=st.sets(st.integers(0, SLICES - 1), min_size=1),
    rows=st.booleans(),
    seed=st.randoms(use_true_random=False),
)
def test_another_kind_on_the_same_geometry_never_replaces_the_cine(other, which, rows, seed) -> None:
    images = stack(slices=SLICES, phases=PHASES)
    added = OTHERS[other]([ds for index, group in enumerate(slices_of(images)) if index in which for ds in group])
    if rows:
        for ds in added:
            more_rows_below(ds)
    together = images + added
    seed.shuffle(together)
    study = assembled(together)
    found = study.short_axis
    assert found is not None
    assert (found.slices, found.regridded_slices) == (SLICES, ())
    np.testing.assert_array_equal(mean_values(found.pixels), expected_values(PHASES, SLICES))
    omitted = {uid for entry in study.omissions for uid in entry.sop_instance_uids}
    assert omitted == {ds.SOPInstanceUID for ds in added}
    assert OmissionReason.REPEATED_ACQUISITION not in {entry.reason for entry in study.omissions}


@pytest.mark.parametrize("other", sorted(OTHERS))
@pytest.mark.parametrize("rows", [False, True])
def test_another_kind_on_a_long_axis_plane_never_replaces_the_cine(other, rows) -> None:
    plane = view(122, series=5, phases=PHASES)
    added = OTHERS[other](plane)
    if rows:
        for ds in added:
            more_rows_below(ds)
    study = assembled(stack(slices=SLICES, phases=PHASES) + plane + added)
    assert len(study.stacks) == 2
    np.testing.assert_array_equal(mean_values(study.stacks[1].pixels), expected_values(PHASES, 1))


@FEW
@given(
    which=st.sets(st.integers(0, SLICES - 1), min_size=1),
    name=st.sampled_from(["sax_stress", "SAX exercise 75W", "cine_dobutamine_20", "adenosine cine", "Stress_cine_sax"]),
    rr=st.integers(400, 700),
)
def test_a_cine_under_stress_never_replaces_that_at_rest(which, name, rr) -> None:
    images = stack(slices=SLICES, phases=PHASES)
    chosen = [ds for index, group in enumerate(slices_of(images)) if index in which for ds in group]
    added = later(chosen, SeriesDescription=name, NominalInterval=rr)
    study = assembled(images + added)
    assert study.short_axis is not None
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected_values(PHASES, SLICES))
    (entry,) = study.omissions
    assert "stress" in entry.detail
    # By itself it is what there is to measure.
    whole = measured(later(images, SeriesDescription=name, NominalInterval=rr))
    assert whole.slices == SLICES


def test_a_whole_spoiled_stack_beats_a_few_balanced_slices() -> None:
    images = stack(slices=8, phases=PHASES)
    spoiled = later(images, SequenceName="*fl2d1", FlipAngle=15)
    few = [ds for group in slices_of(images)[3:5] for ds in group]
    found = measured(few + spoiled)
    assert found.slices == 8
    assert {source.series_instance_uid for source in found.sources[0]} == {spoiled[0].SeriesInstanceUID}


def test_slices_whose_header_lost_the_sequence_stay_in_the_stack() -> None:
    images = stack(slices=SLICES, phases=PHASES, series=lambda index: 20 + index)
    edit([ds for group in slices_of(images)[:3] for ds in group], SequenceVariant=None, FlipAngle=None)
    assert measured(images).slices == SLICES


def test_the_latest_of_one_kind_is_measured() -> None:
    images = stack(slices=SLICES, phases=PHASES)
    found = measured(images + later(images))
    np.testing.assert_array_equal(mean_values(found.pixels), expected_values(PHASES, SLICES) + 3000)


def test_an_inversion_time_that_is_no_time_excludes_nothing() -> None:
    """Philips writes the largest double where no inversion was played out."""
    images = stack(slices=SLICES, phases=PHASES)
    for ds in images:
        ds.InversionTimes = [1.7976931348623157e308, 0.0]
    assert measured(images).slices == SLICES


def measured(images: list[Dataset]) -> CineStack:
    found = assembled(images).short_axis
    assert found is not None
    return found
