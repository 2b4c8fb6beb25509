"""How many samples a generative analysis draws, and how: what a route may set."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.models.precision import Precision

__all__ = ["SAMPLES_MAX", "STEPS_MAX", "Sampling"]

SAMPLES_MAX, STEPS_MAX = 64, 64


@dataclass(frozen=True, slots=True)
class Sampling:
    """Number of samples of a generative analysis, of steps of each, and what they are computed in.

    Attributes
    ----------
    samples : int
        2 … 64: a spread needs two.
    steps : int
        1 … 64, of Euler's method.
    precision : Precision
        Of the network that draws samples; the probabilities are calibrated in single precision and stay in it.

    Raises
    ------
    ValueError
        Out of these ranges.
    """

    samples: int = 6
    steps: int = 4
    precision: Precision = Precision.FLOAT32

    def __post_init__(self) -> None:
        if not (2 <= self.samples <= SAMPLES_MAX and 1 <= self.steps <= STEPS_MAX):
            raise ValueError(
                f"{self.samples} samples of {self.steps} steps: 2 to {SAMPLES_MAX} samples of 1 to {STEPS_MAX} steps"
            )
