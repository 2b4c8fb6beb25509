"""What the demo shows of synthetic late enhancement: the images that the PACS holds beside those of the true scar."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dicom_node.commands.terminal import console, table

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from pipelines.phantom import PhantomStudy

__all__ = ["TrueEnhancement", "show_enhancement", "true_enhancement"]

_TILE = 160
"""Pixels of a side of one picture."""
_HALF_FIELD_MM = 60.0
_LINE = 22


@dataclass(frozen=True, slots=True, eq=False)
class TrueEnhancement:
    """Scar of a simulated heart, and how a scanner would show it with contrast agent at end diastole; S slices.

    Attributes
    ----------
    percent : float
        Scar, % of left ventricular mass.
    cine, image : (S, R, C) float64
        Cine at end diastole, and late enhancement; 0 black, 1 white. Late enhancement is on the scale of the synthetic
        image: remote muscle 0, dense scar 1.
    positions : (S, 3) float64
        ImagePositionPatient.
    spacing_mm : float
        Pixel spacing.
    middle : (int, int)
        Row and column of the middle of the left ventricle.
    """

    percent: float
    cine: NDArray[np.float64]
    image: NDArray[np.float64]
    positions: NDArray[np.float64]
    spacing_mm: float
    middle: tuple[int, int]


def true_enhancement(phantom: PhantomStudy) -> TrueEnhancement:
    """Take the truth from a phantom with late enhancement that matches its cine."""
    from pipelines.phantom import measure_truth
    from pipelines.phantom.study import ENHANCEMENT_GREY, PSIR_ZERO
    from pipelines.segmentation.labels import Label
    from pipelines.training.enhancement_scale import enhancement_scale

    late, cine = phantom.enhancement, phantom.short_axis
    if late is None:
        raise ValueError("the phantom has no late enhancement")
    wall = np.argwhere((cine.labels[0] == Label.MYO).any(axis=0))
    row, column = wall.mean(axis=0).round().astype(int)
    grey = cine.pixels[0].astype(np.float64)
    magnetisation = (late.phase_sensitive.astype(np.float32) - PSIR_ZERO) / ENHANCEMENT_GREY
    zero, unit = enhancement_scale(magnetisation, late.labels, late.lesions)
    return TrueEnhancement(
        percent=measure_truth(phantom).facts.infarct_percent,
        cine=grey / np.percentile(grey, 99),
        image=(magnetisation.astype(np.float64) - zero) / unit,
        positions=cine.geometry.positions,
        spacing_mm=float(cine.geometry.pixel_spacing[0]),
        middle=(int(row), int(column)),
    )


def show_enhancement(held: Collection[Path], truth: TrueEnhancement, output: Path) -> None:
    """Print what was predicted beside the truth, and write the pictures; nothing where nothing was predicted."""
    from pydicom import dcmread
    from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

    from dicom_node.results.reading import reported_predictions

    headers = [dcmread(path, stop_before_pixels=True) for path in held]
    for header in headers:
        if header.SOPClassUID == Comprehensive3DSRStorage:
            predicted = reported_predictions(header)
            if "SYN_PROB" in predicted:
                _show_numbers(predicted, truth)
    images = [
        dcmread(path)
        for path, header in zip(held, headers, strict=True)
        if header.SOPClassUID == SecondaryCaptureImageStorage
        and header.get("SyntheticData") == "YES"
        and "ImagePositionPatient" in header
    ]
    if images:
        path = _picture(sorted(images, key=lambda one: int(one.InstanceNumber)), truth, output)
        console.print(f"synthetic late enhancement beside the simulated truth: {path}")


def _show_numbers(predicted: dict[str, float], truth: TrueEnhancement) -> None:
    extent = f"{predicted['SYN_HYPER']:.1f}" if "SYN_HYPER" in predicted else "not reported"
    rows = [
        ("probability of any enhancement", f"{predicted['SYN_PROB']:.2f}", "1" if truth.percent > 0 else "0"),
        ("hyperintense, % of the muscle", extent, f"{truth.percent:.1f}"),
    ]
    table(
        "Late enhancement predicted from cine: SYNTHETIC, NOT ACQUIRED",
        ["", "predicted>", "simulated truth>"],
        rows,
        caption="trained on simulated cine; research use only, not for diagnosis",
    )


def _picture(images: Sequence[Dataset], truth: TrueEnhancement, output: Path) -> Path:
    """Rows of cine, synthetic image and simulated truth; a column for each synthetic image."""
    from PIL import Image, ImageDraw

    titles = ("cine, end diastole", "SYNTHETIC - NOT ACQUIRED, from the PACS", "simulated truth, with contrast agent")
    canvas = Image.new("L", (_TILE * len(images), (_TILE + _LINE) * len(titles)), 0)
    pen = ImageDraw.Draw(canvas)
    for number, title in enumerate(titles):
        pen.text((4, number * (_TILE + _LINE) + 5), title, fill=255)
    for column, image in enumerate(images):
        position = np.array([float(value) for value in image.ImagePositionPatient])
        index = int(np.linalg.norm(truth.positions - position, axis=1).argmin())
        low = float(image.WindowCenter) - float(image.WindowWidth) / 2
        synthetic = (image.pixel_array - low) / float(image.WindowWidth)
        for number, values in enumerate((truth.cine[index], synthetic, truth.image[index])):
            place = (column * _TILE, number * (_TILE + _LINE) + _LINE)
            canvas.paste(Image.fromarray(_tile(values, truth)).resize((_TILE, _TILE), Image.Resampling.BICUBIC), place)
    path = output / "synthetic-beside-truth.png"
    canvas.save(path)
    return path


def _tile(values: NDArray[np.float64], truth: TrueEnhancement) -> NDArray[np.uint8]:
    """A square around the left ventricle, 0 to 255."""
    half = round(_HALF_FIELD_MM / truth.spacing_mm)
    padded = np.pad(values, half)
    row, column = truth.middle
    square = padded[row : row + 2 * half, column : column + 2 * half]
    return np.asarray(np.clip(255 * square, 0, 255), dtype=np.uint8)
