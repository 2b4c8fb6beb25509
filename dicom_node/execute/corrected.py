"""Masks that a person corrected: read from the SEG that came back, and put in place of the network's in its phase.

A SEG is a correction when it segments what our SEG do (by Segmented Property Type, else by Segment Label) on images of
the study or on key-phase images of this node, by what its frames refer to (PS3.3 C.7.6.16.2.6). Its grid may be another
one, turned, flipped or cropped: each voxel of ours takes the nearest of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_node.results.codes import SEGMENTS
from pipelines.cine.elements import DAMAGE
from pipelines.cine.facts import SEGMENTATION_CLASSES
from pipelines.cine.stack import CineStack, CineStudy
from pipelines.errors import Refusal, RefusalReason
from pipelines.function.findings import Keyframes
from pipelines.segmentation.labels import CineSegmentation, Correction, Label
from pipelines.study import analyse_study
from pipelines.ventricular_function.steps import ShortAxis

__all__ = [
    "CORRECTABLE",
    "KEY_PHASES",
    "Corrected",
    "SegmentedPlane",
    "UnusableError",
    "corrected_findings",
    "is_segmentation",
    "segmented_planes",
]

KEY_PHASES = {"key-phase-ed": "ED", "key-phase-es": "ES"}
"""Roles of results whose images show one phase."""
CORRECTABLE = {
    (codes.property_type.scheme_designator, codes.property_type.value): Label(codes.label) for codes in SEGMENTS
}
_BY_NAME = {codes.name.casefold(): Label(codes.label) for codes in SEGMENTS}
_MOST_VOXELS = 1 << 28
_WHEN = {"ED": "end diastole", "ES": "end systole"}


@dataclass(frozen=True, slots=True)
class Corrected:
    """What a corrected SEG makes known before the analyses run, or why it cannot be used."""

    known: Mapping[type, object]
    refusal: Refusal | None = None


class UnusableError(ValueError):
    """A SEG cannot be used; the sentence is for the person who sent it."""


@dataclass(frozen=True, slots=True, eq=False)
class SegmentedPlane:
    """One frame: where it lies (LPS, mm), and its mask."""

    label: Label
    position: NDArray[np.float64]
    row_direction: NDArray[np.float64]
    column_direction: NDArray[np.float64]
    spacing: tuple[float, float]
    mask: NDArray[np.bool_]


def is_segmentation(dataset: Dataset) -> bool:
    """Whether a data set is a SEG."""
    return str(dataset.get("SOPClassUID", "")) in SEGMENTATION_CLASSES


def corrected_findings(
    study: CineStudy,
    segs: Sequence[Dataset],
    own_results: Mapping[str, str],
    known: Mapping[type, object] | None,
    device: str,
) -> Corrected:
    """Segment the study, and put the corrected masks in.

    The phases stay those that the network's masks gave: a correction is of the phase that the person saw.

    Parameters
    ----------
    segs
        SEG among the files of the study, in the order received: of two of one phase the later counts.
    own_results
        Role of each result of this node on the study, by SOP Instance UID.
    known
        As of :func:`pipelines.study.analyse_study`.
    """
    segs = [one for one in segs if str(one.get("SOPInstanceUID", "")) not in own_results]
    if not segs:
        return Corrected(known or {})
    first = analyse_study(study, [cast("type", ShortAxis), CineSegmentation, Keyframes], device=device, known=known)
    segmentation, keyframes, stack = first.get(CineSegmentation), first.get(Keyframes), study.short_axis
    if segmentation is None or keyframes is None or stack is None:
        # The analysis says why in its own words.
        return Corrected(known or {})
    for seg in segs:
        try:
            segmentation = _with(segmentation, stack, keyframes, seg, own_results)
        except UnusableError as problem:
            return Corrected({}, _refusal(seg, str(problem)))
        except DAMAGE as error:
            return Corrected({}, _refusal(seg, f"it cannot be read ({type(error).__name__})"))
    return Corrected({**(known or {}), CineSegmentation: segmentation, Keyframes: keyframes})


def _refusal(seg: Dataset, problem: str) -> Refusal:
    uid = str(seg.get("SOPInstanceUID", ""))
    sentence = f"The corrected segmentation …{uid[-12:]} cannot be used: {problem}."
    return Refusal("correction", RefusalReason.NOT_SUITABLE, sentence)


def _with(
    segmentation: CineSegmentation,
    stack: CineStack,
    keyframes: Keyframes,
    seg: Dataset,
    own_results: Mapping[str, str],
) -> CineSegmentation:
    phase, when = _phase(seg, stack, keyframes, own_results)
    planes = list(segmented_planes(seg))
    drawn = tuple(label for label in (Label.RV, Label.MYO, Label.LV) if any(one.label is label for one in planes))
    if not drawn:
        raise UnusableError("none of its segments is the cavity or the muscle of a ventricle")
    masks = {label: _on_grid([one for one in planes if one.label is label], stack) for label in drawn}
    labels = segmentation.labels.copy()
    # What a person drew stands in for all of that label; of labels that the SEG lacks the network's stay.
    labels[phase][np.isin(labels[phase], drawn)] = Label.BACKGROUND
    for label, mask in masks.items():
        labels[phase][mask] = label
    agreement = segmentation.agreement.copy()
    agreement[phase] = 1.0
    correction = Correction(phase, when, _editor(seg), str(seg.SOPInstanceUID), drawn)
    others = tuple(one for one in segmentation.corrections if one.phase != phase)
    return replace(
        segmentation,
        labels=labels,
        agreement=agreement,
        crop=_around(segmentation.crop, np.logical_or.reduce(list(masks.values()))),
        corrections=(*others, correction),
    )


def _around(crop: tuple[int, int, int, int], drawn: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(drawn.any(axis=(0, 2))), np.flatnonzero(drawn.any(axis=(0, 1)))
    if not len(rows):
        return crop
    return (
        min(crop[0], int(rows[0])),
        max(crop[1], int(rows[-1]) + 1),
        min(crop[2], int(columns[0])),
        max(crop[3], int(columns[-1]) + 1),
    )


def _editor(seg: Dataset) -> str:
    """Who says to have made it (ContentCreatorName), as in the object; empty where nobody does."""
    name = str(seg.get("ContentCreatorName") or seg.get("OperatorsName") or "")
    return " ".join(name.split())[:64]


# -- which phase -------------------------------------------------------------------------------------------------------


def _phase(seg: Dataset, stack: CineStack, keyframes: Keyframes, own_results: Mapping[str, str]) -> tuple[int, str]:
    refers = set(_references(seg))
    by_source = {
        phase
        for phase, row in enumerate(stack.sources)
        for one in row
        if (one.sop_instance_uid, one.frame_number) in refers
        or (one.frame_number is None and (one.sop_instance_uid, 1) in refers)
    }
    roles = {own_results.get(uid, "") for uid, _ in refers}
    by_key_phase = {
        {"ED": keyframes.end_diastole, "ES": keyframes.end_systole}[KEY_PHASES[role]]
        for role in roles & KEY_PHASES.keys()
    }
    phases = by_key_phase or by_source
    if not phases:
        raise UnusableError("it refers to no image of the short-axis stack")
    if len(phases) > 1:
        raise UnusableError(f"it refers to {len(phases)} phases, and only one can be corrected by one object")
    (phase,) = phases
    if phase == keyframes.end_diastole:
        return phase, _WHEN["ED"]
    return phase, _WHEN["ES"] if phase == keyframes.end_systole else f"phase {phase + 1}"


def _references(seg: Dataset) -> Iterator[tuple[str, int | None]]:
    for frame in seg.get("PerFrameFunctionalGroupsSequence") or ():
        for derivation in frame.get("DerivationImageSequence") or ():
            for source in derivation.get("SourceImageSequence") or ():
                uid = str(source.get("ReferencedSOPInstanceUID", ""))
                numbers = source.get("ReferencedFrameNumber")
                if numbers is None:
                    yield uid, None
                else:
                    for number in numbers if isinstance(numbers, Iterable) else (numbers,):
                        yield uid, int(number)
    for series in seg.get("ReferencedSeriesSequence") or ():
        for instance in series.get("ReferencedInstanceSequence") or ():
            yield str(instance.get("ReferencedSOPInstanceUID", "")), None


# -- which voxels ------------------------------------------------------------------------------------------------------


def _labels_of(seg: Dataset) -> dict[int, Label]:
    found = {}
    for item in seg.get("SegmentSequence") or ():
        label = None
        for code in item.get("SegmentedPropertyTypeCodeSequence") or ():
            key = str(code.get("CodingSchemeDesignator", "")), str(code.get("CodeValue", ""))
            label = CORRECTABLE.get(key)
        label = label or _BY_NAME.get(str(item.get("SegmentLabel", "")).strip().casefold())
        if label is not None:
            found[int(item.SegmentNumber)] = label
    return found


def segmented_planes(seg: Dataset) -> Iterator[SegmentedPlane]:
    """The frames of a SEG that segment a cavity or the muscle of a ventricle.

    Raises
    ------
    UnusableError
        It is compressed, or its pixel data are not what it says.
    """
    syntax = UID(str(seg.file_meta.TransferSyntaxUID))
    if syntax.is_compressed:
        raise UnusableError(f"it is compressed ({syntax.name}); send it as Explicit VR Little Endian")
    frames, rows, columns = int(seg.get("NumberOfFrames", 1)), int(seg.Rows), int(seg.Columns)
    bits = int(seg.BitsAllocated)
    voxels = frames * rows * columns
    if not 0 < voxels <= _MOST_VOXELS or len(seg.PixelData) * 8 < voxels * bits:
        raise UnusableError("its pixel data have another size than it says")
    pixels = _unpacked(seg, bits).reshape(frames, rows, columns)
    kind = str(seg.get("SegmentationType", "BINARY"))
    labels = _labels_of(seg)
    (shared,) = seg.get("SharedFunctionalGroupsSequence") or (Dataset(),)
    for index, frame in enumerate(seg.PerFrameFunctionalGroupsSequence):
        measures, orientation = (_group(frame, shared, name) for name in ("PixelMeasures", "PlaneOrientation"))
        direction = np.asarray(orientation.ImageOrientationPatient, np.float64)
        place = np.asarray(_group(frame, shared, "PlanePosition").ImagePositionPatient, np.float64)
        spacing = (float(measures.PixelSpacing[0]), float(measures.PixelSpacing[1]))
        if kind == "LABELMAP":
            numbers = [(number, pixels[index] == number) for number in labels]
        else:
            number = int(_group(frame, shared, "SegmentIdentification").ReferencedSegmentNumber)
            threshold = int(seg.get("MaximumFractionalValue", 1)) / 2 if kind == "FRACTIONAL" else 0
            numbers = [(number, pixels[index] > threshold)]
        for number, mask in numbers:
            if number in labels:
                yield SegmentedPlane(labels[number], place, direction[:3], direction[3:], spacing, mask)


def _unpacked(seg: Dataset, bits: int) -> NDArray[Any]:
    count = int(seg.get("NumberOfFrames", 1)) * int(seg.Rows) * int(seg.Columns)
    if bits == 1:
        return np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little", count=count)
    if bits not in (8, 16):
        raise UnusableError(f"it has {bits} bits a voxel")
    return np.frombuffer(seg.PixelData, np.uint8 if bits == 8 else "<u2", count=count)


def _group(frame: Dataset, shared: Dataset, name: str) -> Dataset:
    keyword = f"{name}Sequence"
    found = frame.get(keyword) or shared.get(keyword)
    if not found:
        raise UnusableError(f"its frames have no {keyword}")
    return cast("Dataset", found[0])


def _on_grid(planes: Sequence[SegmentedPlane], stack: CineStack) -> NDArray[np.bool_]:
    """The mask (S, R, C) on the grid of the stack: each slice takes the frame at its place."""
    geometry = stack.geometry
    _, slices, rows, columns = stack.pixels.shape
    mask = np.zeros((slices, rows, columns), bool)
    normal = geometry.normal
    row_mm, column_mm = geometry.pixel_spacing
    row, column = np.mgrid[:rows, :columns]
    inside_plane = (
        row[..., None] * row_mm * geometry.column_direction + column[..., None] * column_mm * geometry.row_direction
    )
    for index in range(slices):
        points = geometry.positions[index] + inside_plane
        centre = points[rows // 2, columns // 2]
        for plane in planes:
            own = np.cross(plane.row_direction, plane.column_direction)
            if abs(float(own @ normal)) < 0.999:
                raise UnusableError("its frames are not parallel to the short-axis slices")
            if abs(float((centre - plane.position) @ own)) > geometry.pitch / 2 - 1e-6:
                continue
            offset = points - plane.position
            at_row = np.rint(offset @ plane.column_direction / plane.spacing[0]).astype(int)
            at_column = np.rint(offset @ plane.row_direction / plane.spacing[1]).astype(int)
            within = (
                (at_row >= 0) & (at_row < plane.mask.shape[0]) & (at_column >= 0) & (at_column < plane.mask.shape[1])
            )
            mask[index][within] |= plane.mask[at_row[within], at_column[within]]
    return mask
