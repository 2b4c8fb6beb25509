"""Strain of each pixel against motions whose strain is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.cine.stack import StackGeometry
from pipelines.motion.crop import SIDE_MM
from pipelines.motion.strain_map import circumferential_strain_map
from pipelines.segmentation.grid import Square
from pipelines.segmentation.labels import Label

SPACING = (1.4, 1.25)
SIZE = 96
CENTRE = np.array([62.0, 55.0])


def rings() -> np.ndarray:
    rows, columns = np.indices((SIZE, SIZE))
    radius = np.hypot(rows * SPACING[0] - CENTRE[0], columns * SPACING[1] - CENTRE[1])
    labels = np.where(radius < 22, Label.LV, np.where(radius < 32, Label.MYO, Label.BACKGROUND))
    return np.repeat(labels[None].astype(np.uint8), 2, axis=0)


def field(shape: tuple[int, int], square: Square, matrix: np.ndarray) -> np.ndarray:
    """Displacement of a linear motion about the centre of the ring."""
    axes = [(np.arange(length) + 0.5) / length * SIDE_MM - SIDE_MM / 2 for length in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) + np.array([square.row_mm, square.column_mm])
    return np.moveaxis((points - CENTRE) @ (matrix - np.eye(2)).T, -1, 0)


def mapped(matrix: np.ndarray, slices: tuple[bool, bool] = (True, True)) -> np.ndarray:
    square = Square(66.0, 60.0, SIDE_MM)
    displacement = np.repeat(field((48, 48), square, matrix)[None], 2, axis=0)
    geometry = StackGeometry(np.array([[0.0, 0, 0], [0, 0, 8]]), np.eye(3)[0], np.eye(3)[1], SPACING, 8.0)
    return circumferential_strain_map(rings(), displacement, geometry, square, np.array(slices))


def test_a_ring_that_shrinks_by_a_fifth_shortens_by_a_fifth_everywhere() -> None:
    strain = mapped(0.8 * np.eye(2))
    wall = rings() == Label.MYO
    assert strain[wall] == pytest.approx(-20.0, abs=1e-3)
    assert not strain[~wall].any()


def test_rotation_alone_is_no_strain() -> None:
    turn = np.deg2rad(12)
    strain = mapped(np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]))
    assert np.abs(strain).max() < 1e-3


def test_a_stretch_along_the_rows_shows_where_the_wall_runs_along_the_rows() -> None:
    strain = mapped(np.diag([1.0, 0.7]))[0]
    above = round((CENTRE[0] - 27) / SPACING[0]), round(CENTRE[1] / SPACING[1])
    beside = round(CENTRE[0] / SPACING[0]), round((CENTRE[1] - 27) / SPACING[1])
    # The column direction is shortened: the wall runs along it above the cavity, and across it beside the cavity.
    assert strain[above] == pytest.approx(-30.0, abs=0.5)
    assert strain[beside] == pytest.approx(0.0, abs=0.5)


def test_slices_without_a_whole_wall_stay_empty() -> None:
    strain = mapped(0.8 * np.eye(2), (False, True))
    assert not strain[0].any()
    assert strain[1].any()
