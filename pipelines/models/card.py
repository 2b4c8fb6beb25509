"""The card of a model: what it is, what it was trained on, how well it does, and for whom it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic
import yaml

__all__ = [
    "AnyArchitecture",
    "Architecture",
    "ClipArchitecture",
    "DiffusionArchitecture",
    "FusionArchitecture",
    "InputSpecification",
    "LogisticArchitecture",
    "Measurement",
    "ModelCard",
    "TrainingData",
    "WallArchitecture",
    "read_card",
    "write_card",
]

_Text = Annotated[str, pydantic.StringConstraints(min_length=1, strip_whitespace=True)]
_Sha256 = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class InputSpecification(_Frozen):
    """What one input of the network is."""

    size: int = pydantic.Field(ge=16)
    """Points along each side of the square input, or how many numbers there are."""
    field: Literal["heart crop", "whole image", "numbers"]
    spacing_mm: float | None = None
    """Distance of the points; ``None`` where the crop grows with the heart."""
    channels: tuple[_Text, ...]
    normalisation: _Text


class Architecture(_Frozen):
    """A network of MONAI."""

    kind: Literal["monai.BasicUNet"] = "monai.BasicUNet"
    in_channels: int = pydantic.Field(ge=1)
    out_channels: int = pydantic.Field(ge=2)
    features: tuple[int, int, int, int, int, int]
    """Features of the five levels, then of the last layer."""
    norm: Literal["batch", "instance"] = "batch"


class DiffusionArchitecture(_Frozen):
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


class ClipArchitecture(_Frozen):
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


class FusionArchitecture(_Frozen):
    """Image encoder and perceptrons of :mod:`pipelines.remodelling.network`."""

    kind: Literal["remodelling.fusion"] = "remodelling.fusion"
    features: tuple[int, int, int, int]
    """Features of the four 3D convolutions."""
    hidden: int = pydantic.Field(ge=1)
    """Width of the hidden layer of each perceptron."""
    bootstrap: int = pydantic.Field(ge=1)
    """Draws of the bootstrap of the combined model that are stored with it."""
    images: bool = True
    """Without them the network sees morphology and motion only, and has no attribution."""


class LogisticArchitecture(_Frozen):
    """A multinomial logistic model of numbers (:mod:`pipelines.disease_pattern.network`)."""

    kind: Literal["logistic"] = "logistic"
    in_features: int = pydantic.Field(ge=1)
    classes: int = pydantic.Field(ge=2)


class WallArchitecture(_Frozen):
    """A linear score of how the wall of the left ventricle moves (:mod:`pipelines.obstruction.wall_model`)."""

    kind: Literal["wall-motion"] = "wall-motion"
    features: tuple[_Text, ...]
    """In the order of the coefficients."""


AnyArchitecture = (
    Architecture
    | ClipArchitecture
    | DiffusionArchitecture
    | FusionArchitecture
    | LogisticArchitecture
    | WallArchitecture
)


class TrainingData(_Frozen):
    """What the weights were fitted to."""

    name: _Text
    licence: _Text
    source: _Text
    cases: tuple[str, ...]
    """Identifiers of the patients the weights have seen."""
    split: _Text
    steps: int = pydantic.Field(ge=1)
    command: _Text


class Measurement(_Frozen):
    """Figures on one set of cases."""

    data: _Text
    cases: int = pydantic.Field(ge=1)
    seen_in_training: bool
    command: _Text
    figures: dict[str, float]
    remark: str | None = None


class ModelCard(_Frozen):
    """The contents of ``card.yaml``."""

    name: _Text
    version: Annotated[str, pydantic.StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
    task: _Text
    licence: _Text
    """SPDX identifier of the weights."""
    weights_sha256: _Sha256
    summary: _Text
    input: InputSpecification
    output: tuple[_Text, ...]
    """Meaning of each output channel."""
    label_weights: tuple[float, ...]
    """Weight of each output in the training loss. It makes rare labels too likely by that factor, which segmentation
    takes back before it compares labels."""
    architecture: Annotated[AnyArchitecture, pydantic.Field(discriminator="kind")]
    training: TrainingData
    measurements: tuple[Measurement, ...] = ()
    limits: tuple[_Text, ...]
    not_for: tuple[_Text, ...]


def read_card(path: Path) -> ModelCard:
    """Read and validate a card.

    Raises
    ------
    ValueError
        The file is missing, is not YAML or breaks the schema; the message names the file and the keys.
    """
    try:
        return ModelCard.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"model card {path} cannot be read: {error}") from error
    except pydantic.ValidationError as error:
        keys = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'card'}: {item['msg']}" for item in error.errors())
        raise ValueError(f"model card {path} is not valid: {keys}") from error


def write_card(card: ModelCard, path: Path) -> None:
    """Write a card as YAML, in the order of its fields."""
    text = yaml.safe_dump(
        card.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True, width=110
    )
    path.write_text(text, encoding="utf-8")
