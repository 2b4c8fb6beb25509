"""What the networks of synthetic enhancement owe to each input: asked again without it, or trained without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.models.registry import LoadedModel, load_model_once
from pipelines.synthetic_enhancement.extent import measure_extents
from pipelines.synthetic_enhancement.features import SPACING_MM, Ablation, describe, slice_inputs, withheld_channels
from pipelines.synthetic_enhancement.load import Networks
from pipelines.synthetic_enhancement.measure import Answer, HeartOnGrid, slice_values, study_values
from pipelines.synthetic_enhancement.network import GUESS_MODEL, draw_samples, guess

if TYPE_CHECKING:
    import torch

__all__ = ["TRAINED", "Ablated", "ablated_from", "ask_again", "ask_others", "load_others"]

TRAINED = "trained "
"""How names of other first guesses begin."""
_STEPS = (1, 2, 4, 8)
_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Ablated:
    """What is said of one heart when something is changed.

    Attributes
    ----------
    squared_error : float
        Mean over the true muscle, on the scale where nulled muscle is 0 and dense scar 1.
    deviation : float or None
        Mean standard deviation of the samples of the refiner.
    hyperintense_percent : float or None
        Extent on the image of the first guess, without the operating point.
    probability : float or None
        Of the heart, by the calibration of the networks of the package.
    logit : float or None
        Of the heart, uncalibrated: mean of its two likeliest slices.
    slices : tuple of float
        Logit of each slice, uncalibrated.
    """

    squared_error: float
    deviation: float | None = None
    hyperintense_percent: float | None = None
    probability: float | None = None
    logit: float | None = None
    slices: tuple[float, ...] = ()


def ablated_from(value: Mapping[str, Any]) -> Ablated:
    """From the plain values of :func:`dataclasses.asdict`."""
    return Ablated(**{**value, "slices": tuple(value.get("slices", ()))})


def load_others(folders: Sequence[Path]) -> dict[str, LoadedModel]:
    """First guesses to compare, by ``trained`` and the name of the folder that holds each.

    Raises
    ------
    ModelUnavailable
        There is none in a folder.
    ValueError
        Two folders have the same name.
    """
    names = [TRAINED + folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError("networks to compare are told apart by the names of their folders: give each another name")
    return {name: load_model_once(GUESS_MODEL, root=folder) for name, folder in zip(names, folders, strict=True)}


def ask_others(
    heart: HeartOnGrid, others: Mapping[str, LoadedModel], truth: NDArray[np.float32], muscle: NDArray[np.bool_]
) -> dict[str, Ablated]:
    """What other first guesses say of a heart; ``truth`` and ``muscle`` as in :func:`ask_again`."""
    inputs = slice_inputs(describe(heart.crop))
    return {name: _figures(_asked(inputs, model), heart, truth, muscle) for name, model in others.items()}


def ask_again(
    heart: HeartOnGrid, networks: Networks, truth: NDArray[np.float32], muscle: NDArray[np.bool_]
) -> dict[str, Ablated]:
    """What the networks say of a heart when something is kept from them; no weight was trained for that.

    Parameters
    ----------
    heart : HeartOnGrid
    networks : Networks
    truth : (K, 64, 64) float32
        The late enhancement.
    muscle : (K, 64, 64) bool
        True muscle, in which the squared error is taken.

    Returns
    -------
    dict
        By what is changed: an :class:`pipelines.synthetic_enhancement.features.Ablation`, or the steps of the refiner,
        of which the squared error is that of the mean of its samples.
    """
    whole = slice_inputs(describe(heart.crop))
    fitted = (networks.calibration.whole_cycle if heart.crop.whole_cycle else networks.calibration.two_moments).study
    found = {}
    for ablation in Ablation:
        inputs = whole.clone()
        # Images that are not there are black, as those of missing moments are in training.
        inputs[:, list(withheld_channels(ablation))] = -1.0 if ablation is Ablation.NO_IMAGE else 0.0
        answer = _asked(inputs, networks.first)
        found[str(ablation)] = replace(
            _figures(answer, heart, truth, muscle),
            probability=float(fitted.probability(study_values(slice_values(answer, heart.muscle)))),
        )
    first, _ = guess(whole, networks.first)
    for steps in _STEPS:
        samples = draw_samples(whole, first, networks.refiner, samples=_SAMPLES, steps=steps, seed=0).numpy()
        found[f"{steps} steps"] = Ablated(
            squared_error=float(np.square(samples.mean(axis=0) - truth)[muscle].mean()),
            deviation=float(samples.std(axis=0)[muscle].mean()),
        )
    return found


def _asked(inputs: torch.Tensor, model: LoadedModel) -> Answer:
    """What a first guess says by itself: no sample is drawn, and the reader of sequences is not asked."""
    first, deep = guess(inputs, model)
    return Answer(
        probability=first.logit.sigmoid().numpy(),
        slice_logit=first.slice_logit.double().numpy(),
        first=first.image.clamp(-0.5, 1.5).numpy(),
        samples=first.image[None].numpy(),
        deep=deep.double().mean(0).numpy(),
        sequence=np.zeros(0),
    )


def _figures(answer: Answer, heart: HeartOnGrid, truth: NDArray[np.float32], muscle: NDArray[np.bool_]) -> Ablated:
    extents = measure_extents(answer.first, heart.muscle, heart.cavity, heart.weights, SPACING_MM)
    return Ablated(
        squared_error=float(np.square(answer.first - truth)[muscle].mean()),
        hyperintense_percent=extents.hyperintense_percent,
        logit=float(study_values(slice_values(answer, heart.muscle))[0]),
        slices=tuple(answer.slice_logit.tolist()),
    )
