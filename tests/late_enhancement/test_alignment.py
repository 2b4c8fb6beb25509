"""Late enhancement laid onto the cine: shifts, turned and mirrored planes, segments."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from late_enhancement.rings import GREY, SIZE, painted, ring, stack_of

from pipelines.cine.stack import CineStack, View
from pipelines.function.segments import SegmentReference
from pipelines.late_enhancement.alignment import align_to_cine, on_cine_slice
from pipelines.late_enhancement.labels import Tissue
from pipelines.late_enhancement.segments import enhancement_of_segments, reference_on
from pipelines.segmentation.labels import Label

LATE = np.stack([ring((-60, 0)) for _ in range(3)])
STACK = stack_of(painted(LATE, GREY, noise=3.0))


def cine_of(labels: np.ndarray, positions: np.ndarray, reference: str = "2.25.1") -> CineStack:
    """A cine of one phase with blood bright and muscle dark."""
    pixels = painted(labels, {Tissue.LV: 200.0, Tissue.MYO: 60.0}, noise=3.0)
    geometry = dataclasses.replace(STACK.geometry, positions=positions)
    return CineStack(
        view=View.SAX,
        pixels=pixels[None],
        geometry=geometry,
        sources=(STACK.sources[: len(labels)],),
        trigger_times=np.zeros((1, len(labels))),
        rr_intervals=np.full(len(labels), 900.0),
        frame_of_reference_uid=reference,
    )


def cine_labels(shift: tuple[int, int]) -> np.ndarray:
    """Cavity and muscle of the same ventricle, ``shift`` rows and columns further."""
    moved = np.roll(LATE, shift, axis=(1, 2))
    return np.select([moved == Tissue.LV, moved >= Tissue.MYO], [np.uint8(Label.LV), np.uint8(Label.MYO)], 0)


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-5, 4)])
def test_the_shift_between_breath_holds_is_found(shift: tuple[int, int]) -> None:
    labels = cine_labels(shift)
    cine = cine_of(labels, STACK.geometry.positions)
    found = align_to_cine(STACK, LATE, cine, labels, 0)
    assert found is not None
    assert found.cine_slice == (0, 1, 2)
    expected = np.array([shift[1], shift[0]]) * 1.5
    assert np.abs(found.shift_mm - expected).max() <= 0.8
    assert (found.overlap > 0.97).all()
    move = (STACK.geometry, 1, cine.geometry, 1, (SIZE, SIZE), found.shift_mm[1])
    moved = on_cine_slice(LATE[1], *move)
    truth = np.roll(LATE[1], shift, axis=(0, 1))
    infarct = truth == Tissue.INFARCT
    assert ((moved == Tissue.INFARCT) & infarct).sum() > 0.9 * infarct.sum()


def test_slices_out_of_reach_and_foreign_frames_of_reference_are_not_laid_on() -> None:
    labels = cine_labels((0, 0))
    high = STACK.geometry.positions + np.array([0.0, 0.0, 20.0])
    found = align_to_cine(STACK, LATE, cine_of(labels, high), labels, 0)
    assert found is not None
    assert found.cine_slice == (None, None, 0)
    assert np.isnan(found.shift_mm[:2]).all()
    assert align_to_cine(STACK, LATE, cine_of(labels, high + 500.0), labels, 0) is None
    assert align_to_cine(STACK, LATE, cine_of(labels, STACK.geometry.positions, "2.25.2"), labels, 0) is None


@pytest.mark.parametrize("mirrored", [False, True])
def test_segments_are_those_of_the_infarct_in_turned_and_mirrored_planes(mirrored: bool) -> None:
    # Septum to the left, anterior up as seen from the apex: the infarct at −60 … 0° (up right) is anterolateral.
    reference = SegmentReference(
        septum=np.pi, sign=-1, anterior_insertion=np.zeros(3), inferior_insertion=np.zeros(3), agreed=True
    )
    cine = STACK.geometry
    late, labels = cine, LATE
    if mirrored:
        corner = cine.positions + np.array([(SIZE - 1) * 1.5, 0.0, 0.0])
        late = dataclasses.replace(cine, row_direction=-cine.row_direction, positions=corner)
        labels = LATE[:, :, ::-1]
    turned = reference_on(late, cine, reference)
    found = enhancement_of_segments(labels == Tissue.INFARCT, labels, late, ("basal", "mid", "apical"), turned)
    assert len(found) == 16
    by_number = {one.segment: one for one in found}
    enhanced = {one.segment for one in found if one.enhanced}
    plain = enhancement_of_segments(LATE == Tissue.INFARCT, LATE, cine, ("basal", "mid", "apical"), reference)
    assert enhanced == {one.segment for one in plain if one.enhanced}
    full = [one for one in found if one.percent > 90]
    assert [one.segment for one in full] in ([5, 11], [6, 12]), "a sixth of the ring at basal and mid level"
    assert all(one.transmurality_percent > 95 for one in full)
    assert by_number[2].percent == 0.0
    assert by_number[2].transmurality_percent == 0.0
