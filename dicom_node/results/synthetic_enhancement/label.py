"""The words that are drawn into every synthetic image: ``SYNTHETIC – NOT ACQUIRED``, in a corner, clear of the heart.

Letters are drawn pixel by pixel, five wide and seven high: smoothed letters of that size cannot be read on a matrix of
a hundred pixels. One place serves all images of a series, so that the words stand still while a reader scrolls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

__all__ = ["CLEARANCE", "TEXT", "BurntInLabel", "label_beside"]

TEXT = "SYNTHETIC – NOT ACQUIRED"
CLEARANCE = 3.0
"""Pixels between the words and the heart, at least."""
_LAYOUTS = ((TEXT,), ("SYNTHETIC –", "NOT ACQUIRED"), ("SYNTHETIC", "NOT", "ACQUIRED"))
_PIXELS_PER_SCALE = 160
"""Rows or columns, whichever are fewer, for each pixel of a stroke's width."""
_WIDE, _TALL = 5, 7
_BORDER = 2
"""Dark pixels around the letters, times the scale."""
_BOUNDS = ((2 / 3, 1 / 3), (1.0, 1 / 2))
"""Part of the columns and of the rows that the words may take: first choice, and where the matrix is very small."""

_GLYPHS = {
    " ": ("", "", "", "", "", "", ""),
    "–": ("", "", "", "#####", "", "", ""),
    "A": (" ### ", "#   #", "#   #", "#####", "#   #", "#   #", "#   #"),
    "C": (" ### ", "#   #", "#    ", "#    ", "#    ", "#   #", " ### "),
    "D": ("#### ", "#   #", "#   #", "#   #", "#   #", "#   #", "#### "),
    "E": ("#####", "#    ", "#    ", "#### ", "#    ", "#    ", "#####"),
    "H": ("#   #", "#   #", "#   #", "#####", "#   #", "#   #", "#   #"),
    "I": ("#####", "  #  ", "  #  ", "  #  ", "  #  ", "  #  ", "#####"),
    "N": ("#   #", "##  #", "##  #", "# # #", "#  ##", "#  ##", "#   #"),
    "O": (" ### ", "#   #", "#   #", "#   #", "#   #", "#   #", " ### "),
    "Q": (" ### ", "#   #", "#   #", "#   #", "# # #", "#  # ", " ## #"),
    "R": ("#### ", "#   #", "#   #", "#### ", "# #  ", "#  # ", "#   #"),
    "S": (" ####", "#    ", "#    ", " ### ", "    #", "    #", "#### "),
    "T": ("#####", "  #  ", "  #  ", "  #  ", "  #  ", "  #  ", "  #  "),
    "U": ("#   #", "#   #", "#   #", "#   #", "#   #", "#   #", " ### "),
    "Y": ("#   #", "#   #", " # # ", "  #  ", "  #  ", "  #  ", "  #  "),
}


@dataclass(frozen=True, slots=True, eq=False)
class BurntInLabel:
    """Where the words stand in images of one size.

    Attributes
    ----------
    row, column : int
        Of the top left pixel of their ground.
    letters : (h, w) bool
        Pixels of the letters; the others of this rectangle are their dark ground.
    """

    row: int
    column: int
    letters: NDArray[np.bool_]

    @property
    def ground(self) -> tuple[slice, slice]:
        """Rows and columns that are drawn over."""
        height, width = self.letters.shape
        return slice(self.row, self.row + height), slice(self.column, self.column + width)

    def burnt_into(self, image: NDArray[np.uint16], dark: int, bright: int) -> NDArray[np.uint16]:
        """A copy of an image with the words in it.

        Parameters
        ----------
        image : (R, C) uint16
        dark, bright
            Stored values of the ground and of the letters.
        """
        drawn = image.copy()
        drawn[self.ground] = np.where(self.letters, bright, dark)
        return drawn


def label_beside(heart: NDArray[np.bool_]) -> BurntInLabel | None:
    """Place the words in the corner that is farthest from the heart, as large as there is room.

    Parameters
    ----------
    heart : (R, C) bool
        What must stay clear, of all slices together.

    Returns
    -------
    BurntInLabel or None
        ``None`` when no corner has room for the smallest letters: such images cannot be marked, and must not leave.
    """
    rows, columns = heart.shape
    away = distance_transform_edt(~heart) if heart.any() else np.full(heart.shape, np.inf)
    for share_of_columns, share_of_rows in _BOUNDS:
        for letters in _renderings(max(min(rows, columns) // _PIXELS_PER_SCALE, 1)):
            height, width = letters.shape
            if width > share_of_columns * columns or height > share_of_rows * rows:
                continue
            corners = [(row, column) for row in (0, rows - height) for column in (0, columns - width)]
            clear = [float(away[row : row + height, column : column + width].min()) for row, column in corners]
            best = int(np.argmax(clear))
            if clear[best] >= CLEARANCE:
                return BurntInLabel(*corners[best], letters)
    return None


def _renderings(largest: int) -> Iterator[NDArray[np.bool_]]:
    """The words from the largest letters to the smallest, and at each size from one line to three."""
    for scale in range(largest, 0, -1):
        for lines in _LAYOUTS:
            yield _rendered(lines, scale)


@cache
def _rendered(lines: Sequence[str], scale: int) -> NDArray[np.bool_]:
    wide = max(len(line) for line in lines) * (_WIDE + 1) - 1
    tall = len(lines) * (_TALL + 2) - 2
    drawn = np.zeros((tall, wide), dtype=bool)
    for number, line in enumerate(lines):
        for place, character in enumerate(line):
            for row, pattern in enumerate(_GLYPHS[character]):
                for column, pixel in enumerate(pattern):
                    drawn[number * (_TALL + 2) + row, place * (_WIDE + 1) + column] = pixel == "#"
    return np.pad(np.kron(drawn, np.ones((scale, scale), dtype=bool)), _BORDER * scale)
