"""What is measured on each slice of each phase: areas, ring of myocardium, centre; and which end is the base."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, StackGeometry
from pipelines.cine.views import LONG_AXIS
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import Chamber
from pipelines.long_axis.evidence import LongAxisEvidence
from pipelines.segmentation.labels import CineSegmentation, Label

__all__ = ["SliceMeasures", "cyclic_median", "fill_cavity", "measure_slices"]

MYOCARDIAL_RING_MIN = 0.5
"""A basal slice counts when at least this fraction of the cavity border is myocardium (SCMR post-processing 2020)."""

ATRIAL_AREA_MAX = 0.6
"""A slice at the base is above the valves when its cavity, smaller than this fraction of the largest at ED, is no
smaller at ES: a ventricle contracts, while the atrium fills and the aortic root is stretched."""

RV_TO_LV_MIN = 0.25
"""Less RV than this fraction of the LV is a fragment of it."""


@dataclass(frozen=True, slots=True, eq=False)
class SliceMeasures:
    """Measures of each slice of each phase.

    Attributes
    ----------
    labels : (T, S, R, C) uint8
        Labels with the papillary muscles filled into the cavity; all measures are taken on these. What is counted of
        them, drawn and sent, gives :meth:`reported`.
    lv_mm2, myo_mm2, rv_mm2 : (T, S) float64
        Areas.
    ring : (T, S) float64
        Fraction of the cavity's border that is myocardium, smoothed over neighbouring phases; NaN without cavity.
    centre_mm : (T, S, 2) float64
        Centroid of cavity and myocardium in the plane: mm along the row direction and along the column direction from
        the projection of the patient origin, so that shifts between slices show. NaN where there is none.
    above_base : (S,) bool
        Slices that were segmented but lie above the valves: neither cavity nor wall of them counts.
    counted : (T, S) bool
        Slices whose LV cavity is counted: with cavity, and not left out by the rules of the basal slice.
    base_first : bool
        Whether slice 0 is at the basal end.
    orientation_doubtful : bool
        Whether the segmentation and the patient geometry disagree about which end is the base.
    intervals_mm : (S,) float64
        Thickness of tissue each slice stands for.
    """

    labels: NDArray[np.uint8]
    lv_mm2: NDArray[np.float64]
    myo_mm2: NDArray[np.float64]
    rv_mm2: NDArray[np.float64]
    ring: NDArray[np.float64]
    centre_mm: NDArray[np.float64]
    above_base: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    base_first: bool
    orientation_doubtful: bool
    intervals_mm: NDArray[np.float64]
    completed: NDArray[np.bool_]
    """(T, S): slices below a valve plane that had no contour there and got that of their neighbour; their ``ring`` and
    ``centre_mm`` stay those of what had been found."""
    drawn: NDArray[np.bool_]
    """(T,): phases whose left ventricle a person drew."""
    base_views: tuple[str, ...] = ()
    """Names of the long-axis acquisitions whose valve planes cut the base; empty where the base was decided on the
    short axis alone."""
    base_stacks: tuple[CineStack, ...] = ()
    """Their stacks."""
    cut: frozenset[Chamber] = frozenset()
    """Chambers that are cut at a valve plane: their areas count by the share below it."""
    beside: LongAxisEvidence | None = None
    """What long-axis views show beside; ``None`` where the study has none that can be read."""

    @property
    def lv_ml(self) -> NDArray[np.float64]:
        """LV cavity volume of each phase, ml, shape (T,): sum of counted areas × interval."""
        return np.asarray(self.areas(Chamber.LV) @ self.intervals_mm / 1000.0)

    @property
    def rv_ml(self) -> NDArray[np.float64]:
        """RV cavity volume of each phase, ml, shape (T,)."""
        return np.asarray(self.areas(Chamber.RV) @ self.intervals_mm / 1000.0)

    @property
    def myo_ml(self) -> NDArray[np.float64]:
        """LV myocardial volume of each phase, ml, shape (T,)."""
        return np.asarray(np.where(self.above_base, 0.0, self.myo_mm2) @ self.intervals_mm / 1000.0)

    def areas(self, chamber: Chamber) -> NDArray[np.float64]:
        """Areas of a cavity that are counted, mm², (T, S)."""
        return np.where(self.counted, self.lv_mm2, 0.0) if chamber is Chamber.LV else self.rv_mm2

    def reported(self, phase: int) -> NDArray[np.uint8]:
        """Labels of one phase as the numbers count them, (S, R, C): the one map that is measured, drawn and sent.

        Without the LV cavity of slices that are not counted, and without the wall of those above the valves.
        """
        labels = self.labels[phase]
        left_out = ~self.counted[phase, :, None, None] & (labels == Label.LV)
        left_out |= self.above_base[:, None, None] & (labels == Label.MYO)
        return np.where(left_out, np.uint8(Label.BACKGROUND), labels)

    def from_base(self) -> NDArray[np.intp]:
        """Slice indices from base to apex."""
        order = np.arange(self.lv_mm2.shape[1])
        return order if self.base_first else order[::-1]


def measure_slices(stack: CineStack, segmentation: CineSegmentation) -> SliceMeasures:
    """Measure every slice of every phase.

    Raises
    ------
    AnalysisRefused
        The segmentation holds no left ventricular cavity.
    ValueError
        The segmentation is not on the grid of the stack.
    """
    if segmentation.labels.shape != stack.pixels.shape:
        raise ValueError(f"segmentation of shape {segmentation.labels.shape} on a stack of {stack.pixels.shape}")
    # The heart is a small part of the images: nothing else is looked at.
    window = _bounding(np.asarray(segmentation.labels.any(axis=(0, 1))))
    inside = segmentation.labels[:, :, *window] if window is not None else segmentation.labels[..., :0, :0]
    inside = fill_cavity(inside)
    if window is None or not (inside == Label.LV).any():
        raise AnalysisRefused(RefusalReason.NO_VENTRICLE_FOUND, "No left ventricle was found in the short-axis stack.")
    labels = np.zeros_like(segmentation.labels)
    labels[:, :, *window] = inside
    pixel_mm2 = stack.geometry.pixel_spacing[0] * stack.geometry.pixel_spacing[1]
    areas = {label: (inside == label).sum(axis=(2, 3)) * pixel_mm2 for label in (Label.LV, Label.MYO, Label.RV)}
    ring = cyclic_median(_ring_fraction(inside))
    base_first, doubtful = _base_first(areas[Label.LV], areas[Label.RV], stack.geometry)
    above_base = _above_base(areas[Label.LV], base_first)
    return SliceMeasures(
        labels=labels,
        lv_mm2=areas[Label.LV],
        myo_mm2=areas[Label.MYO],
        rv_mm2=areas[Label.RV],
        ring=ring,
        centre_mm=_centres(inside, window, stack.geometry),
        above_base=above_base,
        counted=_counted((areas[Label.LV] > 0) & ~above_base, ring, base_first),
        base_first=base_first,
        orientation_doubtful=doubtful,
        intervals_mm=stack.geometry.slice_intervals(),
        completed=np.zeros(labels.shape[:2], dtype=bool),
        drawn=_drawn(segmentation),
    )


def _drawn(segmentation: CineSegmentation) -> NDArray[np.bool_]:
    by_person = {one.phase for one in segmentation.corrections if {Label.LV, Label.MYO} & set(one.labels)}
    return np.isin(np.arange(len(segmentation.labels)), list(by_person))


def fill_cavity(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Label as cavity whatever the cavity encloses in its plane: papillary muscles and gaps.

    Parameters
    ----------
    labels : (T, S, R, C) uint8

    Returns
    -------
    (T, S, R, C) uint8
    """
    from scipy import ndimage

    filled = labels.copy()
    for plane in np.ndindex(labels.shape[:2]):
        window = _bounding(labels[plane] == Label.LV)
        if window is not None:
            view = filled[plane][window]
            view[ndimage.binary_fill_holes(view == Label.LV)] = Label.LV
    return filled


def cyclic_median(values: NDArray[np.float64], width: int = 5) -> NDArray[np.float64]:
    """Running median over the cyclic first axis, ignoring NaN; values stay as they are for fewer than 8 phases."""
    if len(values) < 8:
        return values
    shifts = np.stack([np.roll(values, shift, axis=0) for shift in range(-(width // 2), width // 2 + 1)])
    shifts = np.where(np.isnan(values), np.nan, shifts)
    known = ~np.isnan(values)
    out = np.full_like(values, np.nan)
    out[known] = np.nanmedian(shifts[:, known], axis=0)
    return out


def _bounding(mask: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _ring_fraction(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Fraction of the pixels that touch the cavity from outside (4-neighbours) that are myocardium, (T, S)."""
    cavity = np.pad(labels == Label.LV, ((0, 0), (0, 0), (1, 1), (1, 1)))
    grown = cavity.copy()
    grown[..., 1:, :] |= cavity[..., :-1, :]
    grown[..., :-1, :] |= cavity[..., 1:, :]
    grown[..., :, 1:] |= cavity[..., :, :-1]
    grown[..., :, :-1] |= cavity[..., :, 1:]
    border = grown & ~cavity
    wall = border[..., 1:-1, 1:-1] & (labels == Label.MYO)
    with np.errstate(invalid="ignore"):
        return np.asarray(wall.sum(axis=(2, 3)) / border.sum(axis=(2, 3)))


def _centres(labels: NDArray[np.uint8], window: tuple[slice, slice], geometry: StackGeometry) -> NDArray[np.float64]:
    """Middle of the left ventricle of each slice along rows and columns, mm, (T, S, 2), from the labels of a window."""
    heart = (labels == Label.LV) | (labels == Label.MYO)
    count = heart.sum(axis=(2, 3))
    rows, columns = (np.arange(one.start, one.stop) for one in window)
    with np.errstate(invalid="ignore"):
        row = heart.sum(axis=3) @ rows / count
        column = heart.sum(axis=2) @ columns / count
    origin = np.stack(
        [geometry.positions @ geometry.row_direction, geometry.positions @ geometry.column_direction], axis=-1
    )
    in_plane = np.stack([column * geometry.pixel_spacing[1], row * geometry.pixel_spacing[0]], axis=-1)
    return np.asarray(in_plane + origin)


def _base_first(lv_mm2: NDArray[np.float64], rv_mm2: NDArray[np.float64], geometry: StackGeometry) -> tuple[bool, bool]:
    """Decide which end is the base: both cavities grow toward it, and the apex lies left, in front and below.

    Areas come first, since the geometry may be wrong in derived data and is mirrored in dextrocardia; the geometry
    decides where the areas do not say.
    """
    toward_last = np.arange(lv_mm2.shape[1], dtype=np.float64)
    lv_trend, rv_trend = (_trend(toward_last, areas.mean(axis=0)) for areas in (lv_mm2, rv_mm2))
    # The RV counts twice: it ends well before the apex, while a stack that misses the apex hides the LV's taper.
    # Fragments of it say nothing.
    rv_weight = 2.0 if rv_mm2.sum() >= RV_TO_LV_MIN * lv_mm2.sum() else 0.0
    by_areas = (lv_trend + rv_weight * rv_trend) / (1.0 + rv_weight)
    by_geometry = float(-geometry.normal @ LONG_AXIS)
    toward_base = by_areas + 0.25 * by_geometry
    doubtful = by_areas * by_geometry < 0 and abs(by_geometry) > 0.3
    return toward_base < 0, doubtful


def _trend(position: NDArray[np.float64], area: NDArray[np.float64]) -> float:
    """Correlation of area and position over the slices with area, −1 … 1; 0 when there is no trend to see."""
    seen = area > 0
    if seen.sum() < 2 or np.ptp(area[seen]) == 0:
        return 0.0
    return float(np.corrcoef(position[seen], area[seen])[0, 1])


def _above_base(lv_mm2: NDArray[np.float64], base_first: bool) -> NDArray[np.bool_]:
    """Slices at the basal end, before the first that is large or contracts, (S,)."""
    above = np.zeros(lv_mm2.shape[1], dtype=bool)
    total = lv_mm2.sum(axis=1)
    # A quarter of the phases around either extreme: a single phase of a small structure is noise.
    few = max(len(total) // 4, 1) if len(total) > 1 else 0
    if few == 0:
        return above
    order = np.argsort(total, kind="stable")
    at_es, at_ed = lv_mm2[order[:few]].mean(axis=0), lv_mm2[order[-few:]].mean(axis=0)
    for index in range(len(above)) if base_first else range(len(above) - 1, -1, -1):
        if at_ed[index] == at_es[index] == 0:
            continue
        if at_ed[index] > ATRIAL_AREA_MAX * at_ed.max() or at_es[index] < at_ed[index]:
            break
        above[index] = True
    return above


def _counted(cavity: NDArray[np.bool_], ring: NDArray[np.float64], base_first: bool) -> NDArray[np.bool_]:
    """Leave out slices at the basal end until one is ringed by enough myocardium; all others with cavity count."""
    counted = cavity.copy()
    order = range(cavity.shape[1]) if base_first else range(cavity.shape[1] - 1, -1, -1)
    for phase in range(len(cavity)):
        for index in order:
            if not cavity[phase, index]:
                continue
            if ring[phase, index] >= MYOCARDIAL_RING_MIN:
                break
            counted[phase, index] = False
    return counted
