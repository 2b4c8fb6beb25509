"""The models that come with this package: found by name, checked by hash, loaded without pickle."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pipelines.models
from pipelines.models.card import ModelCard, read_card
from pipelines.models.folding import fold_normalisations, leave_padding_out
from pipelines.models.identity import ModelIdentity
from pipelines.models.precision import Precision

if TYPE_CHECKING:
    import torch

__all__ = [
    "PACKAGED",
    "LoadedModel",
    "ModelUnavailable",
    "is_installed",
    "list_models",
    "load_model",
    "load_model_once",
    "model_folders",
]

PACKAGED = Path(__file__).parent
"""Folder of the models that come with this package; others may lie in ``pipelines/models`` elsewhere on the path."""


class ModelUnavailable(RuntimeError):  # noqa: N818 - says what is the case
    """A model is missing, or its weights are not those of its card."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A network in evaluation mode, channels-last, on one device, its weights in the precision of its identity."""

    network: torch.nn.Module
    identity: ModelIdentity
    card: ModelCard
    device: str = "cpu"

    def probabilities(self, inputs: torch.Tensor) -> torch.Tensor:
        """Label probabilities (N, L, n, n), on the CPU, of inputs (N, C, n, n) from any device."""
        import torch

        low = self.identity.precision is Precision.BFLOAT16
        logits = self.network(inputs.to(torch.device(self.device), torch.bfloat16 if low else None))
        result: torch.Tensor = logits.float().softmax(1).cpu()
        return result


def list_models(root: Path | None = None) -> tuple[ModelCard, ...]:
    """Cards of all models, by name: those under ``root``, or those of every ``pipelines/models`` on the path.

    Raises
    ------
    ValueError
        A card breaks the schema.
    """
    return tuple(card for _, card in model_folders(root).values())


def model_folders(root: Path | None = None) -> dict[str, tuple[Path, ModelCard]]:
    """Folder and card of every model, by name, in alphabetical order.

    Raises
    ------
    ValueError
        A card breaks the schema.
    """
    found = [(path.parent, read_card(path)) for folder in _roots(root) for path in folder.glob("*/card.yaml")]
    return {card.name: (folder, card) for folder, card in sorted(found, key=lambda one: one[1].name)}


def _roots(root: Path | None) -> list[Path]:
    return [Path(folder) for folder in pipelines.models.__path__] if root is None else [root]


def is_installed(name: str, root: Path | None = None) -> bool:
    """Whether there is a model of this name, under ``root`` or in any ``pipelines/models`` on the path."""
    return any((place / name / "card.yaml").is_file() for place in _roots(root))


def load_model(
    name: str, device: str = "cpu", root: Path | None = None, precision: Precision = Precision.FLOAT32
) -> LoadedModel:
    """Load the weights of one model to a torch device, layer by layer as they were trained.

    Parameters
    ----------
    name : str
    device : str
    root : Path or None
        Folder of the models; every ``pipelines/models`` on the path by default.
    precision : Precision
        What it computes probabilities of labels in. In bfloat16 normalisations are folded, so that weights are rounded
        once.

    Raises
    ------
    ModelUnavailable
        There is no such model, or its weights are missing, damaged or not those of its card.
    """
    return _loaded(name, device, root, precision, folded=precision is Precision.BFLOAT16)


def _loaded(name: str, device: str, root: Path | None, precision: Precision, *, folded: bool) -> LoadedModel:
    import safetensors
    import safetensors.torch
    import torch

    places = _roots(root)
    folder = next((place / name for place in places if (place / name / "card.yaml").is_file()), None)
    if folder is None:
        known = ", ".join(sorted(path.parent.name for place in places for path in place.glob("*/card.yaml"))) or "none"
        where = " or ".join(map(str, places))
        raise ModelUnavailable(f"there is no model {name!r} in {where}; installed: {known}")
    card = read_card(folder / "card.yaml")
    path = folder / "weights.safetensors"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelUnavailable(f"weights of model {name} cannot be read: {error}; install the package again") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != card.weights_sha256:
        raise ModelUnavailable(
            f"weights of model {name} have SHA-256 {sha256}, its card says {card.weights_sha256}: "
            f"{path} is damaged or was replaced; install the package again"
        )
    network = card.architecture.build()
    try:
        network.load_state_dict(safetensors.torch.load(content))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ModelUnavailable(f"weights of model {name} do not fit the architecture of its card: {error}") from error
    network = network.eval()
    if folded:
        fold_normalisations(network)
        leave_padding_out(network, card.input.size)
    if precision is Precision.BFLOAT16:
        network = network.to(torch.bfloat16)
    return LoadedModel(network.to(device), replace(identity_of(card), precision=precision), card, device)


def identity_of(card: ModelCard) -> ModelIdentity:
    """The part of a card that stands in every result."""
    training = card.training
    return ModelIdentity(
        name=card.name,
        version=card.version,
        weights_sha256=card.weights_sha256,
        task=card.task,
        training_data=f"{training.name}, {len(training.cases)} hearts ({training.licence})",
        licence=card.licence,
    )


@cache
def load_model_once(
    name: str, device: str = "cpu", root: Path | None = None, precision: Precision = Precision.FLOAT32
) -> LoadedModel:
    """Load a model to be run, and keep it: equal arguments give the same object until the cache is cleared.

    Its normalisations are folded, so it computes what that of `load_model` does up to the rounding of its precision.

    Raises
    ------
    ModelUnavailable
        As in `load_model`; the next call tries again.
    """
    return _loaded(name, device, root, precision, folded=True)
