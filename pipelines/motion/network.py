"""The registration network: two images in, the diffeomorphic motion between them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.motion.fields import compose, integrate, warp
from pipelines.segmentation.parallel import each

if TYPE_CHECKING:
    import torch

    from pipelines.models.registry import LoadedModel

__all__ = ["REGISTRATION_MODEL", "STRIDE", "displacement_between", "network_input", "velocity_between"]

REGISTRATION_MODEL = "motion-registration"
STRIDE = 2
"""Pixels of the images along each side of a point of the field."""

_BATCH = 16


def network_input(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """Input (N, 8, n/2, n/2) of the network for images (N, n, n), grey values 0 … 1.25.

    Blocks of 2 × 2 pixels become channels: nothing is lost, and no convolution runs at full resolution.
    """
    import torch
    from torch.nn import functional

    pair = 2 * torch.stack([fixed, moving], dim=1) - 1
    return functional.pixel_unshuffle(pair, STRIDE).contiguous(memory_format=torch.channels_last)


def velocity_between(fixed: torch.Tensor, moving: torch.Tensor, model: LoadedModel) -> torch.Tensor:
    """Stationary velocity of the tissue from each fixed to each moving image.

    Parameters
    ----------
    fixed, moving : (N, n, n) tensors
        Grey values 0 … 1.25.
    model : LoadedModel

    Returns
    -------
    (N, 2, n/2, n/2) tensor, mm
        With u its integral, ``moving(x + u(x))`` looks like ``fixed(x)``; the integral of its negative is the way back.
    """
    import torch

    def run(start: int) -> torch.Tensor:
        pair = network_input(fixed[start : start + _BATCH], moving[start : start + _BATCH])
        velocity: torch.Tensor = model.network(pair.to(model.device)).cpu()
        return velocity.contiguous()

    return torch.cat(each(run, range(0, len(fixed), _BATCH)))


def displacement_between(
    fixed: torch.Tensor, moving: torch.Tensor, model: LoadedModel, side_mm: float, passes: int
) -> torch.Tensor:
    """Motion of the tissue from each fixed to each moving image, (N, 2, n/2, n/2), mm.

    Parameters
    ----------
    fixed, moving : (N, n, n) tensors
    side_mm : float
        Side of the square that the images cover.
    passes : int
        After the first pass the moving image is pulled back by what was found, and what is left is registered again.
    """
    displacement = integrate(velocity_between(fixed, moving, model), side_mm)
    for _ in range(passes - 1):
        pulled = warp(moving[:, None], displacement, side_mm)[:, 0]
        rest = integrate(velocity_between(fixed, pulled, model), side_mm)
        displacement = compose(rest, displacement, side_mm)
    return displacement
