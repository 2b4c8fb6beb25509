"""Wall thickness of the AHA segments (Cerqueira et al., Circulation 2002;105:539).

The segments are counted from the right ventricle: the middle of the arc where it touches the left ventricle is the
middle of the septum, and from the anterior to the inferior insertion point run the anteroseptal and inferoseptal ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, StackGeometry
from pipelines.function.findings import Keyframes, SegmentalWall
from pipelines.function.slices import MYOCARDIAL_RING_MIN, SliceMeasures
from pipelines.function.thickness import SeptalArc, WallProfile, septal_arc, wall_profile

__all__ = ["SegmentMap", "SegmentReference", "segment_map", "segment_of", "segmental_wall"]

LEVELS = ("basal", "mid", "apical")
ANTERIOR_SUPERIOR = np.array([0.0, -1.0, 1.0]) / np.sqrt(2.0)
"""The anterior insertion lies in front of and above the inferior one (LPS)."""
CAP_PITCH_MAX_MM = 4.0
"""The apical cap (segment 17) is cut along its wall: only slices this close resolve its thickness."""
SEGMENT_POINTS_MIN = 5


@dataclass(frozen=True, slots=True, eq=False)
class SegmentReference:
    """How the segments lie in the image plane of one phase.

    Attributes
    ----------
    septum : float
        Direction of the middle of the septum, radians, from the row direction toward the column direction.
    sign : int
        +1 when the way from the anterior over the septum to the inferior wall has ascending angles, else −1.
    anterior_insertion, inferior_insertion : (3,) float64
        Patient coordinates, mm.
    agreed : bool
        Whether the two ways to tell anterior from inferior agree.
    """

    septum: float
    sign: int
    anterior_insertion: NDArray[np.float64]
    inferior_insertion: NDArray[np.float64]
    agreed: bool


def segment_of(angles: NDArray[np.float64], level: str, reference: SegmentReference) -> NDArray[np.intp]:
    """AHA segment, 1 … 16, of directions in the image plane.

    Parameters
    ----------
    angles : (N,) float64
        Radians, as in :class:`WallProfile`.
    level : str
        ``"basal"``, ``"mid"`` or ``"apical"``.
    reference : SegmentReference
    """
    turn = np.rad2deg(reference.sign * (angles - reference.septum))
    if level == "apical":
        # 13 anterior, 14 septal, 15 inferior, 16 lateral: quarters, the septal one around the middle of the septum.
        quarter = np.floor((turn + 45.0) / 90.0).astype(np.intp)
        return np.asarray(np.array([14, 15, 16, 13])[quarter % 4])
    # From the anterior insertion on: 2 anteroseptal, 3 inferoseptal, 4 inferior, 5 inferolateral, 6 anterolateral, 1.
    sixth = np.floor((turn + 60.0) / 60.0).astype(np.intp)
    return np.asarray(np.array([2, 3, 4, 5, 6, 1])[sixth % 6] + (0 if level == "basal" else 6))


def segmental_wall(stack: CineStack, slices: SliceMeasures, keyframes: Keyframes) -> SegmentalWall | None:
    """Thickness at ED and ES and thickening of 16 segments, or 17 where the apical cap is resolved.

    Levels are thirds of the long axis between base and apex, each phase on its own: the base descends in systole, so a
    fixed slice shows other tissue at ES.

    Returns
    -------
    SegmentalWall or None
        ``None`` when the RV insertion points cannot be found at ED or at ES.
    """
    phases = {phase: _Phase.of(stack, slices, phase) for phase in (keyframes.end_diastole, keyframes.end_systole)}
    end_diastole, end_systole = phases[keyframes.end_diastole], phases[keyframes.end_systole]
    if end_diastole is None or end_systole is None:
        return None
    ed, es = end_diastole.thickness(), end_systole.thickness()
    caps = [_cap_thickness(slices, phase) for phase in (keyframes.end_diastole, keyframes.end_systole)]
    levels = list(end_diastole.levels)
    if stack.geometry.pitch <= CAP_PITCH_MAX_MM and caps[0][1] and caps[1][1]:
        ed, es = np.append(ed, caps[0][0]), np.append(es, caps[1][0])
        for index in caps[0][1]:
            levels[index] = "cap"
    method = (
        "largest disc inside the wall at 120 mid-wall points a slice; "
        "levels are thirds of the long axis at each phase; "
        "the septum spans 120 degrees around the middle of the RV contact"
    )
    if not (end_diastole.reference.agreed and end_systole.reference.agreed):
        method += "; CAUTION: patient orientation and heart orientation disagree on which wall is anterior"
    return SegmentalWall(
        ed_thickness_mm=ed,
        es_thickness_mm=es,
        thickening_percent=100.0 * (es - ed) / ed,
        levels=tuple(levels),
        anterior_insertion=end_diastole.reference.anterior_insertion,
        inferior_insertion=end_diastole.reference.inferior_insertion,
        method=method,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Phase:
    """Wall of one phase."""

    levels: tuple[str | None, ...]
    profiles: dict[int, WallProfile]
    reference: SegmentReference

    @classmethod
    def of(cls, stack: CineStack, slices: SliceMeasures, phase: int) -> _Phase | None:
        levels = _levels(slices, phase, stack.geometry)
        spacing = stack.geometry.pixel_spacing
        walls = [index for index, level in enumerate(levels) if level is not None]
        arcs = {index: septal_arc(slices.labels[phase, index], spacing) for index in walls if levels[index] != "apical"}
        reference = _reference(
            {i: arc for i, arc in arcs.items() if arc is not None}, levels, slices.base_first, stack.geometry
        )
        if reference is None:
            return None
        profiles = {index: wall_profile(slices.labels[phase, index], spacing) for index in walls}
        return cls(levels, {i: profile for i, profile in profiles.items() if profile is not None}, reference)

    def thickness(self) -> NDArray[np.float64]:
        """Mean thickness of segments 1 … 16, mm; NaN where fewer than five points were measured."""
        segments: list[NDArray[np.intp]] = []
        values: list[NDArray[np.float64]] = []
        for index, profile in self.profiles.items():
            level = self.levels[index]
            if level is not None:
                segments.append(segment_of(profile.angles, level, self.reference))
                values.append(profile.thickness_mm)
        if not values:
            return np.full(16, np.nan)
        segment, value = np.concatenate(segments), np.concatenate(values)
        segment, value = segment[~np.isnan(value)], value[~np.isnan(value)]
        count = np.bincount(segment, minlength=17)[1:]
        total = np.bincount(segment, weights=value, minlength=17)[1:]
        return np.asarray(np.where(count >= SEGMENT_POINTS_MIN, total / np.maximum(count, 1), np.nan))


def _levels(slices: SliceMeasures, phase: int, geometry: StackGeometry) -> tuple[str | None, ...]:
    """Third of the long axis that each slice's centre lies in, for slices with a ringed cavity."""
    seen = [i for i in slices.from_base() if slices.counted[phase, i] and slices.ring[phase, i] >= MYOCARDIAL_RING_MIN]
    levels: list[str | None] = [None] * len(slices.intervals_mm)
    if not seen:
        return tuple(levels)
    depth = np.abs((geometry.positions - geometry.positions[seen[0]]) @ geometry.normal)
    top = -slices.intervals_mm[seen[0]] / 2
    length = depth[seen[-1]] + slices.intervals_mm[seen[-1]] / 2 - top
    for index in seen:
        levels[index] = LEVELS[min(int(3 * (depth[index] - top) / length), 2)]
    return tuple(levels)


def _reference(
    arcs: dict[int, SeptalArc],
    levels: tuple[str | None, ...],
    base_first: bool,
    geometry: StackGeometry,
) -> SegmentReference | None:
    """Mean direction of the septum over basal and mid slices; insertion points of the middle one."""
    if not arcs:
        return None
    mean = sum(np.exp(1j * arc.middle) for arc in arcs.values())
    septum = float(np.angle(mean))
    mid = [index for index in arcs if levels[index] == "mid"] or list(arcs)
    shown = mid[len(mid) // 2]
    ends = [geometry.to_patient(shown, row, column) for row, column in arcs[shown].ends_px]
    towards_apex = geometry.normal if base_first else -geometry.normal
    septal = np.cos(septum) * geometry.row_direction + np.sin(septum) * geometry.column_direction
    # Seen from the apex with the septum on the left, anterior is up.
    by_heart = float((ends[1] - ends[0]) @ np.cross(septal, towards_apex))
    chord = ends[1] - ends[0]
    length = float(np.linalg.norm(chord))
    if length == 0.0:
        # A speck of RV touches the wall at one point: there are no two insertion points.
        return None
    by_patient = float(chord @ ANTERIOR_SUPERIOR) / length
    # The patient's axes hold in dextrocardia too; where the chord is square to them the heart's own axes decide.
    second_is_anterior = by_patient > 0 if abs(by_patient) >= 0.3 else by_heart > 0
    anterior, inferior = (ends[1], ends[0]) if second_is_anterior else (ends[0], ends[1])
    return SegmentReference(
        septum=septum,
        sign=-1 if second_is_anterior else 1,
        anterior_insertion=anterior,
        inferior_insertion=inferior,
        agreed=(by_heart > 0) == second_is_anterior,
    )


def _cap_thickness(slices: SliceMeasures, phase: int) -> tuple[float, list[int]]:
    """Thickness along the long axis, mm, of the myocardium beyond the last slice with cavity, and its slices."""
    order = [int(i) for i in slices.from_base()]
    last = max(rank for rank, index in enumerate(order) if slices.lv_mm2[phase, index] > 0)
    beyond: list[int] = []
    for index in order[last + 1 :]:
        if slices.myo_mm2[phase, index] <= 0:
            break
        beyond.append(index)
    return float(sum(slices.intervals_mm[beyond])), beyond


@dataclass(frozen=True, slots=True, eq=False)
class SegmentMap:
    """How the slices of one phase divide into AHA segments.

    Attributes
    ----------
    levels : tuple of S str or None
        ``"basal"``, ``"mid"`` or ``"apical"``; ``None`` for slices without a ringed cavity.
    reference : SegmentReference
    """

    levels: tuple[str | None, ...]
    reference: SegmentReference


def segment_map(stack: CineStack, slices: SliceMeasures, phase: int) -> SegmentMap | None:
    """Segments of one phase, or ``None`` when the RV insertion points cannot be found on it."""
    found = _Phase.of(stack, slices, phase)
    return None if found is None else SegmentMap(found.levels, found.reference)
