"""Measurement groups of motion in the structured report: TID 1501 (PS3.16)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from highdicom.sr import FindingSite, Measurement, MeasurementProperties, RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_node.results.codes import (
    AHA_SEGMENTS,
    CARDIAC_CYCLE_POINT,
    CHAMBER,
    END_DIASTOLE,
    END_SYSTOLE,
    TIME_RELATIVE_TO_R_WAVE,
    private,
    ucum,
)
from dicom_node.results.content import MeasurementGroup, code_content, group, source_image, text_item, with_method
from dicom_node.results.header import ResultContext
from dicom_node.results.motion.keyframes import KEYFRAME_WORDS
from dicom_node.results.parts import ReportPart, frames_of
from dicom_node.results.report import significant
from pipelines.cine.stack import CineStack, View
from pipelines.function.findings import Chamber
from pipelines.motion.findings import CardiacMotion, Component, Keyframe, StrainCurve, ViewKeyframes

__all__ = ["STRAIN", "motion_part"]

STRAIN = {
    Component.LONGITUDINAL: Code("130670", "DCM", "Longitudinal Lagrangian Strain"),
    Component.CIRCUMFERENTIAL: Code("130677", "DCM", "Circumferential Lagrangian Strain"),
    Component.RADIAL: Code("130675", "DCM", "Radial Lagrangian Strain"),
}
_STRAIN_RATE = {
    Component.LONGITUDINAL: Code("130674", "DCM", "Longitudinal Lagrangian Strain Rate"),
    Component.CIRCUMFERENTIAL: Code("130678", "DCM", "Circumferential Lagrangian Strain Rate"),
    Component.RADIAL: Code("130676", "DCM", "Radial Lagrangian Strain Rate"),
}
_DISPERSION = Code("130673", "DCM", "Mechanical Dispersion")
"""CID 12304. The concepts were added for echocardiography, their meanings name no modality."""
_POINT = {
    Keyframe.END_DIASTOLE: END_DIASTOLE,
    Keyframe.MID_SYSTOLE: private("KEY_MS"),
    Keyframe.END_SYSTOLE: END_SYSTOLE,
    Keyframe.PEAK_FLOW: private("KEY_PF"),
    Keyframe.MID_DIASTOLE: private("KEY_MD"),
}


def motion_part(context: ResultContext, found: CardiacMotion, stacks: Mapping[View, CineStack]) -> ReportPart:
    """What motion adds to the report.

    Parameters
    ----------
    stacks : mapping of View to CineStack
        The stack that the keyframes of each view count on.
    """
    key_images = [
        source
        for entry in found.keyframes.views
        for phase in entry.phases.values()
        for source in stacks[entry.view].sources[phase]
    ]
    return ReportPart(
        groups=(
            *(
                _keyframes(context, entry, stacks[entry.view], found.keyframes.method)
                for entry in found.keyframes.views
            ),
            _global(context, found),
            *_segments(context, found),
        ),
        evidence=tuple(key_images),
        looked_at=frames_of(stacks.values()),
    )


def _keyframes(context: ResultContext, entry: ViewKeyframes, stack: CineStack, method: str) -> MeasurementGroup:
    """Times of the keyframes of one view, and the image of each: that of the middle slice."""
    measurements: list[Measurement] = []
    items: list[Dataset] = [text_item(private("METHOD"), method)]
    for keyframe, phase in entry.phases.items():
        time = entry.times_ms[keyframe]
        if np.isfinite(time):
            number = Measurement(name=TIME_RELATIVE_TO_R_WAVE, value=round(float(time), 1), unit=ucum("ms"))
            _modified(number, _POINT[keyframe])
            measurements.append(number)
        said = f"{KEYFRAME_WORDS[keyframe]}: phase {phase + 1} of {stack.phases}"
        items.append(text_item(private("KEY_PHASE"), said))
        items.append(source_image(stack.sources[phase][stack.slices // 2]))
    return group(
        context,
        f"Keyframes {entry.view}",
        finding_type=private("KEYFRAMES"),
        measurements=measurements or None,
        items=items,
    )


def _modified(measurement: Measurement, point: Code) -> None:
    number = measurement[0]
    modifier = code_content(CARDIAC_CYCLE_POINT, point, RelationshipTypeValues.HAS_CONCEPT_MOD)
    number.ContentSequence = [modifier, *number.get("ContentSequence", [])]


def _global(context: ResultContext, found: CardiacMotion) -> MeasurementGroup:
    measurements: list[Measurement] = []
    for curve in found.strain.curves():
        measurements += _of_curve(curve)
    torsion = found.strain.torsion
    if torsion is not None:
        measurements.append(
            Measurement(name=private("TORSION"), value=round(torsion.peak_deg_per_cm, 2), unit=ucum("deg/cm"))
        )
    measurements += [
        Measurement(name=_DISPERSION, value=round(part.dispersion_ms, 1), unit=ucum("ms"))
        for part in found.strain.segments
        if part.component is Component.CIRCUMFERENTIAL and np.isfinite(part.dispersion_ms)
    ]
    measurements.append(
        Measurement(name=private("REG_DISAGREE"), value=round(found.disagreement_mm, 2), unit=ucum("mm"))
    )
    notes = [f"Motion of the muscle through the short-axis slices: {found.strain.through_plane}.", *found.strain.notes]
    return group(
        context,
        "LV strain",
        finding_sites=[FindingSite(CHAMBER[Chamber.LV])],
        measurements=measurements,
        items=[text_item(private("NOTE"), note) for note in notes],
    )


def _of_curve(curve: StrainCurve) -> Iterator[Measurement]:
    upper = significant(max(curve.interval.upper - curve.peak_percent, 0.0))
    lower = significant(max(curve.peak_percent - curve.interval.lower, 0.0))
    yield with_method(
        Measurement(
            name=STRAIN[curve.component],
            value=round(curve.peak_percent, 1),
            unit=ucum("%"),
            properties=MeasurementProperties(upper_measurement_uncertainty=upper, lower_measurement_uncertainty=lower),
        ),
        f"peak of the cycle; {curve.method}",
    )
    at_end_systole = Measurement(
        name=STRAIN[curve.component], value=round(curve.end_systolic_percent, 1), unit=ucum("%")
    )
    _modified(at_end_systole, END_SYSTOLE)
    yield at_end_systole
    for rate, when in (
        (curve.systolic_rate_per_s, "peak systolic"),
        (curve.early_diastolic_rate_per_s, "peak early diastolic"),
    ):
        if rate is not None:
            number = Measurement(name=_STRAIN_RATE[curve.component], value=round(rate, 2), unit=ucum("/s"))
            yield with_method(number, when)


def _segments(context: ResultContext, found: CardiacMotion) -> Iterator[MeasurementGroup]:
    """One group for each AHA segment that was measured (CID 3717 as finding site)."""
    for index in range(16):
        measurements = []
        for part in found.strain.segments:
            peak = part.peak_percent[index]
            if not np.isfinite(peak):
                continue
            measurements.append(Measurement(name=STRAIN[part.component], value=round(float(peak), 1), unit=ucum("%")))
            if part.component is Component.CIRCUMFERENTIAL:
                late = part.post_systolic_index_percent[index]
                measurements.append(Measurement(name=private("PSI"), value=round(float(late), 1), unit=ucum("%")))
        if measurements:
            yield group(
                context,
                f"Strain of AHA segment {index + 1}",
                finding_sites=[FindingSite(AHA_SEGMENTS[index])],
                measurements=measurements,
            )
