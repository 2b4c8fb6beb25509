"""A result object as it leaves the encoders: its bytes, where it goes, and what it must say when it is read again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.results.codes import VOLUME, SegmentCodes
from dicom_node.results.problems import GateCheck, Problem
from dicom_node.results.roles import ResultRole
from dicom_node.results.sources import SourceDatasets
from pipelines.cine.headers import frame_headers
from pipelines.cine.regrid import image_centre
from pipelines.cine.stack import FrameSource, StackGeometry

__all__ = ["Expected", "ExpectedAll", "ExpectedMask", "ExpectedReport", "ExpectedSlice", "ResultObject", "Surroundings"]

_POSITION_TOLERANCE_MM = 0.01
_REGRIDDED_TOLERANCE_MM = 0.5
_DIRECTION_TOLERANCE = 1e-4
_ROUNDING = 0.0051
"""Relative departure that three significant digits cause."""


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What an object may be held against when it is read again.

    Attributes
    ----------
    sources : SourceDatasets
        The source instances.
    results : mapping of SOP Instance UID to pydicom.Dataset
        The results of the same job, each as read from its bytes; what cannot be read is absent.
    """

    sources: SourceDatasets
    results: Mapping[str, Dataset]


class Expected(Protocol):
    """What a result object must give back, told by the encoder that made it; the gate asks it."""

    def check(self, dataset: Dataset, surroundings: Surroundings) -> Iterable[Problem]:
        """Compare with the object as read from its bytes.

        Parameters
        ----------
        dataset
            The object as a recipient reads it.
        surroundings
            Sources and the other results.

        Returns
        -------
        iterable of Problem
            What departs; nothing lets the object pass. Whatever is raised counts as an object that cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedSlice:
    """What a key-phase image must give back.

    Attributes
    ----------
    grey : (R, C) float32
        Grey values after the modality LUT.
    tolerance : float
        Largest departure allowed; 0 where stored values hold the grey values exactly.
    index : int
        Slice of ``geometry``.
    regridded : bool
        The source image lies on another pixel grid: in the plane of the slice, but not pixel by pixel.
    """

    grey: NDArray[np.float32]
    tolerance: float
    geometry: StackGeometry
    frame_of_reference_uid: str
    index: int
    source: FrameSource
    regridded: bool = False

    def check(self, dataset: Dataset, surroundings: Surroundings) -> Iterator[Problem]:
        """Compare grey values with the stack, the plane with the stack and with the header as received."""
        stored = dataset.pixel_array.astype(np.float64)
        grey = stored * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
        if grey.shape != self.grey.shape:
            yield Problem(GateCheck.PIXELS, f"the image is {grey.shape}, the source slice {self.grey.shape}")
            return
        departure = float(np.abs(grey.astype(np.float32) - self.grey).max())
        if not departure <= self.tolerance:
            yield Problem(
                GateCheck.PIXELS, f"grey values depart by {departure:g} from the source, {self.tolerance:g} allowed"
            )
        position = _vector(dataset.ImagePositionPatient)
        orientation = _vector(dataset.ImageOrientationPatient)
        yield from _plane(position, orientation, _vector(dataset.PixelSpacing), self.geometry, self.index)
        yield from _frame_of_reference(dataset, self.frame_of_reference_uid)
        # Against the header as received, not only against what the assembler made of it.
        if self.regridded:
            yield from self._beside(position, surroundings.sources)
            return
        for layer in surroundings.sources.layers(self.source):
            if "ImagePositionPatient" in layer:
                if np.abs(_vector(layer.ImagePositionPatient) - position).max() > _POSITION_TOLERANCE_MM:
                    yield Problem(GateCheck.GEOMETRY, "ImagePositionPatient is not that of the source image")
                break

    def _beside(self, position: NDArray[np.float64], sources: SourceDatasets) -> Iterator[Problem]:
        """Compare the plane with the centre of the image as received, which lies in it on any pixel grid."""
        for header in frame_headers(sources.header(self.source.sop_instance_uid)):
            if header.frame_number == self.source.frame_number:
                away = abs(float((image_centre(header) - position) @ self.geometry.normal))
                if away > _REGRIDDED_TOLERANCE_MM:
                    sentence = f"the source image lies {away:.1f} mm beside the slice that was made of it"
                    yield Problem(GateCheck.GEOMETRY, sentence)


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedMask:
    """What a SEG must give back.

    Attributes
    ----------
    labels : (S, R, C) uint8
        Values of ``Label``.
    references : tuple of S FrameSource
        The image that each slice must refer to.
    """

    labels: NDArray[np.uint8]
    segments: tuple[SegmentCodes, ...]
    geometry: StackGeometry
    frame_of_reference_uid: str
    references: tuple[FrameSource, ...]

    def check(self, dataset: Dataset, surroundings: Surroundings) -> Iterator[Problem]:  # noqa: ARG002 - see Expected
        """Compare every voxel, every plane and every reference with the label map."""
        shared = dataset.SharedFunctionalGroupsSequence[0]
        spacing = _vector(shared.PixelMeasuresSequence[0].PixelSpacing)
        orientation = _vector(shared.PlaneOrientationSequence[0].ImageOrientationPatient)
        frames = dataset.pixel_array
        if frames.ndim == 2:
            frames = frames[None]
        if frames.shape[1:] != self.labels.shape[1:]:
            yield Problem(GateCheck.PIXELS, f"frames are {frames.shape[1:]}, slices {self.labels.shape[1:]}")
            return
        labels = np.zeros_like(self.labels)
        problems: dict[str, Problem] = {}
        for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            position = _vector(group.PlanePositionSequence[0].ImagePositionPatient)
            index = int(np.argmin(np.linalg.norm(self.geometry.positions - position, axis=1)))
            for problem in _plane(position, orientation, spacing, self.geometry, index):
                problems.setdefault(problem.sentence, problem)
            segment = self.segments[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
            if np.any(labels[index][frame > 0]):
                problems.setdefault("overlap", Problem(GateCheck.PIXELS, "segments overlap"))
            labels[index][frame > 0] = segment.label
            source = self.references[index]
            item = group.DerivationImageSequence[0].SourceImageSequence[0]
            if (str(item.ReferencedSOPInstanceUID), item.get("ReferencedFrameNumber")) != (
                source.sop_instance_uid,
                source.frame_number,
            ):
                problems.setdefault(
                    "source", Problem(GateCheck.REFERENCES, "a frame refers to the image of another slice")
                )
        yield from problems.values()
        wrong = int(np.count_nonzero(labels != self.labels))
        if wrong:
            yield Problem(GateCheck.PIXELS, f"{wrong} voxels differ from the segmentation")
        yield from _frame_of_reference(dataset, self.frame_of_reference_uid)


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedReport:
    """What a report must say of the segmentations that it refers to (TID 1411: one group a segment).

    Attributes
    ----------
    geometry : StackGeometry
        Of the stack that the segmentations lie on: a slice whose frames are empty may have been left out of them.
    """

    geometry: StackGeometry

    def check(self, dataset: Dataset, surroundings: Surroundings) -> Iterator[Problem]:
        """Compare the volume of each segment with the voxels of the SEG as a recipient reads it."""
        for group in _content(dataset):
            children = group.get("ContentSequence") or []
            segment = next((found for child in children if (found := _referenced_segment(child)) is not None), None)
            said = [value for child in children for value in _millilitres(child)]
            if segment is None or not said:
                continue
            uid, number = segment
            seg = surroundings.results.get(uid)
            if seg is None:
                yield Problem(GateCheck.NUMBERS, f"a volume belongs to segmentation {uid}, which is not there")
                continue
            drawn = _segment_millilitres(seg, number, self.geometry)
            for value in said:
                if not abs(value - drawn) <= _ROUNDING * max(abs(value), drawn) + 0.006:
                    yield Problem(
                        GateCheck.NUMBERS,
                        f"the report says {value:g} ml for segment {number} of {uid}, its voxels are {drawn:.2f} ml",
                    )


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedAll:
    """What several parts of one object expect of it."""

    parts: tuple[Expected, ...]

    def check(self, dataset: Dataset, surroundings: Surroundings) -> Iterator[Problem]:
        """Let each part check the whole object."""
        for part in self.parts:
            yield from part.check(dataset, surroundings)


def _content(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or []:
        yield child
        yield from _content(child)


def _referenced_segment(item: Dataset) -> tuple[str, int] | None:
    for reference in item.get("ReferencedSOPSequence") or []:
        if "ReferencedSegmentNumber" in reference:
            return str(reference.ReferencedSOPInstanceUID), int(reference.ReferencedSegmentNumber)
    return None


def _millilitres(item: Dataset) -> Iterator[float]:
    if item.get("ValueType") == "NUM":
        concept = item.ConceptNameCodeSequence[0]
        if (concept.CodeValue, concept.CodingSchemeDesignator) == (VOLUME.value, VOLUME.scheme_designator):
            yield from (float(value.NumericValue) for value in item.MeasuredValueSequence)


def _segment_millilitres(seg: Dataset, number: int, geometry: StackGeometry) -> float:
    """Voxels of a segment × their area × the slice interval of their slice."""
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    area = float(np.prod(_vector(measures.PixelSpacing)))
    intervals = geometry.slice_intervals()
    frames = seg.pixel_array
    if frames.ndim == 2:
        frames = frames[None]
    total = 0.0
    for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            position = _vector(group.PlanePositionSequence[0].ImagePositionPatient)
            index = int(np.argmin(np.linalg.norm(geometry.positions - position, axis=1)))
            total += float(np.count_nonzero(frame)) * area * float(intervals[index])
    return total / 1000


def _vector(values: Iterable[object]) -> NDArray[np.float64]:
    return np.array([float(str(value)) for value in values])


def _plane(
    position: NDArray[np.float64],
    orientation: NDArray[np.float64],
    spacing: Sequence[float] | NDArray[np.float64],
    geometry: StackGeometry,
    index: int,
) -> Iterator[Problem]:
    if np.abs(position - geometry.positions[index]).max() > _POSITION_TOLERANCE_MM:
        yield Problem(GateCheck.GEOMETRY, "ImagePositionPatient departs from the stack")
    if np.abs(orientation - np.r_[geometry.row_direction, geometry.column_direction]).max() > _DIRECTION_TOLERANCE:
        yield Problem(GateCheck.GEOMETRY, "ImageOrientationPatient departs from the stack")
    if not np.allclose(spacing, geometry.pixel_spacing, rtol=1e-6):
        yield Problem(GateCheck.GEOMETRY, "PixelSpacing departs from the stack")


def _frame_of_reference(dataset: Dataset, expected: str) -> Iterator[Problem]:
    if str(dataset.FrameOfReferenceUID) != expected:
        yield Problem(GateCheck.GEOMETRY, "FrameOfReferenceUID is not that of the source")


@dataclass(frozen=True, slots=True, eq=False)
class ResultObject:
    """One object to deliver.

    Attributes
    ----------
    dataset : pydicom.Dataset
        As it was written: text carried over from the source is bytes in it.
    content : bytes
        The object as a PS3.10 file, Explicit VR Little Endian.
    destinations : frozenset of str
        Names of destinations in the configuration.
    reference_uid : str
        SOP Instance UID of the source instance that patient and study come from.
    sources : tuple of FrameSource
        Source frames that it was derived from; they must be of one patient.
    expected : Expected or None
        What the gate must find in ``content``, beyond what holds for every object.
    """

    role: ResultRole
    dataset: Dataset
    content: bytes
    destinations: frozenset[str]
    reference_uid: str
    sources: tuple[FrameSource, ...]
    expected: Expected | None = None

    @property
    def transfer_syntax_uid(self) -> str:
        """Transfer syntax of ``content``."""
        return str(ExplicitVRLittleEndian)

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID."""
        return str(self.dataset.SOPClassUID)

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID."""
        return str(self.dataset.SOPInstanceUID)

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID."""
        return str(self.dataset.SeriesInstanceUID)

    @property
    def series_description(self) -> str:
        """SeriesDescription."""
        return str(self.dataset.SeriesDescription)
