"""Features of morphology and motion that the classifier is given beside the images."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipelines.function.findings import VentricularFunction
from pipelines.function.slices import SliceMeasures
from pipelines.long_axis.findings import LongAxisFunction
from pipelines.motion.findings import CardiacMotion, Component

__all__ = ["FEATURES", "MORPHOLOGY", "MOTION", "Feature", "as_vector", "measured_features", "of_segments", "sphericity"]

_EXTREME = 4
"""A quarter of 16 segments: the territory of one vessel."""
_SEGMENTS_MIN = 12


class Feature(enum.StrEnum):
    """One feature of morphology or motion; the value is its key in ``results.json``, the unit at its end."""

    EDVI = "LVEDVI_ml_m2"
    ESVI = "LVESVI_ml_m2"
    MASS_INDEX = "LVMI_g_m2"
    EJECTION_FRACTION = "LVEF_percent"
    SPHERICITY = "sphericity_percent"
    """End-diastolic volume ÷ volume of the sphere whose diameter is the length of the cavity."""
    THICKNESS = "wall_thickness_mm"
    """Mean of 16 AHA segments at end diastole."""
    THICKNESS_LOWEST = "wall_thickness_thinnest_mm"
    """Mean of the four thinnest segments."""
    THICKNESS_SPREAD = "wall_thickness_spread_mm"
    """Standard deviation over the segments."""
    GLS = "GLS_percent"
    GCS = "GCS_percent"
    SEGMENTS_WORST = "segmental_circumferential_worst_percent"
    """Mean peak circumferential strain of the four segments that shorten least."""
    SEGMENTS_BEST = "segmental_circumferential_best_percent"
    SEGMENTS_SPREAD = "segmental_circumferential_spread_percent"
    DISPERSION = "mechanical_dispersion_ms"
    THICKENING = "thickening_percent"
    """Mean of 16 segments, end diastole to end systole."""
    THICKENING_WORST = "thickening_worst_percent"
    """Mean of the four segments that thicken least."""
    THICKENING_SPREAD = "thickening_spread_percent"
    LA_RESERVOIR = "LA_reservoir_percent"

    @property
    def words(self) -> str:
        """Name of the feature, as it stands within a sentence."""
        return _WORDS[self]


_WORDS = {
    Feature.EDVI: "end-diastolic volume index",
    Feature.ESVI: "end-systolic volume index",
    Feature.MASS_INDEX: "mass index",
    Feature.EJECTION_FRACTION: "ejection fraction",
    Feature.SPHERICITY: "sphericity",
    Feature.THICKNESS: "wall thickness",
    Feature.THICKNESS_LOWEST: "thickness of the thinnest segments",
    Feature.THICKNESS_SPREAD: "spread of wall thickness",
    Feature.GLS: "global longitudinal strain",
    Feature.GCS: "global circumferential strain",
    Feature.SEGMENTS_WORST: "circumferential strain of the worst segments",
    Feature.SEGMENTS_BEST: "circumferential strain of the best segments",
    Feature.SEGMENTS_SPREAD: "spread of segmental circumferential strain",
    Feature.DISPERSION: "mechanical dispersion",
    Feature.THICKENING: "wall thickening",
    Feature.THICKENING_WORST: "thickening of the worst segments",
    Feature.THICKENING_SPREAD: "spread of wall thickening",
    Feature.LA_RESERVOIR: "left atrial reservoir strain",
}
FEATURES = tuple(Feature)
"""The order of every vector of features."""
MORPHOLOGY = FEATURES[: FEATURES.index(Feature.GLS)]
MOTION = FEATURES[FEATURES.index(Feature.GLS) :]


def measured_features(
    slices: SliceMeasures, function: VentricularFunction, motion: CardiacMotion, long_axis: LongAxisFunction | None
) -> dict[Feature, float]:
    """The features that a study has; those that could not be measured are absent.

    Parameters
    ----------
    slices : SliceMeasures
    function : VentricularFunction
    motion : CardiacMotion
    long_axis : LongAxisFunction or None
        ``None`` without long-axis views.
    """
    phase = function.keyframes.end_diastole
    length = float(slices.intervals_mm[slices.counted[phase]].sum())
    found: dict[Feature, float | None] = {
        Feature.EDVI: function.lv.edv_index_ml_m2,
        Feature.ESVI: function.lv.esv_index_ml_m2,
        Feature.MASS_INDEX: function.lv_mass_index_g_m2,
        Feature.EJECTION_FRACTION: function.lv.ejection_fraction_percent,
        Feature.SPHERICITY: sphericity(function.lv.edv_ml, length),
        Feature.GCS: motion.strain.circumferential.peak_percent,
    }
    if motion.strain.longitudinal is not None:
        found[Feature.GLS] = motion.strain.longitudinal.peak_percent
    if long_axis is not None and long_axis.atrium is not None:
        found[Feature.LA_RESERVOIR] = long_axis.atrium.reservoir_percent
    circumferential = next(
        (part for part in motion.strain.segments if part.component is Component.CIRCUMFERENTIAL), None
    )
    nothing = np.full(16, np.nan)
    found |= of_segments(
        thickness_mm=nothing if function.wall is None else function.wall.ed_thickness_mm[:16],
        thickening_percent=nothing if function.wall is None else function.wall.thickening_percent[:16],
        circumferential_percent=nothing if circumferential is None else circumferential.peak_percent,
    )
    if circumferential is not None:
        found[Feature.DISPERSION] = circumferential.dispersion_ms
    return {name: float(value) for name, value in found.items() if value is not None and np.isfinite(value)}


def of_segments(
    *,
    thickness_mm: NDArray[np.float64],
    thickening_percent: NDArray[np.float64],
    circumferential_percent: NDArray[np.float64],
) -> dict[Feature, float]:
    """The features that sum up AHA segments, whatever wall the infarct lies in; (16,) each, NaN where not measured.

    A quantity of which fewer than 12 segments were measured is left out.
    """
    found: dict[Feature, float] = {}
    thickness, thickening, strain = (
        np.sort(values[np.isfinite(values)]) for values in (thickness_mm, thickening_percent, circumferential_percent)
    )
    if thickness.size >= _SEGMENTS_MIN:
        found[Feature.THICKNESS] = float(thickness.mean())
        found[Feature.THICKNESS_LOWEST] = float(thickness[:_EXTREME].mean())
        found[Feature.THICKNESS_SPREAD] = float(thickness.std())
    if thickening.size >= _SEGMENTS_MIN:
        found[Feature.THICKENING] = float(thickening.mean())
        found[Feature.THICKENING_WORST] = float(thickening[:_EXTREME].mean())
        found[Feature.THICKENING_SPREAD] = float(thickening.std())
    if strain.size >= _SEGMENTS_MIN:
        found[Feature.SEGMENTS_WORST] = float(strain[-_EXTREME:].mean())
        found[Feature.SEGMENTS_BEST] = float(strain[:_EXTREME].mean())
        found[Feature.SEGMENTS_SPREAD] = float(strain.std())
    return found


def sphericity(volume_ml: float, length_mm: float) -> float | None:
    """Volume as % of the sphere whose diameter is the length of the cavity; ``None`` without a length."""
    return None if length_mm <= 0 else 100 * volume_ml / (np.pi / 6 * length_mm**3 / 1000)


def as_vector(features: Mapping[Feature, float]) -> NDArray[np.float32]:
    """The features in order, (18,); NaN where one is missing."""
    return np.array([features.get(name, np.nan) for name in FEATURES], np.float32)
