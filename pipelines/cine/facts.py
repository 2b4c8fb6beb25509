"""Facts of one received instance, and how complete the cine of a study is: for the scheduler.

Facts are read once, when the study is first looked at, and kept as JSON; completeness is a pure function of them.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from pipelines.cine import elements
from pipelines.cine.declared import DeclaredError
from pipelines.cine.enhancement import may_be_late_enhancement
from pipelines.cine.expected import expected_phases, most_frequent
from pipelines.cine.geometry import told_references
from pipelines.cine.headers import MR_IMAGES, FrameHeader, frame_headers, origin
from pipelines.cine.reading import read_object
from pipelines.cine.regrid import image_centre
from pipelines.cine.selection import MIN_PHASES, MIN_SCORE, Exclusion, cine_score, excluded_frame, excluded_object
from pipelines.cine.stack import OmissionReason
from pipelines.cine.views import ONE_STACK_DEG, Plane, ShortAxisEvidence, short_axis_evidence
from pipelines.errors import raised_along

__all__ = [
    "REJECTION_TITLES",
    "SEGMENTATION_CLASSES",
    "Completeness",
    "InstanceFacts",
    "PlaneFacts",
    "StackCompleteness",
    "completeness",
    "evidence_references",
    "frame_facts",
    "instance_facts",
    "is_structured_report",
]

_log = structlog.get_logger(__name__)

_ONE_STACK = np.cos(np.radians(ONE_STACK_DEG))
_LEAST_COVERAGE_MM = 80.0
"""A stack from above the mitral valve to below the apex covers more, but for small children: the left ventricle of an
adult is 80 to 110 mm long at end diastole, and protocols want it whole (Kramer et al., JCMR 2020;22:17)."""
_GAP = 1.5
"""In units of the usual distance: two neighbours farther apart have a slice between them that is still to come."""


@dataclass(frozen=True, slots=True)
class PlaneFacts:
    """Frames of one instance that lie in one plane."""

    along_mm: float
    """Centre of the image · normal, mm."""
    normal: tuple[float, float, float]
    phases: tuple[float, ...]
    """One value for each frame that tells its phase: trigger time, ms, or phase number; frames without one count up."""


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What the scheduler knows of one instance; small, and without identity beyond UIDs.

    ``planes`` is empty for anything that cannot be cine: other modalities, reports, localizers, flow.
    """

    modality: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    rows: int
    columns: int
    frames: int
    cardiac_number_of_images: int | None
    slices_declared: int | None
    """Philips (2001,xx18) number of slices."""
    planes: tuple[PlaneFacts, ...]
    own_output: bool
    """Made by this software: never routed to an analysis again."""
    problem: str = ""
    """Why nothing is known of its frames, where its header cannot be read; no patient data."""
    gated_or_named: bool = True
    """The heart gated it, or its sequence is one of cine: images of other organs may have as many at one position."""
    beside_cine: str = ""
    """What it is that the cine of its study is read with: late enhancement, or flow, by whose phase images a magnitude
    is known; empty for anything else."""
    refers_to: tuple[str, ...] = ()
    """Of a segmentation: SOP Instance UIDs of the images that its frames are of, 2000 at most; of a rejection note: of
    what it rejects; of a structured report of another system: of all that it refers to."""
    segmented: tuple[str, ...] = ()
    """Of a segmentation: Segmented Property Types, as scheme and value."""
    rejects: str = ""
    """Of a rejection note that judges what it names: the meaning of its title; empty for anything else."""

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> InstanceFacts:
        """Facts from what `to_json` wrote.

        Raises
        ------
        ValueError
            ``values`` are not the facts of an instance.
        """
        try:
            planes = tuple(
                PlaneFacts(
                    along_mm=float(plane["along_mm"]),
                    normal=(float(plane["normal"][0]), float(plane["normal"][1]), float(plane["normal"][2])),
                    phases=tuple(float(phase) for phase in plane["phases"]),
                )
                for plane in values["planes"]
            )
            lists = {key: tuple(map(str, values.get(key, ()))) for key in ("refers_to", "segmented")}
            return cls(**{**values, "planes": planes, **lists})
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"not the facts of an instance: {error!r}") from error


@dataclass(frozen=True, slots=True)
class StackCompleteness:
    """One set of parallel slices: short axis, or one long-axis plane."""

    short_axis: bool
    slices_complete: int
    slices_seen: int
    slices_declared: int | None
    phases_expected: int
    """Of most slices."""
    frames_received: int
    doubt: str = ""
    """Why images seem still to come although those that came may look whole, in words; empty where nothing says so."""

    @property
    def slices_expected(self) -> int:
        """Slices declared by the scanner, or at least those of which an image has come."""
        return max(self.slices_seen, self.slices_declared or 0)

    @property
    def complete(self) -> bool:
        """Every expected slice has all its phases."""
        return self.slices_complete >= self.slices_expected


@dataclass(frozen=True, slots=True)
class Completeness:
    """State of the cine of a study so far."""

    stacks: tuple[StackCompleteness, ...]
    sentence: str

    @property
    def complete(self) -> bool:
        """A short-axis stack is there and every stack seen so far is complete.

        A slice of which no image has come yet cannot be known: the scheduler waits a quiet time as well.
        """
        return any(stack.short_axis for stack in self.stacks) and all(stack.complete for stack in self.stacks)


SEGMENTATION_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
"""Segmentation Storage, Label Map Segmentation Storage."""
_STRUCTURED_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
_MOST_REFERENCES = 2000
REJECTION_TITLES = {
    "113001": "Rejected for Quality Reasons",
    "113037": "Rejected for Patient Safety Reasons",
}
"""Titles of rejection notes (PS3.16 CID 7011; IHE RAD IOCM) that say something of what they name; others, such as that
its time has come, say nothing of how good it is."""


def instance_facts(path: Path) -> InstanceFacts:
    """Read the facts of one instance from its file; one whose header is damaged beyond reading has none.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    size = path.stat().st_size
    try:
        dataset = read_object(path, stop_before_pixels=True)
    except DeclaredError as error:
        return replace(frame_facts(Dataset()), problem=str(error))
    except elements.DAMAGE as error:
        if elements.of_storage(error):
            raise
        return replace(frame_facts(Dataset()), problem=f"its header cannot be read ({type(error).__name__})")
    return frame_facts(dataset, size=size)


def frame_facts(dataset: Dataset, *, size: int | None = None) -> InstanceFacts:
    """Extract the facts of one instance; never raises on a damaged header.

    Parameters
    ----------
    dataset : pydicom.Dataset
        Without its pixels.
    size : int, optional
        Bytes of its file.
    """
    identity = origin(dataset)
    frames: tuple[FrameHeader, ...] = ()
    problem = ""
    if excluded_object(identity) is None and identity.sop_class_uid in MR_IMAGES:
        try:
            frames = frame_headers(dataset, identity=identity, size=size)
        except DeclaredError as error:
            problem = str(error)
        except elements.DAMAGE as error:
            # Headers are read without raising, whatever is in them: this is a defect, or damage nobody foresaw.
            _log.error("header not read", error=type(error).__name__, at=raised_along(error))
            problem = f"its header cannot be read ({type(error).__name__})"
    refers_to, segmented = _segmentation(dataset) if identity.sop_class_uid in SEGMENTATION_CLASSES else ((), ())
    rejects = ""
    if identity.sop_class_uid == KeyObjectSelectionDocumentStorage:
        rejects, refers_to = _rejection(dataset)
    elif is_structured_report(identity.sop_class_uid) and not identity.own_output:
        refers_to = _reported(dataset)
    verdicts = [(frame, excluded_frame(frame)) for frame in frames]
    usable = [frame for frame, verdict in verdicts if verdict is None]
    together: dict[tuple[float, tuple[float, float, float]], list[FrameHeader]] = defaultdict(list)
    for frame in usable:
        together[_plane(frame)].append(frame)
    top = (dict(dataset.items()),)
    slices = elements.private_number(top, 0x2001, "Philips Imaging DD 001", 0x18)
    lead = frames[0] if frames else None
    return InstanceFacts(
        modality=identity.modality,
        sop_class_uid=identity.sop_class_uid,
        sop_instance_uid=identity.sop_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        frame_of_reference_uid=lead.frame_of_reference_uid if lead else "",
        rows=lead.rows if lead else 0,
        columns=lead.columns if lead else 0,
        frames=max(1, len(frames)),
        cardiac_number_of_images=next((frame.declared_phases for frame in usable if frame.declared_phases), None),
        slices_declared=int(slices) if slices is not None and 1 <= slices <= 100 else None,
        planes=tuple(
            PlaneFacts(along, normal, _phases(members)) for (along, normal), members in sorted(together.items())
        ),
        own_output=identity.own_output,
        problem=problem,
        gated_or_named=any(_gated_or_named(frame) for frame in usable),
        beside_cine=next((_beside_cine(*pair) for pair in verdicts if _beside_cine(*pair)), ""),
        refers_to=refers_to,
        segmented=segmented,
        rejects=rejects,
    )


def _rejection(dataset: Dataset) -> tuple[str, tuple[str, ...]]:
    """The meaning of the title of a rejection note, and what it names; nothing of any other Key Object document."""
    try:
        titles = [
            REJECTION_TITLES.get(str(code.get("CodeValue", "")), "")
            for code in dataset.get("ConceptNameCodeSequence") or ()
            if str(code.get("CodingSchemeDesignator", "")) == "DCM"
        ]
        if not any(titles):
            return "", ()
        named = evidence_references(dataset)
    except elements.DAMAGE:
        return "", ()
    return titles[0], named[:_MOST_REFERENCES]


def is_structured_report(sop_class_uid: str) -> bool:
    """Whether objects of a SOP class are structured reports (PS3.4 B.5.1.5) other than Key Object Selections."""
    return sop_class_uid.startswith(_STRUCTURED_REPORTS) and sop_class_uid != KeyObjectSelectionDocumentStorage


def evidence_references(dataset: Dataset) -> tuple[str, ...]:
    """SOP Instance UIDs that a document names as evidence (PS3.3 C.17.2), or beside its content, each once.

    Raises
    ------
    One of :data:`pipelines.cine.elements.DAMAGE`
        The document is damaged.
    """
    named = [
        str(instance.get("ReferencedSOPInstanceUID", ""))
        for evidence in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in dataset.get(evidence) or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for instance in series.get("ReferencedSOPSequence") or ()
    ]
    named += [
        str(instance.get("ReferencedSOPInstanceUID", ""))
        for beside in ("ReferencedInstanceSequence", "ReferencedSOPSequence")
        for instance in dataset.get(beside) or ()
    ]
    return tuple(dict.fromkeys(named))


def _reported(dataset: Dataset) -> tuple[str, ...]:
    """What a structured report refers to, in its content and as evidence; nothing of one that is damaged."""
    try:
        waiting, named = [dataset], list[str]()
        while waiting and len(named) < _MOST_REFERENCES:
            item = waiting.pop()
            named += [str(one.get("ReferencedSOPInstanceUID", "")) for one in item.get("ReferencedSOPSequence") or ()]
            waiting += item.get("ContentSequence") or ()
        named += evidence_references(dataset)
    except elements.DAMAGE:
        return ()
    return tuple(dict.fromkeys(named))[:_MOST_REFERENCES]


def _segmentation(dataset: Dataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a SEG refers to, and what it segments; nothing of one that is damaged."""
    try:
        sources = [
            str(source.get("ReferencedSOPInstanceUID", ""))
            for frame in dataset.get("PerFrameFunctionalGroupsSequence") or ()
            for derivation in frame.get("DerivationImageSequence") or ()
            for source in derivation.get("SourceImageSequence") or ()
        ]
        sources += [
            str(instance.get("ReferencedSOPInstanceUID", ""))
            for series in dataset.get("ReferencedSeriesSequence") or ()
            for instance in series.get("ReferencedInstanceSequence") or ()
        ]
        segmented = [
            f"{code.get('CodingSchemeDesignator', '')} {code.get('CodeValue', '')}"
            for item in dataset.get("SegmentSequence") or ()
            for code in item.get("SegmentedPropertyTypeCodeSequence") or ()
        ]
    except elements.DAMAGE:
        return (), ()
    return tuple(dict.fromkeys(sources))[:_MOST_REFERENCES], tuple(dict.fromkeys(segmented))


_SCORE_UNGATED = MIN_SCORE + 4
"""Evidence for cine that a sequence has to give where neither trigger times nor an RR interval are known."""


def _gated_or_named(frame: FrameHeader) -> bool:
    stated = (frame.trigger_time_ms, frame.nominal_interval_ms, frame.heart_rate_bpm)
    gated = any(value is not None and value > 0 for value in stated)
    return cine_score(frame.acquisition, 2 * MIN_PHASES, gated) >= (MIN_SCORE if gated else _SCORE_UNGATED)


def _beside_cine(frame: FrameHeader, verdict: Exclusion | None) -> str:
    if verdict is None:
        return ""
    enhancement = verdict.reason is OmissionReason.LATE_ENHANCEMENT and may_be_late_enhancement(frame)
    return verdict.reason.value if enhancement or verdict.reason is OmissionReason.FLOW else ""


def _plane(frame: FrameHeader) -> tuple[float, tuple[float, float, float]]:
    orientation = np.asarray(frame.orientation, dtype=np.float64).reshape(2, 3)
    normal = np.cross(orientation[0], orientation[1])
    normal /= np.linalg.norm(normal)
    along = float(image_centre(frame) @ normal)
    return round(along, 2), (round(float(normal[0]), 4), round(float(normal[1]), 4), round(float(normal[2]), 4))


def _phases(frames: Sequence[FrameHeader]) -> tuple[float, ...]:
    for values in (
        [frame.trigger_time_ms for frame in frames],
        [frame.temporal_index for frame in frames],
        [frame.private_phase for frame in frames],
        [frame.instance_number for frame in frames],
    ):
        present = [float(value) for value in values if value is not None]
        if len(present) == len(frames) and len(set(present)) == len(present):
            return tuple(present)
    return tuple(float(index) for index in range(len(frames)))


def completeness(facts: Sequence[InstanceFacts]) -> Completeness:
    """Tell how complete the cine of one study is.

    Parameters
    ----------
    facts : sequence of InstanceFacts
        Of all instances of the study received so far, in any order.

    Returns
    -------
    Completeness
        For each set of parallel slices the phases expected and received at every position
        (CardiacNumberOfImages where its images state it, else the largest number seen in that set), and a sentence
        such as "short axis 9 of 12 slices, waiting".
    """
    groups = _parallel(facts)
    evidence = short_axis_evidence([_direction(members) for members in groups])
    found = [_stack(members, shown) for members, shown in zip(groups, evidence, strict=True)]
    stacks = [stack for stack in found if stack is not None]
    stacks.sort(key=lambda stack: (not stack.short_axis, -stack.slices_seen))
    problems = Counter(one.problem for one in facts if one.problem)
    return Completeness(stacks=tuple(stacks), sentence=_sentence(stacks) + _set_aside(problems))


_Member = tuple[InstanceFacts, PlaneFacts]


def _parallel(facts: Sequence[InstanceFacts]) -> list[list[_Member]]:
    """Planes of one frame of reference that the assembler would take for one stack, whatever their matrix."""
    told = told_references(
        (entry.frame_of_reference_uid, (plane.normal, plane.along_mm))
        for entry in facts
        for plane in entry.planes
        for _ in plane.phases
    )
    groups: list[tuple[str, np.ndarray, list[_Member]]] = []
    seen: set[tuple[str, PlaneFacts]] = set()
    for entry in sorted(facts, key=lambda entry: entry.sop_instance_uid):
        for plane in entry.planes:
            if (entry.sop_instance_uid, plane) in seen:
                continue
            seen.add((entry.sop_instance_uid, plane))
            reference, normal = told[entry.frame_of_reference_uid], np.asarray(plane.normal)
            for other, direction, members in groups:
                if other == reference and abs(float(direction @ normal)) >= _ONE_STACK:
                    along = plane.along_mm if direction @ normal > 0 else -plane.along_mm
                    members.append((entry, replace(plane, along_mm=along)))
                    break
            else:
                groups.append((reference, normal, [(entry, plane)]))
    return [members for _, _, members in groups]


def _places(members: Sequence[_Member]) -> dict[float, int]:
    """Number of the slice position at each distance along the normal."""
    along = sorted({plane.along_mm for _, plane in members})
    place = {along[0]: 0}
    for before, after in itertools.pairwise(along):
        # Slices of a cine are millimetres apart; less is rounding of one position.
        place[after] = place[before] + (after - before > 0.6)
    return place


def _direction(members: Sequence[_Member]) -> Plane:
    """Plane of a set of parallel planes; where its images lie does not matter here."""
    return Plane(np.asarray(members[0][1].normal), np.zeros(3), slices=1 + max(_places(members).values()))


def _stack(members: Sequence[_Member], evidence: ShortAxisEvidence) -> StackCompleteness | None:
    """Completeness of one set of parallel planes; ``None`` when nothing suggests a cine."""
    frames_at: dict[int, set[tuple[str, float]]] = defaultdict(set)
    stated_at: dict[int, list[int | None]] = defaultdict(list)
    place = _places(members)
    for entry, plane in members:
        stated_at[place[plane.along_mm]].append(entry.cardiac_number_of_images)
        for phase in plane.phases:
            frames_at[place[plane.along_mm]].add((entry.series_instance_uid, phase))
    declared = {where: most_frequent(stated) for where, stated in stated_at.items()}
    received = {where: _phases_at(phases, declared[where] or 0) for where, phases in frames_at.items()}
    most = max(received.values())
    # More may come: what headers declare is believed, and without that no slice has fewer phases than another.
    expected = {
        where: expected_phases(count, declared=declared[where], usual=most, as_usual=declared[where] is None)
        for where, count in received.items()
    }
    usual = most_frequent(expected.values()) or 0
    if usual < MIN_PHASES:
        return None
    slices_declared = max((entry.slices_declared or 0 for entry, _ in members), default=0)
    return StackCompleteness(
        short_axis=evidence is not ShortAxisEvidence.OTHER,
        slices_complete=sum(count >= expected[where] for where, count in received.items()),
        slices_seen=len(received),
        slices_declared=slices_declared or None,
        phases_expected=usual,
        frames_received=sum(len(phases) for phases in frames_at.values()),
        doubt=_doubt(
            _positions(sorted(place), place),
            [(count, expected[where]) for where, count in received.items()],
            slices_declared,
        ),
    )


def _positions(along: Sequence[float], place: Mapping[float, int]) -> list[float]:
    """One position for each slice, mm, ascending."""
    first: dict[int, float] = {}
    for position in along:
        first.setdefault(place[position], position)
    return [first[index] for index in sorted(first)]


def _doubt(positions: Sequence[float], phases: Sequence[tuple[int, int]], slices_declared: int) -> str:
    """What says that a stack goes on: what the scanner declared, its geometry, or a slice that has only begun to come.

    Parameters
    ----------
    positions
        Of the slices along their normal, mm, ascending.
    phases
        Received and expected at each of them.
    slices_declared
        By the scanner; 0 where it did not say.
    """
    if slices_declared > len(positions):
        return f"the scanner declared {slices_declared} slices"
    begun = sum(2 * count < expected for count, expected in phases)
    if begun:
        return f"{begun} of {len(phases)} slices have less than half of their phases"
    steps = [after - before for before, after in itertools.pairwise(positions)]
    usual = float(np.median(steps)) if steps else 0.0
    missing = sum(round(step / usual) - 1 for step in steps if step > _GAP * usual)
    if missing:
        return f"{missing} slices are missing between others"
    covered = usual * len(positions)
    if slices_declared or covered >= _LEAST_COVERAGE_MM:
        return ""
    if not steps:
        return "a single slice"
    return f"its slices cover {covered:.0f} mm, less than a left ventricle"


def _phases_at(phases: set[tuple[str, float]], stated: int) -> int:
    """Phases received at one position: of its series together, or of the largest where they repeat one another."""
    distinct = len({phase for _, phase in phases})
    return distinct if distinct <= stated else max(Counter(series for series, _ in phases).values())


def _sentence(stacks: Sequence[StackCompleteness]) -> str:
    if not stacks:
        return "no cine images yet"
    parts: list[str] = []
    for stack in (stack for stack in stacks if stack.short_axis):
        parts.append(_words("short axis", stack))
    long_axis = [stack for stack in stacks if not stack.short_axis]
    if long_axis:
        done = sum(stack.complete for stack in long_axis)
        waiting = "" if done == len(long_axis) else ", waiting"
        parts.append(f"long axis {done} of {len(long_axis)} views{waiting}")
    if not any(stack.short_axis for stack in stacks):
        parts.insert(0, "no short axis yet")
    return "; ".join(parts)


def _set_aside(problems: Counter[str]) -> str:
    if not problems:
        return ""
    most, _ = max(problems.items(), key=lambda pair: (pair[1], pair[0]))
    count = problems.total()
    return f"; {count} object{'s' if count > 1 else ''} set aside: {most.rstrip('.')}"


def _words(name: str, stack: StackCompleteness) -> str:
    if stack.complete:
        return f"{name} {stack.slices_complete} of {stack.slices_expected} slices, complete"
    return f"{name} {stack.slices_complete} of {stack.slices_expected} slices, waiting"
