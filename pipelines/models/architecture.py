"""What an architecture is, and how architectures are found: ``pipelines/<folder>/architecture.py`` declares them.

A card names the kind of its network. Only what such a file declares is built: nothing is imported because a card says
so, and a new architecture is declared in the folder of its analysis.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import pydantic

from pipelines.errors import AnalysisSetupError
from pipelines.folders import folders_holding

if TYPE_CHECKING:
    import torch

__all__ = ["ARCHITECTURES", "Architecture", "UNetArchitecture", "architectures", "read_architecture"]


class Architecture(pydantic.BaseModel):
    """The size of a network: each kind of network is a subclass, with a ``kind`` of its own as the default.

    A file ``pipelines/<folder>/architecture.py`` lists its subclasses in ``ARCHITECTURES``. It is imported wherever
    cards are read, so what computes is imported in :meth:`build`.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    kind: str

    @abstractmethod
    def build(self) -> torch.nn.Module:
        """Network of this size with random weights."""


class UNetArchitecture(Architecture):
    """A network of MONAI from images to maps of the same size."""

    kind: Literal["monai.BasicUNet"] = "monai.BasicUNet"
    in_channels: int = pydantic.Field(ge=1)
    out_channels: int = pydantic.Field(ge=2)
    features: tuple[int, int, int, int, int, int]
    """Features of the five levels, then of the last layer."""
    norm: Literal["batch", "instance"] = "batch"

    def build(self) -> torch.nn.Module:
        """Network with random weights, channels-last."""
        import torch
        from monai.networks.nets.basic_unet import BasicUNet

        network: torch.nn.Module = BasicUNet(
            spatial_dims=2,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            features=self.features,
            norm=self.norm,
            act=("LeakyReLU", {"negative_slope": 0.1, "inplace": True}),
        )
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


ARCHITECTURES: tuple[type[Architecture], ...] = (UNetArchitecture,)
"""Those of several analyses."""


@cache
def architectures() -> Mapping[str, type[Architecture]]:
    """All architectures that are declared, by kind.

    Raises
    ------
    AnalysisSetupError
        A file cannot be imported or declares none, or two declare one kind.
    """
    found: dict[str, type[Architecture]] = {}
    for name, folder in sorted(folders_holding("architecture.py").items()):
        where = folder / "architecture.py"
        try:
            declared = importlib.import_module(f"pipelines.{name}.architecture").ARCHITECTURES
        except Exception as error:
            raise AnalysisSetupError(f"architectures of {name} cannot be imported from {where}: {error!r}") from error
        for one in declared:
            kind = one.model_fields["kind"].default
            if found.setdefault(kind, one) is not one:
                raise AnalysisSetupError(f"{where} declares the kind {kind!r} a second time")
    return MappingProxyType(found)


def read_architecture(value: object) -> Architecture:
    """The architecture that a card describes.

    Raises
    ------
    ValueError
        The kind is not declared, or a value is not what this kind wants.
    """
    if isinstance(value, Architecture):
        return value
    kind = str(value.get("kind")) if isinstance(value, dict) else ""
    known = architectures()
    if kind not in known:
        raise ValueError(f"kind is {kind!r}; there are {', '.join(sorted(known))}")
    return known[kind].model_validate(value)
