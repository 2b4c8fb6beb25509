"""Keyframes and strain of a study from its motion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, CineStudy, View
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.curves import phase_times_ms
from pipelines.function.segments import segment_map
from pipelines.function.slices import MYOCARDIAL_RING_MIN, SliceMeasures
from pipelines.long_axis.findings import LongAxisViews
from pipelines.long_axis.in_step import phase_at
from pipelines.long_axis.outline import axis_length_mm, midwall_length_mm
from pipelines.motion.crop import SIDE_MM, centre_of_ventricle
from pipelines.motion.findings import CardiacMotion, Keyframe, MotionKeyframes, ViewKeyframes
from pipelines.motion.keyframes import PHASES_MIN, find_keyframes, motion_descriptor
from pipelines.motion.strain import (
    LongAxisTrack,
    Timing,
    ViewLengths,
    draw_rings,
    measure_strain,
    track_line,
    track_rings,
)
from pipelines.motion.strain_map import circumferential_strain_map
from pipelines.motion.track import LONG_AXIS_VIEWS, CineMotion, ViewMotion, follow_cycles, follow_from
from pipelines.motion.wall import long_axis_lines

if TYPE_CHECKING:
    from pipelines.models.registry import LoadedModel
from pipelines.segmentation.parallel import beside

__all__ = ["follow_study", "keyframes_of", "measure_motion"]

KEYFRAME_VIEWS = (View.SAX, View.LAX_4CH)


def follow_study(
    study: CineStudy, short_axis: CineStack, slices: SliceMeasures, views: LongAxisViews | None, model: LoadedModel
) -> CineMotion:
    """Motion between consecutive frames of the short axis and of one stack of each long-axis view.

    Of several of a view it is the first that is in step with the short axis, or the first where none is.

    Raises
    ------
    AnalysisRefused
        The phases are too few or do not span the cycle, or there is no left ventricle.
    """
    if short_axis.phases < PHASES_MIN:
        sentence = f"The short-axis cine has {short_axis.phases} phases; {PHASES_MIN} are needed to follow motion."
        raise AnalysisRefused(RefusalReason.TOO_FEW_PHASES, sentence)
    if not short_axis.retrospective:
        sentence = "The short-axis cine does not span the cardiac cycle: its motion cannot be followed around it."
        raise AnalysisRefused(RefusalReason.TOO_FEW_PHASES, sentence)
    centre = centre_of_ventricle(slices.labels, short_axis.geometry)
    if centre is None:
        raise AnalysisRefused(RefusalReason.NO_VENTRICLE_FOUND, "No left ventricle was found in the short-axis stack.")
    chosen: dict[View, CineStack] = {}
    in_step_first = sorted(study.stacks, key=lambda stack: views is not None and views.left_out(stack))
    for stack in in_step_first:
        whole = stack.retrospective and stack.phases >= PHASES_MIN
        if (
            whole
            and stack.view in LONG_AXIS_VIEWS
            and stack.frame_of_reference_uid == short_axis.frame_of_reference_uid
        ):
            chosen.setdefault(stack.view, stack)
    followed = follow_cycles([short_axis, *(chosen[view] for view in LONG_AXIS_VIEWS if view in chosen)], centre, model)
    return CineMotion(followed[0], followed[1:], (model.identity,))


def keyframes_of(motion: CineMotion) -> MotionKeyframes:
    """The five keyframes of the short axis and of 4CH.

    Raises
    ------
    AnalysisRefused
        The short axis neither contracts nor relaxes.
    """
    found = []
    for view in KEYFRAME_VIEWS:
        part = motion.view(view)
        entry = None if part is None else _keyframes(part)
        if entry is not None:
            found.append(entry)
    if not found or found[0].view is not View.SAX:
        sentence = "The motion of the short axis shows no contraction and relaxation: keyframes cannot be told."
        raise AnalysisRefused(RefusalReason.QUALITY_TOO_LOW, sentence)
    return MotionKeyframes(tuple(found), "motion descriptor of Koehler et al. from learned registration of the frames")


def _keyframes(motion: ViewMotion) -> ViewKeyframes | None:
    descriptor = motion_descriptor(motion.displacement, SIDE_MM)
    moments = find_keyframes(descriptor.direction, descriptor.speed_mm)
    if moments is None:
        return None
    times, _ = phase_times_ms(motion.stack)
    phases = {Keyframe(name): frame for name, frame in moments.frames(motion.stack.phases).items()}
    return ViewKeyframes(
        motion.stack, phases, {name: float(times[frame]) for name, frame in phases.items()}, descriptor
    )


def measure_motion(
    motion: CineMotion,
    keyframes: MotionKeyframes,
    slices: SliceMeasures,
    views: LongAxisViews | None,
    model: LoadedModel,
) -> CardiacMotion:
    """Measure strain of the left ventricle, with figures of its reliability.

    Parameters
    ----------
    motion : CineMotion
    keyframes : MotionKeyframes
    slices : SliceMeasures
    views : LongAxisViews or None
        Segmented long-axis views: longitudinal strain is then measured on their contours.
    model : LoadedModel
        Registration network.

    Raises
    ------
    AnalysisRefused
        No slice shows the whole ring of the wall at end diastole.
    """
    stack = motion.short_axis.stack
    frames = keyframes.views[0].phases
    reference = frames[Keyframe.END_DIASTOLE]
    whole = slices.counted[reference] & (np.nan_to_num(slices.ring[reference]) >= MYOCARDIAL_RING_MIN)
    in_step = [view for view in motion.long_axis if views is None or not views.left_out(view.stack)]
    with beside() as start:
        following = start(lambda: follow_from(motion.short_axis, reference, model))
        drawing = start(lambda: draw_rings(slices.labels, stack.geometry.pixel_spacing, reference, whole))
        along = [start(partial(_lines, view, views, stack, slices, whole, reference, model)) for view in in_step]
        measuring = start(lambda: None if views is None else view_lengths(views, in_step, stack.phases, reference))
        dividing = start(lambda: segment_map(stack, slices, reference))
    followed = following.result()
    rings = track_rings(
        drawing.result(),
        slices.labels[reference],
        stack.geometry,
        followed.displacement,
        motion.short_axis.square,
        reference,
        base_first=slices.base_first,
    )
    if rings is None:
        sentence = "No short-axis slice shows the whole wall of the left ventricle at end diastole."
        raise AnalysisRefused(RefusalReason.NO_VENTRICLE_FOUND, sentence)
    times, period = phase_times_ms(stack)
    strain = measure_strain(
        rings,
        [line for view in along for line in view.result()],
        measuring.result(),
        dividing.result(),
        Timing(times, period, reference, frames[Keyframe.END_SYSTOLE]),
        stack.geometry,
        base_first=slices.base_first,
    )
    return CardiacMotion(
        keyframes=keyframes,
        strain=strain,
        disagreement_mm=_rms(followed.disagreement_mm),
        closure_mm=_rms(followed.closure_mm),
        folded_percent=100 * followed.folded,
        circumferential_map=circumferential_strain_map(
            slices.labels[reference],
            followed.displacement[frames[Keyframe.END_SYSTOLE]],
            stack.geometry,
            motion.short_axis.square,
            whole,
        ),
        models=motion.models,
        stacks=_stacks_of(keyframes, in_step),
    )


def _stacks_of(keyframes: MotionKeyframes, in_step: Sequence[ViewMotion]) -> tuple[CineStack, ...]:
    """Stacks of keyframes and of long-axis strain, each once."""
    stacks = [entry.stack for entry in keyframes.views]
    stacks += [view.stack for view in in_step if not any(view.stack is one for one in stacks)]
    return tuple(stacks)


def _lines(
    view: ViewMotion,
    views: LongAxisViews | None,
    stack: CineStack,
    slices: SliceMeasures,
    whole: NDArray[np.bool_],
    reference: int,
    model: LoadedModel,
) -> list[LongAxisTrack]:
    delay = 0.0 if views is None else views.delay_of(view.stack)
    own = phase_at(reference, stack.phases, view.stack.phases, delay)
    found = long_axis_lines(slices.labels[reference], stack.geometry, whole, view.stack.geometry)
    if not found:
        return []
    followed = follow_from(view, own, model)
    return [
        track_line(
            line,
            view.stack.geometry,
            view.square,
            followed.displacement[:, 0],
            followed.composed[:, 0],
            stack.geometry.normal,
            stack.phases,
            delay,
        )
        for line in found
    ]


def view_lengths(
    views: LongAxisViews, followed: Sequence[ViewMotion], phases: int, reference: int
) -> ViewLengths | None:
    """Lengths of the mid-wall lines and of the long axis of the segmented views, on the phases of the short axis.

    Of the views that are also followed, so that all ways measure the same walls, or of all where none is.
    """
    midwall, axis = [], []
    for view in views.views:
        if followed and not any(one.stack is view.stack for one in followed):
            continue
        line = midwall_length_mm(view, phase_at(reference, phases, view.stack.phases, view.delay))
        straight = axis_length_mm(view)
        if line is not None and straight is not None:
            midwall.append(view.in_step(line, phases))
            axis.append(view.in_step(straight, phases))
    return ViewLengths(np.stack(midwall), np.stack(axis)) if midwall else None


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
