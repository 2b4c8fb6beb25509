"""What knowing an acute infarct of the simulator exactly says of microvascular obstruction: the law, read backwards.

It bounds what any model can reach on phantoms, and is known in closed form because the law is.
"""

from __future__ import annotations

import math

from scipy.special import log_ndtr, ndtr

from pipelines.phantom.law import JointLaw
from pipelines.phantom.population import (
    CONTRACTILITY,
    HALF_LENGTH,
    HALF_WIDTH_DEG,
    RESIDUAL_SD,
    TRANSMURALITY,
    Infarct,
    expected_contractility,
)

__all__ = ["obstruction_evidence"]

_NARROW = 1e-3
"""Least spread of sizes: without one the size alone would be proof."""
_TOLERANCE = 1e-9


def obstruction_evidence(infarct: Infarct, law: JointLaw) -> float:
    """Logarithm of the likelihood ratio for obstruction of an acute infarct, by its depth, size and contraction.

    Parameters
    ----------
    infarct : Infarct
        As drawn: none of its properties fixed by a recipe.
    law : JointLaw
        That it was drawn by.

    Returns
    -------
    float
        ``-inf`` where an infarct with obstruction is never like this.
    """
    shallowest = TRANSMURALITY[0] + law.obstruction_depth * (1 - TRANSMURALITY[0])
    if infarct.transmurality < shallowest - _TOLERANCE:
        return -math.inf
    depth = (TRANSMURALITY[1] - TRANSMURALITY[0]) / max(TRANSMURALITY[1] - shallowest, _NARROW)
    size = _of_size(infarct, law.infarct_spread, math.log(law.obstruction_size))
    return math.log(depth) + size - _of_size(infarct, law.infarct_spread, 0.0) + _of_contraction(infarct, law)


def _of_size(infarct: Infarct, spread: float, larger: float) -> float:
    """Logarithm of the density of width and length, up to a constant.

    Both are uniform draws times the square root of a lognormal factor: the factor is integrated over those values for
    which both draws lie in their ranges.
    """
    spread = max(spread, _NARROW)
    low = max(
        2 * math.log(infarct.half_width_deg / HALF_WIDTH_DEG[1]), 2 * math.log(infarct.half_length / HALF_LENGTH[1])
    )
    high = min(
        2 * math.log(infarct.half_width_deg / HALF_WIDTH_DEG[0]), 2 * math.log(infarct.half_length / HALF_LENGTH[0])
    )
    centre = larger - spread**2
    first, last = (low - centre) / spread, (high - centre) / spread
    if first > 0:  # In the upper tail the difference of two numbers near 1 would be lost.
        first, last = -last, -first
    share = float(ndtr(last) - ndtr(first))
    return math.log(max(share, 1e-300)) - larger + spread**2 / 2


def _of_contraction(infarct: Infarct, law: JointLaw) -> float:
    """Logarithm of the likelihood ratio of the contraction of the core at its depth."""
    low, high = CONTRACTILITY
    departure = (infarct.contractility - expected_contractility(infarct.transmurality)) / RESIDUAL_SD
    shift = law.obstruction_motion / RESIDUAL_SD
    if infarct.contractility <= low:
        return float(log_ndtr(departure + shift) - log_ndtr(departure))
    if infarct.contractility >= high:
        return float(log_ndtr(-departure - shift) - log_ndtr(-departure))
    return (departure**2 - (departure + shift) ** 2) / 2
