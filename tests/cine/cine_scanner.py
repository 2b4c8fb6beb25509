"""A scanner for the tests: classic MR cine objects in the ways in which vendors write them.

The pixel values say which slice and phase a frame is, so that a stack can be checked against what was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

ROWS, COLUMNS = 34, 36
STUDY = "1.2.826.0.1.3680043.10.99.1"
FRAME_OF_REFERENCE = "1.2.826.0.1.3680043.10.99.7"

# Base to apex is left, anterior, inferior; 4CH 122°, 3CH 62°, 2CH 0° about it from superior towards the right.
AXIS = np.array([0.60, -0.65, -0.47]) / np.linalg.norm([0.60, -0.65, -0.47])
UP = np.array([0, 0, 1.0]) - AXIS[2] * AXIS
UP /= np.linalg.norm(UP)
RIGHT = np.cross(AXIS, UP)
HEART = np.array([20.0, -30.0, 5.0])

SHORT_AXIS = (-RIGHT, -UP)
"""Row and column direction: the image has the patient's left on the right and superior at the top."""


def long_axis(angle_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Row and column direction of the long-axis plane at an angle about the axis."""
    angle = np.radians(angle_deg)
    return np.cos(angle) * UP + np.sin(angle) * RIGHT, AXIS


def value(slice_index: int, phase: int) -> int:
    return 10 + 40 * slice_index + phase


def frame_pixels(slice_index: int, phase: int) -> np.ndarray:
    pixels = np.full((ROWS, COLUMNS), value(slice_index, phase), dtype=np.uint16)
    pixels[0, 0] = 1000 + phase  # a mark in a corner: a flipped image would show
    return pixels


def frame(
    *,
    slice_index: int = 0,
    phase: int = 0,
    phases: int = 20,
    rr: float = 800.0,
    plane: tuple[np.ndarray, np.ndarray] = SHORT_AXIS,
    along: float = 0.0,
    aside: np.ndarray | float = 0.0,
    series: int = 1,
    instance: int = 1,
    acquisition: int = 1,
    made_of: str = "",
) -> Dataset:
    """One image, ``along`` mm from the heart's centre along the plane's normal."""
    row, column = plane
    normal = np.cross(row, column)
    spacing = 1.5
    centre = HEART + along * normal + aside
    corner = centre - row * spacing * (COLUMNS - 1) / 2 - column * spacing * (ROWS - 1) / 2
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.SOPClassUID = MRImageStorage
    ds.StudyInstanceUID = STUDY
    ds.SeriesInstanceUID = f"{STUDY}.{series}"
    ds.SOPInstanceUID = f"{STUDY}.{series}.{acquisition}.{slice_index + 1}.{phase + 1}.{instance}"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.FrameOfReferenceUID = FRAME_OF_REFERENCE
    ds.Modality = "MR"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", *(made_of.split("\\") if made_of else [])]
    ds.Manufacturer = "Test"
    ds.SeriesNumber = series
    ds.AcquisitionNumber = acquisition
    ds.InstanceNumber = instance
    ds.ScanningSequence = "GR"
    ds.SequenceVariant = "SK"
    ds.MRAcquisitionType = "2D"
    ds.RepetitionTime = 3.2
    ds.EchoTime = 1.5
    ds.FlipAngle = 50
    ds.SliceThickness = 8
    ds.AcquisitionDate = ds.ContentDate = ds.StudyDate = "20240229"
    ds.AcquisitionTime = f"10{10 + acquisition:02d}00"
    ds.ContentTime = f"10{10 + acquisition:02d}05"
    ds.TriggerTime = f"{phase * rr / phases:.3f}"
    ds.NominalInterval = round(rr)
    ds.CardiacNumberOfImages = phases
    ds.ImagePositionPatient = [f"{v:.6f}" for v in corner]
    ds.ImageOrientationPatient = [f"{v:.7f}" for v in (*row, *column)]
    ds.PixelSpacing = [spacing, spacing]
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = frame_pixels(slice_index, phase).tobytes()
    return ds


def stack(
    *,
    slices: int = 6,
    phases: int = 20,
    rr: float | Callable[[int], float] = 800.0,
    pitch: float = 10.0,
    series: int | Callable[[int], int] = 1,
    phases_of: Callable[[int], int] | None = None,
    **rest: object,
) -> list[Dataset]:
    """A cine stack in slice-major order; ``series``, ``rr`` and ``phases_of`` may depend on the slice."""
    images: list[Dataset] = []
    for index in range(slices):
        count = phases_of(index) if phases_of else phases
        for phase in range(count):
            images.append(
                frame(
                    slice_index=index,
                    phase=phase,
                    phases=count,
                    rr=rr(index) if callable(rr) else rr,
                    along=(index - (slices - 1) / 2) * pitch,
                    series=series(index) if callable(series) else series,
                    instance=len(images) + 1,
                    **rest,  # type: ignore[arg-type]
                )
            )
    return images


def view(angle_deg: float, *, series: int, phases: int = 20, rr: float = 800.0, **rest: object) -> list[Dataset]:
    """One long-axis plane through the heart's centre."""
    return stack(slices=1, phases=phases, rr=rr, series=series, plane=long_axis(angle_deg), **rest)


def edit(images: Iterable[Dataset], **attributes: object) -> list[Dataset]:
    """Set attributes; a callable gets the data set; ``None`` deletes."""
    images = list(images)
    for ds in images:
        for keyword, new in attributes.items():
            if new is None:
                if keyword in ds:
                    delattr(ds, keyword)
            else:
                setattr(ds, keyword, new(ds) if callable(new) else new)
    return images


def mean_values(pixels: np.ndarray) -> np.ndarray:
    """Value of each frame away from the mark, (T, S)."""
    return pixels[:, :, 1:, 1:].mean(axis=(2, 3))


def expected_values(phases: int, slices: int) -> np.ndarray:
    return np.array([[value(s, t) for s in range(slices)] for t in range(phases)], dtype=float)
