"""Hearts with an acute infarct, measured as the node does, once for all models of obstruction."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, CineStudy
from pipelines.function.findings import Keyframes
from pipelines.indication import Indication
from pipelines.models.registry import LoadedModel
from pipelines.obstruction.calibration import calibrated
from pipelines.obstruction.clips import clips_of_stack
from pipelines.obstruction.estimate import wall_of_stack
from pipelines.obstruction.network import ObstructionNetwork
from pipelines.obstruction.predict import heart_probability, slice_logits
from pipelines.obstruction.wall_model import WallModel
from pipelines.phantom.assembled import cine_study
from pipelines.phantom.evidence import obstruction_evidence
from pipelines.phantom.identity import recipe_key
from pipelines.phantom.law import PESSIMISTIC_LAW, JointLaw
from pipelines.phantom.study import simulate
from pipelines.segmentation.labels import CineSegmentation
from pipelines.study import analyse_study
from pipelines.training.heart_clips import Population, clip_recipe
from pipelines.training.labelled_studies import StudyFiles, study_of
from pipelines.training.obstruction_wall import motion_lost
from pipelines.ventricular_function.steps import ShortAxis

__all__ = [
    "MeasuredHeart",
    "clips_of",
    "kept_hearts",
    "labelled_heart",
    "measured_phantom",
    "measured_stack",
    "measured_study",
    "probability_of",
]

_BLEEDS = 0.5
"""Appearance of the core from which it is haemorrhage."""
_GREY = 200
_STUDIES = "obstruction-study-"
"""Begins the names of files of a site's studies; a table says what is true of them."""


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredHeart:
    """What the models of obstruction read of one heart.

    Attributes
    ----------
    clips : (S, 30, 64, 64) uint8
        Grey values 0 … 1.25 times 200; empty where declined.
    features : (20,) float64
        See :data:`pipelines.obstruction.wall.FEATURES`; empty where declined.
    refused : str
        Why the node declines, empty where it does not.
    facts : dict
        Of a phantom ``obstruction`` (whether its short axis shows one), ``bleeding`` (whether that has haemorrhage),
        ``evidence`` (see :func:`pipelines.phantom.evidence.obstruction_evidence`), and ``lost`` (see
        :func:`pipelines.training.obstruction_wall.motion_lost`). Of a site's study ``obstruction``, as its table says.
    """

    clips: NDArray[np.uint8]
    features: NDArray[np.float64]
    refused: str
    facts: dict[str, Any]


def measured_phantom(seed: int, law: JointLaw, folder: Path | None) -> MeasuredHeart:
    """Simulate a phantom and measure it as the node does, its own segmentation included.

    Parameters
    ----------
    folder : Path or None
        Keeps what was measured; made when absent.

    Raises
    ------
    ValueError
        What is kept is of another phantom or not readable.
    """
    recipe = replace(clip_recipe(seed, Population.ACUTE_INFARCT, law), late_enhancement=False)
    key = recipe_key(recipe)
    named = "pessimistic" if law == PESSIMISTIC_LAW else "default"
    kept = None if folder is None else folder / f"obstruction-{named}-{seed}.npz"
    if kept is not None and kept.is_file():
        heart = _read(kept)
        if heart.facts["recipe"] != key:
            raise ValueError(f"{kept.name} is of another phantom: remove it")
        return heart
    study = simulate(recipe, workers=1)
    infarct = study.subject.infarct
    assert infarct is not None
    shown = bool((study.short_axis.lesions[0] == 2).any())
    facts = {
        "recipe": key,
        "obstruction": shown,
        "bleeding": shown and study.heart.lesions.appearance.core >= _BLEEDS,
        "evidence": obstruction_evidence(infarct, law),
        "lost": motion_lost(study.heart),
    }
    heart = replace(measured_study(cine_study(study)), facts=facts)
    if kept is not None:
        _keep(heart, kept)
    return heart


def labelled_heart(files: StudyFiles, *, positive: bool, folder: Path | None) -> MeasuredHeart:
    """Measure a site's study as the node does.

    Parameters
    ----------
    positive : bool
        What its table says of obstruction.
    folder : Path or None
        Keeps what was measured, whatever the table says; made when absent.

    Raises
    ------
    ValueError
        What is kept is not readable.
    """
    kept = None if folder is None else folder / f"obstruction-{files.case}.npz"
    if kept is not None and kept.is_file():
        heart = _read(kept)
    else:
        study = study_of(files)
        heart = _declined("Its files hold no cine.") if study is None else measured_study(study)
        if kept is not None:
            _keep(heart, kept)
    return replace(heart, facts={"obstruction": positive})


def _keep(heart: MeasuredHeart, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        told = np.array(json.dumps({"refused": heart.refused, **heart.facts}, default=float))
        np.savez_compressed(file, clips=heart.clips, features=heart.features, facts=told)
    partial.replace(path)


def kept_hearts(folder: Path) -> list[MeasuredHeart]:
    """Phantoms that :func:`measured_phantom` has kept in a folder and the node did not decline, in order of seed.

    Raises
    ------
    ValueError
        A file cannot be read, or there is none.
    """
    paths = [path for path in sorted(folder.glob("obstruction-*.npz")) if not path.name.startswith(_STUDIES)]
    hearts = [_read(path) for path in paths]
    if not hearts:
        raise ValueError(f"{folder} holds no measured hearts")
    return [heart for heart in hearts if not heart.refused]


def _read(path: Path) -> MeasuredHeart:
    try:
        with np.load(path, allow_pickle=False) as archive:
            facts = json.loads(str(archive["facts"]))
            return MeasuredHeart(archive["clips"], archive["features"], facts.pop("refused"), facts)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} holds no measured heart: {error}") from error


def measured_study(study: CineStudy) -> MeasuredHeart:
    """Measure a study as the node does, whatever its indication."""
    study = replace(study, context=replace(study.context, indication=Indication.ACUTE_INFARCT))
    findings = analyse_study(study, [cast("type", ShortAxis), CineSegmentation, Keyframes])
    stack, keyframes = study.short_axis, findings.get(Keyframes)
    if stack is None or keyframes is None:
        return _declined("; ".join(one.sentence for one in findings.refusals if one.because_of is None))
    return measured_stack(stack, findings[CineSegmentation].labels, keyframes.end_diastole, keyframes.end_systole)


def measured_stack(stack: CineStack, labels: NDArray[np.uint8], end_diastole: int, end_systole: int) -> MeasuredHeart:
    """Measure a stack with labels (T, S, R, C)."""
    try:
        wall, _, _ = wall_of_stack(stack, labels, end_diastole, end_systole)
        clips, _, _ = clips_of_stack(stack.pixels, labels, stack.geometry, end_diastole, end_systole)
    except ValueError as error:
        return _declined(str(error))
    return MeasuredHeart((_GREY * clips).round().astype(np.uint8), wall.features, "", {})


def _declined(why: str) -> MeasuredHeart:
    return MeasuredHeart(np.zeros((0, 30, 64, 64), np.uint8), np.zeros(0), why, {})


def probability_of(heart: MeasuredHeart, model: LoadedModel) -> float | None:
    """Probability of obstruction, as the node has it; ``None`` where it declines."""
    if heart.refused:
        return None
    if isinstance(model.network, WallModel):
        return calibrated(model.network, model.network.score(heart.features)).value
    network = cast("ObstructionNetwork", model.network)
    return heart_probability(network, slice_logits(network, clips_of(heart), model.device)).value


def clips_of(heart: MeasuredHeart) -> NDArray[np.float32]:
    """Clips (S, 30, 64, 64) of a heart, grey values 0 … 1.25."""
    return heart.clips.astype(np.float32) / np.float32(_GREY)
