"""From the long-axis cine of a study to annulus motion and atrial function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, CineStudy, View
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.long_axis.annulus import annulus_points, apex_points
from pipelines.long_axis.atrium import atrial_function
from pipelines.long_axis.findings import LongAxisFunction, LongAxisLabel, LongAxisView, LongAxisViews, Valve
from pipelines.long_axis.in_step import PHASES_MIN, delay_behind
from pipelines.long_axis.segment import MODEL, SeenView, label_view, see_views
from pipelines.models.precision import labelling_precision
from pipelines.models.registry import PACKAGED, load_model_once
from pipelines.motion.crop import centre_of_ventricle
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.segmentation.parallel import each

__all__ = ["in_step_with", "long_axis_stacks", "measure_long_axis", "read_view", "read_views", "told_apart"]

_VIEWS = (View.LAX_2CH, View.LAX_3CH, View.LAX_4CH)
_AGREEMENT_MIN = 0.7
"""A view in which the members of the ensemble agree less is not believed."""
_CORRELATION_MIN = 0.6
"""Nor is one whose ventricle fills and empties less like the short axis at any delay: lines of its k-space come from
different moments of the cycle. Without that fault the least of 90 views of phantoms (seeds 53100 …) has 0.89."""


def long_axis_stacks(study: CineStudy) -> tuple[CineStack, ...]:
    """The 2CH, 3CH and 4CH cine of a study: stacks of one slice with more than one phase."""
    return tuple(stack for stack in study.stacks if stack.view in _VIEWS and stack.slices == 1 and stack.phases > 1)


def told_apart(stacks: Sequence[CineStack]) -> tuple[str, ...]:
    """What tells each stack from the others of its view, by the number of its series as people know it.

    Returns
    -------
    tuple of str
        For each stack ``series 12``; ``2 of 3`` in the order given where a number is missing or shared; empty for the
        only one of its view.
    """
    kinds = Counter(stack.view for stack in stacks)
    numbers = [stack.sources[0][0].series_number for stack in stacks]
    shared = Counter((stack.view, number) for stack, number in zip(stacks, numbers, strict=True))
    seen: Counter[View] = Counter()
    words = []
    for stack, number in zip(stacks, numbers, strict=True):
        seen[stack.view] += 1
        if kinds[stack.view] == 1:
            words.append("")
        elif number is None or shared[stack.view, number] > 1:
            words.append(f"{seen[stack.view]} of {kinds[stack.view]}")
        else:
            words.append(f"series {number}")
    return tuple(words)


def read_view(
    stack: CineStack, centre: NDArray[np.float64] | None, device: str = "cpu", models: Path = PACKAGED
) -> LongAxisView:
    """Segment a view and follow its annuli and apex.

    Parameters
    ----------
    centre : (3,) float64 or None
        Centre of the left ventricle, patient coordinates, mm.
    """
    return _followed(see_views([stack], centre, device, models)[0])


def _followed(seen: SeenView) -> LongAxisView:
    stack = seen.stack
    labels, agreement = label_view(seen)
    cyclic = stack.retrospective
    annuli = {
        valve: points
        for valve in Valve
        if (points := annulus_points(labels, stack.geometry, valve, cyclic=cyclic)) is not None
    }
    mitral = annuli.get(Valve.MITRAL)
    apex = np.full((stack.phases, 3), np.nan)
    if mitral is not None:
        apex = apex_points(labels, stack.geometry, mitral, cyclic=cyclic)
    return LongAxisView(stack.view, stack, labels, agreement, annuli, apex)


def read_views(
    stacks: Sequence[CineStack],
    short_axis: CineStack | None,
    segmentation: CineSegmentation | None,
    device: str = "cpu",
    models: Path = PACKAGED,
) -> LongAxisViews:
    """Read all long-axis views, and when in the cycle of the short axis each of them begins.

    Raises
    ------
    AnalysisRefused
        The members of the ensemble agree on none of them, or none fills and empties as the short axis does.
    """
    centre = None
    if short_axis is not None and segmentation is not None:
        centre = centre_of_ventricle(segmentation.labels, short_axis.geometry)
    read = each(_followed, see_views(stacks, centre, device, models))
    views = tuple(replace(view, told_by=words) for view, words in zip(read, told_apart(stacks), strict=True))
    believed = tuple(view for view in views if float(view.agreement.mean()) >= _AGREEMENT_MIN)
    if not believed:
        sentence = "No long-axis view could be read: the segmentations of each disagree with one another."
        raise AnalysisRefused(RefusalReason.NO_VENTRICLE_FOUND, sentence)
    in_step, out_of_step = in_step_with(believed, short_axis, segmentation)
    if not in_step:
        sentence = "No long-axis view shows the ventricle fill and empty as the short axis does: their gating failed."
        raise AnalysisRefused(RefusalReason.QUALITY_TOO_LOW, sentence)
    model = load_model_once(MODEL, device, models, labelling_precision(device))
    return LongAxisViews(in_step, (model.identity,), out_of_step)


def in_step_with(
    views: Sequence[LongAxisView], short_axis: CineStack | None, segmentation: CineSegmentation | None
) -> tuple[tuple[LongAxisView, ...], tuple[LongAxisView, ...]]:
    """Views with their delay behind the short axis, and those that no delay brings into step with it.

    Parameters
    ----------
    views : sequence of LongAxisView
    short_axis, segmentation
        ``None`` leaves the views as they are; so do stacks of few phases, or that do not span the cycle.

    Returns
    -------
    in_step : tuple of LongAxisView
    out_of_step : tuple of LongAxisView
    """
    if short_axis is None or segmentation is None or not _tells_time(short_axis):
        return tuple(views), ()
    volume = (segmentation.labels == Label.LV).sum(axis=(1, 2, 3)).astype(np.float64)
    kept: list[LongAxisView] = []
    left_out: list[LongAxisView] = []
    for view in views:
        if not _tells_time(view.stack):
            kept.append(view)
            continue
        cavity = (view.labels == LongAxisLabel.LV).sum(axis=(1, 2)).astype(np.float64)
        delay, correlation = delay_behind(volume, cavity)
        if correlation < _CORRELATION_MIN:
            left_out.append(view)
        else:
            kept.append(replace(view, delay=delay))
    return tuple(kept), tuple(left_out)


def _tells_time(stack: CineStack) -> bool:
    return stack.retrospective and stack.phases >= PHASES_MIN


def measure_long_axis(views: LongAxisViews) -> LongAxisFunction:
    """Annulus motion and atrial function.

    Raises
    ------
    AnalysisRefused
        No view shows the mitral annulus and the apex.
    """
    shown = [view for view in views.views if Valve.MITRAL in view.annuli]
    if not shown:
        sentence = "No long-axis view shows the mitral valve between ventricle and atrium in enough phases."
        raise AnalysisRefused(RefusalReason.NO_VENTRICLE_FOUND, sentence)
    phases = max(view.stack.phases for view in shown)
    excursion: dict[Valve, NDArray[np.float64]] = {}
    for valve in Valve:
        descents = [
            view.in_step(_descent(view, valve), phases)
            for view in shown
            if valve in view.annuli and np.isfinite(view.apex).all()
        ]
        if descents:
            excursion[valve] = np.mean(descents, axis=0)
    return LongAxisFunction(
        excursion_mm=excursion,
        plane_excursion_mm={valve: float(curve.max()) for valve, curve in excursion.items()},
        atrium=atrial_function(views.views),
        views=tuple(view.view for view in views.views),
        agreement=float(np.mean([view.agreement.mean() for view in views.views])),
    )


def _descent(view: LongAxisView, valve: Valve) -> NDArray[np.float64]:
    """Way of the middle of an annulus towards the apex since the phase farthest from it, mm, (T,)."""
    middle = view.annuli[valve].mean(axis=1)
    mitral = view.annuli[Valve.MITRAL].mean(axis=1)
    axis = mitral.mean(axis=0) - view.apex.mean(axis=0)
    height = middle @ (axis / np.linalg.norm(axis))
    return height.max() - height
