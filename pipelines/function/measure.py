"""Function of both ventricles from the measures of the slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, StudyContext
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.body import body_surface_area
from pipelines.function.curves import rates, volume_curve
from pipelines.function.findings import (
    BsaFormula,
    Chamber,
    ChamberFunction,
    Interval,
    Keyframes,
    VentricularFunction,
    VolumeCurve,
)
from pipelines.function.segments import segmental_wall
from pipelines.function.slices import SliceMeasures
from pipelines.tissue import MYOCARDIAL_DENSITY_G_ML

__all__ = ["measure_function"]

HEART_RATE_BPM = (20.0, 250.0)
DOUBTFUL_RING = (0.25, 0.75)
"""A basal slice whose ring fraction lies between could have been counted either way."""
RV_MIN_ML = 5.0
"""Less than this at end diastole is no right ventricle but specks."""


def measure_function(
    stack: CineStack,
    slices: SliceMeasures,
    keyframes: Keyframes,
    context: StudyContext,
    formula: BsaFormula = BsaFormula.MOSTELLER,
) -> VentricularFunction:
    """Volumes, ejection fraction, output, mass and wall of both ventricles.

    Volumes are those of the contours at ED and ES, so that a reader can check them; the smoothed curve chooses the
    phases and gives the rates. Both ventricles are read at the LV's ED and ES, where their contours are shown.

    Parameters
    ----------
    stack : CineStack
    slices : SliceMeasures
    keyframes : Keyframes
    context : StudyContext
        Height, weight and heart rate where known.
    formula : BsaFormula

    Raises
    ------
    AnalysisRefused
        No LV cavity is counted at end diastole.
    """
    if not slices.counted[keyframes.end_diastole].any():
        raise AnalysisRefused(
            RefusalReason.NO_VENTRICLE_FOUND,
            "No slice shows a left ventricular cavity enclosed by myocardium at end diastole.",
        )
    heart_rate = _heart_rate(stack, context)
    bsa = body_surface_area(context.height_m, context.weight_kg, formula)
    lv_base = _base_error(np.where(slices.counted, slices.lv_mm2, 0.0), slices)
    lv = _chamber(Chamber.LV, stack, slices.lv_ml, lv_base[:, None] + _basal_doubt(slices), keyframes, heart_rate, bsa)
    rv = None
    if slices.rv_ml[keyframes.end_diastole] >= RV_MIN_ML:
        rv_base = np.repeat(_base_error(slices.rv_mm2, slices)[:, None], 2, axis=1)
        rv = _chamber(Chamber.RV, stack, slices.rv_ml, rv_base, keyframes, heart_rate, bsa)
    mass = slices.myo_ml * MYOCARDIAL_DENSITY_G_ML
    counted = np.flatnonzero(slices.counted[keyframes.end_diastole])
    base, apex = (counted[0], counted[-1]) if slices.base_first else (counted[-1], counted[0])
    return VentricularFunction(
        lv=lv,
        rv=rv,
        lv_mass_g=float(mass[keyframes.end_diastole]),
        lv_mass_index_g_m2=None if bsa is None else float(mass[keyframes.end_diastole]) / bsa,
        lv_mass_curve_g=mass,
        wall=segmental_wall(stack, slices, keyframes),
        keyframes=keyframes,
        heart_rate_bpm=heart_rate,
        bsa_m2=bsa,
        bsa_formula=None if bsa is None else formula,
        counted_slices=slices.counted,
        base_slice=int(base),
        apex_slice=int(apex),
        notes=tuple(_notes(stack, slices, keyframes, context, bsa, heart_rate)),
    )


def _chamber(
    chamber: Chamber,
    stack: CineStack,
    ml: NDArray[np.float64],
    base_error_ml: NDArray[np.float64],
    keyframes: Keyframes,
    heart_rate: float | None,
    bsa: float | None,
) -> ChamberFunction:
    curve = volume_curve(stack, ml)
    edv, esv = float(ml[keyframes.end_diastole]), float(ml[keyframes.end_systole])
    stroke = edv - esv
    output = None if heart_rate is None else stroke * heart_rate / 1000.0
    peak = rates(curve, cyclic=stack.retrospective)
    edv_bounds, esv_bounds = (
        _bounds(curve, base_error_ml, phase) for phase in (keyframes.end_diastole, keyframes.end_systole)
    )
    return ChamberFunction(
        chamber=chamber,
        edv_ml=edv,
        esv_ml=esv,
        stroke_volume_ml=stroke,
        ejection_fraction_percent=100.0 * stroke / edv if edv > 0 else 0.0,
        cardiac_output_l_min=output,
        edv_index_ml_m2=_per(edv, bsa),
        esv_index_ml_m2=_per(esv, bsa),
        stroke_volume_index_ml_m2=_per(stroke, bsa),
        cardiac_index_l_min_m2=_per(output, bsa),
        peak_ejection_rate_ml_s=None if peak is None else peak.ejection_ml_s,
        peak_filling_rate_ml_s=None if peak is None else peak.filling_ml_s,
        curve=curve,
        edv_interval_ml=edv_bounds,
        esv_interval_ml=esv_bounds,
        ejection_fraction_interval_percent=_ejection_fraction_bounds(edv, esv, edv_bounds, esv_bounds),
    )


def _per(value: float | None, bsa: float | None) -> float | None:
    return None if value is None or bsa is None else value / bsa


def _heart_rate(stack: CineStack, context: StudyContext) -> float | None:
    """Heart rate during the cine itself where its RR intervals are known, else that of the header; 1/min."""
    known = stack.rr_intervals[np.isfinite(stack.rr_intervals) & (stack.rr_intervals > 0)]
    candidates = [60000.0 / float(known.mean())] if len(known) else []
    if context.heart_rate_bpm is not None:
        candidates.append(context.heart_rate_bpm)
    return next((rate for rate in candidates if HEART_RATE_BPM[0] <= rate <= HEART_RATE_BPM[1]), None)


def _base_error(mm2: NDArray[np.float64], slices: SliceMeasures) -> NDArray[np.float64]:
    """95 % error of a volume, ml, (T,), because the base lies anywhere within half a slice of the last one with cavity.

    The largest error of summing slices: a uniform distribution over one interval has a standard deviation of
    interval ÷ √12, and the ventricle has its largest area there.
    """
    order = slices.from_base()
    volumes = (mm2 * slices.intervals_mm / 1000.0)[:, order]
    basal = np.argmax(volumes > 0, axis=1)
    return np.asarray(1.96 / np.sqrt(12.0) * volumes[np.arange(len(volumes)), basal])


def _basal_doubt(slices: SliceMeasures) -> NDArray[np.float64]:
    """Volume of basal slices that could have been counted either way, ml, (T, 2): if left out, if added."""
    volumes = slices.lv_mm2 * slices.intervals_mm / 1000.0
    doubt = np.zeros((len(volumes), 2))
    for phase in range(len(volumes)):
        for index in slices.from_base():
            if volumes[phase, index] == 0:
                continue
            if not slices.ring[phase, index] <= DOUBTFUL_RING[1]:
                break
            if slices.counted[phase, index]:
                doubt[phase, 0] += volumes[phase, index]
            elif slices.ring[phase, index] >= DOUBTFUL_RING[0]:
                doubt[phase, 1] += volumes[phase, index]
    return doubt


def _bounds(curve: VolumeCurve, base_error_ml: NDArray[np.float64], phase: int) -> Interval:
    """95 % bounds: scatter of the curve about its smoothed course, in quadrature with the error of the base."""
    scatter = 1.96 * float(np.sqrt(np.mean((curve.ml - curve.smoothed_ml) ** 2)))
    below, above = base_error_ml[phase]
    value = float(curve.ml[phase])
    return Interval(max(value - float(np.hypot(scatter, below)), 0.0), value + float(np.hypot(scatter, above)))


def _ejection_fraction_bounds(edv: float, esv: float, d: Interval, s: Interval) -> Interval | None:
    """Bounds of 100·(1 − ESV/EDV), the errors of both volumes taken as independent."""
    if edv <= 0:
        return None
    value = 100.0 * (1.0 - esv / edv)
    lower = 100.0 * float(np.hypot((s.upper - esv) / edv, esv * (edv - d.lower) / edv**2))
    upper = 100.0 * float(np.hypot((esv - s.lower) / edv, esv * (d.upper - edv) / edv**2))
    return Interval(value - lower, min(value + upper, 100.0))


def _notes(
    stack: CineStack,
    slices: SliceMeasures,
    keyframes: Keyframes,
    context: StudyContext,
    bsa: float | None,
    heart_rate: float | None,
) -> list[str]:
    notes = [
        "Papillary muscles and trabeculae are counted in the cavity, not in the mass.",
        f"End diastole is phase {keyframes.end_diastole + 1}, end systole phase {keyframes.end_systole + 1} "
        f"of {stack.phases}: {keyframes.method}; the RV is read at the same phases.",
    ]
    if slices.above_base.any():
        numbers = ", ".join(str(i + 1) for i in np.flatnonzero(slices.above_base))
        notes.append(f"Slice {numbers} left out: its cavity does not shrink in systole, so it lies above the valves.")
    left_out = (slices.lv_mm2 > 0) & ~slices.counted & ~slices.above_base
    for name, phase in (("diastole", keyframes.end_diastole), ("systole", keyframes.end_systole)):
        if left_out[phase].any():
            numbers = ", ".join(str(i + 1) for i in np.flatnonzero(left_out[phase]))
            notes.append(f"Basal slice {numbers} left out at end {name}: less than half of it is ringed by myocardium.")
    if bsa is None:
        known = context.height_m is not None and context.weight_kg is not None
        notes.append(
            f"Not indexed by body surface area: height or weight {'is implausible' if known else 'is not known'}."
        )
    if heart_rate is None:
        notes.append("No cardiac output: the heart rate is not known.")
    if not stack.retrospective:
        notes.append(
            "Prospective gating: late diastole is missing, so EDV may be too small and the curve is not closed."
        )
    if slices.orientation_doubtful:
        notes.append("Which end is the base was told from the size of the ventricles, against the patient orientation.")
    return notes
