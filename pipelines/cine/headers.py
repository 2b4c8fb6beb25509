"""What the assembler needs of each frame, read alike from classic and Enhanced multi-frame objects, without pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from pipelines.cine import elements
from pipelines.cine.declared import frames_there
from pipelines.cine.elements import Layers, number, numbers, private_number, seconds, text, texts

__all__ = [
    "ENHANCED_MR",
    "MR_IMAGES",
    "OWN_MODEL_NAME",
    "Acquisition",
    "FrameHeader",
    "Origin",
    "frame_headers",
    "origin",
]

OWN_MODEL_NAME = "dicom-node"
"""ManufacturerModelName by which this software marks its own output."""

ENHANCED_MR = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR Image Storage
        "1.2.840.10008.5.1.4.1.1.4.3",  # Enhanced MR Color Image Storage
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR Image Storage
    }
)
MR_IMAGES = ENHANCED_MR | {"1.2.840.10008.5.1.4.1.1.4"}

_PHILIPS_FRAME_ITEM = 0x2005_000F
"""Element offset of the classic attributes that Philips keeps in a private sequence of each Enhanced frame."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Which object a data set is: enough to report it whatever else it lacks."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    modality: str
    own_output: bool
    """Made by this software: SyntheticData YES, or named as equipment or contributing equipment."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """How the frames of one series (or functional group) were acquired; only what tells cine from everything else."""

    image_type: tuple[str, ...] = ()
    series_description: str = ""
    protocol_name: str = ""
    scanning_sequence: tuple[str, ...] = ()
    sequence_variant: tuple[str, ...] = ()
    scan_options: tuple[str, ...] = ()
    acquisition_type: str = ""
    sequence_name: str = ""
    """SequenceName and PulseSequenceName."""
    steady_state: str = ""
    spoiling: str = ""
    echo_pulse_sequence: str = ""
    echo_planar: str = ""
    inversion_recovery: str = ""
    inversion_time_ms: float | None = None
    """InversionTime, or the first value of InversionTimes that is a time."""
    saturation_recovery: str = ""
    tagging: str = ""
    phase_contrast: str = ""
    complex_component: str = ""
    contrast: str = ""
    """AcquisitionContrast."""
    synchronization: str = ""
    """CardiacSynchronizationTechnique."""
    contrast_agent: bool = False
    echo_time_ms: float | None = None
    flip_angle_deg: float | None = None
    manufacturer: str = ""


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """One frame: identity, geometry (LPS, mm) and time (ms after the R wave unless said otherwise)."""

    origin: Origin
    acquisition: Acquisition
    frame_number: int | None
    """1-based in a multi-frame object, ``None`` in a single-frame object."""
    instance_number: int | None
    series_number: int | None
    acquisition_number: int | None
    rows: int
    columns: int
    position: tuple[float, float, float] | None
    orientation: tuple[float, float, float, float, float, float] | None
    pixel_spacing: tuple[float, float] | None
    slice_thickness: float | None
    frame_of_reference_uid: str
    trigger_time_ms: float | None
    """TriggerTime or NominalCardiacTriggerDelayTime."""
    temporal_index: float | None
    """TemporalPositionIndex, TemporalPositionIdentifier, or TemporalPositionTimeOffset."""
    private_phase: float | None
    """Phase number of GE (0019,xxD7) or Philips (2001,xx08)."""
    acquired_s: float | None
    """AcquisitionDate and AcquisitionTime (or their DT forms), seconds."""
    created_s: float | None
    """ContentDate and ContentTime, seconds."""
    nominal_interval_ms: float | None
    """NominalInterval, or RRIntervalTimeNominal."""
    heart_rate_bpm: float | None
    declared_phases: int | None
    """CardiacNumberOfImages, NumberOfTemporalPositions or Philips (2001,xx17)."""
    geometry_problem: str = ""
    """What is wrong with position, orientation or spacing where one is ``None``: sentences."""
    unreadable: tuple[str, ...] = ()
    """Sentences on the values of phase and time that are there but cannot be read."""
    distrusted: frozenset[str] = frozenset()
    """Attributes that put it in an order which the pixels contradict."""
    repeated: bool = False
    """The pixels show other frames of the slice with the same trigger time to be of the same phase."""
    flow_magnitude: bool = False
    """Phase images were acquired with it."""
    phase_encoding: str = ""
    """InPlanePhaseEncodingDirection as written: ``ROW``, ``COL`` or ``COLUMN``."""

    @property
    def key(self) -> tuple[str, int]:
        """Identity of the frame: SOPInstanceUID and frame number (0 for a single-frame object)."""
        return self.origin.sop_instance_uid, self.frame_number or 0


def origin(dataset: Dataset) -> Origin:
    """Identity of a data set.

    Parameters
    ----------
    dataset : pydicom.Dataset
        Any object; pixels are not needed.
    """
    top: Layers = (_table(dataset),)
    equipment = elements.items(dataset, "ContributingEquipmentSequence")
    names = [text(top, "ManufacturerModelName")]
    names += [text((_table(item),), "ManufacturerModelName") for item in equipment]
    return Origin(
        study_instance_uid=text(top, "StudyInstanceUID"),
        series_instance_uid=text(top, "SeriesInstanceUID"),
        sop_class_uid=text(top, "SOPClassUID"),
        sop_instance_uid=text(top, "SOPInstanceUID"),
        modality=text(top, "Modality").upper(),
        own_output=text(top, "SyntheticData").upper() == "YES" or any(OWN_MODEL_NAME in name.lower() for name in names),
    )


def frame_headers(
    dataset: Dataset, *, identity: Origin | None = None, size: int | None = None
) -> tuple[FrameHeader, ...]:
    """Read the frames of an MR image object.

    Parameters
    ----------
    dataset : pydicom.Dataset
        Classic or Enhanced MR; pixels are not needed.
    identity : Origin, optional
        What `origin` gave, where that was asked before.
    size : int, optional
        Bytes of its file, where the data set was read without pixels: room for frames that it declares.

    Returns
    -------
    tuple of FrameHeader
        One for a classic object, one for each frame of a multi-frame object.

    Raises
    ------
    DeclaredError
        The object declares more frames than it holds, or more than are read.
    """
    identity = identity or origin(dataset)
    top = _table(dataset)
    per_frame = elements.items(dataset, "PerFrameFunctionalGroupsSequence")
    frames = frames_there(dataset, top, len(per_frame), size=size)
    if identity.sop_class_uid not in ENHANCED_MR and frames == 1:
        return (_frame(identity, (top,), None),)
    shared: dict[Any, DataElement | RawDataElement] = {}
    for item in elements.items(dataset, "SharedFunctionalGroupsSequence")[:1]:
        shared = _macros(item)
    tables = [_macros(item) for item in per_frame[:frames]]
    tables += [{}] * (frames - len(tables))
    return tuple(_frame(identity, (table, shared, top), index) for index, table in enumerate(tables, 1))


def _table(dataset: Dataset) -> Mapping[Any, DataElement | RawDataElement]:
    # The raw elements: converting every value through pydicom costs most of the reading and warns of each invalid UID.
    return dict(dataset.items())


def _macros(group: Dataset) -> dict[Any, DataElement | RawDataElement]:
    """Attributes of the first item of every functional group macro, flattened."""
    table: dict[Any, DataElement | RawDataElement] = {}
    for where in list(group.keys()):
        private_classic = where.group == 0x2005 and where.element & 0xFF == _PHILIPS_FRAME_ITEM & 0xFF
        for item in elements.items(group, where)[:1]:
            for inner, element in _table(item).items():
                # Standard macros win over Philips' private copy of the classic header.
                if not (private_classic and inner in table):
                    table[inner] = element
    return table


def _frame(identity: Origin, layers: Layers, frame_number: int | None) -> FrameHeader:
    def integer(keyword: str) -> int | None:
        value = number(layers, keyword)
        return None if value is None else int(value)

    def first(*keywords: str) -> float | None:
        for keyword in keywords:
            value = number(layers, keyword)
            if value is not None:
                return value
        return None

    position = numbers(layers, "ImagePositionPatient")
    orientation = numbers(layers, "ImageOrientationPatient")
    spacing = numbers(layers, "PixelSpacing")
    private = private_number(layers, 0x2001, "Philips Imaging DD 001", 0x08)
    if private is None:
        private = private_number(layers, 0x0019, "GEMS_ACQU_01", 0xD7)
    declared = first("CardiacNumberOfImages", "NumberOfTemporalPositions")
    if declared is None or declared < 2:
        declared = private_number(layers, 0x2001, "Philips Imaging DD 001", 0x17)
    acquired = seconds("", text(layers, "FrameAcquisitionDateTime"))
    if acquired is None:
        acquired = seconds(text(layers, "AcquisitionDate"), text(layers, "AcquisitionTime"))
    if acquired is None:
        acquired = seconds("", text(layers, "AcquisitionDateTime"))
    trigger = first("TriggerTime", "NominalCardiacTriggerDelayTime")
    temporal = first("TemporalPositionIndex", "TemporalPositionIdentifier", "TemporalPositionTimeOffset")
    header = FrameHeader(
        origin=identity,
        acquisition=_acquisition(layers),
        frame_number=frame_number,
        instance_number=integer("InstanceNumber"),
        series_number=integer("SeriesNumber"),
        acquisition_number=integer("AcquisitionNumber"),
        rows=integer("Rows") or 0,
        columns=integer("Columns") or 0,
        position=(position[0], position[1], position[2]) if len(position) == 3 else None,
        orientation=_unit_orientation(orientation),
        pixel_spacing=(spacing[0], spacing[1]) if len(spacing) == 2 and min(spacing) > 0 else None,
        slice_thickness=first("SliceThickness"),
        frame_of_reference_uid=text(layers, "FrameOfReferenceUID"),
        trigger_time_ms=trigger,
        temporal_index=temporal,
        private_phase=private,
        acquired_s=acquired,
        created_s=seconds(text(layers, "ContentDate"), text(layers, "ContentTime")),
        nominal_interval_ms=first("NominalInterval", "RRIntervalTimeNominal"),
        heart_rate_bpm=first("HeartRate"),
        declared_phases=None if declared is None or declared < 2 else int(declared),
        unreadable=_unreadable(layers) if trigger is None and temporal is None and private is None else (),
        phase_encoding=text(layers, "InPlanePhaseEncodingDirection").upper(),
    )
    if header.position is None or header.orientation is None or header.pixel_spacing is None:
        return replace(header, geometry_problem=_geometry_problem(header, layers))
    return header


_OF_PHASE = (
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "InstanceNumber",
)


def _unreadable(layers: Layers) -> tuple[str, ...]:
    return tuple(said for keyword in _OF_PHASE if (said := elements.unreadable(layers, keyword)))


def _geometry_problem(header: FrameHeader, layers: Layers) -> str:
    """Which attribute keeps a frame from having a place, and why."""
    wanted = (
        ("ImagePositionPatient", header.position, 3, "is not a point"),
        ("ImageOrientationPatient", header.orientation, 6, "does not hold two perpendicular unit vectors"),
        ("PixelSpacing", header.pixel_spacing, 2, "is not positive"),
    )
    said: list[str] = []
    for keyword, found, count, otherwise in wanted:
        if found is not None:
            continue
        values = numbers(layers, keyword)
        unreadable = elements.unreadable(layers, keyword)
        if unreadable:
            said.append(unreadable)
        elif not values:
            said.append(f"{keyword} is absent.")
        elif len(values) != count:
            said.append(f"{keyword} has {len(values)} value{'s' if len(values) > 1 else ''}; it takes {count}.")
        else:
            said.append(f"{keyword} {otherwise}.")
    return " ".join(said)


def _unit_orientation(values: tuple[float, ...]) -> tuple[float, float, float, float, float, float] | None:
    """The six cosines, or ``None`` when they are not two orthogonal unit vectors within what rounding explains."""
    if len(values) != 6:
        return None
    row, column = values[:3], values[3:]
    lengths = (sum(v * v for v in row), sum(v * v for v in column))
    skew = sum(a * b for a, b in zip(row, column, strict=True))
    if any(abs(length - 1) > 0.02 for length in lengths) or abs(skew) > 0.02:
        return None
    return (values[0], values[1], values[2], values[3], values[4], values[5])


def _acquisition(layers: Layers) -> Acquisition:
    def value(keyword: str) -> str:
        return text(layers, keyword).upper()

    def values(keyword: str) -> tuple[str, ...]:
        return tuple(part.upper() for part in texts(layers, keyword) if part)

    # FrameType is the ImageType of the frame (PS3.3 C.8.13.3.1); the object's own may be MIXED.
    return Acquisition(
        image_type=values("FrameType") or values("ImageType"),
        series_description=text(layers, "SeriesDescription"),
        protocol_name=text(layers, "ProtocolName"),
        scanning_sequence=values("ScanningSequence"),
        sequence_variant=values("SequenceVariant"),
        scan_options=values("ScanOptions"),
        acquisition_type=value("MRAcquisitionType"),
        sequence_name=" ".join((text(layers, "SequenceName"), text(layers, "PulseSequenceName"))).strip(),
        steady_state=value("SteadyStatePulseSequence"),
        spoiling=value("Spoiling"),
        echo_pulse_sequence=value("EchoPulseSequence"),
        echo_planar=value("EchoPlanarPulseSequence"),
        inversion_recovery=value("InversionRecovery"),
        inversion_time_ms=_inversion_time(layers),
        saturation_recovery=value("SaturationRecovery"),
        tagging=value("Tagging"),
        phase_contrast=value("PhaseContrast"),
        complex_component=value("ComplexImageComponent"),
        contrast=value("AcquisitionContrast"),
        synchronization=value("CardiacSynchronizationTechnique"),
        contrast_agent=bool(text(layers, "ContrastBolusAgent")),
        echo_time_ms=number(layers, "EchoTime") or number(layers, "EffectiveEchoTime"),
        flip_angle_deg=number(layers, "FlipAngle"),
        manufacturer=text(layers, "Manufacturer"),
    )


_LONGEST_INVERSION_MS = 60_000.0


def _inversion_time(layers: Layers) -> float | None:
    """InversionTime, else of InversionTimes (0018,9079), in which Philips writes the largest double for no time."""
    stated = [*numbers(layers, "InversionTime")[:1], *numbers(layers, "InversionTimes")]
    return next((value for value in stated if 0 < value < _LONGEST_INVERSION_MS), None)
