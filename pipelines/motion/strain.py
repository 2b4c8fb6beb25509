"""Strain of the left ventricle, in two independent ways.

*Field*: points of the wall at end diastole are carried along by the registration. *Contour*: the wall is measured anew
on the segmentation of every phase. The strain is (L − L_ED) / L_ED of the mid-wall line (circumferential, longitudinal)
and of the wall's thickness (radial). Where the long axis is known, radial strain comes from the other two, since muscle
keeps its volume, and the thickness of the contours is the second way.

The base descends through the short-axis slices, so at end systole a slice shows muscle that lay farther up.
Circumference and thickness of a level are therefore read between the slices, at the height where its muscle is at that
phase. How far each level descends is followed on the long-axis views; without them it comes from the muscle itself,
which keeps its volume: a wall whose cross-section has grown by a fifth has become a sixth shorter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.signal import savgol_filter

from pipelines.cine.stack import StackGeometry
from pipelines.function.findings import Interval
from pipelines.function.segments import SegmentMap, segment_of
from pipelines.long_axis.in_step import resample_phases
from pipelines.motion.crop import SIDE_MM
from pipelines.motion.fields import displace_points
from pipelines.motion.findings import Component, MyocardialStrain, SegmentalStrain, StrainCurve, Torsion
from pipelines.motion.wall import ANGLES, WallLine, WallRing, arc_lengths, ring_angles, wall_ring
from pipelines.segmentation.grid import Square
from pipelines.segmentation.labels import Label

__all__ = [
    "LongAxisTrack",
    "RingTrack",
    "Timing",
    "ViewLengths",
    "draw_rings",
    "measure_strain",
    "track_line",
    "track_rings",
]

SEGMENTS = 16
_APICAL_RADIUS = 0.6
"""Slices count whose cavity has at least this part of the largest radius at end diastole: about the basal four fifths
of the long axis. Farther down a slice cuts the wall obliquely."""


@dataclass(frozen=True, slots=True, eq=False)
class Timing:
    """Times of the phases: delay from the R wave (T,), ms; RR interval, ms, or ``None``; reference and end systole."""

    times_ms: NDArray[np.float64]
    rr_ms: float | None
    end_diastole: int
    end_systole: int


@dataclass(frozen=True, slots=True, eq=False)
class RingTrack:
    """The wall of the short-axis slices over the cycle; K slices, from the lowest to the highest index.

    Attributes
    ----------
    slices : (K,) int
    height_mm : (K,) float64
        Along the normal from the first slice of the stack.
    length_field, length_contour : (T, K, A) float64
        Length of each piece of the mid-wall line, mm; NaN where the segmentation shows no ring.
    thickness_field, thickness_contour : (T, K, A) float64
    area_mm2 : (T, K) float64
        Cross-section of the wall, from the contours.
    rotation : (T, K) float64
        Mean turn of the mid-wall points about their centre, radians, from the row toward the column direction.
    angles : (K, A) float64
        Direction of each piece at the reference phase, radians.
    apex_mm : float
        Height of the apical end of the muscle at the reference phase.
    """

    slices: NDArray[np.intp]
    height_mm: NDArray[np.float64]
    length_field: NDArray[np.float64]
    length_contour: NDArray[np.float64]
    thickness_field: NDArray[np.float64]
    thickness_contour: NDArray[np.float64]
    area_mm2: NDArray[np.float64]
    rotation: NDArray[np.float64]
    angles: NDArray[np.float64]
    apex_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class LongAxisTrack:
    """One side of the wall of a long-axis view over the phases of the short axis.

    Attributes
    ----------
    height_mm : (N,) float64
        Along the normal of the short axis at the reference phase, from its first slice.
    length_direct, length_composed : (T, N − 1) float64
        Length of each piece, mm, by the two registrations.
    descent_mm : (T, N) float64
        Motion along the normal of the short axis.
    place : (N, 3) float64
        Patient coordinates at the reference phase.
    """

    height_mm: NDArray[np.float64]
    length_direct: NDArray[np.float64]
    length_composed: NDArray[np.float64]
    descent_mm: NDArray[np.float64]
    place: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ViewLengths:
    """Lengths of the left ventricle on V segmented long-axis views over the phases of the short axis, mm.

    Attributes
    ----------
    midwall : (V, T) float64
        Of the mid-wall line.
    axis : (V, T) float64
        From the middle of the mitral annulus to the apex of the cavity.
    """

    midwall: NDArray[np.float64]
    axis: NDArray[np.float64]


def draw_rings(
    labels: NDArray[np.uint8], spacing: tuple[float, float], reference: int, chosen: NDArray[np.bool_]
) -> dict[int, list[WallRing | None]]:
    """The wall of every chosen slice at every phase, as the segmentation shows it.

    Parameters
    ----------
    labels : (T, S, R, C) uint8
        Papillary muscles in the cavity.
    spacing : (float, float)
        Distance between rows and between columns, mm.
    reference : int
        Phase at which a slice must show a ring, whose cavity is not the tip of the ventricle.
    chosen : (S,) bool

    Returns
    -------
    dict of int to list of WallRing or None
        For each slice that is followed, by its index, ascending, the ring of each phase.
    """
    at_reference = {int(index): wall_ring(labels[reference, index], spacing) for index in np.flatnonzero(chosen)}
    largest = max((float(ring.inner.mean()) for ring in at_reference.values() if ring is not None), default=0.0)
    return {
        index: [
            ring if phase == reference else wall_ring(of_phase, spacing)
            for phase, of_phase in enumerate(labels[:, index])
        ]
        for index, ring in at_reference.items()
        if ring is not None and float(ring.inner.mean()) >= _APICAL_RADIUS * largest
    }


def track_rings(
    drawn: Mapping[int, Sequence[WallRing | None]],
    labels: NDArray[np.uint8],
    geometry: StackGeometry,
    displacement: NDArray[np.float32],
    square: Square,
    reference: int,
    *,
    base_first: bool,
) -> RingTrack | None:
    """Follow the wall of every slice that has been drawn in both ways.

    Parameters
    ----------
    drawn : mapping of int to sequence of WallRing or None
        As :func:`draw_rings` gives it.
    labels : (S, R, C) uint8
        Of the reference phase.
    geometry : StackGeometry
    displacement : (T, S, 2, h, w) float32, mm
        From the reference phase.
    square : Square
    reference : int
    base_first : bool
        Whether slice 0 is at the base.

    Returns
    -------
    RingTrack or None
        ``None`` where no slice has been drawn.
    """
    slices = list(drawn)
    if not slices:
        return None
    phases = len(displacement)
    shape = (phases, len(slices), ANGLES)
    length_field, thickness_field = np.empty(shape), np.empty(shape)
    length_contour, thickness_contour = np.full(shape, np.nan), np.full(shape, np.nan)
    rotation = np.empty(shape[:2])
    angles, area = np.empty(shape[1:]), np.full(shape[:2], np.nan)
    corner = np.array([square.row_mm, square.column_mm])
    for k, index in enumerate(slices):
        ring = drawn[index][reference]
        assert ring is not None
        inner, middle, outer = (
            displace_points(ring.points(line) - corner, displacement[:, index], SIDE_MM)
            for line in (ring.inner, ring.middle, ring.outer)
        )
        length_field[:, k] = arc_lengths(middle, closed=True)
        thickness_field[:, k] = np.sqrt(((outer - inner) ** 2).sum(axis=-1))
        rotation[:, k] = _turn(middle, reference)
        angles[k] = ring_angles()
        share = ring.middle_share
        for phase, now in enumerate(drawn[index]):
            if now is not None and _is_ring(now):
                length_contour[phase, k] = arc_lengths(now.points(now.at_wall_share(share)), closed=True)
                thickness_contour[phase, k] = now.outer - now.inner
                area[phase, k] = np.pi * float((now.outer**2 - now.inner**2).mean())
    height = (geometry.positions[slices] - geometry.positions[0]) @ geometry.normal
    return RingTrack(
        np.array(slices),
        height,
        length_field,
        length_contour,
        thickness_field,
        thickness_contour,
        area,
        rotation,
        angles,
        _apex(labels, geometry, toward_apex=1 if base_first else -1),
    )


def _apex(labels: NDArray[np.uint8], geometry: StackGeometry, toward_apex: int) -> float:
    """Height of the apical face of the last slice with muscle, mm along the normal from the first slice."""
    seen = np.flatnonzero(np.isin(labels, (Label.LV, Label.MYO)).any(axis=(1, 2)))
    last = int(seen[-1] if toward_apex > 0 else seen[0])
    height = float((geometry.positions[last] - geometry.positions[0]) @ geometry.normal)
    return height + toward_apex * float(geometry.slice_intervals()[last]) / 2


def _is_ring(ring: WallRing) -> bool:
    """Whether at least three quarters of the way around there is a wall."""
    return float((ring.outer - ring.inner > 1.0).mean()) >= 0.75


def _turn(points: NDArray[np.float64], reference: int) -> NDArray[np.float64]:
    """Mean angle (T,) by which points (T, A, 2) have turned about their centre since the reference."""
    about = points - points.mean(axis=1, keepdims=True)
    complex_places = about[..., 1] + 1j * about[..., 0]
    return np.asarray(np.angle((complex_places * complex_places[reference].conj()).sum(axis=1)))


def track_line(
    line: WallLine,
    view: StackGeometry,
    square: Square,
    direct: NDArray[np.float32],
    composed: NDArray[np.float32],
    normal: NDArray[np.float64],
    phases: int,
    delay: float = 0.0,
) -> LongAxisTrack:
    """Follow one side of a long-axis view, on the phases of the short axis.

    Parameters
    ----------
    line : WallLine
    view : StackGeometry
    square : Square
    direct, composed : (T', 2, h, w) float32, mm
        Motion from the reference phase of the view, found directly and composed of consecutive steps.
    normal : (3,) float64
        Of the short axis.
    phases : int
        Phases of the short axis, over which the cycle of the view is spread evenly.
    delay : float
        Share of the cycle by which the phases of the view come later than those of the short axis.
    """
    corner = np.array([square.row_mm, square.column_mm])
    moved = [
        resample_phases(displace_points(line.points - corner, fields, SIDE_MM), phases, delay)
        for fields in (direct, composed)
    ]
    shift = moved[0] - (line.points - corner)
    through = shift[..., 0] * float(view.column_direction @ normal) + shift[..., 1] * float(view.row_direction @ normal)
    place = view.positions[0] + line.points[:, :1] * view.column_direction + line.points[:, 1:] * view.row_direction
    return LongAxisTrack(
        line.height_mm, arc_lengths(moved[0], closed=False), arc_lengths(moved[1], closed=False), through, place
    )


def descent(tracks: list[LongAxisTrack], height_mm: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """How far each level of the ventricle moves along the normal of the short axis, (T, K), mm.

    A straight line over height is fitted to all points of all views at each phase, which averages their noise and
    continues to levels that no view covers.
    """
    if not tracks:
        return None
    height = np.concatenate([track.height_mm for track in tracks])
    motion = np.concatenate([track.descent_mm for track in tracks], axis=1)
    slope, offset = np.polyfit(height, motion.T, 1)
    return np.asarray(slope[:, None] * height_mm + offset[:, None])


def stretch_of_volume(rings: RingTrack, reference: int) -> NDArray[np.float64]:
    """Length of the muscle along the long axis relative to the reference phase, (T,), from its constant volume.

    The cross-section of the wall times its length stays the same (myocardium is nearly incompressible). The
    cross-section is read at the height where the muscle is, which depends on the stretch: a few rounds settle it.
    """
    stretch = np.ones(len(rings.area_mm2))
    for _ in range(6):
        moved = (stretch[:, None] - 1) * (rings.height_mm - rings.apex_mm)
        area = of_the_same_muscle(rings.area_mm2[..., None], rings.height_mm, moved)[..., 0]
        ratio = area[reference] / area
        known = ~np.isnan(ratio).any(axis=0)
        stretch = _interpolated(np.nanmean(ratio[:, known] if known.any() else ratio, axis=1))
        if len(stretch) >= 8:
            stretch = savgol_filter(stretch, 5, polyorder=2, mode="wrap")
    return np.asarray(stretch / stretch[reference])


def of_the_same_muscle(
    values: NDArray[np.float64], height_mm: NDArray[np.float64], moved_mm: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Values (T, K, A) of fixed slices, read at the height where the muscle of each slice is at each phase.

    Linear between neighbouring slices that have a value, and at most half a slice beyond the last.
    """
    phases, count, _ = values.shape
    seen = np.asarray(~np.isnan(values).any(axis=2))
    result = np.full_like(values, np.nan)
    for phase in range(phases):
        known = np.flatnonzero(seen[phase])
        if not len(known):
            continue
        place = height_mm[known]
        order = np.argsort(place)
        known, place = known[order], place[order]
        for k in range(count):
            target = height_mm[k] + (0.0 if moved_mm is None else moved_mm[phase, k])
            if len(known) == 1:
                result[phase, k] = values[phase, known[0]]
                continue
            upper = int(np.clip(np.searchsorted(place, target), 1, len(place) - 1))
            part = (target - place[upper - 1]) / (place[upper] - place[upper - 1])
            if not -0.5 <= part <= 1.5:
                continue
            result[phase, k] = (1 - part) * values[phase, known[upper - 1]] + part * values[phase, known[upper]]
    return result


def measure_strain(
    rings: RingTrack,
    lines: list[LongAxisTrack],
    drawn: ViewLengths | None,
    segments: SegmentMap | None,
    timing: Timing,
    geometry: StackGeometry,
    *,
    base_first: bool,
) -> MyocardialStrain:
    """Strain of all components from the followed wall.

    Parameters
    ----------
    rings : RingTrack
    lines : list of LongAxisTrack
        Empty without long-axis views.
    drawn : ViewLengths or None
        Of the segmented long-axis views.
    segments : SegmentMap or None
        ``None`` leaves the segments out.
    timing : Timing
    geometry : StackGeometry
        Of the short axis.
    base_first : bool
        Whether slice 0 of the short axis is at the base.
    """
    axes = (geometry.row_direction, geometry.column_direction)
    reference = timing.end_diastole
    stretch = stretch_of_volume(rings, reference)
    moved = descent(lines, rings.height_mm)
    through_plane = "followed on the long-axis views"
    if moved is None:
        moved = (stretch[:, None] - 1) * (rings.height_mm - rings.apex_mm)
        through_plane = "from the constant volume of the muscle"

    def muscle(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return of_the_same_muscle(values, rings.height_mm, moved)

    length_field, length_contour = muscle(rings.length_field), muscle(rings.length_contour)
    thickness_field, thickness_contour = muscle(rings.thickness_field), muscle(rings.thickness_contour)
    circumferential = _curve(
        Component.CIRCUMFERENTIAL,
        _mean_change(length_contour.sum(axis=2), reference),
        _mean_change(length_field.sum(axis=2), reference),
        timing,
        "length of the mid-wall line of each short-axis slice, from the contours of every phase",
        "length of the mid-wall line of each short-axis slice, followed by registration",
    )
    longitudinal = _longitudinal(lines, drawn, timing)
    radial = _radial(
        _mean_change(thickness_contour.mean(axis=2), reference),
        _mean_change(thickness_field.mean(axis=2), reference),
        circumferential,
        longitudinal,
        timing,
    )
    notes = []
    if longitudinal is None:
        notes.append("No long-axis cine whose wall could be read: longitudinal strain is not available.")
    if not lines:
        notes.append(
            "Motion of the base through the short-axis slices is corrected only by the constant volume of the muscle."
        )
    if segments is None:
        notes.append("The insertion points of the right ventricle were not found: no strain by segment.")
    return MyocardialStrain(
        longitudinal=longitudinal,
        circumferential=circumferential,
        radial=radial,
        segments=()
        if segments is None
        else _by_segment(rings, length_field, thickness_contour, lines, segments, axes, timing),
        torsion=_torsion(rings, reference, base_first=base_first),
        through_plane=through_plane,
        notes=tuple(notes),
    )


def _longitudinal(lines: list[LongAxisTrack], drawn: ViewLengths | None, timing: Timing) -> StrainCurve | None:
    """Longitudinal strain from contours, axis and registration, or in two ways by registration without contours."""
    reference = timing.end_diastole
    if not lines:
        return None
    direct = _total_change([line.length_direct for line in lines], reference)
    followed = "length of the mid-wall lines of the long-axis views, followed by registration with end diastole"
    if drawn is None:
        composed = _total_change([line.length_composed for line in lines], reference)
        return _curve(
            Component.LONGITUDINAL, direct, composed, timing, followed, "the same lines, followed from frame to frame"
        )
    midwall, axis = (100 * (total / total[reference] - 1) for total in (drawn.midwall.sum(0), drawn.axis.sum(0)))
    # Each is off where the others need not be: the outline at the apex, the axis where the wall bends, registration
    # along a wall without texture. Nothing says which of them is right in a patient, so the mean is reported, and what
    # contours and registration differ by widens the interval.
    three = (
        "mean of three relative lengths on the long-axis views: mid-wall lines from the contours of every phase, the "
        "same walls followed by registration, and the axis from the mitral annulus to the apex"
    )
    return _curve(
        Component.LONGITUDINAL,
        (midwall + direct + axis) / 3,
        direct,
        timing,
        three,
        followed,
        ways=(midwall, direct),
    )


def _radial(
    drawn: NDArray[np.float64],
    followed: NDArray[np.float64],
    circumferential: StrainCurve,
    longitudinal: StrainCurve | None,
    timing: Timing,
) -> StrainCurve:
    """Radial strain from the constant volume of the muscle, or from its thickness where nothing tells its length.

    Muscle that has become shorter around and along is thicker by as much: 1 / ((1 + c) (1 + l)) − 1. A wall of a few
    pixels is drawn too thin at end systole, on phantoms by a third of what it thickens, while both other strains are
    lengths of many pixels.

    Parameters
    ----------
    drawn, followed : (T,) float64
        Thickness from the contours and by registration, %.
    """
    of_contours = "thickness of the wall, from the contours of every phase"
    if longitudinal is None:
        by_registration = "distance of endocardial and epicardial points followed by registration"
        return _curve(Component.RADIAL, drawn, followed, timing, of_contours, by_registration)
    kept = (1 + circumferential.percent / 100) * (1 + longitudinal.percent / 100)
    of_volume = "thickness that the constant volume of the muscle leaves at its circumferential and longitudinal strain"
    return _curve(
        Component.RADIAL, 100 * (1 / kept - 1), drawn, timing, of_volume, of_contours, floor_points=_VOLUME_FLOOR_POINTS
    )


def _mean_change(values: NDArray[np.float64], reference: int) -> NDArray[np.float64]:
    """Mean over slices of the relative change (T, K) since the reference, %; a slice that is lost keeps out."""
    change = 100 * (values / values[reference] - 1)
    known = ~np.isnan(change).any(axis=0)
    if known.any():
        return np.asarray(change[:, known].mean(axis=1))
    return np.asarray(_interpolated(np.nanmean(change, axis=1)))


def _interpolated(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """A cyclic curve with its gaps bridged; zero where there is nothing at all."""
    known = np.flatnonzero(~np.isnan(curve))
    if not len(known):
        return np.zeros(len(curve))
    return np.asarray(np.interp(np.arange(len(curve)), known, curve[known], period=len(curve)))


def _total_change(lengths: list[NDArray[np.float64]], reference: int) -> NDArray[np.float64]:
    total = np.sum([length.sum(axis=1) for length in lengths], axis=0)
    return np.asarray(100 * (total / total[reference] - 1))


_FLOOR_POINTS = {Component.LONGITUDINAL: 2.5, Component.CIRCUMFERENTIAL: 2.0, Component.RADIAL: 20.0}
"""Half width of the interval where both ways agree, points of strain: what both do wrong together."""
_VOLUME_FLOOR_POINTS = 9.0
"""The same of radial strain from constant volume: 5 % of the volume of the muscle, which its vessels give and take over
the cycle (7 points at a wall that thickens by half), and errors of 1.5 points in both other strains (5 points)."""


def _curve(
    component: Component,
    percent: NDArray[np.float64],
    second: NDArray[np.float64],
    timing: Timing,
    method: str,
    second_method: str,
    *,
    ways: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    floor_points: float | None = None,
) -> StrainCurve:
    """Curve with its peak, rates and interval; ``ways`` must agree, by default the curve and ``second``."""
    sign = 1.0 if component is Component.RADIAL else -1.0
    peak = int(np.argmax(sign * percent))
    one, other = ways or (percent, second)
    difference = abs(float(one[peak] - other[peak]))
    floor = _FLOOR_POINTS[component] if floor_points is None else floor_points
    half = math.hypot(floor, difference)
    systolic, diastolic = _rates(percent, sign, timing)
    return StrainCurve(
        component=component,
        percent=percent,
        second_percent=second,
        times_ms=timing.times_ms,
        peak_percent=float(percent[peak]),
        peak_ms=float(timing.times_ms[peak]),
        end_systolic_percent=float(percent[timing.end_systole]),
        systolic_rate_per_s=systolic,
        early_diastolic_rate_per_s=diastolic,
        interval=Interval(float(percent[peak]) - half, float(percent[peak]) + half),
        method=method,
        second_method=second_method,
    )


def _rates(percent: NDArray[np.float64], sign: float, timing: Timing) -> tuple[float | None, float | None]:
    """Fastest strain rate of systole and of early diastole (the half of diastole after end systole), 1/s."""
    phases = len(percent)
    if timing.rr_ms is None or phases < 12:
        return None, None
    spline = CubicSpline(np.arange(phases + 1), np.append(percent, percent[0]), bc_type="periodic")
    per_second = 10.0 * phases / timing.rr_ms  # % a frame to 1/s

    def fastest(first: int, stop: float, direction: float) -> float:
        moments = np.linspace(first, stop, 200)
        rate = spline(moments, 1) * per_second
        return float(rate[int(np.argmax(direction * rate))])

    systole = (timing.end_systole - timing.end_diastole) % phases
    return (
        fastest(timing.end_diastole, timing.end_diastole + systole, sign),
        fastest(timing.end_systole, timing.end_systole + (phases - systole) / 2, -sign),
    )


def _torsion(rings: RingTrack, reference: int, *, base_first: bool) -> Torsion | None:
    count = len(rings.slices)
    if count < 2:
        return None
    # Image angles run clockwise for someone who looks along the normal; seen from the apex when it points to the base.
    degrees = np.degrees(rings.rotation) * (1.0 if base_first else -1.0)
    third = max(count // 3, 1)
    basal, apical = (
        (slice(0, third), slice(count - third, count))
        if base_first
        else (
            slice(count - third, count),
            slice(0, third),
        )
    )
    base, apex = degrees[:, basal].mean(axis=1), degrees[:, apical].mean(axis=1)
    distance = abs(float(rings.height_mm[basal].mean() - rings.height_mm[apical].mean())) / 10
    twist = (apex - base) - (apex - base)[reference]
    return Torsion(base, apex, float(twist[int(np.argmax(np.abs(twist)))] / distance)) if distance > 0 else None


def _by_segment(
    rings: RingTrack,
    length: NDArray[np.float64],
    thickness: NDArray[np.float64],
    lines: list[LongAxisTrack],
    segments: SegmentMap,
    axes: tuple[NDArray[np.float64], NDArray[np.float64]],
    timing: Timing,
) -> tuple[SegmentalStrain, ...]:
    reference = timing.end_diastole
    place = np.zeros(rings.angles.shape, dtype=np.intp)
    for k, index in enumerate(rings.slices):
        level = segments.levels[index]
        if level is not None:
            place[k] = segment_of(rings.angles[k], level, segments.reference)
    change = {
        Component.CIRCUMFERENTIAL: _segment_change(length, place, reference),
        Component.RADIAL: _segment_change(thickness, place, reference),
    }
    if lines:
        change[Component.LONGITUDINAL] = _long_axis_change(rings, lines, segments, axes, reference)
    return tuple(_segmental(component, percent, timing) for component, percent in change.items())


def _long_axis_change(
    rings: RingTrack,
    lines: list[LongAxisTrack],
    segments: SegmentMap,
    axes: tuple[NDArray[np.float64], NDArray[np.float64]],
    reference: int,
) -> NDArray[np.float64]:
    """Relative change (T, 16) of the length of the pieces of all long-axis lines that lie in each segment, %."""
    height = np.concatenate([line.height_mm for line in lines])
    place = np.concatenate([line.place for line in lines])
    centre = np.polyfit(height, place, 1)
    values, numbers = [], []
    for line in lines:
        middle = (line.place[1:] + line.place[:-1]) / 2
        at = (line.height_mm[1:] + line.height_mm[:-1]) / 2
        away = middle - (at[:, None] * centre[0] + centre[1])
        angle = np.arctan2(away @ axes[1], away @ axes[0])
        nearest = rings.slices[np.abs(rings.height_mm[None] - at[:, None]).argmin(axis=1)]
        values.append(line.length_direct)
        numbers += [
            int(segment_of(np.array([turn]), level, segments.reference)[0]) if level is not None else 0
            for turn, level in zip(angle, (segments.levels[index] for index in nearest), strict=True)
        ]
    pieces = np.concatenate(values, axis=1)[:, None]
    return _segment_change(pieces, np.array(numbers, dtype=np.intp)[None], reference)


def _segment_change(values: NDArray[np.float64], place: NDArray[np.intp], reference: int) -> NDArray[np.float64]:
    """Relative change (T, 16) of the sum over the pieces (T, K, A) of each segment, %."""
    known = np.asarray(~np.isnan(values).any(axis=(0, 2)))
    result = np.full((len(values), SEGMENTS), np.nan)
    for number in range(1, SEGMENTS + 1):
        members = (place == number) & known[:, None]
        if members.any():
            total = values[:, members].sum(axis=1)
            result[:, number - 1] = 100 * (total / total[reference] - 1)
    return result


def _segmental(component: Component, percent: NDArray[np.float64], timing: Timing) -> SegmentalStrain:
    sign = 1.0 if component is Component.RADIAL else -1.0
    phases = len(percent)
    order = (timing.end_diastole + np.arange(phases)) % phases
    turned = sign * percent[order]
    known = ~np.isnan(turned).any(axis=0)
    at = np.argmax(np.where(np.isnan(turned), -np.inf, turned), axis=0)
    segment = np.arange(SEGMENTS)
    peak = np.where(known, percent[order[at], segment], np.nan)
    period = timing.rr_ms if timing.rr_ms is not None else float(timing.times_ms[-1]) * phases / max(phases - 1, 1)
    time = np.where(known, at * period / phases, np.nan)
    systole = (timing.end_systole - timing.end_diastole) % phases
    late = at > systole
    with np.errstate(invalid="ignore", divide="ignore"):
        index = np.where(late, 100 * (peak - percent[timing.end_systole]) / peak, 0.0)
    return SegmentalStrain(
        component=component,
        percent=percent,
        peak_percent=peak,
        time_to_peak_ms=time,
        post_systolic_index_percent=np.where(known, index, np.nan),
        dispersion_ms=float(np.nanstd(time)) if known.any() else float("nan"),
    )
