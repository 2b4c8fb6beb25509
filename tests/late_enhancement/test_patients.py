"""Real patients that no network here was trained on, and what an evaluation makes of cases."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from pipelines.evaluation.enhancement import EnhancementCase, calibrate, evaluate_emidec, summarise
from pipelines.late_enhancement.measure import INTERVAL_OFFSET_PERCENT
from pipelines.late_enhancement.presence import INFARCT_LAW, OBSTRUCTION_LAW, PresenceLaw
from pipelines.training.enhancement import emidec_folds


@pytest.fixture(scope="module")
def emidec(shared_data: Path) -> Path:
    return shared_data / "emidec"


def test_held_out_patients_are_read(emidec: Path) -> None:
    held_out = emidec_folds(emidec)[0]
    normal = next(name for name in held_out if name.startswith("Case_N"))
    infarcts = [name for name in held_out if name.startswith("Case_P")][:2]
    found = evaluate_emidec(emidec, fold=0, cases=[normal, *infarcts])
    assert found.cases == 3
    assert found.seen_in_training == ()
    assert found.refused == 0
    assert found.dice["myocardium"].value > 0.7
    assert found.dice["infarct"].n == 2
    assert found.dice["infarct"].value > 0.3
    assert "1.5 mm" in found.remark


def case(name: str, true: float, said: float, dice: float = 0.8, refused: str | None = None) -> EnhancementCase:
    return EnhancementCase(
        case=name,
        group="infarct" if true else "normal",
        dice=dict.fromkeys(("cavity", "myocardium", "infarct", "infarct_without_obstruction", "obstruction"), dice),
        percent=said,
        lower=said - 2,
        upper=said + 2,
        thresholds={"FWHM": said, "2 SD": said + 5, "5 SD": said, "6 SD": said},
        percent_true=true,
        obstruction=0.0,
        obstruction_true=0.0,
        infarct_probability=INFARCT_LAW.probability(said),
        obstruction_probability=0.1,
        agreement=0.9,
        refused=refused,
    )


def test_figures_are_those_of_the_cases() -> None:
    cases = [case("a", 10.0, 11.0), case("b", 20.0, 19.0, dice=0.6), case("c", 0.0, 0.0), case("d", 30.0, 36.0)]
    found = summarise(cases, ("a",), "remark")
    assert found.dice["infarct"].n == 3, "a heart without an infarct has no Dice of it"
    assert found.dice["infarct"].value == pytest.approx((0.8 + 0.6 + 0.8) / 3)
    assert found.dice["infarct"].lower <= found.dice["infarct"].value <= found.dice["infarct"].upper
    assert "obstruction" not in found.dice
    assert found.presence["infarct"]["accuracy"] == 1.0
    assert found.presence["infarct"]["auc"] == 1.0
    assert found.extent["network"]["bias"] == pytest.approx(1.5)
    assert found.extent["2 SD"]["bias"] == pytest.approx(6.5)
    assert found.interval_coverage == pytest.approx(0.75)
    assert found.seen_in_training == ("a",)


def test_a_refused_case_counts_as_missed() -> None:
    refused = dataclasses.replace(
        case("e", 12.0, 0.0, dice=0.0, refused="no ventricle"), infarct_probability=0.0, thresholds={}
    )
    found = summarise([case("a", 10.0, 10.0), refused], (), "")
    assert found.refused == 1
    assert found.dice["infarct"].value == pytest.approx(0.4)
    assert found.presence["infarct"]["accuracy"] == 0.5


@pytest.mark.parametrize("law", [INFARCT_LAW, OBSTRUCTION_LAW, PresenceLaw(2.0, 1.0)])
def test_probability_rises_with_extent_and_is_a_half_where_the_law_says(law: PresenceLaw) -> None:
    said = [law.probability(percent) for percent in (0.0, 0.1, 1.0, 10.0, 50.0)]
    assert said == sorted(said)
    assert 0 < said[0] < 0.5 < said[-1] < 1
    assert law.probability(law.half_percent - 0.05) == pytest.approx(0.5)
    assert math.isfinite(law.probability(0.0))


def test_calibration_covers_nine_of_ten_and_separates_what_can_be_separated() -> None:
    healthy = [case(f"n{number}", 0.0, 0.1 * number) for number in range(10)]
    infarcts = [case(f"p{number}", 10.0 + number, 8.0 + number) for number in range(10)]
    cases = [
        dataclasses.replace(one, obstruction=one.percent / 10, obstruction_true=one.percent_true) for one in infarcts
    ]
    laws = calibrate([*healthy, *cases])
    assert laws.cases == 20
    assert laws.infarct.probability(0.5) < 0.2 < 0.8 < laws.infarct.probability(12.0)
    assert 0.9 < laws.infarct.half_percent < 8.0
    covered = [
        abs(one.percent - one.percent_true) <= laws.interval_factor * (one.percent + INTERVAL_OFFSET_PERCENT) + 1e-9
        for one in (*healthy, *infarcts)
    ]
    assert sum(covered) >= 18
    with pytest.raises(ValueError, match="with and cases without"):
        calibrate(healthy)
