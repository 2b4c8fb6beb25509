"""Probability that a heart holds an infarct or an obstruction: a logistic law of the extent that the network labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.late_enhancement.findings import Presence

__all__ = ["FLOOR_PERCENT", "INFARCT_LAW", "OBSTRUCTION_LAW", "PresenceLaw", "presence"]

FLOOR_PERCENT = 0.05
"""Less than a pixel: the logarithm of no extent at all."""


@dataclass(frozen=True, slots=True)
class PresenceLaw:
    """Logistic law of the decimal logarithm of an extent in % of the muscle.

    Attributes
    ----------
    slope : float
    half_percent : float
        Extent at which the probability is a half.
    """

    slope: float
    half_percent: float

    def probability(self, percent: float) -> float:
        """Probability of presence for an extent."""
        return 1 / (1 + math.exp(-self.slope * (math.log10(percent + FLOOR_PERCENT) - math.log10(self.half_percent))))


INFARCT_LAW = PresenceLaw(slope=2.97, half_percent=2.93)
OBSTRUCTION_LAW = PresenceLaw(slope=1.98, half_percent=0.343)
"""Of 16 patients (EMIDEC fold 1, 10 with an infarct, 6 with obstruction), by a network that had not seen them: command
and figures in ``docs/late_enhancement.md``."""


def presence(law: PresenceLaw, percent: float) -> Presence:
    """Probability of presence, and whether it is at least a half."""
    probability = law.probability(percent)
    return Presence(probability, probability >= 0.5)
