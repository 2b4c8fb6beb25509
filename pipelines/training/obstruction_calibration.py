"""Calibration of obstruction on hearts that a model has not seen, and how well it told them apart."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logit

from pipelines.logistic import fit_logistic
from pipelines.statistics import auc_interval

__all__ = ["calibrate", "platt"]

_RESAMPLED = 200


def platt(scores: NDArray[np.float64], outcomes: NDArray[np.bool_]) -> tuple[float, float]:
    """Fit Platt scaling: slope, at least 0, and intercept.

    A model whose score falls where obstruction is more frequent has learnt nothing: all get the frequency then.
    """
    # A light penalty, because few hearts can be separated by chance.
    model = fit_logistic(scores, outcomes, penalty=1.0)
    if model.coefficients[0] > 0:
        return model.coefficients[0], model.intercept
    return 0.0, float(logit(outcomes.mean()))


def calibrate(
    network: torch.nn.Module, scores: NDArray[np.float64], outcomes: NDArray[np.bool_], seed: int = 0
) -> None:
    """Fit the calibration of a model to hearts that it has not seen, and keep its area under their curve.

    Parameters
    ----------
    network : torch.nn.Module
        With the buffers of :func:`pipelines.obstruction.calibration.calibration_buffers`, which are set.
    scores : (N,) float64
    outcomes : (N,) bool
    seed : int
        Of the resampling of hearts, within each outcome, that gives the covariance.
    """
    rng = np.random.default_rng(seed)
    groups = np.flatnonzero(outcomes), np.flatnonzero(~outcomes)
    drawn = []
    for _ in range(_RESAMPLED):
        chosen = np.concatenate([rng.choice(group, group.size) for group in groups])
        drawn.append(platt(scores[chosen], outcomes[chosen]))
    area = auc_interval(outcomes, scores)
    # Few hearts that are told apart without an error have no interval: they prove nothing.
    held_out = np.nan_to_num([area.value, area.low, area.high], nan=0.0)
    network.get_buffer("heart_calibration").copy_(torch.tensor(platt(scores, outcomes)))
    network.get_buffer("heart_covariance").copy_(torch.from_numpy(np.cov(np.array(drawn).T)))
    network.get_buffer("held_out_auc").copy_(torch.from_numpy(held_out))
