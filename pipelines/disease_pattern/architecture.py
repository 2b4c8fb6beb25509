"""Architecture of the model that tells patterns of disease apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from pipelines.models.architecture import Architecture

if TYPE_CHECKING:
    import torch

__all__ = ["ARCHITECTURES", "LogisticArchitecture"]


class LogisticArchitecture(Architecture):
    """A multinomial logistic model of numbers (:mod:`pipelines.disease_pattern.network`)."""

    kind: Literal["logistic"] = "logistic"
    in_features: int = pydantic.Field(ge=1)
    classes: int = pydantic.Field(ge=2)

    def build(self) -> torch.nn.Module:
        """Model of :mod:`pipelines.disease_pattern.network` before it is fitted."""
        from pipelines.disease_pattern.network import LogisticNetwork

        return LogisticNetwork(self)


ARCHITECTURES = (LogisticArchitecture,)
