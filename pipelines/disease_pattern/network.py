"""The pattern classifier: a multinomial logistic model of standardised features, as a torch network."""

from __future__ import annotations

import torch
from torch import nn

from pipelines.disease_pattern.architecture import LogisticArchitecture

__all__ = ["PATTERN_MODEL", "LogisticNetwork"]

PATTERN_MODEL = "disease-pattern"


class LogisticNetwork(nn.Module):
    """Features (N, F) to logits (N, classes).

    Buffers: ``means`` and ``scales`` (F,) of the training, and ``limit``, the departure from the training (root mean
    square, standard deviations) above which nothing should be said.

    Parameters
    ----------
    architecture : LogisticArchitecture
    """

    means: torch.Tensor
    scales: torch.Tensor
    limit: torch.Tensor

    def __init__(self, architecture: LogisticArchitecture) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(architecture.in_features, dtype=torch.float64))
        self.register_buffer("scales", torch.ones(architecture.in_features, dtype=torch.float64))
        self.register_buffer("limit", torch.zeros((), dtype=torch.float64))
        self.linear = nn.Linear(architecture.in_features, architecture.classes, dtype=torch.float64)

    def standardised(self, values: torch.Tensor) -> torch.Tensor:
        """Features in standard deviations from the mean of the training."""
        return (values.double() - self.means) / self.scales

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits of features (N, F)."""
        result: torch.Tensor = self.linear(self.standardised(values))
        return result
