"""The registration network: two images in, the diffeomorphic motion between them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.motion.fields import integrate
from pipelines.segmentation.parallel import each

if TYPE_CHECKING:
    import torch

    from pipelines.models.registry import LoadedModel

__all__ = ["REGISTRATION_MODEL", "STRIDE", "network_input", "register"]

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


def register(fixed: torch.Tensor, moving: torch.Tensor, model: LoadedModel, side_mm: float) -> torch.Tensor:
    """Motion of the tissue from each fixed to each moving image.

    Parameters
    ----------
    fixed, moving : (N, n, n) tensors
        Grey values 0 … 1.25.
    model : LoadedModel
    side_mm : float
        Side of the square that the images cover.

    Returns
    -------
    (N, 2, n/2, n/2) tensor, mm
        ``moving(x + u(x))`` looks like ``fixed(x)``.
    """
    import torch

    def run(start: int) -> torch.Tensor:
        stop = start + _BATCH
        velocity = model.network(network_input(fixed[start:stop], moving[start:stop]).to(model.device)).cpu()
        return integrate(velocity.contiguous(), side_mm)

    return torch.cat(each(run, range(0, len(fixed), _BATCH)))
