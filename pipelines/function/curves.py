"""Cyclic volume curves: smoothing, end diastole and end systole, rates of filling and ejection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.signal import savgol_filter

from pipelines.cine.stack import CineStack
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import Keyframes, VolumeCurve

__all__ = ["Rates", "SmoothedCurve", "find_keyframes", "rates", "smooth", "volume_curve"]

SMOOTHED_FROM_PHASES = 8
"""Fewer phases are too coarse to smooth: the values stand as measured."""
OUTLIER_SPREADS = 5.0
OUTLIER_RANGE = 0.15
"""A phase is an outlier beyond this many robust standard deviations and this fraction of the curve's range."""
RATES_FROM_PHASES = 12
"""Fewer phases do not resolve the slopes of the curve."""


@dataclass(frozen=True, slots=True, eq=False)
class SmoothedCurve:
    """A smoothed cyclic curve and the phases that did not fit it.

    Attributes
    ----------
    values : (T,) float64
    outliers : (T,) bool
        Single phases far from their neighbours; they had no part in ``values``.
    """

    values: NDArray[np.float64]
    outliers: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rates:
    """Peak rates of a volume curve, ml/s, both positive, with their delay from the R wave, ms."""

    ejection_ml_s: float
    ejection_ms: float
    filling_ml_s: float
    filling_ms: float


def smooth(ml: NDArray[np.float64], *, cyclic: bool = True) -> SmoothedCurve:
    """Smooth a volume curve, robust against single-phase outliers.

    A phase far from the cubic through its four neighbours, by the median absolute deviation of all phases (Hampel, JASA
    1974;69:383), is replaced by it. Then a Savitzky–Golay filter of second order (Anal Chem 1964;36:1627) over five
    phases (seven from 40 phases on) keeps the height of the extrema, exactly so for a parabola.

    Parameters
    ----------
    ml : (T,) float64
    cyclic : bool
        False for prospective gating, where the last phase is not followed by the first.
    """
    kept = np.array(ml, dtype=np.float64)
    outliers = np.zeros(len(kept), dtype=bool)
    if len(kept) < SMOOTHED_FROM_PHASES:
        return SmoothedCurve(kept, outliers)
    for _ in range(len(kept) // 6):
        # One at a time, the worst first: an outlier spoils the prediction of its neighbours too.
        residual = kept - _from_neighbours(kept, cyclic=cyclic)
        worst = int(np.argmax(np.abs(residual)))
        spread = 1.4826 * float(np.median(np.abs(residual)))
        if abs(residual[worst]) <= max(OUTLIER_SPREADS * spread, OUTLIER_RANGE * float(np.ptp(kept))):
            break
        outliers[worst] = True
        kept[worst] -= residual[worst]
    width = 7 if len(kept) >= 40 else 5
    values = savgol_filter(kept, width, polyorder=2, mode="wrap" if cyclic else "interp")
    return SmoothedCurve(np.asarray(values), outliers)


def _from_neighbours(ml: NDArray[np.float64], *, cyclic: bool) -> NDArray[np.float64]:
    """Each value as the cubic through its four neighbours predicts it; open ends predict themselves."""
    before, after = np.roll(ml, 1), np.roll(ml, -1)
    predicted = (4.0 * (before + after) - np.roll(ml, 2) - np.roll(ml, -2)) / 6.0
    if not cyclic:
        predicted[[0, 1, -2, -1]] = ml[[0, 1, -2, -1]]
    return np.asarray(predicted)


def phase_times_ms(stack: CineStack) -> tuple[NDArray[np.float64], float | None]:
    """Delay of each phase from the R wave on the common RR interval, ms (T,), and that interval, ms.

    Slices differ in RR interval (one breath hold each), so times are averaged as fractions of the interval.
    """
    intervals = stack.rr_intervals
    known = np.isfinite(intervals) & (intervals > 0)
    if not known.any():
        return np.asarray(stack.trigger_times.mean(axis=1)), None
    period = float(intervals[known].mean())
    return np.asarray((stack.trigger_times[:, known] / intervals[known]).mean(axis=1) * period), period


def volume_curve(stack: CineStack, ml: NDArray[np.float64]) -> VolumeCurve:
    """Volume curve of a chamber, with times.

    Parameters
    ----------
    stack : CineStack
    ml : (T,) float64
    """
    times, period = phase_times_ms(stack)
    return VolumeCurve(times, np.asarray(ml, dtype=np.float64), smooth(ml, cyclic=stack.retrospective).values, period)


def find_keyframes(stack: CineStack, lv_ml: NDArray[np.float64]) -> Keyframes:
    """End diastole and end systole: maximum and minimum of the smoothed LV volume curve, single outliers excluded.

    Raises
    ------
    AnalysisRefused
        Fewer than two phases.
    """
    if len(lv_ml) < 2:
        raise AnalysisRefused(
            RefusalReason.TOO_FEW_PHASES,
            "The short-axis stack has a single cardiac phase: end diastole and end systole cannot be told.",
        )
    smoothed = smooth(lv_ml, cyclic=stack.retrospective)
    times, _ = phase_times_ms(stack)
    end_diastole = int(np.argmax(np.where(smoothed.outliers, -np.inf, smoothed.values)))
    end_systole = int(np.argmin(np.where(smoothed.outliers, np.inf, smoothed.values)))
    if len(lv_ml) < SMOOTHED_FROM_PHASES:
        method = f"largest and smallest LV volume of {len(lv_ml)} phases"
    else:
        method = "maximum and minimum of the smoothed cyclic LV volume curve"
    return Keyframes(end_diastole, end_systole, float(times[end_diastole]), float(times[end_systole]), method)


def rates(curve: VolumeCurve, *, cyclic: bool = True) -> Rates | None:
    """Peak ejection and peak filling rate, from the derivative of a cubic spline through the smoothed curve.

    The spline is periodic and evaluated between the phases, so the result does not hang on the phase grid.

    Returns
    -------
    Rates or None
        ``None`` for fewer than 12 phases, an unknown RR interval, or times that do not ascend within it.
    """
    times, period = curve.times_ms, curve.rr_ms
    if len(times) < RATES_FROM_PHASES or period is None or not np.all(np.diff(times) > 0):
        return None
    if cyclic:
        if times[0] + period <= times[-1]:
            return None
        knots = np.append(times, times[0] + period)
        spline = CubicSpline(knots, np.append(curve.smoothed_ml, curve.smoothed_ml[0]), bc_type="periodic")
    else:
        knots = times
        spline = CubicSpline(knots, curve.smoothed_ml)
    fine = np.linspace(knots[0], knots[-1], 20 * len(knots))
    slope = spline(fine, 1) * 1000.0
    fastest_out, fastest_in = int(np.argmin(slope)), int(np.argmax(slope))
    wrap = period if cyclic else np.inf
    return Rates(
        float(max(-slope[fastest_out], 0.0)),
        float(fine[fastest_out] % wrap),
        float(max(slope[fastest_in], 0.0)),
        float(fine[fastest_in] % wrap),
    )
