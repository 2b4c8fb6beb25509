"""From the score of a heart to a probability with its interval, by a logistic calibration on hearts kept out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, ndtri

if TYPE_CHECKING:
    import torch

__all__ = ["CONFIDENCE", "HeartProbability", "calibrated", "calibration_buffers", "tells_hearts_apart"]

CONFIDENCE = 0.95
_CHANCE = 0.5


@dataclass(frozen=True, slots=True)
class HeartProbability:
    """Probability of obstruction anywhere in a heart, and the limits of its 95 % interval."""

    value: float
    low: float
    high: float


def calibration_buffers() -> dict[str, torch.Tensor]:
    """Buffers of calibration that every model of obstruction keeps beside its weights, as they are before it.

    ``heart_calibration`` (2,): slope, at least 0, and intercept that turn the score of a heart into the logit of its
    probability. ``heart_covariance`` (2, 2): of both, over resampled hearts. ``held_out_auc`` (3,): area under the
    curve of hearts kept out, and its 95 % interval.
    """
    import torch

    return {
        "heart_calibration": torch.tensor([1.0, 0.0]),
        "heart_covariance": torch.zeros(2, 2),
        "held_out_auc": torch.tensor([_CHANCE, 0.0, 1.0]),
    }


def tells_hearts_apart(network: torch.nn.Module) -> bool:
    """Whether a model told hearts with obstruction from those without when it was calibrated.

    It did where the 95 % interval of the area under the curve, over hearts that it had not seen, lies above one half.
    What another says of a patient would be a frequency, or chance.
    """
    return (
        float(network.get_buffer("held_out_auc")[1]) > _CHANCE and float(network.get_buffer("heart_calibration")[0]) > 0
    )


def calibrated(network: torch.nn.Module, score: float, spread: float = 0.0) -> HeartProbability:
    """Probability of a heart with a score.

    Parameters
    ----------
    network : torch.nn.Module
        With the buffers of :func:`calibration_buffers`.
    score : float
    spread : float
        Standard deviation of the score from what can be repeated, such as mirrored views. The interval holds it and
        what the calibration on few hearts leaves open, not the difference between simulated hearts and patients.
    """
    weights = network.get_buffer("heart_calibration").double().cpu().numpy()
    design = np.array([score, 1.0])
    variance = float(design @ network.get_buffer("heart_covariance").double().cpu().numpy() @ design)
    half = float(ndtri(0.5 + CONFIDENCE / 2)) * math.sqrt(max(variance, 0.0) + float(weights[0] ** 2) * spread**2)
    middle = float(design @ weights)
    return HeartProbability(float(expit(middle)), float(expit(middle - half)), float(expit(middle + half)))
