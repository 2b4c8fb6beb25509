"""The classifier: an image encoder on the keyframes, and perceptrons that fuse it with morphology and motion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from pipelines.remodelling.architecture import FusionArchitecture
from pipelines.remodelling.features import FEATURES, MORPHOLOGY
from pipelines.remodelling.volume import KEYFRAMES

__all__ = ["AUXILIARY", "REMODELLING_MODEL", "ImageEncoder", "Logits", "RemodellingNetwork"]

REMODELLING_MODEL = "remodelling"
AUXILIARY = ("infarct size", "global longitudinal strain", "global circumferential strain", "ejection fraction")
"""What the image branch also estimates in training, where it is known, so that few events teach it more."""
_DROPOUT = 0.3
_EMBEDDED = 16
_GRID = (2, 4, 4)
"""Levels, rows and columns that the image branch keeps apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """Logits of the outcome by branch, (N,) each, and ``auxiliary`` (N, 4) in standard deviations of the training.

    ``image`` and ``auxiliary`` are NaN of a network without images.
    """

    image: torch.Tensor
    morphology: torch.Tensor
    motion: torch.Tensor
    fused: torch.Tensor
    auxiliary: torch.Tensor


class RemodellingNetwork(nn.Module):
    """Volume (N, 5, 8, 64, 64) and features (N, 18) to logits.

    Features that are missing (NaN) are replaced by a learned value and flagged, so that the branches learn what to
    make of a study without them; training leaves those out at random that studies often lack.

    Parameters
    ----------
    architecture : FusionArchitecture
    """

    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(self, architecture: FusionArchitecture) -> None:
        super().__init__()
        self.images = architecture.images
        if self.images:
            self.encoder = ImageEncoder(architecture.features)
            cells = architecture.features[-1] * math.prod(_GRID)
            self.project = nn.Sequential(
                nn.AdaptiveAvgPool3d(_GRID), nn.Flatten(), nn.LayerNorm(cells), nn.Linear(cells, _EMBEDDED)
            )
            self.image_head = nn.Linear(_EMBEDDED, 1)
            self.auxiliary_head = nn.Linear(_EMBEDDED, len(AUXILIARY))
        self.register_buffer("centre", torch.zeros(len(FEATURES)))
        self.register_buffer("scale", torch.ones(len(FEATURES)))
        self.substitute = nn.Parameter(torch.zeros(len(FEATURES)))
        self.morphology_head = _perceptron(2 * len(MORPHOLOGY), architecture.hidden)
        self.motion_head = _perceptron(2 * (len(FEATURES) - len(MORPHOLOGY)), architecture.hidden)
        self.fused_head = _perceptron((_EMBEDDED if self.images else 0) + 2 * len(FEATURES), architecture.hidden)
        for name, tensor in combined_tensors(architecture.bootstrap).items():
            self.register_buffer(name, tensor)

    def forward(self, volume: torch.Tensor, features: torch.Tensor) -> Logits:
        """Logits of every branch; ``features`` hold NaN where one is missing."""
        return self.classify(self.encoder(volume) if self.images else None, features)

    def classify(self, maps: torch.Tensor | None, features: torch.Tensor) -> Logits:
        """Logits of every branch from what the encoder made of the volume, (N, C, 2, 8, 8), and the features."""
        nothing = torch.full((len(features), len(AUXILIARY)), torch.nan, device=features.device)
        embedded = None if maps is None else self.project(maps)
        missing = torch.isnan(features)
        values = torch.where(missing, self.substitute, (torch.nan_to_num(features) - self.centre) / self.scale)
        flags, count = missing.float(), len(MORPHOLOGY)
        return Logits(
            image=nothing[:, 0] if embedded is None else self.image_head(embedded)[:, 0],
            morphology=self.morphology_head(torch.cat([values[:, :count], flags[:, :count]], dim=1))[:, 0],
            motion=self.motion_head(torch.cat([values[:, count:], flags[:, count:]], dim=1))[:, 0],
            fused=self.fused_head(torch.cat([*([] if embedded is None else [embedded]), values, flags], dim=1))[:, 0],
            auxiliary=nothing if embedded is None else self.auxiliary_head(embedded),
        )


class ImageEncoder(nn.Module):
    """Four 3D convolutions on 3.5 mm: (N, 5, 8, 64, 64) to (N, C, 2, 8, 8).

    Batch normalisation keeps how strongly each heart answers a filter, which group normalisation divides out.
    """

    def __init__(self, features: tuple[int, int, int, int]) -> None:
        super().__init__()
        widths = (len(KEYFRAMES), *features)
        strides = (2, 1, 2, 1)
        self.pool = nn.AvgPool3d((1, 2, 2))
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU())
                for inputs, outputs, stride in zip(widths[:-1], widths[1:], strides, strict=True)
            )
        )

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Features (N, C, 2, 8, 8)."""
        result: torch.Tensor = self.layers(self.pool(volume))
        return result


def combined_tensors(bootstrap: int) -> dict[str, torch.Tensor]:
    """Empty tensors of the combined model (:class:`pipelines.remodelling.combined.CombinedModel`) by name."""
    subsets, predictors, terms = 4, 4, 5
    return {
        "combined_coefficients": torch.zeros(subsets, terms, dtype=torch.float64),
        "combined_bootstrap": torch.zeros(subsets, bootstrap, terms, dtype=torch.float64),
        "combined_means": torch.zeros(predictors, dtype=torch.float64),
        "combined_prevalence": torch.zeros((), dtype=torch.float64),
        "infarct_coefficients": torch.zeros(2, 1 + len(FEATURES), dtype=torch.float64),
        "infarct_residual": torch.zeros(2, dtype=torch.float64),
    }


def _perceptron(inputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(inputs), nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(_DROPOUT), nn.Linear(hidden, 1)
    )
