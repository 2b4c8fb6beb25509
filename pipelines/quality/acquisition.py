"""Checks of what was acquired: phases, slices, spacing, plane, gating, coverage, shifts, contrast, noise, ghosts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.function.findings import Keyframes
from pipelines.function.slices import SliceMeasures
from pipelines.quality.findings import Grade, QualityCheck, QualityFinding
from pipelines.quality.ghosting import ghosting_finding
from pipelines.quality.limits import QualityLimits
from pipelines.quality.noise import noise_finding
from pipelines.quality.triggering import triggering_finding
from pipelines.segmentation.labels import Label

__all__ = ["acquisition_findings", "course_of_centres", "shift_residuals_mm"]

CLEAR_RING = 0.75
"""Slices ringed less are cut by the valve plane; their centre and area say nothing of the axis."""

FEWEST_CENTRES = 4
"""Fewer centres give no line."""


def acquisition_findings(
    stack: CineStack, slices: SliceMeasures, keyframes: Keyframes, limits: QualityLimits
) -> tuple[QualityFinding, ...]:
    """Every check of the acquisition that can be made on this stack."""
    findings = (
        _phases(stack, limits),
        _slices(slices, keyframes, limits),
        _spacing(stack, limits),
        _plane(stack, slices, keyframes, limits),
        _gating(stack),
        _rr_variation(stack, limits),
        _base(slices, keyframes, limits),
        _apex(slices, keyframes, limits),
        _shift(slices, keyframes, limits),
        _contrast(stack, slices, keyframes, limits),
        noise_finding(stack, slices, limits),
        ghosting_finding(stack, slices, limits),
        triggering_finding(stack, slices, limits),
    )
    return tuple(finding for finding in findings if finding is not None)


def _phases(stack: CineStack, limits: QualityLimits) -> QualityFinding:
    grade = limits.phases.grade(stack.phases)
    if grade >= Grade.POOR:
        sentence = f"Only {stack.phases} cardiac phases: end systole may be missed and ejection fraction be too small."
    else:
        sentence = f"{stack.phases} cardiac phases."
    return QualityFinding(QualityCheck.PHASES, grade, sentence, stack.phases, "{phases}", limits.phases.poor)


def _slices(slices: SliceMeasures, keyframes: Keyframes, limits: QualityLimits) -> QualityFinding:
    count = int(slices.counted[keyframes.end_diastole].sum())
    grade = limits.slices.grade(count)
    if grade >= Grade.POOR:
        sentence = f"Only {count} slices show the left ventricle at end diastole: volumes are coarse."
    else:
        sentence = f"{count} slices show the left ventricle at end diastole."
    return QualityFinding(QualityCheck.SLICES, grade, sentence, count, "{slices}", limits.slices.poor)


def _spacing(stack: CineStack, limits: QualityLimits) -> QualityFinding | None:
    if stack.slices < 2:
        return None
    gaps = np.diff(stack.geometry.positions @ stack.geometry.normal)
    # Positions are written with rounding: 10.0003 mm is 10 mm.
    pitch, widest = round(float(np.median(gaps)), 1), round(float(gaps.max()), 1)
    uneven = limits.uneven_gap.grade(widest / pitch)
    if uneven >= Grade.POOR:
        at = int(np.argmax(gaps))
        sentence = (
            f"A gap of {widest:.1f} mm between slices {at + 1} and {at + 2} where {pitch:.1f} mm is usual: a slice is "
            "missing; its volume is bridged by its neighbours."
        )
        grade = max(uneven, limits.pitch_mm.grade(pitch))
        return QualityFinding(
            QualityCheck.SLICE_GAP, grade, sentence, widest, "mm", limits.uneven_gap.poor * pitch, (at, at + 1)
        )
    grade = max(uneven, limits.pitch_mm.grade(pitch))
    sentence = f"Slices {pitch:.1f} mm apart."
    if grade >= Grade.POOR:
        sentence = f"Slices are {pitch:.1f} mm apart: too sparse for exact volumes."
    if not stack.geometry.thickness_stated:
        grade = max(grade, Grade.GOOD)
        sentence += " No image states a slice thickness that can be read: that distance stands in for it."
    return QualityFinding(QualityCheck.SLICE_GAP, grade, sentence, pitch, "mm", limits.pitch_mm.poor)


def course_of_centres(slices: SliceMeasures, depth_mm: NDArray[np.float64], phase: int) -> tuple[float, float] | None:
    """How far the centres of the left ventricle run off the direction across the slices.

    In a true short axis the centres of cavity and wall lie above each other. Where the stack is planned off, they move
    sideways from slice to slice: for an ellipsoid along the diameter that is conjugate to the plane.

    Parameters
    ----------
    slices : SliceMeasures
    depth_mm : (S,) float64
        Positions of the slices along the normal.
    phase : int

    Returns
    -------
    (float, float) or None
        Angle between the straight line through the centres (least absolute deviations) and the normal, degrees, and the
        mean distance of the centres from that line, mm. ``None`` with fewer than four slices that show a clear ring.
    """
    clear = slices.counted[phase] & (slices.ring[phase] >= CLEAR_RING)
    if clear.sum() < FEWEST_CENTRES:
        return None
    depth = depth_mm[clear] - depth_mm[clear].mean()
    solution, distance = _least_absolute(depth, slices.centre_mm[phase, clear], 2)
    return float(np.degrees(np.arctan(np.linalg.norm(solution[0])))), float(distance.mean())


def _plane(
    stack: CineStack, slices: SliceMeasures, keyframes: Keyframes, limits: QualityLimits
) -> QualityFinding | None:
    """Whether the stack lies across the long axis; breath holds that end anywhere leave that open."""
    course = course_of_centres(slices, stack.geometry.positions @ stack.geometry.normal, keyframes.end_diastole)
    if course is None:
        return None
    angle, scatter = course
    grade = limits.plane_deg.grade(angle)
    sentence = f"The centres of the left ventricle run {angle:.0f}° off the direction across the slices."
    if grade >= Grade.POOR and scatter > limits.shift_mm.poor:
        grade = Grade.GOOD
        sentence += f" They scatter by {scatter:.1f} mm, so this may be due to shifts and not to the plane."
    elif grade >= Grade.POOR:
        sentence += (
            " The stack is not planned across the long axis, or the breath holds drift: segments, thickness and volumes"
            " are those of oblique slices."
        )
    return QualityFinding(QualityCheck.PLANE, grade, sentence, angle, "deg", limits.plane_deg.poor)


def _gating(stack: CineStack) -> QualityFinding:
    if stack.retrospective:
        return QualityFinding(QualityCheck.GATING, Grade.EXCELLENT, "The phases span the whole cardiac cycle.")
    return QualityFinding(
        QualityCheck.GATING,
        Grade.POOR,
        "The phases do not span the cardiac cycle (prospective gating): late diastole is missing, EDV can be too low.",
    )


def _rr_variation(stack: CineStack, limits: QualityLimits) -> QualityFinding | None:
    known = stack.rr_intervals[np.isfinite(stack.rr_intervals)]
    if len(known) < 2:
        return None
    middle = float(np.median(known))
    percent = 100.0 * float(np.abs(known / middle - 1.0).max())
    grade = limits.rr_variation_percent.grade(percent)
    sentence = f"RR intervals of the slices within {percent:.0f} % of {middle:.0f} ms."
    if grade >= Grade.POOR:
        sentence = (
            f"The RR interval differs by up to {percent:.0f} % between slices (median {middle:.0f} ms): "
            "slices show different beats."
        )
    return QualityFinding(QualityCheck.RR_VARIATION, grade, sentence, percent, "%", limits.rr_variation_percent.poor)


def _base(slices: SliceMeasures, keyframes: Keyframes, limits: QualityLimits) -> QualityFinding:
    """The base is covered when the end slice is above the ventricle at ED, or at least at ES."""
    end = int(slices.from_base()[0])
    if not slices.counted[keyframes.end_diastole, end]:
        return QualityFinding(QualityCheck.BASE_COVERAGE, Grade.EXCELLENT, "The stack reaches above the base.", 0.0)
    at_es = slices.counted[keyframes.end_systole, end]
    # A slice that the valve plane alone counts has no ring of its own.
    ring = float(np.nan_to_num(slices.ring[keyframes.end_systole, end])) if at_es else 0.0
    grade = max(limits.base_ring_at_es.grade(ring), Grade.GOOD)
    if grade >= Grade.POOR:
        per_slice = slices.lv_mm2[keyframes.end_diastole, end] * slices.intervals_mm[end] / 1000.0
        sentence = (
            f"The base is not covered: the most basal slice ({end + 1}) is inside the left ventricle even at end "
            f"systole. Volumes are too small, by about {per_slice:.0f} ml for each missing slice at end diastole."
        )
    else:
        sentence = (
            f"The most basal slice ({end + 1}) shows the left ventricle at end diastole: the base is just covered."
        )
    return QualityFinding(QualityCheck.BASE_COVERAGE, grade, sentence, ring, "1", limits.base_ring_at_es.poor, (end,))


def _apex(slices: SliceMeasures, keyframes: Keyframes, limits: QualityLimits) -> QualityFinding:
    end = int(slices.from_base()[-1])
    areas = slices.lv_mm2[keyframes.end_diastole]
    fraction = float(areas[end] / areas.max())
    grade = limits.apex_area_fraction.grade(fraction)
    if grade >= Grade.POOR:
        sentence = (
            f"The apex is not covered: the cavity in the most apical slice ({end + 1}) is still "
            f"{100 * fraction:.0f} % of the largest. Volumes and mass are too small."
        )
    elif fraction > 0:
        sentence = f"The stack ends at the apex (cavity in slice {end + 1}: {100 * fraction:.0f} % of the largest)."
    else:
        sentence = "The stack reaches beyond the apex."
    return QualityFinding(
        QualityCheck.APEX_COVERAGE, grade, sentence, fraction, "1", limits.apex_area_fraction.poor, (end,)
    )


def shift_residuals_mm(slices: SliceMeasures, phase: int) -> NDArray[np.float64]:
    """Distance of the centre of each slice from the smooth long axis, mm, (S,); NaN where there is no clear ring.

    The axis is a parabola through the centroids of cavity and wall, fitted with least absolute deviations (iterated
    weights), so that one shifted slice does not bend it. NaN everywhere with fewer than five slices.
    """
    depth = np.cumsum(slices.intervals_mm)
    clear = slices.counted[phase] & (slices.ring[phase] >= CLEAR_RING)
    residuals = np.full(len(depth), np.nan)
    if clear.sum() < 5:
        return residuals
    position = (depth[clear] - depth[clear].mean()) / np.ptp(depth[clear])
    residuals[clear] = _least_absolute(position, slices.centre_mm[phase, clear], 3)[1]
    return residuals


def _least_absolute(
    position: NDArray[np.float64], centres: NDArray[np.float64], terms: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Polynomial of N centres, (N, 2), over their position, with least absolute deviations by iterated weights.

    Returns
    -------
    (terms, 2) float64
        Coefficients, the highest power first.
    (N,) float64
        Distance of each centre.
    """
    powers = np.vander(position, terms)
    weights = np.ones(len(position))
    for _ in range(50):
        solution, *_ = np.linalg.lstsq(powers * weights[:, None], centres * weights[:, None], rcond=None)
        distance = np.linalg.norm(centres - powers @ solution, axis=1)
        weights = 1.0 / np.sqrt(np.maximum(distance, 0.05))
    return np.asarray(solution), np.asarray(distance)


def _shift(slices: SliceMeasures, keyframes: Keyframes, limits: QualityLimits) -> QualityFinding | None:
    residuals = shift_residuals_mm(slices, keyframes.end_diastole)
    if np.isnan(residuals).all():
        return None
    mean, largest = float(np.nanmean(residuals)), float(np.nanmax(residuals))
    grade = limits.shift_mm.grade(mean)
    shifted = tuple(int(i) for i in np.flatnonzero(residuals > 2 * limits.shift_mm.poor))
    if shifted and grade < Grade.POOR:
        grade = Grade.GOOD
    sentence = f"Slices lie on average {mean:.1f} mm from a smooth long axis (at most {largest:.1f} mm)."
    if shifted:
        numbers = ", ".join(str(i + 1) for i in shifted)
        sentence += f" Slice {numbers} is shifted, as by a different breath hold."
    return QualityFinding(QualityCheck.SLICE_SHIFT, grade, sentence, mean, "mm", limits.shift_mm.poor, shifted)


def _contrast(
    stack: CineStack, slices: SliceMeasures, keyframes: Keyframes, limits: QualityLimits
) -> QualityFinding | None:
    """Difference of the medians of blood and wall over the range of the heart, at ED."""
    pixels, labels = stack.pixels[keyframes.end_diastole], slices.labels[keyframes.end_diastole]
    blood, wall = pixels[labels == Label.LV], pixels[labels == Label.MYO]
    if not len(blood) or not len(wall):
        return None
    low, high = np.percentile(pixels[labels > 0], [2, 98])
    contrast = float((np.median(blood) - np.median(wall)) / (high - low)) if high > low else 0.0
    grade = limits.contrast.grade(contrast)
    if grade >= Grade.POOR:
        sentence = (
            f"Blood is hardly brighter than the wall ({100 * contrast:.0f} % of the range): contours are uncertain."
        )
    else:
        sentence = f"Blood is {100 * contrast:.0f} % of the range brighter than the wall."
    return QualityFinding(QualityCheck.CONTRAST, grade, sentence, contrast, "1", limits.contrast.poor)
