"""Noise of the images: how far blood stands out from muscle against what changes from phase to phase at random."""

from __future__ import annotations

import numpy as np

from pipelines.cine.stack import CineStack
from pipelines.function.slices import SliceMeasures
from pipelines.quality.findings import Grade, QualityCheck, QualityFinding
from pipelines.quality.limits import QualityLimits
from pipelines.segmentation.labels import Label

__all__ = ["contrast_to_noise", "noise_finding"]

FEWEST_PHASES = 12
"""Fewer leave too few harmonics above those that the heart moves with."""


def contrast_to_noise(stack: CineStack, slices: SliceMeasures) -> float | None:
    """Difference of the medians of blood and wall over the standard deviation of noise in the heart.

    Noise is told from the highest third of the harmonics of the heart rate, in which a heart hardly varies: by their
    mean power at each pixel, and the median over the pixels that show the heart at any phase. Borders that move count
    a little as noise; a scanner that interpolates phases has less of it there, and is taken to be quieter than it is.

    Returns
    -------
    float or None
        ``None`` with fewer phases than tell it, without blood or wall, and where nothing is random.
    """
    if stack.phases < FEWEST_PHASES:
        return None
    blood, wall = (stack.pixels[slices.labels == label] for label in (Label.LV, Label.MYO))
    if not len(blood) or not len(wall):
        return None
    waves = np.fft.rfft(stack.pixels[:, (slices.labels > 0).any(axis=0)].astype(np.float64), axis=0)
    # The last one of an even number of phases has another distribution than the others.
    powers = np.square(np.abs(waves[-(len(waves) // 3) : -1]))
    # The mean of k powers of noise is distributed as Gamma(k) ÷ k, whose median is about 1 − 1 ÷ 3k.
    variance = powers.mean(axis=0) / ((1 - 1 / (3 * len(powers))) * stack.phases)
    noise = float(np.sqrt(np.median(variance)))
    return float(np.median(blood) - np.median(wall)) / noise if noise > 0 else None


def noise_finding(stack: CineStack, slices: SliceMeasures, limits: QualityLimits) -> QualityFinding | None:
    """Whether blood stands out from muscle against the noise; ``None`` where that cannot be told."""
    ratio = contrast_to_noise(stack, slices)
    if ratio is None:
        return None
    limit = limits.contrast_to_noise
    grade = limit.grade(ratio)
    sentence = f"Blood is {ratio:.0f} times the noise brighter than the wall."
    if grade > Grade.EXCELLENT:
        sentence = f"The images are noisy: blood is only {ratio:.0f} times the noise brighter than the wall."
    return QualityFinding(QualityCheck.NOISE, grade, sentence, ratio, "1", limit.poor)
