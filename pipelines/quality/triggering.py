"""Whether the slices of the short axis fill and empty together, and whether the cycle closes.

Each slice is a breath-hold of its own. One that a scanner triggered wrongly begins at another moment of the cycle, or
mixes moments, and is out of step with its neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.function.slices import SliceMeasures
from pipelines.long_axis.in_step import PHASES_MIN, delay_behind
from pipelines.quality.findings import Grade, QualityCheck, QualityFinding
from pipelines.quality.limits import QualityLimits

__all__ = ["delays_of_slices", "jump_at_the_end", "triggering_finding"]

LEAST_CORRELATION = 0.7
"""Of the area of a slice with that of its neighbours at the delay at which both agree most: below, they are not of one
beat."""
_LEAST_MM2 = 80.0


def delays_of_slices(slices: SliceMeasures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much later each slice fills and empties than the two slices beside it, by the area of the left ventricle.

    Beside it, and not all: contraction may run from base to apex, but not to and fro. Slices at either end, and those
    whose cavity closes, are not judged. None is judged by one that the base moves through, which is not counted at all
    phases or grows while the ventricle empties: there outflow tract or atrium take the place of the ventricle.

    Returns
    -------
    delays : (S,) float64
        Share of the cycle; see :func:`pipelines.long_axis.in_step.delay_behind`. NaN where it was not judged.
    correlations : (S,) float64
        At these delays.
    """
    areas = slices.lv_mm2
    seen = np.asarray((areas >= _LEAST_MM2).all(axis=0) & slices.counted.any(axis=0))
    whole = (areas * slices.counted).sum(axis=1)
    empties = np.array([_correlation(area, whole) > 0 for area in areas.T])
    beside_others = seen & slices.counted.all(axis=0) & empties
    delays, correlations = np.full(len(seen), np.nan), np.full(len(seen), np.nan)
    for index in range(1, len(seen) - 1):
        if seen[index] and beside_others[[index - 1, index + 1]].all():
            beside = areas[:, index - 1] + areas[:, index + 1]
            delays[index], correlations[index] = delay_behind(beside, areas[:, index])
    return delays, correlations


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Of two curves; 0 where one of them does not change."""
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) > 0 and np.ptp(other) > 0 else 0.0


def jump_at_the_end(stack: CineStack, slices: SliceMeasures) -> float | None:
    """How much the heart changes from the last phase to the first, over the most that it does between two phases.

    Root mean square of grey values where the ventricles are at any phase; ``None`` where nothing changes between two
    phases.
    """
    heart = (slices.labels > 0).any(axis=0)
    inside = stack.pixels[:, heart]
    steps = np.array(
        [np.square(inside[(phase + 1) % stack.phases] - inside[phase]).mean() for phase in range(stack.phases)]
    )
    most = float(steps[:-1].max())
    return float(np.sqrt(steps[-1] / most)) if most > 0 else None


def triggering_finding(stack: CineStack, slices: SliceMeasures, limits: QualityLimits) -> QualityFinding | None:
    """Whether slices are out of step with those beside them, or the cycle does not close.

    Returns
    -------
    QualityFinding or None
        ``None`` with fewer phases than tell a delay, and where no slice lies between two others.
    """
    if stack.phases < PHASES_MIN:
        return None
    delays, correlations = delays_of_slices(slices)
    judged = np.isfinite(delays)
    # Without gating over the whole cycle there is nothing to close, which is a finding of its own.
    jump = jump_at_the_end(stack, slices) if stack.retrospective else None
    if not judged.any():
        return None
    percent = 100 * float(np.abs(delays[judged]).max())
    limit = limits.slice_delay_percent
    late = np.nan_to_num(100 * np.abs(delays)) > limit.poor
    unlike = np.nan_to_num(correlations, nan=1.0) < LEAST_CORRELATION
    out_of_step = tuple(int(index) for index in np.flatnonzero(late | unlike))
    grade = max(limit.grade(percent), Grade.POOR if unlike.any() else Grade.EXCELLENT)
    sentences = []
    if out_of_step:
        numbers = ", ".join(str(index + 1) for index in out_of_step)
        apart = f"up to {percent:.0f} % of the cycle apart" if late.any() else "their areas do not go together"
        sentences.append(
            f"Slice {numbers} does not fill and empty with the slices beside it ({apart}): the trigger failed there, "
            "or its contours are wrong."
        )
    else:
        sentences.append("Every slice fills and empties with those beside it.")
    if jump is not None:
        closing = limits.jump_at_the_end.grade(jump)
        grade = max(grade, closing)
        if closing >= Grade.POOR:
            sentences.append(
                f"The cycle does not close: from the last phase to the first the heart changes {jump:.1f} times as "
                "much as between any others."
            )
    return QualityFinding(QualityCheck.TRIGGERING, grade, " ".join(sentences), percent, "%", limit.poor, out_of_step)
