"""Checks of the short axis by what long-axis views of the same study show."""

from __future__ import annotations

from pipelines.function.findings import VentricularFunction
from pipelines.function.slices import SliceMeasures
from pipelines.long_axis.evidence import LongAxisEvidence
from pipelines.quality.findings import Grade, QualityCheck, QualityFinding
from pipelines.quality.limits import QualityLimits

__all__ = ["long_axis_findings"]


def long_axis_findings(
    slices: SliceMeasures, function: VentricularFunction, limits: QualityLimits
) -> tuple[QualityFinding, ...]:
    """Every check that long-axis views allow; none without them."""
    beside = slices.beside
    if beside is None:
        return ()
    phase = function.keyframes.end_diastole
    findings = (
        _base_reached(beside, phase, limits),
        _timing(beside, limits),
        _shift(beside, limits),
        _volume(beside, function, limits),
    )
    return tuple(finding for finding in findings if finding is not None)


def _base_reached(beside: LongAxisEvidence, phase: int, limits: QualityLimits) -> QualityFinding | None:
    """The mitral plane at end diastole, when it is highest, lies within the stack."""
    if beside.above_stack_mm is None:
        return None
    above = float(beside.above_stack_mm[phase])
    limit = limits.base_above_stack_mm
    grade = limit.grade(above)
    sentence = "The stack of slices reaches beyond the mitral valve at end diastole."
    if above > 0:
        sentence = f"The mitral valve lies {above:.0f} mm above the stack of slices at end diastole."
        if grade > Grade.EXCELLENT:
            sentence += " What is between them is missing from the volumes: the ventricle is larger than reported."
    return QualityFinding(QualityCheck.BASE_REACHED, grade, sentence, above, "mm", limit.poor)


def _timing(beside: LongAxisEvidence, limits: QualityLimits) -> QualityFinding:
    """Every view shows the cycle from the same moment on as the short axis."""
    limit = limits.long_axis_delay_percent
    late = [one for one in beside.acquisitions if one.delay]
    out_of_step = [one.name for one in beside.acquisitions if not one.in_step]
    percent = 100 * max((abs(one.delay) for one in late), default=0.0)
    grade = Grade.POOR if out_of_step else limit.grade(percent)
    sentences = []
    if late:
        moved = " and ".join(f"{one.name} by {abs(one.delay):.0%}" for one in late)
        sentences.append(f"Views begin at another moment of the cycle than the short axis ({moved} of the cycle).")
    if out_of_step:
        sentences.append(f"{' and '.join(out_of_step)} cannot be brought into step with the short axis.")
    if sentences:
        sentences.append("The trigger failed there: look at the gating of the short axis, too.")
    else:
        sentences.append("The long-axis views fill and empty in step with the short axis.")
    return QualityFinding(QualityCheck.LONG_AXIS_TIMING, grade, " ".join(sentences), percent, "%", limit.poor)


def _shift(beside: LongAxisEvidence, limits: QualityLimits) -> QualityFinding | None:
    """Breath holds of the views ended where those of the short axis did."""
    shifts = [(one.name, one.shift_mm) for one in beside.acquisitions if one.shift_mm is not None]
    if not shifts:
        return None
    limit = limits.long_axis_shift_mm
    name, shift = max(shifts, key=lambda one: abs(one[1]))
    grade = limit.grade(abs(shift))
    sentence = f"Long-axis views lie up to {abs(shift):.1f} mm from the short axis, along the long axis ({name})."
    if grade >= Grade.POOR:
        sentence += " Breath holds ended at different heights: the valve plane is moved by that, and may be off."
    return QualityFinding(QualityCheck.LONG_AXIS_SHIFT, grade, sentence, abs(shift), "mm", limit.poor)


def _volume(beside: LongAxisEvidence, function: VentricularFunction, limits: QualityLimits) -> QualityFinding | None:
    """End-diastolic volume of the short axis and by area and length of 2CH and 4CH.

    At end diastole alone: a small, thick-walled ventricle at end systole is no ellipsoid, and was more than 10 % off in
    a third of the phantoms.
    """
    own = function.lv.edv_ml
    if beside.volume_ml is None or own <= 0:
        return None
    volume = float(beside.volume_ml[function.keyframes.end_diastole])
    percent = 100 * abs(volume - own) / own
    limit = limits.long_axis_volume_percent
    grade = limit.grade(percent)
    sentence = f"LV end-diastolic volume: {own:.0f} ml by the short axis, {volume:.0f} ml by 2CH and 4CH."
    if grade >= Grade.POOR:
        sentence += f" They are {percent:.0f} % apart: slices are missing or too many, or a view is foreshortened."
    return QualityFinding(QualityCheck.LONG_AXIS_VOLUME, grade, sentence, percent, "%", limit.poor)
