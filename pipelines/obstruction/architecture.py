"""Architectures of what estimates obstruction from cine: a network of clips, a score of wall motion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from pipelines.models.architecture import Architecture

if TYPE_CHECKING:
    import torch

__all__ = ["ARCHITECTURES", "ClipArchitecture", "Pooling", "WallArchitecture"]

Pooling = Literal["largest", "mean"]
"""How a heart's score comes from its slices: the largest logit, or the logit of the mean probability."""


class ClipArchitecture(Architecture):
    """A network of moving images: factorised 3D convolutions (R(2+1)D), then a transformer over time."""

    kind: Literal["r2plus1d"] = "r2plus1d"
    stem_width: int = pydantic.Field(ge=1)
    stem_kernel: tuple[int, int, int]
    """Time, rows, columns; odd."""
    widths: tuple[int, int, int, int]
    """Channels of the four stages."""
    blocks: int = pydantic.Field(ge=1)
    """Residual blocks of each stage."""
    strides: tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]
    """Of the stem and of the four stages, in time and in space."""
    heads: int = pydantic.Field(ge=1)
    feed_forward: int = pydantic.Field(ge=1)
    dropout: float = pydantic.Field(ge=0, lt=1)
    transformer: bool = True
    """Without it the tokens are averaged."""
    pooling: Pooling = "largest"

    def build(self) -> torch.nn.Module:
        """Network of :mod:`pipelines.obstruction.network` with random weights."""
        from pipelines.obstruction.network import ObstructionNetwork

        return ObstructionNetwork(self)


class WallArchitecture(Architecture):
    """A linear score of how the wall of the left ventricle moves (:mod:`pipelines.obstruction.wall_model`)."""

    kind: Literal["wall-motion"] = "wall-motion"
    features: tuple[str, ...]
    """In the order of the coefficients."""

    def build(self) -> torch.nn.Module:
        """Model of :mod:`pipelines.obstruction.wall_model` with coefficients of 0."""
        from pipelines.obstruction.wall_model import WallModel

        return WallModel(self)


ARCHITECTURES = (ClipArchitecture, WallArchitecture)
