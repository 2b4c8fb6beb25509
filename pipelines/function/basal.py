"""Volumes and ejection fraction with a basal slice left out or counted, other than reported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.function.findings import Chamber, Keyframes
from pipelines.function.slices import SliceMeasures

__all__ = ["PLANE_ERROR_MM", "BasalAlternatives", "basal_alternatives"]

PLANE_ERROR_MM = 5.0
"""How far the valve plane of the long axis is off: about the 95th percentile on phantoms (`dicom-node evaluate
long-axis --phantoms 12`)."""


@dataclass(frozen=True, slots=True)
class BasalAlternatives:
    """Volumes of one chamber with each basal slice decided the other way; the first of each is the one reported.

    Attributes
    ----------
    edv_ml, esv_ml : tuple of float
    """

    edv_ml: tuple[float, ...]
    esv_ml: tuple[float, ...]

    @property
    def ejection_fractions_percent(self) -> tuple[float, ...]:
        """Ejection fraction of every end-diastolic with every end-systolic alternative, the reported one first."""
        return tuple(100.0 * (1.0 - esv / edv) for edv in self.edv_ml for esv in self.esv_ml if edv > 0)

    @property
    def ejection_fraction_spread(self) -> float:
        """Largest distance of an alternative ejection fraction from the reported one, points; 0 without a volume.

        The slice may be decided the other way at one phase or at both.
        """
        values = self.ejection_fractions_percent
        return max((abs(value - values[0]) for value in values), default=0.0)


def basal_alternatives(slices: SliceMeasures, keyframes: Keyframes, chamber: Chamber) -> BasalAlternatives:
    """Volumes with the most basal counted slice left out, and with the next one above it counted where it has cavity.

    Which slice is the most basal is the largest single choice of a short-axis volume (SCMR post-processing
    recommendations, JCMR 2020;22:19): one slice is about a tenth of it.
    """
    mm2 = slices.lv_mm2 if chamber is Chamber.LV else slices.rv_mm2
    counted = slices.areas(chamber) > 0
    if chamber in slices.cut:
        return BasalAlternatives(
            _by_plane(mm2[keyframes.end_diastole], slices), _by_plane(mm2[keyframes.end_systole], slices)
        )
    return BasalAlternatives(
        _volumes(mm2[keyframes.end_diastole], counted[keyframes.end_diastole], slices),
        _volumes(mm2[keyframes.end_systole], counted[keyframes.end_systole], slices),
    )


def _by_plane(mm2: NDArray[np.float64], slices: SliceMeasures) -> tuple[float, ...]:
    """Volumes with the valve plane moved either way by the error that it has on hearts whose truth is known."""
    reported = float(mm2 @ slices.intervals_mm) / 1000.0
    basal = max((float(mm2[index]) for index in slices.from_base()[: len(mm2) // 2 + 1]), default=0.0)
    moved = basal * PLANE_ERROR_MM / 1000.0
    return reported, reported - moved, reported + moved


def _volumes(mm2: NDArray[np.float64], counted: NDArray[np.bool_], slices: SliceMeasures) -> tuple[float, ...]:
    ml = mm2 * slices.intervals_mm / 1000.0
    reported = float(ml[counted].sum())
    order = [int(index) for index in slices.from_base()]
    basal = next((rank for rank, index in enumerate(order) if counted[index]), None)
    if basal is None:
        return (reported,)
    volumes = [reported, reported - float(ml[order[basal]])]
    if basal > 0 and ml[order[basal - 1]] > 0:
        volumes.append(reported + float(ml[order[basal - 1]]))
    return tuple(volumes)
