"""Measurement groups of acquired late enhancement in the structured report: TID 1501 and TID 1411 (PS3.16)."""

from __future__ import annotations

import numpy as np
from highdicom.sr import FindingSite, Measurement, MeasurementProperties, RelationshipTypeValues
from pydicom.sr.coding import Code

from dicom_node.results.codes import AHA_SEGMENTS, LV_MYOCARDIUM, private, ucum
from dicom_node.results.content import MeasurementGroup, group, text_item
from dicom_node.results.header import ResultContext
from dicom_node.results.objects import ExpectedReport
from dicom_node.results.parts import ReportPart, frames_of
from dicom_node.results.report import significant
from dicom_node.results.roles import ResultRole
from dicom_node.results.segment_volume import segment_volume
from dicom_node.results.segmentation import EncodedSegmentation
from pipelines.cine.stack import LateEnhancementStack
from pipelines.late_enhancement.findings import Extent, ExtentMethod, LateEnhancement

__all__ = ["METHOD_WORDS", "SEGMENTATION", "enhancement_part"]

SEGMENTATION = ResultRole("late-enhancement-segmentation", 3, "AI segmentation of acquired LGE - RESEARCH")

_MASS = Code("18087-7", "LN", "Left Ventricle Mass")

METHOD_WORDS = {
    ExtentMethod.NETWORK: "labels of the network",
    ExtentMethod.FWHM: "full width at half maximum, above remote muscle",
    ExtentMethod.SD2: "2 standard deviations above remote muscle",
    ExtentMethod.SD5: "5 standard deviations above remote muscle",
    ExtentMethod.SD6: "6 standard deviations above remote muscle",
}


def enhancement_part(
    context: ResultContext, found: LateEnhancement, stack: LateEnhancementStack, seg: EncodedSegmentation
) -> ReportPart:
    """What late enhancement adds to the report.

    Parameters
    ----------
    seg
        As the destination gets it.
    """
    volumes = [
        segment_volume(context, SEGMENTATION, seg, structure, found.geometry, f"{structure.name} LGE")
        for structure in seg.segments
    ]
    return ReportPart(
        groups=(_whole(context, found), *volumes, *_segments(context, found)),
        evidence=(seg.source, *stack.sources),
        looked_at=frames_of([stack]),
        expected=(ExpectedReport(found.geometry),),
    )


def _whole(context: ResultContext, found: LateEnhancement) -> MeasurementGroup:
    measurements = [_extent(one) for one in found.extents]
    measurements += [
        _number(private("LGE_MASS"), one.grams, "g", METHOD_WORDS[one.method])
        for one in found.extents
        if one.method in (ExtentMethod.NETWORK, ExtentMethod.FWHM)
    ]
    measurements += [
        _number(private("MVO_EXTENT"), found.obstruction_percent, "%", METHOD_WORDS[ExtentMethod.NETWORK]),
        _number(_MASS, found.mass_g, "g", "wall on the late-enhancement slices, papillary muscles excluded"),
        _probability(private("LGE_PROB"), found.infarct.probability),
        _probability(private("MVO_PROB"), found.obstruction.probability),
    ]
    if found.alignment is not None:
        furthest = float(np.nanmax(np.linalg.norm(found.alignment.shift_mm, axis=1)))
        method = "in the plane, from the ventricle on both and the edges of the images; the largest of the slices"
        measurements.append(_number(private("LGE_SHIFT"), furthest, "mm", method))
    said = [*found.cautions, *found.notes]
    if found.without_segments is not None:
        said.append(found.without_segments)
    return group(
        context,
        "Late enhancement",
        finding_type=private("LGE"),
        finding_sites=[FindingSite(LV_MYOCARDIUM)],
        measurements=measurements,
        items=[text_item(private("NOTE"), one) for one in said],
    )


def _extent(extent: Extent) -> Measurement:
    properties = None
    if extent.interval is not None:
        # CID 225 gives distances from the value, not bounds.
        properties = MeasurementProperties(
            upper_measurement_uncertainty=significant(max(extent.interval.upper - extent.percent, 0.0)),
            lower_measurement_uncertainty=significant(max(extent.percent - extent.interval.lower, 0.0)),
        )
    name = private("LGE_EXTENT")
    measured = Measurement(name=name, value=significant(extent.percent), unit=ucum("%"), properties=properties)
    return _with_method(measured, METHOD_WORDS[extent.method])


def _number(name: Code, value: float, unit: str, method: str) -> Measurement:
    return _with_method(Measurement(name=name, value=significant(value), unit=ucum(unit)), method)


def _probability(name: Code, value: float) -> Measurement:
    method = "logistic law of the labelled extent, calibrated on patients that the network had not seen"
    return _with_method(Measurement(name=name, value=round(value, 3), unit=ucum("1")), method)


def _with_method(measurement: Measurement, method: str) -> Measurement:
    content = measurement[0]
    item = text_item(private("METHOD"), method, RelationshipTypeValues.HAS_PROPERTIES)
    content.ContentSequence = [*content.get("ContentSequence", []), item]
    return measurement


def _segments(context: ResultContext, found: LateEnhancement) -> list[MeasurementGroup]:
    """One group for each AHA segment that the slices show (CID 3717 as finding site)."""
    return [
        group(
            context,
            f"Late enhancement of AHA segment {one.segment}",
            finding_type=private("LGE"),
            finding_sites=[FindingSite(AHA_SEGMENTS[one.segment - 1])],
            measurements=[
                Measurement(name=private("LGE_EXTENT"), value=round(one.percent, 1) + 0.0, unit=ucum("%")),
                Measurement(
                    name=private("LGE_TRANSMUR"), value=round(one.transmurality_percent, 1) + 0.0, unit=ucum("%")
                ),
            ],
        )
        for one in found.segments
    ]
