"""The registration network: two images in, the diffeomorphic motion between them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.motion.fields import compose, integrate, warp
from pipelines.segmentation.parallel import each

if TYPE_CHECKING:
    import torch

    from pipelines.models.registry import LoadedModel

__all__ = [
    "FIELDS_AT_ONCE",
    "REGISTRATION_MODEL",
    "STRIDE",
    "displacement_between",
    "motion_of_pairs",
    "network_input",
    "velocity_between",
]

REGISTRATION_MODEL = "motion-registration"
STRIDE = 2
"""Pixels of the images along each side of a point of the field."""

FIELDS_AT_ONCE = 32
"""Pairs of images, or fields, that one core works on: more leave its cache, fewer cost a call each."""


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

    with torch.inference_mode():
        velocity: torch.Tensor = model.network(network_input(fixed, moving).to(model.device)).cpu()
        return velocity.contiguous()


def motion_of_pairs(
    fixed: torch.Tensor, moving: torch.Tensor, model: LoadedModel, side_mm: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Velocity of :func:`velocity_between` of any number of pairs, and its integral, mm, a core for each batch."""
    import torch

    def run(start: int) -> tuple[torch.Tensor, torch.Tensor]:
        own = slice(start, start + FIELDS_AT_ONCE)
        velocity = velocity_between(fixed[own], moving[own], model)
        return velocity, integrate(velocity, side_mm)

    velocities, displacements = zip(*each(run, range(0, len(fixed), FIELDS_AT_ONCE)), strict=True)
    return torch.cat(velocities), torch.cat(displacements)


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
    import torch

    def run(start: int) -> torch.Tensor:
        still, other = (images[start : start + FIELDS_AT_ONCE] for images in (fixed, moving))
        displacement = integrate(velocity_between(still, other, model), side_mm)
        for _ in range(passes - 1):
            pulled = warp(other[:, None], displacement, side_mm)[:, 0]
            rest = integrate(velocity_between(still, pulled, model), side_mm)
            displacement = compose(rest, displacement, side_mm)
        return displacement

    return torch.cat(each(run, range(0, len(fixed), FIELDS_AT_ONCE)))
