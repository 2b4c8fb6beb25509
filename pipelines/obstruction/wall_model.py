"""The wall model: estimates the motion lost around an infarct, and from it the probability of obstruction.

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
from pipelines.obstruction.findings import MotionContribution
from pipelines.obstruction.wall import FEATURES, LOWEST_FIFTH, MOTIONS, WallMotion

__all__ = ["WALL", "WallModel"]

WALL = WallArchitecture(features=FEATURES)


class WallModel(nn.Module):
    """Motion lost around an infarct, from a description of the wall, (N, 20) to (N,).

    Parameters
    ----------
    architecture : WallArchitecture

    Attributes
    ----------
    coefficients : (21,) float32
        Intercept, then one for each feature.
    usual : (20,) float32
        Mean features of the hearts that the score was fitted to.
    slice_calibration : (3,) float32
        Coefficients of the score of the heart and of the largest deficit of the slice, and intercept: of the
        probability of a single slice. NaN where no slice had a label.
    heart_calibration, heart_covariance, held_out_auc
        See :func:`pipelines.obstruction.calibration.calibration_buffers`.
    """

    coefficients: torch.Tensor
    usual: torch.Tensor
    slice_calibration: torch.Tensor

    def __init__(self, architecture: WallArchitecture) -> None:
        super().__init__()
        if architecture.features != FEATURES:
            raise ValueError("the wall model was fitted to other features than this software measures")
        self.architecture = architecture
        self.register_buffer("coefficients", torch.zeros(1 + len(FEATURES)))
        self.register_buffer("usual", torch.zeros(len(FEATURES)))
        self.register_buffer("slice_calibration", torch.full((3,), torch.nan))
        for name, tensor in calibration_buffers().items():
            self.register_buffer(name, tensor)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Scores (N,) of features (N, 20)."""
        return self.coefficients[0] + features @ self.coefficients[1:]

    def score(self, features: NDArray[np.float64]) -> float:
        """Motion lost by the fifth of the muscle that has lost most, of features (20,): 0 healthy, 1 akinetic."""
        with torch.inference_mode():
            return float(self(torch.from_numpy(features).to(self.coefficients)[None])[0])

    def contributions(self, features: NDArray[np.float64]) -> tuple[MotionContribution, ...]:
        """How each motion of features (20,) moved the probability, the strongest first.

        Coefficient times (feature less its mean), added over the statistics of a motion: together they are the logit
        of the probability less that of a heart with the mean features.
        """
        usual = self.usual.double().numpy()
        slope = float(self.get_buffer("heart_calibration")[0])
        moved = slope * self.coefficients[1:].double().numpy() * (features - usual)
        shape = (len(MOTIONS), -1)
        found = [
            MotionContribution(motion, float(values[LOWEST_FIFTH]), float(means[LOWEST_FIFTH]), float(logits.sum()))
            for motion, values, means, logits in zip(
                MOTIONS, features.reshape(shape), usual.reshape(shape), moved.reshape(shape), strict=True
            )
        ]
        return tuple(sorted(found, key=lambda one: -abs(one.logit)))

    def slice_probabilities(self, wall: WallMotion) -> NDArray[np.float64]:
        """Probability that each slice shows obstruction, (S,), as if the slices of a heart were independent."""
        of_heart, of_slice, intercept = (float(each) for each in self.slice_calibration)
        return np.asarray(
            expit(intercept + of_heart * self.score(wall.features) + of_slice * wall.by_slice), np.float64
        )
