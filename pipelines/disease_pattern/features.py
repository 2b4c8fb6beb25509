"""Features of the pattern classifier: volumes, wall and motion at end diastole and end systole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import VentricularFunction
from pipelines.synthetic_enhancement.features import SPACING_MM, HeartCrop
from pipelines.synthetic_enhancement.predictors import HEART_PREDICTORS, heart_predictors, slice_predictors

__all__ = ["ASSUMED_BSA_M2", "FEATURES", "pattern_features"]

ASSUMED_BSA_M2 = 1.9
"""Where height or weight is not known: about the mean of the patients that the classifier learnt from."""
_VOLUMES = (
    *("LVEDVI, ml/m2", "LVESVI, ml/m2", "LVEF, %", "LVMI, g/m2", "LV mass ÷ EDV, g/ml"),
    *("RVEDVI, ml/m2", "RVESVI, ml/m2", "RVEF, %", "RVEDV ÷ LVEDV", "RVESV ÷ LVESV"),
)
_OF_THE_WALL = ("loss of area", "thickening", "thickness")
_LATE = "late loss of area"
"""Needs a whole cycle; what is told here must be the same for two phases and for many."""
_WALL = tuple(
    name for name in HEART_PREDICTORS if any(part in name for part in _OF_THE_WALL) and not name.startswith(_LATE)
)
_SYSTOLE = (
    *("thickness at end systole, mean", "thickness at end systole, least", "thickness at end systole, largest"),
    *("spread of thickness at end systole", "spread of thickness at end diastole"),
)
FEATURES = (*_VOLUMES, *_WALL, *_SYSTOLE)
"""The order of every vector. Thickness at end diastole is in pixels of 1.75 mm, at end systole and its spreads in mm.
Texture is left out: with it five folds did worse (docs/disease_pattern.md)."""


def pattern_features(function: VentricularFunction, heart: HeartCrop) -> NDArray[np.float64]:
    """The features of a study, (len(FEATURES),).

    Parameters
    ----------
    function : VentricularFunction
        Volumes are indexed by its body surface area, or by :data:`ASSUMED_BSA_M2` where it has none.
    heart : HeartCrop
        The slices with muscle.

    Raises
    ------
    AnalysisRefused
        The right ventricle was not seen.
    """
    if function.rv is None:
        sentence = "The right ventricle was not seen: without it no pattern is told."
        raise AnalysisRefused(RefusalReason.NO_VENTRICLE_FOUND, sentence)
    lv, rv, area = function.lv, function.rv, function.bsa_m2 or ASSUMED_BSA_M2
    volumes = [
        lv.edv_ml / area,
        lv.esv_ml / area,
        lv.ejection_fraction_percent,
        function.lv_mass_g / area,
        function.lv_mass_g / max(lv.edv_ml, 1.0),
        rv.edv_ml / area,
        rv.esv_ml / area,
        rv.ejection_fraction_percent,
        rv.edv_ml / max(lv.edv_ml, 1.0),
        rv.esv_ml / max(lv.esv_ml, 1.0),
    ]
    wall = dict(zip(HEART_PREDICTORS, heart_predictors(slice_predictors(heart)), strict=True))
    diastole, systole = (SPACING_MM * (heart.outer[phase] - heart.inner[phase]) for phase in (0, 1))
    thick = [
        float(systole.mean()),
        float(np.percentile(systole, 10)),
        float(np.percentile(systole, 95)),
        float(systole.std(axis=-1).mean()),
        float(diastole.std(axis=-1).mean()),
    ]
    return np.array([*volumes, *(wall[name] for name in _WALL), *thick], np.float64)
