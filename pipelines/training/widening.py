"""Weights of a U-Net with more channels that computes what a trained, narrower one does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.models.architecture import UNetArchitecture

if TYPE_CHECKING:
    import torch

__all__ = ["widened"]


def widened(
    weights: dict[str, torch.Tensor], narrow: UNetArchitecture, wide: UNetArchitecture
) -> dict[str, torch.Tensor]:
    """Weights of a wider network of MONAI's BasicUNet that gives the output of a trained one.

    Channels that the narrow network has keep their weights; the others are drawn as for a new network, and nothing
    reads them yet: their weights in the next layer are 0. So training begins where the narrow network ended, and what
    is new is learnt from there (after Chen et al., Net2Net, ICLR 2016, which copies channels in place of new ones).

    Parameters
    ----------
    weights : dict
        State of the narrow network.
    narrow, wide : UNetArchitecture
        Their sizes. They differ in the features of the five levels and of the last layer alone.

    Returns
    -------
    dict
        State of the wide network. Its new channels are drawn from torch's global generator.

    Raises
    ------
    ValueError
        The wide network is narrower somewhere, or is of another kind.
    """
    same = wide.model_copy(update={"features": narrow.features}) == narrow
    if not same or any(new < old for old, new in zip(narrow.features, wide.features, strict=True)):
        raise ValueError(
            f"a network with features {wide.features} cannot begin as one with {narrow.features}: each level needs as "
            "many or more, and all else must be the same"
        )
    state = wide.build().state_dict()
    for name, tensor in state.items():
        old = weights[name]
        if tensor.ndim < 2:
            tensor[tuple(slice(length) for length in old.shape)] = old
            continue
        # A transposed convolution holds the channels that it reads before those that it writes.
        first, second = (1, 0) if ".deconv." in name else (0, 1)
        new, old = tensor.movedim((first, second), (0, 1)), old.movedim((first, second), (0, 1))
        kept = new[: old.shape[0]]
        kept.zero_()
        split_old, split_new = _from_encoder(name, narrow), _from_encoder(name, wide)
        kept[:, :split_old] = old[:, :split_old]
        kept[:, split_new : split_new + old.shape[1] - split_old] = old[:, split_old:]
    return state


def _from_encoder(name: str, architecture: UNetArchitecture) -> int:
    """Number of channels that a layer reads before those from below: 0 where it reads from one place."""
    for level in range(4):
        if name.startswith(f"upcat_{level + 1}.convs.conv_0."):
            return architecture.features[level]
    return 0
