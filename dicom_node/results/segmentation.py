"""SEG of one key phase: BINARY, uncompressed, one object a series (PS3.3 A.51)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import highdicom
import numpy as np
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, SegmentationStorage

from dicom_node.results.codes import (
    ARTIFICIAL_INTELLIGENCE,
    SEGMENTATION_DERIVATION,
    SEGMENTS,
    SegmentCodes,
    code_item,
)
from dicom_node.results.header import MANUFACTURER, ResultContext, complete, constructor_arguments, series_dataset
from dicom_node.results.keyphase import image_plane, source_image_item
from dicom_node.results.roles import ResultRole, Variant
from dicom_node.results.uids import derive_uid
from pipelines.cine.stack import CineStack, FrameSource

__all__ = ["EncodedSegmentation", "moved_sources", "plain", "refer", "segmentation", "stand_in", "tracking_uid"]

_STAND_IN_STUDY = derive_uid("stand-in", "study")
_STAND_IN_SERIES = derive_uid("stand-in", "series")


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSegmentation:
    """A SEG and what it says.

    Attributes
    ----------
    segments : tuple of SegmentCodes
        Segment number ``i + 1`` is ``segments[i]``.
    labels : (S, R, C) uint8
        The mask that the object must give back when it is decoded: values of ``Label``.
    references : tuple of FrameSource
        The image that each slice refers to.
    """

    dataset: Dataset
    segments: tuple[SegmentCodes, ...]
    labels: NDArray[np.uint8]
    references: tuple[FrameSource, ...]

    @property
    def source(self) -> FrameSource:
        """The object as something that another result refers to."""
        return FrameSource(
            sop_class_uid=str(self.dataset.SOPClassUID),
            sop_instance_uid=str(self.dataset.SOPInstanceUID),
            series_instance_uid=str(self.dataset.SeriesInstanceUID),
            frame_number=None,
            instance_number=1,
            trigger_time_ms=None,
        )


def tracking_uid(context: ResultContext, role: ResultRole, codes: SegmentCodes) -> str:
    """Tracking UID of a segment, shared by the SEG and by the measurement group of the report."""
    return context.identity.uid("tracking", role.value, codes.label.name)


def segmentation(
    context: ResultContext,
    role: ResultRole,
    stack: CineStack,
    labels: NDArray[np.uint8],
    references: Sequence[FrameSource],
    *,
    variant: Variant,
    when: str,
    structures: Sequence[SegmentCodes] = SEGMENTS,
    content_label: str = "VENTRICLES",
    content: str = "Ventricles",
    corrected_by: str | None = None,
) -> EncodedSegmentation:
    """Encode the labels of one phase.

    Parameters
    ----------
    labels : (S, R, C) uint8
        On the grid of the stack.
    references
        The image behind each slice: of the key-phase series, or of the source cine.
    variant
        Whether it leaves out frames without a voxel; some viewers then misplace the rest.
    when
        What the phase is, in a few letters: "ED".
    structures
        What the labels mean; a structure without a voxel is left out.
    content_label, content
        ContentLabel (CS), and the same in words.
    corrected_by
        Person who drew the masks on top of the algorithm's; none where the algorithm did it alone.
    """
    segments = tuple(codes for codes in structures if np.any(labels == codes.label))
    header = series_dataset(
        context,
        role,
        sop_class_uid=SegmentationStorage,
        modality="SEG",
        variant=variant,
    )
    masks = np.stack([labels == codes.label for codes in segments], axis=-1).astype(np.uint8)
    # highdicom wants source images of one series, single-frame, with valid UIDs and dates, and copies what it finds in
    # them. Real sources are none of that always, so it gets stand-ins with the geometry, and the true references and
    # the true header take their place afterwards.
    stand_ins = [stand_in(stack, index) for index in range(stack.slices)]
    dataset: Dataset = Segmentation(
        source_images=stand_ins,
        pixel_array=masks,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(context, role, number, codes, when, corrected=corrected_by is not None)
            for number, codes in enumerate(segments, start=1)
        ],
        **constructor_arguments(header),
        content_label=content_label,
        content_description=f"{content} at {when}, by an algorithm"
        + ("" if corrected_by is None else ", corrected by a person"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=variant.omit_empty_frames,
    )
    dataset.SeriesDescription = header.SeriesDescription
    dataset.FrameOfReferenceUID = stack.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.ContentCreatorName = corrected_by or ""
    for codes, item in zip(segments, dataset.SegmentSequence, strict=True):
        item.RecommendedDisplayCIELabValue = list(codes.cielab)
    organization = context.identity.uid("dimensions", role.value, variant.name)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    # A source image on another pixel grid is where the slice is, but not pixel by pixel.
    _identify_each_frame(dataset)
    refer(dataset, stand_ins, references, moved_sources(stack))
    complete(context, dataset)
    return EncodedSegmentation(plain(dataset), segments, labels, tuple(references))


def _identify_each_frame(dataset: Dataset) -> None:
    """Say in each frame of which segment it is, also where there is but one: few readers look for it elsewhere."""
    (shared,) = dataset.SharedFunctionalGroupsSequence
    if "SegmentIdentificationSequence" in shared:
        element = shared["SegmentIdentificationSequence"]
        del shared["SegmentIdentificationSequence"]
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame.add(copy.deepcopy(element))


def moved_sources(stack: CineStack) -> frozenset[str]:
    """SOP Instance UIDs of the source images that lie on another pixel grid than the stack."""
    return frozenset(row[index].sop_instance_uid for row in stack.sources for index in stack.regridded_slices)


def stand_in(stack: CineStack, index: int) -> Dataset:
    """An image with the geometry of a slice, which highdicom takes as a source in place of the true one."""
    image = Dataset()
    image.SOPClassUID = MRImageStorage
    image.SOPInstanceUID = derive_uid("stand-in", "instance", str(index))
    image.SeriesInstanceUID = _STAND_IN_SERIES
    image.StudyInstanceUID = _STAND_IN_STUDY
    for keyword in ("PatientID", "PatientName", "PatientSex", "AccessionNumber", "StudyID", "ReferringPhysicianName"):
        setattr(image, keyword, "")
    image.PatientBirthDate = image.StudyDate = image.StudyTime = None
    image.Modality = "MR"
    image.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    image.Rows, image.Columns = stack.pixels.shape[2:]
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.PositionReferenceIndicator = ""
    image_plane(image, stack, index)
    image.FrameOfReferenceUID = _STAND_IN_SERIES
    if stack.slices > 1:
        image.SpacingBetweenSlices = round(stack.geometry.pitch, 6)
    return image


def _description(
    context: ResultContext, role: ResultRole, number: int, codes: SegmentCodes, when: str, *, corrected: bool
) -> SegmentDescription:
    item = SegmentDescription(
        segment_number=number,
        segment_label=codes.name,
        segmented_property_category=codes.category,
        segmented_property_type=codes.property_type,
        algorithm_type=SegmentAlgorithmTypeValues.SEMIAUTOMATIC if corrected else SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=_algorithms(context),
        tracking_uid=tracking_uid(context, role, codes),
        tracking_id=f"{codes.name} {when}",
        anatomic_regions=[codes.region],
        display_color=highdicom.color.CIELabColor(50.0, 0.0, 0.0),
    )
    item.SegmentDescription = codes.description
    return item


def _algorithms(context: ResultContext) -> AlgorithmIdentificationSequence:
    sequence: AlgorithmIdentificationSequence | None = None
    for model in context.models:
        one = AlgorithmIdentificationSequence(
            name=model.name[:64],
            family=ARTIFICIAL_INTELLIGENCE,
            version=model.version[:64],
            source=MANUFACTURER,
            parameters={"weights SHA-256": model.weights_sha256, "computed in": model.precision.value},
        )
        if sequence is None:
            sequence = one
        else:
            sequence.append(one[0])
    if sequence is None:
        raise ValueError("a segmentation without a model has no algorithm to name")
    return sequence


def refer(
    dataset: Dataset,
    stand_ins: Sequence[Dataset],
    references: Sequence[FrameSource],
    moved: frozenset[str],
    derivation_code: Code = SEGMENTATION_DERIVATION,
) -> None:
    """Put the true references in place of the stand-ins, in the frames and in the common instance references.

    Parameters
    ----------
    references
        One for each stand-in.
    moved
        SOP Instance UIDs of references that lie on another pixel grid than the frames.
    derivation_code
        How the frames came of what they refer to (CID 7203).
    """
    true = {image.SOPInstanceUID: source for image, source in zip(stand_ins, references, strict=True)}
    used: set[str] = set()
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in list(frame.DerivationImageSequence):
            # New items: highdicom lets the segments of one slice share theirs.
            sources = [true[item.ReferencedSOPInstanceUID] for item in derivation.SourceImageSequence]
            used.update(source.sop_instance_uid for source in sources)
            frame.DerivationImageSequence = [_derivation(sources, moved, derivation_code)]
    # The frames say it, each for itself; the list of all stand-ins has no counterpart.
    dataset.pop("SourceImageSequence", None)
    by_series: dict[str, list[FrameSource]] = {}
    for source in references:
        if source.sop_instance_uid in used and source not in by_series.get(source.series_instance_uid, []):
            by_series.setdefault(source.series_instance_uid, []).append(source)
    dataset.ReferencedSeriesSequence = [_series_item(uid, sources) for uid, sources in by_series.items()]


def _derivation(sources: Sequence[FrameSource], moved: frozenset[str], code: Code) -> Dataset:
    item = Dataset()
    item.SourceImageSequence = [
        source_image_item(source, spatial_locations_preserved=source.sop_instance_uid not in moved)
        for source in sources
    ]
    item.DerivationCodeSequence = [code_item(code)]
    return item


def _series_item(series_instance_uid: str, sources: Sequence[FrameSource]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = series_instance_uid
    instances: dict[str, Dataset] = {}
    for source in sources:
        reference = Dataset()
        reference.ReferencedSOPClassUID = source.sop_class_uid
        reference.ReferencedSOPInstanceUID = source.sop_instance_uid
        instances.setdefault(source.sop_instance_uid, reference)
    item.ReferencedInstanceSequence = list(instances.values())
    return item


def plain(dataset: Dataset) -> Dataset:
    """The same elements as a plain data set: highdicom's class refuses later changes of what it keeps in step."""
    plain = Dataset()
    plain.update({element.tag: element for element in dataset})
    return plain
