"""The cardiac cycle: how contraction, twist and atrial volume run through one RR interval.

Times are fractions of the RR interval, 0 at the R wave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CardiacCycle", "KeyTimes", "draw_cycle"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class KeyTimes:
    """The five keyframes as fractions of RR (Koehler 2025): their truth is known from the filling law."""

    end_diastole: float
    mid_systole: float
    """Peak ejection rate."""
    end_systole: float
    peak_flow: float
    """Peak early filling rate."""
    mid_diastole: float
    """Onset of atrial contraction, the end of diastasis."""


@dataclass(frozen=True, slots=True)
class CardiacCycle:
    """Timing of one heart beat.

    Attributes
    ----------
    rr_ms : float
        RR interval, ms.
    ejection_start, systole_end, filling_start, filling_end, atrial_start, atrial_end : float
        Fractions of RR.
    early_fraction : float
        Part of the filling volume that enters in the E wave; diastasis adds ``diastasis_fraction``, the A wave
        the rest.
    """

    rr_ms: float
    ejection_start: float
    systole_end: float
    filling_start: float
    filling_end: float
    atrial_start: float
    atrial_end: float
    early_fraction: float
    diastasis_fraction: float

    def contraction(self, time: Array) -> Array:
        """Contraction g, 0 at end diastole and 1 at end systole, of times in fractions of RR (any shape)."""
        time = np.mod(time, 1.0)
        systole = _smooth((time - self.ejection_start) / (self.systole_end - self.ejection_start))
        early = _smooth((time - self.filling_start) / (self.filling_end - self.filling_start))
        slow = np.clip((time - self.filling_start) / (self.atrial_start - self.filling_start), 0, 1)
        atrial = _smooth((time - self.atrial_start) / (self.atrial_end - self.atrial_start))
        booster = 1 - self.early_fraction - self.diastasis_fraction
        filled = self.early_fraction * early + self.diastasis_fraction * slow + booster * atrial
        return np.where(time < self.systole_end, systole, 1 - filled)

    def twist(self, time: Array) -> Array:
        """Twist, 0 at end diastole and 1 at end systole: most untwisting precedes filling (suction)."""
        time = np.mod(time, 1.0)
        start = self.systole_end - 0.01
        untwist = _smooth((time - start) / (self.filling_end - 0.04 - start))
        rise = _smooth((time - self.ejection_start * 0.5) / (self.systole_end - self.ejection_start * 0.5))
        return np.where(time < start, rise, rise * (1 - untwist))

    @property
    def key_times(self) -> KeyTimes:
        """The five keyframes."""
        return KeyTimes(
            end_diastole=0.0,
            mid_systole=(self.ejection_start + self.systole_end) / 2,
            end_systole=self.systole_end,
            peak_flow=(self.filling_start + self.filling_end) / 2,
            mid_diastole=self.atrial_start,
        )


def draw_cycle(rng: np.random.Generator, heart_rate: float, *, stiff: bool) -> CardiacCycle:
    """Draw the timing of a beat.

    Parameters
    ----------
    rng : numpy.random.Generator
    heart_rate : float
        Beats per minute.
    stiff : bool
        Impaired relaxation: smaller E wave, larger A wave.
    """
    rr = 60000.0 / heart_rate
    # Electromechanical systole shortens with heart rate (Weissler): less than RR does, so its fraction grows.
    systole = min(max((460.0 - 1.6 * heart_rate + rng.normal(0, 10)) / rr, 0.30), 0.47)
    relaxation = min(70.0 / rr, 0.09)
    filling = min(rng.normal(190, 12) / rr, 0.26)
    atrial = min(rng.normal(130, 8) / rr, 0.19)
    start = systole + relaxation
    atrial_start = max(1 - 0.015 - atrial, start + filling + 0.01)
    early = rng.normal(0.55 if stiff else 0.68, 0.04)
    return CardiacCycle(
        rr_ms=rr,
        ejection_start=min(45.0 / rr, 0.06),
        systole_end=systole,
        filling_start=start,
        filling_end=start + filling,
        atrial_start=atrial_start,
        atrial_end=1 - 0.005,
        early_fraction=early,
        diastasis_fraction=0.06,
    )


def _smooth(x: Array) -> Array:
    """Half a cosine from 0 to 1: velocity is continuous, fastest in the middle."""
    return 0.5 - 0.5 * np.cos(math.pi * np.clip(x, 0, 1))
