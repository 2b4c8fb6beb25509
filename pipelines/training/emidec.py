"""Reader of EMIDEC: late enhancement of patients after or without an infarct, annotated slice by slice.

Lalande et al., "Emidec: A Database Usable for the Automatic Evaluation of Myocardial Infarction from
Delayed-Enhancement Cardiac MRI", Data 2020, doi:10.3390/data5040089. Read here as 8-bit PNG slices,
``images/CASE_sliceNNN.png`` with ``labels/CASE_sliceNNN.png``: apex first, spacing lost. The images are square whatever
was acquired, so that rows and columns of a case differ in scale by a factor of 0.45 to 2.5; the labels tell by how
much.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from pipelines.cine.stack import FrameSource, LateEnhancementStack, Reconstruction, StackGeometry, View
from pipelines.late_enhancement.labels import Tissue

__all__ = [
    "ASSUMED_PITCH_MM",
    "ASSUMED_SPACING_MM",
    "EmidecCase",
    "EmidecLayoutError",
    "aspect",
    "case_group",
    "find_cases",
    "nominal_stack",
    "read_case",
    "to_stack",
]

ASSUMED_SPACING_MM = 1.5
"""Geometric mean of the distances of rows and of columns, which the images do not tell. Between 1.25 and 2 mm in the
paper; nothing but sizes in mm depends on it."""
ASSUMED_PITCH_MM = 10.0
"""Slices of 8 mm at intervals of 10 mm, as the paper says."""
_NAME = re.compile(r"(?P<case>.+)_slice(?P<slice>\d+)\.png")


class EmidecLayoutError(ValueError):
    """A folder does not hold EMIDEC as PNG slices; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True, eq=False)
class EmidecCase:
    """One annotated case.

    Attributes
    ----------
    identifier : str
    pixels : (S, R, C) float32
        Grey values, apex first.
    labels : (S, R, C) uint8
        Values of :class:`~pipelines.late_enhancement.labels.Tissue`, which numbers them as EMIDEC does.
    """

    identifier: str
    pixels: NDArray[np.float32]
    labels: NDArray[np.uint8]

    @property
    def group(self) -> str:
        """``normal``, ``infarct``, or ``obstruction`` for an infarct with one."""
        return case_group(self.labels)

    @property
    def pixel_spacing(self) -> tuple[float, float]:
        """Distance of rows and of columns, mm: their ratio by :func:`aspect`, their geometric mean assumed."""
        ratio = math.sqrt(aspect(self.labels))
        return ASSUMED_SPACING_MM / ratio, ASSUMED_SPACING_MM * ratio


def aspect(labels: NDArray[np.uint8]) -> float:
    """How many times as far apart as the rows the columns are, if the ventricle is as wide as high.

    Labels (S, R, C), apex first.
    The median of the upper two thirds of the slices that show the ventricle, of the standard deviations of its pixels;
    1 where no slice shows it.
    """
    seen = np.flatnonzero((labels != Tissue.BACKGROUND).any(axis=(1, 2)))
    ratios = []
    for index in seen[len(seen) // 3 :]:
        rows, columns = np.nonzero(binary_fill_holes(labels[index] != Tissue.BACKGROUND))
        if rows.std() > 0 and columns.std() > 0:
            ratios.append(float(rows.std() / columns.std()))
    return float(np.median(ratios)) if ratios else 1.0


def case_group(labels: NDArray[np.uint8]) -> str:
    """``normal``, ``infarct``, or ``obstruction`` for an infarct with one."""
    if (labels == Tissue.OBSTRUCTION).any():
        return "obstruction"
    return "infarct" if (labels == Tissue.INFARCT).any() else "normal"


def find_cases(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Images of each case, by identifier, in the order of slices.

    Raises
    ------
    EmidecLayoutError
        The folder holds no such images.
    """
    found: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in sorted((folder / "images").glob("*.png")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise EmidecLayoutError(f"{path} is not named CASE_sliceNNN.png")
        found[match["case"]].append((int(match["slice"]), path))
    if not found:
        raise EmidecLayoutError(f"{folder} holds no images/CASE_sliceNNN.png: give the folder of images and labels")
    return {case: tuple(path for _, path in sorted(slices)) for case, slices in sorted(found.items())}


def _read_png(path: Path) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (OSError, UnidentifiedImageError) as error:
        raise EmidecLayoutError(f"{path} cannot be read: {error}") from error
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise EmidecLayoutError(f"{path} has {pixels.ndim} dimensions of {pixels.dtype}, expected 8-bit grey")
    return pixels


def read_case(images: Sequence[Path]) -> EmidecCase:
    """Read the images of one case with their labels.

    Raises
    ------
    EmidecLayoutError
        A file is missing or malformed; the message names it.
    """
    match = _NAME.fullmatch(images[0].name)
    identifier = match["case"] if match else images[0].stem
    pixels, labels = [], []
    for path in images:
        pixels.append(_read_png(path))
        labels.append(_read_png(path.parent.parent / "labels" / path.name))
        if labels[-1].shape != pixels[0].shape or pixels[-1].shape != pixels[0].shape:
            raise EmidecLayoutError(f"{path} or its label is not of the size of the first slice, {pixels[0].shape}")
        if labels[-1].max() > max(Tissue):
            raise EmidecLayoutError(f"the label of {path} holds {labels[-1].max()}, expected 0 to {max(Tissue)}")
    return EmidecCase(identifier, np.stack(pixels).astype(np.float32), np.stack(labels))


def to_stack(case: EmidecCase) -> LateEnhancementStack:
    """The case as a late-enhancement stack of assumed spacing and pitch (10 mm). Its sources are nominal."""
    positions = np.zeros((case.pixels.shape[0], 3))
    positions[:, 2] = ASSUMED_PITCH_MM * np.arange(case.pixels.shape[0])
    geometry = StackGeometry(
        positions=positions,
        row_direction=np.array([1.0, 0.0, 0.0]),
        column_direction=np.array([0.0, 1.0, 0.0]),
        pixel_spacing=case.pixel_spacing,
        slice_thickness=8.0,
    )
    return nominal_stack(case.pixels, geometry, case.identifier)


def nominal_stack(pixels: NDArray[np.float32], geometry: StackGeometry, identifier: str) -> LateEnhancementStack:
    """A phase-sensitive short-axis stack that comes from no DICOM object: its sources are nominal."""
    slices = pixels.shape[0]
    unknown = np.full(slices, math.nan)
    return LateEnhancementStack(
        view=View.SAX,
        reconstruction=Reconstruction.PHASE_SENSITIVE,
        pixels=pixels,
        geometry=geometry,
        sources=tuple(FrameSource("", f"{identifier}.{i}", identifier, None, None, None) for i in range(slices)),
        inversion_times_ms=unknown,
        trigger_times_ms=unknown,
        acquired_s=unknown,
        frame_of_reference_uid=identifier,
    )
