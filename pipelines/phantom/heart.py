"""The whole heart: left ventricle, right ventricle, atria, vessels, papillary muscles, infarct.

Everything but the atria and the great vessels is a set of star-shaped layers about the long axis: each layer is a table
of squared radii over (s, θ), one table for each phase, built by carrying material tables through the map of
:mod:`pipelines.phantom.ventricle`. Rendering then needs one sparse interpolation a slice and no inverse map.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from pipelines.phantom.anatomy import Anatomy, anatomy_lesions, anatomy_ventricle
from pipelines.phantom.law import JointLaw
from pipelines.phantom.lesions import Lesions, build_lesions
from pipelines.phantom.population import Subject
from pipelines.phantom.tables import ANGLES, angle_grid, angular_distance, smooth_table
from pipelines.phantom.ventricle import LeftVentricle, MotionState, build_left_ventricle, level_grid

__all__ = ["Atrium", "Heart", "HeartState", "Layer", "build_heart"]

Array = NDArray[np.float64]

LID_TILT = 0.1
"""Slope of the valve plane: the tricuspid valve lies closer to the apex than the mitral valve."""

ATRIAL_WIDTH = 1.15
_LEFT_ATRIUM_PLACE = (2.0, 10.0)
"""x and y of the left atrium in the heart frame, mm: behind the mitral valve, which leaves room for the aortic root."""
GRAIN = 0.06
"""Standard deviation of the relative signal of the wall."""


class Layer(enum.IntEnum):
    """Columns of the layer tables; squared radii in mm² unless said otherwise."""

    ENDO = 0
    """Endocardium, papillary muscles and trabeculae counted as cavity."""
    ENDO_VISIBLE = 1
    """Endocardium as seen: inside the trabeculae."""
    EPI = 2
    RV = 3
    """Outer border of the right ventricular cavity; equal to EPI where there is none."""
    RV_VISIBLE = 4
    RV_WALL = 5
    FAT = 6
    """Outer border of the epicardial fat."""
    PAPILLARY_INNER = 7
    PAPILLARY_OUTER = 8
    TEXTURE_ENDO = 9
    """Relative signal variation of the inner wall, not a radius."""
    TEXTURE_EPI = 10
    AT_RISK = 11
    """Outer border of the area at risk, which starts at the endocardium; equal to ENDO where there is none."""
    SCAR_INNER = 12
    """Borders of what enhances; equal to ENDO where nothing does."""
    SCAR_OUTER = 13
    OBSTRUCTION_INNER = 14
    OBSTRUCTION_OUTER = 15


@dataclass(frozen=True, slots=True)
class Atrium:
    """A chamber behind the valve plane: centre (x, y, s), half axes in plane and along the long axis, mm.

    In plane it is an ellipse, wider across than high (half axes ``radius * ATRIAL_WIDTH`` and ``radius /
    ATRIAL_WIDTH``), bent by ``bends`` without change of its area.
    """

    x: float
    y: float
    s: float
    radius: float
    half_length: float
    bends: tuple[tuple[int, float, float], ...]
    """Periods around the chamber, relative amplitude and angle (rad) of each bend."""

    def outline(self, angle: Array) -> Array:
        """Relative radius at angles about the centre (rad), measured after the ellipse is scaled to a circle."""
        shape = np.ones_like(angle)
        for periods, amplitude, place in self.bends:
            shape += amplitude * np.cos(periods * (angle - place))
        return shape / math.sqrt(1 + sum(amplitude**2 for _, amplitude, _ in self.bends) / 2)


@dataclass(frozen=True, slots=True, eq=False)
class HeartState:
    """The heart at one time."""

    motion: MotionState
    contraction: float
    """g(t), 0 at end diastole, 1 at end systole."""
    rv_scale: float
    lid: float
    """s of the mitral plane on the long axis, mm; the plane is lid + LID_TILT · x."""
    left_atrium: Atrium
    right_atrium: Atrium
    lv_volume_ml: float
    rv_volume_ml: float
    la_volume_ml: float


@dataclass(frozen=True, slots=True, eq=False)
class Heart:
    """A heart at end diastole with its law of motion and its place in the body.

    Attributes
    ----------
    origin : (3,) float64
        Patient coordinates (LPS, mm) of the epicardial apex: the point x = y = s = 0 of the heart frame.
    axes : (3, 3) float64
        Rows are the unit vectors of x (septum to lateral wall), y (anterior to inferior) and s (apex to base) in
        patient coordinates.
    rv_reach : (N, ANGLES) float64
        Width of the right ventricular cavity beyond the left epicardium at end diastole, mm.
    """

    subject: Subject
    lv: LeftVentricle
    origin: Array
    axes: Array
    lv_rest_ml: float
    rv_reach: Array
    rv_trabecula: Array
    fat: Array
    trabecula: Array
    texture_endo: Array
    texture_epi: Array
    lesions: Lesions
    obstruction: tuple[Array, Array] | None
    """Inner and outer depth of the microvascular obstruction as fractions of the wall; equal where there is none."""
    papillary: tuple[tuple[float, float, float, float, float], ...]
    """Angle (deg), radius (mm), first and last level (fraction of length), and relative radial place of each muscle."""
    la_roof: float
    ra_roof: float
    right_atrium_place: tuple[float, float]
    right_atrium_volumes: tuple[float, float]
    atrial_bends: tuple[tuple[tuple[int, float, float], ...], tuple[tuple[int, float, float], ...]]
    """Bends of the left and of the right atrium."""

    def to_heart(self, points: Array) -> Array:
        """Heart frame (x, y, s) of patient points (..., 3), mm."""
        return (points - self.origin) @ self.axes.T

    def to_patient(self, points: Array) -> Array:
        """Patient coordinates (LPS, mm) of heart-frame points (x, y, s)."""
        return points @ self.axes + self.origin

    def at_time(self, time: float) -> HeartState:
        """The heart at a time in fractions of RR."""
        cycle, delay = self.subject.cycle, self.lesions.delay
        contraction, twist = float(cycle.contraction(np.array(time))), float(cycle.twist(np.array(time)))
        if delay is None:
            return self.state(contraction, twist)
        return self.state(contraction, twist, cycle.contraction(time - delay) - cycle.contraction(-delay))

    @property
    def end_systole(self) -> float:
        """Time of the smallest left ventricular volume, fractions of RR."""
        cycle = self.subject.cycle
        if self.lesions.delay is None:
            return cycle.systole_end
        times = np.linspace(0.7 * cycle.systole_end, cycle.filling_end, 60)
        return float(times[int(np.argmin([self.at_time(float(time)).lv_volume_ml for time in times]))])

    def state(self, contraction: float, twist: float, local: Array | None = None) -> HeartState:
        """The heart at contraction g and twist fraction (each 0 at end diastole, 1 at end systole).

        ``local`` is the contraction of each place, (1 or N, ANGLES), where they differ.
        """
        lv = self.lv
        motion = lv.state(contraction if local is None else local, twist)
        lid = float(np.interp(lv.length, lv.levels, motion.level))
        endo, epi = lv.cavity(motion), lv.epicardium(motion)
        volume = enclosed_volume_ml(motion, None, endo, lid)
        target = self.subject.rv_edv_ml - (self.lv_rest_ml - volume)
        scale = self._rv_scale(motion, epi, lid, target)
        subject = self.subject
        la_volume = subject.la_minimum_ml + (subject.la_maximum_ml - subject.la_minimum_ml) * contraction
        ra_small, ra_large = self.right_atrium_volumes
        ra_volume = ra_small + (ra_large - ra_small) * contraction
        place = self.right_atrium_place
        return HeartState(
            motion=motion,
            contraction=contraction,
            rv_scale=scale,
            lid=lid,
            left_atrium=_atrium(_LEFT_ATRIUM_PLACE, lid, self.la_roof, la_volume, self.atrial_bends[0]),
            right_atrium=_atrium(place, lid, self.ra_roof, ra_volume, self.atrial_bends[1]),
            lv_volume_ml=volume,
            rv_volume_ml=target,
            la_volume_ml=la_volume,
        )

    def _rv_scale(self, motion: MotionState, epi: Array, lid: float, target: float) -> float:
        """Scale of the right ventricular width that gives the target volume: volume is quadratic in it."""
        radius = np.sqrt(np.maximum(epi, 0))
        samples = np.array([0.3, 0.65, 1.0])
        volumes = [
            enclosed_volume_ml(motion, epi, np.where(epi > 0, (radius + scale * self.rv_reach) ** 2, epi), lid)
            for scale in samples
        ]
        a, b, c = np.polyfit(samples, volumes, 2)
        root = math.sqrt(max(b * b - 4 * a * (c - target), 0.0))
        return float(np.clip((-b + root) / (2 * a), 0.08, 1.6))

    @property
    def present_layers(self) -> tuple[Layer, ...]:
        """The layers that this heart has: those of the lesions only where there is one."""
        absent: set[Layer] = set()
        if self.lesions.at_risk is None:
            absent.add(Layer.AT_RISK)
        if self.lesions.scar is None:
            absent |= {Layer.SCAR_INNER, Layer.SCAR_OUTER}
        if self.obstruction is None:
            absent |= {Layer.OBSTRUCTION_INNER, Layer.OBSTRUCTION_OUTER}
        return tuple(layer for layer in Layer if layer not in absent)

    def layers(self, state: HeartState, positions: Array) -> Array:
        """Spatial tables of the present layers at levels ``positions`` (spatial s, mm): (positions, ANGLES, layers)."""
        lv, motion = self.lv, state.motion
        endo, epi = lv.cavity(motion), lv.epicardium(motion)
        inner, outer = np.sqrt(np.maximum(endo, 0)), np.sqrt(np.maximum(epi, 0))
        exists = epi > 0
        reach = state.rv_scale * self.rv_reach
        columns = np.empty((len(Layer), *endo.shape))
        columns[Layer.ENDO] = endo
        # Trabeculae are compacted in systole and cover a larger part of the smaller cavity.
        columns[Layer.ENDO_VISIBLE] = endo * (1 - self.trabecula * (1 + 0.4 * state.contraction)) ** 2
        columns[Layer.EPI] = epi
        rv = outer + reach
        columns[Layer.RV] = np.where(exists, rv**2, epi)
        columns[Layer.RV_VISIBLE] = np.where(exists, (outer + reach * (1 - self.rv_trabecula)) ** 2, epi)
        wall = np.minimum(1.0, reach / 5.0) * (self.subject.rv_wall_mm + 1.5 * state.contraction)
        rv_wall = rv + wall
        columns[Layer.RV_WALL] = np.where(exists, rv_wall**2, epi)
        columns[Layer.FAT] = np.where(exists, (rv_wall + self.fat) ** 2, epi + 60.0)
        papillary_inner, papillary_outer = self._papillary_layers(inner)
        columns[Layer.PAPILLARY_INNER] = papillary_inner
        columns[Layer.PAPILLARY_OUTER] = papillary_outer
        columns[Layer.TEXTURE_ENDO] = self.texture_endo
        columns[Layer.TEXTURE_EPI] = self.texture_epi
        columns[Layer.AT_RISK :] = endo
        if self.lesions.at_risk is not None:
            columns[Layer.AT_RISK] = self._depth_layer(motion, self.lesions.at_risk, endo)
        if self.lesions.scar is not None:
            columns[Layer.SCAR_INNER] = self._depth_layer(motion, self.lesions.scar[0], endo)
            columns[Layer.SCAR_OUTER] = self._depth_layer(motion, self.lesions.scar[1], endo)
        if self.obstruction is not None:
            columns[Layer.OBSTRUCTION_INNER] = self._depth_layer(motion, self.obstruction[0], endo)
            columns[Layer.OBSTRUCTION_OUTER] = self._depth_layer(motion, self.obstruction[1], endo)
        material = np.interp(positions, motion.level, lv.levels)
        rows = (material - lv.levels[0])[:, None]
        turn = np.interp(material, lv.levels, motion.torsion)
        angles = np.mod(angle_grid()[None, :] - turn[:, None], 2 * math.pi) * (ANGLES / (2 * math.pi))
        rows, angles = np.broadcast_arrays(rows, angles)
        wrapped = np.concatenate([columns, columns[:, :, :1]], axis=2)
        moved = [
            map_coordinates(table, [rows, angles], order=1, mode="nearest")
            for table in wrapped[list(self.present_layers)]
        ]
        return np.stack(moved, axis=-1)

    def _depth_layer(self, motion: MotionState, depth: Array, endo: Array) -> Array:
        surface = self.lv.surfaces(motion, depth)
        return np.where(endo > 0, np.where(depth > 0, surface, endo), np.where(depth > 0.02, surface, endo))

    def _papillary_layers(self, inner: Array) -> tuple[Array, Array]:
        fraction = self.lv.levels / self.lv.length
        angles = angle_grid()
        nearest = np.full(inner.shape, 0.0)
        centre = inner * 0.7
        for angle, radius, first, last, place in self.papillary:
            along = np.clip(np.minimum(fraction - first, last - fraction) / 0.06, 0, 1)
            size = radius * np.sqrt(along)
            arc = np.radians(angular_distance(angles, angle)) * np.maximum(inner.mean(axis=1), 6.0)[:, None] * place
            half = np.sqrt(np.maximum(size[:, None] ** 2 - arc**2, 0))
            # The root of the muscle merges with the wall.
            ratio = place + (0.95 - place) * np.clip((0.45 - fraction) / 0.25, 0, 1)[:, None]
            centre = np.where(half > nearest, inner * ratio, centre)
            nearest = np.maximum(nearest, half)
        low = np.maximum(centre - nearest, 0)
        return low**2, (centre + nearest) ** 2


def enclosed_volume_ml(motion: MotionState, inner: Array | None, outer: Array, lid: float) -> float:
    """Volume between two layers (squared radii on material levels) below the tilted valve plane, mL.

    The plane cuts each radius at its own level, so the radius is integrated too (Gauss–Legendre, 4 nodes).
    """
    low = np.zeros_like(outer) if inner is None else np.maximum(inner, 0)
    high = np.maximum(outer, 0)
    angles = angle_grid() + motion.torsion[:, None]
    nodes, weights = np.polynomial.legendre.leggauss(4)
    thickness = np.gradient(motion.level)
    total = 0.0
    for node, weight in zip(nodes, weights, strict=True):
        squared = low + (high - low) * (node + 1) / 2
        plane = lid + LID_TILT * np.sqrt(squared) * np.cos(angles)
        below = np.clip(0.5 + (plane - motion.level[:, None]) / thickness[:, None], 0, 1)
        total += float(np.sum((high - low) * below * thickness[:, None]) * weight / 2)
    return total * 0.5 * (2 * math.pi / ANGLES) / 1000


def _atrium(
    place: tuple[float, float], lid: float, roof: float, volume_ml: float, bends: tuple[tuple[int, float, float], ...]
) -> Atrium:
    """Chamber cut by the valve plane at two fifths of its length that holds the volume below a fixed roof."""
    length = roof - (lid + LID_TILT * place[0])
    half = 0.6 * length
    cut = -0.4 / 0.6
    shape = (1 - 1 / 3) - (cut - cut**3 / 3)
    radius = math.sqrt(volume_ml * 1000 / (math.pi * half * shape))
    return Atrium(*place, roof - half, radius, half, bends)


def build_heart(subject: Subject, law: JointLaw, rng: np.random.Generator, anatomy: Anatomy | None = None) -> Heart:
    """Build the heart of a subject: fit the left ventricle, then the right, then draw the details.

    Parameters
    ----------
    subject : Subject
        With an anatomy, from :func:`pipelines.phantom.anatomy.subject_with`.
    law : JointLaw
        How the motion of the wall follows from its lesions.
    rng : numpy.random.Generator
    anatomy : Anatomy or None
        Left ventricle and scar of a patient, instead of those that the subject describes.
    """
    apex = 5.0 + rng.normal(0, 0.4)
    if anatomy is not None:
        apex = anatomy.apex_mm
    length = subject.long_axis_mm + apex
    levels = level_grid(length)
    outline = smooth_table(rng.standard_normal((levels.size, ANGLES)), 7.0, 12.0)
    more = np.random.default_rng([subject.number, 0x4C45])
    if anatomy is None:
        lesions = build_lesions(subject, law, levels, length, outline, more)
        lv = build_left_ventricle(subject, lesions, levels, apex)
    else:
        lesions = anatomy_lesions(anatomy, subject, law, levels, outline, more)
        lv = anatomy_ventricle(subject, lesions, anatomy)
    rest = lv.state(0.0, 0.0)
    epi = lv.epi2
    radius = np.sqrt(np.maximum(epi, 0))
    reach = _rv_shape(subject, lv)
    for _ in range(12):
        volume = enclosed_volume_ml(rest, epi, np.where(epi > 0, (radius + reach) ** 2, epi), lv.length)
        reach = reach * (subject.rv_edv_ml / volume) ** 0.8
    surface = subject.body.surface_m2
    la_length = 40.0 * (subject.la_minimum_ml / 32) ** (1 / 3)
    ra_maximum = subject.la_maximum_ml * rng.uniform(1.0, 1.3)
    septum = float(np.interp(0.8 * length, levels, radius[:, ANGLES // 2]))
    rv_width = float(np.interp(0.8 * length, levels, reach.max(axis=1)))
    place = (-(septum + 0.08 * rv_width), 17.0)
    angles = angle_grid()
    texture = [
        smooth_table(rng.standard_normal((levels.size, ANGLES)), length_mm, degrees)
        for length_mm, degrees in ((2.0, 5.0), (2.5, 5.0))
    ]
    texture_endo, texture_epi = (GRAIN * table / table.std() for table in texture)
    ridges = smooth_table(rng.standard_normal((levels.size, ANGLES)), 5.0, 4.5)
    ridges = np.clip(0.5 + 0.8 * ridges / ridges.std(), 0, 2)
    towards_apex = np.clip(1.3 - levels / length, 0.35, 1.2)[:, None]
    coarse = smooth_table(rng.standard_normal((levels.size, ANGLES)), 6.0, 5.0)
    coarse = np.clip(0.35 + coarse / coarse.std() * 0.6, 0, 1.6)
    fat_scale = 0.5 + subject.body.fat_mm / 25
    fat = np.full((levels.size, ANGLES), 0.8)
    fat += 2.2 * np.exp(-0.5 * (angular_distance(angles, 118) / 12) ** 2)
    fat += 2.2 * np.exp(-0.5 * (angular_distance(angles, 245) / 12) ** 2)
    fat += 1.6 * np.exp(-0.5 * (angular_distance(angles, 190) / 40) ** 2)
    fat += (4.0 * np.exp(-0.5 * ((levels - length) / 8) ** 2))[:, None]
    fat += (2.5 * np.exp(-0.5 * (levels / 8) ** 2))[:, None]
    uneven = smooth_table(rng.standard_normal((levels.size, ANGLES)), 6.0, 10.0)
    fat = np.maximum(fat * fat_scale * (1 + 0.35 * uneven / uneven.std()), 0.3)
    origin, axes = _placement(subject, lv, float((radius + reach)[:, ANGLES // 2].max()), rng)
    return Heart(
        subject=subject,
        lv=lv,
        origin=origin,
        axes=axes,
        lv_rest_ml=enclosed_volume_ml(rest, None, lv.endo2, lv.length),
        rv_reach=reach,
        rv_trabecula=np.minimum(0.22 * coarse * towards_apex, 0.6),
        fat=fat,
        trabecula=np.minimum(subject.trabeculation * ridges * towards_apex, 0.38),
        texture_endo=texture_endo,
        texture_epi=texture_epi,
        lesions=lesions,
        obstruction=_obstruction_depth(subject, lesions, rng) if anatomy is None else _obstruction_of(anatomy, levels),
        papillary=(
            (rng.normal(48, 7), rng.normal(5.4, 0.6) * surface / 1.9, 0.2, rng.normal(0.64, 0.03), 0.68),
            (rng.normal(248, 8), rng.normal(5.6, 0.6) * surface / 1.9, 0.2, rng.normal(0.62, 0.03), 0.68),
        ),
        la_roof=length + la_length,
        ra_roof=length + LID_TILT * place[0] + la_length * 1.02,
        right_atrium_place=place,
        right_atrium_volumes=(ra_maximum * 0.55, ra_maximum),
        atrial_bends=(_draw_bends(rng), _draw_bends(rng)),
    )


def _draw_bends(rng: np.random.Generator) -> tuple[tuple[int, float, float], ...]:
    return tuple(
        (periods, float(abs(rng.normal(mean, 0.04))), float(rng.uniform(0, 2 * math.pi)))
        for periods, mean in ((2, 0.07), (3, 0.08), (5, 0.03))
    )


def _rv_shape(subject: Subject, lv: LeftVentricle) -> Array:
    """Width of the right ventricle over (S, Θ) up to a factor: a crescent with its corner over the diaphragm."""
    fraction = (lv.levels / lv.length)[:, None]
    overload = subject.septal_flattening / 0.15
    half_width = (30 + 38 * np.clip((fraction - 0.12) / 0.38, 0, 1) ** 0.7) * (1 + 0.08 * overload)
    angle = angular_distance(angle_grid(), 180)[None, :]
    # Near the base the outflow tract wraps around the front of the left ventricle.
    outflow = 18 * np.clip((fraction - 0.6) / 0.3, 0, 1)
    angle = angle / (half_width + np.where(angle < 0, outflow, 0.0))
    corner = 0.35 - 0.35 * np.clip((fraction - 0.55) / 0.35, 0, 1)
    beside = np.where(angle < corner, (corner - angle) / (corner + 1), (angle - corner) / (1 - corner))
    # Wide up to the insertions: the free wall meets the septum at an acute angle.
    crescent = (1 - np.clip(beside, 0, 1) ** 2.6) ** 0.75
    along = np.clip((fraction - 0.14) / 0.55, 0, 1) ** 0.75
    towards_valve = 1 - 0.4 * np.clip((fraction - 0.78) / 0.22, 0, 1) ** 2
    return smooth_table(36.0 * crescent * along * towards_valve, 3.0, 5.0)


def _obstruction_depth(subject: Subject, lesions: Lesions, rng: np.random.Generator) -> tuple[Array, Array] | None:
    """Inner and outer depth of the obstructed core: subendocardial, in the middle of the infarct, patchy."""
    distance = lesions.distance
    spots = smooth_table(rng.standard_normal(distance.shape), 4.0, 7.0)
    reach = rng.uniform(0.35, 0.65)
    if subject.infarct is None or lesions.scar is None or not subject.infarct.obstruction:
        return None
    depth = lesions.scar[1]
    inside = np.clip((reach - distance + 0.12 * spots / spots.std()) / 0.2, 0, 1)
    inner = 0.12 * depth
    return inner, inner + 0.5 * depth * np.sqrt(inside)


def _obstruction_of(anatomy: Anatomy, levels: Array) -> tuple[Array, Array] | None:
    if not anatomy.obstructed:
        return None
    inner, outer = (anatomy.nearest(table, levels) for table in anatomy.obstruction)
    return inner, outer


def _placement(subject: Subject, lv: LeftVentricle, reach: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Origin and axes of the heart frame: the long axis points left, forward and down."""
    direction = np.array([0.60, -0.60, -0.53]) + rng.normal(0, 0.06, 3)
    base = -direction / np.linalg.norm(direction)
    inferior = np.array([0.0, 0.35, -1.0]) + rng.normal(0, 0.05, 3)
    inferior -= (inferior @ base) * base
    inferior /= np.linalg.norm(inferior)
    lateral = np.cross(inferior, base)
    axes = np.stack([lateral, inferior, base])
    body = subject.body
    chest = -(body.half_depth_mm - body.fat_mm - 18)
    front = chest + 0.57 * (reach + 6) - 7 + rng.normal(0, 2)
    centre = np.array([28 + rng.normal(0, 4), front, rng.normal(0, 4)])
    return centre - 0.55 * lv.length * base, axes
