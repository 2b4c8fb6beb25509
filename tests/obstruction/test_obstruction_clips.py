"""Motion-normalised clips: time and place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cine.stack import StackGeometry
from pipelines.obstruction.clips import END_SYSTOLE_FRAME, clips_of_stack, in_time, normalised_phases
from pipelines.segmentation.labels import Label


@given(st.integers(4, 60).flatmap(lambda phases: st.tuples(st.just(phases), *(st.integers(0, phases - 1),) * 2)))
def test_both_moments_fall_on_their_frames_and_time_runs_once_around(case: tuple[int, int, int]) -> None:
    phases, end_diastole, end_systole = case
    if end_diastole == end_systole:
        with pytest.raises(ValueError, match="same phase"):
            normalised_phases(end_diastole, end_systole, phases)
        return
    at = normalised_phases(end_diastole, end_systole, phases)
    assert at.shape == (30,)
    assert at[0] == pytest.approx(end_diastole)
    assert at[END_SYSTOLE_FRAME] == pytest.approx(end_systole)
    steps = np.diff(np.r_[at, at[0]]) % phases
    assert (steps > 0).all()
    assert steps.sum() == pytest.approx(phases)


def test_images_are_interpolated_around_the_cycle() -> None:
    images = np.array([[0.0], [10.0], [20.0]], np.float32)
    assert in_time(images, np.array([0.0, 0.5, 2.5])).tolist() == [[0.0], [5.0], [10.0]]


def test_the_whole_muscle_lies_inside_whatever_the_spacing() -> None:
    rows, columns = np.mgrid[:120, :150]
    radius = np.hypot((rows - 70) * 1.2, (columns - 60) * 1.2)
    labels = np.zeros((8, 4, 120, 150), np.uint8)
    labels[:, 1:3] = np.where(radius < 22, Label.LV, np.where(radius < 32, Label.MYO, Label.BACKGROUND))
    pixels = np.where(labels == Label.MYO, 100, 20).astype(np.float32)
    geometry = StackGeometry(
        positions=np.array([[0.0, 0.0, 8.0 * index] for index in range(4)]),
        row_direction=np.array([1.0, 0, 0]),
        column_direction=np.array([0, 1.0, 0]),
        pixel_spacing=(1.2, 1.2),
        slice_thickness=8.0,
    )
    clips, slices, square = clips_of_stack(pixels, labels, geometry, 0, 3)
    assert slices.tolist() == [1, 2]
    assert clips.shape == (2, 30, 64, 64)
    assert square.field_mm == 112.0
    bright = clips[0, 0] > 0.5
    assert bright.sum() * 1.75**2 == pytest.approx(np.pi * (32**2 - 22**2), rel=0.05)
    middle = np.argwhere(bright).mean(axis=0)
    assert middle == pytest.approx([31.5, 31.5], abs=0.6)


def test_labels_without_a_ventricle_give_no_clips() -> None:
    geometry = StackGeometry(
        np.array([[0.0, 0, 0], [0, 0, 8]]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (1.5, 1.5), 8.0
    )
    with pytest.raises(ValueError, match="no left ventricle"):
        clips_of_stack(np.zeros((4, 2, 64, 64), np.float32), np.zeros((4, 2, 64, 64), np.uint8), geometry, 0, 1)
