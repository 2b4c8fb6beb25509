"""Wall thickness against closed forms: circles, shifted circles, ellipses with parallel walls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.function.thickness import septal_arc, wall_profile
from pipelines.segmentation.labels import Label

SPACINGS = [(1.0, 1.0), (1.5, 1.5), (1.2, 1.8)]


def drawn(lv, heart, spacing, size=(100, 100), rv=None):
    """Labels from functions of x (along a row) and y (along a column), mm from a point off the pixel grid."""
    rows, columns = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    y = (rows - 49.3) * spacing[0]
    x = (columns - 50.2) * spacing[1]
    labels = np.zeros(size, dtype=np.uint8)
    if rv is not None:
        labels[rv(x, y)] = Label.RV
    labels[heart(x, y)] = Label.MYO
    labels[lv(x, y)] = Label.LV
    return labels


def circle(radius: float, cx: float = 0.0, cy: float = 0.0):
    return lambda x, y: (x - cx) ** 2 + (y - cy) ** 2 <= radius**2


def ellipse_distance(x, y, a: float, b: float):
    """Distance to the ellipse with half axes a and b, from a dense polygon; negative inside."""
    t = np.linspace(0, 2 * np.pi, 2000)
    edge = np.stack([a * np.cos(t), b * np.sin(t)])
    points = np.stack([np.ravel(x), np.ravel(y)])
    distance = np.concatenate(
        [np.hypot(*(part[:, :, None] - edge[:, None])).min(axis=1) for part in np.array_split(points, 50, axis=1)]
    ).reshape(np.shape(x))
    return np.where((x / a) ** 2 + (y / b) ** 2 <= 1, -distance, distance)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("inner", "outer"), [(25.0, 33.0), (12.0, 24.0), (28.0, 32.0)])
def test_concentric_circles(spacing, inner: float, outer: float) -> None:
    profile = wall_profile(drawn(circle(inner), circle(outer), spacing), spacing)
    assert profile.thickness_mm.mean() == pytest.approx(outer - inner, abs=0.2)
    assert profile.thickness_mm == pytest.approx(outer - inner, abs=0.8 * max(spacing))
    assert np.sort(np.diff(np.unwrap(profile.angles))) == pytest.approx(2 * np.pi / 120, abs=0.02)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("offset", [2.0, 4.0])
def test_shifted_circles(spacing, offset: float) -> None:
    """Mid-wall points lie on an ellipse: the sum of the distances to both centres is the sum of the radii."""
    inner, outer = 22.0, 32.0
    profile = wall_profile(drawn(circle(inner, offset), circle(outer), spacing), spacing)
    angles = np.arange(120) * 2 * np.pi / 120
    half, eccentricity = (inner + outer) / 2, offset / (inner + outer)
    # Seen from the focus at the centre of the cavity.
    radius = half * (1 - eccentricity**2) / (1 + eccentricity * np.cos(angles))
    expected = 2 * (radius - inner)
    assert expected.max() == pytest.approx(outer - inner + offset)
    assert expected.min() == pytest.approx(outer - inner - offset)
    smooth = np.convolve(np.tile(profile.thickness_mm, 3), np.ones(9) / 9, "same")[120:240]
    assert smooth == pytest.approx(expected, abs=0.5 * max(spacing))
    assert profile.thickness_mm.mean() == pytest.approx(expected.mean(), abs=0.2)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_ellipse_with_parallel_wall(spacing) -> None:
    a, b, wall = 28.0, 20.0, 9.0
    labels = drawn(
        lambda x, y: ellipse_distance(x, y, a, b) <= 0, lambda x, y: ellipse_distance(x, y, a, b) <= wall, spacing
    )
    profile = wall_profile(labels, spacing)
    assert profile.thickness_mm.mean() == pytest.approx(wall, abs=0.2)
    assert profile.thickness_mm == pytest.approx(wall, abs=0.8 * max(spacing))


@settings(max_examples=30, deadline=None)
@given(cx=st.floats(-8, 8), cy=st.floats(-8, 8), inner=st.floats(12, 26), wall=st.floats(5, 14))
def test_thickness_does_not_hang_on_the_place(cx: float, cy: float, inner: float, wall: float) -> None:
    labels = drawn(circle(inner, cx, cy), circle(inner + wall, cx, cy), (1.4, 1.4))
    assert wall_profile(labels, (1.4, 1.4)).thickness_mm.mean() == pytest.approx(wall, abs=0.25)


def test_open_ring_is_not_measured_where_it_is_open() -> None:
    spacing = (1.0, 1.0)
    labels = drawn(circle(22), lambda x, y: circle(32)(x, y) & ((x < 0) | circle(22)(x, y)), spacing)
    profile = wall_profile(labels, spacing)
    right = np.abs(profile.angles) < np.deg2rad(60)
    left = np.abs(profile.angles) > np.deg2rad(120)
    assert np.isnan(profile.thickness_mm[right]).all()
    assert profile.thickness_mm[left] == pytest.approx(10.0, abs=1.0)


def test_specks_elsewhere_are_not_wall() -> None:
    spacing = (1.5, 1.5)
    labels = drawn(circle(22), circle(31), spacing)
    clean = wall_profile(labels, spacing).thickness_mm
    labels[5:9, 5:9] = Label.MYO
    labels[90:93, 60:64] = Label.MYO
    assert wall_profile(labels, spacing).thickness_mm == pytest.approx(clean)


def test_heart_at_the_border_of_the_image() -> None:
    spacing = (1.5, 1.5)
    labels = drawn(circle(22, -50, 0), circle(31, -50, 0), spacing)
    assert (labels[:, 0] == Label.MYO).any() or (labels[:, 1] == Label.MYO).any()
    assert np.nanmedian(wall_profile(labels, spacing).thickness_mm) == pytest.approx(9.0, abs=0.3)


def test_no_cavity_no_profile() -> None:
    labels = drawn(circle(0.0), circle(9.0), (1.5, 1.5))
    labels[labels == Label.LV] = Label.MYO
    assert wall_profile(labels, (1.5, 1.5)) is None
    assert wall_profile(np.zeros((20, 20), dtype=np.uint8), (1.5, 1.5)) is None


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("direction", np.deg2rad([0, 45, 90, 170, -100]))
def test_septal_arc_of_a_disc_shaped_rv(spacing, direction: float) -> None:
    """Two circles cross where the law of cosines says."""
    outer, reach, away = 32.0, 30.0, 36.0
    centre = away * np.array([np.cos(direction), np.sin(direction)])
    labels = drawn(circle(22), circle(outer), spacing, size=(140, 140), rv=circle(reach, *centre))
    arc = septal_arc(labels, spacing)
    half = np.arccos((outer**2 + away**2 - reach**2) / (2 * outer * away))
    assert np.angle(np.exp(1j * (arc.middle - direction))) == pytest.approx(0, abs=np.deg2rad(3))
    # The contact is followed up to 3 mm beyond the epicardium, where the RV's own wall would be.
    assert arc.width == pytest.approx(2 * half, abs=np.deg2rad(12))
    ends = (arc.ends_px - [49.3, 50.2]) * spacing
    assert np.linalg.norm(ends, axis=1) == pytest.approx(outer, abs=max(spacing))


def test_arc_over_the_seam_of_the_circle_and_over_small_gaps() -> None:
    spacing = (1.0, 1.0)
    labels = drawn(circle(22), circle(32), spacing, rv=circle(30, -36, 0))
    whole = septal_arc(labels, spacing)
    assert abs(whole.middle) % (2 * np.pi) == pytest.approx(np.pi, abs=0.03)
    labels[47:50, :35][labels[47:50, :35] == Label.RV] = Label.BACKGROUND
    assert septal_arc(labels, spacing).width == pytest.approx(whole.width)


def test_no_arc_without_a_touching_rv() -> None:
    spacing = (1.5, 1.5)
    assert septal_arc(drawn(circle(22), circle(32), spacing), spacing) is None
    assert septal_arc(drawn(circle(22), circle(32), spacing, rv=circle(15, 60, 0)), spacing) is None
    around = drawn(circle(22), circle(32), spacing, rv=circle(45))
    assert septal_arc(around, spacing) is None
