"""Thresholds on drawn rings: what enhances is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from late_enhancement.rings import GREY, INNER, OUTER, SIZE, painted, polar, ring

from pipelines.late_enhancement.extent import enhanced_wall, filled, remote_muscle, supported
from pipelines.late_enhancement.findings import ExtentMethod, Remote
from pipelines.late_enhancement.labels import WALL, Tissue
from pipelines.late_enhancement.measure import extent_of
from pipelines.late_enhancement.transmurality import depth_by_direction, mean_depth

THRESHOLDS = [method for method in ExtentMethod if method is not ExtentMethod.NETWORK]


def without_network(labels: np.ndarray) -> np.ndarray:
    """The wall as a network that sees no infarct labels it."""
    return np.where(np.isin(labels, WALL), np.uint8(Tissue.MYO), labels)


def test_remote_muscle_is_the_muscle_away_from_the_infarct() -> None:
    labels = ring((-60, 0))[None]
    pixels = painted(labels, GREY, noise=4.0)
    # Muscle that borders on the infarct is bright as well: it must not raise the level of remote muscle.
    _, angle = polar()
    border = (labels[0] == Tissue.MYO) & (np.abs(np.rad2deg(angle) - 20) < 20)
    pixels[0, border] = 120.0
    (found,) = remote_muscle(pixels, labels)
    assert found is not None
    assert found.mean == pytest.approx(20.0, abs=0.5)
    assert found.deviation == pytest.approx(4.0, rel=0.1)
    assert not found.borrowed


def test_a_slice_that_is_all_infarct_takes_the_remote_muscle_of_its_neighbour() -> None:
    whole = ring((-181, 181))
    labels = np.stack([ring((-60, 0)), whole, np.zeros_like(whole)])
    first, second, third = remote_muscle(painted(labels, GREY, noise=4.0), labels)
    assert first is not None
    assert second == Remote(first.mean, first.deviation, first.pixels, borrowed=True)
    assert third is None, "a slice without a wall has no remote muscle"


@pytest.mark.parametrize("method", THRESHOLDS)
def test_every_threshold_finds_a_dense_infarct_that_the_network_missed(method: ExtentMethod) -> None:
    labels = ring((-50, 30))[None]
    pixels = painted(labels, GREY, noise=5.0)
    seen = without_network(labels)
    found = enhanced_wall(pixels, seen, (Remote(20.0, 5.0, 200, borrowed=False),), method)
    truth = labels == Tissue.INFARCT
    extra = found & ~truth
    # 2 SD alone take 2.3 % of healthy muscle for enhanced, by definition.
    assert extra.sum() <= (0.06 if method is ExtentMethod.SD2 else 0.005) * (labels == Tissue.MYO).sum()
    assert (found & truth).sum() == truth.sum()


def test_thresholds_are_where_they_should_be() -> None:
    labels = ring((-50, 30))
    radius, _ = polar()
    muscle = Remote(20.0, 5.0, 200, borrowed=False)
    pixels = painted(labels, GREY)
    inside = (labels == Tissue.INFARCT) & (radius < INNER + 6)
    for level, expected in ((29, set()), (31, {"2 SD"}), (46, {"2 SD", "5 SD"}), (51, {"2 SD", "5 SD", "6 SD"})):
        pixels[inside] = level
        # Half of the way from 20 to 220 is 120.
        bright = {
            str(method)
            for method in THRESHOLDS
            if enhanced_wall(pixels[None], without_network(labels)[None], (muscle,), method)[0][inside].all()
        }
        assert bright == expected
    pixels[inside] = 121
    half = enhanced_wall(pixels[None], without_network(labels)[None], (muscle,), ExtentMethod.FWHM)[0]
    assert half[inside].all()
    pixels[inside] = 118
    half = enhanced_wall(pixels[None], without_network(labels)[None], (muscle,), ExtentMethod.FWHM)[0]
    assert not half[inside].any()


def test_full_width_at_half_maximum_finds_nothing_where_nothing_enhances() -> None:
    labels = ring()[None]
    pixels = painted(labels, GREY, noise=3.0)
    assert not enhanced_wall(pixels, labels, remote_muscle(pixels, labels), ExtentMethod.FWHM).any()


def test_blood_that_shares_a_pixel_with_the_wall_does_not_enhance() -> None:
    labels = ring()
    radius, _ = polar()
    pixels = painted(labels, GREY, noise=3.0)
    edge = (labels == Tissue.MYO) & (radius < INNER + 0.9)
    assert edge.any()
    pixels[edge] = 170.0
    found = enhanced_wall(pixels[None], labels[None], (Remote(20.0, 3.0, 200, borrowed=False),), ExtentMethod.SD5)
    assert not found.any()


def test_an_enclosed_core_is_filled_and_a_ring_of_enhancement_does_not_fill_the_wall() -> None:
    labels = ring((-50, 30), core=True)
    pixels = painted(labels, GREY, noise=3.0)
    seen = without_network(labels)
    found = enhanced_wall(pixels[None], seen[None], (Remote(20.0, 3.0, 200, borrowed=False),), ExtentMethod.FWHM)[0]
    assert found[labels == Tissue.OBSTRUCTION].all()
    radius, _ = polar()
    epicardial = (labels >= Tissue.MYO) & (radius > OUTER - 3)
    assert np.array_equal(filled(epicardial, seen), epicardial)


def test_subendocardial_obstruction_is_enclosed_together_with_the_cavity() -> None:
    labels = ring((-50, 30))
    radius, angle = polar()
    core = (labels == Tissue.INFARCT) & (radius < INNER + 5) & (np.abs(np.rad2deg(angle) + 10) < 15)
    bright = (labels == Tissue.INFARCT) & ~core
    assert filled(bright, without_network(labels))[core].all()


@given(st.integers(0, 2**32 - 1))
def test_what_is_supported_is_bright_wall(seed: int) -> None:
    wall = np.isin(ring(), WALL)
    bright = np.random.default_rng(seed).random((SIZE, SIZE)) < 0.3
    found = supported(bright, wall)
    assert not (found & ~(bright & wall)).any()


def test_extent_weights_slices_by_the_tissue_they_stand_for() -> None:
    wall = np.zeros((2, 4, 4), dtype=bool)
    wall[0, 0], wall[1, :2] = True, True
    enhanced = np.zeros_like(wall)
    enhanced[0, 0] = True
    found = extent_of(ExtentMethod.NETWORK, enhanced, wall, np.array([10.0, 5.0]), 2.0)
    assert found.percent == pytest.approx(100 * 40 / 80)
    assert found.grams == pytest.approx(4 * 10 * 2.0 / 1000 * 1.05)
    assert found.by_slice == (100.0, 0.0)


@pytest.mark.parametrize("depth", [0.25, 0.5, 0.75, 1.0])
def test_transmurality_is_the_depth_that_was_drawn(depth: float) -> None:
    labels = ring((-90, -30), depth)
    found = depth_by_direction(labels == Tissue.INFARCT, labels, (1.0, 1.0))
    assert found is not None
    angles, share = found
    degrees = (np.rad2deg(angles) + 180) % 360 - 180
    well_inside = (degrees > -85) & (degrees < -35)
    assert share[well_inside].mean() == pytest.approx(depth, abs=0.05)
    assert not share[(degrees > 0) & (degrees < 170)].any()
    assert mean_depth(share) == pytest.approx(100 * depth, abs=8)


def test_a_slice_without_wall_has_no_depth() -> None:
    empty = np.zeros((8, 8), dtype=np.uint8)
    assert depth_by_direction(empty > 0, empty, (1.0, 1.0)) is None
    assert mean_depth(np.array([0.0, np.nan])) == 0.0
