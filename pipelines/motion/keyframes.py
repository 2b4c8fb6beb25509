"""The five keyframes of the cardiac cycle, from the direction in which the heart moves.

Koehler, Mueller et al., "Self-supervised motion descriptor for cardiac phase detection in 4D CMR" (STACOM 2022;
Med Image Anal 2026). The motion between consecutive frames is compared with the direction to a focus inside the heart;
the mean over the pixels whose direction turns most over the cycle is the motion descriptor α: negative while the heart
contracts, positive while it relaxes, near zero while it rests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["KeyframeTimes", "MotionDescriptor", "find_keyframes", "motion_descriptor"]

PHASES_MIN = 8
"""Fewer frames do not show five keyframes."""
REST_SHARE = 0.3
ONSET_SHARE = 0.25
"""See :func:`find_keyframes`; chosen on phantoms whose seeds no figure is reported on."""
_REST_MM = 0.75
"""Mean motion a frame that always counts as motion: 0.3 pixels of 2.5 mm."""
_SMOOTHING = 0.8
_TURN_MIN = 1.1
"""Least change of the cosine over the cycle; 1.0 to 1.2 in the published code."""


@dataclass(frozen=True, slots=True, eq=False)
class MotionDescriptor:
    """Mean direction of motion over the cycle.

    Attributes
    ----------
    direction : (T,) float64
        α, −1 (all toward the focus) … 1. Element i belongs to the motion from frame i to frame i + 1, so to the moment
        halfway between them.
    speed_mm : (T,) float64
        Mean motion away from the focus over the same pixels, mm a frame.
    focus_mm : (2,) float64
        Row and column, mm from the centre of the square.
    share : float
        Part of the pixels that the means are taken over.
    """

    direction: NDArray[np.float64]
    speed_mm: NDArray[np.float64]
    focus_mm: NDArray[np.float64]
    share: float


@dataclass(frozen=True, slots=True)
class KeyframeTimes:
    """The five keyframes as moments in frames from the first: 3.5 is halfway between frames 3 and 4; 0 ≤ t < T."""

    end_diastole: float
    mid_systole: float
    """Fastest contraction."""
    end_systole: float
    peak_flow: float
    """Fastest early relaxation."""
    mid_diastole: float
    """Before the atrial contraction."""

    def frames(self, phases: int) -> dict[str, int]:
        """The frame nearest to each moment, 0-based."""
        return {
            name: int(np.floor(getattr(self, name) + 0.5)) % phases
            for name in ("end_diastole", "mid_systole", "end_systole", "peak_flow", "mid_diastole")
        }


def motion_descriptor(fields: NDArray[np.floating], side_mm: float) -> MotionDescriptor:
    """Motion descriptor of the fields between consecutive frames.

    Parameters
    ----------
    fields : (T, S, 2, h, w) array, mm
        Displacement from each frame to the next; the last leads to the first.
    side_mm : float

    Returns
    -------
    MotionDescriptor
        All zero where nothing turns.
    """
    field = np.asarray(fields, dtype=np.float64)
    phases, slices, _, height, width = field.shape
    norm = np.sqrt((field**2).sum(axis=2))
    norm = np.minimum(norm, np.percentile(norm, 99))
    usual = np.median(norm, axis=0)
    moving = usual > min(float(np.percentile(usual, 40)), _REST_MM)
    rows = ((np.arange(height) + 0.5) / height - 0.5) * side_mm
    columns = ((np.arange(width) + 0.5) / width - 0.5) * side_mm
    place = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    focus = _centroid(moving, place) / 2
    for _ in range(2):
        cosine, turning = _turning(field, place, focus)
        if not turning.any():
            return MotionDescriptor(np.zeros(phases), np.zeros(phases), focus, 0.0)
        found, focus = focus, _centroid(turning, place)
    outward = _outward(field, place, found)
    return MotionDescriptor(
        direction=cosine[:, turning].mean(axis=1),
        speed_mm=outward[:, turning].mean(axis=1),
        focus_mm=found,
        share=float(turning.mean()) if slices else 0.0,
    )


def _centroid(mask: NDArray[np.bool_], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean place (row, column) of a mask (S, h, w), mm; the centre of the square for an empty one."""
    count = mask.sum(axis=0)
    if not count.any():
        return np.zeros(2)
    return np.asarray((place * count).sum(axis=(1, 2)) / count.sum())


def _outward(field: NDArray[np.float64], place: NDArray[np.float64], focus: NDArray[np.float64]) -> NDArray[np.float64]:
    """Component of the motion away from the focus, mm, (T, S, h, w)."""
    away = place - focus[:, None, None]
    away = away / np.maximum(np.sqrt((away**2).sum(axis=0)), 1e-9)
    return np.asarray((field * away).sum(axis=2))


def _turning(
    field: NDArray[np.float64], place: NDArray[np.float64], focus: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cosine (T, S, h, w) between motion and the direction away from the focus, smoothed, and where it turns."""
    from scipy import ndimage

    norm = np.sqrt((field**2).sum(axis=2))
    cosine = _outward(field, place, focus) / np.maximum(norm, 1e-6)
    cosine = ndimage.gaussian_filter(cosine, (_SMOOTHING, 0, _SMOOTHING, _SMOOTHING), mode="wrap")
    turn = cosine.max(axis=0) - cosine.min(axis=0)
    turning = turn >= min(_TURN_MIN, float(turn.max()))
    opened = ndimage.binary_opening(turning, np.ones((1, 3, 3), dtype=bool))
    return cosine, opened if opened.any() else turning


def find_keyframes(
    curve: NDArray[np.float64],
    speed: NDArray[np.float64] | None = None,
    *,
    rest_share: float = REST_SHARE,
    onset_share: float = ONSET_SHARE,
) -> KeyframeTimes | None:
    """The five keyframes of a descriptor curve.

    The published rules look for the extrema of the curve and for its changes of sign, in windows that follow each other
    around the cycle. Four things are settled here that they leave open:

    * *Which frame.* The published code gives indices of motion between frames, and moves peak flow on by one. Here a
      value belongs to the moment halfway between two frames, extrema are those of the parabola through three values,
      and the nearest frame is taken at the very end.
    * *Where in the rest.* Between contraction and relaxation, and between atrial contraction and contraction, the
      valves are closed and nothing moves for 50 to 100 ms; a change of sign is somewhere in there. End systole and end
      diastole are the beginning of that rest, when the motion before it has fallen to a part of its peak: the
      closure of the valve, the first frame of the smallest and of the largest volume.
    * *Fastest.* A cosine is near −1 throughout ejection, so that its least value says little; mid-systole and peak
      flow are where the ``speed`` along the same direction is greatest, between the moments that the cosine gives.
    * *Mid-diastole* is the frame before the atrial contraction. The published rule takes the peak of the atrial wave;
      here it is the moment from which on the curve rises to that peak.

    Parameters
    ----------
    curve : (T,) float64
        Negative while the heart contracts; element i is of the moment i + ½.
    speed : (T,) float64 or None
        Motion away from the focus, of the same moments; ``None`` takes the extrema of the curve as published.
    rest_share : float
        Part of a peak at which the motion counts as at rest; 0 is the published change of sign.
    onset_share : float
        Part of the height of the atrial wave at which it counts as begun; 1 is the published peak.

    Returns
    -------
    KeyframeTimes or None
        ``None`` for fewer than eight frames or a curve without contraction or relaxation.
    """
    phases = len(curve)
    if phases < PHASES_MIN or curve.min() >= 0 or curve.max() <= 0:
        return None
    lowest = int(np.argmin(curve))
    # Index k of the turned curve is k intervals after mid-systole; the last value is mid-systole of the next beat.
    turned = np.append(np.roll(curve, -lowest), curve[lowest])
    rises = [k for k in range(phases) if turned[k] < 0 <= turned[k + 1]]
    falls = [k for k in range(phases) if turned[k] >= 0 > turned[k + 1]]
    highest = int(np.argmax(turned))
    first_rise = next((k for k in rises if k < highest), 0)
    flow = _peak_flow(turned, first_rise, highest)
    relaxed = [k for k in falls if k >= flow] or [int(np.argmin(np.abs(turned[flow:]))) + flow]
    middle = (flow + relaxed[-1]) / 2
    fallen = [k for k in falls if k >= middle] or relaxed
    waves = [k for k in _peaks(turned) if flow < k <= fallen[-1]]
    wave = waves[-1] if waves else flow
    end_diastole = _falls_to(turned, wave, rest_share * turned[wave])
    end_systole = _falls_to(-turned, 0, -rest_share * turned[0])
    mid_diastole = _onset(turned, flow, wave, onset_share) if waves else (flow + end_diastole) / 2

    def moment(intervals: float) -> float:
        return float((lowest + intervals + 0.5) % phases)

    mid_systole, peak_flow = _extremum(np.roll(turned[:-1], 1), 1) - 1, _extremum(turned, flow)
    if speed is not None:
        fastest = np.roll(speed, -lowest)
        mid_systole = _fastest(-fastest, end_diastole - phases, end_systole)
        peak_flow = _fastest(fastest, end_systole, mid_diastole)
    return KeyframeTimes(
        end_diastole=moment(end_diastole),
        mid_systole=moment(mid_systole),
        end_systole=moment(end_systole),
        peak_flow=moment(peak_flow),
        mid_diastole=moment(mid_diastole),
    )


def _fastest(speed: NDArray[np.float64], start: float, end: float) -> float:
    """Where a cyclic curve is greatest between two moments (the second not before the first), by a parabola."""
    inside = np.arange(math.ceil(start), max(math.floor(end), math.ceil(start)) + 1)
    best = int(inside[int(np.argmax(np.take(speed, inside, mode="wrap")))])
    around = np.take(speed, [best - 1, best, best + 1], mode="wrap")
    return best + _extremum(around, 1) - 1


def _falls_to(curve: NDArray[np.float64], start: int, level: float) -> float:
    """Where a curve falls to a level for the first time from an index on, interpolated; the last index if never."""
    for k in range(start, len(curve) - 1):
        if curve[k] >= level > curve[k + 1]:
            return k + float((curve[k] - level) / (curve[k] - curve[k + 1]))
    return float(len(curve) - 1)


def _onset(curve: NDArray[np.float64], flow: int, wave: int, share: float) -> float:
    """Where the rise to a peak begins: the last moment before it at a share of its height above the trough."""
    trough = flow + int(np.argmin(curve[flow : wave + 1]))
    level = curve[trough] + share * (curve[wave] - curve[trough])
    for k in range(wave, trough, -1):
        if curve[k - 1] < level <= curve[k]:
            return k - 1 + float((level - curve[k - 1]) / (curve[k] - curve[k - 1]))
    return float(trough)


def _peaks(curve: NDArray[np.float64]) -> list[int]:
    """Local maxima inside a curve."""
    return [k for k in range(1, len(curve) - 1) if curve[k - 1] < curve[k] >= curve[k + 1]]


def _peak_flow(turned: NDArray[np.float64], first_rise: int, highest: int) -> int:
    """First peak after the first rise; of more than two the earlier of the two highest; the maximum without any."""
    last = len(turned) - 1
    peaks = [k for k in _peaks(turned) if first_rise < k < last and turned[k] > 0]
    if not peaks:
        return highest
    if len(peaks) <= 2:
        return peaks[0]
    return min(sorted(peaks, key=lambda k: -turned[k])[:2])


def _extremum(curve: NDArray[np.float64], k: int) -> float:
    """Vertex of the parabola through value k and its neighbours."""
    if not 0 < k < len(curve) - 1:
        return float(k)
    bend = curve[k - 1] - 2 * curve[k] + curve[k + 1]
    return k + float(np.clip((curve[k - 1] - curve[k + 1]) / (2 * bend), -0.5, 0.5)) if bend else float(k)
