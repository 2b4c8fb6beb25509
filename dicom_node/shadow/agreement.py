"""How well predicted late enhancement agrees with acquired late enhancement over many studies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, t

from pipelines.statistics import Calibration, Estimate, auc, auc_interval, brier_score, calibration
from storage.shadow import KeptComparison

__all__ = ["Agreement", "agreement", "by_month", "by_scanner"]

_RESAMPLES = 500
_FEWEST_FOR_CALIBRATION = 10
"""Studies of each outcome."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Figures of some studies; ``None`` where they do not determine one.

    Attributes
    ----------
    studies, with_infarct : int
        Compared, and how many of them show an infarct on the acquired images.
    r : Estimate or None
        Pearson's correlation of predicted and acquired extent, with Fisher's interval.
    bias : Estimate or None
        Mean of predicted less acquired extent, percentage points, with its interval.
    limits : (float, float) or None
        Bland and Altman's limits of agreement: bias ± 1.96 standard deviations of the differences.
    auc : Estimate or None
        Of the study's probability against an infarct on the acquired images; DeLong's interval.
    auc_segment : Estimate or None
        Of the probabilities of AHA segments; studies are drawn for its interval, since segments of one heart go
        together.
    brier : float or None
        Of the study's probability.
    calibration : Calibration or None
        Of the study's probability, from ten studies of each outcome on.
    """

    studies: int
    with_infarct: int
    r: Estimate | None
    bias: Estimate | None
    limits: tuple[float, float] | None
    auc: Estimate | None
    auc_segment: Estimate | None
    brier: float | None
    calibration: Calibration | None


def agreement(comparisons: Sequence[KeptComparison]) -> Agreement:
    """Figures of comparisons, one a study."""
    predicted = np.array([one.predicted_percent for one in comparisons], np.float64)
    acquired = np.array([one.acquired_percent for one in comparisons], np.float64)
    present = np.array([one.present for one in comparisons], bool)
    probability = np.array([one.probability for one in comparisons], np.float64)
    both = bool(present.any() and not present.all())
    bias, limits = _bland_altman(predicted - acquired)
    enough = min(int(present.sum()), int((~present).sum())) >= _FEWEST_FOR_CALIBRATION
    return Agreement(
        studies=len(comparisons),
        with_infarct=int(present.sum()),
        r=_correlation(predicted, acquired),
        bias=bias,
        limits=limits,
        auc=auc_interval(present, probability) if both else None,
        auc_segment=_segments(comparisons),
        brier=brier_score(present, probability) if len(comparisons) else None,
        calibration=calibration(present, probability) if enough and np.ptp(probability) > 0 else None,
    )


def by_scanner(comparisons: Sequence[KeptComparison]) -> dict[str, Agreement]:
    """Figures of each scanner, by its name."""
    return _grouped(comparisons, lambda one: one.scanner)


def by_month(comparisons: Sequence[KeptComparison]) -> dict[str, Agreement]:
    """Figures of each month, ``YYYY-MM``, in order."""
    return _grouped(comparisons, lambda one: f"{one.compared_at:%Y-%m}")


def _grouped(comparisons: Sequence[KeptComparison], of: Callable[[KeptComparison], str]) -> dict[str, Agreement]:
    together: dict[str, list[KeptComparison]] = {}
    for one in comparisons:
        together.setdefault(of(one), []).append(one)
    return {name: agreement(together[name]) for name in sorted(together)}


def _correlation(predicted: NDArray[np.float64], acquired: NDArray[np.float64]) -> Estimate | None:
    if len(predicted) < 3 or np.ptp(predicted) == 0 or np.ptp(acquired) == 0:
        return None
    found = pearsonr(predicted, acquired)
    if len(predicted) < 4:
        # Fisher's interval needs n - 3 degrees of freedom.
        return Estimate(float(found.statistic), math.nan, math.nan)
    interval = found.confidence_interval()
    return Estimate(float(found.statistic), float(interval.low), float(interval.high))


def _bland_altman(differences: NDArray[np.float64]) -> tuple[Estimate | None, tuple[float, float] | None]:
    """Bias and limits of agreement (Bland & Altman, Lancet 1986)."""
    count = differences.size
    if count < 2:
        return None, None
    bias, deviation = float(differences.mean()), float(differences.std(ddof=1))
    half = float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
    return Estimate(bias, bias - half, bias + half), (bias - 1.96 * deviation, bias + 1.96 * deviation)


def _segments(comparisons: Sequence[KeptComparison]) -> Estimate | None:
    """Area under the curve of segments, with a bootstrap over studies."""
    studies = [
        (
            np.array([part.enhanced for part in one.segments.values()], bool),
            np.array([part.probability for part in one.segments.values()], np.float64),
        )
        for one in comparisons
        if one.segments
    ]
    value = _joined(studies)
    if value is None:
        return None
    if len(studies) < 3:
        return Estimate(value, math.nan, math.nan)
    draws = np.random.default_rng(0).integers(len(studies), size=(_RESAMPLES, len(studies)))
    areas = [area for draw in draws if (area := _joined([studies[index] for index in draw])) is not None]
    low, high = np.quantile(areas, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _joined(studies: Sequence[tuple[NDArray[np.bool_], NDArray[np.float64]]]) -> float | None:
    if not studies:
        return None
    outcomes = np.concatenate([one for one, _ in studies])
    if outcomes.all() or not outcomes.any():
        return None
    return auc(outcomes, np.concatenate([scores for _, scores in studies]))
