"""Extents on images whose enhancement is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic_hearts import ring_labels

from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement.extent import measure_extents

LABELS = np.stack([ring_labels((0.0, 0.0), 12, 20)] * 2)
MUSCLE, CAVITY = LABELS == Label.MYO, LABELS == Label.LV
ROWS, COLUMNS = np.indices(LABELS.shape[1:]) - (LABELS.shape[1] - 1) / 2
AWAY = np.hypot(ROWS, COLUMNS)
SECTOR = np.stack([np.abs(np.arctan2(COLUMNS, ROWS)) < np.pi / 4] * 2)
WEIGHTS = np.array([8.0, 8.0])


def _image(enhances: NDArray[np.bool_], noise: float = 0.05) -> NDArray[np.float32]:
    drawn = np.random.default_rng(3).normal(0, noise, MUSCLE.shape)
    return np.where(CAVITY, 0.8, np.where(enhances & MUSCLE, 1.0, 0.0) + drawn).astype(np.float32)


def test_a_quarter_of_the_wall_is_a_quarter() -> None:
    found = measure_extents(_image(SECTOR), MUSCLE, CAVITY, WEIGHTS, 1.75)
    assert found.hyperintense_percent == pytest.approx(25, abs=2)
    assert found.n_sd_percent == pytest.approx(25, abs=4)
    assert not (found.hyperintense & ~MUSCLE).any()
    assert not (found.intermediate & found.hyperintense).any()


def test_slices_count_by_the_tissue_that_they_stand_for() -> None:
    only_first = SECTOR & (np.arange(2) == 0)[:, None, None]
    found = measure_extents(_image(only_first), MUSCLE, CAVITY, np.array([30.0, 10.0]), 1.75)
    assert found.hyperintense_percent == pytest.approx(25 * 0.75, abs=2)


def test_healthy_muscle_has_no_extent() -> None:
    found = measure_extents(_image(np.zeros_like(SECTOR), noise=0.2), MUSCLE, CAVITY, WEIGHTS, 1.75)
    assert found.hyperintense_percent == 0


def test_a_rim_that_shares_its_pixels_with_blood_does_not_count() -> None:
    rim = np.stack([AWAY < 13] * 2) & MUSCLE
    image = _image(np.zeros_like(SECTOR))
    image[rim] = 0.7
    assert measure_extents(image, MUSCLE, CAVITY, WEIGHTS, 1.75).hyperintense_percent == 0
    deep = np.stack([AWAY < 16] * 2)
    thick = measure_extents(_image(SECTOR & deep), MUSCLE, CAVITY, WEIGHTS, 1.75)
    assert thick.hyperintense_percent == pytest.approx(25 * (256 - 144) / (400 - 144), abs=2.5)


def test_a_rim_that_shares_its_pixels_with_fat_does_not_count() -> None:
    rim = np.stack([AWAY > 19] * 2) & MUSCLE
    image = _image(np.zeros_like(SECTOR))
    image[rim] = 0.9
    found = measure_extents(image, MUSCLE, CAVITY, WEIGHTS, 1.75)
    assert (found.hyperintense_percent, found.intermediate_percent, found.n_sd_percent) == (0, 0, 0)


def test_an_end_slice_counts_only_beside_its_neighbour() -> None:
    """The wall curves away at the apex, and the plane cuts the atrium at the base: all of it is grey there."""
    muscle, cavity = (np.concatenate([mask, mask]) for mask in (MUSCLE, CAVITY))
    weights = np.full(4, 8.0)
    grey = np.zeros(muscle.shape, np.float32)
    grey[0] = np.where(MUSCLE[0], 0.6, 0)
    drawn = np.random.default_rng(0).normal(0, 0.05, muscle.shape).astype(np.float32)
    assert measure_extents(grey + drawn, muscle, cavity, weights, 1.75).hyperintense_percent == 0
    grey[1] = np.where(SECTOR[0] & MUSCLE[0], 1.0, 0)
    both = measure_extents(grey + drawn, muscle, cavity, weights, 1.75).hyperintense
    assert both[0].any()
    assert both[1].any()


def test_a_heart_that_enhances_nearly_everywhere_has_no_remote_muscle() -> None:
    away_from = ~SECTOR
    found = measure_extents(_image(away_from), MUSCLE, CAVITY, WEIGHTS, 1.75)
    assert found.hyperintense_percent == pytest.approx(75, abs=3)


def test_a_few_bright_pixels_are_no_scar() -> None:
    speck = np.stack([np.hypot(ROWS - 16, COLUMNS) < 1.3] * 2)
    found = measure_extents(_image(speck), MUSCLE, CAVITY, WEIGHTS, 1.75)
    assert (found.hyperintense_percent, found.intermediate_percent, found.n_sd_percent) == (0, 0, 0)


def test_an_enclosed_dark_core_belongs_to_the_infarct() -> None:
    core = np.stack([np.hypot(ROWS - 15.5, COLUMNS) < 2.5] * 2)
    found = measure_extents(_image(SECTOR & ~core), MUSCLE, CAVITY, WEIGHTS, 1.75)
    assert found.hyperintense[core & MUSCLE].all()
    beside_blood = np.stack([(np.abs(COLUMNS) < 2.5) & (ROWS > 0) & (AWAY < 16)] * 2)
    found = measure_extents(_image(SECTOR & ~beside_blood), MUSCLE, CAVITY, WEIGHTS, 1.75)
    assert found.hyperintense[beside_blood & MUSCLE].mean() > 0.9, "enclosed by infarct and cavity"


def test_a_faint_border_zone_is_intermediate() -> None:
    border = np.stack([(np.abs(np.arctan2(COLUMNS, ROWS)) < np.pi / 2)] * 2) & ~SECTOR
    image = _image(SECTOR)
    image[border & MUSCLE] += 0.35
    found = measure_extents(image, MUSCLE, CAVITY, WEIGHTS, 1.75)
    assert found.hyperintense_percent == pytest.approx(25, abs=4)
    assert found.intermediate_percent == pytest.approx(25, abs=7)
