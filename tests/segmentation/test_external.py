from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.cine.stack import StackGeometry
from pipelines.evaluation.external import (
    AnnotationError,
    compare_with_contours,
    compare_with_surfaces,
    contour_distance,
    cut_surface,
    fill_segments,
    read_surface,
)
from tests.segmentation.test_segment import stack_of


def sphere(radius: float, centre: tuple[float, float, float], rings: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Points and triangles of a sphere, with its poles along x so that no plane of the stack meets one."""
    polar = np.linspace(0, np.pi, rings + 1)[:, None]
    around = np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)[None]
    points = np.stack(
        [
            np.broadcast_to(np.cos(polar), (rings + 1, 2 * rings)),
            np.sin(polar) * np.cos(around + 0.01),
            np.sin(polar) * np.sin(around + 0.01),
        ],
        axis=-1,
    )
    points[0, 1:], points[-1, 1:] = points[0, :1], points[-1, :1]
    index = np.arange((rings + 1) * 2 * rings).reshape(rings + 1, 2 * rings)
    index[0], index[-1] = index[0, 0], index[-1, 0]
    a, b = index[:-1], np.roll(index[:-1], -1, axis=1)
    c, d = index[1:], np.roll(index[1:], -1, axis=1)
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    proper = (
        (triangles[:, 0] != triangles[:, 1])
        & (triangles[:, 1] != triangles[:, 2])
        & (triangles[:, 0] != triangles[:, 2])
    )
    return radius * points.reshape(-1, 3) + np.array(centre), triangles[proper]


def test_a_plane_cuts_a_sphere_in_a_circle() -> None:
    geometry = stack_of(np.zeros((1, 5, 100, 90)), spacing=(1.5, 1.2)).geometry
    points, triangles = sphere(30.0, (50.0, 70.0, 20.0))
    for index, height in ((1, 10.0), (2, 0.0), (3, 10.0)):
        cut = cut_surface(points, triangles, geometry, index)
        assert cut is not None
        segments, ends = cut
        assert ends.shape == (0, 2)
        area = fill_segments(segments, (100, 90)).sum() * 1.5 * 1.2
        assert area == pytest.approx(np.pi * (30.0**2 - height**2), rel=0.02)
        centre = np.argwhere(fill_segments(segments, (100, 90))).mean(0) * (1.5, 1.2)
        assert np.allclose(centre, (70.0, 50.0), atol=0.5)


def test_a_plane_beside_a_surface_gives_nothing_and_one_through_its_opening_the_ends_of_the_curve() -> None:
    geometry = stack_of(np.zeros((1, 9, 100, 90))).geometry
    points, triangles = sphere(30.0, (50.0, 70.0, 20.0))
    assert cut_surface(points, triangles, geometry, 8) is None
    opened = triangles[(points[triangles][:, :, 0] < 60).all(1)]
    cut = cut_surface(points, opened, geometry, 2)
    assert cut is not None
    segments, ends = cut
    assert ends.shape == (2, 2)
    # Row and column, pixels of 1.5 mm: the opening is at x = 60, the circle of radius 30 about (50, 70).
    assert ends[:, 1] * 1.5 == pytest.approx([60, 60], abs=3)
    assert sorted(ends[:, 0] * 1.5 - 70) == pytest.approx([-(800**0.5), 800**0.5], abs=2)
    closed = fill_segments(np.concatenate([segments, ends[None]]), (100, 90))
    assert not closed[:, 42:].any()
    assert closed[:, :38].sum() == pytest.approx(
        fill_segments(_whole(points, triangles, geometry), (100, 90))[:, :38].sum()
    )


def _whole(points: np.ndarray, triangles: np.ndarray, geometry: StackGeometry) -> np.ndarray:
    cut = cut_surface(points, triangles, geometry, 2)
    assert cut is not None
    return cut[0]


def test_a_surface_that_branches_is_not_cut() -> None:
    geometry = stack_of(np.zeros((1, 9, 100, 90))).geometry
    points = np.array([[10.0, 10, 15], [10, 10, 25], [20, 10, 20], [0, 10, 20], [10, 20, 20]])
    assert cut_surface(points, np.array([[0, 1, 2], [0, 1, 3]]), geometry, 2) is not None
    assert cut_surface(points, np.array([[0, 1, 2], [0, 1, 3], [0, 1, 4]]), geometry, 2) is None


def test_the_distance_of_concentric_squares() -> None:
    inner, outer = np.zeros((40, 40), dtype=bool), np.zeros((40, 40), dtype=bool)
    inner[12:28, 12:28] = True
    outer[10:30, 10:30] = True
    assert contour_distance(inner, inner, (1.0, 1.0)) == 0.0
    assert 2.0 <= contour_distance(inner, outer, (1.0, 1.0)) < 2.3
    assert contour_distance(inner, outer, (2.0, 2.0)) == pytest.approx(2 * contour_distance(inner, outer, (1.0, 1.0)))
    assert np.isnan(contour_distance(inner, np.zeros_like(inner), (1.0, 1.0)))


def test_a_file_that_is_no_surface_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.vtk"
    path.write_text("# vtk DataFile Version 5.1\nPOINTS 2 double\n0 0 0\n")
    with pytest.raises(AnnotationError, match=r"broken\.vtk"):
        read_surface(path)


@pytest.mark.real_data
def test_the_left_ventricle_of_a_general_electric_scanner(sunnybrook_dir: Path) -> None:
    comparison = compare_with_contours(sunnybrook_dir / "SCD0000101")
    assert comparison.endocardium_slices[0] >= 5
    assert comparison.endocardium_dice[0] > 0.80
    assert comparison.epicardium_dice > 0.80
    assert comparison.edv_ml[1] > comparison.esv_ml[1] > 20


@pytest.mark.real_data
def test_both_ventricles_of_a_siemens_vida(siemens_vida_dir: Path) -> None:
    comparison = compare_with_surfaces(siemens_vida_dir)
    assert comparison.phases == 25
    assert comparison.lv_dice > 0.75
    assert comparison.rv_dice > 0.65
