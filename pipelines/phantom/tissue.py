"""Tissues and the signal equations that turn them into grey values.

Relaxation times at 1.5 T and 3 T in ms (MRXCAT defaults and the reviews they cite; myocardium 1.5 T 1017 / 48); proton
densities relative to blood.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["EnhancementTiming", "SteadyState", "Tissue", "bssfp", "enhancement_signal", "relaxation"]

Array = NDArray[np.float64]


class Tissue(enum.Enum):
    """Tissue classes of the simulated body."""

    BLOOD = "blood"
    """Oxygenated: left heart and aorta."""
    VENOUS_BLOOD = "venous blood"
    """Right heart and veins: deoxygenated haemoglobin shortens T2, so it is darker."""
    MYOCARDIUM = "myocardium"
    OEDEMA = "oedema"
    """Area at risk of an acute infarct beyond it."""
    INFARCT = "infarct"
    OBSTRUCTION = "obstruction"
    FAT = "fat"
    MUSCLE = "muscle"
    LIVER = "liver"
    SPLEEN = "spleen"
    STOMACH = "stomach"
    LUNG = "lung"
    BONE = "bone"
    MARROW = "marrow"
    FLUID = "fluid"
    AIR = "air"


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Proton density (relative), T1 and T2 (ms)."""

    density: float
    t1: float
    t2: float


_AT_1_5 = {
    Tissue.BLOOD: Relaxation(1.0, 1550, 240),
    Tissue.VENOUS_BLOOD: Relaxation(1.0, 1550, 185),
    Tissue.MYOCARDIUM: Relaxation(0.83, 1017, 48),
    Tissue.OEDEMA: Relaxation(0.85, 1120, 60),
    Tissue.INFARCT: Relaxation(0.83, 1060, 50),
    Tissue.OBSTRUCTION: Relaxation(0.83, 1000, 46),
    Tissue.FAT: Relaxation(0.95, 260, 85),
    Tissue.MUSCLE: Relaxation(0.85, 1000, 42),
    Tissue.LIVER: Relaxation(0.75, 590, 44),
    Tissue.SPLEEN: Relaxation(0.85, 1050, 70),
    Tissue.STOMACH: Relaxation(0.6, 1300, 60),
    Tissue.LUNG: Relaxation(0.11, 1150, 35),
    Tissue.BONE: Relaxation(0.12, 900, 15),
    Tissue.MARROW: Relaxation(0.6, 550, 50),
    Tissue.FLUID: Relaxation(1.05, 3500, 1200),
    Tissue.AIR: Relaxation(0.0, 1000, 50),
}
_T1_RATIO_3T = {
    Tissue.BLOOD: 1.19,
    Tissue.VENOUS_BLOOD: 1.19,
    Tissue.MYOCARDIUM: 1.20,
    Tissue.FAT: 1.42,
    Tissue.LIVER: 1.37,
}
_T2_RATIO_3T = {Tissue.BLOOD: 0.80, Tissue.VENOUS_BLOOD: 0.70, Tissue.MYOCARDIUM: 0.95}


def relaxation(field_t: float, *, acute: bool = False) -> dict[Tissue, Relaxation]:
    """Native relaxation times at 1.5 T or 3 T; an acute infarct has oedema (T2 65 ms)."""
    table = dict(_AT_1_5)
    if acute:
        table[Tissue.INFARCT] = Relaxation(0.86, 1180, 65)
        table[Tissue.OBSTRUCTION] = Relaxation(0.84, 1050, 52)
    if field_t < 2:
        return table
    return {
        tissue: Relaxation(
            value.density,
            value.t1 * _T1_RATIO_3T.get(tissue, 1.2),
            value.t2 * _T2_RATIO_3T.get(tissue, 0.93),
        )
        for tissue, value in table.items()
    }


@dataclass(frozen=True, slots=True)
class SteadyState:
    """Protocol of a balanced SSFP cine: TR and TE in ms, flip angle in degrees, field in T."""

    repetition_ms: float
    echo_ms: float
    flip_deg: float
    field_t: float


def bssfp(tissue: Relaxation, protocol: SteadyState, off_resonance_hz: Array) -> Array:
    """Signed steady-state signal of balanced SSFP with alternating pulses.

    Transverse magnetisation of Freeman and Hill (1971) at TE = TR/2, where the phase of the refocused echo is 0 or π
    (Scheffler and Hennig 2003): the sign alternates between bands, which is what darkens voxels of fat and water.

    Parameters
    ----------
    tissue : Relaxation
    protocol : SteadyState
    off_resonance_hz : float64, any shape
        Off-resonance; bands lie at odd multiples of 1 / (2 TR).
    """
    alpha = math.radians(protocol.flip_deg)
    e1 = math.exp(-protocol.repetition_ms / tissue.t1)
    e2 = math.exp(-protocol.repetition_ms / tissue.t2)
    precession = 2 * math.pi * off_resonance_hz * protocol.repetition_ms / 1000
    phase = precession + math.pi
    cosine, sine = np.cos(phase), np.sin(phase)
    denominator = (1 - e1 * math.cos(alpha)) * (1 - e2 * cosine) - e2 * (e1 - math.cos(alpha)) * (e2 - cosine)
    scale = tissue.density * (1 - e1) * math.sin(alpha) / denominator
    magnitude = scale * np.hypot(e2 * sine, 1 - e2 * cosine)
    decay = math.exp(-protocol.echo_ms / tissue.t2)
    return magnitude * decay * np.sign(np.cos(precession / 2) + 1e-9)


@dataclass(frozen=True, slots=True)
class EnhancementTiming:
    """Inversion recovery of a late enhancement image: TI and effective TR (two RR), ms."""

    inversion_ms: float
    repetition_ms: float


# T1 about ten minutes after contrast, ms.
_ENHANCED_T1 = {
    Tissue.BLOOD: 330.0,
    Tissue.VENOUS_BLOOD: 330.0,
    Tissue.MYOCARDIUM: 440.0,
    Tissue.OEDEMA: 425.0,
    Tissue.INFARCT: 270.0,
    Tissue.OBSTRUCTION: 560.0,
    Tissue.FAT: 250.0,
    Tissue.MUSCLE: 560.0,
    Tissue.LIVER: 330.0,
    Tissue.SPLEEN: 340.0,
    Tissue.STOMACH: 900.0,
    Tissue.LUNG: 800.0,
    Tissue.BONE: 700.0,
    Tissue.MARROW: 380.0,
    Tissue.FLUID: 2500.0,
    Tissue.AIR: 1000.0,
}


def enhancement_signal(tissue: Tissue, timing: EnhancementTiming, density: float) -> float:
    """Signed longitudinal magnetisation Mz = 1 − 2 exp(−TI/T1) + exp(−TR/T1), times proton density."""
    t1 = _ENHANCED_T1[tissue]
    return density * (1 - 2 * math.exp(-timing.inversion_ms / t1) + math.exp(-timing.repetition_ms / t1))


def myocardial_null_ms(repetition_ms: float) -> float:
    """Inversion time that nulls remote myocardium, ms."""
    t1 = _ENHANCED_T1[Tissue.MYOCARDIUM]
    return t1 * (math.log(2) - math.log(1 + math.exp(-repetition_ms / t1)))
