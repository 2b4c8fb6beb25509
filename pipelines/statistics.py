"""Statistics of classifiers: discrimination, calibration and clinical use of predicted probabilities, with intervals.

Every function takes outcomes and predictions of independent cases: one entry a patient, never one a slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import rankdata

from pipelines.logistic import fit_logistic

__all__ = [
    "Calibration",
    "Comparison",
    "Estimate",
    "NetBenefit",
    "auc",
    "auc_interval",
    "bootstrap_interval",
    "brier_score",
    "calibration",
    "compare_aucs",
    "decision_curve",
    "sensitivity_at_specificity",
]

Array = NDArray[np.float64]

_SMALLEST = 1e-7
"""Probabilities are kept this far from 0 and 1 before their logit is taken."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its confidence interval; NaN where the cases do not determine it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two classifiers on the same cases, by DeLong's test.

    Attributes
    ----------
    first, second : float
        Areas under the curve.
    difference : Estimate
        First less second, with its 95 % interval.
    p_value : float
        Two-sided, of the hypothesis that both areas are equal.
    """

    first: float
    second: float
    difference: Estimate
    p_value: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Agreement of predicted and observed risk (Cox 1958): logit of the outcome = intercept + slope × logit predicted.

    Attributes
    ----------
    slope : float
        1 when well calibrated; below 1 when predictions are too extreme.
    intercept : float
        Calibration in the large: intercept at slope 1; 0 when the mean risk is right, above 0 when risk is
        underestimated.
    """

    slope: float
    intercept: float


@dataclass(frozen=True, slots=True)
class NetBenefit:
    """One point of a decision curve (Vickers & Elkin, Med Decis Making 2006), in true positives a case.

    Attributes
    ----------
    threshold : float
        Risk from which a case is treated.
    model, treat_all : float
        Net benefit of treating by the model, and of treating everybody; that of treating nobody is 0.
    """

    threshold: float
    model: float
    treat_all: float


def auc(outcomes: ArrayLike, scores: ArrayLike) -> float:
    """Area under the receiver operating characteristic: the chance that an event scores above a non-event, ties half.

    Parameters
    ----------
    outcomes : (N,) bool or 0/1
    scores : (N,) float
        Any monotone measure of risk.

    Raises
    ------
    ValueError
        The arrays differ in length, hold NaN, or one of the two outcomes is missing.
    """
    events, values = _both(outcomes, scores)
    ranks = rankdata(values)
    positive = int(events.sum())
    return float((ranks[events].sum() - positive * (positive + 1) / 2) / (positive * (events.size - positive)))


def auc_interval(outcomes: ArrayLike, scores: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Area under the curve with DeLong's interval (Biometrics 1988), taken on the logit scale, so it stays in 0 … 1.

    An area of exactly 0 or 1, or of fewer than two cases of an outcome, has no interval: its limits are NaN.

    Raises
    ------
    ValueError
        See :func:`auc`.
    """
    events, values = _both(outcomes, scores)
    area = auc(events, values)
    variance = _delong_covariance(events, values[None])[0, 0]
    if not 0 < area < 1 or not variance > 0:
        return Estimate(area, math.nan, math.nan)
    half = ndtri(0.5 + confidence / 2) * math.sqrt(variance) / (area * (1 - area))
    return Estimate(area, float(expit(logit(area) - half)), float(expit(logit(area) + half)))


def compare_aucs(outcomes: ArrayLike, first: ArrayLike, second: ArrayLike) -> Comparison:
    """Compare two classifiers on the same cases by DeLong's test for correlated areas (Biometrics 1988).

    Raises
    ------
    ValueError
        See :func:`auc`.
    """
    events, one = _both(outcomes, first)
    _, other = _both(outcomes, second)
    areas = auc(events, one), auc(events, other)
    covariance = _delong_covariance(events, np.stack([one, other]))
    difference = areas[0] - areas[1]
    error = math.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0))
    if math.isnan(covariance[0, 0]):
        p_value = math.nan
    elif error < 1e-12:
        p_value = 1.0 if abs(difference) < 1e-12 else 0.0
    else:
        p_value = float(2 * ndtr(-abs(difference) / error))
    half = float(ndtri(0.975)) * error
    return Comparison(*areas, Estimate(difference, difference - half, difference + half), p_value)


def _delong_covariance(events: NDArray[np.bool_], scores: Array) -> Array:
    """Covariance of the areas of K classifiers from their structural components; scores (K, N)."""
    positive, negative = scores[:, events], scores[:, ~events]
    count = positive.shape[1], negative.shape[1]
    if min(count) < 2:
        return np.full((len(scores), len(scores)), np.nan)
    # Midranks among all less midranks among the own outcome count what lies below (Sun & Xu, IEEE SPL 2014).
    joint = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    of_positive = (joint[:, : count[0]] - rankdata(positive, axis=1)) / count[1]
    of_negative = 1 - (joint[:, count[0] :] - rankdata(negative, axis=1)) / count[0]
    covariance = np.cov(of_positive) / count[0] + np.cov(of_negative) / count[1]
    return np.asarray(covariance, np.float64).reshape(len(scores), len(scores))


def bootstrap_interval(
    outcomes: ArrayLike,
    predictions: ArrayLike,
    statistic: Callable[[NDArray[np.bool_], Array], float],
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Percentile bootstrap interval of a statistic, over cases drawn with replacement within each outcome.

    Parameters
    ----------
    outcomes : (N,) bool or 0/1
    predictions : (N,) float
    statistic : callable
        Of outcomes and predictions, such as :func:`auc` or :func:`brier_score`.
    samples : int
    confidence : float
    seed : int
        The same seed gives the same interval.

    Raises
    ------
    ValueError
        See :func:`auc`.
    """
    events, values = _both(outcomes, predictions)
    rng = np.random.default_rng(seed)
    groups = np.flatnonzero(events), np.flatnonzero(~events)
    drawn = []
    for _ in range(samples):
        chosen = np.concatenate([rng.choice(group, group.size) for group in groups])
        drawn.append(statistic(events[chosen], values[chosen]))
    low, high = np.nanquantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(statistic(events, values)), float(low), float(high))


def brier_score(outcomes: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared difference of probability and outcome (Brier 1950): 0 is perfect, p (1 − p) knows the prevalence.

    Raises
    ------
    ValueError
        The arrays differ in length, or something is no probability.
    """
    events, values = _probabilities(outcomes, probabilities)
    return float(((values - events) ** 2).mean())


def calibration(outcomes: ArrayLike, probabilities: ArrayLike) -> Calibration:
    """Calibration slope, and intercept with the slope held at 1, by maximum likelihood.

    Raises
    ------
    ValueError
        One outcome is missing, all predictions are the same, or something is no probability.
    """
    events, values = _probabilities(outcomes, probabilities)
    _both(events, values)
    predicted = np.asarray(logit(np.clip(values, _SMALLEST, 1 - _SMALLEST)), np.float64)
    if np.ptp(predicted) < 1e-12:
        raise ValueError("all predictions are the same: they have no calibration slope")
    slope = fit_logistic(predicted[:, None], events).coefficients[0]
    return Calibration(slope, _offset_intercept(predicted, events))


def _offset_intercept(predicted: Array, events: NDArray[np.bool_]) -> float:
    """Intercept at which the mean risk equals the observed share; found by bisection, since it is monotone in it."""
    low, high = -40.0, 40.0
    share = events.mean()
    for _ in range(100):
        middle = (low + high) / 2
        if expit(predicted + middle).mean() < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def sensitivity_at_specificity(outcomes: ArrayLike, scores: ArrayLike, specificity: float) -> float:
    """Largest sensitivity of a threshold whose specificity is at least ``specificity``.

    Raises
    ------
    ValueError
        See :func:`auc`.
    """
    events, values = _both(outcomes, scores)
    without = np.sort(values[~events])
    # A case is called positive when it scores above the threshold: so many non-events must not lie above it.
    kept = math.ceil(specificity * without.size - 1e-9)
    if kept <= 0:
        return 1.0
    return float((values[events] > without[kept - 1]).mean())


def decision_curve(
    outcomes: ArrayLike, probabilities: ArrayLike, thresholds: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
) -> tuple[NetBenefit, ...]:
    """Net benefit of treating by the model at each threshold: TP / N − FP / N × threshold / (1 − threshold).

    Raises
    ------
    ValueError
        Something is no probability, or a threshold lies outside 0 … 1.
    """
    events, values = _probabilities(outcomes, probabilities)
    curve = []
    for threshold in thresholds:
        if not 0 < threshold < 1:
            raise ValueError(f"a threshold is {threshold}; it must lie between 0 and 1")
        odds = threshold / (1 - threshold)
        treated = values >= threshold
        benefit = (treated & events).mean() - (treated & ~events).mean() * odds
        curve.append(NetBenefit(threshold, float(benefit), float(events.mean() - (1 - events.mean()) * odds)))
    return tuple(curve)


def _both(outcomes: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Array]:
    events, values = _paired(outcomes, scores)
    if events.all() or not events.any():
        raise ValueError("all cases have the same outcome; cases of both are needed")
    return events, values


def _probabilities(outcomes: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.bool_], Array]:
    events, values = _paired(outcomes, probabilities)
    if values.min() < 0 or values.max() > 1:
        raise ValueError("a prediction lies outside 0 … 1: it is no probability")
    return events, values


def _paired(outcomes: ArrayLike, predictions: ArrayLike) -> tuple[NDArray[np.bool_], Array]:
    events, values = np.asarray(outcomes), np.asarray(predictions, np.float64)
    if events.ndim != 1 or values.shape != events.shape or not events.size:
        raise ValueError(f"outcomes {events.shape} and predictions {values.shape} must be lists of the same length")
    if not np.isin(events, (0, 1)).all():
        raise ValueError("an outcome is neither 0 nor 1")
    if np.isnan(values).any():
        raise ValueError("a prediction is not a number")
    return events.astype(bool), values
