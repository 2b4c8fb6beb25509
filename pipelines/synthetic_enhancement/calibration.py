"""Calibration of probabilities, and limits: fitted on held-out simulated hearts, read beside the weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pydantic
import yaml
from numpy.typing import NDArray

from pipelines.models.registry import ModelUnavailable

__all__ = [
    "FILE",
    "Calibration",
    "Logistic",
    "Probabilities",
    "found_calibration",
    "logit",
    "read_calibration",
    "write_calibration",
]

FILE = "calibration.yaml"


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Logistic(_Frozen):
    """A logistic model of standardised predictors."""

    predictors: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def probability(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability (…,) of predictors (…, P)."""
        standardised = (values - np.array(self.means)) / np.array(self.scales)
        return np.asarray(1 / (1 + np.exp(-(standardised @ np.array(self.weights) + self.intercept))))


class Probabilities(_Frozen):
    """The models of one kind of cine."""

    study: Logistic
    slice: Logistic
    segment: Logistic
    classifiers: dict[str, Logistic]
    """Of the study, by name: those that make no image."""
    reported: str
    """Name of the way whose probability of the study is reported: the best calibrated one of held-out hearts."""
    operating_point: float
    """Probability of the study from which enhancement is said to be there: below it every extent is 0. At most one in
    twenty held-out hearts without scar reached it, judged by models that had not seen them."""


class Calibration(_Frozen):
    """What ``calibration.yaml`` holds."""

    weights_sha256: str
    """Of the first network: a calibration belongs to its weights."""
    refiner_sha256: str
    sequence_sha256: str
    hearts: int
    """Held-out simulated hearts that everything was fitted on, with masks from the node's segmentation."""
    command: str
    whole_cycle: Probabilities
    two_moments: Probabilities
    deviation_limit: float
    """Mean standard deviation of the samples in muscle above which the image is withheld."""
    deep_means: tuple[float, ...]
    deep_scales: tuple[float, ...]
    """Of the pooled features at the bottom of the first network, over hearts."""
    novelty_limit: float
    """Root mean square departure of these features above which the image is withheld."""
    novelty_refused: float
    """Departure above which nothing is said."""


def logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithm of the odds; probabilities are kept 10⁻⁴ away from certainty."""
    kept = np.clip(probability, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(kept / (1 - kept)))


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration as YAML."""
    path.write_text(yaml.safe_dump(calibration.model_dump(mode="json"), sort_keys=False, width=110), encoding="utf-8")


def found_calibration(folder: Path) -> Calibration:
    """The calibration in the folder of a model, whatever weights it belongs to.

    Raises
    ------
    ModelUnavailable
        It is missing or not valid.
    """
    path = folder / FILE
    try:
        return Calibration.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, pydantic.ValidationError) as error:
        raise ModelUnavailable(f"calibration {path} cannot be read: {error}; install the package again") from error


@cache
def read_calibration(folder: Path, weights_sha256: str) -> Calibration:
    """Read the calibration in the folder of a model.

    Raises
    ------
    ModelUnavailable
        It is missing, not valid, or of other weights.
    """
    found = found_calibration(folder)
    if found.weights_sha256 != weights_sha256:
        raise ModelUnavailable(
            f"calibration {folder / FILE} belongs to weights {found.weights_sha256}, the network has {weights_sha256}: "
            "calibrate again, or install the package again"
        )
    return found
