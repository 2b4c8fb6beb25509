"""The left ventricle: an incompressible map with closed-form deformation gradient.

Heart frame: cylindrical coordinates about the long axis, ``s`` mm from the epicardial apex towards the base (the apex
does not move), ``r`` mm from the axis, ``θ`` counter-clockwise as seen from the apex: 0 lateral, 90° anterior, 180°
septal, 270° inferior. Capital letters are material coordinates: those at end diastole.

The map of a material point (R, Θ, S) at time t is::

    s = f(S),  f' = λ(S)          longitudinal shortening
    θ = Θ + τ(S)                  torsion
    r² = (R² − Ri²(Θ, S)) / λ + ri²(Θ, S)

with Ri the endocardium at end diastole and ri² = Ri² (1 − c A(Θ, S) g(t)), A the contractility of the muscle. It is
incompressible exactly, det F = (∂r/∂R)(r/R)λ = 1, whatever the angular and longitudinal variation, because θ and s do
not depend on R and ∂θ/∂Θ = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from pipelines.phantom.lesions import Lesions
from pipelines.phantom.population import Subject
from pipelines.phantom.tables import ANGLES, STEP_MM, angle_grid, angular_distance
from pipelines.tissue import MYOCARDIAL_DENSITY_G_ML

__all__ = ["LeftVentricle", "MotionState", "build_left_ventricle", "level_grid", "moving_ventricle"]

Array = NDArray[np.float64]

_BELOW = 14


@dataclass(frozen=True, slots=True, eq=False)
class MotionState:
    """The left ventricle at one time: what the map needs.

    Attributes
    ----------
    loss : (N, ANGLES) float64
        c·A(Θ, S)·g(t): the relative loss of cavity area.
    stretch, level, torsion : (N,) float64
        λ(S), f(S) in mm and τ(S) in rad on the levels of the ventricle.
    """

    loss: Array
    stretch: Array
    level: Array
    torsion: Array


@dataclass(frozen=True, slots=True, eq=False)
class LeftVentricle:
    """Shape at end diastole and law of motion.

    Attributes
    ----------
    levels : (N,) float64
        Material levels S of the tables, mm, 1 mm apart, from below the apex to above the base.
    endo2, epi2 : (N, ANGLES) float64
        Squared endocardial and epicardial radius, mm²; negative below the respective apex.
    activation : (N, ANGLES) float64
        Contractility A, 1 in healthy muscle.
    length : float
        S of the mitral plane, mm.
    apex : float
        S of the endocardial apex, mm: the thickness of the apical wall.
    """

    levels: Array
    endo2: Array
    epi2: Array
    activation: Array
    length: float
    apex: float
    contraction: float
    shortening: float
    twist_base: float
    twist_apex: float

    def state(self, contraction: float | Array, twist: float) -> MotionState:
        """Motion at contraction g and twist fraction (both 0 at end diastole, 1 at end systole).

        A dyssynchronous ventricle has a contraction of its own at each place: a table (N, ANGLES).
        """
        local = self.activation * contraction
        stretch = 1 - self.shortening * np.clip(local.mean(axis=1), -0.2, 1.2)
        steps = 0.5 * (stretch[1:] + stretch[:-1]) * np.diff(self.levels)
        level = np.concatenate([[0.0], np.cumsum(steps)])
        level = level - np.interp(0.0, self.levels, level)
        fraction = np.clip(self.levels / self.length, 0, 1.2)
        torsion = twist * (self.twist_apex + (self.twist_base - self.twist_apex) * fraction)
        return MotionState(self.contraction * local, stretch, level, torsion)

    def surfaces(self, state: MotionState, fraction: Array | float) -> Array:
        """Squared radius, mm², of the surface at wall depth ``fraction`` (0 endocardium, 1 epicardium).

        Given on material levels × angles, shape (N, ANGLES); fraction broadcasts against it.
        """
        inner = np.sqrt(np.maximum(self.endo2, 0))
        outer = np.sqrt(np.maximum(self.epi2, 0))
        radius2 = (inner + fraction * (outer - inner)) ** 2
        moved = self.endo2 * (1 - state.loss)
        return (radius2 - np.maximum(self.endo2, 0)) / state.stretch[:, None] + np.maximum(moved, 0)

    def cavity(self, state: MotionState) -> Array:
        """Squared endocardial radius, mm², negative below the apex; shape (N, ANGLES)."""
        return self.endo2 * (1 - state.loss)

    def epicardium(self, state: MotionState) -> Array:
        """Squared epicardial radius, mm², negative below the apex; shape (N, ANGLES)."""
        moved = np.maximum(self.cavity(state), 0)
        return (self.epi2 - np.maximum(self.endo2, 0)) / state.stretch[:, None] + moved

    def volume_ml(self, squared_radius: Array, state: MotionState) -> float:
        """Volume inside a surface below the mitral plane, mL."""
        area = 0.5 * np.maximum(squared_radius, 0).mean(axis=1) * 2 * math.pi * state.stretch
        return _integrate_to(self.levels, area, self.length) / 1000

    def deform(self, material: Array, state: MotionState) -> Array:
        """Spatial (r, θ, s) of material points (R, Θ, S), shape (..., 3); mm and rad."""
        radius, angle, level = material[..., 0], material[..., 1], material[..., 2]
        stretch = np.interp(level, self.levels, state.stretch)
        inner2 = np.maximum(self.at(self.endo2, level, angle), 0)
        moved2 = inner2 * (1 - self.at(state.loss, level, angle))
        r2 = (radius**2 - inner2) / stretch + moved2
        return np.stack(
            [
                np.sqrt(np.maximum(r2, 0)),
                angle + np.interp(level, self.levels, state.torsion),
                np.interp(level, self.levels, state.level),
            ],
            axis=-1,
        )

    def undeform(self, spatial: Array, state: MotionState) -> Array:
        """Material (R, Θ, S) of spatial points (r, θ, s) in the wall: the inverse of :meth:`deform`."""
        radius, angle, position = spatial[..., 0], spatial[..., 1], spatial[..., 2]
        level = np.interp(position, state.level, self.levels)
        material_angle = angle - np.interp(level, self.levels, state.torsion)
        stretch = np.interp(level, self.levels, state.stretch)
        inner2 = np.maximum(self.at(self.endo2, level, material_angle), 0)
        moved2 = inner2 * (1 - self.at(state.loss, level, material_angle))
        r2 = (radius**2 - moved2) * stretch + inner2
        return np.stack([np.sqrt(np.maximum(r2, 0)), material_angle, level], axis=-1)

    def gradient(self, material: Array, state: MotionState) -> Array:
        """Deformation gradient F in the cylindrical bases (e_r, e_θ, e_s) of both configurations, (..., 3, 3)."""
        radius, angle, level = material[..., 0], material[..., 1], material[..., 2]
        deformed = self.deform(material, state)
        r = deformed[..., 0]
        stretch = np.interp(level, self.levels, state.stretch)
        stretch_slope = np.interp(level, self.levels, np.gradient(state.stretch, STEP_MM))
        inner2 = np.maximum(self.endo2, 0)
        moved2 = inner2 * (1 - state.loss)
        spacing = 2 * math.pi / ANGLES
        inner_angle, inner_level = _slopes(inner2, spacing)
        moved_angle, moved_level = _slopes(moved2, spacing)
        at = self.at
        inner_here = at(inner2, level, angle)
        slope_angle = -at(inner_angle, level, angle) / stretch + at(moved_angle, level, angle)
        slope_level = (
            -at(inner_level, level, angle) / stretch
            - (radius**2 - inner_here) * stretch_slope / stretch**2
            + at(moved_level, level, angle)
        )
        gradient = np.zeros((*radius.shape, 3, 3))
        gradient[..., 0, 0] = radius / (stretch * r)
        gradient[..., 0, 1] = slope_angle / (2 * r * radius)
        gradient[..., 0, 2] = slope_level / (2 * r)
        gradient[..., 1, 1] = r / radius
        gradient[..., 1, 2] = r * np.interp(level, self.levels, np.gradient(state.torsion, STEP_MM))
        gradient[..., 2, 2] = stretch
        return gradient

    def at(self, table: Array, level: Array, angle: Array) -> Array:
        """Value of one of the tables at material level S (mm) and angle Θ (rad)."""
        return sample_table(table, self.levels[0], level, angle)


def sample_table(table: Array, first_level: float, level: Array, angle: Array) -> Array:
    """Bilinear value of a (levels, angles) table, periodic in angle, at S in mm and angle in rad."""
    wrapped = np.concatenate([table, table[:, :1]], axis=1)
    rows = (level - first_level) / STEP_MM
    columns = np.mod(angle, 2 * math.pi) * (ANGLES / (2 * math.pi))
    return map_coordinates(wrapped, [rows, columns], order=1, mode="nearest")


def build_left_ventricle(subject: Subject, lesions: Lesions, levels: Array, apex: float) -> LeftVentricle:
    """Fit the end-diastolic shape to the subject's volume and mass, and the contraction to the ejection fraction.

    Parameters
    ----------
    subject : Subject
    lesions : Lesions
        What thins the wall and lowers its contractility.
    levels : (N,) float64
        Material levels, mm.
    apex : float
        Thickness of the apical wall, mm.
    """
    length = subject.long_axis_mm + apex
    angles = angle_grid()
    amplitude2, angle2, amplitude3, angle3 = subject.ovality
    modes = 1 + amplitude2 * np.cos(2 * (angles - angle2)) + amplitude3 * np.cos(3 * (angles - angle3))
    flattening = subject.septal_flattening * np.exp(-0.5 * (angular_distance(angles, 180) / 32) ** 2)
    modes = modes - flattening + flattening.mean()
    taper = np.clip((levels - apex) / 15, 0, 1)[:, None]
    angular = 1 + (modes - 1) * taper
    thickening = np.ones((levels.size, ANGLES))
    if subject.hypertrophy is not None:
        patch = subject.hypertrophy
        around = np.exp(-0.5 * (angular_distance(angles, patch.angle_deg) / patch.width_deg) ** 2)
        along = np.exp(-0.5 * ((levels / length - patch.level) / patch.length) ** 2)
        thickening = thickening + patch.gain * along[:, None] * around * taper
    thickening = thickening - lesions.thinning * taper
    equator = apex + 0.66 * (length - apex)

    def shape(inner: float, wall: float) -> tuple[Array, Array]:
        endo_profile = _ellipsoid(levels, apex, equator, length)
        epi_profile = _ellipsoid(levels, 0.0, equator, length)
        epi2 = (inner + wall) ** 2 * epi_profile[:, None] * angular**2
        endo2 = inner**2 * endo_profile[:, None] * angular**2
        wall_here = np.sqrt(np.maximum(epi2, 0)) - np.sqrt(np.maximum(endo2, 0))
        moved = np.maximum(np.sqrt(np.maximum(epi2, 0)) - wall_here * thickening, 0.25)
        return np.where(endo2 > 0, moved**2, endo2), epi2

    inner, wall = 25.0, 8.0

    def volumes(inner: float, wall: float) -> tuple[float, float]:
        endo2, epi2 = shape(inner, wall)
        cavity, whole = (
            _integrate_to(levels, math.pi * np.maximum(surface, 0).mean(axis=1), length) / 1000
            for surface in (endo2, epi2)
        )
        return cavity, (whole - cavity) * MYOCARDIAL_DENSITY_G_ML

    for _ in range(40):
        # Cavity grows with the square of the inner radius and mass about linearly with the wall: damped fixed point.
        cavity, mass = volumes(inner, wall)
        inner *= math.sqrt(subject.lv_edv_ml / cavity) ** 0.8
        wall = min(max(wall * (subject.lv_mass_g / mass) ** 0.8, 3.0), 24.0)
    return moving_ventricle(subject, lesions, levels, shape(inner, wall), length, apex)


def moving_ventricle(
    subject: Subject, lesions: Lesions, levels: Array, surfaces: tuple[Array, Array], length: float, apex: float
) -> LeftVentricle:
    """The law of motion of a subject on a shape at end diastole.

    Parameters
    ----------
    subject : Subject
    lesions : Lesions
    levels : (N,) float64
        Material levels, mm.
    surfaces : (N, ANGLES) float64 twice
        Squared radius of endocardium and epicardium, mm², negative below their apex.
    length, apex : float
        Level of the mitral plane and of the endocardial apex, mm.
    """
    endo2, epi2 = surfaces
    shortening = subject.shortening
    # Cavity at end systole is (1 − c) λ times that at end diastole in muscle without infarct.
    contraction = 1 - (1 - subject.ejection_fraction) / (1 - shortening)
    return LeftVentricle(
        levels=levels,
        endo2=endo2,
        epi2=epi2,
        activation=1 - lesions.loss,
        length=length,
        apex=apex,
        contraction=contraction,
        shortening=shortening,
        twist_base=math.radians(subject.twist_base_deg),
        twist_apex=math.radians(subject.twist_apex_deg),
    )


def level_grid(length: float) -> Array:
    """Material levels of the tables for a ventricle of that length, mm."""
    return np.arange(-_BELOW, math.ceil(length) + 18, STEP_MM)


def _ellipsoid(levels: Array, tip: float, equator: float, base: float) -> Array:
    """Squared relative radius of a half ellipsoid that narrows slightly above its equator; negative below its tip."""
    below = (equator - levels) / (equator - tip)
    above = (levels - equator) / (1.8 * (base - equator))
    return 1 - np.where(levels < equator, below, above) ** 2


def _slopes(table: Array, spacing: float) -> tuple[Array, Array]:
    around = (np.roll(table, -1, axis=1) - np.roll(table, 1, axis=1)) / (2 * spacing)
    return around, np.gradient(table, STEP_MM, axis=0)


def _integrate_to(levels: Array, area: Array, end: float) -> float:
    """Trapezoidal integral of ``area`` over ``levels`` up to ``end``, which may lie between two levels."""
    inside = levels < end
    x = np.append(levels[inside], end)
    y = np.append(area[inside], np.interp(end, levels, area))
    return float(np.trapezoid(y, x))
