"""Parametric Map: one 32-bit number for each voxel of a stack (PS3.3 A.75)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from highdicom.content import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, ParametricMapStorage

from dicom_node.results.header import ResultContext, complete, constructor_arguments, series_dataset
from dicom_node.results.objects import Surroundings
from dicom_node.results.problems import GateCheck, Problem
from dicom_node.results.roles import ResultRole
from dicom_node.results.segmentation import moved_sources, plain, refer, stand_in
from pipelines.cine.stack import CineStack, FrameSource, StackGeometry

__all__ = ["ExpectedMap", "Mapped", "parametric_map"]

_POSITION_TOLERANCE_MM = 0.01


@dataclass(frozen=True, slots=True)
class Mapped:
    """What the numbers of a map are.

    Attributes
    ----------
    quantity, unit : Code
    label : str
        ContentLabel (CS) and LUTLabel (SH): at most 16 capital letters, digits and underscores.
    explanation : str
        The same in words, at most 64 characters.
    derivation : Code
        How the map came of the images that it refers to.
    limits : (float, float)
        Smallest and largest number there can be; they are shown black and white.
    """

    quantity: Code
    unit: Code
    label: str
    explanation: str
    derivation: Code
    limits: tuple[float, float]


def parametric_map(
    context: ResultContext,
    role: ResultRole,
    stack: CineStack,
    values: NDArray[np.float32],
    references: Sequence[FrameSource],
    mapped: Mapped,
) -> Dataset:
    """Encode a map.

    Parameters
    ----------
    stack
        Whose grid and frame of reference the map has.
    values : (S, R, C) float32
    references
        The image behind each slice.
    """
    header = series_dataset(context, role, sop_class_uid=ParametricMapStorage, modality="MR")
    stand_ins = [stand_in(stack, index) for index in range(stack.slices)]
    low, high = mapped.limits
    dataset: Dataset = ParametricMap(
        source_images=stand_ins,
        pixel_array=np.asarray(values, dtype=np.float32),
        **constructor_arguments(header),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label=mapped.label,
                lut_explanation=mapped.explanation,
                unit=mapped.unit,
                value_range=(low, high),
                slope=1.0,
                intercept=0.0,
                quantity_definition=mapped.quantity,
            )
        ],
        voi_lut_transformations=[VOILUTTransformation(window_center=(low + high) / 2, window_width=high - low)],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label=mapped.label,
        content_description=mapped.explanation,
    )
    dataset.SeriesDescription = header.SeriesDescription
    dataset.FrameOfReferenceUID = stack.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.ContentCreatorName = ""
    organization = context.identity.uid("dimensions", role.value)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    refer(dataset, stand_ins, references, moved_sources(stack), mapped.derivation)
    complete(context, dataset)
    return plain(dataset)


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedMap:
    """What a Parametric Map must give back.

    Attributes
    ----------
    values : (S, R, C) float32
    """

    values: NDArray[np.float32]
    geometry: StackGeometry
    frame_of_reference_uid: str

    def check(self, dataset: Dataset, surroundings: Surroundings) -> Iterator[Problem]:  # noqa: ARG002 - see Expected
        """Compare every number and every plane."""
        shape = (int(dataset.NumberOfFrames), int(dataset.Rows), int(dataset.Columns))
        if shape != self.values.shape:
            yield Problem(GateCheck.PIXELS, f"the map is {shape}, the stack {self.values.shape}")
            return
        if str(dataset.FrameOfReferenceUID) != self.frame_of_reference_uid:
            yield Problem(GateCheck.GEOMETRY, "FrameOfReferenceUID is not that of the source")
        numbers = np.frombuffer(dataset.FloatPixelData, dtype="<f4").reshape(shape)
        wrong = 0
        for frame, group in zip(numbers, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            position = np.array([float(one) for one in group.PlanePositionSequence[0].ImagePositionPatient])
            away = np.linalg.norm(self.geometry.positions - position, axis=1)
            if away.min() > _POSITION_TOLERANCE_MM:
                yield Problem(GateCheck.GEOMETRY, "ImagePositionPatient departs from the stack")
            wrong += int(np.count_nonzero(frame != self.values[int(away.argmin())]))
        if wrong:
            yield Problem(GateCheck.PIXELS, f"{wrong} voxels differ from the map")
