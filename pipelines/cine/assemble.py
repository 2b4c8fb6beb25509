"""Assembling cine stacks across series, from geometry and time."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pipelines.cine import elements
from pipelines.cine.declared import MAX_STUDY_PIXELS, DeclaredError
from pipelines.cine.decoder import start_decoder
from pipelines.cine.elements import number, text
from pipelines.cine.enhancement import assemble_late_enhancement, plan_late_enhancement
from pipelines.cine.files import dicom_files
from pipelines.cine.geometry import ParallelGroup, merged, parallel_groups, thickness_of_slices
from pipelines.cine.headers import FrameHeader, frame_headers, origin
from pipelines.cine.order import disorder, median_allowed, shows_again, single_allowed
from pipelines.cine.phases import OrderedBy, stated_repeats
from pipelines.cine.pixels import DecoderStoppedError, PixelFormat, UndecodableError, check_frame, decode_frame
from pipelines.cine.reading import read_object
from pipelines.cine.regrid import image_centre
from pipelines.cine.selection import excluded_frame, excluded_object, flow_magnitudes
from pipelines.cine.slices import (
    LeftOut,
    SlicePlan,
    StackPlan,
    along,
    continued,
    flow_magnitude,
    frame_source,
    not_chosen,
    plan_slices,
    plan_stack,
    rank,
)
from pipelines.cine.stack import (
    CineStack,
    CineStudy,
    FrameSource,
    LateEnhancementStack,
    Omission,
    OmissionReason,
    PhaseEncoding,
    StackGeometry,
    StudyContext,
    View,
)
from pipelines.cine.views import (
    MAX_LONG_AXIS_SLICES,
    ONE_STACK_DEG,
    Plane,
    ShortAxisEvidence,
    angle_between,
    classify_long_axis,
    short_axis_evidence,
)
from pipelines.errors import raised_along

__all__ = ["assemble", "assemble_datasets", "dicom_files"]

_log = structlog.get_logger(__name__)

MIN_SHORT_AXIS_SLICES = 3
SHORT_AXIS_PITCH_MM = (1.5, 20.5)
"""From thin stacks, on which the apical cap has slices of its own, to sparse ones."""
THIN_MM = 4.5
MIN_SHORT_AXIS_EXTENT_MM = 25.0
"""Thin slices over less than this, a third of a ventricle, are something else; three of 9 mm are more."""

_ONE_POSITION_MM = 2.0
_ONE_STACK_ASIDE_MM = 100.0
"""What another field of view may move the centre of an image by."""

_DEFER_BYTES = 65536
"""Elements above this size stay on disk until they are asked for: pixel data of frames that nobody chooses."""


_QUOTED = re.compile(r" \('[^']*'\)")
_MAX_DEATHS = 2
"""Frames of one study that the decoder does not survive; then no more of its compressed frames are tried."""


class _NotDicomError(ValueError):
    """A data set is no DICOM object."""


@dataclass(slots=True)
class _Study:
    """What was read of one study."""

    datasets: dict[str, Dataset] = field(default_factory=dict)
    """By SOPInstanceUID; MR images only."""
    frames: list[FrameHeader] = field(default_factory=list)
    omissions: list[Omission] = field(default_factory=list)


def assemble(paths: Iterable[Path], seen: Callable[[Path, Dataset], None] | None = None) -> list[CineStudy]:
    """Assemble the cine stacks of DICOM files.

    Parameters
    ----------
    paths : iterable of Path
        Files in any order; of several studies, with other modalities among them. Files that cannot be read become
        omissions (of the only study, or of a study with an empty UID when there are several).
    seen : callable, optional
        Told each file and its data set as it was read, before anything is made of it: whoever needs the headers, too,
        need not read the files again. Large elements, pixel data among them, are still on disk.

    Returns
    -------
    list of CineStudy
        One a study, ordered by StudyInstanceUID; also for studies without any cine.

    Raises
    ------
    OSError
        Storage does not give a file, or what is left of it: a stack without its frames would be another one.
    """
    datasets: list[Dataset] = []
    unreadable: list[Omission] = []
    for path in paths:
        try:
            dataset = read_object(path, defer_size=_DEFER_BYTES, force=True)
            if not dataset:
                raise ValueError("it holds no DICOM element")
        except elements.DAMAGE as error:
            if elements.of_storage(error):
                raise
            detail = f"A file could not be read as DICOM ({type(error).__name__})."
            unreadable.append(Omission(OmissionReason.UNREADABLE, detail, None, ()))
            continue
        datasets.append(dataset)
        if seen is not None:
            seen(path, dataset)
        if len(datasets) == 1 and _goes_apart(dataset):
            start_decoder()
    return _assembled(datasets, unreadable)


def assemble_datasets(datasets: Iterable[Dataset]) -> list[CineStudy]:
    """Assemble the cine stacks of data sets that hold their pixel data; otherwise as `assemble`."""
    return _assembled(datasets, [])


def _goes_apart(dataset: Dataset) -> bool:
    """Tell whether the frames of an object go to the decoder in the other process."""
    try:
        return PixelFormat.of(dataset).apart
    except UndecodableError:
        return False


def _assembled(datasets: Iterable[Dataset], unreadable: Sequence[Omission]) -> list[CineStudy]:
    studies: dict[str, _Study] = defaultdict(_Study)
    for dataset in datasets:
        try:
            _take(dataset, studies)
        except elements.DAMAGE as error:
            if elements.of_storage(error):
                raise
            if not isinstance(error, _NotDicomError):
                # Headers are read without raising, whatever is in them: this is a defect, or damage nobody foresaw.
                _log.error("header not read", error=type(error).__name__, at=raised_along(error))
            detail = f"An object is not DICOM or its header is damaged ({type(error).__name__})."
            unreadable = [*unreadable, Omission(OmissionReason.UNREADABLE, detail, None, ())]
    if unreadable:
        key = next(iter(studies)) if len(studies) == 1 else ""
        studies[key].omissions.extend(unreadable)
    return [_study(uid, studies[uid]) for uid in sorted(studies)]


def _take(dataset: Dataset, studies: dict[str, _Study]) -> None:
    """Read the header of one data set into its study.

    Raises
    ------
    _NotDicomError
        It is not a DICOM object of any study.
    """
    identity = origin(dataset)
    if not identity.study_instance_uid and not identity.sop_class_uid:
        raise _NotDicomError("neither StudyInstanceUID nor SOPClassUID")
    study = studies[identity.study_instance_uid]

    def omit(reason: OmissionReason, detail: str) -> None:
        study.omissions.append(
            Omission(reason, detail, identity.series_instance_uid or None, (identity.sop_instance_uid,))
        )

    verdict = excluded_object(identity)
    if verdict is not None:
        omit(verdict.reason, verdict.detail)
    elif not identity.sop_instance_uid:
        omit(OmissionReason.UNREADABLE, "The object has no SOPInstanceUID.")
    elif identity.sop_instance_uid in study.datasets:
        omit(OmissionReason.DUPLICATE, "The same object was given more than once.")
    else:
        try:
            study.frames.extend(frame_headers(dataset, identity=identity))
        except DeclaredError as error:
            omit(OmissionReason.UNREADABLE, str(error))
        else:
            study.datasets[identity.sop_instance_uid] = dataset


def _study(uid: str, study: _Study) -> CineStudy:
    cine: list[FrameHeader] = []
    left_out: list[LeftOut] = []
    said: dict[tuple[str, str], str] = {}
    for frame in sorted(study.frames, key=lambda frame: frame.key):
        verdict = excluded_frame(frame)
        if verdict is None:
            cine.append(frame)
        else:
            # Of the values that cannot be read, one is quoted for all images of the series.
            same = (frame.origin.series_instance_uid, _QUOTED.sub("", verdict.detail))
            left_out.append(LeftOut(verdict.reason, said.setdefault(same, verdict.detail), (frame,)))
    flow = flow_magnitudes(
        cine, [frame for entry in left_out for frame in entry.frames if entry.reason is OmissionReason.FLOW]
    )
    cine = [replace(frame, flow_magnitude=True) if frame.key in flow else frame for frame in cine]
    # A frame that cannot be decoded shows only now; the plan is then made again without it.
    decoding = _Decoding(study.datasets)
    while True:
        plans, rejected = _plan(cine)
        plans, too_large = _within_limit(plans)
        # Before anything is made in the size that headers declare.
        decoding.check(frame for one in plans for frame in _frames(one.plan))
        stacks = [] if decoding.undecodable else [_stack(one, decoding) for one in plans]
        if not decoding.undecodable and not decoding.contradicted and not decoding.repeated:
            break
        left_out.extend(decoding.undecodable.values())
        cine = [decoding.distrusting(frame) for frame in cine if frame.key not in decoding.undecodable]
        decoding.undecodable.clear()
        decoding.contradicted.clear()
        decoding.repeated.clear()
    enhanced, left_out = _late_enhancement(left_out, plans, decoding)
    omissions = [*study.omissions, *(_omission(entry) for entry in left_out + rejected + too_large)]
    result = CineStudy(
        context=_context(uid, study, stacks),
        stacks=tuple(stacks),
        omissions=_combined(omissions),
        late_enhancement=tuple(enhanced),
    )
    _log.info(
        "cine assembled",
        study_instance_uid=uid,
        stacks=[f"{stack.view} {stack.phases} phases {stack.slices} slices" for stack in stacks],
        late_enhancement=[f"{one.view} {one.reconstruction} {one.slices} slices" for one in enhanced],
        omissions=len(result.omissions),
    )
    return result


def _late_enhancement(
    left_out: Sequence[LeftOut], cine: Sequence[_Planned], decoding: _Decoding
) -> tuple[list[LateEnhancementStack], list[LeftOut]]:
    """Late enhancement among what was left out as prepared by inversion, and what of all is still left out."""
    prepared = [entry for entry in left_out if entry.reason is OmissionReason.LATE_ENHANCEMENT]
    if not prepared:
        return [], list(left_out)

    def decode(frame: FrameHeader) -> NDArray[np.float32] | None:
        if frame.key not in decoding.undecodable:
            decoding.check([frame])
        image = None if frame.key in decoding.undecodable else decoding.decode(frame)
        return None if frame.key in decoding.undecodable else image

    short_axis = next((_plane(one.plan) for one in cine if one.view is View.SAX), None)
    plans, rejected = plan_late_enhancement([frame for entry in prepared for frame in entry.frames], short_axis, decode)
    room = MAX_STUDY_PIXELS - sum(_pixels(one.plan) for one in cine)
    stacks: list[LateEnhancementStack] = []
    for plan in plans:
        room -= sum(frame.rows * frame.columns for frame in plan.frames)
        if room < 0:
            rejected.append(_too_large(plan.frames))
        elif (stack := assemble_late_enhancement(plan, decode)) is not None:
            stacks.append(stack)
    others = [entry for entry in left_out if entry.reason is not OmissionReason.LATE_ENHANCEMENT]
    return stacks, [*others, *rejected, *decoding.undecodable.values()]


@dataclass(frozen=True, slots=True, eq=False)
class _Planned:
    """A stack and its view."""

    plan: StackPlan
    view: View
    view_open: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Frames that share a grid, and the stack that they make by themselves."""

    group: ParallelGroup
    plan: StackPlan
    rejected: list[LeftOut]


def _plan(frames: Sequence[FrameHeader]) -> tuple[list[_Planned], list[LeftOut]]:
    """Stacks with their views, and what no stack takes."""
    left_out: list[LeftOut] = []
    groups: list[_Group] = []
    for group in parallel_groups(frames):
        slices, rejected = plan_slices(group)
        if slices:
            groups.append(_Group(group, plan_stack(group, slices), rejected))
        else:
            left_out += rejected
    bundles = _bundles(groups)
    short: list[_Planned] = []
    long: list[StackPlan] = []
    for bundle, evidence in zip(bundles, short_axis_evidence([_bundle_plane(one) for one in bundles]), strict=True):
        if evidence is ShortAxisEvidence.OTHER:
            left_out += [entry for one in bundle for entry in one.rejected]
            long += [one.plan for one in bundle]
        else:
            plan, rejected = _one_stack(bundle)
            left_out += rejected
            short.append(_Planned(plan, View.SAX, evidence is ShortAxisEvidence.OPEN))
    kept, again = _distinct([*(one.plan for one in short), *long])
    left_out += again
    main, unfit = _main_short_axis([one for one in short if one.plan in kept])
    left_out += unfit
    if main is not None:
        left_out = continued(main.plan, left_out)
    planes: list[StackPlan] = []
    for plan in (plan for plan in long if plan in kept):
        if len(plan.slices) > MAX_LONG_AXIS_SLICES:
            detail = f"A stack of {len(plan.slices)} parallel slices that is neither short axis nor long axis."
            left_out.append(_whole(plan, detail))
        else:
            planes.append(plan)
    views = classify_long_axis([_plane(plan) for plan in planes], None if main is None else _plane(main.plan))
    accepted = [_Planned(plan, view) for plan, view in zip(planes, views, strict=True)]
    order = list(View)
    accepted.sort(key=lambda one: (order.index(one.view), -len(one.plan.slices), _sort_key(one.plan)))
    return ([] if main is None else [main]) + accepted, left_out


def _bundles(groups: Sequence[_Group]) -> list[list[_Group]]:
    """Put groups of one Frame of Reference together whose normals are some degrees apart, in either sense."""
    bundles: list[list[_Group]] = []
    for one in sorted(groups, key=lambda one: (-len(one.plan.slices), -len(one.group.frames), _sort_key(one.plan))):
        for bundle in bundles:
            lead = bundle[0]
            in_one_frame = lead.group.frame_of_reference_uid == one.group.frame_of_reference_uid
            turned = angle_between(lead.plan.grid.normal, one.plan.grid.normal)
            if in_one_frame and turned <= ONE_STACK_DEG and _aside(one.plan, lead.plan) <= _ONE_STACK_ASIDE_MM:
                bundle.append(one)
                break
        else:
            bundles.append([one])
    return bundles


def _aside(plan: StackPlan, other: StackPlan) -> float:
    """Distance of the images' centres of two stacks across the normal, mm."""
    mine, theirs = _plane(plan), _plane(other)
    across = mine.centre - theirs.centre
    return float(np.linalg.norm(across - (across @ theirs.normal) * theirs.normal))


def _bundle_plane(bundle: Sequence[_Group]) -> Plane:
    """Plane of a bundle; its slices are the positions at which any of its groups has one."""
    lead = _plane(bundle[0].plan)
    if len(bundle) == 1:
        return lead
    along = np.sort([image_centre(part.frames[0]) @ lead.normal for one in bundle for part in one.plan.slices])
    return replace(lead, slices=1 + int((np.diff(along) > _ONE_POSITION_MM).sum()))


def _one_stack(bundle: Sequence[_Group]) -> tuple[StackPlan, list[LeftOut]]:
    """Stack of all groups of a bundle: planned anew, so that the choice between acquisitions is made across grids."""
    if len(bundle) == 1:
        return bundle[0].plan, bundle[0].rejected
    group = merged([one.group for one in bundle])
    slices, rejected = plan_slices(group)
    return plan_stack(group, slices), rejected


def _main_short_axis(short: Sequence[_Planned]) -> tuple[_Planned | None, list[LeftOut]]:
    """Short-axis stack with the most slices, and why the others are not measured."""
    fit: list[_Planned] = []
    left_out: list[LeftOut] = []
    for one in short:
        refusal = _unfit_short_axis(one.plan)
        if refusal is not None:
            left_out.append(_whole(one.plan, refusal))
        elif _pixels(one.plan) > MAX_STUDY_PIXELS:
            left_out.append(_too_large(_frames(one.plan)))
        else:
            fit.append(one)
    main = max(
        fit,
        key=lambda one: (
            not one.view_open,
            not flow_magnitude(one.plan),
            len(one.plan.slices),
            len(one.plan.mixes[0]),
        ),
        default=None,
    )
    for one in fit:
        if one is not main:
            detail = f"Another short-axis stack has more slices and was measured; this one has {len(one.plan.slices)}."
            left_out.append(_whole(one.plan, detail))
    return main, left_out


def _distinct(plans: Sequence[StackPlan]) -> tuple[list[StackPlan], list[LeftOut]]:
    """Drop stacks that show the slices of another one in another matrix or field of view, or with other axes."""

    def worth(plan: StackPlan) -> tuple[object, ...]:
        best = rank(plan.slices[len(plan.slices) // 2])
        return (not flow_magnitude(plan), best[0], len(plan.slices), *best[1:])

    kept: list[StackPlan] = []
    left_out: list[LeftOut] = []
    for plan in sorted(plans, key=worth, reverse=True):
        better = next((other for other in kept if _same_slices(plan, other)), None)
        if better is None:
            kept.append(plan)
        else:
            frames = tuple(frame for part in plan.slices for frame in part.frames)
            left_out.append(not_chosen(frames, better.slices[0].frames))
    return kept, left_out


def _same_slices(plan: StackPlan, other: StackPlan) -> bool:
    """Tell whether all slices of ``plan`` lie where ``other`` has some, in one frame of reference."""
    if plan.group.frame_of_reference_uid != other.group.frame_of_reference_uid:
        return False
    normal = other.grid.normal
    if angle_between(plan.grid.normal, normal) > 1.0 or _aside(plan, other) > 60.0:
        return False
    there = along(other.slices, normal)
    return all(np.abs(there - where).min() < 1.0 for where in along(plan.slices, normal))


def _sort_key(plan: StackPlan) -> tuple[float, ...]:
    return tuple(float(value) for value in (*plan.grid.normal, plan.slices[0].along))


def _whole(plan: StackPlan, detail: str) -> LeftOut:
    frames = tuple(frame for part in plan.slices for frame in part.frames)
    return LeftOut(OmissionReason.DIFFERENT_GEOMETRY, detail, frames)


def _unfit_short_axis(plan: StackPlan) -> str | None:
    count = len(plan.slices)
    if count < MIN_SHORT_AXIS_SLICES:
        return f"{count} slice(s) in short-axis direction; a short-axis stack has at least {MIN_SHORT_AXIS_SLICES}."
    pitch = float(np.median(np.diff([part.along for part in plan.slices])))
    if not SHORT_AXIS_PITCH_MM[0] <= pitch <= SHORT_AXIS_PITCH_MM[1]:
        return f"The slices in short-axis direction are {pitch:.1f} mm apart; a short-axis stack has 2 to 20 mm."
    if len(plan.slices) * pitch < MIN_SHORT_AXIS_EXTENT_MM and pitch < THIN_MM:
        return f"The slices in short-axis direction cover {len(plan.slices) * pitch:.0f} mm: too little of a ventricle."
    return None


def _plane(plan: StackPlan) -> Plane:
    middle = plan.slices[len(plan.slices) // 2].frames[0]
    kind = middle.acquisition
    description = f"{kind.series_description} {kind.protocol_name}"
    return Plane(plan.grid.normal, image_centre(middle), description, len(plan.slices))


def _geometry(plan: StackPlan) -> StackGeometry:
    positions = np.array(
        [
            np.median([frame.position for frame in part.frames], axis=0) if placed.position is None else placed.position
            for part, placed in zip(plan.slices, plan.placements, strict=True)
        ],
        dtype=np.float64,
    )
    frames = [frame for part in plan.slices for frame in part.frames]
    thickness, stated = thickness_of_slices(frames, positions @ plan.grid.normal)
    return StackGeometry(
        positions=positions,
        row_direction=plan.grid.row_direction,
        column_direction=plan.grid.column_direction,
        pixel_spacing=plan.grid.pixel_spacing,
        slice_thickness=thickness,
        thickness_stated=stated,
    )


def _within_limit(plans: Sequence[_Planned]) -> tuple[list[_Planned], list[LeftOut]]:
    """The stacks, the most wanted first, that `MAX_STUDY_PIXELS` leaves room for."""
    kept: list[_Planned] = []
    left_out: list[LeftOut] = []
    room = MAX_STUDY_PIXELS
    for one in plans:
        wanted = _pixels(one.plan)
        if wanted <= room:
            room -= wanted
            kept.append(one)
        else:
            left_out.append(_too_large(_frames(one.plan)))
    return kept, left_out


def _pixels(plan: StackPlan) -> int:
    """Pixels of the images of a stack, or of the stack that is made of them, whichever are more."""
    images = sum(frame.rows * frame.columns for frame in _frames(plan))
    return max(images, plan.grid.shape[0] * plan.grid.shape[1] * len(plan.mixes[0]) * len(plan.slices))


def _too_large(frames: tuple[FrameHeader, ...]) -> LeftOut:
    detail = (
        f"{len(frames)} images of {frames[0].rows} × {frames[0].columns} pixels are more than is decoded of one study "
        f"({MAX_STUDY_PIXELS // 1_000_000} million pixels)."
    )
    return LeftOut(OmissionReason.TOO_LARGE, detail, frames)


def _frames(plan: StackPlan) -> tuple[FrameHeader, ...]:
    return tuple(frame for part in plan.slices for frame in part.frames)


def _stack(planned: _Planned, decoding: _Decoding) -> CineStack:
    """Decode the frames of a plan; those that cannot be decoded are put into ``decoding.undecodable``."""
    plan = planned.plan
    phases = len(plan.mixes[0])
    pixels = np.empty((phases, len(plan.slices), *plan.grid.shape), dtype=np.float32)
    sources: list[list[FrameSource]] = [[] for _ in range(phases)]
    uncertain: list[tuple[SlicePlan, float | None]] = []
    for index, (part, placed, mixes) in enumerate(zip(plan.slices, plan.placements, plan.mixes, strict=True)):
        decoded = [placed.apply(decoding.decode(frame)) for frame in part.frames]
        if not part.certain and not decoding.undecodable:
            times = [frame.trigger_time_ms for frame in part.frames]
            if stated_repeats(part.frames) and shows_again(decoded, times):
                decoding.repeated.update(frame.key for frame in part.frames)
            else:
                uncertain.append((part, disorder(decoded)))
        for phase, mix in enumerate(mixes):
            first, second = decoded[mix.first], decoded[mix.second]
            pixels[phase, index] = first if mix.weight == 0 else first + np.float32(mix.weight) * (second - first)
            sources[phase].append(frame_source(part.frames[mix.nearest]))
    for part in _contradicted(uncertain):
        decoding.contradicted.update((frame.key, part.by) for frame in part.frames)
    return CineStack(
        view=planned.view,
        pixels=pixels,
        geometry=_geometry(plan),
        sources=tuple(tuple(row) for row in sources),
        trigger_times=plan.times_ms,
        rr_intervals=np.array([part.rr_ms for part in plan.slices]),
        frame_of_reference_uid=plan.group.frame_of_reference_uid or plan.slices[0].frames[0].frame_of_reference_uid,
        resampled_slices=plan.resampled,
        regridded_slices=tuple(i for i, placed in enumerate(plan.placements) if placed.position is not None),
        interpolated_slices=tuple(i for i, placed in enumerate(plan.placements) if placed.interpolated),
        retrospective=plan.retrospective,
        view_open=planned.view_open,
        phase_encoding=_phase_encoding(plan),
    )


_ENCODINGS = {"ROW": PhaseEncoding.ROW, "COL": PhaseEncoding.COLUMN, "COLUMN": PhaseEncoding.COLUMN}


def _phase_encoding(plan: StackPlan) -> PhaseEncoding | None:
    """Direction of phase encoding that all frames state; images on another grid may have had their axes exchanged."""
    stated = {_ENCODINGS.get(frame.phase_encoding) for frame in _frames(plan)}
    if len(stated) != 1 or any(placed.position is not None for placed in plan.placements):
        return None
    return stated.pop()


@dataclass(slots=True)
class _Decoding:
    """The frames of one study on their way to grey values."""

    datasets: dict[str, Dataset]
    formats: dict[str, PixelFormat] = field(default_factory=dict)
    undecodable: dict[tuple[str, int], LeftOut] = field(default_factory=dict)
    """What the last plan held and cannot be decoded."""
    contradicted: dict[tuple[str, int], OrderedBy] = field(default_factory=dict)
    """Frames of the last plan whose order the pixels contradict, and the attribute that gave it."""
    repeated: set[tuple[str, int]] = field(default_factory=set)
    """Frames of the last plan that show, with others, the same phases again."""
    deaths: int = 0
    """How often the decoder did not survive a frame of the study."""

    def check(self, frames: Iterable[FrameHeader]) -> None:
        """Note the frames whose pixels are not there, or not in the size of their headers."""
        for frame in frames:
            try:
                dataset, form = self._object(frame)
                check_frame(dataset, frame.frame_number, form)
            except UndecodableError as error:
                self._note(frame, str(error))

    def distrusting(self, frame: FrameHeader) -> FrameHeader:
        """The frame with what the pixels said of it: an attribute that they contradicted, or that it is of a repeat."""
        by = self.contradicted.get(frame.key)
        if frame.key in self.repeated:
            frame = replace(frame, repeated=True)
        return frame if by is None else replace(frame, distrusted=frame.distrusted | {by})

    def decode(self, frame: FrameHeader) -> NDArray[np.float32]:
        """Grey values of a frame; zeros, and a note, when it cannot be decoded."""
        shape = (frame.rows, frame.columns)
        try:
            dataset, form = self._object(frame)
            if self.deaths >= _MAX_DEATHS and form.apart:
                raise UndecodableError("the decoder ended over other frames of the study")
            values = decode_frame(dataset, frame.frame_number, form)
            if values.shape != shape:
                raise UndecodableError("the image has another size than its header says")
        except UndecodableError as error:
            self.deaths += isinstance(error, DecoderStoppedError)
            self._note(frame, str(error))
            return np.zeros(shape, dtype=np.float32)
        return values

    def _object(self, frame: FrameHeader) -> tuple[Dataset, PixelFormat]:
        uid = frame.origin.sop_instance_uid
        if uid not in self.formats:
            self.formats[uid] = PixelFormat.of(self.datasets[uid])
        return self.datasets[uid], self.formats[uid]

    def _note(self, frame: FrameHeader, why: str) -> None:
        detail = f"Its pixels cannot be decoded ({why})."
        self.undecodable[frame.key] = LeftOut(OmissionReason.UNREADABLE, detail, (frame,))


def _contradicted(uncertain: Sequence[tuple[SlicePlan, float | None]]) -> list[SlicePlan]:
    """The slices of one stack whose order the pixels contradict.

    Parameters
    ----------
    uncertain : sequence of (SlicePlan, float or None)
        Slices that an attribute ordered which does not say the phase itself, each with its `disorder`.

    Returns
    -------
    list of SlicePlan
        All that one attribute ordered when that is so for most of them, else those of which it is plain.
    """
    found: list[SlicePlan] = []
    for by in dict.fromkeys(part.by for part, _ in uncertain):
        judged = [(part, value) for part, value in uncertain if part.by is by]
        # Each against what is allowed for its number of frames.
        known = [value / median_allowed(len(part.frames)) for part, value in judged if value is not None]
        most = bool(known) and float(np.median(known)) > 1.0
        found += [
            part for part, value in judged if most or (value is not None and value > single_allowed(len(part.frames)))
        ]
    return found


def _omission(entry: LeftOut) -> Omission:
    series = {frame.origin.series_instance_uid for frame in entry.frames}
    return Omission(
        entry.reason,
        entry.detail,
        series.pop() if len(series) == 1 else None,
        tuple(dict.fromkeys(frame.origin.sop_instance_uid for frame in entry.frames)),
    )


def _combined(omissions: Sequence[Omission]) -> tuple[Omission, ...]:
    """One omission for each series and reason."""
    together: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for entry in omissions:
        together[(entry.series_instance_uid or "", entry.reason, entry.detail)].extend(entry.sop_instance_uids)
    return tuple(
        Omission(OmissionReason(reason), detail, series or None, tuple(sorted(set(instances))))
        for (series, reason, detail), instances in sorted(together.items())
    )


def _context(uid: str, study: _Study, stacks: Sequence[CineStack]) -> StudyContext:
    dataset = next((study.datasets[key] for key in sorted(study.datasets)), Dataset())
    top = (dict(dataset.items()),)
    sex = text(top, "PatientSex").upper()
    height = number(top, "PatientSize")
    if height is not None and height > 3.0:
        height /= 100.0  # written in centimetres
    weight = number(top, "PatientWeight")
    field_strength = number(top, "MagneticFieldStrength")
    return StudyContext(
        study_instance_uid=uid,
        sex=sex if sex in {"M", "F", "O"} else None,
        age_years=_age(top),
        height_m=height if height is not None and 0.3 <= height <= 2.6 else None,
        weight_kg=weight if weight is not None and 1.0 <= weight <= 500.0 else None,
        heart_rate_bpm=_heart_rate(study, stacks),
        manufacturer=text(top, "Manufacturer") or None,
        model_name=text(top, "ManufacturerModelName") or None,
        field_strength_t=field_strength if field_strength is None or field_strength < 20 else field_strength / 10000.0,
    )


def _heart_rate(study: _Study, stacks: Sequence[CineStack]) -> float | None:
    """HeartRate of the chosen frames, else 60000 / RR interval; the short axis leads."""
    if not stacks:
        return None
    used = {source.sop_instance_uid for row in stacks[0].sources for source in row}
    rates = [
        frame.heart_rate_bpm
        for frame in study.frames
        if frame.origin.sop_instance_uid in used
        and frame.heart_rate_bpm is not None
        and 20 <= frame.heart_rate_bpm <= 300
    ]
    if rates:
        return float(np.median(rates))
    intervals = stacks[0].rr_intervals[np.isfinite(stacks[0].rr_intervals)]
    return 60000.0 / float(np.median(intervals)) if len(intervals) else None


def _age(top: elements.Layers) -> float | None:
    stated = text(top, "PatientAge").upper()
    units = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}
    if len(stated) >= 2 and stated[:-1].isdigit() and stated[-1] in units:
        return int(stated[:-1]) / units[stated[-1]]
    born = elements.seconds(text(top, "PatientBirthDate"), "000000") or 0.0
    studied = elements.seconds(text(top, "StudyDate"), "000000") or 0.0
    years = (studied - born) / (365.25 * 86400.0)
    return math.floor(years) if born > 0 and studied > 0 and 0 <= years <= 130 else None
