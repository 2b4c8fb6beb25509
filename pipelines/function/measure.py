"""Function of both ventricles from the measures of the slices."""

from __future__ import annotations

import numpy as np

from pipelines.cine.stack import CineStack, StudyContext
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.body import body_surface_area
from pipelines.function.curves import rates, volume_curve
from pipelines.function.findings import (
    BsaFormula,
    Chamber,
    ChamberFunction,
    Keyframes,
    VentricularFunction,
)
from pipelines.function.segments import segmental_wall
from pipelines.function.slices import SliceMeasures
from pipelines.function.uncertainty import (
    KeyPhase,
    difference_bounds,
    ejection_fraction_bounds,
    mass_bounds,
    volume_bounds,
    volume_errors,
)
from pipelines.tissue import MYOCARDIAL_DENSITY_G_ML

__all__ = ["measure_function"]

HEART_RATE_BPM = (20.0, 250.0)
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
    lv = _chamber(Chamber.LV, stack, slices, keyframes, heart_rate, bsa)
    rv = None
    if slices.rv_ml[keyframes.end_diastole] >= RV_MIN_ML:
        rv = _chamber(Chamber.RV, stack, slices, keyframes, heart_rate, bsa)
    mass = slices.myo_ml * MYOCARDIAL_DENSITY_G_ML
    counted = np.flatnonzero(slices.counted[keyframes.end_diastole])
    base, apex = (counted[0], counted[-1]) if slices.base_first else (counted[-1], counted[0])
    return VentricularFunction(
        lv=lv,
        rv=rv,
        lv_mass_g=float(mass[keyframes.end_diastole]),
        lv_mass_interval_g=mass_bounds(float(mass[keyframes.end_diastole])),
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
    slices: SliceMeasures,
    keyframes: Keyframes,
    heart_rate: float | None,
    bsa: float | None,
) -> ChamberFunction:
    ml = slices.lv_ml if chamber is Chamber.LV else slices.rv_ml
    curve = volume_curve(stack, ml)
    edv, esv = float(ml[keyframes.end_diastole]), float(ml[keyframes.end_systole])
    stroke = edv - esv
    output = None if heart_rate is None else stroke * heart_rate / 1000.0
    peak = rates(curve, cyclic=stack.retrospective)
    off = volume_errors(chamber, slices, curve, keyframes)
    edv_bounds, esv_bounds = (volume_bounds(chamber, phase, off[phase]) for phase in KeyPhase)
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
        stroke_volume_interval_ml=difference_bounds(edv_bounds, esv_bounds, edv, esv),
        ejection_fraction_interval_percent=ejection_fraction_bounds(edv_bounds, esv_bounds, edv, esv),
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
    if slices.base_views:
        views = " and ".join(slices.base_views)
        notes.append(
            f"The base of the left ventricle is cut at the valve plane seen on {views} at each phase; a slice that the "
            "plane crosses counts by the part below it. The right ventricle is not cut: its outflow tract lies above "
            "its valve."
        )
        for name, phase in (("diastole", keyframes.end_diastole), ("systole", keyframes.end_systole)):
            if (slices.completed & slices.counted)[phase].any():
                numbers = ", ".join(str(i + 1) for i in np.flatnonzero((slices.completed & slices.counted)[phase]))
                notes.append(
                    f"Slice {numbers} at end {name}: below the valve plane, but no ventricle was found there; it "
                    "counts with the contour of the slice next to it towards the apex."
                )
    else:
        notes.append("The base was decided on the short axis alone: no long-axis view showed the valve plane.")
    if slices.above_base.any():
        numbers = ", ".join(str(i + 1) for i in np.flatnonzero(slices.above_base))
        notes.append(f"Slice {numbers} left out: its cavity does not shrink in systole, so it lies above the valves.")
    left_out = (slices.lv_mm2 > 0) & (not slices.base_views) & ~slices.counted & ~slices.above_base
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
