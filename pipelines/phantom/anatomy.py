"""The left ventricle of a patient, from contours and scar on short-axis slices, in the tables of the phantom.

Shape and scar are the patient's; how the wall moves follows by the joint law, as in every other phantom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import distance_transform_edt

from pipelines.phantom.law import JointLaw
from pipelines.phantom.lesions import Lesions, appearance_of, lost_motion, lost_to_patches, patch_distance
from pipelines.phantom.population import RESIDUAL_SD, Infarct, Subject, contractility_of
from pipelines.phantom.recipe import Territory
from pipelines.phantom.tables import ANGLES, STEP_MM, angle_grid, smooth_table
from pipelines.phantom.ventricle import LeftVentricle, level_grid, moving_ventricle

__all__ = ["Anatomy", "anatomy_lesions", "anatomy_ventricle", "subject_with"]

Array = NDArray[np.float64]

_APEX_MM = (4.0, 9.0)
"""Least and largest thickness of the apical wall."""
_TERRITORIES = {Territory.LAD: 120.0, Territory.LCX: 10.0, Territory.RCA: 240.0}
"""Middle of each territory around the ventricle, degrees: only the word in the truth file hangs on it."""


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """Shape and scar of one left ventricle on K slices, apex first, along ANGLES rays from the long axis.

    Angles are those of :mod:`pipelines.phantom.ventricle`: 0 lateral, 90° anterior, 180° septal, 270° inferior.

    Attributes
    ----------
    pitch_mm : float
        Distance of the slices.
    endo_mm, epi_mm : (K, ANGLES) float64
        Radii of endocardium and epicardium at end diastole.
    scar : (K, ANGLES) float64 twice
        Inner and outer depth of what enhances, 0 endocardium, 1 epicardium; equal where nothing does.
    obstruction : (K, ANGLES) float64 twice
        The same of the microvascular obstruction, which lies inside the scar.
    """

    pitch_mm: float
    endo_mm: Array
    epi_mm: Array
    scar: tuple[Array, Array]
    obstruction: tuple[Array, Array]

    def __post_init__(self) -> None:
        shape = self.endo_mm.shape
        tables = (self.epi_mm, *self.scar, *self.obstruction)
        if shape[1:] != (ANGLES,) or shape[0] < 3 or any(table.shape != shape for table in tables):
            raise ValueError(f"an anatomy needs tables of three slices and more × {ANGLES} angles, not {shape}")
        if (self.endo_mm <= 0).any() or (self.epi_mm <= self.endo_mm).any():
            raise ValueError("the epicardium of an anatomy must lie outside its endocardium on every ray")

    @property
    def apex_mm(self) -> float:
        """Thickness of the apical wall: that of the lowest slice, within limits."""
        return float(np.clip((self.epi_mm[0] - self.endo_mm[0]).mean(), *_APEX_MM))

    @property
    def levels_mm(self) -> Array:
        """Distance of each slice from the epicardial apex, mm, (K,); the lowest is half a pitch above the cavity's."""
        return np.asarray(self.apex_mm + self.pitch_mm * (0.5 + np.arange(len(self.endo_mm))))

    @property
    def length_mm(self) -> float:
        """Distance of the mitral plane from the epicardial apex: half a pitch above the highest slice."""
        return float(self.levels_mm[-1] + 0.5 * self.pitch_mm)

    @property
    def cavity_ml(self) -> float:
        """Volume of the cavity by the sum of slices."""
        return float((0.5 * self.endo_mm**2).mean(axis=1).sum() * 2 * math.pi * self.pitch_mm / 1000)

    @property
    def scarred(self) -> bool:
        """Whether anything enhances."""
        return bool((self.scar[1] > self.scar[0]).any())

    @property
    def obstructed(self) -> bool:
        """Whether the ventricle holds a microvascular obstruction."""
        return bool((self.obstruction[1] > self.obstruction[0]).any())

    def nearest(self, table: Array, levels: Array) -> Array:
        """A table of slices at material levels, (N, ANGLES): each level has that of the nearest slice."""
        return table[np.abs(levels[:, None] - self.levels_mm[None, :]).argmin(axis=1)]


def subject_with(subject: Subject, anatomy: Anatomy, law: JointLaw, rng: np.random.Generator) -> Subject:
    """The person with the ventricle of an anatomy in place of the one drawn; the right one keeps its proportion."""
    infarcts: tuple[Infarct, ...] = ()
    residual = rng.normal(0, RESIDUAL_SD) - (law.obstruction_motion if anatomy.obstructed else 0.0)
    if anatomy.scarred:
        depth = anatomy.scar[1] - anatomy.scar[0]
        scarred = depth > 0
        angles = np.broadcast_to(angle_grid(), depth.shape)[scarred]
        middle = math.degrees(math.atan2(np.sin(angles).mean(), np.cos(angles).mean()))
        levels = np.broadcast_to(anatomy.levels_mm[:, None], depth.shape)[scarred] / anatomy.length_mm
        transmurality = float(np.clip(np.percentile(depth[scarred], 90), 0.25, 1.0))
        infarcts = (
            Infarct(
                angle_deg=middle,
                half_width_deg=float(np.clip(180 * scarred.any(axis=0).mean(), 10, 180)),
                level=float(levels.mean()),
                half_length=float(max(np.ptp(levels) / 2, 0.05)),
                territory=min(_TERRITORIES, key=lambda one: abs((middle - _TERRITORIES[one] + 180) % 360 - 180)),
                transmurality=transmurality,
                contractility=contractility_of(transmurality, residual),
                acute=True,
                obstruction=anatomy.obstructed,
                thinning=0.0,
            ),
        )
    return replace(
        subject,
        lv_edv_ml=anatomy.cavity_ml,
        rv_edv_ml=subject.rv_edv_ml * anatomy.cavity_ml / subject.lv_edv_ml,
        long_axis_mm=anatomy.length_mm - anatomy.apex_mm,
        infarcts=infarcts,
    )


def anatomy_ventricle(subject: Subject, lesions: Lesions, anatomy: Anatomy) -> LeftVentricle:
    """The left ventricle whose end-diastolic surfaces go through the contours, closed by half an ellipsoid below."""
    levels = level_grid(anatomy.length_mm)
    endo2 = _surface(anatomy.endo_mm, anatomy.levels_mm, levels, anatomy.apex_mm)
    epi2 = _surface(anatomy.epi_mm, anatomy.levels_mm, levels, 0.0)
    # Above the apex of the cavity some wall is left on every ray.
    epi2 = np.where(endo2 > 0, np.maximum(epi2, (np.sqrt(np.maximum(endo2, 0)) + 2.0) ** 2), epi2)
    return moving_ventricle(subject, lesions, levels, (endo2, epi2), anatomy.length_mm, anatomy.apex_mm)


def _surface(radius: Array, slices: Array, levels: Array, tip: float) -> Array:
    """Squared radius, mm², on levels: through the slices, constant above them; a negative square below the tip."""
    inside = np.clip(levels, slices[0], slices[-1])
    squared = PchipInterpolator(slices, radius**2, axis=0)(inside)
    cap = 1 - ((slices[0] - levels) / (slices[0] - tip)) ** 2
    return np.asarray(np.where((levels < slices[0])[:, None], squared * cap[:, None], squared))


def anatomy_lesions(
    anatomy: Anatomy, subject: Subject, law: JointLaw, levels: Array, outline: Array, rng: np.random.Generator
) -> Lesions:
    """Scar of an anatomy, the area at risk around it, and the motion that the law takes for both.

    Parameters
    ----------
    anatomy : Anatomy
    subject : Subject
        From :func:`subject_with`.
    law : JointLaw
    levels : (N,) float64
        Material levels, mm.
    outline : (N, ANGLES) float64
        Random field that makes borders of patches irregular.
    rng : numpy.random.Generator
        For what the law draws.
    """
    inner, outer = (anatomy.nearest(table, levels) for table in anatomy.scar)
    depth = outer - inner
    stunning, ratio = rng.uniform(*law.stunning), rng.uniform(*law.risk_ratio)
    at_risk = np.zeros_like(depth)
    caused = np.zeros_like(depth)
    if subject.infarct is not None:
        within = (levels >= 0) & (levels <= anatomy.length_mm)
        radius = float(anatomy.epi_mm.mean())
        at_risk = smooth_table(_around(depth > 0, within, ratio, radius).astype(np.float64), 2.0, 4.0)
        shown = np.maximum(np.clip(depth / subject.infarct.transmurality, 0, 1), stunning * at_risk)
        caused = (1 - subject.infarct.contractility) * shown
    fraction = (levels / anatomy.length_mm)[:, None]
    caused = np.maximum(caused, lost_to_patches(subject, fraction, outline))
    return Lesions(
        scar=(inner, outer) if anatomy.scarred else None,
        distance=outline if subject.infarct is None else patch_distance(subject.infarct, fraction, outline),
        at_risk=at_risk if at_risk.any() else None,
        thinning=np.zeros_like(depth),
        loss=lost_motion(subject, law, smooth_table(caused, 6.0, 12.0), rng),
        delay=None,
        appearance=appearance_of(subject, law, rng),
    )


def _around(scar: NDArray[np.bool_], within: NDArray[np.bool_], ratio: float, radius_mm: float) -> NDArray[np.bool_]:
    """What lies nearest to the scar, itself included, until it is ``ratio`` times as large."""
    arc = 2 * math.pi * radius_mm / ANGLES
    around = np.tile(scar & within[:, None], (1, 3))
    distance = np.asarray(distance_transform_edt(~around, sampling=(STEP_MM, arc)))[:, ANGLES : 2 * ANGLES]
    distance = np.where(within[:, None], distance, np.inf)
    wanted = min(round(ratio * int((scar & within[:, None]).sum())), int(within.sum()) * ANGLES)
    return np.asarray(distance <= np.partition(distance.ravel(), wanted - 1)[wanted - 1])
