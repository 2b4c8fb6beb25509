from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluation.segmentation import evaluate_phantoms
from pipelines.phantom.recipe import Dialect, Disease, Fault, PhantomRecipe
from pipelines.segmentation.confidence import LIKELY_WRONG, expected_dice, predicted_dice
from pipelines.segmentation.labels import Label


def disc(radius: float, size: int = 64) -> np.ndarray:
    row, column = np.mgrid[:size, :size] - size // 2
    return np.hypot(row, column) < radius


def test_expected_dice_is_that_of_the_probabilities() -> None:
    probability = np.zeros((3, 4, 64, 64), dtype=np.float32)
    probability[:, Label.BACKGROUND] = 1.0
    inside = disc(12)
    for index, sure in enumerate((1.0, 0.7)):
        probability[index, Label.LV][inside] = sure
        probability[index, Label.BACKGROUND][inside] = 1 - sure
    # A label of probability p on its own area: 2 p / (p + 1).
    assert expected_dice(probability) == pytest.approx([1.0, 2 * 0.7 / 1.7, 1.0], abs=1e-6)


def test_a_large_contained_slice_is_trusted_more_than_a_small_open_one() -> None:
    labels = np.zeros((1, 3, 64, 64), dtype=np.uint8)
    labels[0, 0][disc(20)] = Label.MYO
    labels[0, 0][disc(14)] = Label.LV
    labels[0, 1][disc(5)] = Label.LV
    large, small, empty = predicted_dice(labels, np.full((1, 3), 0.95, np.float32), 2.0)[0]
    assert large > 0.85
    assert small < LIKELY_WRONG
    assert empty == 1.0
    unsure = predicted_dice(labels, np.full((1, 3), 0.5, np.float32), 2.0)[0, 0]
    assert unsure < large - 0.3


def test_confidence_tells_how_good_slices_of_phantoms_are() -> None:
    recipes = [
        PhantomRecipe(
            seed,
            disease=disease,
            dialect=Dialect.GE,
            slices=9,
            rows=150,
            columns=150,
            spacing_mm=1.8,
            long_axis=False,
            coils=2,
            faults=frozenset({fault}),
        )
        for seed, disease, fault in (
            (952001, Disease.NORMAL, Fault.LOW_SNR),
            (952002, Disease.HCM, Fault.BREATHING),
            (952003, Disease.RV_OVERLOAD, Fault.GHOSTING),
            (952004, Disease.DCM, Fault.ARRHYTHMIA),
        )
    ]
    found = evaluate_phantoms(recipes).confidence
    assert found.slices > 40
    assert found.correlation > 0.6
    assert found.sensitivity >= 0.6
    assert found.flagged < 0.4
