"""Networks as they run once they are trained: batch normalisations folded into the convolutions before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["fold_normalisations", "leave_padding_out"]


def fold_normalisations(network: torch.nn.Module) -> None:
    """Make a network in evaluation mode compute the same with fewer passes over its features.

    In evaluation a batch normalisation multiplies each feature and adds to it, which the convolution before it can do
    (Ioffe and Szegedy, ICML 2015); as a pass over all features of its own it costs nearly as much as the convolution.
    Results differ by the rounding of float32.

    Parameters
    ----------
    network : torch.nn.Module
        In float32; it is changed, and not to be trained any more.
    """
    import torch
    from monai.networks.blocks.convolutions import Convolution
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for block in network.modules():
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


def leave_padding_out(network: torch.nn.Module, size: int) -> None:
    """Do without the padding of a MONAI U-Net where it adds nothing.

    Features are halved four times: of an input whose ``size`` is a multiple of 16 none are missing when they are
    doubled again.
    """
    from monai.networks.nets.basic_unet import UpCat

    if size % 16:
        return
    for block in network.modules():
        if isinstance(block, UpCat):
            block.is_pad = False
