"""A result object as it leaves the encoders: its bytes, where it goes, and what it must say when it is read again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.results.codes import SegmentCodes
from dicom_node.results.header import ResultRole
from pipelines.cine.stack import FrameSource, StackGeometry

__all__ = ["ExpectedMask", "ExpectedSlice", "ResultObject"]


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
    expected : ExpectedSlice, ExpectedMask or None
        What the gate must find in ``content``.
    """

    role: ResultRole
    dataset: Dataset
    content: bytes
    destinations: frozenset[str]
    reference_uid: str
    sources: tuple[FrameSource, ...]
    expected: ExpectedSlice | ExpectedMask | None = None

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
