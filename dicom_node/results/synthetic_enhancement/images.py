"""Synthetic late enhancement as images that nobody can mistake for acquired ones.

One Secondary Capture (PS3.3 A.8.1) a slice, with the plane of the cine, or, where a destination asks for it, one MR
image (A.4). Each says that it is synthetic in its pixels, SyntheticData, SeriesDescription, ImageComments and
DerivationDescription; none says anything of a contrast agent or an inversion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage

from dicom_node.config import SyntheticImageClass
from dicom_node.results.codes import SOURCE_IMAGE, SOURCE_SERIES, SYNTHESIZING_EQUIPMENT, code_item, private
from dicom_node.results.header import ResultContext, model_device_uid, series_dataset
from dicom_node.results.keyphase import decimal, image_plane
from dicom_node.results.objects import Surroundings
from dicom_node.results.problems import GateCheck, Problem
from dicom_node.results.roles import ResultRole
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.synthetic_enhancement.label import BurntInLabel
from pipelines.cine.stack import CineStack, FrameSource
from pipelines.models.identity import ModelIdentity

__all__ = [
    "IMAGES",
    "NOT_ACQUIRED",
    "ExpectedMarks",
    "mark_synthetic",
    "of_slices",
    "stored_values",
    "synthetic_series",
]

IMAGES = {
    SyntheticImageClass.SECONDARY_CAPTURE: ResultRole("synthetic-images", 1, "AI SYNTHETIC LGE - NOT ACQUIRED"),
    SyntheticImageClass.MR: ResultRole("synthetic-images-mr", 2, "AI SYNTHETIC LGE - NOT ACQUIRED"),
}
NOT_ACQUIRED = (
    "SYNTHETIC - NOT ACQUIRED: predicted from cine by a network trained on simulated cine. No contrast agent was "
    "given. Research use only, not for diagnosis."
)
_ZERO, _SCALE, _LARGEST = 300, 3000, 4095
"""Stored value of nulled muscle, stored values from there to dense scar, and the largest of 12 bits."""
_NEVER = ("InversionTime", "InversionTimes", "ContrastBolusAgent", "ContrastBolusAgentSequence")
_BITS_STORED = 12


def stored_values(image: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Grey values of a synthetic image (0 nulled muscle, 1 dense scar) as 12-bit stored values."""
    return np.asarray(np.clip(np.rint(_ZERO + _SCALE * np.nan_to_num(image)), 0, _LARGEST), dtype=np.uint16)


def of_slices(stack: CineStack, slices: Sequence[int]) -> CineStack:
    """Some slices of a stack, as a stack."""
    chosen = list(slices)
    place = {index: number for number, index in enumerate(chosen)}
    return replace(
        stack,
        pixels=stack.pixels[:, chosen],
        geometry=replace(stack.geometry, positions=stack.geometry.positions[chosen]),
        sources=tuple(tuple(line[index] for index in chosen) for line in stack.sources),
        trigger_times=stack.trigger_times[:, chosen],
        rr_intervals=stack.rr_intervals[chosen],
        resampled_slices=tuple(place[index] for index in stack.resampled_slices if index in place),
        regridded_slices=tuple(place[index] for index in stack.regridded_slices if index in place),
        interpolated_slices=tuple(place[index] for index in stack.interpolated_slices if index in place),
    )


def mark_synthetic(dataset: Dataset, models: Sequence[ModelIdentity]) -> None:
    """Say of an object that its content is synthetic, and which networks synthesised it (PS3.3 C.12.1)."""
    dataset.SyntheticData = "YES"
    synthesising = {model_device_uid(model) for model in models}
    for item in dataset.ContributingEquipmentSequence:
        if item.get("DeviceUID") in synthesising:
            item.PurposeOfReferenceCodeSequence = [code_item(SYNTHESIZING_EQUIPMENT)]


def synthetic_series(
    context: ResultContext,
    image_class: SyntheticImageClass,
    stack: CineStack,
    images: NDArray[np.float32],
    label: BurntInLabel,
    when: str,
    models: Sequence[ModelIdentity],
    sources: SourceDatasets,
) -> Iterator[tuple[Dataset, NDArray[np.uint16]]]:
    """Encode the images.

    Parameters
    ----------
    stack
        The slices that there are images of.
    images : (S, R, C) float32
        On its grid.
    when
        What the images show the anatomy of: "end diastole, phase 1 of 30".

    Yields
    ------
    (pydicom.Dataset, (R, C) uint16)
        One object a slice, in slice order, with the stored values that it holds.
    """
    for index in range(stack.slices):
        pixels = label.burnt_into(stored_values(images[index]), 0, _LARGEST)
        dataset = _image(context, image_class, stack, index, when, pixels)
        if image_class is SyntheticImageClass.MR:
            _mr_attributes(dataset, sources.layers(stack.sources[0][index]))
        else:
            dataset.ConversionType = "SYN"
            dataset.PatientOrientation = ""
        mark_synthetic(dataset, models)
        yield dataset, pixels


def _image(
    context: ResultContext,
    image_class: SyntheticImageClass,
    stack: CineStack,
    index: int,
    when: str,
    pixels: NDArray[np.uint16],
) -> Dataset:
    is_mr = image_class is SyntheticImageClass.MR
    dataset = series_dataset(
        context,
        IMAGES[image_class],
        sop_class_uid=MRImageStorage if is_mr else SecondaryCaptureImageStorage,
        modality="MR",
        number=index + 1,
    )
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.ImageComments = NOT_ACQUIRED
    dataset.DerivationDescription = (
        f"SYNTHETIC - NOT ACQUIRED: late enhancement as a generative network predicts it from the cine of this slice, "
        f"with the anatomy of {when}; nulled muscle is {_ZERO}, dense scar {_ZERO + _SCALE}"
    )
    dataset.DerivationCodeSequence = [code_item(private("SYN_IMAGE"))]
    used = [line[index] for line in stack.sources]
    preserved = index not in stack.regridded_slices
    dataset.SourceImageSequence = list(_source_items(used, preserved))
    dataset.RelatedSeriesSequence = [
        _related(context, uid) for uid in dict.fromkeys(one.series_instance_uid for one in used)
    ]
    # Nothing in the pixels names the patient (C.7.6.1.1.9).
    dataset.BurnedInAnnotation = "NO"
    dataset.RecognizableVisualFeatures = "NO"
    dataset.LossyImageCompression = "00"
    image_plane(dataset, stack, index)
    dataset.PositionReferenceIndicator = ""
    if stack.slices > 1:
        dataset.SpacingBetweenSlices = decimal(round(stack.geometry.pitch, 6))
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, _BITS_STORED, _BITS_STORED - 1
    dataset.PixelRepresentation = 0
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", "0", "US"
    dataset.WindowCenter, dataset.WindowWidth = str(_ZERO + _SCALE // 2), str(_SCALE)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _source_items(used: Sequence[FrameSource], preserved: bool) -> Iterator[Dataset]:
    """Items of Source Image Sequence (C.7.6.4), one an instance."""
    frames: dict[str, list[int]] = {}
    classes: dict[str, str] = {}
    for source in used:
        listed = frames.setdefault(source.sop_instance_uid, [])
        classes[source.sop_instance_uid] = source.sop_class_uid
        if source.frame_number is not None and source.frame_number not in listed:
            listed.append(source.frame_number)
    for uid, numbers in frames.items():
        item = Dataset()
        item.ReferencedSOPClassUID = classes[uid]
        item.ReferencedSOPInstanceUID = uid
        if numbers:
            item.ReferencedFrameNumber = numbers
        item.SpatialLocationsPreserved = "YES" if preserved else "NO"
        item.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
        yield item


def _related(context: ResultContext, series_instance_uid: str) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = context.carried.text("StudyInstanceUID")
    item.SeriesInstanceUID = series_instance_uid
    item.PurposeOfReferenceCodeSequence = [code_item(SOURCE_SERIES)]
    return item


def _mr_attributes(dataset: Dataset, layers: Sequence[Dataset]) -> None:
    """MR Image Module (C.8.3.1) of an image that no pulse sequence made."""
    dataset.ScanningSequence, dataset.SequenceVariant = "RM", "NONE"
    dataset.ScanOptions = None
    dataset.MRAcquisitionType = ""
    dataset.RepetitionTime = dataset.EchoTime = dataset.EchoTrainLength = None
    dataset.PatientPosition = next((one.PatientPosition for one in layers if one.get("PatientPosition")), "")


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedMarks:
    """What says of an object that it is synthetic.

    Attributes
    ----------
    letters : BurntInLabel or None
        What is drawn into its pixels; ``None`` for objects that are no images.
    """

    letters: BurntInLabel | None = None

    def check(self, dataset: Dataset, surroundings: Surroundings) -> Iterator[Problem]:  # noqa: ARG002 - see Expected
        """Look for the marks, and for what only an acquired image has."""
        if dataset.get("SyntheticData") != "YES":
            yield Problem(GateCheck.IDENTITY, "SyntheticData is not YES")
        if "NOT ACQUIRED" not in dataset.SeriesDescription:
            yield Problem(GateCheck.IDENTITY, "SeriesDescription does not say that nobody acquired it")
        for keyword in _NEVER:
            if keyword in dataset:
                yield Problem(GateCheck.IDENTITY, f"{keyword} belongs to acquired images")
        if self.letters is not None:
            ground = dataset.pixel_array[self.letters.ground]
            if not np.array_equal(ground == _LARGEST, self.letters.letters):
                yield Problem(GateCheck.PIXELS, "the words SYNTHETIC - NOT ACQUIRED are not in the pixels")
