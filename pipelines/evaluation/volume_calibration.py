"""What the bounds of volumes are set from: how far the drawn contours are off on hearts whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.volume_studies import VolumeStudy
from pipelines.evaluation.volumes import REFUSED
from pipelines.function.findings import Chamber
from pipelines.function.uncertainty import KeyPhase, VolumeErrors

__all__ = ["LEVEL_OF_PATIENTS", "ContourError", "VolumeCalibration", "calibrate", "displacement_mm"]

LEVEL = 0.95
"""Share of phantoms that each bound of a contour is to hold."""
LEVEL_OF_PATIENTS = 0.9
"""Share of patients that each bound is to hold: such as the network has learnt from, in the look of another scanner."""


@dataclass(frozen=True, slots=True)
class ContourError:
    """How far the drawn endocardium of a chamber at one phase is off, mm, in the mean over a ventricle.

    Attributes
    ----------
    inside, outside : float
        95 % of the ventricles, or what else was asked for, have their true surface no farther inside of the drawn one,
        and as many no farther outside.
    held : float
        Share of the ventricles that both together hold.
    """

    cases: int
    inside: float
    outside: float
    held: float


@dataclass(frozen=True, slots=True)
class VolumeCalibration:
    """Errors of contours and of mass that phantoms give."""

    weights: tuple[str, ...]
    seeds: tuple[int, ...]
    contours: dict[str, ContourError]
    """By volume: ``LVEDV`` and the like."""
    mass: float
    """By how much the mass is off, as a fraction of it: 95 % bound."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def displacement_mm(errors: VolumeErrors, true_ml: float) -> float:
    """Mean distance by which the true surface lies outside (+) or inside (−) of the drawn one, mm.

    What is left of the error of the volume when scatter and the basal slice have had their share.
    """
    wrong = true_ml - errors.ml
    explained = errors.too_small_ml if wrong > 0 else errors.too_large_ml
    return float(np.sign(wrong) * np.sqrt(max(wrong**2 - explained**2, 0.0)) / errors.surface)


def contour_error(distances: NDArray[np.float64], level: float = LEVEL) -> ContourError:
    """Bounds of distances as :func:`displacement_mm` gives them, each side by itself: contours err to one side."""
    inside, outside = (
        float(np.quantile(np.maximum(sign * distances, 0.0), level, method="higher")) for sign in (-1, 1)
    )
    held = float(((distances >= -inside) & (distances <= outside)).mean())
    return ContourError(len(distances), inside, outside, held)


def calibrate(studies: Sequence[VolumeStudy]) -> VolumeCalibration:
    """Errors of contours and of mass, of the short axis alone and with valve planes: the larger of both."""
    numbered = [one.volumes for one in studies if one.volumes is not None and one.volumes.badge != REFUSED]
    contours = {}
    for name in (f"{chamber}{phase}V" for chamber in Chamber for phase in KeyPhase):
        ways = [
            contour_error(
                np.array(
                    [displacement_mm(way.errors[name], one.true[name]) for one, way in found if name in way.errors]
                )
            )
            for found in (
                [(one, one.reported) for one in numbered],
                [(one, one.short_axis) for one in numbered],
            )
        ]
        contours[name] = ContourError(
            ways[0].cases,
            max(way.inside for way in ways),
            max(way.outside for way in ways),
            min(way.held for way in ways),
        )
    mass = np.array([abs(one.true["LVM"] / one.reported.numbers["LVM"] - 1) for one in numbered])
    return VolumeCalibration(
        tuple(sorted({one.weights for one in studies})),
        tuple(one.seed for one in studies),
        contours,
        float(np.quantile(mass, LEVEL)),
    )
