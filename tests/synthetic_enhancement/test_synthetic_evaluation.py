"""Statistics of the evaluation on cases whose figures are known, and the pictures it draws."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.enhancement_ablations import Ablated
from pipelines.evaluation.enhancement_faults import FaultyStudy, summarise_faults
from pipelines.evaluation.enhancement_pictures import draw_pictures, shown_cases
from pipelines.evaluation.heart_statistics import reliability
from pipelines.evaluation.synthetic_enhancement import _result_from
from pipelines.evaluation.synthetic_figures import summarise
from pipelines.evaluation.synthetic_hearts import HeartResult, Pictures


def _heart(seed: int, true: float, synthetic: float, *, declined: str | None = None) -> HeartResult:
    scarred, likely = true >= 1, min(synthetic / 20 + 0.05, 0.99)
    return HeartResult(
        seed=seed,
        disease="infarct" if scarred else "normal",
        faults=(),
        declined=declined,
        shown=None if declined else "image and probability",
        withheld=(),
        hyperintense=(true, synthetic),
        intermediate=(true / 2, synthetic / 2),
        image_percent=synthetic,
        lesion_percent=true,
        slices=((False, 0.1), (scarred, likely)),
        segments=((scarred, likely),) * 16,
        patient=(scarred, likely),
        classifiers={"synthetic image": likely, "thickening and radiomics": 0.5},
        ceiling_segments=((scarred, float(scarred)),) * 16,
        deviation=0.1,
        novelty=1.0,
        seconds=2.0,
    )


def test_figures_of_known_cases() -> None:
    results = [_heart(1, 0, 0), _heart(2, 0, 2), _heart(3, 10, 8), _heart(4, 20, 18), _heart(5, 3, 0)]
    results.append(_heart(6, 30, 30, declined="Quality is too low."))
    found = summarise(results)
    assert (found.hearts, found.declined, found.image_shown, found.scarred) == (6, 1, 5, 3)
    assert found.hallucination_rate == pytest.approx(1 / 2)
    assert found.miss_rate == pytest.approx(1 / 3)
    assert found.miss_rate_by_size["1 to 5 %"] == {"hearts": 1, "rate": 1.0}
    true, synthetic = [0, 0, 10, 20, 3], [0, 2, 8, 18, 0]
    assert found.hyperintense["r"] == pytest.approx(np.corrcoef(true, synthetic)[0, 1])
    assert found.hyperintense["bias_percent"] == pytest.approx(-1.0)
    low, high = found.hyperintense["r_interval"]
    assert low <= found.hyperintense["r"] <= high + 1e-9
    # Of the 6 pairs of a scarred and a healthy heart, 4 are in order and one is tied.
    assert found.auc["patient"] == pytest.approx(4.5 / 6)
    assert found.ceiling["segment"]["auc"] == 1.0
    assert found.classifiers["thickening and radiomics"]["auc"]["auc"] == pytest.approx(0.5)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["hyperintense"]["r"] == pytest.approx(found.hyperintense["r"], abs=1e-4)
    assert set(plain["auc"]) == {"slice", "segment", "patient"}


def test_calibration_of_known_cases() -> None:
    pairs = [(index < 2, 0.2) for index in range(10)] + [(index < 9, 0.9) for index in range(10)]
    found = reliability(pairs)
    assert found["brier"] == pytest.approx((2 * 0.64 + 8 * 0.04 + 9 * 0.01 + 0.81) / 20)
    assert found["expected_calibration_error"] < 0.3
    assert sum(entry["cases"] for entry in found["bins"]) == 20


def test_what_does_not_exist_is_null() -> None:
    nothing = summarise([_heart(1, 0, 0, declined="No heart.")]).to_json()
    assert nothing["hyperintense"]["r"] is None
    assert nothing["auc"]["slice"] is None
    assert nothing["miss_rate"] is None


def test_figures_by_fault_are_those_against_the_same_heart_without_one() -> None:
    good, other = _heart(1, 20, 18), _heart(2, 10, 8)
    poor = replace(
        good, shown="probability", withheld=("The base is not covered.",), image_percent=12.0, patient=(True, 0.5)
    )
    doubtful = replace(other, shown="probability", withheld=("It shows what the probability does not bear out.",))
    lost = replace(good, declined="Nothing to be seen.")
    studies = [
        FaultyStudy("no fault", good),
        FaultyStudy("poor-coverage", poor),
        FaultyStudy("ghosting", lost),
        FaultyStudy("no fault", other),
        FaultyStudy("poor-coverage", doubtful),
        FaultyStudy("breathing", replace(doubtful, withheld=("The extent of 0 % is no measurement.",))),
    ]
    found = summarise_faults(studies)
    assert found["no fault"]["image"] == 2
    assert found["no fault"]["extent_change_points"] == 0
    cut = found["poor-coverage"]
    assert (cut["studies"], cut["probability_alone"], cut["withheld_for_quality"]) == (2, 2, 1)
    assert cut["reasons"] == {"The base is not covered.": 1, "It shows what the probability does not bear out.": 1}
    assert cut["extent_change_points"] == pytest.approx((6 + 0) / 2)
    assert cut["extent_change_most_points"] == pytest.approx(6)
    assert cut["probability_change"] == pytest.approx((good.patient[1] - 0.5) / 2, abs=1e-3)
    assert (found["breathing"]["probability_alone"], found["breathing"]["withheld_for_quality"]) == (1, 0)
    assert found["ghosting"] == {
        "studies": 1,
        "declined": 1,
        "image": 0,
        "probability_alone": 0,
        "withheld_for_quality": 0,
        "reasons": {"Nothing to be seen.": 1},
        "probability_change": None,
        "extent_change_points": None,
        "probability_change_most": None,
        "extent_change_most_points": None,
    }


def test_pictures_are_chosen_by_error_and_not_by_looks(tmp_path: Path) -> None:
    results = [_heart(seed, 10, 10 + seed % 50) for seed in range(100, 150)]
    chosen = shown_cases(results)
    assert chosen[:3] == [149, 148, 147]
    assert len(set(chosen)) == 10
    assert chosen[-1] == 100
    few = results[:2]
    square = np.zeros((64, 64), np.float32)
    for result in few:
        pictures = Pictures(square, square, square, square, square, square > 1, square > 1)
        np.savez(
            tmp_path / f"default-{result.seed}-x.npz",
            **{name: getattr(pictures, name) for name in Pictures.__dataclass_fields__},
        )
    draw_pictures(few, tmp_path, tmp_path / "ten.png")
    assert (tmp_path / "ten.png").read_bytes()[:4] == b"\x89PNG"


def _ablated(scarred: bool, error: float, rights: tuple[float, float]) -> Ablated:
    return Ablated(error, hyperintense_percent=20.0 * scarred, logit=max(rights), slices=rights)


def test_networks_trained_without_an_input_are_held_against_the_first_on_the_same_hearts() -> None:
    results = []
    for seed in range(8):
        scarred = seed % 2 == 1
        heart = _heart(seed, 10.0 * scarred, 8.0 * scarred)
        told = {
            "trained whole": _ablated(scarred, 0.02 + 0.01 * seed, (-2.0, 2.0 if scarred else -1.0)),
            "trained blind": _ablated(not scarred, 0.05 + 0.01 * seed, (0.0, -1.0 if scarred else 2.0)),
        }
        results.append(replace(heart, ablations=told))
    found = summarise(results).ablations
    whole, blind = found["trained whole"], found["trained blind"]
    assert whole["squared_error"] == pytest.approx(0.055)
    assert whole["squared_error_interval"][0] < 0.055 < whole["squared_error_interval"][1]
    assert "more_squared_error" not in whole, "the first is what the others are held against"
    # Hearts differ far more than the two networks do on any of them.
    assert blind["more_squared_error"] == pytest.approx(0.03)
    assert blind["more_squared_error_interval"] == pytest.approx((0.03, 0.03))
    assert (whole["hyperintense"]["r"], blind["hyperintense"]["r"]) == (pytest.approx(1), pytest.approx(-1))
    assert (whole["auc_uncalibrated"]["patient"]["auc"], blind["auc_uncalibrated"]["patient"]["auc"]) == (1.0, 0.0)
    assert blind["less_auc_slice"] == pytest.approx(
        whole["auc_uncalibrated"]["slice"]["auc"] - blind["auc_uncalibrated"]["slice"]["auc"]
    )
    assert blind["less_auc_slice_interval"][0] > 0


def test_kept_hearts_come_back() -> None:
    told = {"trained whole": _ablated(True, 0.03, (1.0, 2.0)), "1 steps": Ablated(0.04, deviation=0.1)}
    heart = replace(_heart(7, 5, 6), ablations=told)
    again = _result_from(json.loads(json.dumps(asdict(heart))))
    assert again == heart
