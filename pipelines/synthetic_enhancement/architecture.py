"""Architecture of the network that draws samples around the first guess."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from pipelines.models.architecture import Architecture

if TYPE_CHECKING:
    import torch

__all__ = ["ARCHITECTURES", "DiffusionArchitecture"]


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


ARCHITECTURES = (DiffusionArchitecture,)
