"""Reference intervals of ventricular function, with their source and the method they belong to.

All are of one study that traced as this package does, with the papillary muscles and trabeculae in the cavity:
Petersen et al., "Reference ranges for cardiac structure and function using cardiovascular magnetic resonance (CMR) in
Caucasians from the UK Biobank population cohort", JCMR 2017;19:18, doi 10.1186/s12968-017-0327-9; 368 men and 432 women
aged 45 to 74, bSSFP at 1.5 T, manual contours. What the study does not give, or could not be checked, is left out:
there is no interval for RVEF, absolute mass, output or rates.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pipelines.cine.stack import StudyContext
from pipelines.function.findings import Quantity

__all__ = ["SOURCE", "ReferenceInterval", "Standing", "reference_interval"]

SOURCE = "Petersen et al., JCMR 2017;19:18 (UK Biobank; papillary muscles in the cavity)"
POPULATION_AGE_YEARS = (45.0, 75.0)
ADULT_AGE_YEARS = 18.0

ABNORMAL = "limits beyond which the study grades a value abnormal"
SPREAD = "mean ± 1.96 standard deviations"


class Standing(enum.StrEnum):
    """Where a value stands to its reference interval."""

    BELOW = "below"
    WITHIN = "within"
    ABOVE = "above"


@dataclass(frozen=True, slots=True)
class ReferenceInterval:
    """Interval of a healthy population, in the unit of the quantity."""

    quantity: Quantity
    lower: float
    upper: float
    definition: str
    """What the bounds are."""
    source: str
    population: str
    """Sex, number and age of the people it is from."""
    age_fits: bool | None
    """Whether the patient is of the age of that population; ``None`` when the age is not known."""

    def standing(self, value: float) -> Standing:
        """Where a value stands."""
        if value < self.lower:
            return Standing.BELOW
        return Standing.ABOVE if value > self.upper else Standing.WITHIN


def _spread(mean: float, deviation: float) -> tuple[float, float, str]:
    return mean - 1.96 * deviation, mean + 1.96 * deviation, SPREAD


_MEN: dict[Quantity, tuple[float, float, str]] = {
    Quantity.LVEDV: (93, 232, ABNORMAL),
    Quantity.LVESV: (34, 103, ABNORMAL),
    Quantity.LVSV: (49, 140, ABNORMAL),
    Quantity.LVEDVI: (52, 117, ABNORMAL),
    Quantity.LVESVI: (19, 52, ABNORMAL),
    Quantity.LVSVI: (28, 70, ABNORMAL),
    Quantity.LVEF: _spread(58, 5),
    Quantity.LVMI: _spread(53, 9),
    Quantity.RVEDV: (99, 260, ABNORMAL),
    Quantity.RVESV: (34, 135, ABNORMAL),
    Quantity.RVSV: (54, 140, ABNORMAL),
    Quantity.RVEDVI: (55, 128, ABNORMAL),
    Quantity.RVESVI: (19, 67, ABNORMAL),
    Quantity.RVSVI: (30, 69, ABNORMAL),
}

_WOMEN: dict[Quantity, tuple[float, float, str]] = {
    Quantity.LVEDV: (80, 175, ABNORMAL),
    Quantity.LVESV: (25, 73, ABNORMAL),
    Quantity.LVSV: (47, 110, ABNORMAL),
    Quantity.LVEDVI: (50, 101, ABNORMAL),
    Quantity.LVESVI: (16, 43, ABNORMAL),
    Quantity.LVSVI: (29, 63, ABNORMAL),
    Quantity.LVEF: _spread(61, 5),
    Quantity.LVMI: _spread(42, 7),
    Quantity.RVEDV: (83, 192, ABNORMAL),
    Quantity.RVESV: (26, 95, ABNORMAL),
    Quantity.RVSV: (47, 107, ABNORMAL),
    Quantity.RVEDVI: (51, 110, ABNORMAL),
    Quantity.RVESVI: (16, 55, ABNORMAL),
    Quantity.RVSVI: (29, 61, ABNORMAL),
}

_BY_SEX = {"M": (_MEN, "368 men aged 45 to 74"), "F": (_WOMEN, "432 women aged 45 to 74")}


def reference_interval(quantity: Quantity, context: StudyContext) -> ReferenceInterval | None:
    """Reference interval of a quantity for a patient.

    Parameters
    ----------
    quantity : Quantity
    context : StudyContext
        Sex, and age where known.

    Returns
    -------
    ReferenceInterval or None
        ``None`` for a child, where the sex is not M or F, and where the study gives no interval.
    """
    if context.sex not in _BY_SEX or (context.age_years is not None and context.age_years < ADULT_AGE_YEARS):
        return None
    intervals, population = _BY_SEX[context.sex]
    if quantity not in intervals:
        return None
    lower, upper, definition = intervals[quantity]
    age_fits = None
    if context.age_years is not None:
        age_fits = POPULATION_AGE_YEARS[0] <= context.age_years < POPULATION_AGE_YEARS[1]
    return ReferenceInterval(quantity, lower, upper, definition, SOURCE, population, age_fits)
