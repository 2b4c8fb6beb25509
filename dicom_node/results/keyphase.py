"""Key-phase series: one derived MR image a slice at end diastole and at end systole.

A viewer draws a segmentation of one phase only on a series of one phase (OHIF draws nothing, or the wrong phase, on a
cine of many). Geometry and Frame of Reference are the source's, and so are the grey values.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.config import RAISE
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pydicom.valuerep import validate_value

from dicom_node.results.codes import ONE_PHASE_EXTRACTED, SOURCE_IMAGE, SOURCE_SERIES, code_item
from dicom_node.results.header import ResultContext, series_dataset
from dicom_node.results.roles import ResultRole
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.stated import stated
from pipelines.cine.stack import CineStack, FrameSource

__all__ = ["StoredPixels", "decimal", "image_plane", "key_phase_series", "source_image_item", "stored_pixels"]

_ACQUISITION = (
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionNumber",
    "PatientPosition",
    "AnatomicalOrientationType",
    "ProtocolName",
    "SequenceName",
    "RepetitionTime",
    "EchoTime",
    "EchoTrainLength",
    "FlipAngle",
    "NumberOfAverages",
    "ImagingFrequency",
    "ImagedNucleus",
    "EchoNumbers",
    "MagneticFieldStrength",
    "NumberOfPhaseEncodingSteps",
    "PercentSampling",
    "PercentPhaseFieldOfView",
    "PixelBandwidth",
    "NominalInterval",
    "HeartRate",
    "ReconstructionDiameter",
    "ReceiveCoilName",
    "TransmitCoilName",
    "AcquisitionMatrix",
    "SAR",
    "dBdt",
)
"""Acquisition attributes of the MR Image Module (PS3.3 C.8.3.1) and around it that stay true of a derived image."""

_OF_THE_SERIES = ("ProtocolName", "AnatomicalOrientationType")
"""Which of these are the same in all images of a series (PS3.3 C.7.3.1), and need not be there."""

_SCANNING_SEQUENCES = frozenset({"SE", "IR", "GR", "EP", "RM"})
_BINARY = frozenset({"US", "SS", "UL", "SL", "FL", "FD"})
_SEQUENCE_VARIANTS = frozenset({"SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE"})


@dataclass(frozen=True, slots=True, eq=False)
class StoredPixels:
    """Grey values as stored values with the rescale that gives them back.

    Attributes
    ----------
    values : (R, C) int
    slope, intercept : float
        Grey value = stored value × slope + intercept.
    bits_stored : int
    exact : bool
        Whether every grey value comes back exactly (it does wherever the source was integral and not interpolated).
    """

    values: NDArray[np.integer]
    slope: float
    intercept: float
    bits_stored: int
    exact: bool


def stored_pixels(grey: NDArray[np.float32], *, slope: float, intercept: float, bits_stored: int) -> StoredPixels:
    """Undo the modality LUT (PS3.3 C.11.1).

    Parameters
    ----------
    grey : (R, C) float32
    slope, intercept, bits_stored
        Those of the source. Where they cannot hold the values in 16 bits the whole range of the image is spread over
        16 bits instead, which is then not exact.
    """
    exactly = np.asarray(grey, dtype=np.float64)
    raw = (exactly - intercept) / slope
    values = np.rint(raw)
    low, high = float(values.min()), float(values.max())
    if low < -32768 or high > (32767 if low < 0 else 65535):
        intercept = float(exactly.min())
        slope = max((float(exactly.max()) - intercept) / 65535, 1e-30)
        values = np.rint((exactly - intercept) / slope)
        low, high = 0.0, float(values.max())
        bits_stored = 16
    signed = low < 0
    needed = 16 if signed else max(int(high).bit_length(), 1)
    bits = 16 if signed else min(max(bits_stored, needed), 16)
    integers = values.astype(np.int16 if signed else np.uint16)
    back = (integers.astype(np.float64) * slope + intercept).astype(np.float32)
    return StoredPixels(integers, slope, intercept, bits, bool(np.array_equal(back, grey)))


def decimal(value: float) -> str:
    """DS of at most 16 characters (PS3.5 6.2) that is as near to ``value`` as it can be."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    for digits in range(16, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} does not fit into a DS")


def image_plane(dataset: Dataset, stack: CineStack, index: int) -> None:
    """Image Plane and Frame of Reference Modules (PS3.3 C.7.6.2, C.7.4.1) of one slice."""
    geometry = stack.geometry
    dataset.ImagePositionPatient = [decimal(float(v)) for v in geometry.positions[index]]
    dataset.ImageOrientationPatient = [decimal(float(v)) for v in (*geometry.row_direction, *geometry.column_direction)]
    dataset.PixelSpacing = [decimal(float(v)) for v in geometry.pixel_spacing]
    dataset.SliceThickness = decimal(geometry.slice_thickness)
    dataset.SliceLocation = decimal(round(float(geometry.positions[index] @ geometry.normal), 6))
    dataset.FrameOfReferenceUID = stack.frame_of_reference_uid


def source_image_item(source: FrameSource, *, spatial_locations_preserved: bool = True) -> Dataset:
    """Item of Source Image Sequence (PS3.3 C.7.6.4)."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.sop_class_uid
    item.ReferencedSOPInstanceUID = source.sop_instance_uid
    if source.frame_number is not None:
        item.ReferencedFrameNumber = source.frame_number
    item.SpatialLocationsPreserved = "YES" if spatial_locations_preserved else "NO"
    item.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    return item


def key_phase_series(
    context: ResultContext, role: ResultRole, stack: CineStack, phase: int, when: str, sources: SourceDatasets
) -> list[tuple[Dataset, StoredPixels]]:
    """Encode one phase of a stack.

    Parameters
    ----------
    phase
        0-based phase index.
    when
        What the phase is: "end diastole".

    Returns
    -------
    list of (pydicom.Dataset, StoredPixels)
        One MR Image Storage object a slice, in slice order.
    """
    series = [
        _slice(context, role, stack, phase, when, index, sources.layers(stack.sources[phase][index]))
        for index in range(stack.slices)
    ]
    for keyword in _OF_THE_SERIES:
        # Where each breath-hold is a series with a protocol of its own, their images here have none in common.
        if len({str(dataset.get(keyword)) for dataset, _ in series}) > 1:
            for dataset, _ in series:
                dataset.pop(keyword, None)
    return series


def _slice(
    context: ResultContext,
    role: ResultRole,
    stack: CineStack,
    phase: int,
    when: str,
    index: int,
    layers: Sequence[Dataset],
) -> tuple[Dataset, StoredPixels]:
    source = stack.sources[phase][index]
    regridded = index in stack.regridded_slices
    dataset = series_dataset(context, role, sop_class_uid=MRImageStorage, modality="MR", number=index + 1)
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.DerivationDescription = f"One phase of a cine: {when}, phase {phase + 1} of {stack.phases}" + _changes(
        stack, index
    )
    dataset.DerivationCodeSequence = [code_item(ONE_PHASE_EXTRACTED)]
    dataset.SourceImageSequence = [source_image_item(source, spatial_locations_preserved=not regridded)]
    dataset.RelatedSeriesSequence = [_related_series(context, source)]
    dataset.ImageComments = f"AI-selected {when} for research; not for diagnosis"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = _value(layers, "LossyImageCompression") or "00"

    for keyword in _ACQUISITION:
        _copy(dataset, layers, keyword)
    _sequence_attributes(dataset, layers)
    image_plane(dataset, stack, index)
    dataset.PositionReferenceIndicator = _value(layers, "PositionReferenceIndicator") or ""
    if stack.slices > 1:
        dataset.SpacingBetweenSlices = decimal(round(stack.geometry.pitch, 6))
    trigger = float(stack.trigger_times[phase, index])
    # TriggerTime is allowed only beside a scan option that says the heart gated the scan (C.8.3.1, Type 2C).
    if np.isfinite(trigger) and _heart_gated(dataset, layers):
        dataset.TriggerTime = decimal(round(trigger, 3))

    slope, intercept = _rescale(layers)
    bits = _numbers(layers, "BitsStored") or [16]
    pixels = stored_pixels(stack.pixels[phase, index], slope=slope, intercept=intercept, bits_stored=int(bits[0]))
    dataset.SamplesPerPixel = 1
    photometric = _value(layers, "PhotometricInterpretation")
    dataset.PhotometricInterpretation = photometric if photometric == "MONOCHROME1" else "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.values.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored, dataset.HighBit = pixels.bits_stored, pixels.bits_stored - 1
    dataset.PixelRepresentation = int(pixels.values.dtype == np.int16)
    if (pixels.slope, pixels.intercept) != (1.0, 0.0):
        # Not in the MR Image Module, but what every vendor that scales writes and every viewer reads.
        dataset.RescaleSlope, dataset.RescaleIntercept = decimal(pixels.slope), decimal(pixels.intercept)
        dataset.RescaleType = "US"
    _window(dataset, layers, stack.pixels[phase, index])
    dataset.PixelData = pixels.values.astype(pixels.values.dtype.newbyteorder("<"), copy=False).tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset, pixels


def _changes(stack: CineStack, index: int) -> str:
    """What was done to the grey values of a slice, for DerivationDescription."""
    changes = ""
    if index in stack.resampled_slices:
        changes += "; interpolated in time to the common number of phases"
    if index in stack.interpolated_slices:
        changes += "; interpolated in the plane to the pixel grid of the stack"
    elif index in stack.regridded_slices:
        changes += "; rows and columns cut, added, mirrored or exchanged to the pixel grid of the stack"
    return changes or "; grey values unchanged"


def _related_series(context: ResultContext, source: FrameSource) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = context.carried.text("StudyInstanceUID")
    item.SeriesInstanceUID = source.series_instance_uid
    item.PurposeOfReferenceCodeSequence = [code_item(SOURCE_SERIES)]
    return item


def _value(layers: Sequence[Dataset], keyword: str) -> Any:
    for layer in layers:
        value = stated(layer, keyword)
        if value not in (None, ""):
            return value
    return None


def _numbers(layers: Sequence[Dataset], keyword: str) -> list[float]:
    """Values of an attribute as numbers; none where any of them is no number."""
    value = _value(layers, keyword)
    try:
        return [float(one) for one in (value if isinstance(value, MutableSequence) else [value])]
    except (TypeError, ValueError):
        return []


def _copy(dataset: Dataset, layers: Sequence[Dataset], keyword: str) -> None:
    """Take over an attribute that PS3.5 allows as it stands; none of these is worth an invalid object."""
    for layer in layers:
        if stated(layer, keyword) not in (None, ""):
            element = layer[keyword]
            try:
                # The validators take single values, and numbers only of the binary VRs.
                values = element.value if isinstance(element.value, MutableSequence) else [element.value]
                for value in values:
                    validate_value(element.VR, value if element.VR in _BINARY else str(value), RAISE)
            except ValueError:
                return
            dataset[keyword] = element
            return


def _terms(layers: Sequence[Dataset], keyword: str, allowed: frozenset[str]) -> list[str]:
    value = _value(layers, keyword) or []
    return [term for term in ([value] if isinstance(value, str) else map(str, value)) if term in allowed]


def _sequence_attributes(dataset: Dataset, layers: Sequence[Dataset]) -> None:
    """Pulse sequence in the terms of the MR Image Module; an Enhanced source says the same in other words."""
    scanning = _terms(layers, "ScanningSequence", _SCANNING_SEQUENCES)
    if not scanning:
        echo = {"GRADIENT": ["GR"], "SPIN": ["SE"], "BOTH": ["SE", "GR"]}
        scanning = echo.get(str(_value(layers, "EchoPulseSequence")), ["RM"])
    variant = _terms(layers, "SequenceVariant", _SEQUENCE_VARIANTS)
    if not variant:
        if _value(layers, "SteadyStatePulseSequence") not in (None, "NONE"):
            variant.append("SS")
        if _value(layers, "SegmentedKSpaceTraversal") not in (None, "SINGLE"):
            variant.append("SK")
    dataset.ScanningSequence, dataset.SequenceVariant = scanning, variant or ["NONE"]
    dataset.MRAcquisitionType = next(iter(_terms(layers, "MRAcquisitionType", frozenset({"2D", "3D"}))), "")
    _copy(dataset, layers, "ScanOptions")
    if "IR" in scanning:
        _copy(dataset, layers, "InversionTime")
        dataset.setdefault("InversionTime", None)
    if "EchoTime" not in dataset:
        echo_time = _numbers(layers, "EffectiveEchoTime")
        dataset.EchoTime = decimal(echo_time[0]) if echo_time else None
    for keyword in ("ScanOptions", "RepetitionTime", "EchoTrainLength", "PatientPosition"):
        if keyword not in dataset:
            setattr(dataset, keyword, None)


def _heart_gated(dataset: Dataset, layers: Sequence[Dataset]) -> bool:
    if not dataset.get("ScanOptions") and _value(layers, "CardiacSynchronizationTechnique") not in (None, "NONE"):
        dataset.ScanOptions = "CG"
    options = dataset.get("ScanOptions") or []
    return not {"CG", "PPG"}.isdisjoint([options] if isinstance(options, str) else options)


def _rescale(layers: Sequence[Dataset]) -> tuple[float, float]:
    slope, intercept = _numbers(layers, "RescaleSlope") or [1.0], _numbers(layers, "RescaleIntercept") or [0.0]
    return slope[0] or 1.0, intercept[0]


def _window(dataset: Dataset, layers: Sequence[Dataset], grey: NDArray[np.float32]) -> None:
    centres, widths = _numbers(layers, "WindowCenter"), _numbers(layers, "WindowWidth")
    if 0 < len(centres) == len(widths) and all(width >= 1 for width in widths):
        for keyword in ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"):
            _copy(dataset, layers, keyword)
        if "WindowCenter" in dataset and "WindowWidth" in dataset:
            return
        for keyword in ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation"):
            dataset.pop(keyword, None)
    low, high = (float(v) for v in np.percentile(grey, (1, 99)))
    dataset.WindowCenter = decimal(round((low + high) / 2, 3))
    dataset.WindowWidth = decimal(round(max(high - low, 1.0), 3))
