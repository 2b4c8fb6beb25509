"""Enhanced muscle by thresholds: standard deviations above remote muscle, and full width at half maximum.

Blood is excluded, since only the wall is looked at; bright pixels at its very edge count only beside some inside the
wall, since those alone are blood or fat that shares a pixel with it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.late_enhancement.findings import ExtentMethod, Remote
from pipelines.late_enhancement.labels import WALL, Tissue

__all__ = ["enhanced_wall", "filled", "remote_muscle", "supported"]

REMOTE_PIXELS_MIN = 20
REMOTE_AWAY_DEG = 45.0
_SQUARE = np.ones((3, 3), dtype=bool)
_SEED_DEVIATIONS = 5.0
_SEED_PIXELS_MIN = 4
_MAXIMUM_PERCENTILE = 99.0
"""In place of the maximum, which one pixel of noise decides."""


def remote_muscle(pixels: NDArray[np.float32], labels: NDArray[np.uint8]) -> tuple[Remote | None, ...]:
    """Remote muscle of each slice, by a rule: what the network calls muscle, 45° or more from any infarct.

    The outermost and innermost pixels of the wall are left out. Where fewer than 20 pixels remain the whole muscle of
    the slice is taken; where that is too little as well, that of the nearest slice.

    Parameters
    ----------
    pixels : (S, R, C) float32
    labels : (S, R, C) uint8
        Values of :class:`~pipelines.late_enhancement.labels.Tissue`.

    Returns
    -------
    tuple of S Remote or None
        ``None`` where the slice shows no wall, or no slice has enough muscle.
    """
    own: list[Remote | None] = []
    for image, plane in zip(pixels, labels, strict=True):
        wall = np.isin(plane, WALL)
        core = _core(wall) & (plane == Tissue.MYO)
        away = core & ~_near_infarct(plane)
        chosen = away if np.count_nonzero(away) >= REMOTE_PIXELS_MIN else core
        count = int(np.count_nonzero(chosen))
        if count < REMOTE_PIXELS_MIN:
            own.append(None)
            continue
        values = image[chosen].astype(np.float64)
        own.append(Remote(float(values.mean()), float(values.std()), count, borrowed=False))
    known = [index for index, one in enumerate(own) if one is not None]
    found: list[Remote | None] = []
    for index, one in enumerate(own):
        if one is None and known and np.isin(labels[index], WALL).any():
            nearest = own[min(known, key=lambda other: abs(other - index))]
            one = None if nearest is None else Remote(nearest.mean, nearest.deviation, nearest.pixels, borrowed=True)
        found.append(one)
    return tuple(found)


def _core(wall: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The wall without its outermost and innermost pixels."""
    return np.asarray(ndimage.binary_erosion(wall, _SQUARE))


def _near_infarct(plane: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of a slice whose direction from the centre of the ventricle is less than 45° from an infarct."""
    infarct = np.isin(plane, (Tissue.INFARCT, Tissue.OBSTRUCTION))
    if not infarct.any():
        return np.zeros(plane.shape, dtype=bool)
    centre = ndimage.center_of_mass(plane > 0)
    rows, columns = np.indices(plane.shape)
    degrees = np.rad2deg(np.arctan2(rows - centre[0], columns - centre[1])).round().astype(int) % 360
    hit = np.zeros(360, dtype=bool)
    hit[degrees[infarct]] = True
    reach = round(REMOTE_AWAY_DEG)
    near = ndimage.binary_dilation(np.tile(hit, 3), np.ones(2 * reach - 1, dtype=bool))[360:720]
    return np.asarray(near[degrees])


def supported(bright: NDArray[np.bool_], wall: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bright wall (R, C) inside the wall, with the bright pixels of its outermost and innermost layer next to it."""
    return np.asarray(bright & wall & ndimage.binary_dilation(bright & _core(wall), _SQUARE, iterations=2))


def filled(bright: NDArray[np.bool_], plane: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Enhanced wall (R, C) with the dark cores that it encloses, alone or together with the cavity.

    An enclosed core counts where it is no larger than what encloses it: a ring of epicardial enhancement encloses the
    whole wall, which is no obstruction. What the network calls obstruction counts where it touches enhanced wall.
    """
    wall = np.isin(plane, WALL)
    closed = np.asarray(ndimage.binary_fill_holes(bright | (plane == Tissue.LV)))
    cores, count = ndimage.label(closed & wall & ~bright)
    limit = int(np.count_nonzero(bright))
    sizes = np.bincount(cores.ravel(), minlength=count + 1)
    small = [number for number in range(1, count + 1) if sizes[number] <= limit]
    result = bright | np.isin(cores, small)
    obstruction, _ = ndimage.label(plane == Tissue.OBSTRUCTION, _SQUARE)
    touching = np.unique(obstruction[ndimage.binary_dilation(result, _SQUARE)])
    return np.asarray(result | (np.isin(obstruction, touching[touching > 0])))


def enhanced_wall(
    pixels: NDArray[np.float32],
    labels: NDArray[np.uint8],
    remote: tuple[Remote | None, ...],
    method: ExtentMethod,
) -> NDArray[np.bool_]:
    """Enhanced pixels of the wall by one method.

    Parameters
    ----------
    pixels : (S, R, C) float32
    labels : (S, R, C) uint8
    remote : tuple of S Remote or None
        Of :func:`remote_muscle`; a slice without one shows no enhancement by a threshold.
    method : ExtentMethod

    Returns
    -------
    (S, R, C) bool
    """
    if method is ExtentMethod.NETWORK:
        return np.asarray(np.isin(labels, (Tissue.INFARCT, Tissue.OBSTRUCTION)))
    found = np.zeros(labels.shape, dtype=bool)
    for index, (image, plane, muscle) in enumerate(zip(pixels, labels, remote, strict=True)):
        if muscle is None:
            continue
        wall = np.isin(plane, WALL)
        if method.deviations is not None:
            threshold = muscle.mean + method.deviations * muscle.deviation
        else:
            half = _half_maximum(image, plane, wall, muscle)
            if half is None:
                continue
            threshold = half
        found[index] = filled(supported(image > threshold, wall), plane)
    return found


def _half_maximum(
    image: NDArray[np.float32], plane: NDArray[np.uint8], wall: NDArray[np.bool_], muscle: Remote
) -> float | None:
    """Grey value half-way between remote muscle and the brightest enhancement of a slice; ``None`` without any.

    Half-way from remote muscle and not from zero: where muscle is nulled the two are the same, and the zero of a
    phase-sensitive image is a convention of the scanner.
    """
    seed = (plane == Tissue.INFARCT) & (image > muscle.mean)
    seed |= supported(image > muscle.mean + _SEED_DEVIATIONS * muscle.deviation, wall)
    if np.count_nonzero(seed) < _SEED_PIXELS_MIN:
        return None
    return muscle.mean + 0.5 * (float(np.percentile(image[seed], _MAXIMUM_PERCENTILE)) - muscle.mean)
