"""The card of a model: what it is, what it was trained on, how well it does, and for whom it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pydantic
import yaml

from pipelines.models.architecture import Architecture, read_architecture

__all__ = [
    "InputSpecification",
    "Measurement",
    "ModelCard",
    "TrainingData",
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
    field: _Text
    """What it shows, such as the heart crop, the whole image, or numbers."""
    spacing_mm: float | None = None
    """Distance of the points; ``None`` where the crop grows with the heart."""
    channels: tuple[_Text, ...]
    normalisation: _Text


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
    cavity_bias: tuple[float, float] = (0.0, 0.0)
    """By how much the log odds of the LV cavity are moved before labels are compared: a and b (mm) of ``a - b / r``, r
    the radius of the cavity of the slice. Fitted so that volumes at end diastole and end systole have no bias."""
    architecture: Annotated[pydantic.SerializeAsAny[Architecture], pydantic.BeforeValidator(read_architecture)]
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
