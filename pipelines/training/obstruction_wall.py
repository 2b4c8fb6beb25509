"""Fit of the wall model: on packed phantoms, whose loss of motion is known, or its calibration on a site's studies.

A table of outcomes of some hundred hearts teaches little: obstruction is one bit a heart, and hearts with and without
it overlap. How much motion the wall has lost around an infarct is a number that is known of every phantom, and deep and
large infarcts are those with obstruction. So the score is fitted to that number, and only its calibration to
obstruction.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.logistic import fit_logistic
from pipelines.models.card import InputSpecification, ModelCard, TrainingData, write_card
from pipelines.models.registry import load_model_once
from pipelines.obstruction.clips import SPACING_MM, WIDE
from pipelines.obstruction.estimate import wall_of_stack
from pipelines.obstruction.network import MODEL
from pipelines.obstruction.wall import FEATURES, WallMotion, describe_wall
from pipelines.obstruction.wall_model import WALL, WallModel
from pipelines.phantom.heart import Heart
from pipelines.phantom.identity import recipe_key
from pipelines.phantom.law import DEFAULT_LAW, PESSIMISTIC_LAW
from pipelines.phantom.study import draw_heart
from pipelines.segmentation.decision import likeliest_labels
from pipelines.segmentation.ensemble import label_probabilities
from pipelines.segmentation.grid import Square, sample_image, sample_square
from pipelines.segmentation.labels import Label
from pipelines.segmentation.localise import neighbour_channels
from pipelines.segmentation.segment import FINE_MODEL, keep_plausible
from pipelines.training.checkpoint import save_atomically
from pipelines.training.heart_clips import HeartClips, Population, clip_recipe, read_clips
from pipelines.training.obstruction_calibration import calibrate
from pipelines.training.obstruction_studies import segmented_studies
from pipelines.training.steps import TrainingResult

__all__ = ["WallHeart", "fit_wall", "motion_lost", "walls_of_clips", "walls_of_studies"]

_FOLDS = 5
_PENALTY = 10.0
"""Of the sum of squared coefficients of standardised features."""
_WORST = 0.2
"""Share of the wall, where it has lost most motion, that stands for an infarct: deeper and larger ones both fill it."""
_EACH_MIN = 8


@dataclass(frozen=True, slots=True, eq=False)
class WallHeart:
    """One heart to learn from.

    Attributes
    ----------
    name : str
    wall : WallMotion
        As the node's own segmentation shows it.
    obstruction : bool
    slices : (S,) bool or None
        Whether each slice shows it; ``None`` where only the heart has a label.
    lost : float
        Motion that the wall has truly lost around the infarct, see :func:`motion_lost`; NaN of patients.
    """

    name: str
    wall: WallMotion
    obstruction: bool
    slices: NDArray[np.bool_] | None = None
    lost: float = float("nan")


def motion_lost(heart: Heart) -> float:
    """Mean contractility lost by the fifth of a phantom's muscle that has lost most: 0 healthy, 1 akinetic."""
    lv = heart.lv
    inside = (lv.levels > lv.apex) & (lv.levels < lv.length)
    loss = heart.lesions.loss[inside].ravel()
    muscle = (lv.epi2 - np.maximum(lv.endo2, 0))[inside].ravel()
    order = np.argsort(-loss)
    worst = order[np.cumsum(muscle[order]) <= _WORST * muscle.sum()]
    return float(np.average(loss[worst], weights=muscle[worst]))


def walls_of_clips(
    paths: Sequence[Path], folder: Path, report: Callable[[int, int], None] | None = None
) -> list[WallHeart]:
    """Packed phantoms, with contours by the node's own segmentation network.

    Parameters
    ----------
    paths : sequence of Path
        Of :func:`pipelines.training.heart_clips.pack_clips`.
    folder : Path
        Keeps the contours once drawn; made when absent.
    report : callable
        Is called with the hearts done and wanted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hearts = []
    for done, (path, clips) in enumerate(zip(paths, read_clips(paths), strict=True), 1):
        diastole, systole = _contours(clips, folder / f"{path.stem}-contours.npz")
        try:
            wall = describe_wall(diastole, systole)
        except ValueError:
            # The network saw no wall: the node declines such a study.
            continue
        places = clips.lesions == 2
        hearts.append(
            WallHeart(
                f"phantom-{clips.seed}", wall, bool(places.any()), np.asarray(places.any(axis=(1, 2))), _lost(clips)
            )
        )
        if report is not None:
            report(done, len(paths))
    return hearts


def _lost(clips: HeartClips) -> float:
    for law in (DEFAULT_LAW, PESSIMISTIC_LAW):
        recipe = clip_recipe(clips.seed, Population.ACUTE_INFARCT, law)
        if recipe_key(recipe) == clips.facts["recipe"]:
            return motion_lost(draw_heart(recipe)[1])
    raise ValueError(f"phantom {clips.seed} is no acute infarct of the default or the pessimistic law")


def _contours(clips: HeartClips, kept: Path) -> NDArray[np.uint8]:
    """Labels (2, S, 88, 88) of end diastole and end systole."""
    if kept.is_file():
        try:
            with np.load(kept, allow_pickle=False) as archive:
                return np.asarray(archive["labels"], np.uint8)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{kept.name} holds no contours: {error}") from error
    # Phase 0 is end diastole.
    systole = 1 + int(np.argmin((clips.labels[1:] == Label.LV).sum(axis=(1, 2, 3))))
    labels = _segmented(clips.images[[0, systole]])
    partial = kept.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, labels=labels)
    partial.replace(kept)
    return labels


def _segmented(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels of packed images (T, S, 88, 88) by the network of the node, on the field of the clips."""
    fine = load_model_once(FINE_MODEL)
    middle = (WIDE - 1) / 2 * SPACING_MM
    square, spacing = Square(middle, middle, WIDE * SPACING_MM), (SPACING_MM, SPACING_MM)
    labels = np.empty(images.shape, np.uint8)
    for phase, seen in zip(labels, torch.from_numpy(images).float() / 200, strict=True):
        crops = sample_square(seen[None], spacing, square, fine.card.input.size)[0]
        probability = torch.from_numpy(label_probabilities(neighbour_channels(crops), fine)[0])
        whole = sample_image(probability, spacing, square, (0, WIDE), (0, WIDE))
        phase[:] = keep_plausible(likeliest_labels(whole.numpy(), fine.card.cavity_bias or (0.0, 0.0), SPACING_MM**2))
    return labels


def walls_of_studies(
    folder: Path, labels: Path, *, device: str = "cpu", report: Callable[[str, str], None] | None = None
) -> list[WallHeart]:
    """A site's own studies; see :func:`pipelines.training.obstruction_studies.segmented_studies`."""
    return [
        WallHeart(one.case, wall_of_stack(one.stack, one.labels, one.end_diastole, one.end_systole)[0], one.obstruction)
        for one in segmented_studies(folder, labels, device=device, report=report)
    ]


def fit_wall(
    hearts: Sequence[WallHeart],
    output: Path,
    *,
    data: TrainingData,
    start: WallModel | None = None,
    seed: int = 0,
) -> TrainingResult:
    """Fit score and calibration of the wall model and write weights and card.

    Without ``start`` the score is fitted to the motion lost, once without each fifth of the hearts; what the fits say
    of the hearts that they have not seen is calibrated, and the fit to all is kept. With ``start`` its score is kept
    and calibrated to these hearts.

    Parameters
    ----------
    hearts : sequence of WallHeart
    output : Path
        Receives ``weights.safetensors`` and ``card.yaml``.
    data : TrainingData
        For the card: cases are filled in.
    start : WallModel, optional
        Of other hearts than these.
    seed : int
        Of the folds and of the resampling.

    Raises
    ------
    ValueError
        There are fewer than 8 hearts of an outcome, or the motion lost is not known and there is no ``start``.
    """
    outcomes = np.array([heart.obstruction for heart in hearts])
    if min(outcomes.sum(), (~outcomes).sum()) < _EACH_MIN:
        raise ValueError(
            f"{outcomes.sum()} of {len(hearts)} hearts have an obstruction: at least {_EACH_MIN} with and without are "
            "needed"
        )
    features = np.stack([heart.wall.features for heart in hearts])
    model = WallModel(WALL)
    if start is None:
        lost = np.array([heart.lost for heart in hearts])
        if not np.isfinite(lost).all():
            raise ValueError("how much motion was lost is not known of patients: start from a model fitted to phantoms")
        scores = np.empty(len(hearts))
        for held in _folds(outcomes, seed):
            scores[held] = _scored(_ridge(features[~held], lost[~held]), features[held])
        coefficients = _ridge(features, lost)
    else:
        coefficients = start.coefficients.double().numpy()
        scores = _scored(coefficients, features)
    model.coefficients.copy_(torch.from_numpy(coefficients))
    model.usual.copy_(torch.from_numpy(features.mean(axis=0)))
    calibrate(model, scores, outcomes, seed)
    labelled = [
        (score, heart.wall.by_slice, heart.slices)
        for score, heart in zip(scores, hearts, strict=True)
        if heart.slices is not None
    ]
    if labelled:
        table = np.concatenate([np.column_stack([np.full(len(each), score), each]) for score, each, _ in labelled])
        fitted = fit_logistic(table, np.concatenate([shown for _, _, shown in labelled]), penalty=1.0)
        model.slice_calibration.copy_(torch.tensor([*fitted.coefficients, fitted.intercept]))
    output.mkdir(parents=True, exist_ok=True)
    weights, card = output / "weights.safetensors", output / "card.yaml"
    save_atomically(model.state_dict(), weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    cases = tuple(heart.name for heart in hearts)
    write_card(_card(sha256, data.model_copy(update={"cases": cases})), card)
    slope, intercept = model.get_buffer("heart_calibration").double().numpy()
    logits = slope * scores + intercept
    loss = float((np.logaddexp(0, logits) - outcomes * logits).mean())
    return TrainingResult(MODEL, data.steps, cases, (), loss, weights, card, sha256)


def _folds(outcomes: NDArray[np.bool_], seed: int) -> Iterator[NDArray[np.bool_]]:
    """Hearts held out each time, either outcome spread evenly."""
    rng = np.random.default_rng([seed, 0x57414C])
    fold = np.empty(len(outcomes), np.int64)
    for group in (np.flatnonzero(outcomes), np.flatnonzero(~outcomes)):
        fold[rng.permutation(group)] = np.arange(len(group)) % _FOLDS
    for number in range(_FOLDS):
        yield fold == number


def _ridge(features: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intercept and coefficients (16,) of a penalised least-squares fit."""
    centre, spread = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    design = (features - centre) / spread
    inner = design.T @ design + _PENALTY * np.eye(design.shape[1])
    slopes = np.linalg.solve(inner, design.T @ (target - target.mean())) / spread
    return np.concatenate([[target.mean() - slopes @ centre], slopes])


def _scored(coefficients: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(coefficients[0] + features @ coefficients[1:], np.float64)


def _card(sha256: str, data: TrainingData) -> ModelCard:
    return ModelCard(
        name=MODEL,
        version="0.3.1",
        task="classification of acute infarcts by the motion of the wall in short-axis cine: microvascular obstruction",
        licence="Apache-2.0",
        weights_sha256=sha256,
        summary="Probability of microvascular obstruction from how far the wall moves less where it moves least: a "
        f"linear score of {len(FEATURES)} measures of contours at end diastole and end systole, and its calibration.",
        input=InputSpecification(
            size=WIDE,
            field="heart crop",
            spacing_mm=SPACING_MM,
            channels=("contours at end diastole", "contours at end systole"),
            normalisation="none: contours of the node's own segmentation, smoothed over 1.5 slices and 39 degrees",
        ),
        output=("motion lost by the fifth of the muscle that has lost most",),
        label_weights=(),
        architecture=WALL,
        training=data,
        limits=(
            "It sees no obstruction: it tells deep and large infarcts by the motion that they cost, and those have an "
            "obstruction more often.",
            "How motion, depth and obstruction belong together is a law of the simulator where it was fitted to "
            "simulated hearts: its probabilities say nothing about patients until they were measured on patients.",
        ),
        not_for=(
            "Diagnosis, or any decision about a patient: research use only.",
            "Hearts without an acute reperfused infarct: any wall that moves less raises the probability.",
        ),
    )
