"""Checks of what was measured: segmentation, curves, volumes, mass."""

from __future__ import annotations

import numpy as np
from scipy.signal import find_peaks

from pipelines.cine.stack import CineStack
from pipelines.function.basal import PLANE_ERROR_MM, basal_alternatives
from pipelines.function.curves import SMOOTHED_FROM_PHASES
from pipelines.function.findings import Chamber, VentricularFunction
from pipelines.function.slices import SliceMeasures
from pipelines.quality.findings import Grade, QualityCheck, QualityFinding
from pipelines.quality.limits import QualityLimits
from pipelines.segmentation.confidence import LIKELY_WRONG
from pipelines.segmentation.labels import CineSegmentation, Label

__all__ = ["measurement_findings"]

MINIMUM_PROMINENCE = 0.25
"""A second dip of the volume curve counts when it is this deep, as a fraction of the stroke volume."""


def measurement_findings(
    stack: CineStack,
    segmentation: CineSegmentation,
    slices: SliceMeasures,
    function: VentricularFunction,
    limits: QualityLimits,
) -> tuple[QualityFinding, ...]:
    """Every check of the measurement that can be made."""
    findings = (
        _contiguity(slices, function),
        _agreement(segmentation, slices, function, limits),
        _crop(segmentation, function),
        _ring(slices, function, limits),
        _right_ventricle(slices, function, limits),
        _smoothness(function, limits),
        _shape(stack, function, limits),
        _contraction(function, limits),
        _stroke_volumes(function, limits),
        _mass_constancy(function, limits),
        _basal_stability(slices, function, limits),
        _volumes(function, limits),
        _mass(function, limits),
    )
    return tuple(finding for finding in findings if finding is not None)


def _numbers(indices: tuple[int, ...]) -> str:
    return ", ".join(str(index + 1) for index in indices)


def _contiguity(slices: SliceMeasures, function: VentricularFunction) -> QualityFinding:
    first, last = sorted((function.base_slice, function.apex_slice))
    inside = slices.lv_mm2[function.keyframes.end_diastole, first : last + 1]
    holes = tuple(int(first + i) for i in np.flatnonzero(inside == 0))
    if holes:
        sentence = (
            f"No cavity was found in slice {_numbers(holes)}, between slices with cavity: volume is missing there."
        )
        return QualityFinding(QualityCheck.CONTIGUITY, Grade.POOR, sentence, len(holes), "{slices}", 0.0, holes)
    return QualityFinding(
        QualityCheck.CONTIGUITY, Grade.EXCELLENT, "The left ventricle is found in every slice from base to apex.", 0.0
    )


def _agreement(
    segmentation: CineSegmentation, slices: SliceMeasures, function: VentricularFunction, limits: QualityLimits
) -> QualityFinding:
    """Mean agreement over the slices with LV at ED and ES; the apical and basal ones are the hard ones."""
    phases = [function.keyframes.end_diastole, function.keyframes.end_systole]
    used = slices.counted[phases]
    values = segmentation.agreement[phases]
    mean = float(values[used].mean())
    doubtful = values < limits.agreement.poor
    if segmentation.confidence is not None:
        doubtful |= segmentation.confidence[phases] < LIKELY_WRONG
    low = tuple(int(i) for i in np.flatnonzero((used & doubtful).any(axis=0)))
    grade = limits.agreement.grade(mean)
    sentence = f"Repeated segmentations agree with a mean Dice of {mean:.2f} at end diastole and end systole."
    if low:
        sentence += f" They are least certain in slice {_numbers(low)}: look at the contours there."
        grade = max(grade, Grade.GOOD)
    return QualityFinding(QualityCheck.AGREEMENT, grade, sentence, mean, "1", limits.agreement.poor, low)


def _crop(segmentation: CineSegmentation, function: VentricularFunction) -> QualityFinding:
    row, end_row, column, end_column = segmentation.crop
    phases = [function.keyframes.end_diastole, function.keyframes.end_systole]
    inside = segmentation.labels[phases, :, row:end_row, column:end_column] != Label.BACKGROUND
    edges = inside[:, :, [0, -1], :].any(axis=(0, 2, 3)) | inside[:, :, :, [0, -1]].any(axis=(0, 2, 3))
    touching = tuple(int(i) for i in np.flatnonzero(edges))
    if touching:
        sentence = (
            f"A ventricle touches the border of the analysed region in slice {_numbers(touching)}: it is cut off."
        )
        return QualityFinding(QualityCheck.CROP, Grade.POOR, sentence, len(touching), "{slices}", 0.0, touching)
    return QualityFinding(QualityCheck.CROP, Grade.EXCELLENT, "Both ventricles lie inside the analysed region.", 0.0)


def _ring(slices: SliceMeasures, function: VentricularFunction, limits: QualityLimits) -> QualityFinding | None:
    """Mid slices are ringed by myocardium; the two basal and the most apical slice may be open."""
    order = [i for i in slices.from_base() if function.counted_slices[function.keyframes.end_diastole, i]]
    middle = order[2:-1]
    if not middle:
        return None
    rings = slices.ring[function.keyframes.end_diastole, middle]
    least = float(rings.min())
    open_ = tuple(sorted(int(i) for i, ring in zip(middle, rings, strict=True) if ring < limits.ring.poor))
    # One open slice is a blemish, most of them open is not a ventricle.
    grade = min(limits.ring.grade(least), Grade.POOR)
    if float(np.median(rings)) < limits.ring.unusable:
        grade = Grade.UNUSABLE
    sentence = "The myocardium is a closed ring in the middle slices."
    if open_:
        sentence = f"The myocardium is not a closed ring in slice {_numbers(open_)} (least {100 * least:.0f} %)."
    return QualityFinding(QualityCheck.MYOCARDIAL_RING, grade, sentence, least, "1", limits.ring.poor, open_)


def _right_ventricle(slices: SliceMeasures, function: VentricularFunction, limits: QualityLimits) -> QualityFinding:
    if function.rv is None:
        return QualityFinding(
            QualityCheck.RIGHT_VENTRICLE, Grade.POOR, "The right ventricle was not found: it is not reported.", 0.0
        )
    phase = function.keyframes.end_diastole
    counted = function.counted_slices[phase]
    fraction = float((slices.rv_mm2[phase][counted] > 0).mean())
    grade = limits.rv_slices_fraction.grade(fraction)
    sentence = f"The right ventricle is found in {100 * fraction:.0f} % of the slices with left ventricle."
    return QualityFinding(QualityCheck.RIGHT_VENTRICLE, grade, sentence, fraction, "1", limits.rv_slices_fraction.poor)


def _smoothness(function: VentricularFunction, limits: QualityLimits) -> QualityFinding | None:
    curve, stroke = function.lv.curve, function.lv.stroke_volume_ml
    if len(curve.ml) < SMOOTHED_FROM_PHASES or stroke <= 0:
        return None
    scatter = float(np.sqrt(np.mean((curve.ml - curve.smoothed_ml) ** 2)))
    percent = 100.0 * scatter / stroke
    grade = limits.roughness_percent.grade(percent)
    sentence = f"The LV volume curve scatters by {scatter:.1f} ml ({percent:.0f} % of the stroke volume)."
    if grade >= Grade.POOR:
        sentence = (
            f"The LV volume curve is rough: it scatters by {scatter:.1f} ml, {percent:.0f} % of the stroke volume."
        )
    return QualityFinding(QualityCheck.CURVE_SMOOTHNESS, grade, sentence, percent, "%", limits.roughness_percent.poor)


def _shape(stack: CineStack, function: VentricularFunction, limits: QualityLimits) -> QualityFinding | None:
    curve, stroke = function.lv.curve, function.lv.stroke_volume_ml
    if len(curve.ml) < SMOOTHED_FROM_PHASES or stroke <= 0:
        return None
    start = int(np.argmax(curve.smoothed_ml)) if stack.retrospective else 0
    once = np.roll(curve.smoothed_ml, -start)
    # The maximum stands at both ends, so every dip between them is whole.
    cycle = np.append(once, once[0]) if stack.retrospective else np.append(once, once.max())
    dips, _ = find_peaks(-cycle, prominence=MINIMUM_PROMINENCE * stroke)
    grade = limits.minima.grade(len(dips))
    sentence = "The LV volume curve has one systole."
    if grade > Grade.EXCELLENT:
        sentence = f"The LV volume curve has {len(dips)} minima: the phases may be mixed up, or the gating has failed."
    return QualityFinding(
        QualityCheck.CURVE_SHAPE, min(grade, Grade.POOR), sentence, len(dips), "{minima}", limits.minima.poor
    )


def _contraction(function: VentricularFunction, limits: QualityLimits) -> QualityFinding:
    value = function.lv.ejection_fraction_percent
    low, high = limits.ejection_fraction_low_percent, limits.ejection_fraction_high_percent
    grade, limit = max((low.grade(value), low.poor), (high.grade(value), high.poor))
    sentence = f"LV ejection fraction of {value:.0f} % is plausible."
    if grade >= Grade.POOR and limit == low.poor:
        sentence = f"The left ventricle hardly contracts (ejection fraction {value:.0f} %): are all phases of one beat?"
    elif grade >= Grade.POOR:
        sentence = f"LV ejection fraction of {value:.0f} % is implausibly high: look at the end-systolic contours."
    return QualityFinding(QualityCheck.CONTRACTION, grade, sentence, value, "%", limit)


def _stroke_volumes(function: VentricularFunction, limits: QualityLimits) -> QualityFinding | None:
    if function.rv is None:
        return None
    left, right = function.lv.stroke_volume_ml, function.rv.stroke_volume_ml
    if left + right <= 0:
        return None
    percent = 100.0 * abs(left - right) / ((left + right) / 2.0)
    grade = limits.stroke_volume_mismatch_percent.grade(percent)
    sentence = f"Stroke volumes: LV {left:.0f} ml, RV {right:.0f} ml, {percent:.0f} % apart."
    if grade >= Grade.POOR:
        sentence += " Regurgitation or a shunt would explain it; otherwise look at the basal contours of the RV."
    return QualityFinding(
        QualityCheck.STROKE_VOLUMES, grade, sentence, percent, "%", limits.stroke_volume_mismatch_percent.poor
    )


def _mass_constancy(function: VentricularFunction, limits: QualityLimits) -> QualityFinding | None:
    """Over the whole cycle: its middle 90 %, so that one phase does not decide, or all phases where they are few."""
    mass = function.lv_mass_curve_g
    if mass.mean() <= 0:
        return None
    low, high = np.percentile(mass, [5, 95]) if len(mass) >= SMOOTHED_FROM_PHASES else (mass.min(), mass.max())
    percent = 100.0 * float((high - low) / mass.mean())
    grade = limits.mass_change_percent.grade(percent)
    sentence = f"Myocardial mass is {low:.0f} to {high:.0f} g over the cycle ({percent:.0f} % apart)."
    if grade >= Grade.POOR:
        sentence += " Muscle does not change its mass: contours of some phases are wrong."
    return QualityFinding(QualityCheck.MASS_CONSTANCY, grade, sentence, percent, "%", limits.mass_change_percent.poor)


def _basal_stability(slices: SliceMeasures, function: VentricularFunction, limits: QualityLimits) -> QualityFinding:
    """How much ejection fraction hangs on which slice is taken to be the basal one, or on the place of the plane."""
    spread = {
        chamber: basal_alternatives(slices, function.keyframes, chamber).ejection_fraction_spread
        for chamber in ((Chamber.LV,) if function.rv is None else (Chamber.LV, Chamber.RV))
    }
    points = spread[Chamber.LV]
    said = {chamber: f"{value:.0f} points ({chamber})" for chamber, value in spread.items()}
    sentence = f"With another choice of the basal slice, ejection fraction moves by up to {' and '.join(said.values())}"
    if Chamber.LV in slices.cut:
        plane = f"With the mitral plane {PLANE_ERROR_MM:.0f} mm higher or lower"
        right = f", with another basal slice of the RV by up to {said[Chamber.RV]}" if Chamber.RV in said else ""
        sentence = f"{plane}, ejection fraction moves by up to {said[Chamber.LV]}{right}"
    grade = limits.basal_spread_points.grade(points)
    return QualityFinding(
        QualityCheck.BASAL_STABILITY, grade, sentence + ".", points, "{points}", limits.basal_spread_points.poor
    )


def _volumes(function: VentricularFunction, limits: QualityLimits) -> QualityFinding:
    value = function.lv.edv_ml
    grade, limit = max(
        (limits.edv_low_ml.grade(value), limits.edv_low_ml.poor),
        (limits.edv_high_ml.grade(value), limits.edv_high_ml.poor),
    )
    sentence = f"LV end-diastolic volume of {value:.0f} ml is plausible."
    if grade >= Grade.POOR:
        sentence = f"LV end-diastolic volume of {value:.0f} ml is hardly possible in an adult: look at the contours."
    return QualityFinding(QualityCheck.PLAUSIBLE_VOLUMES, grade, sentence, value, "ml", limit)


def _mass(function: VentricularFunction, limits: QualityLimits) -> QualityFinding:
    value = function.lv_mass_g
    grade, limit = max(
        (limits.mass_low_g.grade(value), limits.mass_low_g.poor),
        (limits.mass_high_g.grade(value), limits.mass_high_g.poor),
    )
    sentence = f"LV mass of {value:.0f} g is plausible."
    if grade >= Grade.POOR:
        sentence = f"LV mass of {value:.0f} g is hardly possible in an adult: look at the contours."
    return QualityFinding(QualityCheck.PLAUSIBLE_MASS, grade, sentence, value, "g", limit)
