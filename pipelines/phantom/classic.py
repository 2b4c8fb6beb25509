"""Classic MR Image Storage as Siemens, GE and Philips write it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from pipelines.cine.stack import StackGeometry, View
from pipelines.phantom.identity import phantom_uid, study_moment
from pipelines.phantom.recipe import Dialect
from pipelines.phantom.study import CineAcquisition, Enhancement, PhantomStudy

__all__ = ["classic_objects", "equipment"]


@dataclass(frozen=True, slots=True)
class _Scanner:
    model: str
    software: str
    coil: str


_SCANNERS = {
    (Dialect.SIEMENS, 1.5): _Scanner("Aera", "syngo MR E11", "Body_18"),
    (Dialect.SIEMENS, 3.0): _Scanner("Skyra", "syngo MR E11", "Body_18"),
    (Dialect.SIEMENS_XA, 1.5): _Scanner("MAGNETOM Sola", "syngo MR XA50", "BM_Body_18"),
    (Dialect.SIEMENS_XA, 3.0): _Scanner("MAGNETOM Vida", "syngo MR XA50", "BM_Body_18"),
    (Dialect.GE, 1.5): _Scanner("SIGNA HDxt", "24\\LX\\MR Software release:HD16.0_V03", "8CARDIAC"),
    (Dialect.GE, 3.0): _Scanner("DISCOVERY MR750", "24\\LX\\MR Software release:DV24.0_R02", "32Ch Cardiac"),
    (Dialect.PHILIPS, 1.5): _Scanner("Ingenia", "5.3.0\\5.3.0.0", "MULTI COIL"),
    (Dialect.PHILIPS, 3.0): _Scanner("Achieva dStream", "5.3.0\\5.3.0.0", "MULTI COIL"),
    (Dialect.PHILIPS_ENHANCED, 1.5): _Scanner("Ingenia", "5.6.1\\5.6.1.0", "MULTI COIL"),
    (Dialect.PHILIPS_ENHANCED, 3.0): _Scanner("Ingenia Elition X", "5.6.1\\5.6.1.0", "MULTI COIL"),
}
_LARMOR_MHZ_T = 42.577


def equipment(study: PhantomStudy, dialect: Dialect) -> Dataset:
    """Equipment attributes of the imitated scanner; institution and station say that it is simulated."""
    scanner = _SCANNERS[(dialect, study.protocol.field_t)]
    header = Dataset()
    header.Manufacturer = dialect.manufacturer
    header.InstitutionName = "Simulated scanner"
    header.StationName = "PHANTOM"
    header.ManufacturerModelName = scanner.model
    header.DeviceSerialNumber = "00000"
    header.SoftwareVersions = scanner.software.split("\\")
    return header


def view_code(view: View) -> str:
    """Short name of a view as protocols spell it."""
    return {View.SAX: "sax", View.LAX_2CH: "2ch", View.LAX_3CH: "3ch", View.LAX_4CH: "4ch"}[view]


def geometry_of(header: Dataset, geometry: StackGeometry, slice_index: int) -> None:
    """Set the image plane of one slice (PS3.3 C.7.6.2)."""
    position = geometry.positions[slice_index]
    orientation = (*geometry.row_direction, *geometry.column_direction)
    header.ImagePositionPatient = [decimal(value) for value in position]
    header.ImageOrientationPatient = [decimal(value) for value in orientation]
    header.PixelSpacing = [decimal(value) for value in geometry.pixel_spacing]
    header.SliceThickness = decimal(geometry.slice_thickness)
    header.SliceLocation = decimal(float(position @ geometry.normal))


def decimal(value: float) -> str:
    """DS of at most 16 characters."""
    return f"{float(value):.9f}".rstrip("0").rstrip(".")[:16] or "0"


def classic_objects(study: PhantomStudy, header: Dataset, dialect: Dialect) -> Iterator[Dataset]:
    """All images of the study as classic objects, in the order in which the vendor sends them.

    Parameters
    ----------
    study : PhantomStudy
    header : Dataset
        Patient and study attributes.
    dialect : Dialect
        ``SIEMENS``, ``GE`` or ``PHILIPS``.

    Yields
    ------
    Dataset
        Without file meta information.
    """
    common = Dataset()
    common.update(header)
    common.update(equipment(study, dialect))
    common.SOPClassUID = MRImageStorage
    common.Modality = "MR"
    common.PatientPosition = "HFS"
    common.BodyPartExamined = "HEART"
    common.FrameOfReferenceUID = phantom_uid(study.recipe, "frame of reference")
    common.PositionReferenceIndicator = ""
    common.ImageComments = "Simulated acquisition; not a patient"
    writer = {Dialect.SIEMENS: _siemens, Dialect.GE: _ge, Dialect.PHILIPS: _philips}[dialect]
    yield from writer(study, common)


def _cine_protocol(study: PhantomStudy, cine: CineAcquisition, dialect: Dialect, slice_index: int) -> Dataset:
    protocol = study.protocol
    phases, rr = cine.pixels.shape[0], float(cine.rr_intervals[slice_index])
    part = Dataset()
    part.ScanningSequence = "GR"
    part.MRAcquisitionType = "2D"
    part.AngioFlag = "N"
    part.EchoTime = decimal(protocol.echo_ms)
    part.NumberOfAverages = "1"
    part.ImagingFrequency = decimal(_LARMOR_MHZ_T * protocol.field_t)
    part.ImagedNucleus = "1H"
    part.EchoNumbers = "1"
    part.MagneticFieldStrength = decimal(protocol.field_t)
    part.EchoTrainLength = "1"
    part.PixelBandwidth = "930"
    part.FlipAngle = decimal(protocol.flip_deg)
    part.VariableFlipAngleFlag = "N"
    part.InPlanePhaseEncodingDirection = "COL"
    rows, columns = cine.pixels.shape[2:]
    part.AcquisitionMatrix = [0, columns, round(rows * 0.8), 0]
    part.NominalInterval = str(round(rr))
    part.BeatRejectionFlag = "N"
    part.CardiacNumberOfImages = str(phases)
    part.HeartRate = str(round(60000 / rr))
    part.ReceiveCoilName = _SCANNERS[(dialect, protocol.field_t)].coil
    part.SAR = "1.4"
    return part


def _enhancement_protocol(study: PhantomStudy, lge: Enhancement, dialect: Dialect) -> Dataset:
    part = Dataset()
    part.ScanningSequence = ["GR", "IR"]
    part.MRAcquisitionType = "2D"
    part.AngioFlag = "N"
    part.RepetitionTime = decimal(round(lge.timing.repetition_ms, 1))
    part.EchoTime = "1.97"
    part.InversionTime = decimal(round(lge.timing.inversion_ms))
    part.NumberOfAverages = "1"
    part.ImagingFrequency = decimal(_LARMOR_MHZ_T * study.protocol.field_t)
    part.ImagedNucleus = "1H"
    part.EchoNumbers = "1"
    part.MagneticFieldStrength = decimal(study.protocol.field_t)
    part.EchoTrainLength = "1"
    part.FlipAngle = "20"
    part.VariableFlipAngleFlag = "N"
    part.ContrastBolusAgent = "Simulated gadolinium chelate"
    part.ContrastBolusRoute = "IV"
    part.NominalInterval = str(round(study.subject.cycle.rr_ms))
    part.HeartRate = str(round(60000 / study.subject.cycle.rr_ms))
    part.ReceiveCoilName = _SCANNERS[(dialect, study.protocol.field_t)].coil
    return part


def pixels_of(frame: NDArray[np.integer], *, bits: int, signed: bool) -> Dataset:
    """Image Pixel module of one monochrome frame."""
    part = Dataset()
    part.SamplesPerPixel = 1
    part.PhotometricInterpretation = "MONOCHROME2"
    part.Rows, part.Columns = frame.shape[-2:]
    part.BitsAllocated = 16
    part.BitsStored = bits
    part.HighBit = bits - 1
    part.PixelRepresentation = int(signed)
    stored = np.ascontiguousarray(frame, dtype="<i2" if signed else "<u2")
    part.PixelData = stored.tobytes()
    return part


def _window(part: Dataset, pixels: NDArray[np.integer]) -> None:
    high = float(np.percentile(pixels, 99.0))
    part.WindowCenter = decimal(round(high / 2))
    part.WindowWidth = decimal(max(round(high), 1))


def _stamp(part: Dataset, study: PhantomStudy, role: str, series: str, series_number: int, instance: int) -> None:
    part.SOPInstanceUID = phantom_uid(study.recipe, role)
    part.SeriesInstanceUID = phantom_uid(study.recipe, series)
    part.SeriesNumber = str(series_number)
    part.InstanceNumber = str(instance)


def _times(part: Dataset, study: PhantomStudy, series_seconds: float, seconds: float) -> None:
    part.SeriesDate = part.AcquisitionDate = part.ContentDate = f"{study_moment(study.recipe):%Y%m%d}"
    part.SeriesTime = f"{study_moment(study.recipe, series_seconds):%H%M%S}"
    moment = study_moment(study.recipe, seconds)
    part.AcquisitionTime = part.ContentTime = f"{moment:%H%M%S.%f}"
    part.InstanceCreationDate, part.InstanceCreationTime = part.ContentDate, part.ContentTime


def _object(*parts: Dataset) -> Dataset:
    whole = Dataset()
    for part in parts:
        whole.update(part)
    return whole


def _siemens(study: PhantomStudy, common: Dataset) -> Iterator[Dataset]:
    number = 5
    for cine in study.cines:
        phases, slices = cine.pixels.shape[:2]
        for slice_index in reversed(range(slices)):
            number += 1
            series = f"{cine.view} {slice_index}"
            start = 20.0 * number
            protocol = _cine_protocol(study, cine, Dialect.SIEMENS, slice_index)
            protocol.ImageType = ["ORIGINAL", "PRIMARY", "M", "RETRO", "NORM", "DIS2D"]
            protocol.SequenceVariant = "SK"
            protocol.ScanOptions = ["CG", "PER"]
            protocol.SequenceName = "*tfi2d1_15"
            # Siemens writes the temporal resolution as TR.
            protocol.RepetitionTime = decimal(round(study.protocol.repetition_ms * 14, 2))
            suffix = f"SAX_b{slices - slice_index}" if cine.view is View.SAX else view_code(cine.view)
            protocol.SeriesDescription = protocol.ProtocolName = f"CINE_segmented_{suffix}"
            geometry_of(protocol, cine.geometry, slice_index)
            _window(protocol, cine.pixels[:, slice_index])
            private = protocol.private_block(0x0051, "SIEMENS MR HEADER", create=True)
            side = decimal(round(cine.geometry.pixel_spacing[0] * cine.pixels.shape[3]))
            private.add_new(0x0C, "LO", f"FoV {side}*{side}")
            private.add_new(0x0F, "LO", "T:BO1,2;SP3-5")
            for phase in range(phases):
                frame = _object(common, protocol, pixels_of(cine.pixels[phase, slice_index], bits=12, signed=False))
                frame.TriggerTime = decimal(round(cine.trigger_times[phase, slice_index], 1))
                frame.AcquisitionNumber = "1"
                _stamp(frame, study, f"{series} {phase}", series, number, phase + 1)
                _times(frame, study, start, start + 8)
                yield frame
    lge = study.enhancement
    if lge is None:
        return
    for name, stack in (("MAG", lge.magnitude), ("PSIR", lge.phase_sensitive)):
        number += 1
        for slice_index in range(stack.shape[0]):
            protocol = _enhancement_protocol(study, lge, Dialect.SIEMENS)
            kind = "M" if name == "MAG" else "R"
            protocol.ImageType = ["ORIGINAL", "PRIMARY", kind, "NORM", "DIS2D"] + (["PSIR"] if kind == "R" else [])
            protocol.SequenceVariant = ["SK", "SP", "MP"]
            protocol.ScanOptions = "CG"
            protocol.SequenceName = "*tfl2d1_25"
            protocol.SeriesDescription = protocol.ProtocolName = f"LGE_{name}_SAX"
            yield _enhanced_slice(study, common, protocol, lge, stack, slice_index, name, number)


def _enhanced_slice(
    study: PhantomStudy,
    common: Dataset,
    protocol: Dataset,
    lge: Enhancement,
    stack: NDArray[np.uint16],
    slice_index: int,
    name: str,
    number: int,
) -> Dataset:
    geometry_of(protocol, lge.geometry, slice_index)
    _window(protocol, stack)
    signed = str(common.Manufacturer).startswith("GE")
    bits = 16 if signed else 12
    frame = _object(common, protocol, pixels_of(stack[slice_index], bits=bits, signed=signed))
    frame.TriggerTime = decimal(round(lge.trigger_ms))
    frame.AcquisitionNumber = str(slice_index + 1)
    series = f"LGE {name}"
    _stamp(frame, study, f"{series} {slice_index}", series, number, slice_index + 1)
    _times(frame, study, 1500.0, 1500.0 + 12 * slice_index)
    return frame


def _ge(study: PhantomStudy, common: Dataset) -> Iterator[Dataset]:
    for order, cine in enumerate(study.cines):
        number = 4 + order
        phases, slices = cine.pixels.shape[:2]
        for rank, slice_index in enumerate(reversed(range(slices))):
            protocol = _cine_protocol(study, cine, Dialect.GE, slice_index)
            protocol.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
            protocol.SequenceVariant = "SS"
            protocol.ScanOptions = ["FAST_GEMS", "CG", "SEQ_GEMS"]
            protocol.RepetitionTime = decimal(study.protocol.repetition_ms)
            protocol.SeriesDescription = f"FIESTA {view_code(cine.view).upper()}"
            protocol.ProtocolName = "CARDIAC FIESTA"
            protocol.SpacingBetweenSlices = decimal(cine.geometry.pitch)
            protocol.TriggerWindow = "20"
            protocol.ReconstructionDiameter = decimal(cine.geometry.pixel_spacing[1] * cine.pixels.shape[3])
            protocol.ImagesInAcquisition = str(phases * slices)
            geometry_of(protocol, cine.geometry, slice_index)
            _window(protocol, cine.pixels[:, slice_index])
            for phase in range(phases):
                frame = _object(common, protocol, pixels_of(cine.pixels[phase, slice_index], bits=16, signed=True))
                private = frame.private_block(0x0019, "GEMS_ACQU_01", create=True)
                private.add_new(0xD7, "SS", phase + 1)
                frame.TriggerTime = decimal(round(cine.trigger_times[phase, slice_index]))
                frame.AcquisitionNumber = "1"
                series = f"{cine.view}"
                _stamp(frame, study, f"{series} {slice_index} {phase}", series, number, rank * phases + phase + 1)
                _times(frame, study, 60.0 * number, 60.0 * number)
                yield frame
    lge = study.enhancement
    if lge is None:
        return
    for name, stack in (("MDE", lge.magnitude), ("PSMDE", lge.phase_sensitive)):
        for slice_index in range(stack.shape[0]):
            protocol = _enhancement_protocol(study, lge, Dialect.GE)
            protocol.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
            protocol.SequenceVariant = "SK"
            protocol.ScanOptions = ["FAST_GEMS", "CG", "MDE_GEMS"]
            protocol.SeriesDescription = f"SAX {name}"
            protocol.SpacingBetweenSlices = decimal(lge.geometry.pitch)
            yield _enhanced_slice(study, common, protocol, lge, stack, slice_index, name, 20 + (name == "PSMDE"))


def _philips(study: PhantomStudy, common: Dataset) -> Iterator[Dataset]:
    shuffle = np.random.default_rng([study.recipe.seed, 0x5048])
    for order, cine in enumerate(study.cines):
        number = 301 + 100 * order
        phases, slices = cine.pixels.shape[:2]
        numbers = shuffle.permutation(phases * slices) + 1
        # Stored values fill twelve bits; the rescale slope brings them back, as Philips does.
        slope = max(float(cine.pixels.max()), 1.0) / 4095
        for slice_index in range(slices):
            protocol = _cine_protocol(study, cine, Dialect.PHILIPS, slice_index)
            protocol.ImageType = ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"]
            protocol.SequenceVariant = "SS"
            protocol.ScanOptions = "CG"
            protocol.RepetitionTime = decimal(study.protocol.repetition_ms)
            protocol.ProtocolName = f"BTFE_{view_code(cine.view).upper()}"
            protocol.SeriesDescription = protocol.ProtocolName
            protocol.SpacingBetweenSlices = decimal(cine.geometry.pitch)
            protocol.NumberOfTemporalPositions = "1"
            protocol.TemporalPositionIdentifier = "1"
            del protocol.CardiacNumberOfImages
            # Real classic exports leave RR in HeartRate and private attributes.
            del protocol.NominalInterval
            geometry_of(protocol, cine.geometry, slice_index)
            for phase in range(phases):
                stored = np.rint(cine.pixels[phase, slice_index] / slope).astype(np.uint16)
                frame = _object(common, protocol, pixels_of(stored, bits=12, signed=False))
                frame.RescaleIntercept = "0"
                frame.RescaleSlope = decimal(slope)
                frame.RescaleType = "normalized"
                _window(frame, cine.pixels[phase, slice_index])
                private = frame.private_block(0x2001, "Philips Imaging DD 001", create=True)
                private.add_new(0x08, "IS", str(phase + 1))
                private.add_new(0x0A, "IS", str(slice_index + 1))
                private.add_new(0x10, "CS", "RETRO")
                private.add_new(0x17, "SL", phases)
                private.add_new(0x18, "SL", slices)
                # Not the delay from the R wave: the begin of the dynamic, alike for all phases of a slice.
                frame.TriggerTime = decimal(round(8400.0 * slice_index, 1))
                frame.AcquisitionNumber = str(order + 3)
                rank = slice_index * phases + phase
                series = f"{cine.view}"
                _stamp(frame, study, f"{series} {slice_index} {phase}", series, number, int(numbers[rank]))
                _times(frame, study, 60.0 * order, 60.0 * order)
                yield frame
    lge = study.enhancement
    if lge is None:
        return
    for name, stack in (("LGE", lge.magnitude), ("LGE_PSIR", lge.phase_sensitive)):
        for slice_index in range(stack.shape[0]):
            protocol = _enhancement_protocol(study, lge, Dialect.PHILIPS)
            kind = ["M_IR", "M", "IR"] if name == "LGE" else ["CR", "R", "IR"]
            protocol.ImageType = ["ORIGINAL", "PRIMARY", *kind]
            protocol.SequenceVariant = "SK"
            protocol.ScanOptions = "CG"
            protocol.SeriesDescription = protocol.ProtocolName = f"{name}_SAX"
            protocol.SpacingBetweenSlices = decimal(lge.geometry.pitch)
            yield _enhanced_slice(study, common, protocol, lge, stack, slice_index, name, 1001 + 100 * (name != "LGE"))
