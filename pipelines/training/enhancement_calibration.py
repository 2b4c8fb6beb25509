"""Calibration of synthetic enhancement on held-out phantoms whose masks come from the node's own segmentation.

Weights are fitted to true masks; what a probability is worth is learnt here from hearts as the node sees them: of other
seeds, segmented by its network. Limits for showing an image come from the same hearts.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

from pipelines.cine.stack import CineStack, FrameSource, StackGeometry, View
from pipelines.errors import AnalysisRefused
from pipelines.function.curves import find_keyframes
from pipelines.function.slices import measure_slices
from pipelines.models.registry import load_model, load_model_once
from pipelines.sampling import Sampling
from pipelines.segmentation.labels import Label
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import segment
from pipelines.synthetic_enhancement import sequence
from pipelines.synthetic_enhancement.calibration import (
    FILE,
    Calibration,
    Logistic,
    Probabilities,
    found_calibration,
    write_calibration,
)
from pipelines.synthetic_enhancement.features import FIELD_PX, SIZE, SPACING_MM
from pipelines.synthetic_enhancement.measure import (
    GENERATIVE,
    SEGMENT_PREDICTORS,
    SEGMENT_SHARE,
    SEQUENCE,
    SLICE_LOGITS,
    STUDY_LOGITS,
    THICKENING,
    Answer,
    HeartOnGrid,
    answer_of,
    heart_of,
    segment_values,
    slice_values,
    study_values,
)
from pipelines.synthetic_enhancement.network import GUESS_MODEL, REFINER_MODEL
from pipelines.synthetic_enhancement.predictors import HEART_PREDICTORS, heart_predictors, slice_predictors
from pipelines.synthetic_enhancement.sequence import SEQUENCE_PREDICTORS
from pipelines.training.contour_errors import disturbed_heart
from pipelines.training.heart_clips import HeartClips, Population, pack_clips, read_clips
from pipelines.training.synthetic_hearts import SLICE_SHARE, Hearts, circumstances_of, held_out_seeds
from pipelines.training.synthetic_recipe import EnhancementRecipe

__all__ = ["HALLUCINATED", "HEART_SHARE", "HeartTruth", "calibrate", "recalibrate", "truth_of"]

HEART_SHARE = 0.01
"""Share of the muscle that has to be scar for the heart to hold enhancement."""
HALLUCINATED = 0.05
"""Share of the hearts without scar that may reach the operating point."""
_MOMENTS = 8
"""Phases of a clip that are segmented, equally spaced: as many as the networks see."""
_MARGIN = 1.25
_REFUSED = 2.0
_MUSCLE_PX_MIN = 6


@dataclass(frozen=True, slots=True, eq=False)
class HeartTruth:
    """What is true of the slices of a heart, in the order of :class:`HeartOnGrid`.

    Attributes
    ----------
    slices : (K,) bool
        Whether each slice holds enhancement: 2 % of its true muscle and more.
    segments : dict of int to bool
        Whether each AHA segment does: more than a tenth of its true muscle.
    heart : bool
        Whether the heart does: more than 1 % of its true muscle.
    """

    slices: NDArray[np.bool_]
    segments: dict[int, bool]
    heart: bool


def truth_of(heart: HeartOnGrid, lesion: NDArray[np.bool_], muscle: NDArray[np.bool_]) -> HeartTruth:
    """What is true of a heart, from true lesions and muscle (K, 64, 64) on its grid."""
    scar = lesion & muscle
    of_slice = scar.sum((1, 2)) / np.maximum(muscle.sum((1, 2)), 1)
    segments = {}
    for number in range(1, 17):
        inside = muscle & (heart.segments == number)
        if inside.sum() >= _MUSCLE_PX_MIN:
            segments[number] = bool(scar[inside].mean() > SEGMENT_SHARE)
    weights = heart.weights[:, None, None]
    share = float((scar * weights).sum() / max(float((muscle * weights).sum()), 1e-6))
    return HeartTruth(of_slice > SLICE_SHARE, segments, share > HEART_SHARE)


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """One held-out heart: what was seen of it in one way, and what is true."""

    truth: HeartTruth
    slices: NDArray[np.float64]
    study: NDArray[np.float64]
    segments: dict[int, NDArray[np.float64]]
    predictors: NDArray[np.float64]
    sequence: NDArray[np.float64]
    deep: NDArray[np.float64]
    deviation: float


def calibrate(
    output: Path,
    clips: Path,
    seeds: Sequence[int],
    hearts: Hearts,
    *,
    device: str = "cpu",
    sampling: Sampling | None = None,
    seed: int = 0,
    workers: int = 1,
    report: Callable[[int, int], None] | None = None,
    command: str = "dicom-node train synthetic-enhancement",
) -> Path:
    """Fit the calibration of trained networks.

    Parameters
    ----------
    output : Path
        Folder that holds the folders of both networks; the calibration goes beside the weights of the first.
    clips : Path
        Folder of packed phantoms.
    seeds : sequence of int
        Phantoms of every disease; those that no weight was fitted to, the last 15 %, are used.
    hearts : Hearts
        Hearts that weights were fitted to: the classifier of thickening and radiomics is fitted to them.
    workers : int
        Processes.
    report : callable
        Is called with the hearts done and wanted.

    Returns
    -------
    Path
        Of ``calibration.yaml``.

    Raises
    ------
    ValueError
        Too few held-out hearts, or only hearts of one kind.
    """
    rng = np.random.default_rng((seed, 0x43414C))
    drawn = [(disturbed_heart(heart, rng, EnhancementRecipe()), heart) for heart in hearts.all for _ in range(2)]
    fitted = _fit(
        np.array([heart_predictors(slice_predictors(crop)) for crop, _ in drawn]),
        np.array(
            [(heart.lesion & heart.crop.muscle).mean() > HEART_SHARE * heart.crop.muscle.mean() for _, heart in drawn]
        ),
        HEART_PREDICTORS,
        strength=0.02,
    )
    held = _look_at(output, clips, held_out_seeds(seeds), device, sampling or Sampling(), workers, report)
    return _write(output, device, held, fitted, command)


def recalibrate(
    output: Path,
    clips: Path,
    seeds: Sequence[int],
    *,
    device: str = "cpu",
    sampling: Sampling | None = None,
    workers: int = 1,
    report: Callable[[int, int], None] | None = None,
    command: str = "dicom-node train synthetic-calibration",
) -> Path:
    """Fit the calibration of trained networks anew, to phantoms that no weight was fitted to.

    The classifier of thickening and radiomics keeps its weights, which do not depend on the networks; how probable its
    answer makes scar is fitted anew. The calibration before may be that of other weights.

    Raises
    ------
    ValueError
        Too few hearts, only hearts of one kind, or hearts that weights were fitted to.
    ModelUnavailable
        There is no calibration yet.
    """
    model = load_model(GUESS_MODEL, device, output)
    seen = {f"phantom-{seed}" for seed in seeds} & set(model.card.training.cases)
    if seen:
        raise ValueError(f"weights were fitted to {', '.join(sorted(seen)[:3])}: calibrate on other seeds")
    before = found_calibration(output / GUESS_MODEL)
    held = _look_at(output, clips, seeds, device, sampling or Sampling(), workers, report)
    return _write(output, device, held, before.whole_cycle.classifiers[THICKENING], command)


Seen = tuple["_Held", "_Held"]
"""A heart seen over the whole cycle and at two moments."""


def _look_at(
    output: Path,
    clips: Path,
    seeds: Sequence[int],
    device: str,
    sampling: Sampling,
    workers: int,
    report: Callable[[int, int], None] | None,
) -> list[Seen]:
    """Hearts of all seeds in which a heart is found, as the node sees them."""
    found: list[Seen] = []
    files = pack_clips(clips, seeds, Population.ALL, workers=workers)
    look = partial(_held, output, device, sampling)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for done, pair in enumerate(pool.map(look, files), 1):
            if pair is not None:
                found.append(pair)
            if report is not None:
                report(done, len(seeds))
    return found


def _write(output: Path, device: str, held: Sequence[Seen], classifier: Logistic, command: str) -> Path:
    """Fit everything to held-out hearts and write it."""
    first, refiner, third = (load_model(name, device, output) for name in (GUESS_MODEL, REFINER_MODEL, sequence.MODEL))
    whole, short = [pair[0] for pair in held], [pair[1] for pair in held]
    if len({one.truth.heart for one in whole}) < 2 or len(whole) < 8:
        raise ValueError(f"{len(whole)} held-out hearts: eight are needed, with and without enhancement among them")
    deep = np.array([one.deep for one in whole])
    means, scales = deep.mean(axis=0), np.maximum(deep.std(axis=0), 1e-3)
    departure = np.sqrt(np.mean(np.square((deep - means) / scales), axis=1))
    limit = _MARGIN * float(np.percentile(departure, 95))
    path = output / GUESS_MODEL / FILE
    write_calibration(
        Calibration(
            weights_sha256=first.identity.weights_sha256,
            refiner_sha256=refiner.identity.weights_sha256,
            sequence_sha256=third.identity.weights_sha256,
            hearts=len(whole),
            command=command,
            whole_cycle=_probabilities(whole, classifier),
            two_moments=_probabilities(short, classifier),
            deviation_limit=round(_MARGIN * float(np.percentile([one.deviation for one in whole], 95)), 4),
            deep_means=_rounded(means),
            deep_scales=_rounded(scales),
            novelty_limit=round(limit, 4),
            novelty_refused=round(_REFUSED * limit, 4),
        ),
        path,
    )
    return path


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)


def _probabilities(held: Sequence[_Held], classifier: Logistic) -> Probabilities:
    study = np.array([one.study for one in held])
    truth = np.array([one.truth.heart for one in held])
    raw = classifier.probability(np.array([one.predictors for one in held]))
    odds = np.log(np.clip(raw, 1e-6, 1 - 1e-6) / np.clip(1 - raw, 1e-6, 1))[:, None]
    moved = np.array([one.sequence for one in held])
    judged = {
        GENERATIVE: _cross_validated(study, truth),
        THICKENING: _cross_validated(odds, truth),
        SEQUENCE: _cross_validated(moved, truth),
    }
    reported = min(judged, key=lambda name: float(np.mean(np.square(judged[name] - truth))))
    segments = [
        (one.segments[number], one.truth.segments[number])
        for one in held
        for number in one.segments
        if number in one.truth.segments
    ]
    return Probabilities(
        study=_fit(study, truth, STUDY_LOGITS),
        slice=_fit(
            np.concatenate([one.slices for one in held]),
            np.concatenate([one.truth.slices for one in held]),
            SLICE_LOGITS,
        ),
        segment=_fit(
            np.array([values for values, _ in segments]), np.array([true for _, true in segments]), SEGMENT_PREDICTORS
        ),
        classifiers={
            THICKENING: _recalibrated(classifier, _fit(odds, truth, ("odds",))),
            SEQUENCE: _fit(moved, truth, SEQUENCE_PREDICTORS),
        },
        reported=reported,
        operating_point=_operating_point(judged[reported], truth),
    )


def _operating_point(probabilities: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The lowest probability that at most one in twenty hearts without scar reaches, half-way to the next below."""
    free = np.sort(probabilities[~truth])[::-1]
    allowed = int(HALLUCINATED * len(free))
    below = free[allowed]
    above = probabilities[probabilities > below]
    return round(float((below + (above.min() if above.size else 1.0)) / 2), 4)


def _cross_validated(values: NDArray[np.float64], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Probabilities of a logistic model on hearts that it was not fitted to."""
    folds = KFold(min(8, len(truth)), shuffle=True, random_state=0)
    standard = StandardScaler().fit_transform(values)
    found = cross_val_predict(LogisticRegression(C=1.0), standard, truth, cv=folds, method="predict_proba")
    return np.asarray(found[:, 1])


def _fit(
    values: NDArray[np.float64], truth: NDArray[np.bool_], predictors: tuple[str, ...], strength: float = 1.0
) -> Logistic:
    """A logistic model; ``strength`` is the inverse of the L2 penalty."""
    scaler = StandardScaler().fit(values)
    model = LogisticRegression(C=strength, max_iter=1000).fit(scaler.transform(values), truth)
    return Logistic(
        predictors=predictors,
        means=_rounded(scaler.mean_),
        scales=_rounded(np.maximum(scaler.scale_, 1e-4)),
        weights=_rounded(model.coef_[0]),
        intercept=round(float(model.intercept_[0]), 5),
    )


def _recalibrated(model: Logistic, of_odds: Logistic) -> Logistic:
    """One logistic model for a logistic model whose log odds are scaled and shifted."""
    slope = of_odds.weights[0] / of_odds.scales[0]
    return model.model_copy(
        update={
            "weights": _rounded(slope * np.array(model.weights)),
            "intercept": round(slope * (model.intercept - of_odds.means[0]) + of_odds.intercept, 5),
        }
    )


def _held(output: Path, device: str, sampling: Sampling, path: Path) -> tuple[_Held, _Held] | None:
    """A held-out heart with the masks of the node, seen whole and at two moments; ``None`` where no heart is found."""
    import torch

    torch.set_num_threads(1)
    first, refiner, third = (
        load_model_once(name, device, output) for name in (GUESS_MODEL, REFINER_MODEL, sequence.MODEL)
    )
    clips = next(read_clips([path]))
    stack = clip_stack(clips)
    try:
        found = segment(stack)
        slices = measure_slices(stack, found)
        frames = find_keyframes(stack, slices.lv_ml)
        pair = [frames.end_diastole, frames.end_systole]
        two = _part(stack, pair)
        two_slices = measure_slices(two, replace(found, labels=found.labels[pair], agreement=found.agreement[pair]))
        known = circumstances_of(clips)
        seen = [
            heart_of(stack, slices, frames, known),
            heart_of(two, two_slices, replace(frames, end_diastole=0, end_systole=1), known),
        ]
    except (SegmentationRefused, AnalysisRefused):
        return None
    edge = (FIELD_PX - SIZE) // 2
    inside = (slice(None), slice(edge, -edge), slice(edge, -edge))
    answers = []
    # How far samples scatter is asked of the whole cine alone.
    for heart, drawn in zip(seen, (sampling, Sampling(2, 1)), strict=True):
        lesion, muscle = (_on(heart, mask)[inside] for mask in (clips.lesions > 0, clips.labels[0] == Label.MYO))
        answer = answer_of(heart.crop, first, refiner, third, drawn)
        answers.append(_entry(heart, answer, truth_of(heart, lesion, muscle)))
    return answers[0], answers[1]


def _entry(heart: HeartOnGrid, answer: Answer, truth: HeartTruth) -> _Held:
    of_slices = slice_values(answer, heart.muscle)
    study = study_values(of_slices)
    return _Held(
        truth=truth,
        slices=of_slices,
        study=study,
        segments=segment_values(answer, heart, study),
        predictors=heart_predictors(slice_predictors(heart.crop)),
        sequence=answer.sequence,
        deep=answer.deep,
        deviation=answer.deviation(heart.muscle),
    )


def _on(heart: HeartOnGrid, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True masks (S, 88, 88) of a clip on the field of a heart that was found in it, to the nearest pixel."""
    centre = (FIELD_PX - 1) / 2 * SPACING_MM
    rows = round((heart.square.row_mm - centre) / SPACING_MM)
    columns = round((heart.square.column_mm - centre) / SPACING_MM)
    padded = np.pad(masks[list(heart.slices)], ((0, 0), (FIELD_PX, FIELD_PX), (FIELD_PX, FIELD_PX)))
    first_row, first_column = FIELD_PX + rows, FIELD_PX + columns
    return padded[:, first_row : first_row + FIELD_PX, first_column : first_column + FIELD_PX]


def clip_stack(clips: HeartClips) -> CineStack:
    """A clip as a cine of eight phases, apex first as the phantom is imaged."""
    total, slices = clips.images.shape[:2]
    chosen = sorted({round(index * total / _MOMENTS) % total for index in range(_MOMENTS)})
    source = FrameSource("", "", "", None, None, None)
    positions = np.zeros((slices, 3))
    positions[:, 2] = np.arange(slices) * clips.pitch_mm
    return CineStack(
        view=View.SAX,
        pixels=clips.images[chosen].astype(np.float32),
        geometry=StackGeometry(
            positions, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), (SPACING_MM, SPACING_MM), clips.pitch_mm
        ),
        sources=((source,) * slices,) * len(chosen),
        trigger_times=np.full((len(chosen), slices), np.nan),
        rr_intervals=np.full(slices, np.nan),
        frame_of_reference_uid="2.25.1",
    )


def _part(stack: CineStack, phases: list[int]) -> CineStack:
    return replace(
        stack,
        pixels=stack.pixels[phases],
        sources=tuple(stack.sources[phase] for phase in phases),
        trigger_times=stack.trigger_times[phases],
    )
