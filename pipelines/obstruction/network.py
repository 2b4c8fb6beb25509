"""The network that estimates microvascular obstruction from a cine clip: R(2+1)D, transformer, mask branch.

After Yan et al. (MICCAI): a factorised 3D convolutional network (Tran et al., CVPR 2018) gives one token for each
moment, a transformer with a class token weighs the moments, and in training a second branch draws a coarse map of where
the obstruction lies, so that the features must know the place. Inference drops that branch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pipelines.obstruction.architecture import ClipArchitecture
from pipelines.obstruction.calibration import calibration_buffers

__all__ = ["FRAMES", "FULL", "MODEL", "NARROW", "NETWORK_MODEL", "SIZE", "MaskBranch", "ObstructionNetwork"]

MODEL = "obstruction"
"""The model whose probability is reported."""
NETWORK_MODEL = "obstruction-network"
"""The network, whose probability stands beside it as a second opinion."""
FRAMES = 30
SIZE = 64
"""Pixels of a side."""

FULL = ClipArchitecture(
    stem_width=64,
    stem_kernel=(3, 7, 7),
    widths=(64, 128, 256, 512),
    blocks=2,
    strides=((1, 2), (1, 1), (2, 2), (2, 2), (2, 2)),
    heads=8,
    feed_forward=2048,
    dropout=0.8,
)
"""The size of the paper: R(2+1)D-18."""

NARROW = ClipArchitecture(
    stem_width=16,
    stem_kernel=(3, 5, 5),
    widths=(16, 32, 64, 128),
    blocks=1,
    strides=((2, 2), (1, 2), (2, 2), (2, 2), (1, 1)),
    heads=4,
    feed_forward=256,
    dropout=0.3,
)
"""A size that one processor trains in minutes: fewer and narrower blocks, and time is halved in the stem."""


def _normalised(width: int) -> list[nn.Module]:
    return [nn.BatchNorm3d(width), nn.ReLU(inplace=True)]


def _factorised(entering: int, leaving: int, stride: tuple[int, int]) -> list[nn.Module]:
    """A 3 × 3 × 3 convolution as one of space and one of time, with as many weights (Tran et al., CVPR 2018)."""
    time, space = stride
    between = max(1, (27 * entering * leaving) // (9 * entering + 3 * leaving))
    return [
        nn.Conv3d(entering, between, (1, 3, 3), (1, space, space), (0, 1, 1), bias=False),
        *_normalised(between),
        nn.Conv3d(between, leaving, (3, 1, 1), (time, 1, 1), (1, 0, 0), bias=False),
    ]


class _ResidualBlock(nn.Module):
    def __init__(self, entering: int, leaving: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_factorised(entering, leaving, stride),
            *_normalised(leaving),
            *_factorised(leaving, leaving, (1, 1)),
            nn.BatchNorm3d(leaving),
        )
        self.shortcut: nn.Module = nn.Identity()
        if entering != leaving or stride != (1, 1):
            steps = (stride[0], stride[1], stride[1])
            self.shortcut = nn.Sequential(nn.Conv3d(entering, leaving, 1, steps, bias=False), nn.BatchNorm3d(leaving))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(features) + self.shortcut(features))


class ObstructionNetwork(nn.Module):
    """Logit of microvascular obstruction of clips (N, 1, 30, 64, 64).

    Parameters
    ----------
    architecture : ClipArchitecture

    Attributes
    ----------
    heart_calibration, heart_covariance, held_out_auc
        Of the score of a heart, see :func:`pipelines.obstruction.predict.heart_score` and
        :func:`pipelines.obstruction.calibration.calibration_buffers`.
    slice_calibration : (2,) float32
        Slope, at least 0, and intercept of the probability of a single slice.
    """

    heart_calibration: torch.Tensor
    heart_covariance: torch.Tensor
    held_out_auc: torch.Tensor
    slice_calibration: torch.Tensor

    def __init__(self, architecture: ClipArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        time, space = architecture.strides[0]
        kernel = architecture.stem_kernel
        stem = nn.Conv3d(
            1,
            architecture.stem_width,
            kernel,
            (time, space, space),
            (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2),
            bias=False,
        )
        self.stem = nn.Sequential(stem, *_normalised(architecture.stem_width))
        entering = architecture.stem_width
        stages = []
        for width, stride in zip(architecture.widths, architecture.strides[1:], strict=True):
            blocks = [_ResidualBlock(entering, width, stride)]
            blocks += [_ResidualBlock(width, width, (1, 1)) for _ in range(architecture.blocks - 1)]
            stages.append(nn.Sequential(*blocks))
            entering = width
        self.stages = nn.ModuleList(stages)
        # A third faster on processors.
        for part in (self.stem, self.stages):
            part.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.tokens = FRAMES
        for stride in architecture.strides:
            self.tokens = -(-self.tokens // stride[0])
        self.transformer: nn.TransformerEncoderLayer | None = None
        if architecture.transformer:
            self.transformer = nn.TransformerEncoderLayer(
                entering,
                architecture.heads,
                architecture.feed_forward,
                dropout=0.1,
                activation="gelu",
                batch_first=True,
            )
            self.class_token = nn.Parameter(torch.randn(1, 1, entering) * 0.02)
            self.positions = nn.Parameter(torch.randn(1, self.tokens + 1, entering) * 0.02)
        self.dropout = nn.Dropout(architecture.dropout)
        self.head = nn.Linear(entering, 1)
        for name, tensor in calibration_buffers().items():
            self.register_buffer(name, tensor)
        self.register_buffer("slice_calibration", torch.tensor([1.0, 0.0]))

    def features(self, clips: torch.Tensor) -> list[torch.Tensor]:
        """Output of the stem and of every stage, (N, C, t, h, w) each."""
        found = [self.stem(clips)]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found

    def classify(self, last: torch.Tensor) -> torch.Tensor:
        """Logits (N,) of the features of the last stage."""
        tokens = last.mean(dim=(3, 4)).transpose(1, 2)
        if self.transformer is None:
            pooled = tokens.mean(dim=1)
        else:
            whole = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
            pooled = self.transformer(whole + self.positions)[:, 0]
        logits: torch.Tensor = self.head(self.dropout(pooled))[:, 0]
        return logits

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits (N,)."""
        return self.classify(self.features(clips)[-1])


class MaskBranch(nn.Module):
    """What a training draws in each of 16 × 16 blocks of a clip, from the features of the last stage; training only.

    Parameters
    ----------
    width : int
        Channels of the features.
    grid : int
        Blocks of a side of its output: 4, 16, 32 or 64.
    channels : int
        Quantities that are drawn, such as the share of obstruction.
    """

    def __init__(self, width: int, grid: int = 16, channels: int = 1) -> None:
        super().__init__()
        self.grid = grid
        layers: list[nn.Module] = []
        side = 4
        while side < grid:
            leaving = max(width // 2, 16)
            layers += self._doubled(width, leaving)
            width, side = leaving, 2 * side
        self.layers = nn.Sequential(*layers, nn.Dropout(0.1), nn.Conv2d(width, channels, 1))

    @staticmethod
    def _doubled(width: int, leaving: int) -> Sequence[nn.Module]:
        inner = max(width // 4, 8)
        return (
            nn.Conv2d(width, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(inner, inner, 3, 2, 1, output_padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, leaving, 1, bias=False),
            nn.BatchNorm2d(leaving),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Quantities (N, channels, grid, grid) of features (N, C, t, 4, 4)."""
        still = features.amax(dim=2)
        drawn: torch.Tensor = self.layers(still)
        return drawn
