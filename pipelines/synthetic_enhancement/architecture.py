"""Architectures of the network that draws samples around the first guess, and of the one that reads sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from pipelines.models.architecture import Architecture

if TYPE_CHECKING:
    import torch

__all__ = ["ARCHITECTURES", "DiffusionArchitecture", "SequenceArchitecture"]


class DiffusionArchitecture(Architecture):
    """A network of MONAI that is told a time besides its input."""

    kind: Literal["monai.DiffusionModelUNet"] = "monai.DiffusionModelUNet"
    in_channels: int = pydantic.Field(ge=1)
    out_channels: int = pydantic.Field(ge=1)
    features: tuple[int, ...] = pydantic.Field(min_length=2)
    """Features of each level."""
    residual_blocks: int = pydantic.Field(ge=1)
    """Of each level."""
    groups: int = pydantic.Field(ge=1)
    """Of the normalisation."""

    def build(self) -> torch.nn.Module:
        """Network with random weights."""
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        network: torch.nn.Module = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            channels=self.features,
            attention_levels=(False,) * len(self.features),
            num_res_blocks=self.residual_blocks,
            norm_num_groups=self.groups,
        )
        return network


class SequenceArchitecture(Architecture):
    """A long short-term memory that gives a logit for each sequence, after its last moment."""

    kind: Literal["torch.LSTM"] = "torch.LSTM"
    inputs: int = pydantic.Field(ge=1)
    """At each moment."""
    hidden: int = pydantic.Field(ge=1)

    def build(self) -> torch.nn.Module:
        """Network with random weights, from (N, M, inputs) to (N,)."""
        import torch

        class SequenceNetwork(torch.nn.Module):
            def __init__(self, inputs: int, hidden: int) -> None:
                super().__init__()
                self.memory = torch.nn.LSTM(inputs, hidden, batch_first=True)
                self.last = torch.nn.Linear(hidden, 1)

            def forward(self, sequences: torch.Tensor) -> torch.Tensor:
                states, _ = self.memory(sequences)
                logits: torch.Tensor = self.last(states[:, -1])[:, 0]
                return logits

        return SequenceNetwork(self.inputs, self.hidden)


ARCHITECTURES = (DiffusionArchitecture, SequenceArchitecture)
