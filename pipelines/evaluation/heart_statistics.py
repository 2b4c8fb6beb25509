"""Figures of probabilities and extents over hearts; intervals are 95 % and come from hearts drawn with replacement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.statistics import auc

__all__ = ["agreement", "area", "area_with_interval", "exact_interval", "interval", "mean", "reliability", "resampled"]

_BOOTSTRAP = 1000


def mean(values: Sequence[float]) -> float:
    """Mean; NaN of none."""
    return float(np.mean(values)) if len(values) else float("nan")


def resampled(count: int) -> list[NDArray[np.intp]]:
    """Draws with replacement of as many hearts, (count,) each; the same for the same number."""
    rng = np.random.default_rng(count)
    return [rng.integers(count, size=count) for _ in range(_BOOTSTRAP)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of the finite values; NaN of none."""
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return (float("nan"), float("nan"))
    return (float(np.percentile(known, 2.5)), float(np.percentile(known, 97.5)))


def agreement(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Pearson's r, bias and limits of agreement of synthetic and true extent."""
    values = np.array(pairs, np.float64).reshape(-1, 2)

    def correlation(chosen: NDArray[np.float64]) -> float:
        if len(chosen) < 3 or not chosen.std(axis=0).all():
            return float("nan")
        return float(np.corrcoef(chosen[:, 0], chosen[:, 1]).item(1))

    difference = values[:, 1] - values[:, 0]
    spread = float(difference.std(ddof=1)) if len(values) > 1 else float("nan")
    bias = mean(difference.tolist())
    return {
        "r": correlation(values),
        "r_interval": interval([correlation(values[chosen]) for chosen in resampled(len(values))] if pairs else []),
        "bias_percent": bias,
        "limits_percent": (bias - 1.96 * spread, bias + 1.96 * spread),
        "hearts": len(values),
    }


def area_with_interval(groups: Sequence[Sequence[tuple[bool, float]]]) -> dict[str, Any]:
    """Area under the ROC curve of everything in the groups, with an interval from resampling the groups (hearts)."""
    return {
        "auc": area(groups),
        "interval": interval([area([groups[index] for index in chosen]) for chosen in resampled(len(groups))])
        if groups
        else (float("nan"), float("nan")),
        "positive": sum(pair[0] for group in groups for pair in group),
        "cases": sum(len(group) for group in groups),
    }


def area(groups: Sequence[Sequence[tuple[bool, float]]]) -> float:
    """Area under the ROC curve of everything in the groups; NaN where all has the same truth."""
    flat = [pair for group in groups for pair in group]
    truth = [bool(pair[0]) for pair in flat]
    if all(truth) or not any(truth):
        return float("nan")
    return auc(truth, [pair[1] for pair in flat])


def reliability(pairs: Sequence[tuple[bool, float]]) -> dict[str, Any]:
    """Brier score, expected calibration error of five bins of equal count, and the bins."""
    if not pairs:
        return {"brier": float("nan"), "expected_calibration_error": float("nan"), "bins": []}
    truth = np.array([pair[0] for pair in pairs], np.float64)
    probability = np.array([pair[1] for pair in pairs], np.float64)
    parts = np.array_split(np.argsort(probability, kind="stable"), min(5, len(pairs)))
    bins = [(float(probability[part].mean()), float(truth[part].mean()), len(part)) for part in parts]
    return {
        "brier": float(np.mean(np.square(probability - truth))),
        "expected_calibration_error": sum(abs(p - t) * n for p, t, n in bins) / len(pairs),
        "bins": [{"predicted": p, "observed": t, "cases": n} for p, t, n in bins],
    }


def exact_interval(hits: Sequence[bool]) -> tuple[float, float]:
    """95 % interval of a share after Clopper and Pearson; NaN of none."""
    from scipy.stats import binomtest

    if not hits:
        return (float("nan"), float("nan"))
    found = binomtest(sum(hits), len(hits)).proportion_ci(method="exact")
    return (float(found.low), float(found.high))
