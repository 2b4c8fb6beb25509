"""What the analyses work on: stacks of cine frames with their geometry and the origin of every frame.

Coordinates are the DICOM patient coordinate system (PS3.3 C.7.6.2.1.1): LPS, millimetres.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.indication import Indication
from pipelines.sampling import Sampling

__all__ = [
    "CineStack",
    "CineStudy",
    "FrameSource",
    "LateEnhancementStack",
    "Omission",
    "OmissionReason",
    "PhaseEncoding",
    "RecognisedSeries",
    "Reconstruction",
    "StackGeometry",
    "StudyContext",
    "View",
]


class View(enum.StrEnum):
    """Cardiac imaging plane of a stack."""

    SAX = "SAX"
    LAX_2CH = "2CH"
    LAX_3CH = "3CH"
    LAX_4CH = "4CH"
    RVOT = "RVOT"
    LAX = "LAX"
    """A long-axis plane whose chamber view could not be told from geometry."""


class PhaseEncoding(enum.StrEnum):
    """Direction of phase encoding in the plane (InPlanePhaseEncodingDirection): artefacts of motion spread along it."""

    ROW = "ROW"
    """Along rows: from column to column."""
    COLUMN = "COLUMN"
    """Along columns: from row to row."""


@dataclass(frozen=True, slots=True)
class FrameSource:
    """Where one frame of a stack came from."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    frame_number: int | None
    """1-based frame in a multi-frame instance, ``None`` for a single-frame instance."""
    instance_number: int | None
    trigger_time_ms: float | None
    """Delay from the R wave as acquired, before any resampling in time."""
    series_number: int | None = None
    """As people name the series; ``None`` where the header has none."""


@dataclass(frozen=True, slots=True, eq=False)
class StackGeometry:
    """Geometry shared by all phases of a stack; slices are parallel and ordered along ``normal``.

    Attributes
    ----------
    positions : (S, 3) float64
        ImagePositionPatient of each slice, mm, LPS: centre of the first (top left) pixel.
    row_direction, column_direction : (3,) float64
        Unit vectors of ImageOrientationPatient: the direction of increasing column index, and of increasing
        row index (PS3.3 C.7.6.2.1.1).
    pixel_spacing : (float, float)
        Distance between rows, distance between columns, mm (PS3.3 10.7.1.3).
    slice_thickness : float
        SliceThickness, mm; where no image states one that can be read, the distance between slices; 8 for one slice.
    thickness_stated : bool
        Whether an image does.
    """

    positions: NDArray[np.float64]
    row_direction: NDArray[np.float64]
    column_direction: NDArray[np.float64]
    pixel_spacing: tuple[float, float]
    slice_thickness: float
    thickness_stated: bool = True

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit slice normal, row direction × column direction; slices are stored in ascending order along it."""
        return np.cross(self.row_direction, self.column_direction)

    @property
    def pitch(self) -> float:
        """Median distance between neighbouring slice centres along the normal, mm.

        The slice thickness for a single slice. SpacingBetweenSlices is never used: it is absent or wrong too often.
        """
        if len(self.positions) < 2:
            return self.slice_thickness
        return float(np.median(np.diff(self.positions @ self.normal)))

    def slice_intervals(self) -> NDArray[np.float64]:
        """Thickness of tissue that each slice stands for, mm, shape (S,).

        Half the distance to each neighbour; the pitch at either end, so a missing slice is bridged by its neighbours.
        """
        count = len(self.positions)
        if count < 2:
            return np.full(count, self.slice_thickness)
        gaps = np.diff(self.positions @ self.normal)
        padded = np.concatenate([[self.pitch], gaps, [self.pitch]])
        return (padded[:-1] + padded[1:]) / 2

    def to_patient(
        self,
        slice_index: NDArray[np.float64] | float,
        row: NDArray[np.float64] | float,
        column: NDArray[np.float64] | float,
    ) -> NDArray[np.float64]:
        """Patient coordinates (…, 3), mm, of fractional voxel indices (slice, row, column)."""
        slice_index, row, column = np.broadcast_arrays(
            *(np.asarray(v, dtype=np.float64) for v in (slice_index, row, column))
        )
        if len(self.positions) == 1:
            origin = self.positions[0] + slice_index[..., None] * self.slice_thickness * self.normal
        else:
            grid = np.arange(len(self.positions))
            origin = np.stack([np.interp(slice_index, grid, self.positions[:, axis]) for axis in range(3)], axis=-1)
        return (
            origin
            + column[..., None] * self.pixel_spacing[1] * self.row_direction
            + row[..., None] * self.pixel_spacing[0] * self.column_direction
        )


@dataclass(frozen=True, slots=True)
class StudyContext:
    """What the analyses may know of the patient and the study; no identity.

    Identity (name, patient ID, accession number) is carried by the result encoders from the source instances and never
    enters an analysis.
    """

    study_instance_uid: str
    sex: str | None = None
    """``M``, ``F`` or ``O``; ``None`` when empty."""
    age_years: float | None = None
    height_m: float | None = None
    weight_kg: float | None = None
    heart_rate_bpm: float | None = None
    manufacturer: str | None = None
    model_name: str | None = None
    field_strength_t: float | None = None
    indication: Indication | None = None
    """As the route says; ``None`` where it says nothing."""
    sampling: Sampling | None = None
    """Of generative analyses, as the route says; ``None`` where they take their own."""


@dataclass(frozen=True, slots=True, eq=False)
class CineStack:
    """Phases × slices of one view.

    Attributes
    ----------
    pixels : (T, S, R, C) float32
        Grey values after the modality LUT (rescale slope and intercept). Phase 0 is the first after the R wave.
    geometry : StackGeometry
    sources : tuple of T tuples of S FrameSource
        Origin of each frame. Where a slice was resampled to the common phase count, the source nearest in normalised
        time; ``resampled_slices`` names such slices.
    trigger_times : (T, S) float64
        Delay from the R wave of each frame, ms; for a resampled slice the normalised time times its RR interval;
        NaN where the headers give neither trigger times nor an RR interval.
    rr_intervals : (S,) float64
        RR interval of each slice, ms; NaN where it is not known.
    """

    view: View
    pixels: NDArray[np.float32]
    geometry: StackGeometry
    sources: tuple[tuple[FrameSource, ...], ...]
    trigger_times: NDArray[np.float64]
    rr_intervals: NDArray[np.float64]
    frame_of_reference_uid: str
    resampled_slices: tuple[int, ...] = ()
    """Slices resampled in time."""
    regridded_slices: tuple[int, ...] = ()
    """Slices whose images lie on another pixel grid (matrix, pixel spacing, axes, a tilt of some degrees) and were
    brought to that of the stack: a pixel is not where the source image has it."""
    interpolated_slices: tuple[int, ...] = ()
    """Those of ``regridded_slices`` whose grey values were interpolated in the plane."""
    retrospective: bool = True
    """False when the phases do not span the cardiac cycle (prospective gating): late diastole is missing."""
    view_open: bool = False
    """Whether geometry leaves open that it is a short axis: the segmentation has to show it."""
    phase_encoding: PhaseEncoding | None = None
    """``None`` where the headers do not say, where slices differ, and where images were brought to another grid."""

    @property
    def phases(self) -> int:
        """Number of cardiac phases T."""
        return int(self.pixels.shape[0])

    @property
    def slices(self) -> int:
        """Number of slice positions S."""
        return int(self.pixels.shape[1])

    @property
    def series_instance_uids(self) -> tuple[str, ...]:
        """Distinct source series, in slice order."""
        return tuple(dict.fromkeys(source.series_instance_uid for source in self.sources[0]))


class Reconstruction(enum.StrEnum):
    """What the grey values of a late-enhancement image are."""

    MAGNITUDE = "magnitude"
    PHASE_SENSITIVE = "phase sensitive"
    """With the sign of the magnetisation (PSIR)."""


@dataclass(frozen=True, slots=True, eq=False)
class LateEnhancementStack:
    """Parallel late-enhancement slices of one reconstruction: one phase, prepared by inversion.

    Attributes
    ----------
    view : View
    reconstruction : Reconstruction
    pixels : (S, R, C) float32
        Grey values after the modality LUT.
    geometry : StackGeometry
        Slices ascend along its normal.
    sources : tuple of S FrameSource
    inversion_times_ms : (S,) float64
        NaN where the header does not say.
    trigger_times_ms : (S,) float64
        Delay from the R wave; NaN where the header does not say.
    acquired_s : (S,) float64
        Time of acquisition on a common axis, s; NaN where the header does not say.
    """

    view: View
    reconstruction: Reconstruction
    pixels: NDArray[np.float32]
    geometry: StackGeometry
    sources: tuple[FrameSource, ...]
    inversion_times_ms: NDArray[np.float64]
    trigger_times_ms: NDArray[np.float64]
    acquired_s: NDArray[np.float64]
    frame_of_reference_uid: str
    regridded_slices: tuple[int, ...] = ()
    """As in :class:`CineStack`."""
    interpolated_slices: tuple[int, ...] = ()

    @property
    def slices(self) -> int:
        """Number of slice positions S."""
        return int(self.pixels.shape[0])

    @property
    def series_instance_uids(self) -> tuple[str, ...]:
        """Distinct source series, in slice order."""
        return tuple(dict.fromkeys(source.series_instance_uid for source in self.sources))


class OmissionReason(enum.StrEnum):
    """Why an object, a series or a slice did not become part of a stack."""

    NOT_AN_IMAGE = "not an image"
    NOT_MR = "not MR"
    UNREADABLE = "unreadable"
    NO_GEOMETRY = "no geometry"
    LOCALIZER = "localizer"
    NOT_CINE = "not cine"
    FLOW = "flow"
    TAGGED = "tagged"
    LATE_ENHANCEMENT = "late enhancement"
    PERFUSION = "perfusion"
    MAPPING = "mapping"
    OWN_OUTPUT = "own output"
    DERIVED = "derived"
    DUPLICATE = "duplicate"
    OTHER_SEQUENCE = "another kind of sequence"
    REPEATED_ACQUISITION = "repeated acquisition"
    TOO_FEW_PHASES = "too few phases"
    MISSING_FRAMES = "missing frames"
    DIFFERENT_GEOMETRY = "different geometry"
    REAL_TIME = "real time"
    TOO_LARGE = "too large"
    CONTINUED_ELSEWHERE = "continued elsewhere"
    """Slices that continue the short-axis stack and cannot be measured with it: its volumes are not the ventricle's."""


@dataclass(frozen=True, slots=True)
class Omission:
    """Something that was received but left out of the stacks, and why."""

    reason: OmissionReason
    detail: str
    """A sentence a radiographer understands; no patient data."""
    series_instance_uid: str | None
    sop_instance_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecognisedSeries:
    """A series that was recognised as something that no analysis here uses."""

    kind: OmissionReason
    """``LOCALIZER``, ``FLOW``, ``TAGGED``, ``MAPPING``, ``PERFUSION`` or ``LATE_ENHANCEMENT`` that makes no stack."""
    series_instance_uid: str
    instances: int


_RECOGNISED = frozenset(
    {
        OmissionReason.LOCALIZER,
        OmissionReason.FLOW,
        OmissionReason.TAGGED,
        OmissionReason.MAPPING,
        OmissionReason.PERFUSION,
        OmissionReason.LATE_ENHANCEMENT,
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class CineStudy:
    """Everything the assembler made of one study.

    Attributes
    ----------
    context : StudyContext
    stacks : tuple of CineStack
        Cine: the short axis first, then the long-axis views.
    omissions : tuple of Omission
        What became part of nothing, and why.
    late_enhancement : tuple of LateEnhancementStack
        Acquired late enhancement; short axis first, the stack with the most slices first, magnitude before PSIR.
    """

    context: StudyContext
    stacks: tuple[CineStack, ...]
    omissions: tuple[Omission, ...]
    late_enhancement: tuple[LateEnhancementStack, ...] = ()

    @property
    def short_axis(self) -> CineStack | None:
        """The short-axis stack with the most slices (then phases), or ``None``."""
        candidates = [stack for stack in self.stacks if stack.view is View.SAX]
        return max(candidates, key=lambda stack: (stack.slices, stack.phases), default=None)

    @property
    def long_axis(self) -> tuple[CineStack, ...]:
        """Cine of the two-, three- and four-chamber views, in that order."""
        views = (View.LAX_2CH, View.LAX_3CH, View.LAX_4CH)
        return tuple(stack for view in views for stack in self.stacks if stack.view is view)

    @property
    def recognised(self) -> tuple[RecognisedSeries, ...]:
        """Series that were recognised and are not used; each is among the omissions as well."""
        together: dict[tuple[OmissionReason, str], set[str]] = {}
        for entry in self.omissions:
            if entry.reason in _RECOGNISED and entry.series_instance_uid is not None:
                key = (entry.reason, entry.series_instance_uid)
                together.setdefault(key, set()).update(entry.sop_instance_uids)
        return tuple(RecognisedSeries(kind, series, len(uids)) for (kind, series), uids in together.items())
