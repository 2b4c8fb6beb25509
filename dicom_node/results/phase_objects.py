"""Result objects of one phase: its images, and the segmentation on them, each with what the gate expects of it."""

from __future__ import annotations

from collections.abc import Iterable

from dicom_node.results.keyphase import key_phase_series
from dicom_node.results.objects import ExpectedMask, ExpectedSlice, ResultObject
from dicom_node.results.parts import EncodingRequest
from dicom_node.results.roles import ResultRole
from dicom_node.results.segmentation import EncodedSegmentation
from pipelines.cine.stack import CineStack, FrameSource, StackGeometry

__all__ = ["key_phase_objects", "segmentation_object"]


def key_phase_objects(
    request: EncodingRequest, role: ResultRole, stack: CineStack, phase: int, when: str, destinations: Iterable[str]
) -> list[ResultObject]:
    """Images of one phase, one a slice.

    Parameters
    ----------
    phase
        0-based phase index.
    when
        What the phase is: "end diastole".
    destinations
        Who gets them.
    """
    names = list(destinations)
    made = []
    series = key_phase_series(request.context, role, stack, phase, when, request.sources)
    for index, (dataset, pixels) in enumerate(series):
        source = stack.sources[phase][index]
        expected = ExpectedSlice(
            grey=stack.pixels[phase, index],
            tolerance=0.0 if pixels.exact else abs(pixels.slope) * 0.51,
            geometry=stack.geometry,
            frame_of_reference_uid=stack.frame_of_reference_uid,
            index=index,
            source=source,
            regridded=index in stack.regridded_slices,
        )
        made.append(request.object(role, dataset, [source], expected, names))
    return made


def segmentation_object(
    request: EncodingRequest,
    role: ResultRole,
    seg: EncodedSegmentation,
    geometry: StackGeometry,
    frame_of_reference_uid: str,
    sources: Iterable[FrameSource],
    destinations: Iterable[str],
) -> ResultObject:
    """A SEG, which must give back the very masks that it was made of.

    Parameters
    ----------
    geometry, frame_of_reference_uid
        Of the images that it was made on.
    sources
        The source frames behind them.
    destinations
        Who gets it.
    """
    expected = ExpectedMask(
        labels=seg.labels,
        segments=seg.segments,
        geometry=geometry,
        frame_of_reference_uid=frame_of_reference_uid,
        references=seg.references,
    )
    return request.object(role, seg.dataset, list(sources), expected, list(destinations))
