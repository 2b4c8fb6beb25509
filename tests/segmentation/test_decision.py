from __future__ import annotations

import numpy as np
import pytest

from pipelines.segmentation.decision import MOST, likeliest, likeliest_labels
from pipelines.segmentation.labels import Label

PIXEL_MM2 = 0.25


def blurred_discs(*radii: float, size: int = 160) -> np.ndarray:
    """Cavities whose probability falls from 1 to 0 over 8 mm about the radius, in muscle: (S, L, size, size)."""
    row, column = (np.mgrid[:size, :size] - size / 2 + 0.5) * np.sqrt(PIXEL_MM2)
    probability = np.zeros((len(radii), len(Label), size, size), np.float32)
    for index, radius in enumerate(radii):
        cavity = np.clip(0.5 + (radius - np.hypot(row, column)) / 8, 1e-6, 1 - 1e-6)
        probability[index, Label.LV], probability[index, Label.MYO] = cavity, 1 - cavity
    return probability


def radius_of(labels: np.ndarray) -> float:
    return float(np.sqrt((labels == Label.LV).sum() * PIXEL_MM2 / np.pi))


def test_of_equal_probabilities_the_first_label_is_the_likeliest() -> None:
    # Sixteenths, so that most points have two labels of one probability.
    probability = (np.random.default_rng(7).integers(0, 5, (6, 4, 9, 11)) / np.float32(16)).astype(np.float32)
    assert (likeliest(probability) == probability.argmax(1)).all()
    assert likeliest(probability).dtype == np.uint8


def test_no_bias_is_the_likeliest_label() -> None:
    probability = np.random.default_rng(0).dirichlet(np.ones(4), (3, 20, 20)).transpose(0, 3, 1, 2).astype(np.float32)
    assert (likeliest_labels(probability, (0.0, 0.0), PIXEL_MM2) == probability.argmax(1)).all()


@pytest.mark.parametrize(("a", "b"), [(0.2, 8.0), (0.0, 4.0), (-0.3, 0.0)])
def test_the_border_moves_to_where_the_odds_say(a: float, b: float) -> None:
    radii = (8.0, 16.0, 26.0)
    labels = likeliest_labels(blurred_discs(*radii), (a, b), PIXEL_MM2)
    for index, radius in enumerate(radii):
        move = float(np.clip(a - b / radius, -MOST, MOST))
        # Where p exp(move) = 1 - p, on the slope of one in 8 mm.
        expected = radius - 8 * (1 / (1 + np.exp(move)) - 0.5)
        assert radius_of(labels[index]) == pytest.approx(expected, abs=0.15)


def test_small_cavities_shrink_more_than_large_ones() -> None:
    small, large = likeliest_labels(blurred_discs(8.0, 26.0), (0.2, 8.0), PIXEL_MM2)
    assert 8 - radius_of(small) > 1.2
    assert abs(26 - radius_of(large)) < 0.4


def test_a_slice_without_a_cavity_stays_as_it_is() -> None:
    probability = np.zeros((1, 4, 8, 8), np.float32)
    probability[:, Label.BACKGROUND] = 0.9
    probability[:, Label.LV] = 0.1
    assert (likeliest_labels(probability, (0.2, 8.0), PIXEL_MM2) == Label.BACKGROUND).all()
