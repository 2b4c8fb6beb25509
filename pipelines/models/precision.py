"""Floating-point precision that a network computes in."""

from __future__ import annotations

import enum

__all__ = ["Precision", "labelling_precision"]

_IN_HARDWARE = ("avx512_bf16", "amx_bf16")
"""Without one of these a processor emulates bfloat16, which is slower than float32."""


class Precision(enum.StrEnum):
    """Type of the numbers within a network; weights and what goes in and comes out are float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def labelling_precision(device: str) -> Precision:
    """What networks that label pixels compute in on a device: bfloat16 on a CPU that has it, float32 elsewhere.

    On a CPU that has it, it saved nearly half of the processor time of a segmentation when float32 did not have its
    normalisations folded yet, and changes one pixel of a thousand of the heart (`benchmarks/precision.py`). Networks
    that measure (registration, synthesis) stay with float32.

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
