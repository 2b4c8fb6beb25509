from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.segmentation.grid import (
    Square,
    anchored_window,
    heart_square,
    intensity_window,
    pool_factor,
    sample_image,
    sample_square,
    scale_intensity,
)

SPACINGS = st.floats(0.6, 2.5)


def ramps(rows: int, columns: int, spacing: tuple[float, float]) -> torch.Tensor:
    """An image whose two channels are the row and the column position in mm."""
    row, column = torch.meshgrid(torch.arange(rows) * spacing[0], torch.arange(columns) * spacing[1], indexing="ij")
    return torch.stack([row, column])[None].float()


@settings(max_examples=40, deadline=None)
@given(SPACINGS, SPACINGS, st.floats(-8, 8), st.floats(-8, 8), st.floats(60, 90))
def test_a_point_of_the_crop_is_where_the_image_says(
    row_mm: float, column_mm: float, down: float, right: float, field: float
) -> None:
    shape = (int(160 / row_mm), int(160 / column_mm))
    square = Square(80 + down, 80 + right, field)
    crop = sample_square(ramps(*shape, (row_mm, column_mm)), (row_mm, column_mm), square, 32)[0]
    expected = (torch.arange(32) - 15.5) * field / 32
    assert torch.allclose(crop[0], (square.row_mm + expected)[:, None].expand(32, 32).float(), atol=0.02)
    assert torch.allclose(crop[1], (square.column_mm + expected)[None].expand(32, 32).float(), atol=0.02)


@settings(max_examples=40, deadline=None)
@given(SPACINGS, SPACINGS, st.floats(-8, 8), st.floats(-8, 8))
def test_undoing_the_crop_is_exact_to_a_fraction_of_a_pixel(
    row_mm: float, column_mm: float, down: float, right: float
) -> None:
    spacing = (row_mm, column_mm)
    shape = (int(160 / row_mm), int(160 / column_mm))
    image = ramps(*shape, spacing)
    square = Square(80 + down, 80 + right, 80.0)
    crop = sample_square(image, spacing, square, 64)
    # Pixels between the outermost points of the crop: beyond them the crop knows nothing.
    rows = (int(np.ceil((square.row_mm - 38) / row_mm)), int((square.row_mm + 38) / row_mm))
    columns = (int(np.ceil((square.column_mm - 38) / column_mm)), int((square.column_mm + 38) / column_mm))
    back = sample_image(crop, spacing, square, rows, columns)
    assert torch.allclose(back, image[:, :, rows[0] : rows[1], columns[0] : columns[1]], atol=0.02)


def test_labels_survive_the_crop_and_its_undoing() -> None:
    rows, columns = np.mgrid[:200, :180]
    disc = ((rows - 97.3) ** 2 + (columns - 88.6) ** 2 < 30.0**2).astype(np.float32)
    spacing = (1.4, 1.4)
    square = Square(97 * 1.4, 90 * 1.4, 145.0)
    crop = sample_square(torch.from_numpy(disc)[None, None], spacing, square, 112)
    back = sample_image(crop, spacing, square, (50, 150), (40, 140))[0, 0].numpy() > 0.5
    truth = disc[50:150, 40:140] > 0.5
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.995


def test_outside_the_image_the_crop_is_black() -> None:
    crop = sample_square(torch.ones(1, 1, 20, 20), (1.0, 1.0), Square(0.0, 0.0, 20.0), 20)[0, 0]
    assert float(crop[:9, :].abs().max()) == 0.0
    assert float(crop[11:, 11:].min()) == 1.0


def test_the_crop_grows_with_the_heart_within_limits() -> None:
    small, usual, large = (heart_square((50, 50 + e), (60, 60 + e / 2)) for e in (40, 100, 400))
    assert small.field_mm == 110.0
    assert usual.field_mm == pytest.approx(135.0)
    assert large.field_mm == 230.0
    assert (usual.row_mm, usual.column_mm) == (100, 85)


def test_intensity_window_ignores_the_extremes_and_is_never_empty() -> None:
    values = np.concatenate([np.linspace(100, 200, 1000), np.full(15, 1e6)]).astype(np.float32)
    low, high = intensity_window(values)
    assert 100 <= low < 104
    assert 196 < high < 205
    assert intensity_window(np.full(10, 7, dtype=np.float32)) == (7.0, 8.0)


@given(st.floats(0.1, 50), st.floats(-500, 500))
def test_scaling_does_not_depend_on_units(gain: float, offset: float) -> None:
    values = np.linspace(0, 1, 500, dtype=np.float32) ** 2
    other = (gain * values + offset).astype(np.float32)
    first = scale_intensity(torch.from_numpy(values), intensity_window(values))
    second = scale_intensity(torch.from_numpy(other), intensity_window(other))
    assert torch.allclose(first, second, atol=2e-2)
    assert float(second.min()) == 0.0
    assert float(second.max()) <= 1.25


@pytest.mark.parametrize(("pixel", "target", "expected"), [(1.4, 1.3, 1), (0.7, 1.4, 2), (1.5, 4.0, 2), (0.5, 4.0, 8)])
def test_pooling_never_exceeds_the_target_step(pixel: float, target: float, expected: int) -> None:
    assert pool_factor(pixel, target) == expected


def test_the_window_is_anchored_on_blood_and_not_beyond_what_blood_can_be() -> None:
    window = (10.0, 110.0)
    assert anchored_window(window, None) == window
    # Blood at 82 % of the window is where it usually is.
    assert anchored_window(window, 92.0) == pytest.approx(window)
    low, high = anchored_window(window, 51.0)
    assert low == 10.0
    assert (51.0 - low) / (high - low) == pytest.approx(0.82)
    # What is almost as dark as the darkest, or far brighter than the brightest, is no blood.
    assert anchored_window(window, 11.0) == pytest.approx((10.0, 45.0))
    assert anchored_window(window, 500.0) == pytest.approx((10.0, 160.0))
