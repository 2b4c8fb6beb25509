"""Opens a study in OHIF in headless Chromium, and compares what is drawn with what should be."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from interop.tools import AbsentTool, tool
from PIL import Image

INSTALLED = Path(__file__).resolve().parents[2] / ".tools" / "viewer" / "node_modules"
DRIVER = Path(__file__).with_name("open_study.mjs")
LIMIT_S = 1500

MINIMUM_CHROMA = 12.0
"""Distance from grey, in grey levels, from which a canvas pixel counts as coloured: the cine itself has none."""


def ohif_files() -> Path:
    """Folder of OHIF's built files.

    Raises
    ------
    AbsentTool
        When ``make viewer`` has not fetched them.
    """
    files = INSTALLED / "@ohif" / "app" / "dist"
    if not (files / "index.html").is_file() or not (INSTALLED / "playwright-core").is_dir():
        raise AbsentTool(f"OHIF and playwright-core are absent from {INSTALLED}: run `make viewer`")
    return files


@dataclass(frozen=True)
class DrawnSegment:
    """One segment in OHIF's panel.

    Attributes
    ----------
    label
        As written in the SEG.
    color
        sRGB, 0 to 255.
    """

    label: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class DrawnImage:
    """One image on OHIF's canvas.

    Attributes
    ----------
    sop_instance_uid
        Of the image under the segments.
    canvas
        PNG of the canvas alone: without text, buttons or annotations.
    origin, next_row, next_column
        Canvas coordinates (x, y) of the centres of the pixels (row, column) = (0, 0), (1, 0) and (0, 1); all None
        for an image without geometry.
    segments
        Segments that OHIF says it draws.
    """

    sop_instance_uid: str | None
    canvas: Path
    origin: npt.NDArray[np.float64] | None
    next_row: npt.NDArray[np.float64] | None
    next_column: npt.NDArray[np.float64] | None
    segments: tuple[DrawnSegment, ...]


@dataclass(frozen=True)
class OpenedSeries:
    """One series after its thumbnail was double-clicked.

    Attributes
    ----------
    caption
        Text of the thumbnail, empty for the view that OHIF opens by itself.
    asked
        Whether OHIF asked to open a segmentation (and got a yes).
    screenshot
        PNG of the whole page.
    images
        Every image of the series, or the one shown where they are too many.
    embedded
        Addresses of embedded documents.
    """

    caption: str
    asked: bool
    screenshot: Path
    images: tuple[DrawnImage, ...]
    embedded: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """A study as read in OHIF.

    Attributes
    ----------
    series
        Captions of the thumbnails.
    opened
        The first view, then each series asked for.
    problems
        Errors of the console, of the page, of the network, and OHIF's own error notices.
    """

    series: tuple[str, ...]
    opened: tuple[OpenedSeries, ...]
    problems: tuple[str, ...]


def read_study(url: str, captions: Sequence[str], folder: Path) -> Reading:
    """Open a study in OHIF and each series whose caption holds one of the texts.

    Parameters
    ----------
    url
        Address of the study in the viewer.
    captions
        Texts to look for in the captions of the thumbnails.
    folder
        Existing folder for the pictures.
    """
    task = {
        "url": url,
        "chromium": str(tool("chromium")),
        "modules": str(INSTALLED),
        "folder": str(folder),
        "captions": list(captions),
    }
    driver = subprocess.run(
        [tool("node"), DRIVER, json.dumps(task)], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if driver.returncode != 0:
        raise ChildProcessError(f"the browser's driver ended with {driver.returncode}: {driver.stderr[-2000:]}")
    answer = json.loads(driver.stdout)
    return Reading(tuple(answer["series"]), tuple(map(_opened, answer["opened"])), tuple(answer["problems"]))


def drawn_masks(image: DrawnImage) -> npt.NDArray[np.bool_]:
    """Which pixels of the canvas have the colour of which segment.

    A colour c laid with opacity a over grey g gives (1 - a) g + a c, whose difference from its own mean over the
    channels is a times that of c: the direction of that difference tells the segment, whatever g and a.

    Returns
    -------
    numpy.ndarray
        Boolean, (segments, canvas rows, canvas columns).
    """
    pixels = np.asarray(Image.open(image.canvas).convert("RGB"), dtype=np.float64)
    chroma = pixels - pixels.mean(axis=-1, keepdims=True)
    strength = np.linalg.norm(chroma, axis=-1)
    colors = np.array([segment.color for segment in image.segments], dtype=np.float64).reshape(-1, 3)
    directions = colors - colors.mean(axis=-1, keepdims=True)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    nearest = np.argmax(chroma @ directions.T, axis=-1)
    return np.stack([(strength > MINIMUM_CHROMA) & (nearest == index) for index in range(len(directions))])


def on_canvas(mask: npt.NDArray[np.bool_], image: DrawnImage, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Where a mask on the image's pixels should lie on the canvas.

    Parameters
    ----------
    mask
        (rows, columns) of the image.
    image
        With geometry.
    shape
        Rows and columns of the canvas.
    """
    if image.origin is None or image.next_row is None or image.next_column is None:
        raise ValueError("the image has no geometry on the canvas")
    axes = np.stack([image.next_row - image.origin, image.next_column - image.origin], axis=-1)
    y, x = np.mgrid[: shape[0], : shape[1]]
    # Centres of the canvas pixels lie at half-integers.
    points = np.stack([x + 0.5, y + 0.5], axis=-1) - image.origin
    indices = np.rint(points @ np.linalg.inv(axes).T).astype(int)
    inside = np.all((indices >= 0) & (indices < mask.shape), axis=-1)
    row, column = np.where(inside[..., None], indices, 0).transpose(2, 0, 1)
    return np.asarray(inside & mask[row, column])


def dice(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Dice's overlap of two masks, 1 for two empty ones."""
    total = int(first.sum() + second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def _opened(answer: dict[str, Any]) -> OpenedSeries:
    return OpenedSeries(
        caption=answer["caption"],
        asked=answer["asked"],
        screenshot=Path(answer["screenshot"]),
        images=tuple(map(_image, answer["images"])),
        embedded=tuple(answer["embedded"]),
    )


def _image(answer: dict[str, Any]) -> DrawnImage:
    corners = answer["corners"] or {}
    points = {
        name: np.array(corners[name], dtype=np.float64) if name in corners else None
        for name in ("origin", "next_row", "next_column")
    }
    return DrawnImage(
        sop_instance_uid=answer["sop_instance_uid"],
        canvas=Path(answer["canvas"]),
        segments=tuple(DrawnSegment(segment["label"], tuple(segment["color"])) for segment in answer["segments"]),
        **points,
    )
