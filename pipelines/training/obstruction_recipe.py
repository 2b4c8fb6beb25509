"""What decides a training of the obstruction network: its size, what it learns, its steps and their rate."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pipelines.obstruction.architecture import ClipArchitecture
from pipelines.obstruction.network import NARROW

__all__ = ["FULL_RATE", "FULL_STEPS", "PEAK_RATE", "ObstructionRecipe", "Target"]

PEAK_RATE = 1e-3
"""Ten times that of the paper, which starts from weights of other videos and trains five times as long."""
FULL_RATE, FULL_STEPS = 1e-4, 8000
"""Those of the paper, for the network of its size."""


class Target(enum.StrEnum):
    """What a network learns of each slice; calibrated to obstruction in either case."""

    OBSTRUCTION = "obstruction"
    """As in the paper."""
    DEPTH = "depth"
    """How deep the infarct goes: a number of every slice, where obstruction is one bit of few. The mask branch draws
    where the infarct lies and what is left of the motion, which every place of the wall tells."""


@dataclass(frozen=True, slots=True)
class ObstructionRecipe:
    """Everything that decides what a training run does, besides data and seed."""

    architecture: ClipArchitecture = NARROW
    target: Target = Target.OBSTRUCTION
    steps: int = 1000
    pretraining_steps: int = 600
    """First steps, which teach where scar lies."""
    peak_rate: float = PEAK_RATE
