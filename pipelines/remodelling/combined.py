"""The combined model: logistic regression of the network's logit, GLS, LA reservoir strain and estimated infarct size.

All of it is plain numbers that lie beside the weights of the network, in one file of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from pipelines.function.findings import Interval
from pipelines.remodelling.features import FEATURES, Feature
from pipelines.remodelling.findings import Contribution, InfarctEstimate

__all__ = [
    "INFARCT_FEATURES",
    "PREDICTORS",
    "SUBSETS",
    "CombinedModel",
    "CombinedRisk",
    "design_of",
    "subset_of",
]

Array = NDArray[np.float64]

PREDICTORS = (
    ("the fusion network", "1"),
    ("global longitudinal strain", "%"),
    ("left atrial reservoir strain", "%"),
    ("infarct size estimated without contrast agent", "%"),
)
"""Names and units, in the order of the coefficients."""
_GLS, _LA = 1, 2
SUBSETS: tuple[frozenset[int], ...] = (
    frozenset({0, 1, 2, 3}),
    frozenset({0, 2, 3}),
    frozenset({0, 1, 3}),
    frozenset({0, 3}),
)
"""Predictors of each model: all; without GLS; without reservoir strain; without both. A study gets the model of what it
has, fitted without the rest: nothing is filled in."""
INFARCT_FEATURES: tuple[tuple[Feature, ...], ...] = (
    (
        Feature.EJECTION_FRACTION,
        Feature.GCS,
        Feature.SEGMENTS_WORST,
        Feature.SEGMENTS_BEST,
        Feature.SEGMENTS_SPREAD,
        Feature.THICKENING,
        Feature.THICKENING_WORST,
        Feature.THICKENING_SPREAD,
    ),
    (Feature.EJECTION_FRACTION, Feature.GCS),
)
"""What infarct size is regressed from: with the segments, and where they could not be told."""


@dataclass(frozen=True, slots=True)
class CombinedRisk:
    """Probability, its interval and what moved it."""

    probability: float
    interval: Interval
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CombinedModel:
    """Coefficients as they are stored.

    Attributes
    ----------
    coefficients : (4, 5) float64
        By subset: intercept, then a coefficient for each predictor, 0 for those the subset does without.
    bootstrap : (4, B, 5) float64
        The same of fits to training cases drawn with replacement.
    means : (4,) float64
        Of the predictors in training.
    prevalence : float
        Share of events in training.
    infarct_coefficients : (2, 19) float64
        By set of features: intercept, then a coefficient for each feature.
    infarct_residual : (2,) float64
        Standard deviation of what the regression leaves, % of the muscle.
    """

    coefficients: Array
    bootstrap: Array
    means: Array
    prevalence: float
    infarct_coefficients: Array
    infarct_residual: Array

    def infarct(self, features: Mapping[Feature, float]) -> InfarctEstimate:
        """Infarct size from function and motion, % of the muscle.

        Raises
        ------
        ValueError
            Ejection fraction or circumferential strain is missing.
        """
        variant = next((n for n, needed in enumerate(INFARCT_FEATURES) if all(one in features for one in needed)), None)
        if variant is None:
            raise ValueError("infarct size needs ejection fraction and circumferential strain")
        weights = self.infarct_coefficients[variant]
        value = weights[0] + sum(
            weights[1 + FEATURES.index(name)] * features[name] for name in INFARCT_FEATURES[variant]
        )
        half = 1.96 * float(self.infarct_residual[variant])
        percent = float(np.clip(value, 0, 100))
        return InfarctEstimate(percent, Interval(max(percent - half, 0.0), min(percent + half, 100.0)))

    def risk(self, predictors: Array) -> CombinedRisk:
        """Probability of one study.

        Parameters
        ----------
        predictors : (4,) float64
            NaN where GLS or reservoir strain is missing.
        """
        subset = subset_of(predictors)
        design = design_of(predictors[None])[0]
        coefficients = self.coefficients[subset]
        drawn = expit(self.bootstrap[subset] @ design)
        moved = [
            Contribution(name, float(predictors[index]), unit, float(coefficients[1 + index] * (value - mean)))
            for index, ((name, unit), value, mean) in enumerate(zip(PREDICTORS, predictors, self.means, strict=True))
            if index in SUBSETS[subset]
        ]
        return CombinedRisk(
            probability=float(expit(coefficients @ design)),
            interval=Interval(*(float(bound) for bound in np.quantile(drawn, (0.025, 0.975)))),
            contributions=tuple(sorted(moved, key=lambda one: -abs(one.logit))),
        )


def subset_of(predictors: Array) -> int:
    """Index of the model for what a study has, (4,) with NaN for what it has not."""
    missing = {index for index in (_GLS, _LA) if np.isnan(predictors[index])}
    return next(n for n, subset in enumerate(SUBSETS) if not subset & missing and len(subset) == 4 - len(missing))


def design_of(predictors: Array) -> Array:
    """Predictors (N, 4) with a leading 1, (N, 5); what is missing meets a coefficient of 0."""
    return np.column_stack([np.ones(len(predictors)), np.nan_to_num(predictors)])
