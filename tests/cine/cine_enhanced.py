"""Classic cine rewritten as Enhanced MR (PS3.3 A.36.2), the way scanners do it."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable, Sequence

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

_KEPT = [
    "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "Manufacturer", "StudyDate",
    "SeriesNumber", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "MRAcquisitionType", "SeriesDescription", "PatientSex", "MagneticFieldStrength",
]  # fmt: skip


def _item(**attributes: object) -> DicomSequence:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return DicomSequence([item])


def enhanced(images: Sequence[Dataset], *, instance: int = 1, steady_state: str = "FREE_PRECESSION") -> Dataset:
    """One Enhanced MR object whose frames are the given images, in the given order."""
    lead = images[0]
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    for keyword in _KEPT:
        if keyword in lead:
            setattr(ds, keyword, copy.deepcopy(lead[keyword].value))
    ds.SOPClassUID = EnhancedMRImageStorage
    ds.SOPInstanceUID = generate_uid(entropy_srcs=["enhanced", *(str(image.SOPInstanceUID) for image in images)])
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.ImageType = ["ORIGINAL", "PRIMARY", "CARDIAC", "NONE"]
    ds.InstanceNumber = instance
    ds.NumberOfFrames = len(images)
    ds.AcquisitionDateTime = "20240229101100"
    ds.ContentDate, ds.ContentTime = "20240229", "101105"
    ds.PulseSequenceName = "bSSFP"
    ds.EchoPulseSequence = "GRADIENT"
    ds.SteadyStatePulseSequence = steady_state
    ds.PhaseContrast = "NO"
    ds.CardiacSynchronizationTechnique = "RETROSPECTIVE"
    ds.CardiacSignalSource = "ECG"
    positions = sorted({tuple(float(v) for v in image.ImagePositionPatient) for image in images})
    times = sorted({float(image.TriggerTime) for image in images})
    shared = Dataset()
    shared.PixelMeasuresSequence = _item(PixelSpacing=lead.PixelSpacing, SliceThickness=lead.SliceThickness)
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=lead.ImageOrientationPatient)
    shared.MRImageFrameTypeSequence = _item(
        FrameType=["ORIGINAL", "PRIMARY", "CARDIAC", "NONE"],
        ComplexImageComponent="MAGNITUDE",
        AcquisitionContrast="UNKNOWN",
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )
    shared.MRModifierSequence = _item(
        InversionRecovery="NO", FlowCompensation="NONE", Spoiling="NONE", T2Preparation="NO",
        SpectrallySelectedExcitation="NONE", SpatialPresaturation="NONE", PartialFourier="NO", ParallelAcquisition="NO",
        Tagging="NONE",
    )  # fmt: skip
    shared.PixelValueTransformationSequence = _item(
        RescaleSlope=lead.get("RescaleSlope", 1), RescaleIntercept=lead.get("RescaleIntercept", 0), RescaleType="US"
    )
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    ds.PerFrameFunctionalGroupsSequence = DicomSequence()
    for image in images:
        group = Dataset()
        position = tuple(float(v) for v in image.ImagePositionPatient)
        group.FrameContentSequence = _item(
            StackID="1",
            InStackPositionNumber=positions.index(position) + 1,
            TemporalPositionIndex=times.index(float(image.TriggerTime)) + 1,
            FrameAcquisitionDateTime=datetime.datetime(2024, 2, 29, 10, 11).strftime("%Y%m%d%H%M%S.%f"),
            FrameAcquisitionNumber=int(image.get("AcquisitionNumber", 1)),
        )
        group.PlanePositionSequence = _item(ImagePositionPatient=image.ImagePositionPatient)
        group.CardiacSynchronizationSequence = _item(
            NominalCardiacTriggerDelayTime=float(image.TriggerTime),
            RRIntervalTimeNominal=float(image.NominalInterval),
        )
        ds.PerFrameFunctionalGroupsSequence.append(group)
    ds.PixelData = np.stack([image.pixel_array for image in images]).tobytes()
    return ds


def _by_position(images: Sequence[Dataset]) -> list[list[Dataset]]:
    together: dict[tuple[str, ...], list[Dataset]] = {}
    for image in images:
        key = (*map(str, image.ImageOrientationPatient), *map(str, image.ImagePositionPatient))
        together.setdefault(key, []).append(image)
    return list(together.values())


def siemens_xa(images: Sequence[Dataset]) -> list[Dataset]:
    """One object a slice, frames in order of phase."""
    return [
        enhanced(sorted(members, key=lambda image: float(image.TriggerTime)), instance=number)
        for number, members in enumerate(_by_position(images), 1)
    ]


def philips(images: Sequence[Dataset]) -> list[Dataset]:
    """One object a stack, slices interleaved: all slices of a phase, then the next phase."""
    return [
        enhanced(sorted(members, key=lambda image: (float(image.TriggerTime), str(image.ImagePositionPatient))))
        for members in _stacks(images)
    ]


def shuffled(images: Sequence[Dataset]) -> list[Dataset]:
    """As Philips, the frames in random order."""
    rng = np.random.default_rng(5)
    return [enhanced([members[index] for index in rng.permutation(len(members))]) for members in _stacks(images)]


def _stacks(images: Sequence[Dataset]) -> list[list[Dataset]]:
    stacks: dict[tuple[str, ...], list[Dataset]] = {}
    for image in images:
        rounded = tuple(f"{float(v):.3f}" for v in image.ImageOrientationPatient)
        stacks.setdefault((*rounded, str(image.Rows)), []).append(image)
    return list(stacks.values())


STYLES: dict[str, Callable[[Sequence[Dataset]], list[Dataset]]] = {
    "Siemens XA": siemens_xa,
    "Philips": philips,
    "shuffled": shuffled,
}
