"""Cardiac phases of the frames at one position: their order, and the acquisitions they belong to."""

from __future__ import annotations

import enum
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.cine.expected import most_frequent
from pipelines.cine.headers import FrameHeader
from pipelines.cine.selection import MIN_PHASES

__all__ = [
    "Ordered",
    "OrderedBy",
    "acquisitions",
    "beats_apart",
    "distortion_corrected",
    "free_running",
    "order_phases",
    "rr_interval",
    "stated_repeats",
    "without_order",
]

_Reader = Callable[[FrameHeader], float | None]

_RR_RANGE_MS = (250.0, 2500.0)
_LONGEST_RR_MS = 2200.0
"""What one cycle may last where the headers do not say."""
_STEP_TOLERANCE = 0.35
"""Deviation of a time step from a whole number of steps, in steps, that still counts as regular."""


class OrderedBy(enum.StrEnum):
    """Attribute that put the phases in order, the first usable one."""

    TRIGGER_TIME = "TriggerTime"
    TEMPORAL_POSITION = "TemporalPositionIndex"
    PRIVATE_PHASE = "private phase number"
    ACQUISITION_TIME = "AcquisitionTime"
    CONTENT_TIME = "ContentTime"
    INSTANCE_NUMBER = "InstanceNumber"


@dataclass(frozen=True, slots=True)
class Ordered:
    """Frames of one position in order of their phase.

    Attributes
    ----------
    frames : tuple of FrameHeader
    slots : tuple of int
        Place of each frame on the regular grid of phases; a gap is a missing frame.
    by : OrderedBy
    anchored : bool
        Slot 0 is known to be the first phase (numbered phases), so a missing first frame shows.
    certain : bool
        The attribute says the phase itself, regularly, and InstanceNumber does not count otherwise. Any other order is
        held against the pixels.
    """

    frames: tuple[FrameHeader, ...]
    slots: tuple[int, ...]
    by: OrderedBy
    anchored: bool
    certain: bool = True

    @property
    def step_ms(self) -> float | None:
        """Time between phases from trigger times, ms; ``None`` when they did not give the order."""
        if self.by is not OrderedBy.TRIGGER_TIME or len(self.frames) < 2:
            return None
        first, last = self.frames[0].trigger_time_ms, self.frames[-1].trigger_time_ms
        if first is None or last is None:
            return None
        return (last - first) / (self.slots[-1] - self.slots[0])


def rr_interval(frames: Iterable[FrameHeader]) -> float | None:
    """RR interval that the headers state, ms: NominalInterval or RRIntervalTimeNominal, else 60000/HeartRate."""
    values: list[float] = []
    for frame in frames:
        stated = frame.nominal_interval_ms
        if stated is None or not _RR_RANGE_MS[0] <= stated <= _RR_RANGE_MS[1]:
            rate = frame.heart_rate_bpm
            stated = 60000.0 / rate if rate else None
        if stated is not None and _RR_RANGE_MS[0] <= stated <= _RR_RANGE_MS[1]:
            values.append(stated)
    return float(np.median(values)) if values else None


def order_phases(frames: Sequence[FrameHeader]) -> Ordered | None:
    """Order the frames of one acquisition at one position by the first usable attribute.

    Usable means present on every frame, distinct, evenly spaced where it is a time, and within the cardiac cycle
    where it is a trigger time: Philips may write the begin of the dynamic as TriggerTime and number instances at
    random. Attributes that the pixels contradicted (``FrameHeader.distrusted``) are passed over. An attribute that says
    the phase itself is certain unless InstanceNumber counts the frames in another order.

    Returns
    -------
    Ordered or None
        ``None`` when no attribute tells the frames apart.
    """
    distrusted = frozenset[str]().union(*(frame.distrusted for frame in frames))
    trigger = _column(frames, _trigger)
    within_cycle = trigger is not None and _within_cycle(frames, trigger)
    if trigger is not None and within_cycle and OrderedBy.TRIGGER_TIME not in distrusted:
        slots = _regular_slots(trigger)
        if slots is not None:
            counted = _counted_alike(frames, trigger)
            return _ordered(frames, trigger, slots, OrderedBy.TRIGGER_TIME, anchored=False, certain=counted)
    numbers: list[tuple[OrderedBy, _Reader]] = [
        (OrderedBy.TEMPORAL_POSITION, _temporal),
        (OrderedBy.PRIVATE_PHASE, _private),
    ]
    for by, read in numbers:
        numbered = None if by in distrusted else _column(frames, read)
        if numbered is not None:
            slots, anchored = _numbered_slots(numbered)
            counted = _counted_alike(frames, numbered)
            return _ordered(frames, numbered, slots, by, anchored=anchored, certain=counted)
    others: list[tuple[OrderedBy, _Reader]] = [
        (OrderedBy.ACQUISITION_TIME, _acquired),
        (OrderedBy.CONTENT_TIME, _created),
        (OrderedBy.INSTANCE_NUMBER, _sequence_number),
    ]
    if within_cycle:
        others.insert(2, (OrderedBy.TRIGGER_TIME, _trigger))
    columns = [
        (by, column) for by, read in others if by not in distrusted if (column := _column(frames, read)) is not None
    ]
    # Trigger times of which some are equal do not order the frames, but they say which attribute may.
    columns.sort(key=lambda found: not _goes_with_trigger(frames, found[1]))
    for by, column in columns:
        return _ordered(frames, column, _ranks(column), by, anchored=False, certain=False)
    return None


def without_order(frames: Sequence[FrameHeader]) -> str:
    """Why the frames of one acquisition cannot be put in order of phase, in sentences."""
    distrusted = frozenset[str]().union(*(frame.distrusted for frame in frames))
    said = dict.fromkeys(sentence for frame in frames for sentence in frame.unreadable[:1])
    about_values = "".join(f" {sentence}" for sentence in itertools.islice(said, 1))
    if not distrusted:
        return f"Nothing in the headers puts its images in order of phase.{about_values}"
    names = " and ".join(by.value for by in OrderedBy if by in distrusted)
    return (
        f"Only {names} could put its images in order of phase, and in that order neighbouring images do not resemble "
        f"one another.{about_values}"
    )


def _column(frames: Sequence[FrameHeader], read: _Reader) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """One value a frame, or ``None`` unless every frame has one and all differ."""
    values = [read(frame) for frame in frames]
    present = [float(value) for value in values if value is not None]
    if len(present) < len(values) or len(set(present)) < len(present) or not present:
        return None
    return np.asarray(present, dtype=np.float64)


def _within_cycle(frames: Sequence[FrameHeader], trigger: np.ndarray) -> bool:
    """Tell whether trigger times lie within one cycle, whose stated length is doubted before they are."""
    rr = rr_interval(frames)
    span = float(np.ptp(trigger))
    # A grid may begin before the R wave: some scanners centre the cycle on it.
    if trigger.min() < -_LONGEST_RR_MS or span > _LONGEST_RR_MS:
        return False
    return rr is None or span <= 1.1 * rr or not _contradicted(frames, trigger)


def _contradicted(frames: Sequence[FrameHeader], trigger: np.ndarray) -> bool:
    """Tell whether the numbering of the phases orders the frames otherwise than their trigger times."""
    numbered = [column for read in (_temporal, _private) if (column := _column(frames, read)) is not None]
    return any(not np.array_equal(np.argsort(column), np.argsort(trigger)) for column in numbered)


def _counted_alike(frames: Sequence[FrameHeader], values: np.ndarray) -> bool:
    """Tell whether InstanceNumber, where every frame has its own, counts the frames in the order of ``values``."""
    counted = _column(frames, _sequence_number)
    return counted is None or np.array_equal(np.argsort(counted), np.argsort(values))


def _goes_with_trigger(frames: Sequence[FrameHeader], values: np.ndarray) -> bool:
    """Tell whether trigger times, of which some may be equal, never fall in the order of ``values``."""
    times = [frame.trigger_time_ms for frame in frames]
    present = np.asarray([time for time in times if time is not None], dtype=np.float64)
    return len(present) == len(times) and bool((np.diff(present[np.argsort(values)]) >= 0).all())


def _regular_slots(times: np.ndarray) -> np.ndarray | None:
    """Slots of times on their common grid, in the order given; ``None`` when there is no common grid."""
    if len(times) == 1:
        return np.zeros(1, dtype=np.int64)
    order = np.argsort(times)
    steps = np.diff(times[order])
    ratio = steps / np.median(steps)
    whole = np.rint(ratio)
    if whole.min() < 1 or np.abs(ratio - whole).max() > _STEP_TOLERANCE:
        return None
    slots = np.empty(len(times), dtype=np.int64)
    slots[order] = np.concatenate([[0], np.cumsum(whole)]).astype(np.int64)
    return slots


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def _numbered_slots(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Slots of numbered phases, and whether numbering from 1 anchors them."""
    whole = np.rint(values).astype(np.int64)
    spread = int(whole.max() - whole.min()) + 1
    if np.abs(values - whole).max() > 1e-6 or spread > 2 * len(values):
        return _ranks(values), False
    if 1 <= whole.min() <= 3:
        return whole - 1, True
    return whole - whole.min(), False


def _ordered(
    frames: Sequence[FrameHeader],
    values: np.ndarray,
    slots: np.ndarray,
    by: OrderedBy,
    *,
    anchored: bool,
    certain: bool = True,
) -> Ordered:
    order = np.argsort(values, kind="stable")
    return Ordered(
        frames=tuple(frames[index] for index in order),
        slots=tuple(int(slots[index]) for index in order),
        by=by,
        anchored=anchored,
        certain=certain,
    )


def free_running(frames: Sequence[FrameHeader]) -> bool:
    """Tell whether frames follow one another over several beats: real-time imaging.

    Trigger times that run on, but against the numbering of the phases or within a moment of acquisition, are not
    trigger times and tell nothing.
    """
    stated = {frame.acquisition.synchronization for frame in frames}
    if "REALTIME" in stated or ("NONE" in stated and not _trigger_regular(frames)):
        return True
    rr = rr_interval(frames)
    limit = 1.5 * rr if rr is not None else _LONGEST_RR_MS
    trigger, acquired = _column(frames, _trigger), _column(frames, _acquired)
    if acquired is not None and _runs_on(acquired * 1000.0, limit):
        return True
    if trigger is None or not _runs_on(trigger, limit):
        return False
    moments = [frame.acquired_s for frame in frames if frame.acquired_s is not None]
    if len(moments) == len(frames) and 1000.0 * (max(moments) - min(moments)) < 0.5 * float(np.ptp(trigger)):
        return False
    return not _contradicted(frames, trigger)


def _runs_on(times_ms: np.ndarray, limit_ms: float) -> bool:
    """Tell whether times are evenly spaced, close together, and go on for longer than one cycle."""
    if len(times_ms) < 3:
        return False
    step = float(np.median(np.diff(np.sort(times_ms))))
    return float(np.ptp(times_ms)) + step > limit_ms and step < 300.0 and _regular_slots(times_ms) is not None


def beats_apart(frames: Sequence[FrameHeader]) -> bool:
    """Tell whether each frame was acquired in a heart beat of its own: a dynamic (perfusion) series."""
    times = _column(frames, _acquired)
    if times is None or len(times) < 5:
        return False
    times = np.sort(times)
    return float(np.median(np.diff(times))) > 0.3 and float(times[-1] - times[0]) > 5.0 and not _trigger_regular(frames)


def _trigger_regular(frames: Sequence[FrameHeader]) -> bool:
    trigger = _column(frames, _trigger)
    return trigger is not None and _within_cycle(frames, trigger) and _regular_slots(trigger) is not None


def _trigger(frame: FrameHeader) -> float | None:
    return frame.trigger_time_ms


def _acquired(frame: FrameHeader) -> float | None:
    return frame.acquired_s


def _created(frame: FrameHeader) -> float | None:
    return frame.created_s


def _sequence_number(frame: FrameHeader) -> float | None:
    """InstanceNumber, and within a multi-frame object the frame number."""
    if frame.frame_number is None:
        return frame.instance_number
    return (frame.instance_number or 0) * 1e5 + frame.frame_number


def _temporal(frame: FrameHeader) -> float | None:
    return frame.temporal_index


def _private(frame: FrameHeader) -> float | None:
    return frame.private_phase


_OF_PHASE: tuple[_Reader, ...] = (_trigger, _temporal, _private)


def declared_phases(frames: Iterable[FrameHeader]) -> int | None:
    """Number of phases that the headers state, the most frequent one."""
    return most_frequent(frame.declared_phases for frame in frames)


def distortion_corrected(frames: Sequence[FrameHeader]) -> bool:
    """Tell whether the frames are the distortion-corrected reconstruction (Siemens DIS2D, DIS3D)."""
    return all({"DIS2D", "DIS3D"} & set(frame.acquisition.image_type) for frame in frames)


def acquisitions(frames: Sequence[FrameHeader]) -> list[tuple[FrameHeader, ...]]:
    """Separate the frames of one position into acquisitions.

    One acquisition may be spread over several series, and one series may hold several acquisitions or
    reconstructions; the split uses, in this order, reconstruction, RR interval, series, acquisition number and
    creation order, and only where the frames cannot be one acquisition.
    """
    if _is_single(frames):
        return [tuple(frames)]
    # What the pixels have contradicted is one acquisition that cannot be put in order, not many of one image.
    if any(frame.distrusted for frame in frames) and order_phases(frames) is None and not _repeated(frames):
        return [tuple(frames)]
    splits: tuple[Callable[[FrameHeader], Hashable], ...] = (
        _reconstruction,
        lambda frame: (frame.nominal_interval_ms, frame.heart_rate_bpm, frame.declared_phases),
        _series,
        _acquisition_number,
    )
    for split in splits:
        parts: dict[Hashable, list[FrameHeader]] = defaultdict(list)
        for frame in frames:
            parts[split(frame)].append(frame)
        if len(parts) > 1 and len(frames) / len(parts) >= 4:
            separate = [part for members in parts.values() for part in acquisitions(members)]
            return _merged(separate)
    return _runs(frames)


def _reconstruction(frame: FrameHeader) -> Hashable:
    return frame.acquisition.image_type, frame.acquisition.echo_time_ms


def _is_single(frames: Sequence[FrameHeader]) -> bool:
    if len({_reconstruction(frame) for frame in frames}) > 1:
        return False
    declared = declared_phases(frames)
    whole = declared == len(frames) and _trigger_regular(frames)
    if len({frame.nominal_interval_ms for frame in frames}) > 1 and not whole:
        return False
    if declared is not None and len(frames) > declared:
        return False
    if _repeated(frames):
        return False
    triggers = _column(frames, _trigger)
    if triggers is None and len({frame.trigger_time_ms for frame in frames}) >= MIN_PHASES:
        # A whole cycle of trigger times of which some repeat: the same phases twice, unless phases are numbered, or
        # the times never fall in an order that another attribute gives (of a repeat they begin again).
        if _column(frames, _temporal) is not None or _column(frames, _private) is not None:
            return True
        ordered = order_phases(frames)
        return ordered is not None and _goes_with_trigger(ordered.frames, np.arange(len(frames)))
    ordered = order_phases(frames)
    if ordered is None:
        return False
    if triggers is not None and len(frames) >= 2 * MIN_PHASES:
        # Two acquisitions of nearly the same RR interval interleave: steps alternate between tiny and full.
        steps = np.diff(np.sort(triggers))
        if (steps < 0.3 * float((triggers.max() - triggers.min()) / (len(frames) - 1))).sum() > len(frames) / 6:
            return False
    return True


def stated_repeats(frames: Sequence[FrameHeader]) -> bool:
    """Tell whether each phase that the headers state, of a whole cycle, is that of equally many frames, of several."""
    stated = _stated(frames)
    if stated is None or declared_phases(frames) == len(frames):
        return False
    return len(stated[1]) < len(frames) and len(set(stated[1].values())) == 1


def _stated(frames: Sequence[FrameHeader]) -> tuple[_Reader, Counter[float]] | None:
    """The attribute that states a whole cycle of phases, and how often it states each."""
    for read in (_temporal, _private, _trigger):
        values = [read(frame) for frame in frames]
        present = Counter(value for value in values if value is not None)
        if present.total() == len(frames) and len(present) >= MIN_PHASES:
            return read, present
    return None


def _repeated(frames: Sequence[FrameHeader]) -> bool:
    """Tell whether frames are several acquisitions of the same phases, whichever way they are numbered.

    Numbered phases of which each is there equally often are repeats. Trigger times may be shared by images of one
    acquisition: then these are repeats when each series or acquisition number has every time once, or when the pixels
    say so. Where nothing states a phase, series or acquisition numbers of a whole cycle each are repeats.
    """
    stated = _stated(frames)
    if stated is not None and not stated_repeats(frames):
        return False
    if stated is not None and (
        stated[0] is not _trigger or any(frame.repeated or frame.distrusted for frame in frames)
    ):
        return True
    if declared_phases(frames) == len(frames):
        return False
    for split in (_series, _acquisition_number):
        parts: dict[Hashable, list[float | None]] = defaultdict(list)
        for frame in frames:
            parts[split(frame)].append(_trigger(frame))
        if len(parts) < 2:
            continue
        if stated is None and all(len(part) >= MIN_PHASES for part in parts.values()):
            return True
        if stated is not None and all(len(set(part)) == len(part) == len(stated[1]) for part in parts.values()):
            return True
    return False


def _series(frame: FrameHeader) -> Hashable:
    return frame.origin.series_instance_uid


def _acquisition_number(frame: FrameHeader) -> Hashable:
    return frame.acquisition_number


def _merged(parts: list[tuple[FrameHeader, ...]]) -> list[tuple[FrameHeader, ...]]:
    """Put parts together again that make one acquisition: a slice that was spread over series."""
    whole: list[tuple[FrameHeader, ...]] = []
    for part in sorted(parts, key=lambda part: (-len(part), min(frame.key for frame in part))):
        for index, other in enumerate(whole):
            if _is_single(other + part):
                whole[index] = other + part
                break
        else:
            whole.append(part)
    return whole


def _runs(frames: Sequence[FrameHeader]) -> list[tuple[FrameHeader, ...]]:
    """Split into runs without a repeated phase, in order of creation: repeats within one series."""
    runs: list[dict[Hashable, FrameHeader]] = []
    declared = declared_phases(frames)
    stated = _stated(frames)
    for frame in sorted(frames, key=lambda frame: (_sequence_number(frame) or 0, frame.acquired_s or 0.0, frame.key)):
        phase: Hashable = next((value for read in _OF_PHASE if (value := read(frame)) is not None), None)
        if stated is not None:
            phase = stated[0](frame)
        if phase is None:
            phase = frame.key
        for run in runs:
            if phase not in run and (declared is None or len(run) < declared):
                run[phase] = frame
                break
        else:
            runs.append({phase: frame})
    return [tuple(run.values()) for run in runs]
