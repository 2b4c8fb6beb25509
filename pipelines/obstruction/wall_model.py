"""The wall model: estimates the motion lost by the core of an infarct, and from it the probability of obstruction.

All of it is plain numbers: a linear score of the description of the wall, and two logistic calibrations.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import nn

from pipelines.obstruction.architecture import WallArchitecture
from pipelines.obstruction.calibration import calibration_buffers
from pipelines.obstruction.wall import FEATURES, WallMotion

__all__ = ["WALL", "WallModel"]

WALL = WallArchitecture(features=FEATURES)


class WallModel(nn.Module):
    """Motion lost by the core of an infarct, from a description of the wall, (N, 15) to (N,).

    Parameters
    ----------
    architecture : WallArchitecture

    Attributes
    ----------
    coefficients : (16,) float32
        Intercept, then one for each feature.
    slice_calibration : (3,) float32
        Coefficients of the score of the heart and of the largest deficit of the slice, and intercept: of the
        probability of a single slice. NaN where no slice had a label.
    heart_calibration, heart_covariance, held_out_auc
        See :func:`pipelines.obstruction.calibration.calibration_buffers`.
    """

    coefficients: torch.Tensor
    slice_calibration: torch.Tensor

    def __init__(self, architecture: WallArchitecture) -> None:
        super().__init__()
        if architecture.features != FEATURES:
            raise ValueError("the wall model was fitted to other features than this software measures")
        self.architecture = architecture
        self.register_buffer("coefficients", torch.zeros(1 + len(FEATURES)))
        self.register_buffer("slice_calibration", torch.full((3,), torch.nan))
        for name, tensor in calibration_buffers().items():
            self.register_buffer(name, tensor)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Scores (N,) of features (N, 15)."""
        return self.coefficients[0] + features @ self.coefficients[1:]

    def score(self, features: NDArray[np.float64]) -> float:
        """Motion lost by the core, of features (15,): 0 as healthy muscle, 1 where it stands still."""
        with torch.inference_mode():
            return float(self(torch.from_numpy(features).to(self.coefficients)[None])[0])

    def slice_probabilities(self, wall: WallMotion) -> NDArray[np.float64]:
        """Probability that each slice shows obstruction, (S,), as if the slices of a heart were independent."""
        of_heart, of_slice, intercept = (float(each) for each in self.slice_calibration)
        return np.asarray(
            expit(intercept + of_heart * self.score(wall.features) + of_slice * wall.by_slice), np.float64
        )
