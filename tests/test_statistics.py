"""Statistics of classifiers against closed forms, definitions and published examples."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from pipelines.logistic import fit_logistic
from pipelines.statistics import (
    auc,
    auc_interval,
    bootstrap_interval,
    brier_score,
    calibration,
    compare_aucs,
    decision_curve,
    sensitivity_at_specificity,
)

CASES = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30).filter(
    lambda cases: len({outcome for outcome, _ in cases}) == 2
)


@given(CASES)
@settings(deadline=None)
def test_the_area_counts_pairs_in_the_right_order(cases: list[tuple[bool, int]]) -> None:
    outcomes, scores = [outcome for outcome, _ in cases], [score for _, score in cases]
    events = [score for outcome, score in cases if outcome]
    others = [score for outcome, score in cases if not outcome]
    right = [1.0 if event > other else 0.5 if event == other else 0.0 for event, other in product(events, others)]
    assert auc(outcomes, scores) == pytest.approx(np.mean(right))


@given(CASES)
@settings(deadline=None)
def test_delongs_variance_is_that_of_its_structural_components(cases: list[tuple[bool, int]]) -> None:
    outcomes, scores = [outcome for outcome, _ in cases], [score for _, score in cases]
    events = np.array([score for outcome, score in cases if outcome], float)
    others = np.array([score for outcome, score in cases if not outcome], float)
    found = auc_interval(outcomes, scores)
    kernel = (events[:, None] > others) + 0.5 * (events[:, None] == others)
    if min(events.size, others.size) < 2:
        assert math.isnan(found.low)
        return
    variance = kernel.mean(1).var(ddof=1) / events.size + kernel.mean(0).var(ddof=1) / others.size
    if not 0 < found.value < 1 or variance == 0:
        assert math.isnan(found.low)
        return
    half = (logit(found.high) - logit(found.low)) / 2
    assert half == pytest.approx(1.959964 * math.sqrt(variance) / (found.value * (1 - found.value)), rel=1e-5)


def test_the_area_of_two_normal_scores_is_in_its_interval() -> None:
    # Scores N(0, 1) and N(1, 1): the area is Φ(1/√2) = 0.7602.
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(200):
        outcomes = np.r_[np.ones(44), np.zeros(86)]
        found = auc_interval(outcomes, rng.normal(outcomes))
        inside += found.low < 0.7602 < found.high
    assert 180 <= inside <= 199


def test_delongs_test_keeps_its_level_and_sees_a_difference() -> None:
    rng = np.random.default_rng(4)
    outcomes = np.r_[np.ones(60), np.zeros(60)]
    p_values = []
    for _ in range(300):
        common = rng.normal(outcomes)
        p_values.append(compare_aucs(outcomes, common + rng.normal(size=120), common + rng.normal(size=120)).p_value)
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.1
    better = compare_aucs(outcomes, rng.normal(3 * outcomes), rng.normal(size=120))
    assert better.p_value < 1e-6
    assert better.difference.low > 0


def test_a_classifier_compared_with_itself_differs_by_nothing() -> None:
    found = compare_aucs([0, 0, 1, 1, 0, 1], [1, 2, 2, 3, 1, 1], [1, 2, 2, 3, 1, 1])
    assert found.difference.value == 0
    assert found.p_value == 1


def test_the_bootstrap_agrees_with_delong() -> None:
    rng = np.random.default_rng(5)
    outcomes = np.r_[np.ones(100), np.zeros(100)]
    scores = rng.normal(outcomes)
    drawn, closed = bootstrap_interval(outcomes, scores, auc), auc_interval(outcomes, scores)
    assert drawn.low == pytest.approx(closed.low, abs=0.015)
    assert drawn.high == pytest.approx(closed.high, abs=0.015)


def test_brier_scores_of_knowing_everything_and_only_the_prevalence() -> None:
    assert brier_score([1, 0, 0], [1, 0, 0]) == 0
    assert brier_score([1, 0, 0, 0], [0.25] * 4) == pytest.approx(0.25 * 0.75)


def test_calibration_finds_the_distortion_of_the_logit() -> None:
    rng = np.random.default_rng(6)
    risk = rng.normal(-0.5, 1.5, 40000)
    outcomes = rng.random(40000) < expit(risk)
    right = calibration(outcomes, expit(risk))
    assert right.slope == pytest.approx(1, abs=0.04)
    assert right.intercept == pytest.approx(0, abs=0.04)
    extreme = calibration(outcomes, expit(2 * risk))
    assert extreme.slope == pytest.approx(0.5, abs=0.02)
    low = calibration(outcomes, expit(risk - 1))
    assert low.slope == pytest.approx(1, abs=0.04)
    assert low.intercept == pytest.approx(1, abs=0.05)


def test_logistic_regression_on_one_binary_predictor_gives_the_odds() -> None:
    # Two by two: 30 of 40 and 10 of 50; the maximum likelihood coefficients are differences of log odds.
    values = np.repeat([1.0, 1.0, 0.0, 0.0], [30, 10, 10, 40])
    outcomes = np.repeat([1, 0, 1, 0], [30, 10, 10, 40])
    model = fit_logistic(values, outcomes)
    assert model.intercept == pytest.approx(math.log(10 / 40), abs=1e-5)
    assert model.coefficients[0] == pytest.approx(math.log(3) - math.log(0.25), abs=1e-5)
    assert model.probability([1.0, 0.0]) == pytest.approx([0.75, 0.2], abs=1e-5)


def test_units_of_predictors_do_not_matter() -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(size=(200, 2))
    outcomes = rng.random(200) < expit(values[:, 0])
    one = fit_logistic(values, outcomes)
    other = fit_logistic(values * [1000, 0.01] + [5, 3], outcomes)
    assert other.probability(values * [1000, 0.01] + [5, 3]) == pytest.approx(one.probability(values), abs=1e-4)


def test_sensitivity_is_that_of_the_best_allowed_threshold() -> None:
    outcomes = [0, 0, 0, 0, 1, 1, 1, 1]
    scores = [1, 2, 3, 4, 2.5, 3.5, 4.5, 5]
    assert sensitivity_at_specificity(outcomes, scores, 1.0) == 0.5
    assert sensitivity_at_specificity(outcomes, scores, 0.75) == 0.75
    assert sensitivity_at_specificity(outcomes, scores, 0.5) == 1.0
    assert sensitivity_at_specificity(outcomes, scores, 0.0) == 1.0


def test_net_benefit_of_a_worked_example() -> None:
    # 10 cases, 4 events; at 20 % the model treats 5, 3 of them events: 0.3 − 0.2 × 0.25.
    outcomes = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    probabilities = [0.9, 0.5, 0.3, 0.1, 0.6, 0.2, 0.1, 0.1, 0.1, 0.1]
    point = decision_curve(outcomes, probabilities, [0.2])[0]
    assert point.model == pytest.approx(0.3 - 0.2 * 0.25)
    assert point.treat_all == pytest.approx(0.4 - 0.6 * 0.25)


@pytest.mark.parametrize(
    ("outcomes", "predictions", "says"),
    [
        ([1, 1], [0.1, 0.2], "same outcome"),
        ([1, 0], [0.1], "same length"),
        ([1, 0], [0.1, math.nan], "not a number"),
        ([1, 2], [0.1, 0.2], "neither 0 nor 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(outcomes: list[int], predictions: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        auc(outcomes, predictions)
    if says == "same outcome":
        assert brier_score(outcomes, predictions) == pytest.approx((0.9**2 + 0.8**2) / 2)


def test_what_is_no_probability_has_no_brier_score() -> None:
    with pytest.raises(ValueError, match="no probability"):
        brier_score([1, 0], [1.2, 0])
    with pytest.raises(ValueError, match="calibration slope"):
        calibration([1, 0], [0.5, 0.5])
