"""Measurement group of one segment of a SEG: its volume as drawn, with the reference to the segment (TID 1411)."""

from __future__ import annotations

import numpy as np
from highdicom.sr import (
    FindingSite,
    Measurement,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceImageForSegmentation,
    TimePointContext,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage

from dicom_node.results.codes import (
    ANATOMICAL_STRUCTURE,
    CARDIAC_CYCLE_POINT,
    VOLUME,
    SegmentCodes,
    private,
    ucum,
)
from dicom_node.results.content import MeasurementGroup, algorithm, code_content, text_item
from dicom_node.results.header import ResultContext
from dicom_node.results.report import significant
from dicom_node.results.roles import ResultRole
from dicom_node.results.segmentation import EncodedSegmentation, tracking_uid
from pipelines.cine.stack import StackGeometry

__all__ = ["segment_volume"]

_METHOD = "area of the segment × slice interval, summed over all slices on which it is drawn"


def segment_volume(
    context: ResultContext,
    role: ResultRole,
    seg: EncodedSegmentation,
    structure: SegmentCodes,
    geometry: StackGeometry,
    name: str,
    *,
    point: Code | None = None,
) -> MeasurementGroup:
    """Encode the volume of one segment.

    Parameters
    ----------
    role
        Of the SEG.
    structure
        One of ``seg.segments``.
    geometry
        Of the stack that the SEG lies on.
    name
        Tracking Identifier, shared with the segment.
    point
        Point of the cardiac cycle, where the segment belongs to one.
    """
    number = seg.segments.index(structure) + 1
    area = geometry.pixel_spacing[0] * geometry.pixel_spacing[1]
    voxels = np.count_nonzero(seg.labels == structure.label, axis=(1, 2))
    millilitres = float(voxels @ geometry.slice_intervals() * area / 1000)
    volume = Measurement(name=VOLUME, value=significant(millilitres), unit=ucum("ml"))
    content = volume[0]
    method = text_item(private("METHOD"), _METHOD, RelationshipTypeValues.HAS_PROPERTIES)
    content.ContentSequence = [*content.get("ContentSequence", []), method]
    if point is not None:
        modifier = code_content(CARDIAC_CYCLE_POINT, point, RelationshipTypeValues.HAS_CONCEPT_MOD)
        content.ContentSequence = [modifier, *content.ContentSequence]
    images = [
        SourceImageForSegmentation(
            referenced_sop_class_uid=source.sop_class_uid,
            referenced_sop_instance_uid=source.sop_instance_uid,
            referenced_frame_numbers=None if source.frame_number is None else [source.frame_number],
        )
        for source in seg.references
    ]
    altered = structure.category != ANATOMICAL_STRUCTURE
    site = structure.region if altered else structure.property_type
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=tracking_uid(context, role, structure), identifier=name),
        referenced_segment=ReferencedSegment(
            sop_class_uid=SegmentationStorage,
            sop_instance_uid=str(seg.dataset.SOPInstanceUID),
            segment_number=number,
            source_images=images,
        ),
        algorithm_id=algorithm(context),
        finding_type=structure.property_type,
        finding_sites=[FindingSite(site)],
        time_point_context=None if point is None else TimePointContext(time_point=point.meaning),
        measurements=[volume],
    )
