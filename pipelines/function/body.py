"""Body surface area."""

from __future__ import annotations

import math

from pipelines.function.findings import BsaFormula

__all__ = ["body_surface_area"]

HEIGHT_M = (0.4, 2.5)
"""Plausible heights; outside, the header is taken to be wrong (centimetres in a field of metres, zeros)."""
WEIGHT_KG = (2.0, 350.0)
BMI_KG_M2 = (8.0, 90.0)


def body_surface_area(
    height_m: float | None, weight_kg: float | None, formula: BsaFormula = BsaFormula.MOSTELLER
) -> float | None:
    """Body surface area, m².

    Parameters
    ----------
    height_m, weight_kg : float or None
        PatientSize and PatientWeight.
    formula : BsaFormula
        Mosteller, √(cm·kg/3600) (NEJM 1987;317:1098), or Du Bois, 0.007184·cm^0.725·kg^0.425
        (Arch Intern Med 1916;17:863).

    Returns
    -------
    float or None
        ``None`` when either is unknown or implausible: no index is better than a wrong one.
    """
    if height_m is None or weight_kg is None or not (math.isfinite(height_m) and math.isfinite(weight_kg)):
        return None
    if not (HEIGHT_M[0] <= height_m <= HEIGHT_M[1] and WEIGHT_KG[0] <= weight_kg <= WEIGHT_KG[1]):
        return None
    if not BMI_KG_M2[0] <= weight_kg / height_m**2 <= BMI_KG_M2[1]:
        return None
    centimetres = 100.0 * height_m
    if formula is BsaFormula.MOSTELLER:
        return math.sqrt(centimetres * weight_kg / 3600.0)
    return float(0.007184 * centimetres**0.725 * weight_kg**0.425)
