"""Networks as they run once they are trained: batch normalisations folded into the convolutions before them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from pipelines.models.precision import Precision

if TYPE_CHECKING:
    from pipelines.models.registry import LoadedModel

__all__ = ["folded"]


@cache
def folded(model: LoadedModel) -> LoadedModel:
    """A model that computes the same with fewer passes over its features; equal arguments give the same object.

    In evaluation a batch normalisation multiplies each feature and adds to it, which the convolution before it can do
    (Ioffe and Szegedy, ICML 2015): results differ by the rounding of float32. A model in bfloat16 has been folded when
    it was loaded and is returned as it is.

    Parameters
    ----------
    model : LoadedModel
        It is not changed.
    """
    import torch
    from monai.networks.blocks.convolutions import Convolution
    from monai.networks.nets.basic_unet import UpCat
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    if model.identity.precision is Precision.BFLOAT16:
        return model
    network = deepcopy(model.network)
    # Features are halved four times: of a size that this divides none are missing when they are doubled again.
    whole = model.card.input.size % 16 == 0
    for block in network.modules():
        if whole and isinstance(block, UpCat):
            block.is_pad = False
        if not isinstance(block, Convolution):
            continue
        convolution, after = block.conv, getattr(block, "adn", None)
        norm = getattr(after, "N", None)
        if (
            isinstance(convolution, torch.nn.Conv2d)
            and isinstance(after, torch.nn.Module)
            and isinstance(norm, torch.nn.BatchNorm2d)
        ):
            block.conv = fuse_conv_bn_eval(convolution, norm)
            after.add_module("N", torch.nn.Identity())
    return replace(model, network=network)
