"""Which cardiac plane a stack is, told from geometry; a description adds weight, never more.

Directions are those of the patient (LPS). The long axis of the left ventricle runs from the base, right, posterior and
superior, to the apex, left, anterior and inferior. Long-axis planes contain it and differ by the angle about it: the
two-, three- and four-chamber views are about 60° apart (Kramer et al., J Cardiovasc Magn Reson 2020;22:17).
"""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, View

__all__ = [
    "LONG_AXIS",
    "MAX_LONG_AXIS_SLICES",
    "ONE_STACK_DEG",
    "Plane",
    "ShortAxisEvidence",
    "angle_between",
    "base_first",
    "classify_long_axis",
    "is_short_axis_direction",
    "short_axis_evidence",
]

MAX_LONG_AXIS_SLICES = 3
"""More parallel slices than these are no long-axis view."""
ONE_STACK_DEG = 5.0
"""Short-axis slices of one Frame of Reference that are turned by less are one stack: planned again after a move."""

LONG_AXIS: NDArray[np.float64] = np.array([0.60, -0.65, -0.47]) / np.linalg.norm([0.60, -0.65, -0.47])
"""Mean direction from base to apex: that of the short-axis stacks of three adults on two vendors, ± 15°."""

_SHORT_AXIS_WITHIN_DEG = 45.0
_PERPENDICULAR_DEG = (65.0, 90.0)
_CROSSED_WITHIN_DEG = 25.0
_THROUGH_AXIS_MM = 14.0
_NOMINAL_DEG = {View.LAX_2CH: 0.0, View.LAX_3CH: 62.0, View.LAX_4CH: 122.0}
_WITHIN_DEG = 31.0
_LABEL_WEIGHT_DEG = 12.0
_LABELS = {
    View.LAX_2CH: re.compile(r"2.?ch|two.?ch|vla|vertical", re.IGNORECASE),
    View.LAX_3CH: re.compile(r"3.?ch|three.?ch|lvot|(\b|_)ao", re.IGNORECASE),
    View.LAX_4CH: re.compile(r"4.?ch|four.?ch|hla|horizontal", re.IGNORECASE),
    View.RVOT: re.compile(r"rvot|rv.?out", re.IGNORECASE),
}


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """An imaging plane, or several parallel ones.

    Attributes
    ----------
    normal : (3,) float64
        Unit vector, LPS.
    centre : (3,) float64
        Of the image in the middle, LPS, mm.
    description : str
        What its series is called.
    slices : int
        Positions along the normal.
    """

    normal: NDArray[np.float64]
    centre: NDArray[np.float64]
    description: str = ""
    slices: int = 1


class ShortAxisEvidence(enum.Enum):
    """What geometry says of a stack that may be the short axis."""

    SHORT_AXIS = enum.auto()
    OPEN = enum.auto()
    """Nothing but its many slices speaks for it: the segmentation has to show the ventricles in short axis."""
    OTHER = enum.auto()


def angle_between(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Angle between two undirected lines, degrees, 0 to 90."""
    return float(np.degrees(np.arccos(min(1.0, abs(float(first @ second))))))


def is_short_axis_direction(normal: NDArray[np.float64]) -> bool:
    """Tell whether a stack normal lies near the long axis of an ordinary left ventricle."""
    return angle_between(normal, LONG_AXIS) <= _SHORT_AXIS_WITHIN_DEG


def short_axis_evidence(planes: Sequence[Plane]) -> list[ShortAxisEvidence]:
    """Tell which planes of one study lie in short-axis direction, from how they lie to one another.

    Parameters
    ----------
    planes : sequence of Plane
        All cine planes of the study; parallel ones as one.

    Returns
    -------
    list of ShortAxisEvidence
        One a plane. A stack of more than three slices is the short axis when two planes of the study cross along its
        normal, as long-axis views do, whatever the position of the patient and the side of the heart; planes of any
        number of slices near its direction then belong to it. Where none is crossed so, the direction in an ordinary
        patient decides; where that finds none, the oblique stack with the most slices is left open.
    """
    stacks = [plane for plane in planes if plane.slices > MAX_LONG_AXIS_SLICES]
    crossed = [plane for plane in stacks if _crossed_along(plane.normal, planes)]
    if crossed:
        lead = max(crossed, key=lambda plane: (is_short_axis_direction(plane.normal), plane.slices))
        near = [angle_between(plane.normal, lead.normal) <= _SHORT_AXIS_WITHIN_DEG for plane in planes]
    else:
        near = [is_short_axis_direction(plane.normal) for plane in planes]
    found = [ShortAxisEvidence.SHORT_AXIS if one else ShortAxisEvidence.OTHER for one in near]
    if not any(one and plane.slices > MAX_LONG_AXIS_SLICES for one, plane in zip(near, planes, strict=True)):
        open_to_doubt = [
            index
            for index, plane in enumerate(planes)
            if plane.slices > MAX_LONG_AXIS_SLICES and not near[index] and _oblique(plane.normal)
        ]
        if open_to_doubt:
            found[max(open_to_doubt, key=lambda index: planes[index].slices)] = ShortAxisEvidence.OPEN
    return found


def _oblique(normal: NDArray[np.float64]) -> bool:
    """Tell whether a plane is not transverse, coronal or sagittal, as the short axis of no heart is."""
    return min(angle_between(normal, axis) for axis in np.eye(3)) >= 12.0


def _crossed_along(normal: NDArray[np.float64], planes: Sequence[Plane]) -> bool:
    """Tell whether two planes, turned against each other, cross along the normal of an oblique stack."""
    if not _oblique(normal):
        return False
    upright = [
        plane.normal
        for plane in planes
        if plane.slices <= MAX_LONG_AXIS_SLICES and angle_between(plane.normal, normal) >= _PERPENDICULAR_DEG[0]
    ]
    for one, other in itertools.combinations(upright, 2):
        line = np.cross(one, other)
        length = float(np.linalg.norm(line))
        if length >= 0.5 and angle_between(line / length, normal) <= _CROSSED_WITHIN_DEG:
            return True
    return False


def classify_long_axis(planes: Sequence[Plane], short_axis: Plane | None) -> list[View]:
    """Tell the chamber views of long-axis planes.

    Parameters
    ----------
    planes : sequence of Plane
        All planes of one study that are not short axis.
    short_axis : Plane or None
        The short-axis stack: its normal is the long axis, its centre is near the heart.

    Returns
    -------
    list of View
        One a plane. The planes that cross the left ventricular axis are named by their angle about it, measured
        from the superior direction towards the right: 2CH 0°, 3CH 62°, 4CH 122°. A plane that passes the axis on
        the right is the RVOT view when its angle fits, else ``View.LAX``. Where the axis has the direction of no
        ordinary heart (dextrocardia, a patient registered in another position) right and left may be exchanged: the
        side is taken on which more of the descriptions come true, else that of a mirrored heart.
    """
    if not planes:
        return []
    axis = _long_axis(planes, short_axis)
    superior = np.array([0.0, 0.0, 1.0])
    up = superior - (superior @ axis) * axis
    up /= np.linalg.norm(up)
    right = np.cross(axis, up)
    depths = [float(plane.centre @ axis) for plane in ([short_axis] if short_axis is not None else planes)]
    level = float(np.median(depths)) * axis

    def views(right: NDArray[np.float64]) -> list[View]:
        lines = [_trace(plane, level, up, right) for plane in planes]
        crossing = _axis_crossing(planes, lines, short_axis, up, right)
        return [_view(plane, line, crossing, axis) for plane, line in zip(planes, lines, strict=True)]

    if angle_between(axis, LONG_AXIS) <= _SHORT_AXIS_WITHIN_DEG:
        return views(right)
    return max(views(-right), views(right), key=lambda found: _as_described(planes, found))


def _as_described(planes: Sequence[Plane], views: Sequence[View]) -> int:
    """Number of planes whose description names the view that they were found to be."""
    return sum(
        bool(view in _LABELS and _LABELS[view].search(plane.description))
        for plane, view in zip(planes, views, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Trace:
    """Line in which a plane cuts the one perpendicular to the long axis: angle from superior, normal · x = offset."""

    angle_deg: float
    normal: tuple[float, float]
    offset: float

    def distance(self, point: tuple[float, float]) -> float:
        return self.normal[0] * point[0] + self.normal[1] * point[1] - self.offset


def _long_axis(planes: Sequence[Plane], short_axis: Plane | None) -> NDArray[np.float64]:
    if short_axis is not None:
        axis = short_axis.normal
    else:
        normals = np.stack([plane.normal for plane in planes])
        _, spread, directions = np.linalg.svd(normals, full_matrices=True)
        # Planes turned against each other share one direction: the axis. One plane alone leaves it open.
        turned = len(planes) >= 2 and spread[1] > 0.35
        axis = directions[-1] if turned else LONG_AXIS
        if angle_between(axis, LONG_AXIS) > 35.0:
            axis = LONG_AXIS
    return axis if axis @ LONG_AXIS >= 0 else -axis


def _trace(plane: Plane, level: NDArray[np.float64], up: NDArray[np.float64], right: NDArray[np.float64]) -> _Trace:
    """Trace of a plane at ``level``: a tilted plane crosses the axis at one depth only."""
    within = np.array([plane.normal @ up, plane.normal @ right])
    length = float(np.linalg.norm(within))
    if length < 1e-6:
        return _Trace(0.0, (1.0, 0.0), np.inf)
    offset = float(plane.normal @ (plane.centre - level)) / length
    within /= length
    angle = float(np.degrees(np.arctan2(within[0], -within[1]))) % 180.0
    return _Trace(angle, (float(within[0]), float(within[1])), offset)


def _axis_crossing(
    planes: Sequence[Plane],
    lines: Sequence[_Trace],
    short_axis: Plane | None,
    up: NDArray[np.float64],
    right: NDArray[np.float64],
) -> tuple[float, float]:
    """Where the left ventricular axis passes: the point on which the most different chamber views agree."""
    centres = [short_axis.centre] if short_axis is not None else [plane.centre for plane in planes]
    middle = np.mean([[centre @ up, centre @ right] for centre in centres], axis=0)
    candidates = [(float(middle[0]), float(middle[1]))]
    for first, second in itertools.combinations(lines, 2):
        turned = abs((first.angle_deg - second.angle_deg + 90.0) % 180.0 - 90.0)
        if turned >= 25.0 and np.isfinite([first.offset, second.offset]).all():
            point = np.linalg.solve(np.array([first.normal, second.normal]), [first.offset, second.offset])
            if np.hypot(*(point - middle)) < 80.0:
                candidates.append((float(point[0]), float(point[1])))

    def agreement(point: tuple[float, float]) -> tuple[int, float]:
        seen = {
            min(_NOMINAL_DEG, key=lambda view: _turn(line.angle_deg, _NOMINAL_DEG[view]))
            for line in lines
            if abs(line.distance(point)) <= _THROUGH_AXIS_MM
        }
        return len(seen), -float(np.hypot(point[0] - middle[0], point[1] - middle[1]))

    return max(candidates, key=agreement)


def _turn(first_deg: float, second_deg: float) -> float:
    return abs((first_deg - second_deg + 90.0) % 180.0 - 90.0)


def _view(plane: Plane, line: _Trace, crossing: tuple[float, float], axis: NDArray[np.float64]) -> View:
    tilt = angle_between(plane.normal, axis)
    labels = {view for view, pattern in _LABELS.items() if pattern.search(plane.description)}
    away = line.distance(crossing)
    if tilt >= _PERPENDICULAR_DEG[0] and abs(away) <= _THROUGH_AXIS_MM:

        def misfit(view: View) -> float:
            return _turn(line.angle_deg, _NOMINAL_DEG[view]) - (_LABEL_WEIGHT_DEG if view in labels else 0.0)

        best = min(_NOMINAL_DEG, key=misfit)
        return best if _turn(line.angle_deg, _NOMINAL_DEG[best]) <= _WITHIN_DEG + _LABEL_WEIGHT_DEG else View.LAX
    # The trace's point nearest the crossing lies at crossing - away · normal; the second coordinate points right.
    to_the_right = -away * line.normal[1]
    outflow_angle = 12.0 if View.RVOT not in labels else 5.0
    if to_the_right > 8.0 and outflow_angle <= line.angle_deg <= 80.0 and abs(away) < 60.0 and tilt >= 50.0:
        return View.RVOT
    return View.LAX


def base_first(stack: CineStack) -> bool | None:
    """Tell which end of a short-axis stack is the base.

    Parameters
    ----------
    stack : CineStack
        A short-axis stack.

    Returns
    -------
    bool or None
        True when slice 0 is the most basal one, False when it is the most apical one, ``None`` when the stack
        is not short axis or its direction lies more than 75° from that of an ordinary left ventricle. The apex is
        left, anterior and inferior of the base.
    """
    if stack.view is not View.SAX:
        return None
    along = float(stack.geometry.normal @ LONG_AXIS)
    if abs(along) < np.cos(np.radians(75.0)):
        return None
    return along > 0
