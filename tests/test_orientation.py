"""Short axis told from labels: a drawn heart cut across and along."""

from __future__ import annotations

from dataclasses import replace

import hearts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.segmentation.labels import Label
from pipelines.segmentation.orientation import shows_short_axis


def cut(along: np.ndarray, *, turn: float, slices: int = 8) -> np.ndarray:
    """Labels of a stack whose normal is ``along``, through the middle of the heart."""
    grid = hearts.geometry(slices, 8.0, turn=turn)
    side = hearts.unit(np.cross(along, [0.13, 0.24, 0.9]))
    up = np.cross(along, side)
    row, column = np.cos(turn) * side + np.sin(turn) * up, -np.sin(turn) * side + np.cos(turn) * up
    middle = np.array([20.0, -30.0, 40.0]) + 40.0 * hearts.TO_APEX
    corner = middle - 47.5 * 1.5 * row - 47.5 * 1.5 * column
    positions = corner + ((np.arange(slices) - (slices - 1) / 2) * 8.0)[:, None] * along
    grid = replace(grid, positions=positions, row_direction=row, column_direction=column)
    return hearts.draw(hearts.beating(phases=4), grid)[1].labels


@settings(max_examples=15, deadline=None)
@given(tilt_deg=st.floats(0, 20), about=st.floats(0, 360), turn=st.floats(-3, 3))
def test_short_axis_is_shown_however_it_is_turned(tilt_deg, about, turn) -> None:
    tilt, about = np.radians(tilt_deg), np.radians(about)
    aside = np.cos(about) * hearts.SEPTAL + np.sin(about) * hearts.ANTERIOR
    assert shows_short_axis(cut(np.cos(tilt) * hearts.TO_APEX + np.sin(tilt) * aside, turn=turn), (1.5, 1.5))


@settings(max_examples=15, deadline=None)
@given(about=st.floats(0, 360), turn=st.floats(-3, 3))
def test_long_axis_is_not(about, turn) -> None:
    about = np.radians(about)
    aside = np.cos(about) * hearts.SEPTAL + np.sin(about) * hearts.ANTERIOR
    assert not shows_short_axis(cut(aside, turn=turn), (1.5, 1.5))


@pytest.mark.parametrize("label", [Label.BACKGROUND, Label.LV, Label.MYO])
def test_nothing_and_blobs_are_not(label) -> None:
    labels = np.zeros((3, 6, 40, 40), dtype=np.uint8)
    labels[:, :, 10:30, 10:30] = label
    assert not shows_short_axis(labels, (1.5, 1.5))
