"""What decides a training of synthetic enhancement: size of the networks, steps and rates, what hearts are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.synthetic_enhancement.features import Ablation

__all__ = ["EnhancementRecipe"]


@dataclass(frozen=True, slots=True)
class EnhancementRecipe:
    """Everything that decides what a training run does, besides data, steps and seed."""

    features: tuple[int, int, int, int, int, int] = (32, 40, 48, 64, 64, 32)
    refiner_features: tuple[int, ...] = (32, 48, 48)
    steps: int = 3000
    refiner_steps: int = 1400
    batch: int = 16
    peak_rate: float = 2e-3
    refiner_rate: float = 1e-3
    infarct_share: float = 0.2
    """Of the slices that are drawn from the acute infarcts, where there are any."""
    two_moments: float = 0.2
    """Of the slices that are shown at end diastole and end systole alone."""
    unknown: float = 0.3
    """Of the slices whose scanner is not told."""
    inner_px: tuple[float, float] = (0.45, 0.7)
    """Mean error of the inner radius at end diastole and end systole, pixels; it is drawn around that."""
    outer_px: tuple[float, float] = (-0.4, -0.75)
    uneven_px: float = 0.6
    """Standard deviation of the error around the ventricle, half of it the same at all moments."""
    ablation: Ablation | None = None
    """What is kept from a first guess that is trained for comparison; ``None`` of networks for use."""
    dice: float = 0.3
    """Weight of 1 − Dice of the lesion."""
    slice_weight: float = 0.5
    """Weight of the cross-entropy of the slice."""
    patient_share: float = 0.3
    """Of the slices that are drawn from semi-synthetic pairs, where there are any."""
