"""Figures of registration over patients of two phases."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipelines.evaluation.motion import PairResult, summarise_pairs


def _pair(number: int, warped: float) -> PairResult:
    return PairResult(f"patient{number}", "NOR", {"LV": warped, "MYO": 0.7}, {"LV": 0.6, "MYO": 0.5}, 0.0)


def test_the_mean_over_patients_has_the_interval_of_a_mean() -> None:
    values = np.linspace(0.7, 0.9, 81)
    found = summarise_pairs([_pair(number, float(value)) for number, value in enumerate(values)])
    assert found.patients == 81
    assert found.warped_dice["LV"] == pytest.approx(0.8)
    assert found.worst_warped_dice["LV"] == pytest.approx(0.7)
    error = 1.96 * values.std(ddof=1) / 9
    assert found.warped_dice_interval["LV"] == pytest.approx((0.8 - error, 0.8 + error), abs=0.003)
    assert found.warped_dice_interval["MYO"] == pytest.approx((0.7, 0.7))


def test_one_patient_has_no_interval() -> None:
    assert (
        json.loads(json.dumps(summarise_pairs([_pair(1, 0.8)]).to_json()))["warped_dice_interval"]["LV"] == [None] * 2
    )
