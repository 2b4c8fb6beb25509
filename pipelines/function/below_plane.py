"""Contours of basal slices that lie below the mitral plane and have none of their own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.segmentation.labels import Label

__all__ = ["complete_base"]

WHOLE_SLICE = 0.5
"""A slice is compared with its basal neighbours when its cavity has at least this share of the largest."""

BELOW_MIN = 0.5
"""Share of the neighbour's cavity that has to lie below the plane: the middle of the slice then shows ventricle.
A slice with less stays as it was found, since the plane errs by a few millimetres."""

FOUND_MIN = 0.5
"""A slice keeps its own contour when that has at least this share of the cavity that the plane leaves below itself."""


def complete_base(
    labels: NDArray[np.uint8], share: NDArray[np.float32], from_base: NDArray[np.intp], drawn: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Give slices below the mitral plane whose cavity is missing the contour of their apical neighbour.

    Near the valves a network that sees the short axis alone takes a slice that still holds ventricle for one of the
    atrium, all of it or none; the long axis shows how far the ventricle reaches.

    Parameters
    ----------
    labels : (T, S, R, C) uint8
        Papillary muscles filled in.
    share : (T, S, R, C) float32
        Share of each voxel that lies below the plane.
    from_base : (S,) int
        Slice indices from base to apex.
    drawn : (T,) bool
        Phases whose left ventricle a person drew: where they left a slice empty, it stays empty.

    Returns
    -------
    labels : (T, S, R, C) uint8
        With cavity and wall of the neighbour where a slice had less than half of what lies below the plane. The right
        ventricle stays.
    completed : (T, S) bool
        Slices that got another's contour.
    """
    completed = np.zeros(labels.shape[:2], dtype=bool)
    filled = labels.copy()
    cavity = labels == Label.LV
    pixels = cavity.sum(axis=(2, 3))
    for phase in np.flatnonzero(~drawn):
        ranks = np.flatnonzero(pixels[phase, from_base] >= WHOLE_SLICE * max(int(pixels[phase].max()), 1))
        if not len(ranks):
            continue
        whole = from_base[ranks[0]]
        for index in from_base[: ranks[0]][::-1]:
            below = float(share[phase, index][cavity[phase, whole]].sum())
            if below < BELOW_MIN * pixels[phase, whole]:
                break
            own = float(share[phase, index][cavity[phase, index]].sum())
            if own >= FOUND_MIN * below:
                continue
            plane, like = filled[phase, index], labels[phase, whole]
            left = np.isin(plane, (Label.LV, Label.MYO))
            plane[left] = Label.BACKGROUND
            copied = np.isin(like, (Label.LV, Label.MYO)) & (plane != Label.RV)
            plane[copied] = like[copied]
            completed[phase, index] = True
    return filled, completed
