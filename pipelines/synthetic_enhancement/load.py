"""The networks of synthetic enhancement with the calibration that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.models.identity import ModelIdentity
from pipelines.models.precision import Precision
from pipelines.models.registry import PACKAGED, LoadedModel, ModelUnavailable, load_model_once
from pipelines.synthetic_enhancement import sequence
from pipelines.synthetic_enhancement.calibration import Calibration, read_calibration
from pipelines.synthetic_enhancement.network import GUESS_MODEL, REFINER_MODEL

__all__ = ["Networks", "load_networks"]


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """First guess, refiner, the network that reads sequences, and the calibration of their outputs."""

    first: LoadedModel
    refiner: LoadedModel
    sequence: LoadedModel
    calibration: Calibration

    @property
    def identities(self) -> tuple[ModelIdentity, ...]:
        """Of all networks."""
        return self.first.identity, self.refiner.identity, self.sequence.identity


def load_networks(device: str = "cpu", root: Path = PACKAGED, precision: Precision = Precision.FLOAT32) -> Networks:
    """Load the networks and their calibration from a folder of models; the refiner computes in a given precision.

    Raises
    ------
    ModelUnavailable
        One of them is missing or damaged, or they do not belong together.
    """
    first, third = (load_model_once(name, device, root) for name in (GUESS_MODEL, sequence.MODEL))
    refiner = load_model_once(REFINER_MODEL, device, root, precision)
    calibration = read_calibration(root / GUESS_MODEL, first.identity.weights_sha256)
    for model, sha256 in ((refiner, calibration.refiner_sha256), (third, calibration.sequence_sha256)):
        if sha256 != model.identity.weights_sha256:
            raise ModelUnavailable(
                f"the calibration of {GUESS_MODEL} belongs to another {model.card.name}: calibrate again"
            )
    return Networks(first, refiner, third, calibration)
