"""Assembling acquired late enhancement: one image a slice position and reconstruction, prepared by inversion.

What a series is called decides nothing: several vendors call magnitude and phase-sensitive images alike, and the
magnitude of a Look-Locker sequence like late enhancement.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.geometry import ParallelGroup, merged, parallel_groups, slice_positions, thickness_of_slices
from pipelines.cine.headers import Acquisition, FrameHeader
from pipelines.cine.phases import distortion_corrected
from pipelines.cine.regrid import common_grid, image_centre, place
from pipelines.cine.slices import LeftOut, frame_source
from pipelines.cine.stack import LateEnhancementStack, OmissionReason, Reconstruction, StackGeometry, View
from pipelines.cine.views import (
    MAX_LONG_AXIS_SLICES,
    ONE_STACK_DEG,
    Plane,
    angle_between,
    classify_long_axis,
    is_short_axis_direction,
)

__all__ = ["EnhancementPlan", "assemble_late_enhancement", "may_be_late_enhancement", "plan_late_enhancement"]

_INVERSION_MS = (120.0, 900.0)
"""Inversion times that null muscle after contrast, on any scanner; STIR and T1 mapping reach beyond (SCMR 2020)."""
_SHORT_AXIS_WITHIN_DEG = 20.0
_MIN_SHORT_AXIS_SLICES = 3
_PHASE_SENSITIVE = frozenset({"R", "REAL", "CR", "PSIR", "PS"})
_MAGNITUDE = frozenset({"M", "MAGNITUDE", "M_IR", "M_FFE"})
_AIR_LEVEL = 0.2
"""Air at the border of a magnitude image is dark; in a phase-sensitive one it is near the level of nulled muscle."""

Decode = Callable[[FrameHeader], NDArray[np.float32] | None]
"""Grey values of a frame, or ``None`` when it cannot be decoded."""


def may_be_late_enhancement(frame: FrameHeader) -> bool:
    """Tell from its header whether a frame that is prepared by inversion may be late enhancement.

    A gradient echo with geometry, with one inversion time in the range that nulls muscle or none stated, and not the
    phase image that belongs to it.
    """
    kind = frame.acquisition
    if frame.position is None or frame.orientation is None or frame.pixel_spacing is None:
        return False
    if frame.rows < 16 or frame.columns < 16 or {"SE", "EP"} & set(kind.scanning_sequence):
        return False
    if kind.echo_pulse_sequence == "SPIN" or kind.echo_planar == "YES":
        return False
    inversion_ms = kind.inversion_time_ms
    if inversion_ms is not None and not _INVERSION_MS[0] <= inversion_ms <= _INVERSION_MS[1]:
        return False
    return not _is_phase(kind)


def _is_phase(kind: Acquisition) -> bool:
    stated = bool({"P", "PHASE", "I", "IMAGINARY"} & set(kind.image_type))
    return (stated and "PSIR" not in kind.image_type) or kind.complex_component in {"PHASE", "IMAGINARY"}


def _stated(kind: Acquisition) -> Reconstruction | None:
    """Reconstruction by ImageType or ComplexImageComponent; ``None`` where they do not say (GE)."""
    image_type = set(kind.image_type)
    if image_type & _PHASE_SENSITIVE or kind.complex_component == "REAL":
        return Reconstruction.PHASE_SENSITIVE
    if image_type & _MAGNITUDE or kind.complex_component == "MAGNITUDE":
        return Reconstruction.MAGNITUDE
    return None


def _seen(image: NDArray[np.float32]) -> Reconstruction:
    """Reconstruction by the grey values: negative ones, or air that is not dark."""
    border = np.concatenate([image[:3].ravel(), image[-3:].ravel(), image[:, :3].ravel(), image[:, -3:].ravel()])
    bright = float(np.percentile(image, 99))
    lifted = float(np.median(border)) > _AIR_LEVEL * bright
    return Reconstruction.PHASE_SENSITIVE if image.min() < 0 or lifted else Reconstruction.MAGNITUDE


@dataclass(frozen=True, slots=True, eq=False)
class EnhancementPlan:
    """Frames of one late-enhancement stack, one a slice, ascending along the normal."""

    view: View
    reconstruction: Reconstruction
    frames: tuple[FrameHeader, ...]


def plan_late_enhancement(
    frames: Sequence[FrameHeader], short_axis: Plane | None, decode: Decode
) -> tuple[list[EnhancementPlan], list[LeftOut]]:
    """Find the late-enhancement stacks among frames that are prepared by inversion.

    Parameters
    ----------
    frames : sequence of FrameHeader
        All frames that were left out as prepared by inversion.
    short_axis : Plane or None
        The short-axis cine: late enhancement within 20° of it is short axis.
    decode : callable
        Asked for one image of each series whose header does not say whether it is magnitude or phase sensitive.

    Returns
    -------
    plans : list of EnhancementPlan
    left_out : list of LeftOut
        Everything else.
    """
    left_out: list[LeftOut] = []
    usable: list[FrameHeader] = []
    for frame in frames:
        if may_be_late_enhancement(frame):
            usable.append(frame)
        else:
            left_out.append(LeftOut(OmissionReason.LATE_ENHANCEMENT, _NOT_SINGLE, (frame,)))
    groups: list[ParallelGroup] = []
    for group in parallel_groups(usable):
        single, several = _single_phase(group)
        left_out += several
        groups += parallel_groups(single)
    by_reconstruction: dict[Reconstruction, list[list[FrameHeader]]] = defaultdict(list)
    for group in _bundled(groups, short_axis):
        for reconstruction, members in _told_apart(group, decode).items():
            chosen, others = _one_a_position(group, members)
            by_reconstruction[reconstruction].append(chosen)
            left_out += others
    plans: list[EnhancementPlan] = []
    for reconstruction, stacks in by_reconstruction.items():
        found, others = _with_views(stacks, reconstruction, short_axis)
        plans += found
        left_out += others
    order, kinds = list(View), list(Reconstruction)
    plans.sort(key=lambda plan: (order.index(plan.view), -len(plan.frames), kinds.index(plan.reconstruction)))
    return plans, left_out


_NOT_SINGLE = "It is prepared by inversion, as late enhancement is."


def _single_phase(group: ParallelGroup) -> tuple[list[FrameHeader], list[LeftOut]]:
    """Leave out series with several images of unlike inversion time or phase at one position."""
    single: list[FrameHeader] = []
    left_out: list[LeftOut] = []
    for _, members in slice_positions(group):
        by_series: dict[tuple[object, ...], list[FrameHeader]] = defaultdict(list)
        for frame in members:
            by_series[(frame.origin.series_instance_uid, frame.acquisition.image_type)].append(frame)
        for part in by_series.values():
            moments = {(frame.acquisition.inversion_time_ms, frame.trigger_time_ms) for frame in part}
            if len(part) >= 3 and len(moments) >= 3:
                detail = f"{_NOT_SINGLE} It has {len(part)} images at this position: it runs through inversion times."
                left_out.append(LeftOut(OmissionReason.LATE_ENHANCEMENT, detail, tuple(part)))
            else:
                single += part
    return single, left_out


def _bundled(groups: Sequence[ParallelGroup], short_axis: Plane | None) -> list[ParallelGroup]:
    """Put groups in short-axis direction that are some degrees apart together."""
    bundles: list[list[ParallelGroup]] = []
    for group in sorted(groups, key=lambda group: (-len(group.frames), tuple(group.normal))):
        for bundle in bundles:
            lead = bundle[0]
            if (
                lead.frame_of_reference_uid == group.frame_of_reference_uid
                and _in_short_axis_direction(group.normal, short_axis)
                and angle_between(lead.normal, group.normal) <= ONE_STACK_DEG
            ):
                bundle.append(group)
                break
        else:
            bundles.append([group])
    return [merged(bundle) for bundle in bundles]


def _in_short_axis_direction(normal: NDArray[np.float64], short_axis: Plane | None) -> bool:
    if short_axis is None:
        return is_short_axis_direction(normal)
    return angle_between(normal, short_axis.normal) <= _SHORT_AXIS_WITHIN_DEG


def _told_apart(group: ParallelGroup, decode: Decode) -> dict[Reconstruction, list[FrameHeader]]:
    """Frames of a group by reconstruction: by header, and where that does not say by one image of the series."""
    found: dict[Reconstruction, list[FrameHeader]] = defaultdict(list)
    silent: dict[str, list[FrameHeader]] = defaultdict(list)
    for frame in group.frames:
        stated = _stated(frame.acquisition)
        if stated is None:
            silent[frame.origin.series_instance_uid].append(frame)
        else:
            found[stated].append(frame)
    for members in silent.values():
        image = decode(members[len(members) // 2])
        found[Reconstruction.MAGNITUDE if image is None else _seen(image)] += members
    return found


def _one_a_position(group: ParallelGroup, members: Sequence[FrameHeader]) -> tuple[list[FrameHeader], list[LeftOut]]:
    """Choose the latest frame at each position, all of the sequence that covers most positions."""
    keys = {frame.key for frame in members}
    positions = [[frame for frame in found if frame.key in keys] for _, found in slice_positions(group)]
    positions = [found for found in positions if found]
    families = {_family(frame) for frame in members}
    family = max(
        families,
        key=lambda family: (
            sum(any(_family(frame) == family for frame in found) for found in positions),
            max(_latest(frame) for frame in members if _family(frame) == family),
        ),
    )
    chosen: list[FrameHeader] = []
    left_out: list[LeftOut] = []
    for found in positions:
        of_family = [frame for frame in found if _family(frame) == family]
        best = max(of_family, key=_latest, default=None)
        if best is not None:
            chosen.append(best)
        others = tuple(frame for frame in found if frame is not best)
        if others:
            detail = "Late enhancement of this slice was acquired more than once; the latest was assembled."
            left_out.append(LeftOut(OmissionReason.REPEATED_ACQUISITION, detail, others))
    return chosen, left_out


def _family(frame: FrameHeader) -> tuple[object, ...]:
    kind = frame.acquisition
    return kind.sequence_name, kind.scanning_sequence, kind.acquisition_type


def _latest(frame: FrameHeader) -> tuple[bool, float, int, str]:
    moment = frame.acquired_s or frame.created_s or 0.0
    return distortion_corrected([frame]), moment, frame.series_number or 0, frame.origin.sop_instance_uid


def _with_views(
    stacks: Sequence[list[FrameHeader]], reconstruction: Reconstruction, short_axis: Plane | None
) -> tuple[list[EnhancementPlan], list[LeftOut]]:
    plans: list[EnhancementPlan] = []
    left_out: list[LeftOut] = []
    long: list[list[FrameHeader]] = []
    for frames in stacks:
        if not frames:
            continue
        plane = _plane(frames)
        if len(frames) >= _MIN_SHORT_AXIS_SLICES and _in_short_axis_direction(plane.normal, short_axis):
            plans.append(EnhancementPlan(View.SAX, reconstruction, tuple(frames)))
        elif len(frames) <= MAX_LONG_AXIS_SLICES and not _in_short_axis_direction(plane.normal, short_axis):
            long.append(frames)
        else:
            detail = f"Late enhancement of {len(frames)} parallel slices that are neither short axis nor long axis."
            left_out.append(LeftOut(OmissionReason.DIFFERENT_GEOMETRY, detail, tuple(frames)))
    views = classify_long_axis([_plane(frames) for frames in long], short_axis)
    plans += [EnhancementPlan(view, reconstruction, tuple(found)) for view, found in zip(views, long, strict=True)]
    return plans, left_out


def _plane(frames: Sequence[FrameHeader]) -> Plane:
    middle = frames[len(frames) // 2]
    kind = middle.acquisition
    grid = common_grid(frames)
    return Plane(grid.normal, image_centre(middle), f"{kind.series_description} {kind.protocol_name}", len(frames))


def assemble_late_enhancement(plan: EnhancementPlan, decode: Decode) -> LateEnhancementStack | None:
    """Decode the images of a plan onto one grid; ``None`` when none of them can be decoded."""
    grid = common_grid(plan.frames)
    decoded = [(frame, decode(frame)) for frame in plan.frames]
    decoded.sort(key=lambda pair: float(image_centre(pair[0]) @ grid.normal))
    frames = [frame for frame, image in decoded if image is not None]
    if not frames:
        return None
    placements = [place(frame, grid) for frame in frames]
    images = [image for _, image in decoded if image is not None]
    positions = np.array(
        [
            frame.position if placed.position is None else placed.position
            for frame, placed in zip(frames, placements, strict=True)
        ],
        dtype=np.float64,
    )
    thickness, stated = thickness_of_slices(frames, positions @ grid.normal)
    return LateEnhancementStack(
        view=plan.view,
        reconstruction=plan.reconstruction,
        pixels=np.stack([placed.apply(image) for placed, image in zip(placements, images, strict=True)]),
        geometry=StackGeometry(
            positions=positions,
            row_direction=grid.row_direction,
            column_direction=grid.column_direction,
            pixel_spacing=grid.pixel_spacing,
            slice_thickness=thickness,
            thickness_stated=stated,
        ),
        sources=tuple(frame_source(frame) for frame in frames),
        inversion_times_ms=_numbers([frame.acquisition.inversion_time_ms for frame in frames]),
        trigger_times_ms=_numbers([frame.trigger_time_ms for frame in frames]),
        acquired_s=_numbers([frame.acquired_s for frame in frames]),
        frame_of_reference_uid=frames[0].frame_of_reference_uid,
        regridded_slices=tuple(i for i, placed in enumerate(placements) if placed.position is not None),
        interpolated_slices=tuple(i for i, placed in enumerate(placements) if placed.interpolated),
    )


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
