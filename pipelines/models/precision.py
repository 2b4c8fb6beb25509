"""Floating-point precision that a network computes in."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Precision", "in_bfloat16", "labelling_precision"]

_IN_HARDWARE = ("avx512_bf16", "amx_bf16")
"""Without one of these a processor emulates bfloat16, which is slower than float32."""


class Precision(enum.StrEnum):
    """Type of the numbers within a network; weights and what goes in and comes out are float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def labelling_precision(device: str) -> Precision:
    """What networks that label pixels compute in on a device: bfloat16 on a CPU that has it, float32 elsewhere.

    On a CPU that has it, it saves nearly half of the processor time of a segmentation and changes one pixel of a
    thousand of the heart (`benchmarks/precision.py`). Networks that measure (registration, synthesis) stay with
    float32.

    Parameters
    ----------
    device : str
        Name of a torch device.
    """
    import torch

    if torch.device(device).type != "cpu":
        return Precision.FLOAT32
    has = torch.cpu.get_capabilities()
    return Precision.BFLOAT16 if any(has.get(name) for name in _IN_HARDWARE) else Precision.FLOAT32


def in_bfloat16(network: torch.nn.Module) -> torch.nn.Module:
    """A network in evaluation mode that computes in bfloat16, its batch normalisations folded into their convolutions.

    In evaluation a batch normalisation multiplies each feature and adds to it (Ioffe and Szegedy, ICML 2015), which the
    convolution before it can do; as a pass over all features of its own it costs nearly as much as the convolution. The
    weights are folded in float32 and rounded once.

    Parameters
    ----------
    network : torch.nn.Module
        In float32; it is changed, and not to be trained any more. Weights that are no convolution's are rounded, too.
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
    return network.to(torch.bfloat16)
