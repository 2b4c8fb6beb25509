"""Small valid DICOM objects to send."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

MR = "1.2.840.10008.5.1.4.1.1.4"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"


def new_uid() -> str:
    """A UID that nobody has."""
    return str(generate_uid(prefix=None))


def mr_image(*, study: str | None = None, series: str | None = None, seed: int = 0, side: int = 32) -> Dataset:
    """A classic MR image with 16-bit noise on a gradient, Explicit VR Little Endian."""
    generator = np.random.default_rng(seed)
    pixels = (np.arange(side * side).reshape(side, side) % 900 + generator.integers(0, 99, (side, side))).astype("<u2")
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 192"
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    image.SOPClassUID = MR
    image.SOPInstanceUID = new_uid()
    image.StudyDate, image.StudyTime = "20240102", "030405"
    image.Modality = "MR"
    image.Manufacturer = "Test"
    image.StudyDescription = "Herz – Größe"
    image.SeriesDescription = "cine"
    image.PatientName = "Πατρίκιος^Test"
    image.PatientID = "P1"
    image.BodyPartExamined = "HEART"
    image.StudyInstanceUID = study or new_uid()
    image.SeriesInstanceUID = series or new_uid()
    image.InstanceNumber = 1
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows = image.Columns = side
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PixelData = pixels.tobytes()
    image["PixelData"].VR = "OW"
    return with_meta(image)


def with_meta(dataset: Dataset, syntax: UID = ExplicitVRLittleEndian) -> Dataset:
    """The same data set with the File Meta Information of what it says it is."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", MR)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", new_uid())
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def save(dataset: Dataset, folder: Path, name: str = "") -> Path:
    """Write a Part 10 file."""
    path = folder / f"{name or dataset.SOPInstanceUID}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def encoded(dataset: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """The bytes of a data set without File Meta Information."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, syntax == ImplicitVRLittleEndian
    bare = Dataset(dataset)
    write_dataset(buffer, bare)
    return buffer.getvalue()


def data_set_bytes(path: Path) -> bytes:
    """What follows the File Meta Information in a file, untouched."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[140:144], "little")
    return raw[144 + length :]


def same_pixels(first: Path, second: Path) -> bool:
    """Whether two files hold the same image."""
    return bool(np.array_equal(dcmread(first).pixel_array, dcmread(io.BytesIO(second.read_bytes())).pixel_array))
