"""Learning rate and averaging of weights."""

from __future__ import annotations

import math

import torch

__all__ = ["learning_rate", "polynomial_rate", "update_average"]


def learning_rate(step: int, steps: int, peak: float, warm_up: int = 200, decay: float = 0.3) -> float:
    """Learning rate: warm-up, plateau, cosine decay to zero over the last part (``decay``) of ``steps``.

    The plateau makes a longer run of a shorter one: until the decay begins the two are the same.
    """
    if step < warm_up:
        return peak * (step + 1) / warm_up
    start = steps * (1 - decay)
    if step < start:
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - start) / max(1.0, steps - start)))


def polynomial_rate(
    step: int, steps: int, peak: float, warm_up: int = 100, longest: float = 0.1, power: float = 1.0
) -> float:
    """Learning rate: warm-up, at most ``longest`` of the steps, then polynomial decay to zero."""
    warm_up = min(warm_up, int(steps * longest))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return float(peak * (1 - (step - warm_up) / max(1, steps - warm_up)) ** power)


@torch.no_grad()
def update_average(average: dict[str, torch.Tensor], network: torch.nn.Module, step: int, decay: float = 0.999) -> None:
    """Update the exponential moving average of weights and of the statistics of normalisation, in place."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, weight)
        else:
            average[name].copy_(value)
