"""Identity of a trained network, as it stands in every result it had a part in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pipelines.models.precision import Precision

__all__ = ["MadeByModels", "ModelIdentity"]


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Name, version and weights of one network."""

    name: str
    version: str
    weights_sha256: str
    """Hexadecimal SHA-256 of ``weights.safetensors``: part of the identity of every result object."""
    task: str
    training_data: str
    """One line for reports: what it was trained on."""
    licence: str
    """SPDX identifier of the weights, such as ``CC-BY-NC-SA-4.0``."""
    precision: Precision = Precision.FLOAT32
    """Type of the numbers that it computed in; part of the identity of every result object."""


@runtime_checkable
class MadeByModels(Protocol):
    """A finding that networks had a part in; results name them, and have other UIDs when they change."""

    @property
    def models(self) -> tuple[ModelIdentity, ...]:
        """The networks that took part."""
        ...
