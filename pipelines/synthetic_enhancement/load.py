"""The networks of synthetic enhancement with the calibration that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.models.registry import PACKAGED, LoadedModel, ModelUnavailable, load_model_once
from pipelines.synthetic_enhancement.calibration import Calibration, read_calibration
from pipelines.synthetic_enhancement.network import GUESS_MODEL, REFINER_MODEL

__all__ = ["Networks", "load_networks"]


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """First guess, refiner, and the calibration of their outputs."""

    first: LoadedModel
    refiner: LoadedModel
    calibration: Calibration


def load_networks(device: str = "cpu", root: Path = PACKAGED) -> Networks:
    """Load both networks and their calibration from a folder of models.

    Raises
    ------
    ModelUnavailable
        One of them is missing or damaged, or they do not belong together.
    """
    first, refiner = load_model_once(GUESS_MODEL, device, root), load_model_once(REFINER_MODEL, device, root)
    calibration = read_calibration(root / GUESS_MODEL, first.identity.weights_sha256)
    if calibration.refiner_sha256 != refiner.identity.weights_sha256:
        raise ModelUnavailable(f"the calibration of {GUESS_MODEL} belongs to another {REFINER_MODEL}: calibrate again")
    return Networks(first, refiner, calibration)
