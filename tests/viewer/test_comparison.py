"""The comparison of a canvas with a mask: it must see a mask that is missing, shifted, or in another colour."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viewer.ohif import DrawnImage, DrawnSegment, dice, drawn_masks, on_canvas

RED, GREEN, BLUE = (220, 60, 60), (60, 200, 80), (70, 110, 230)
SCALE, LEFT, TOP = 4, 37.5, 12.0
OPACITY = 0.45


def disc(row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:60, :80]
    return np.hypot(rows - row, columns - column) < radius


def canvas_of(path: Path, mask: np.ndarray, color: tuple[int, int, int]) -> DrawnImage:
    """A canvas as a viewer draws it: grey image, colour laid over it, four canvas pixels to a pixel, off the grid."""
    rows, columns = mask.shape
    grey = np.tile(np.linspace(0, 255, columns), (rows, 1))[..., None].repeat(3, axis=-1)
    shown = np.where(mask[..., None], (1 - OPACITY) * grey + OPACITY * np.array(color), grey)
    picture = np.zeros((rows * SCALE + 30, columns * SCALE + 90, 3))
    top, left = int(TOP), int(LEFT)
    picture[top : top + rows * SCALE, left : left + columns * SCALE] = shown.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    Image.fromarray(picture.round().astype(np.uint8)).save(path)
    # Centre of pixel (0, 0): half a pixel in from its corner.
    origin = np.array([left + SCALE / 2, top + SCALE / 2])
    return DrawnImage(
        sop_instance_uid="1.2.3",
        canvas=path,
        origin=origin,
        next_row=origin + np.array([0, SCALE]),
        next_column=origin + np.array([SCALE, 0]),
        segments=(DrawnSegment("a", RED), DrawnSegment("b", GREEN), DrawnSegment("c", BLUE)),
    )


def overlap(image: DrawnImage, mask: np.ndarray, segment: int) -> float:
    drawn = drawn_masks(image)
    return dice(drawn[segment], on_canvas(mask, image, drawn.shape[1:]))


@pytest.mark.parametrize(("segment", "color"), list(enumerate([RED, GREEN, BLUE])))
def test_a_mask_in_its_place_and_colour_is_seen(tmp_path: Path, segment: int, color: tuple[int, int, int]) -> None:
    mask = disc(30, 40, 15)
    image = canvas_of(tmp_path / "canvas.png", mask, color)
    assert overlap(image, mask, segment) == pytest.approx(1)
    assert not drawn_masks(image)[(segment + 1) % 3].any()


def test_a_mask_that_is_not_drawn_is_missed(tmp_path: Path) -> None:
    image = canvas_of(tmp_path / "canvas.png", np.zeros((60, 80), bool), RED)
    assert overlap(image, disc(30, 40, 15), 0) == 0


def test_a_mask_one_pixel_off_is_told_from_one_in_place(tmp_path: Path) -> None:
    image = canvas_of(tmp_path / "canvas.png", disc(30, 40, 15), RED)
    assert overlap(image, disc(31, 40, 15), 0) < 0.97


def test_an_image_without_geometry_cannot_be_compared(tmp_path: Path) -> None:
    image = replace(canvas_of(tmp_path / "canvas.png", disc(30, 40, 15), RED), origin=None)
    with pytest.raises(ValueError, match="no geometry"):
        on_canvas(disc(30, 40, 15), image, (10, 10))
