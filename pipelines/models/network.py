"""Networks built from the architecture in a model card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.models.card import (
    AnyArchitecture,
    ClipArchitecture,
    DiffusionArchitecture,
    FusionArchitecture,
    LogisticArchitecture,
    WallArchitecture,
)

if TYPE_CHECKING:
    import torch

__all__ = ["build_network"]


def build_network(architecture: AnyArchitecture) -> torch.nn.Module:
    """Network with random weights, channels-last where it is two-dimensional."""
    if isinstance(architecture, FusionArchitecture):
        from pipelines.remodelling.network import RemodellingNetwork

        return RemodellingNetwork(architecture)
    if isinstance(architecture, LogisticArchitecture):
        from pipelines.disease_pattern.network import LogisticNetwork

        return LogisticNetwork(architecture)
    if isinstance(architecture, WallArchitecture):
        from pipelines.obstruction.wall_model import WallModel

        return WallModel(architecture)
    import torch

    if isinstance(architecture, DiffusionArchitecture):
        return _diffusion(architecture)
    if isinstance(architecture, ClipArchitecture):
        from pipelines.obstruction.network import ObstructionNetwork

        return ObstructionNetwork(architecture)
    from monai.networks.nets.basic_unet import BasicUNet

    network: torch.nn.Module = BasicUNet(
        spatial_dims=2,
        in_channels=architecture.in_channels,
        out_channels=architecture.out_channels,
        features=architecture.features,
        norm=architecture.norm,
        act=("LeakyReLU", {"negative_slope": 0.1, "inplace": True}),
    )
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _diffusion(architecture: DiffusionArchitecture) -> torch.nn.Module:
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    network: torch.nn.Module = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=architecture.in_channels,
        out_channels=architecture.out_channels,
        channels=architecture.features,
        attention_levels=(False,) * len(architecture.features),
        num_res_blocks=architecture.residual_blocks,
        norm_num_groups=architecture.groups,
    )
    return network
