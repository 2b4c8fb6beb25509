"""Choosing one complete acquisition for each slice position and bringing slices to a common set of phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.expected import expected_phases, most_frequent
from pipelines.cine.geometry import ParallelGroup, slice_positions
from pipelines.cine.headers import FrameHeader
from pipelines.cine.phases import (
    Ordered,
    OrderedBy,
    acquisitions,
    beats_apart,
    declared_phases,
    distortion_corrected,
    free_running,
    order_phases,
    rr_interval,
    without_order,
)
from pipelines.cine.regrid import Grid, Placement, common_grid, image_centre, orthonormal, place
from pipelines.cine.selection import (
    MIN_PHASES,
    MIN_SCORE,
    CineKind,
    cine_kind,
    cine_score,
    described_otherwise,
    sequence_kind,
    under_stress,
)
from pipelines.cine.stack import FrameSource, OmissionReason

__all__ = [
    "LeftOut",
    "PhaseMix",
    "SlicePlan",
    "StackPlan",
    "along",
    "continued",
    "flow_magnitude",
    "frame_source",
    "not_chosen",
    "plan_slices",
    "plan_stack",
    "rank",
]

_RETROSPECTIVE_COVERAGE = 0.85
"""Phases that span less of the RR interval are prospectively gated: late diastole is missing."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Frames that were left out, and why."""

    reason: OmissionReason
    detail: str
    frames: tuple[FrameHeader, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SlicePlan:
    """One acquisition at one slice position.

    Attributes
    ----------
    along : float
        Distance along the normal, mm.
    frames : tuple of N FrameHeader
        In order of phase.
    times_ms : (N,) float64
        Trigger times; NaN where neither trigger times nor an RR interval are known.
    cycle : (N,) float64
        Normalised time of each frame, 0 to 1.
    phases : int
        Number of phases the acquisition has when complete: N, or N + 1 when one frame is missing.
    missing : int or None
        Phase to interpolate.
    """

    along: float
    frames: tuple[FrameHeader, ...]
    times_ms: NDArray[np.float64]
    cycle: NDArray[np.float64]
    phases: int
    missing: int | None
    rr_ms: float
    coverage: float
    by: OrderedBy
    certain: bool
    """Whether ``by`` alone decides the order; else the pixels must agree."""


@dataclass(frozen=True, slots=True)
class PhaseMix:
    """A phase of a slice as a mix of two acquired frames: (1 - weight) · first + weight · second."""

    first: int
    second: int
    weight: float

    @property
    def nearest(self) -> int:
        """Index of the frame that contributes most."""
        return self.first if self.weight <= 0.5 else self.second


@dataclass(frozen=True, slots=True, eq=False)
class StackPlan:
    """Which frames make a stack, before any pixel is read."""

    group: ParallelGroup
    grid: Grid
    slices: tuple[SlicePlan, ...]
    """Ascending along the normal of ``grid``."""
    placements: tuple[Placement, ...]
    """How the images of each slice come to lie on ``grid``."""
    mixes: tuple[tuple[PhaseMix, ...], ...]
    """For each slice, one mix a phase."""
    times_ms: NDArray[np.float64]
    """(T, S) trigger times."""
    resampled: tuple[int, ...]
    retrospective: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    ordered: Ordered
    declared: int | None
    kind: CineKind

    @property
    def sequence(self) -> CineKind:
        """The kind whatever phase images there are."""
        return sequence_kind(self.ordered.frames[0].acquisition)

    @property
    def series(self) -> set[str]:
        return {frame.origin.series_instance_uid for frame in self.ordered.frames}


def plan_slices(group: ParallelGroup) -> tuple[list[SlicePlan], list[LeftOut]]:
    """Choose the cine acquisition of every slice position of a group.

    Returns
    -------
    slices : list of SlicePlan
        Ascending along the normal; at most one a position.
    left_out : list of LeftOut
        Everything else in the group.
    """
    left_out: list[LeftOut] = []
    places: list[_Place] = []
    for along, frames in slice_positions(group):
        candidates: list[_Candidate] = []
        for part in _acquisitions(group, frames):
            verdict = _not_cine(part)
            ordered = None if verdict is not None else order_phases(part)
            if (verdict is not None or ordered is None) and part[0].flow_magnitude:
                left_out.append(_as_flow(part))
            elif verdict is not None:
                left_out.append(LeftOut(*verdict, part))
            elif ordered is None:
                left_out.append(LeftOut(OmissionReason.NOT_CINE, without_order(part), part))
            else:
                candidates.append(_Candidate(ordered, declared_phases(part), cine_kind(part[0])))
        if candidates:
            places.append((along, candidates))

    places, of_other_kinds = _of_one_kind(places)
    left_out += of_other_kinds
    found = [candidate for _, candidates in places for candidate in candidates]
    norm = _Norm.of([one for one in found if one.kind is not CineKind.FLOW_MAGNITUDE] or found)
    slices: list[SlicePlan] = []
    for along, candidates in places:
        plans = [(_assess(along, candidate, norm), candidate) for candidate in candidates]
        usable = [(plan, candidate) for plan, candidate in plans if plan is not None]
        if not usable:
            for _, candidate in plans:
                left_out.append(
                    LeftOut(
                        OmissionReason.MISSING_FRAMES,
                        f"More than one of the {norm.expected(candidate)} phases is missing at slice position "
                        f"{along:.1f} mm: {len(candidate.ordered.frames)} received.",
                        candidate.ordered.frames,
                    )
                )
            continue
        chosen, _ = max(usable, key=lambda pair: rank(pair[0]))
        slices.append(chosen)
        for _, candidate in plans:
            if candidate.ordered.frames is not chosen.frames:
                left_out.append(not_chosen(candidate.ordered.frames, chosen.frames))
    slices, planned_twice = _of_one_prescription(group, slices)
    slices, crowded = _thin(slices)
    return slices, left_out + planned_twice + crowded


def _acquisitions(group: ParallelGroup, frames: Sequence[FrameHeader]) -> list[tuple[FrameHeader, ...]]:
    """Acquisitions at one position: never across grids, never cine together with magnitudes of flow."""
    grids = [list(frames)]
    if len(group.grids) > 1:
        here = {frame.key for frame in frames}
        grids = [[frame for frame in grid if frame.key in here] for grid in group.grids]
    parts = [[frame for frame in grid if frame.flow_magnitude is flow] for grid in grids for flow in (False, True)]
    return [found for part in parts if part for found in acquisitions(_canonical(part))]


_Place = tuple[float, list[_Candidate]]

_MOST_PLACES = 0.75


def _of_one_kind(places: Sequence[_Place]) -> tuple[list[_Place], list[LeftOut]]:
    """Keep the acquisitions of one kind, the best that covers nearly all positions, else the one that covers most.

    Acquisitions whose kind the headers do not tell go with either, but only where no acquisition of the kind lies.
    Magnitudes with phase images count for nothing here, and go with the cine of the sequence that they are of.
    """
    flow = [
        (along, [each for each in candidates if each.kind is CineKind.FLOW_MAGNITUDE]) for along, candidates in places
    ]
    cine = [
        (along, [each for each in candidates if each.kind is not CineKind.FLOW_MAGNITUDE])
        for along, candidates in places
    ]
    kept, left_out = _of_one_cine_kind([(along, candidates) for along, candidates in cine if candidates])
    if not any(candidates for _, candidates in flow):
        return kept, left_out
    used = dict(kept)
    # By itself such a magnitude is a cine only when it is balanced: flow is acquired spoiled.
    kinds = {each.kind for candidates in used.values() for each in candidates} or {CineKind.BALANCED}
    places = []
    for (along, magnitudes), (_, others) in zip(flow, cine, strict=True):
        alike = [each for each in magnitudes if each.sequence in kinds]
        # Where the only cine is of a kind that this stack is not made of, that is what is told.
        if any(each.kind is not CineKind.DOUBTFUL for each in others) and along not in used:
            alike = []
        left_out += [_of_another_kind(each) for each in magnitudes if all(each is not one for one in alike)]
        if together := [*used.get(along, ()), *alike]:
            places.append((along, together))
    return places, left_out


def _of_one_cine_kind(places: Sequence[_Place]) -> tuple[list[_Place], list[LeftOut]]:
    found = {candidate.kind for _, candidates in places for candidate in candidates}
    if len(found) < 2:
        return list(places), []
    covered = {kind: sum(any(each.kind is kind for each in candidates) for _, candidates in places) for kind in found}
    kinds = sorted(found - {CineKind.DOUBTFUL}, reverse=True)
    total = sum(any(each.kind is not CineKind.DOUBTFUL for each in candidates) for _, candidates in places)
    chosen = next((kind for kind in kinds if covered[kind] >= _MOST_PLACES * total), None)
    if chosen is None:
        chosen = max(kinds, key=lambda kind: (covered[kind], kind))
    beside = {
        series
        for _, candidates in places
        if any(each.kind is chosen for each in candidates)
        for each in candidates
        if each.kind is not chosen
        for series in each.series
    }
    kept: list[_Place] = []
    left_out: list[LeftOut] = []
    for along, candidates in places:
        of_kind = [each for each in candidates if each.kind is chosen]
        if not of_kind:
            of_kind = [
                each
                for each in candidates
                if each.kind is not CineKind.DOUBTFUL
                and CineKind.UNTOLD in {each.kind, chosen}
                and not each.series & beside
            ]
        if of_kind:
            kept.append((along, of_kind))
        left_out += [_of_another_kind(each) for each in candidates if all(each is not one for one in of_kind)]
    return kept, left_out


def _of_another_kind(candidate: _Candidate) -> LeftOut:
    frames = candidate.ordered.frames
    if frames[0].flow_magnitude:
        return _as_flow(frames)
    described = described_otherwise(frames[0].acquisition)
    if described is not None:
        return LeftOut(described, f"Its description says {described}, and a cine of these slices is there.", frames)
    return LeftOut(
        OmissionReason.OTHER_SEQUENCE,
        "It was acquired by another kind of sequence than the cine that was used for its stack.",
        frames,
    )


def _as_flow(frames: tuple[FrameHeader, ...]) -> LeftOut:
    detail = "Phase images of flow were acquired with it: it is their magnitude."
    return LeftOut(OmissionReason.FLOW, detail, frames)


def flow_magnitude(plan: StackPlan) -> bool:
    """Tell whether a stack has no slice but magnitudes with phase images."""
    return all(part.frames[0].flow_magnitude for part in plan.slices)


def _canonical(frames: Sequence[FrameHeader]) -> list[FrameHeader]:
    return sorted(frames, key=lambda frame: frame.key)


def _not_cine(frames: Sequence[FrameHeader]) -> tuple[OmissionReason, str] | None:
    """Reason why the frames of one acquisition at one position are not a segmented cine."""
    kind = frames[0].acquisition
    described = described_otherwise(kind)
    if beats_apart(frames):
        return OmissionReason.PERFUSION, "Each of its images comes from another heart beat."
    if free_running(frames):
        return OmissionReason.REAL_TIME, "Its images run on over several heart beats (real-time imaging)."
    declared = declared_phases(frames)
    if len(frames) < MIN_PHASES:
        if described is not None:
            return described, f"It has {len(frames)} images at this position and its description says {described}."
        if declared is not None and declared >= MIN_PHASES:
            return OmissionReason.MISSING_FRAMES, f"{len(frames)} of {declared} phases were received at this position."
        return (
            (OmissionReason.TOO_FEW_PHASES, f"It has {len(frames)} phases at this position; a cine has {MIN_PHASES}.")
            if len(frames) > 1
            else (OmissionReason.NOT_CINE, "It has one image at this position.")
        )
    gated = rr_interval(frames) is not None or order_by_trigger(frames)
    if cine_score(kind, len(frames), gated) < MIN_SCORE:
        return described or OmissionReason.NOT_CINE, "Its sequence and timing do not look like a cine."
    return None


def order_by_trigger(frames: Sequence[FrameHeader]) -> bool:
    """Tell whether trigger times alone put the frames in order."""
    ordered = order_phases(frames)
    return ordered is not None and ordered.step_ms is not None


@dataclass(frozen=True, slots=True)
class _Norm:
    """What is usual among the acquisitions of a group, against which a missing frame shows."""

    phases: int
    start: float
    """Usual first trigger time, in steps."""
    declared_is_right: bool
    step_ms: float | None

    @classmethod
    def of(cls, candidates: Sequence[_Candidate]) -> _Norm:
        phases = most_frequent(candidate.ordered.slots[-1] + 1 for candidate in candidates) or 0
        usual = [candidate for candidate in candidates if candidate.ordered.slots[-1] + 1 == phases]
        steps = [step for candidate in usual if (step := candidate.ordered.step_ms)]
        starts = [
            first / step
            for candidate in usual
            if (step := candidate.ordered.step_ms)
            and (first := candidate.ordered.frames[0].trigger_time_ms) is not None
        ]
        declared = [candidate.declared for candidate in usual if candidate.declared is not None]
        return cls(
            phases=phases,
            start=float(np.median(starts)) if starts else 0.0,
            # A whole group with fewer phases than declared was planned so: the declared number is then of no use.
            declared_is_right=any(value == phases for value in declared) or len(usual) < 3,
            step_ms=float(np.median(steps)) if steps else None,
        )

    def expected(self, candidate: _Candidate) -> int:
        """Number of phases of an acquisition when it is complete."""
        span = candidate.ordered.slots[-1] + 1
        step = candidate.ordered.step_ms
        rr = rr_interval(candidate.ordered.frames)
        if step is not None and rr is not None and self.leading(candidate) == 0 and round(rr / step) == span:
            return span
        same_step = step is None or self.step_ms is None or abs(step - self.step_ms) < 0.01 * self.step_ms
        return expected_phases(
            span,
            declared=candidate.declared if self.declared_is_right else None,
            usual=self.phases,
            as_usual=same_step and self.phases - span <= 2,
        )

    def leading(self, candidate: _Candidate) -> int:
        """Number of phases missing before the first one."""
        step, first = candidate.ordered.step_ms, candidate.ordered.frames[0].trigger_time_ms
        whole = len(candidate.ordered.frames) >= self.phases
        if whole or candidate.ordered.anchored or step is None or first is None:
            return 0
        # A delay of less than a few steps beyond what is usual is a lost frame; more is a trigger delay.
        lost = round(first / step - self.start)
        return lost if 0 < lost <= 3 else 0


def _assess(along: float, candidate: _Candidate, norm: _Norm) -> SlicePlan | None:
    """Plan of one acquisition, or ``None`` when more than one frame is missing."""
    ordered = candidate.ordered
    leading = norm.leading(candidate)
    expected = max(norm.expected(candidate), ordered.slots[-1] + 1 + leading)
    slots = np.asarray(ordered.slots) + leading
    missing = sorted(set(range(expected)) - set(slots.tolist()))
    if len(missing) > 1:
        return None
    step = ordered.step_ms
    stated = rr_interval(ordered.frames)
    if step is not None:
        times = np.array([frame.trigger_time_ms for frame in ordered.frames], dtype=np.float64)
        span = float(times[-1] - times[0]) + step
        # An RR interval shorter than what the phases span is not one.
        rr = stated if stated is not None and stated >= 0.97 * span else expected * step
        coverage = min(1.0, expected * step / rr)
        cycle = times / rr
    else:
        rr = stated if stated is not None else float("nan")
        cycle = slots / expected
        times = cycle * rr
        coverage = 0.0 if _prospective(ordered.frames) else 1.0
    return SlicePlan(
        along=along,
        frames=ordered.frames,
        times_ms=times,
        cycle=cycle,
        phases=expected,
        missing=missing[0] if missing else None,
        rr_ms=rr,
        coverage=coverage,
        by=ordered.by,
        certain=ordered.certain,
    )


def _prospective(frames: Sequence[FrameHeader]) -> bool:
    return any(frame.acquisition.synchronization == "PROSPECTIVE" for frame in frames)


def rank(plan: SlicePlan) -> tuple[CineKind, bool, bool, bool, float, int, int, str]:
    """The kind first, then at rest, then complete, then distortion corrected, then the latest."""
    latest = max((frame.acquired_s or frame.created_s or 0.0) for frame in plan.frames)
    return (
        cine_kind(plan.frames[0]),
        not under_stress(plan.frames[0].acquisition),
        plan.missing is None,
        distortion_corrected(plan.frames),
        latest,
        max(frame.series_number or 0 for frame in plan.frames),
        max(frame.acquisition_number or 0 for frame in plan.frames),
        max(frame.origin.sop_instance_uid for frame in plan.frames),
    )


def not_chosen(frames: tuple[FrameHeader, ...], chosen: Sequence[FrameHeader]) -> LeftOut:
    """How to report frames in favour of which others at the same position were chosen."""
    if frames[0].flow_magnitude and not chosen[0].flow_magnitude:
        return _as_flow(frames)
    if cine_kind(frames[0]) < cine_kind(chosen[0]):
        return LeftOut(
            OmissionReason.OTHER_SEQUENCE,
            "A cine of a better suited sequence (balanced rather than spoiled) was used for this slice.",
            frames,
        )
    if under_stress(frames[0].acquisition) and not under_stress(chosen[0].acquisition):
        detail = "A cine of this slice at rest was used; the description of this one says stress."
        return LeftOut(OmissionReason.REPEATED_ACQUISITION, detail, frames)
    if frames[0].acquisition.image_type != chosen[0].acquisition.image_type:
        return LeftOut(
            OmissionReason.DUPLICATE,
            "Another reconstruction of the same slice was used (distortion corrected, complete or later).",
            frames,
        )
    together = {(frame.origin.series_instance_uid, frame.acquisition_number) for frame in (*frames, *chosen)}
    times = {frame.trigger_time_ms for frame in chosen}
    if len(together) == 1 and None not in times and all(frame.trigger_time_ms in times for frame in frames):
        return LeftOut(
            OmissionReason.REPEATED_ACQUISITION,
            "Other images of its series with the same trigger times were used; nothing tells them from a repeat.",
            frames,
        )
    return LeftOut(
        OmissionReason.REPEATED_ACQUISITION,
        "The slice was acquired more than once; the latest complete acquisition was used.",
        frames,
    )


def _of_one_prescription(group: ParallelGroup, slices: Sequence[SlicePlan]) -> tuple[list[SlicePlan], list[LeftOut]]:
    """Remove slices that overlap those of another grid, between them: of a stack that was planned again."""
    if len(group.grids) == 1 or len(slices) < 3:
        return list(slices), []
    grid_of = {frame.key: index for index, grid in enumerate(group.grids) for frame in grid}
    by_grid: dict[int, list[SlicePlan]] = {}
    for plan in slices:
        by_grid.setdefault(grid_of[plan.frames[0].key], []).append(plan)
    # A grid of nothing but magnitudes with phase images leads only when there is no other.
    main = max(
        by_grid.values(),
        key=lambda plans: (
            any(not plan.frames[0].flow_magnitude for plan in plans),
            len(plans),
            max(rank(plan) for plan in plans),
        ),
    )
    places = np.array([plan.along for plan in main])
    if len(places) < 3:
        return list(slices), []
    thickness = float(np.median([plan.frames[0].slice_thickness or 0.0 for plan in main]))
    clear = 0.9 * (thickness or float(np.diff(places).min()))
    kept: list[SlicePlan] = []
    left_out: list[LeftOut] = []
    for plan in slices:
        nearest = int(np.abs(places - plan.along).argmin())
        overlaps = abs(places[nearest] - plan.along) < clear and places[0] < plan.along < places[-1]
        if overlaps and all(plan is not one for one in main):
            left_out.append(not_chosen(plan.frames, main[nearest].frames))
        else:
            kept.append(plan)
    return kept, left_out


def _thin(slices: list[SlicePlan]) -> tuple[list[SlicePlan], list[LeftOut]]:
    """Remove slices repeated at a slightly other position: closer than half the usual pitch or the thickness."""
    left_out: list[LeftOut] = []
    while len(slices) > 1:
        gaps = np.diff([plan.along for plan in slices])
        thickness = float(np.median([plan.frames[0].slice_thickness or 0.0 for plan in slices]))
        usual = max(thickness, float(np.median(gaps)) if len(gaps) > 1 else 0.0)
        close = np.flatnonzero(gaps < 0.5 * usual)
        if not len(close):
            break
        pair = slices[close[0]], slices[close[0] + 1]
        loser = min(pair, key=rank)
        left_out.append(not_chosen(loser.frames, max(pair, key=rank).frames))
        slices = [plan for plan in slices if plan is not loser]
    return slices, left_out


def frame_source(frame: FrameHeader) -> FrameSource:
    """Where a frame came from, as the stacks tell it."""
    return FrameSource(
        sop_class_uid=frame.origin.sop_class_uid,
        sop_instance_uid=frame.origin.sop_instance_uid,
        series_instance_uid=frame.origin.series_instance_uid,
        frame_number=frame.frame_number,
        instance_number=frame.instance_number,
        trigger_time_ms=frame.trigger_time_ms,
        series_number=frame.series_number,
    )


def along(slices: Sequence[SlicePlan], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions of slices along a normal, mm: that of the centres of their images."""
    return np.array([image_centre(plan.frames[0]) @ normal for plan in slices])


_CONTINUES_DEG = 15.0
_CONTINUES_ASIDE_MM = 60.0
_LEFT_OUT_AS_GEOMETRY = frozenset({OmissionReason.DIFFERENT_GEOMETRY, OmissionReason.OTHER_SEQUENCE})


def continued(main: StackPlan, left_out: Sequence[LeftOut]) -> list[LeftOut]:
    """Name as such what was left out although it continues the short axis.

    That is a cine of two slices or more, nearly parallel to the stack and as far apart as its slices, that lie where
    the stack has none: beyond one of its ends, within two slice distances of it, or in a gap. One slice is an extra
    one: how well the stack covers the ventricle then shows from the stack itself.

    Parameters
    ----------
    main : StackPlan
        The short-axis stack.
    left_out : sequence of LeftOut
        All that no stack took.

    Returns
    -------
    list of LeftOut
        The same, in the same order; what continues the stack has the reason ``CONTINUED_ELSEWHERE``.
    """
    normal = main.grid.normal
    own = np.sort(along(main.slices, normal))
    pitch = float(np.median(np.diff(own)))
    centre = image_centre(main.slices[len(main.slices) // 2].frames[0])

    def places(entry: LeftOut) -> list[float]:
        frames = {frame.position: frame for frame in entry.frames}.values()
        if entry.reason not in _LEFT_OUT_AS_GEOMETRY or any(frame.orientation is None for frame in frames):
            return []
        found = []
        for frame in frames:
            across = np.cross(*orthonormal(frame.orientation or ()))
            away = image_centre(frame) - centre
            aside = np.linalg.norm(away - (away @ normal) * normal)
            if abs(across @ normal) >= np.cos(np.radians(_CONTINUES_DEG)) and aside <= _CONTINUES_ASIDE_MM:
                found.append(float(image_centre(frame) @ normal))
        return found

    where = [[place for place in places(entry) if np.abs(own - place).min() > 0.5 * pitch] for entry in left_out]
    outside = np.unique(np.round([place for found in where for place in found], 1))
    if len(outside) < 2 or not 0.7 <= float(np.median(np.diff(outside))) / pitch <= 1.4:
        return list(left_out)
    if min(float(np.abs(own - place).min()) for place in outside) > 2 * pitch:
        return list(left_out)
    detail = (
        f"{len(outside)} slices continue the short-axis stack but have another Frame of Reference, direction or "
        "sequence and cannot be measured with it."
    )
    return [
        replace(entry, reason=OmissionReason.CONTINUED_ELSEWHERE, detail=detail) if found else entry
        for entry, found in zip(left_out, where, strict=True)
    ]


def plan_stack(group: ParallelGroup, slices: Sequence[SlicePlan]) -> StackPlan:
    """Bring slices to the most frequent number of phases.

    Slices with that many phases stay as acquired. One missing frame is interpolated from its neighbours in time,
    and a slice with another number of phases is resampled, both linearly in normalised cyclic time (in time after
    the R wave, without wrapping around, where the gating was prospective). Slices whose images lie on another pixel
    grid than most are placed on that of most.
    """
    grid = common_grid([plan.frames[0] for plan in slices])
    slices = sorted(slices, key=lambda plan: float(image_centre(plan.frames[0]) @ grid.normal))
    phases = most_frequent(plan.phases for plan in slices) or 0
    retrospective = float(np.median([plan.coverage for plan in slices])) >= _RETROSPECTIVE_COVERAGE
    regular = [plan for plan in slices if plan.phases == phases and plan.missing is None]
    model = regular or [plan for plan in slices if plan.phases == phases]
    target = np.median([_full_cycle(plan) for plan in model], axis=0)
    target_ms = np.median([_full_times(plan) for plan in model], axis=0)

    mixes: list[tuple[PhaseMix, ...]] = []
    times = np.empty((phases, len(slices)))
    resampled: list[int] = []
    for index, plan in enumerate(slices):
        if plan.phases == phases:
            wanted, times[:, index] = _full_cycle(plan), _full_times(plan)
            mixes.append(_mixes(plan.cycle, wanted, cyclic=True))
        elif retrospective or not np.isfinite(target_ms).all() or not np.isfinite(plan.times_ms).all():
            times[:, index] = target * plan.rr_ms
            mixes.append(_mixes(plan.cycle, target, cyclic=True))
        else:
            times[:, index] = target_ms
            mixes.append(_mixes(plan.times_ms, target_ms, cyclic=False))
        if plan.phases != phases or plan.missing is not None:
            resampled.append(index)
    return StackPlan(
        group=group,
        grid=grid,
        slices=tuple(slices),
        placements=tuple(place(plan.frames[0], grid) for plan in slices),
        mixes=tuple(mixes),
        times_ms=times,
        resampled=tuple(resampled),
        retrospective=retrospective,
    )


def _with_missing(plan: SlicePlan, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of all phases, the missing one put between its neighbours (or beyond the end, one step on)."""
    if plan.missing is None:
        return values
    gap, count = plan.missing, len(values)
    if gap == 0:
        extra = 2 * values[0] - values[1]
    elif gap == count:
        extra = 2 * values[-1] - values[-2]
    else:
        extra = (values[gap - 1] + values[gap]) / 2
    return np.insert(values, gap, extra)


def _full_cycle(plan: SlicePlan) -> NDArray[np.float64]:
    return _with_missing(plan, plan.cycle)


def _full_times(plan: SlicePlan) -> NDArray[np.float64]:
    return _with_missing(plan, plan.times_ms)


def _mixes(have: NDArray[np.float64], want: NDArray[np.float64], *, cyclic: bool) -> tuple[PhaseMix, ...]:
    """Linear interpolation weights from times ``have`` (ascending) to times ``want``."""
    result: list[PhaseMix] = []
    count = len(have)
    for time in want:
        exact = np.flatnonzero(np.abs(have - time) < 1e-9)
        if len(exact):
            result.append(PhaseMix(int(exact[0]), int(exact[0]), 0.0))
            continue
        after = int(np.searchsorted(have, time))
        if not cyclic and after in (0, count):
            edge = 0 if after == 0 else count - 1
            result.append(PhaseMix(edge, edge, 0.0))
            continue
        first, second = (after - 1) % count, after % count
        start = have[first] - (1.0 if after == 0 else 0.0)
        stop = have[second] + (1.0 if after == count else 0.0)
        weight = float((time - start) / (stop - start)) if stop > start else 0.0
        result.append(PhaseMix(first, second, min(1.0, max(0.0, weight))))
    return tuple(result)
