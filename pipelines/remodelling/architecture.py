"""Architecture of the network that estimates the risk of remodelling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from pipelines.models.architecture import Architecture

if TYPE_CHECKING:
    import torch

__all__ = ["ARCHITECTURES", "FusionArchitecture"]


class FusionArchitecture(Architecture):
    """Image encoder and perceptrons of :mod:`pipelines.remodelling.network`."""

    kind: Literal["remodelling.fusion"] = "remodelling.fusion"
    features: tuple[int, int, int, int]
    """Features of the four 3D convolutions."""
    hidden: int = pydantic.Field(ge=1)
    """Width of the hidden layer of each perceptron."""
    bootstrap: int = pydantic.Field(ge=1)
    """Draws of the bootstrap of the combined model that are stored with it."""
    images: bool = True
    """Without them the network sees morphology and motion only, and has no attribution."""

    def build(self) -> torch.nn.Module:
        """Network of :mod:`pipelines.remodelling.network` with random weights."""
        from pipelines.remodelling.network import RemodellingNetwork

        return RemodellingNetwork(self)


ARCHITECTURES = (FusionArchitecture,)
