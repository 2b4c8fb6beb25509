"""From labels to findings: extents, remote muscle, depth by slice and AHA segment, presence, cautions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, LateEnhancementStack, Reconstruction
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import Interval, Keyframes
from pipelines.function.segments import segment_map
from pipelines.function.slices import SliceMeasures
from pipelines.late_enhancement.alignment import align_to_cine
from pipelines.late_enhancement.extent import enhanced_wall, remote_muscle
from pipelines.late_enhancement.findings import (
    AcquiredSegment,
    CineAlignment,
    Extent,
    ExtentMethod,
    LateEnhancement,
    Remote,
)
from pipelines.late_enhancement.labels import WALL, Tissue
from pipelines.late_enhancement.presence import INFARCT_LAW, OBSTRUCTION_LAW, presence
from pipelines.late_enhancement.segment import EnhancementSegmentation
from pipelines.late_enhancement.segments import enhancement_of_segments, reference_on
from pipelines.late_enhancement.transmurality import depth_by_direction, mean_depth
from pipelines.tissue import MYOCARDIAL_DENSITY_G_ML

__all__ = ["INTERVAL_OFFSET_PERCENT", "extent_of", "measure_enhancement"]

SLICES_MIN = 3
AGREEMENT_MIN = 0.90
_AGREEMENT_CAUTION = 0.94
"""Of the patients that are not held out, those whose ventricle was found reach 0.95 or more; where something else was
taken for it the members agreed to 0.88 to 0.90."""
_APART_MM = 25.0
"""No breath-hold moves the heart so far: one of the two segmentations has something else."""
_SHIFT_CAUTION_MM = 6.0
_METHODS_CAUTION_POINTS = 10.0
INTERVAL_OFFSET_PERCENT = 4.0
INTERVAL_FACTOR = 0.483
"""Half width of the interval of the network's extent, points, for each point of extent and offset: split conformal, for
90 % of patients, on the calibration fold (:func:`pipelines.evaluation.enhancement.calibrate`)."""


def extent_of(
    method: ExtentMethod,
    enhanced: NDArray[np.bool_],
    wall: NDArray[np.bool_],
    slice_mm: NDArray[np.float64],
    pixel_mm2: float,
) -> Extent:
    """Extent of enhancement.

    Parameters
    ----------
    enhanced, wall : (S, R, C) bool
    slice_mm : (S,) float64
        Thickness of tissue that each slice stands for.
    """
    area, bright = wall.sum(axis=(1, 2)), (enhanced & wall).sum(axis=(1, 2))
    total = float((area * slice_mm).sum())
    volume = float((bright * slice_mm).sum())
    by_slice = np.divide(100.0 * bright, area, out=np.full(area.shape, np.nan), where=area > 0)
    return Extent(
        method=method,
        percent=100 * volume / total if total else 0.0,
        grams=volume * pixel_mm2 / 1000 * MYOCARDIAL_DENSITY_G_ML,
        by_slice=tuple(float(value) for value in by_slice),
        interval=None,
    )


def measure_enhancement(
    stack: LateEnhancementStack,
    index: int,
    found: EnhancementSegmentation,
    cine: tuple[CineStack, SliceMeasures, Keyframes] | None,
) -> LateEnhancement:
    """Measure a segmented late-enhancement stack.

    Parameters
    ----------
    stack : LateEnhancementStack
    index : int
        Of the stack among those of the study.
    found : EnhancementSegmentation
    cine : tuple or None
        The short-axis cine, its measures and keyframes, where the study has them.

    Raises
    ------
    AnalysisRefused
        Fewer than three slices show the ventricle, or the segmentation is too unsure of it.
    """
    labels = found.labels
    wall = np.isin(labels, WALL)
    shown = np.flatnonzero(wall.any(axis=(1, 2)))
    if len(shown) < SLICES_MIN:
        sentence = (
            f"The left ventricle was found on {len(shown)} late-enhancement slice(s); {SLICES_MIN} are needed to "
            "measure an extent."
        )
        raise AnalysisRefused(RefusalReason.TOO_FEW_SLICES, sentence)
    agreement = float(found.agreement[shown].mean())
    if agreement < AGREEMENT_MIN:
        sentence = (
            f"The ventricle on the late-enhancement images is too uncertain to be measured: the members of the "
            f"segmentation agree to {agreement:.2f}, {AGREEMENT_MIN:.2f} are needed."
        )
        raise AnalysisRefused(RefusalReason.QUALITY_TOO_LOW, sentence)
    slice_mm = stack.geometry.slice_intervals()
    pixel_mm2 = float(np.prod(stack.geometry.pixel_spacing))
    remote = remote_muscle(stack.pixels, labels)
    enhanced = {method: enhanced_wall(stack.pixels, labels, remote, method) for method in ExtentMethod}
    extents = tuple(extent_of(method, mask, wall, slice_mm, pixel_mm2) for method, mask in enhanced.items())
    extents = tuple(
        _with_interval(one, found.members_percent) if one.method is ExtentMethod.NETWORK else one for one in extents
    )
    network = extents[0]
    obstruction = extent_of(ExtentMethod.NETWORK, labels == Tissue.OBSTRUCTION, wall, slice_mm, pixel_mm2).percent
    depths = [
        depth_by_direction(mask, plane, stack.geometry.pixel_spacing)
        for mask, plane in zip(enhanced[ExtentMethod.NETWORK], labels, strict=True)
    ]
    alignment, segments, without = _by_segment(stack, labels, enhanced[ExtentMethod.NETWORK], cine)
    apart = 0.0 if alignment is None else float(np.nanmedian(np.linalg.norm(alignment.shift_mm, axis=1)))
    if apart > _APART_MM:
        sentence = (
            f"What was taken for the left ventricle on late enhancement lies {apart:.0f} mm beside the ventricle of "
            "the cine: one of them is something else."
        )
        raise AnalysisRefused(RefusalReason.QUALITY_TOO_LOW, sentence)
    return LateEnhancement(
        stack=index,
        reconstruction=stack.reconstruction,
        geometry=stack.geometry,
        labels=labels,
        enhanced=enhanced,
        extents=extents,
        obstruction_percent=obstruction,
        mass_g=float((wall.sum(axis=(1, 2)) * slice_mm).sum()) * pixel_mm2 / 1000 * MYOCARDIAL_DENSITY_G_ML,
        remote=remote,
        infarct=presence(INFARCT_LAW, network.percent),
        obstruction=presence(OBSTRUCTION_LAW, obstruction),
        segments=segments,
        without_segments=without,
        transmurality_by_slice=tuple(float("nan") if one is None else mean_depth(one[1]) for one in depths),
        alignment=alignment,
        agreement=agreement,
        cautions=_cautions(stack, agreement, extents, remote, alignment),
        notes=_notes(stack),
        models=found.models,
    )


def _with_interval(extent: Extent, members: NDArray[np.float64]) -> Extent:
    """The extent with its interval: errors on patients held out of a training, or the spread of members if greater."""
    half = max(INTERVAL_FACTOR * (extent.percent + INTERVAL_OFFSET_PERCENT), float(np.ptp(members)) / 2)
    interval = Interval(max(0.0, extent.percent - half), min(100.0, extent.percent + half))
    return Extent(extent.method, extent.percent, extent.grams, extent.by_slice, interval)


def _by_segment(
    stack: LateEnhancementStack,
    labels: NDArray[np.uint8],
    enhanced: NDArray[np.bool_],
    cine: tuple[CineStack, SliceMeasures, Keyframes] | None,
) -> tuple[CineAlignment | None, tuple[AcquiredSegment, ...], str | None]:
    if cine is None:
        why = (
            "AHA segments are not given: they are counted from the right ventricle, which only the cine shows well "
            "enough, and the study has no short-axis cine that could be measured."
        )
        return None, (), why
    short_axis, slices, keyframes = cine
    phase = keyframes.end_diastole
    alignment = align_to_cine(stack, labels, short_axis, slices.labels[phase], phase)
    if alignment is None:
        why = (
            "AHA segments are not given: the late-enhancement slices could not be laid onto the cine (another frame of "
            "reference, direction or place)."
        )
        return None, (), why
    mapped = segment_map(short_axis, slices, phase)
    if mapped is None:
        why = "AHA segments are not given: the insertion points of the right ventricle were not found on the cine."
        return alignment, (), why
    reference = reference_on(stack.geometry, short_axis.geometry, mapped.reference)
    levels = tuple(None if one is None else mapped.levels[one] for one in alignment.cine_slice)
    segments = enhancement_of_segments(enhanced, labels, stack.geometry, levels, reference)
    return alignment, segments, None


def _cautions(
    stack: LateEnhancementStack,
    agreement: float,
    extents: tuple[Extent, ...],
    remote: tuple[Remote | None, ...],
    alignment: CineAlignment | None,
) -> tuple[str, ...]:
    by_method = {one.method: one.percent for one in extents}
    said = []
    if not stack.geometry.thickness_stated:
        thickness = f"{stack.geometry.slice_thickness:.1f} mm"
        instead = f"the distance between slices, {thickness}, stands in for it"
        if stack.slices == 1:
            instead = f"{thickness} are assumed, so the grams are a guess"
        said.append(f"No image of the late enhancement states a slice thickness that can be read: {instead}.")
    if agreement < _AGREEMENT_CAUTION:
        said.append(
            f"The outline of the ventricle is uncertain: the members of the segmentation agree to {agreement:.2f}."
        )
    apart = by_method[ExtentMethod.NETWORK] - by_method[ExtentMethod.FWHM]
    if abs(apart) > _METHODS_CAUTION_POINTS:
        said.append(
            f"Network and full width at half maximum differ by {abs(apart):.0f} points of the left ventricular muscle: "
            "look at the contours."
        )
    borrowed = sum(one is not None and one.borrowed for one in remote)
    if borrowed:
        said.append(
            f"On {borrowed} slice(s) there is too little remote muscle; the thresholds there are those of the nearest "
            "slice."
        )
    if stack.reconstruction is Reconstruction.MAGNITUDE:
        said.append(
            "These are magnitude images; the network learnt mostly from phase-sensitive ones, and muscle that is not "
            "nulled can look enhanced in magnitude images."
        )
    if alignment is not None:
        far = int(np.count_nonzero(np.linalg.norm(np.nan_to_num(alignment.shift_mm), axis=1) > _SHIFT_CAUTION_MM))
        if far:
            said.append(
                f"{far} late-enhancement slice(s) lie more than {_SHIFT_CAUTION_MM:.0f} mm beside the cine: "
                "breath-holds at different heights."
            )
    return tuple(said)


def _notes(stack: LateEnhancementStack) -> tuple[str, ...]:
    return (
        f"Labels of the network on the {stack.reconstruction} late enhancement; obstruction counts as infarct.",
        "Thresholds are set for each slice. Remote muscle is what the network calls muscle, 45° or more from any "
        "infarct and one pixel inside the wall. Full width at half maximum lies half-way between remote muscle and the "
        "99th percentile of the enhancement of the slice. Dark cores that enhancement encloses are filled in.",
        "Transmurality is the enhanced part of the wall along rays from the centre of the ventricle, averaged over "
        "those that meet enhancement.",
    )
