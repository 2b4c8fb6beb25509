"""Logistic regression: a fitted one as plain numbers, and the fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit

__all__ = ["LogisticModel", "fit_logistic"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LogisticModel:
    """Logistic regression: probability = expit(intercept + coefficients · values)."""

    intercept: float
    coefficients: tuple[float, ...]

    def probability(self, values: ArrayLike) -> Array:
        """Probability of each case, (N,), of values (N, P) or, of one predictor, (N,)."""
        table = np.asarray(values, np.float64)
        table = table[:, None] if table.ndim == 1 else table
        return np.asarray(expit(self.intercept + table @ np.array(self.coefficients)), np.float64)


def fit_logistic(values: ArrayLike, outcomes: ArrayLike, penalty: float = 0.0) -> LogisticModel:
    """Fit a logistic regression by maximum likelihood.

    Parameters
    ----------
    values : (N, P) or (N,) float
        Predictors; scaled inside, so their units do not matter.
    outcomes : (N,) bool or 0/1
    penalty : float
        Of half the sum of squared coefficients of the standardised predictors, beside the summed log-likelihood: 0 is
        maximum likelihood, which does not exist where the outcomes are separated.

    Raises
    ------
    ValueError
        One outcome is missing or something is not finite.
    """
    table = np.asarray(values, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    events = np.asarray(outcomes)
    if events.shape != table.shape[:1] or not events.size:
        raise ValueError(f"outcomes {events.shape} and predictors {table.shape} must be of the same cases")
    if not np.isin(events, (0, 1)).all() or events.min() == events.max():
        raise ValueError("outcomes must be 0 and 1, and both must occur")
    if not np.isfinite(table).all():
        raise ValueError("a predictor is not finite")
    centre, spread = table.mean(axis=0), table.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    design = np.column_stack([np.ones(len(table)), (table - centre) / spread])
    shrink = np.r_[0.0, np.full(table.shape[1], penalty)]

    def loss(weights: Array) -> tuple[float, Array]:
        score = design @ weights
        value = float((np.logaddexp(0, score) - events * score).sum() + 0.5 * (shrink * weights**2).sum())
        return value, design.T @ (expit(score) - events) + shrink * weights

    weights = minimize(loss, np.zeros(design.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-7}).x
    coefficients = weights[1:] / spread
    return LogisticModel(float(weights[0] - coefficients @ centre), tuple(float(each) for each in coefficients))
