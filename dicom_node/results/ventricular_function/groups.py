"""Measurement groups of ventricular function in the structured report: TID 1411 and TID 1501 (PS3.16)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from highdicom.sr import (
    FindingSite,
    ImageContentItem,
    Measurement,
    MeasurementProperties,
    NormalRangeProperties,
    QualitativeEvaluation,
    RelationshipTypeValues,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID

from dicom_node.results.codes import (
    AHA_SEGMENTS,
    BSA_EQUATION,
    CARDIAC_CYCLE_POINT,
    CHAMBER,
    COMMENT,
    END_DIASTOLE,
    END_SYSTOLE,
    PAPILLARIES,
    PAPILLARIES_EXCLUDED,
    PAPILLARIES_INCLUDED,
    QUANTITY,
    RANGE_LOWER,
    RANGE_UPPER,
    THICKENING,
    TIME_RELATIVE_TO_R_WAVE,
    WALL_THICKNESS,
    private,
    ucum,
)
from dicom_node.results.content import (
    MeasurementGroup,
    code_content,
    contain,
    group,
    number_content,
    text_item,
)
from dicom_node.results.header import ResultContext
from dicom_node.results.objects import ExpectedReport
from dicom_node.results.parts import ReportPart, frames_of
from dicom_node.results.report import container, significant
from dicom_node.results.roles import ResultRole
from dicom_node.results.segment_volume import segment_volume
from dicom_node.results.segmentation import EncodedSegmentation
from pipelines.cine.stack import CineStack, CineStudy
from pipelines.function.findings import Chamber, Quantity, SegmentalWall, VentricularFunction
from pipelines.function.findings import Measurement as Number
from pipelines.function.normals import ReferenceInterval
from pipelines.function.slices import SliceMeasures
from pipelines.quality.findings import QualityAssessment

__all__ = ["KEY_PHASE", "SEGMENTATION", "ReportContent", "function_part", "range_description"]


KEY_PHASE = {
    "ED": ResultRole("key-phase-ed", 1, "AI key phase ED - derived - RESEARCH"),
    "ES": ResultRole("key-phase-es", 2, "AI key phase ES - derived - RESEARCH"),
}
SEGMENTATION = {
    "ED": ResultRole("segmentation-ed", 3, "AI segmentation LV MYO RV, ED - RESEARCH"),
    "ES": ResultRole("segmentation-es", 4, "AI segmentation LV MYO RV, ES - RESEARCH"),
}

_SOURCE = Code("260753009", "SCT", "Source")
_POSITION = (
    codes.DCM.ImagePositionPatientX,
    codes.DCM.ImagePositionPatientY,
    codes.DCM.ImagePositionPatientZ,
)
_ROW_DIRECTION = (
    codes.DCM.ImageOrientationPatientRowX,
    codes.DCM.ImageOrientationPatientRowY,
    codes.DCM.ImageOrientationPatientRowZ,
)
_COLUMN_DIRECTION = (
    codes.DCM.ImageOrientationPatientColumnX,
    codes.DCM.ImageOrientationPatientColumnY,
    codes.DCM.ImageOrientationPatientColumnZ,
)


@dataclass(frozen=True, slots=True, eq=False)
class ReportContent:
    """What a report says, and on what images."""

    study: CineStudy
    stack: CineStack
    slices: SliceMeasures
    """Its ``reported`` labels are what is measured, drawn and sent."""
    function: VentricularFunction
    quality: QualityAssessment
    ranges: Mapping[Quantity, ReferenceInterval]

    @property
    def stacks(self) -> tuple[CineStack, ...]:
        """What the numbers come from: the short axis, and the long-axis views that say where the ventricles end."""
        return (self.stack, *self.slices.base_stacks)


def range_description(normal: ReferenceInterval) -> str:
    """Whom a reference interval holds for, and whether the patient is one of them."""
    caution = "; the patient is outside this age range" if normal.age_fits is False else ""
    return f"{normal.population}; {normal.definition}{caution}"


def function_part(
    context: ResultContext, content: ReportContent, segmentations: Mapping[str, EncodedSegmentation]
) -> ReportPart:
    """What ventricular function adds to the report.

    Parameters
    ----------
    segmentations
        SEG by phase, ``ED`` and ``ES``, as the destination gets them.
    """
    made = list(segmentations.values())
    return ReportPart(
        groups=(
            _patient(context, content.function),
            *(_chamber(context, content, chamber) for chamber in _chambers(content.function)),
            *(
                segment_volume(
                    context,
                    SEGMENTATION[when],
                    seg,
                    structure,
                    content.stack.geometry,
                    f"{structure.name} {when}",
                    point=END_DIASTOLE if when == "ED" else END_SYSTOLE,
                )
                for when, seg in segmentations.items()
                for structure in seg.segments
            ),
            *(_segments(context, content.function.wall) if content.function.wall is not None else ()),
        ),
        library=(_library(content.stack, made),),
        evidence=(*(seg.source for seg in made), *(source for seg in made for source in seg.references)),
        looked_at=frames_of(content.stacks),
        expected=(ExpectedReport(content.stack.geometry),),
    )


def _library(stack: CineStack, segmentations: Iterable[EncodedSegmentation]) -> Dataset:
    """TID 1602: what all images share once, for each image only its position, so that it stays small."""
    geometry = stack.geometry
    rows, columns = stack.pixels.shape[2:]
    numbers = [
        (codes.DCM.PixelDataRows, rows, "{pixels}"),
        (codes.DCM.PixelDataColumns, columns, "{pixels}"),
        (codes.DCM.HorizontalPixelSpacing, geometry.pixel_spacing[1], "mm"),
        (codes.DCM.VerticalPixelSpacing, geometry.pixel_spacing[0], "mm"),
        *([(codes.DCM.SliceThickness, geometry.slice_thickness, "mm")] if geometry.thickness_stated else []),
        *zip(_ROW_DIRECTION, map(float, geometry.row_direction), ["{-1:1}"] * 3, strict=True),
        *zip(_COLUMN_DIRECTION, map(float, geometry.column_direction), ["{-1:1}"] * 3, strict=True),
    ]
    context = RelationshipTypeValues.HAS_ACQ_CONTEXT
    # dcmtk, and dcmqi with it, refuses the whole report for an invalid UID in a UIDREF item; the images have it anyway.
    frame_of_reference = UID(stack.frame_of_reference_uid)
    group_items = [
        code_content(codes.DCM.Modality, codes.cid29.MagneticResonance, context),
        *(
            [UIDRefContentItem(codes.DCM.FrameOfReferenceUID, frame_of_reference, context)]
            if frame_of_reference.is_valid
            else []
        ),
        *(number_content(name, value, ucum(unit), context) for name, value, unit in numbers),
    ]
    seen = set()
    for seg in segmentations:
        for index, source in enumerate(seg.references):
            if (source.sop_instance_uid, source.frame_number) in seen:
                continue
            seen.add((source.sop_instance_uid, source.frame_number))
            image = ImageContentItem(
                name=_SOURCE,
                referenced_sop_class_uid=source.sop_class_uid,
                referenced_sop_instance_uid=source.sop_instance_uid,
                referenced_frame_numbers=None if source.frame_number is None else [source.frame_number],
                relationship_type=RelationshipTypeValues.CONTAINS,
            )
            position = [
                number_content(name, float(value), ucum("mm"), context)
                for name, value in zip(_POSITION, geometry.positions[index], strict=True)
            ]
            contain(image, position)
            group_items.append(image)
    return container(codes.DCM.ImageLibraryGroup, group_items)


def _chambers(function: VentricularFunction) -> list[Chamber]:
    return [Chamber.LV] if function.rv is None else [Chamber.LV, Chamber.RV]


def _number(content: ReportContent, number: Number) -> Measurement:
    unit = ucum(number.quantity.unit)
    value = _reported(content.function, number)
    above = below = None
    if number.interval is not None:
        # CID 225 gives distances from the value, not bounds.
        above = significant(max(number.interval.upper - number.value, 0.0))
        below = significant(max(number.value - number.interval.lower, 0.0))
    normal = content.ranges.get(number.quantity)
    properties = None
    if normal is not None or number.interval is not None:
        properties = MeasurementProperties(
            normal_range_properties=None if normal is None else _range(normal, unit),
            upper_measurement_uncertainty=above,
            lower_measurement_uncertainty=below,
        )
    measurement = Measurement(name=QUANTITY[number.quantity], value=value, unit=unit, properties=properties)
    _add(measurement, text_item(private("METHOD"), number.method, RelationshipTypeValues.HAS_PROPERTIES))
    return measurement


def _reported(function: VentricularFunction, number: Number) -> float:
    """The value in the report; a stroke volume is the difference of the volumes that stand beside it."""
    chamber = {Quantity.LVSV: function.lv, Quantity.RVSV: function.rv}.get(number.quantity)
    if chamber is None:
        return significant(number.value)
    return round(significant(chamber.edv_ml) - significant(chamber.esv_ml), 2)


def _range(normal: ReferenceInterval, unit: Code) -> NormalRangeProperties:
    bound = RelationshipTypeValues.HAS_PROPERTIES
    return NormalRangeProperties(
        values=[
            number_content(RANGE_LOWER, significant(normal.lower), unit, bound),
            number_content(RANGE_UPPER, significant(normal.upper), unit, bound),
        ],
        description=range_description(normal),
        authority=normal.source,
    )


def _add(measurement: Measurement, item: Dataset) -> None:
    number = measurement[0]
    if "ContentSequence" in number:
        number.ContentSequence.append(item)
    else:
        number.ContentSequence = [item]


def _at(measurement: Measurement, point: Code) -> Measurement:
    number = measurement[0]
    modifier = code_content(CARDIAC_CYCLE_POINT, point, RelationshipTypeValues.HAS_CONCEPT_MOD)
    number.ContentSequence = [modifier, *number.get("ContentSequence", [])]
    return measurement


def _patient(context: ResultContext, function: VentricularFunction) -> MeasurementGroup:
    """Heart rate, body surface area and the times of the key phases: what belongs to neither ventricle."""
    measurements = [
        Measurement(name=QUANTITY[number.quantity], value=significant(number.value), unit=ucum(number.quantity.unit))
        for number in function.measurements()
        if number.quantity.chamber is None
    ]
    key = function.keyframes
    for point, milliseconds in ((END_DIASTOLE, key.end_diastole_ms), (END_SYSTOLE, key.end_systole_ms)):
        if np.isfinite(milliseconds):
            time = Measurement(name=TIME_RELATIVE_TO_R_WAVE, value=round(float(milliseconds), 1), unit=ucum("ms"))
            measurements.append(_at(time, point))
    items = [text_item(COMMENT, f"Key phases: {key.method}")]
    if function.bsa_formula is not None:
        equation = BSA_EQUATION[function.bsa_formula]
        items.append(text_item(COMMENT, f"Body surface area: {function.bsa_formula.value}, {equation.meaning}"))
    return group(
        context, "Patient and cardiac cycle", measurements=measurements, finding_type=private("PATIENT"), items=items
    )


def _chamber(context: ResultContext, content: ReportContent, chamber: Chamber) -> MeasurementGroup:
    function = content.function
    measurements = [
        _number(content, number) for number in function.measurements() if number.quantity.chamber is chamber
    ]
    evaluations = []
    if chamber is Chamber.LV:
        included = PAPILLARIES_INCLUDED if function.papillaries_in_cavity else PAPILLARIES_EXCLUDED
        evaluations.append(QualitativeEvaluation(name=PAPILLARIES, value=included))
    notes = [text_item(private("NOTE"), note) for note in function.notes] if chamber is Chamber.LV else []
    return group(
        context,
        f"{chamber.value} function",
        finding_sites=[FindingSite(CHAMBER[chamber])],
        measurements=measurements,
        qualitative_evaluations=evaluations,
        items=notes,
    )


def _segments(context: ResultContext, wall: SegmentalWall) -> list[MeasurementGroup]:
    """One group for each AHA segment that was measured (CID 3717 as finding site)."""
    groups: list[MeasurementGroup] = []
    for index in range(wall.segments):
        rows = (
            (WALL_THICKNESS, wall.ed_thickness_mm[index], "mm", END_DIASTOLE),
            (WALL_THICKNESS, wall.es_thickness_mm[index], "mm", END_SYSTOLE),
            (THICKENING, wall.thickening_percent[index], "%", None),
        )
        measurements = []
        for name, value, unit, point in rows:
            if not np.isfinite(value):
                continue
            measurement = Measurement(name=name, value=round(float(value), 1) + 0.0, unit=ucum(unit))
            measurements.append(measurement if point is None else _at(measurement, point))
        if measurements:
            groups.append(
                group(
                    context,
                    f"AHA segment {index + 1}",
                    finding_sites=[FindingSite(AHA_SEGMENTS[index])],
                    measurements=measurements,
                    items=[text_item(private("METHOD"), wall.method)] if not groups else (),
                )
            )
    return groups
