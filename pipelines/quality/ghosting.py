"""Ghosts: grey values beside the heart that vary with its beat, along the direction of phase encoding alone.

What moves while k-space is filled, by breathing, an irregular beat or a missed trigger, leaves copies of itself along
the phase encoding and none along the frequency encoding. Copies of the beating heart vary with the beat, which air,
lung and chest wall do not; what beats itself beside the heart lies in any direction. So the check needs no air in the
field of view. Two amplitudes tell of them, each as a fraction of the heart's own: how much more of the beat there is
beside the heart along the phase encoding than across it, which smeared copies show, and how much the beat at a fixed
distance from the heart is that of the heart, pixel by pixel, which sharp copies show however restless the tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.fft import irfft, next_fast_len, rfft

from pipelines.cine.stack import CineStack, PhaseEncoding
from pipelines.function.slices import SliceMeasures
from pipelines.quality.findings import Grade, QualityCheck, QualityFinding
from pipelines.quality.limits import QualityLimits

__all__ = ["SHARE_OF_SLICES", "Beat", "beat_of", "ghost_levels", "ghosting_finding"]

HARMONICS = 3
"""Of the heart rate, in which the heart varies; what is above them is taken for noise."""
FEWEST_PHASES = 10
"""Fewer leave too little above the harmonics to tell the noise."""
STRIP_MM = (12.0, 42.0)
"""Distance from the heart between which smeared copies of it are looked for. Nearer, what the segmentation leaves out
of the heart moves with it."""
SHIFTS_MM = (12.0, 60.0)
"""Distances at which sharp copies are looked for."""
TIMES = 3.0
"""Smeared copies count by what they have more than this many times what lies across: organs beside the heart are not
the same in both. Between end diastole and end systole of 80 patients of ACDC the median ratio of both is 1.1, and
within 0.5 and 2.0 in 8 of 10."""
SHARE_OF_SLICES = 1 / 3
_LOUDEST = 3.0
"""Beside the heart, what varies more than this many times the median is brought down to it, so that a vessel or a valve
does not decide what looks like a copy."""
_SHARE_OUTSIDE = 0.2
"""Of the heart's variation that has to lie beside it after a shift."""
_CLEAR_MM = 5.0
_HEART_MM2_MIN = 1500.0
_STRIP_MM2_MIN = 400.0
_FEWEST_SLICES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Beat:
    """What of the grey values varies with the beat.

    Attributes
    ----------
    waves : (K, S, R, C) float32
        Amplitudes of waves over the cycle, of unit length.
    power : (S, R, C) float32
        Their squares summed, less what noise has in them: about zero where there is noise alone, exactly zero where
        grey values do not change.
    """

    waves: NDArray[np.float32]
    power: NDArray[np.float32]


def beat_of(pixels: NDArray[np.float32]) -> Beat:
    """Variation at the first harmonics of the heart rate at each pixel.

    Noise is what lies above these harmonics, pixel by pixel: its floor differs over the field of view with coils and
    parallel imaging, and magnitude images have another one in the dark.

    Parameters
    ----------
    pixels : (T, S, R, C) float32
        Phases equally spaced over the cycle, at least ``FEWEST_PHASES``.
    """
    phases = len(pixels)
    flat = pixels.reshape(phases, -1)
    flat = flat - flat.mean(axis=0)
    angle = 2 * np.pi / phases * np.outer(np.arange(1, HARMONICS + 1), np.arange(phases))
    basis = np.concatenate([np.cos(angle), np.sin(angle)]).astype(np.float32) * np.float32(np.sqrt(2 / phases))
    waves = basis @ flat
    at_harmonics = np.einsum("kp,kp->p", waves, waves)
    above = np.maximum(np.einsum("tp,tp->p", flat, flat) - at_harmonics, 0)
    count = len(basis)
    power = at_harmonics - np.float32(count / (phases - 1 - count)) * above
    shape = pixels.shape[1:]
    return Beat(waves.reshape(count, *shape), np.asarray(power.reshape(shape)))


def ghost_levels(beat: Beat, heart: NDArray[np.bool_], spacing: tuple[float, float]) -> NDArray[np.float64]:
    """Amplitude of ghosts on each slice as a fraction of the heart's own, by the larger of both measures.

    Parameters
    ----------
    beat : Beat
        Pixels without any variation are those that a mask blanked.
    heart : (S, R, C) bool
        Where the ventricles are at any phase.
    spacing : (float, float)
        Between rows and between columns, mm.

    Returns
    -------
    (S, 2) float64
        If columns are the phase encoding, and if rows are. NaN where the slice shows too little of the heart, or too
        little is seen beside it in either direction.
    """
    levels = np.full((len(heart), 2), np.nan)
    pixel_mm2 = spacing[0] * spacing[1]
    for index in np.flatnonzero(heart.sum(axis=(1, 2)) * pixel_mm2 >= _HEART_MM2_MIN):
        window = _around(heart[index], spacing)
        inside, power = heart[index][window], beat.power[index][window]
        own = float(power[inside].mean())
        clear = ndimage.distance_transform_edt(~inside, sampling=spacing) > _CLEAR_MM
        beside = [_strip(power, clear & _along(inside, axis, spacing[axis]), pixel_mm2) for axis in (0, 1)]
        if own > 0 and None not in beside:
            columns, rows = (float(value or 0) / own for value in beside)
            excess = np.array([columns - TIMES * max(rows, 0.0), rows - TIMES * max(columns, 0.0)])
            smeared = np.sqrt(np.maximum(excess, 0.0))
            waves = _quietened(beat.waves[:, index][(slice(None), *window)], clear)
            copies = [_copy(waves, inside, clear, axis, spacing[axis]) for axis in (0, 1)]
            levels[index] = np.maximum(smeared, [copies[0] - copies[1], copies[1] - copies[0]])
    return levels


def _quietened(waves: NDArray[np.float32], beside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Waves of a slice with the loudest pixels beside the heart brought down to ``_LOUDEST`` times the median."""
    amplitude = np.sqrt(np.einsum("krc,krc->rc", waves, waves))
    most = _LOUDEST * float(np.median(amplitude[beside]))
    scale = np.where(beside, np.minimum(1, most / np.maximum(amplitude, 1e-6)), 1)
    return np.asarray(waves * scale.astype(np.float32))


def _copy(
    waves: NDArray[np.float32], heart: NDArray[np.bool_], beside: NDArray[np.bool_], axis: int, pixel_mm: float
) -> float:
    """Largest amplitude, over the shifts along an axis, with which the heart's variation is found again beside it.

    A regression of what lies beside the heart on what lies in it one shift away, over all pixels that both have; 0
    where no shift brings enough of the heart outside.
    """
    size = next_fast_len(2 * heart.shape[axis], real=True)

    def spectrum(values: NDArray[np.float32]) -> NDArray[np.complex64]:
        return np.asarray(rfft(values, size, axis=axis + 1))

    power = np.einsum("krc,krc->rc", waves, waves)[None]
    inside, outside = heart.astype(np.float32), beside.astype(np.float32)
    both = (0, 2 - axis)
    found = irfft((np.conj(spectrum(waves * inside)) * spectrum(waves * outside)).sum(axis=both), size)
    own = irfft((np.conj(spectrum(power * inside)) * spectrum(outside[None])).sum(axis=both), size)
    away = np.abs(np.fft.fftfreq(size, 1 / size)) * pixel_mm
    usable = (away >= SHIFTS_MM[0]) & (away <= SHIFTS_MM[1]) & (own > _SHARE_OUTSIDE * float((power * inside).sum()))
    return float((found[usable] / own[usable]).max()) if usable.any() else 0.0


def _around(heart: NDArray[np.bool_], spacing: tuple[float, float]) -> tuple[slice, slice]:
    """Window that holds the heart and the strips beside it."""
    window = []
    for axis in (0, 1):
        lines = np.flatnonzero(heart.any(axis=1 - axis))
        margin = int(np.ceil(STRIP_MM[1] / spacing[axis])) + 1
        window.append(slice(max(int(lines[0]) - margin, 0), int(lines[-1]) + margin + 1))
    return window[0], window[1]


def _along(heart: NDArray[np.bool_], axis: int, pixel_mm: float) -> NDArray[np.bool_]:
    """Pixels of lines along an axis that cross the heart, as far outside of it as ``STRIP_MM`` says."""
    crosses = heart.any(axis=axis, keepdims=True)
    size = heart.shape[axis]
    first = heart.argmax(axis=axis, keepdims=True)
    last = size - 1 - np.flip(heart, axis).argmax(axis=axis, keepdims=True)
    place = np.arange(size).reshape((-1, 1) if axis == 0 else (1, -1))
    away = np.maximum(first - place, place - last) * pixel_mm
    return np.asarray(crosses & (away >= STRIP_MM[0]) & (away < STRIP_MM[1]))


def _strip(power: NDArray[np.float32], strip: NDArray[np.bool_], pixel_mm2: float) -> float | None:
    """Median of a strip, which vessels in it do not decide; ``None`` where it is small, or blank for the most part."""
    values = power[strip]
    seen = values[values != 0]
    if seen.size * pixel_mm2 < _STRIP_MM2_MIN or 2 * seen.size < values.size:
        return None
    return float(np.median(seen))


def ghosting_finding(stack: CineStack, slices: SliceMeasures, limits: QualityLimits) -> QualityFinding | None:
    """Whether copies of the heart lie beside it along the phase encoding.

    Returns
    -------
    QualityFinding or None
        ``None`` where it cannot be told: few phases, right ventricle not found (it would count as what is beside the
        heart), or fewer than three slices with enough to see beside the heart in both directions.
    """
    if stack.phases < FEWEST_PHASES or not slices.rv_mm2.any():
        return None
    heart = np.asarray((slices.labels > 0).any(axis=0))
    rows, columns = _around(np.asarray(heart.any(axis=0)), stack.geometry.pixel_spacing)
    beat = beat_of(stack.pixels[:, :, rows, columns])
    levels = 100 * ghost_levels(beat, heart[:, rows, columns], stack.geometry.pixel_spacing)
    if np.isfinite(levels[:, 0]).sum() < _FEWEST_SLICES:
        return None
    # Each slice is a breath-hold of its own: a third of them with ghosts is a study with ghosts.
    of_study = np.nanpercentile(levels, 100 * (1 - SHARE_OF_SLICES), axis=0)
    # Where no header says which, ghosts are looked for along both.
    axis = {PhaseEncoding.COLUMN: 0, PhaseEncoding.ROW: 1, None: int(np.argmax(of_study))}[stack.phase_encoding]
    percent = float(of_study[axis])
    limit = limits.ghosts_percent
    grade = limit.grade(percent)
    ghosted = tuple(int(index) for index in np.flatnonzero(levels[:, axis] > limit.poor))
    if ghosted:
        grade = max(grade, Grade.GOOD)
    if grade >= Grade.POOR:
        sentence = (
            "Ghosts: beside the heart, along the phase encoding alone, grey values vary with the beat by "
            f"{percent:.0f} % of what the heart itself does, or more, in a third of the slices, as after breathing, an "
            "irregular beat or missed triggers."
        )
    elif ghosted:
        numbers = ", ".join(str(index + 1) for index in ghosted)
        sentence = f"Ghosts along the phase encoding are seen in slice {numbers}, in less than a third of them."
    else:
        sentence = "No ghosts along the phase encoding: beside the heart, it holds no more of the beat than elsewhere."
    return QualityFinding(QualityCheck.GHOSTING, grade, sentence, percent, "%", limit.poor, ghosted)
