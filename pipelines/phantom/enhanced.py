"""Enhanced MR Image Storage as Siemens XA (one object a slice) and Philips (one object a stack) write it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage

from pipelines.cine.stack import StackGeometry
from pipelines.phantom.classic import decimal, equipment, pixels_of, view_code
from pipelines.phantom.electrocardiogram import coded
from pipelines.phantom.identity import phantom_uid, study_moment
from pipelines.phantom.recipe import Dialect
from pipelines.phantom.study import CineAcquisition, Enhancement, PhantomStudy

__all__ = ["enhanced_objects"]


@dataclass(frozen=True, slots=True)
class _Frame:
    pixels: NDArray[np.uint16]
    slice_index: int
    phase: int
    delay_ms: float


def enhanced_objects(study: PhantomStudy, header: Dataset, dialect: Dialect) -> Iterator[Dataset]:
    """All images of the study as Enhanced multi-frame objects.

    Parameters
    ----------
    study : PhantomStudy
    header : Dataset
        Patient and study attributes.
    dialect : Dialect
        ``SIEMENS_XA`` or ``PHILIPS_ENHANCED``.
    """
    number = 5
    for cine in study.cines:
        phases, slices = cine.pixels.shape[:2]
        every = [
            _Frame(cine.pixels[phase, index], index, phase, float(cine.trigger_times[phase, index]))
            for index in range(slices)
            for phase in range(phases)
        ]
        if dialect is Dialect.SIEMENS_XA:
            groups = [[frame for frame in every if frame.slice_index == index] for index in reversed(range(slices))]
        else:
            groups = [every]
        for group in groups:
            number += 1
            yield _cine_object(study, header, dialect, cine, group, number)
    lge = study.enhancement
    if lge is None:
        return
    for name, stack in (("MAG", lge.magnitude), ("PSIR", lge.phase_sensitive)):
        number += 1
        frames = [_Frame(stack[index], index, 0, lge.trigger_ms) for index in range(stack.shape[0])]
        yield _enhancement_object(study, header, dialect, lge, frames, name, number)


def _base(
    study: PhantomStudy,
    header: Dataset,
    dialect: Dialect,
    role: str,
    description: str,
    number: int,
    frames: list[_Frame],
    complex_component: str,
) -> Dataset:
    whole = Dataset()
    whole.update(header)
    whole.update(equipment(study, dialect))
    whole.SOPClassUID = EnhancedMRImageStorage
    whole.SOPInstanceUID = phantom_uid(study.recipe, role)
    whole.SeriesInstanceUID = phantom_uid(study.recipe, f"{role} series")
    whole.FrameOfReferenceUID = phantom_uid(study.recipe, "frame of reference")
    whole.PositionReferenceIndicator = ""
    whole.Modality = "MR"
    whole.BodyPartExamined = "HEART"
    whole.PatientPosition = "HFS"
    whole.SeriesNumber = str(number)
    whole.InstanceNumber = "1"
    whole.SeriesDescription = whole.ProtocolName = description
    moment = study_moment(study.recipe, 20.0 * number)
    whole.SeriesDate = whole.ContentDate = f"{moment:%Y%m%d}"
    whole.SeriesTime = whole.ContentTime = f"{moment:%H%M%S}"
    whole.AcquisitionDateTime = f"{moment:%Y%m%d%H%M%S}"
    whole.AcquisitionNumber = "1"
    whole.AcquisitionContextSequence = Sequence()
    whole.AcquisitionDuration = 8.0
    whole.ImageType = ["ORIGINAL", "PRIMARY", "CARDIAC", "NONE"]
    whole.PixelPresentation = "MONOCHROME"
    whole.VolumetricProperties = "VOLUME"
    whole.VolumeBasedCalculationTechnique = "NONE"
    whole.ComplexImageComponent = complex_component
    whole.ContentQualification = "PRODUCT"
    whole.ResonantNucleus = "1H"
    whole.KSpaceFiltering = "RIESZ"
    whole.ApplicableSafetyStandardAgency = "IEC"
    whole.MagneticFieldStrength = study.protocol.field_t
    whole.BurnedInAnnotation = "NO"
    whole.LossyImageCompression = "00"
    whole.PresentationLUTShape = "IDENTITY"
    whole.ImageComments = "Simulated acquisition; not a patient"
    whole.update(pixels_of(np.stack([frame.pixels for frame in frames]), bits=12, signed=False))
    whole.NumberOfFrames = str(len(frames))
    return whole


def _organise(whole: Dataset, study: PhantomStudy, role: str, frames: list[_Frame], geometry: StackGeometry) -> None:
    """Dimensions, and what differs between frames: position, phase and delay."""
    dimension = phantom_uid(study.recipe, f"{role} dimension")
    organisation = Dataset()
    organisation.DimensionOrganizationUID = dimension
    whole.DimensionOrganizationSequence = Sequence([organisation])
    pointers = []
    for tag, parent in ((0x00209057, 0x00209111), (0x00209128, 0x00209111)):
        pointer = Dataset()
        pointer.DimensionOrganizationUID = dimension
        pointer.DimensionIndexPointer = tag
        pointer.FunctionalGroupPointer = parent
        pointers.append(pointer)
    whole.DimensionIndexSequence = Sequence(pointers)
    slices = sorted({frame.slice_index for frame in frames})
    per_frame = []
    for frame in frames:
        content = Dataset()
        content.FrameAcquisitionNumber = 1
        moment = study_moment(study.recipe, 20.0 * int(whole.SeriesNumber))
        content.FrameReferenceDateTime = content.FrameAcquisitionDateTime = f"{moment:%Y%m%d%H%M%S}"
        content.FrameAcquisitionDuration = 8000.0
        content.CardiacCyclePosition = "UNDETERMINED"
        content.StackID = "1"
        content.InStackPositionNumber = slices.index(frame.slice_index) + 1
        content.TemporalPositionIndex = frame.phase + 1
        content.DimensionIndexValues = [content.InStackPositionNumber, content.TemporalPositionIndex]
        position = Dataset()
        position.ImagePositionPatient = [decimal(value) for value in geometry.positions[frame.slice_index]]
        trigger = Dataset()
        trigger.NominalCardiacTriggerDelayTime = frame.delay_ms
        group = Dataset()
        group.FrameContentSequence = Sequence([content])
        group.PlanePositionSequence = Sequence([position])
        group.CardiacSynchronizationSequence = Sequence([trigger])
        per_frame.append(group)
    whole.PerFrameFunctionalGroupsSequence = Sequence(per_frame)


def _shared(geometry: StackGeometry, frames: list[_Frame], rescale: float) -> Dataset:
    """Functional groups that all frames share (PS3.3 C.8.13.5)."""
    group = Dataset()
    measures = Dataset()
    measures.PixelSpacing = [decimal(value) for value in geometry.pixel_spacing]
    measures.SliceThickness = decimal(geometry.slice_thickness)
    if len({frame.slice_index for frame in frames}) > 1:
        measures.SpacingBetweenSlices = decimal(geometry.pitch)
    group.PixelMeasuresSequence = Sequence([measures])
    orientation = Dataset()
    cosines = (*geometry.row_direction, *geometry.column_direction)
    orientation.ImageOrientationPatient = [decimal(value) for value in cosines]
    group.PlaneOrientationSequence = Sequence([orientation])
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = Sequence([coded("80891009", "SCT", "Heart")])
    anatomy.FrameLaterality = "U"
    group.FrameAnatomySequence = Sequence([anatomy])
    transformation = Dataset()
    transformation.RescaleIntercept = "0"
    transformation.RescaleSlope = decimal(rescale)
    transformation.RescaleType = "US"
    group.PixelValueTransformationSequence = Sequence([transformation])
    grey = np.percentile(np.stack([frame.pixels for frame in frames]), 99) * rescale
    window = Dataset()
    window.WindowCenter, window.WindowWidth = decimal(round(grey / 2)), decimal(max(round(grey), 1))
    group.FrameVOILUTSequence = Sequence([window])
    rows, columns = frames[0].pixels.shape
    view = Dataset()
    view.InPlanePhaseEncodingDirection = "COLUMN"
    view.MRAcquisitionFrequencyEncodingSteps = columns
    view.MRAcquisitionPhaseEncodingStepsInPlane = round(0.8 * rows)
    view.PercentSampling = 80.0
    view.PercentPhaseFieldOfView = decimal(round(100 * rows / columns, 3))
    group.MRFOVGeometrySequence = Sequence([view])
    receive = Dataset()
    receive.ReceiveCoilName = "Body_18"
    receive.ReceiveCoilManufacturerName = ""
    receive.ReceiveCoilType = "MULTICOIL"
    receive.QuadratureReceiveCoil = "NO"
    element = Dataset()
    element.MultiCoilElementName = "B1"
    element.MultiCoilElementUsed = "YES"
    receive.MultiCoilDefinitionSequence = Sequence([element])
    group.MRReceiveCoilSequence = Sequence([receive])
    transmit = Dataset()
    transmit.TransmitCoilName = "Body"
    transmit.TransmitCoilManufacturerName = ""
    transmit.TransmitCoilType = "BODY"
    group.MRTransmitCoilSequence = Sequence([transmit])
    averages = Dataset()
    averages.NumberOfAverages = 1.0
    group.MRAveragesSequence = Sequence([averages])
    return group


def _frame_type(component: str, contrast: str) -> Dataset:
    kind = Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "CARDIAC", "NONE"]
    kind.PixelPresentation = "MONOCHROME"
    kind.VolumetricProperties = "VOLUME"
    kind.VolumeBasedCalculationTechnique = "NONE"
    kind.ComplexImageComponent = component
    kind.AcquisitionContrast = contrast
    return kind


def _timing(repetition: float, flip: float) -> Dataset:
    timing = Dataset()
    timing.RepetitionTime = decimal(repetition)
    timing.FlipAngle = decimal(flip)
    timing.EchoTrainLength = 1
    timing.RFEchoTrainLength = 0
    timing.GradientEchoTrainLength = 1
    timing.SpecificAbsorptionRateSequence = Sequence([_rate("IEC_WHOLE_BODY", 1.4)])
    timing.GradientOutputType = "DB_DT"
    timing.GradientOutput = 40.0
    operating = []
    for kind in ("STATIC FIELD", "RF", "GRADIENT"):
        mode = Dataset()
        mode.OperatingModeType = kind
        mode.OperatingMode = "IEC_NORMAL"
        operating.append(mode)
    timing.OperatingModeSequence = Sequence(operating)
    return timing


def _rate(definition: str, value: float) -> Dataset:
    rate = Dataset()
    rate.SpecificAbsorptionRateDefinition = definition
    rate.SpecificAbsorptionRateValue = value
    return rate


def _modifier(*, inversion_ms: float | None, steady: bool) -> Dataset:
    modifier = Dataset()
    modifier.InversionRecovery = "NO" if inversion_ms is None else "YES"
    if inversion_ms is not None:
        modifier.InversionTimes = [inversion_ms]
    modifier.FlowCompensation = "NONE"
    modifier.Spoiling = "NONE" if steady else "RF"
    modifier.T2Preparation = "NO"
    modifier.SpectrallySelectedExcitation = "NONE"
    modifier.SpatialPresaturation = "NONE"
    modifier.PartialFourier = "NO"
    modifier.ParallelAcquisition = "NO"
    return modifier


def _sequence_attributes(whole: Dataset, study: PhantomStudy, *, name: str, steady: bool) -> None:
    """MR Pulse Sequence module (PS3.3 C.8.13.4)."""
    whole.PulseSequenceName = name
    whole.MRAcquisitionType = "2D"
    whole.EchoPulseSequence = "GRADIENT"
    whole.MultiPlanarExcitation = "NO"
    whole.PhaseContrast = "NO"
    whole.TimeOfFlightContrast = "NO"
    whole.SteadyStatePulseSequence = "TRANSVERSE" if steady else "NONE"
    whole.EchoPlanarPulseSequence = "NO"
    whole.SaturationRecovery = "NO"
    whole.SpectrallySelectedSuppression = "NONE"
    whole.OversamplingPhase = "NONE"
    whole.GeometryOfKSpaceTraversal = "RECTILINEAR"
    whole.RectilinearPhaseEncodeReordering = "LINEAR"
    whole.SegmentedKSpaceTraversal = "PARTIAL"
    whole.NumberOfKSpaceTrajectories = 1
    whole.CardiacSynchronizationTechnique = "RETROSPECTIVE" if steady else "PROSPECTIVE"
    whole.CardiacSignalSource = "ECG"
    whole.CardiacRRIntervalSpecified = study.subject.cycle.rr_ms
    whole.CardiacBeatRejectionTechnique = "NONE"
    whole.LowRRValue = str(round(0.9 * study.subject.cycle.rr_ms))
    whole.HighRRValue = str(round(1.1 * study.subject.cycle.rr_ms))
    whole.IntervalsAcquired = "12"
    whole.IntervalsRejected = "0"


def _imaging(study: PhantomStudy) -> Dataset:
    imaging = Dataset()
    imaging.MagnetizationTransfer = "NONE"
    imaging.BloodSignalNulling = "NO"
    imaging.Tagging = "NONE"
    imaging.TransmitterFrequency = 42.577 * study.protocol.field_t
    imaging.PixelBandwidth = "930"
    return imaging


def _complete(
    whole: Dataset,
    study: PhantomStudy,
    geometry: StackGeometry,
    frames: list[_Frame],
    *,
    component: str,
    contrast: str,
    echo_ms: float,
    timing: Dataset,
    modifier: Dataset,
    rr_ms: float,
    rescale: float,
) -> None:
    group = _shared(geometry, frames, rescale)
    group.MRImageFrameTypeSequence = Sequence([_frame_type(component, contrast)])
    group.MRTimingAndRelatedParametersSequence = Sequence([timing])
    echo = Dataset()
    echo.EffectiveEchoTime = echo_ms
    group.MREchoSequence = Sequence([echo])
    group.MRModifierSequence = Sequence([modifier])
    group.MRImagingModifierSequence = Sequence([_imaging(study)])
    whole.SharedFunctionalGroupsSequence = Sequence([group])
    for item in whole.PerFrameFunctionalGroupsSequence:
        item.CardiacSynchronizationSequence[0].RRIntervalTimeNominal = rr_ms


def _cine_object(
    study: PhantomStudy,
    header: Dataset,
    dialect: Dialect,
    cine: CineAcquisition,
    frames: list[_Frame],
    number: int,
) -> Dataset:
    role = f"{dialect} {cine.view} {frames[0].slice_index}"
    siemens = dialect is Dialect.SIEMENS_XA
    description = f"cine_trufi_retro_{view_code(cine.view)}" if siemens else f"BTFE_{view_code(cine.view).upper()}"
    rescale = 1.0
    if not siemens:
        rescale = max(float(cine.pixels.max()), 1.0) / 4095
        frames = [
            _Frame(np.rint(frame.pixels / rescale).astype(np.uint16), frame.slice_index, frame.phase, frame.delay_ms)
            for frame in frames
        ]
    whole = _base(study, header, dialect, role, description, number, frames, "MAGNITUDE")
    whole.AcquisitionContrast = "UNKNOWN"
    _sequence_attributes(whole, study, name="*tfi2d1_15" if siemens else "BTFE", steady=True)
    _organise(whole, study, role, frames, cine.geometry)
    _complete(
        whole,
        study,
        cine.geometry,
        frames,
        component="MAGNITUDE",
        contrast="UNKNOWN",
        echo_ms=study.protocol.echo_ms,
        timing=_timing(study.protocol.repetition_ms, study.protocol.flip_deg),
        modifier=_modifier(inversion_ms=None, steady=True),
        rr_ms=float(cine.rr_intervals[frames[0].slice_index]),
        rescale=rescale,
    )
    for item, frame in zip(whole.PerFrameFunctionalGroupsSequence, frames, strict=True):
        item.CardiacSynchronizationSequence[0].RRIntervalTimeNominal = float(cine.rr_intervals[frame.slice_index])
    return whole


def _enhancement_object(
    study: PhantomStudy,
    header: Dataset,
    dialect: Dialect,
    lge: Enhancement,
    frames: list[_Frame],
    name: str,
    number: int,
) -> Dataset:
    role = f"{dialect} LGE {name}"
    component = "MAGNITUDE" if name == "MAG" else "REAL"
    whole = _base(study, header, dialect, role, f"LGE_{name}_SAX", number, frames, component)
    whole.AcquisitionContrast = "T1"
    _sequence_attributes(whole, study, name="*tfl2d1_25", steady=False)
    _organise(whole, study, role, frames, lge.geometry)
    agent = coded("354090006", "SCT", "Gadolinium compound")
    whole.ContrastBolusAgentSequence = Sequence([agent])
    agent.ContrastBolusAgentNumber = 1
    agent.ContrastBolusAdministrationRouteSequence = Sequence([coded("47625008", "SCT", "Intravenous route")])
    agent.ContrastBolusIngredientCodeSequence = Sequence([coded("45215002", "SCT", "Gadolinium")])
    agent.ContrastBolusVolume = "15"
    agent.ContrastBolusIngredientConcentration = "1"
    _complete(
        whole,
        study,
        lge.geometry,
        frames,
        component=component,
        contrast="T1",
        echo_ms=1.97,
        timing=_timing(lge.timing.repetition_ms, 20.0),
        modifier=_modifier(inversion_ms=lge.timing.inversion_ms, steady=False),
        rr_ms=study.subject.cycle.rr_ms,
        rescale=1.0,
    )
    usage = Dataset()
    usage.ContrastBolusAgentNumber = 1
    usage.ContrastBolusAgentAdministered = "YES"
    usage.ContrastBolusAgentDetected = "YES"
    usage.ContrastBolusAgentPhase = ""
    whole.SharedFunctionalGroupsSequence[0].ContrastBolusUsageSequence = Sequence([usage])
    return whole
