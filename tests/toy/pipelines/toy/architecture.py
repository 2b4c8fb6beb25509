"""Architecture of the toy's network: a file beside the package declares it, and the card names its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from pipelines.models.architecture import Architecture

if TYPE_CHECKING:
    import torch

__all__ = ["ARCHITECTURES", "GainArchitecture"]


class GainArchitecture(Architecture):
    """A convolution of one weight."""

    kind: Literal["toy.gain"] = "toy.gain"
    channels: int = pydantic.Field(ge=1)

    def build(self) -> torch.nn.Module:
        """Network with random weights."""
        import torch

        return torch.nn.Conv2d(self.channels, self.channels, 1, bias=False)


ARCHITECTURES = (GainArchitecture,)
