"""Guided Grad-CAM (Selvaraju et al., ICCV 2017): guided backpropagation × Grad-CAM, on the keyframe volume."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pipelines.remodelling.network import RemodellingNetwork

__all__ = ["guided_grad_cam"]


def guided_grad_cam(network: RemodellingNetwork, volume: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Guided Grad-CAM of the fused logit on the keyframes.

    Grad-CAM of the last convolution says where, guided backpropagation (Springenberg et al., ICLR 2015) which grey
    values there; the product keeps what both do. Negative parts are left out.

    Parameters
    ----------
    network : RemodellingNetwork
        In evaluation mode; it is left as it was.
    volume : (1, 5, D, n, n) tensor
    features : (1, F) tensor

    Returns
    -------
    (5, D, n, n) tensor
        0 … 1 relative to its own maximum, on the CPU; 0 everywhere where nothing raises the logit.
    """
    pixels = volume.detach().clone().requires_grad_(True)
    guides = [
        layer.register_full_backward_hook(_only_positive)
        for layer in network.encoder.modules()
        if isinstance(layer, nn.ReLU)
    ]
    try:
        maps = network.encoder(pixels)
        logit = network.classify(maps, features).fused.sum()
        # Above the encoder nothing is rectified, so one pass gives both gradients.
        of_maps, guided = torch.autograd.grad(logit, (maps, pixels))
    finally:
        for guide in guides:
            guide.remove()
    weights = of_maps.mean(dim=(2, 3, 4), keepdim=True)
    where = functional.relu((weights * maps.detach()).sum(dim=1, keepdim=True))
    where = functional.interpolate(where, volume.shape[2:], mode="trilinear", align_corners=False)
    product = (where * functional.relu(guided))[0].detach().cpu()
    # Guided gradients are speckled: a mean over 5 × 5 pixels (9 mm) lets a reader see where they lie.
    product = functional.avg_pool2d(product, 5, stride=1, padding=2)
    largest = float(product.max())
    return product / largest if largest > 0 else torch.zeros_like(product)


def _only_positive(
    _layer: nn.Module, received: tuple[torch.Tensor, ...], _sent: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """Let through what raises the logit: the rectifier itself has masked what was not active."""
    return tuple(functional.relu(gradient) for gradient in received)
