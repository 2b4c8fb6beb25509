"""One heart judged: synthetic enhancement as the node would give it, beside what is true of the heart."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, StudyContext
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.evaluation.enhancement_ablations import Ablated, ask_again, ask_others
from pipelines.evaluation.motion_observer import told_the_motion
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Keyframes
from pipelines.function.measure import measure_function
from pipelines.function.slices import measure_slices
from pipelines.models.registry import LoadedModel
from pipelines.motion.crop import sample_labels
from pipelines.phantom.assembled import cine_stack
from pipelines.phantom.recipe import PhantomRecipe
from pipelines.phantom.study import ENHANCEMENT_GREY, PSIR_ZERO, PhantomStudy, simulate
from pipelines.phantom.truth import measure_truth
from pipelines.quality.assess import assess_quality
from pipelines.sampling import Sampling
from pipelines.segmentation.grid import sample_square
from pipelines.segmentation.labels import Label
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import segment
from pipelines.synthetic_enhancement.extent import measure_extents
from pipelines.synthetic_enhancement.features import SIZE, SPACING_MM, Circumstances
from pipelines.synthetic_enhancement.findings import SyntheticEnhancement
from pipelines.synthetic_enhancement.load import Networks
from pipelines.synthetic_enhancement.measure import HeartOnGrid, answer_of, conclude, heart_of
from pipelines.training.enhancement_calibration import truth_of
from pipelines.training.enhancement_scale import enhancement_scale, normalised_slices

__all__ = ["PHASES", "HeartResult", "Pictures", "Seen", "judge_phantom", "judged", "see"]

PHASES = 14
"""Of a cine that is simulated for this."""


@dataclass(frozen=True, slots=True)
class HeartResult:
    """Results on one phantom, or on one patient whose cine is simulated.

    Attributes
    ----------
    seed : int
    disease : str
        Of a patient of EMIDEC: ``normal``, ``infarct`` or ``obstruction``.
    shown : str or None
        What is shown; ``None`` where nothing is, see ``declined``.
    withheld : tuple of str
    hyperintense, intermediate : (float, float)
        True and synthetic extent, % of the muscle; true by the same measure on the late enhancement, simulated or real.
    image_percent : float
        Hyperintense extent on the synthetic image, whatever the probability of the heart is: without the operating
        point.
    lesion_percent : float
        True scar in the muscle of the slices.
    ablations : dict of str to Ablated
        What the same networks say when something is kept from them, by what is changed
        (:func:`pipelines.evaluation.enhancement_ablations.ask_again`), and what others say by their name.
    slices, segments : tuple of (bool, float)
        Truth and probability of each.
    patient : (bool, float)
    classifiers : dict of str to float
        Probability of the heart by way.
    ceiling_segments : tuple of (bool, float)
        Truth by segment of the whole ventricle, and the probability of an observer told the true motion.
    seconds : float
        Processor time of the analysis, segmentation included: what it costs whatever else the machine does.
    """

    seed: int
    disease: str
    faults: tuple[str, ...]
    declined: str | None
    shown: str | None
    withheld: tuple[str, ...]
    hyperintense: tuple[float, float]
    intermediate: tuple[float, float]
    image_percent: float
    lesion_percent: float
    slices: tuple[tuple[bool, float], ...]
    segments: tuple[tuple[bool, float], ...]
    patient: tuple[bool, float]
    classifiers: dict[str, float]
    ceiling_segments: tuple[tuple[bool, float], ...]
    deviation: float
    novelty: float
    seconds: float
    ablations: dict[str, Ablated] = field(default_factory=dict)
    case: str = ""
    """Identifier of the patient; empty for a phantom."""


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """One slice of one heart on the square of the networks, (64, 64) each."""

    cine: NDArray[np.float32]
    synthetic: NDArray[np.float32]
    truth: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    probability: NDArray[np.float32]
    muscle: NDArray[np.bool_]
    lesion: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A study as the node sees it."""

    heart: HeartOnGrid
    keyframes: Keyframes
    result: SyntheticEnhancement
    first: NDArray[np.float32]
    samples: NDArray[np.float32]
    probability: NDArray[np.float32]
    deviation: float


def see(stack: CineStack, context: StudyContext, networks: Networks, sampling: Sampling) -> Seen:
    """The steps of the package, with networks from anywhere.

    Raises
    ------
    AnalysisRefused, SegmentationRefused
    """
    found = segment(stack)
    slices = measure_slices(stack, found)
    frames = find_keyframes(stack, slices.lv_ml)
    quality = assess_quality(stack, found, slices, measure_function(stack, slices, frames, context))
    if quality.refusal is not None:
        raise AnalysisRefused(RefusalReason.QUALITY_TOO_LOW, quality.refusal)
    heart = heart_of(stack, slices, frames, Circumstances(context.field_strength_t, context.manufacturer))
    answer = answer_of(heart.crop, networks.first, networks.refiner, networks.sequence, sampling)
    result = conclude(heart, answer, networks, quality, stack, slices, frames, sampling)
    return Seen(heart, frames, result, answer.first, answer.samples, answer.probability, answer.deviation(heart.muscle))


def judge_phantom(recipe: PhantomRecipe, networks: Networks) -> HeartResult:
    """Analyse one phantom as the node would and compare with what is true; without the observer of the true motion."""
    study = simulate(replace(recipe, phases=PHASES), workers=1, matched_enhancement=True)
    return judged(study, networks, Sampling(), None, False, {}, False)[0]


def judged(
    study: PhantomStudy,
    networks: Networks,
    sampling: Sampling,
    ceiling_model: Any,
    ablations: bool,
    others: Mapping[str, LoadedModel],
    real: bool,
) -> tuple[HeartResult, Pictures | None]:
    """Analyse a study and compare with its late enhancement.

    ``real`` says that the late enhancement is a patient's: its masks are the truth, and not those of the cine.
    """
    recipe, seed = study.recipe, study.recipe.seed
    truth = measure_truth(study)
    stack = cine_stack(study.short_axis)
    context = StudyContext(
        study_instance_uid="2.25.1",
        manufacturer=recipe.dialect.manufacturer,
        field_strength_t=study.protocol.field_t,
    )
    ceiling = () if ceiling_model is None else told_the_motion(truth, ceiling_model)
    started = time.process_time()
    faults = tuple(sorted(str(fault) for fault in recipe.faults))
    try:
        seen = see(stack, context, networks, sampling)
    except (AnalysisRefused, SegmentationRefused) as refusal:
        nothing = (float("nan"), float("nan"))
        scarred = truth.facts.infarct_percent > 1
        return (
            HeartResult(
                seed, str(recipe.disease), faults, str(refusal), None, (), nothing, nothing, float("nan"),
                float(truth.facts.infarct_percent), (), (), (scarred, float("nan")), {}, ceiling,
                float("nan"), float("nan"), time.process_time() - started,
            ),
            None,
        )  # fmt: skip
    seconds = time.process_time() - started
    result, heart = seen.result, seen.heart
    labels, lesions, image = _truth_on(study, heart, None if real else seen.keyframes.end_diastole)
    muscle, cavity = labels == Label.MYO, labels == Label.LV
    acquired = measure_extents(image, muscle, cavity, heart.weights, SPACING_MM)
    known = truth_of(heart, lesions > 0, muscle)
    share = ((lesions > 0) & muscle).sum((1, 2)) / np.maximum(muscle.sum((1, 2)), 1)
    by_slice = [result.slice_probability[index] for index in heart.slices]
    place = int(np.argmax(share if share.max() > 0 else np.array(by_slice)))
    edge = (heart.crop.images.shape[-1] - SIZE) // 2
    pictures = Pictures(
        cine=heart.crop.images[0, place, edge:-edge, edge:-edge].astype(np.float32) / np.float32(200),
        synthetic=seen.first[place],
        truth=image[place],
        uncertainty=seen.samples.std(axis=0)[place],
        probability=seen.probability[place],
        muscle=heart.muscle[place],
        lesion=lesions[place] > 0,
    )
    return (
        HeartResult(
            seed=seed,
            disease=str(recipe.disease),
            faults=faults,
            declined=None,
            shown=str(result.shown),
            withheld=result.withheld,
            hyperintense=(acquired.hyperintense_percent, result.hyperintense.percent),
            intermediate=(acquired.intermediate_percent, result.intermediate.percent),
            image_percent=measure_extents(
                seen.first, heart.muscle, heart.cavity, heart.weights, SPACING_MM
            ).hyperintense_percent,
            lesion_percent=100 * float(((lesions > 0) & muscle).sum() / max(muscle.sum(), 1)),
            slices=tuple((bool(scar), p) for scar, p in zip(known.slices, by_slice, strict=True)),
            segments=tuple(
                (known.segments[entry.segment], entry.probability)
                for entry in result.segments
                if entry.segment in known.segments
            ),
            patient=(known.heart, result.study_probability),
            classifiers={entry.name: entry.probability for entry in result.classifiers},
            ceiling_segments=ceiling,
            deviation=seen.deviation,
            novelty=result.novelty,
            seconds=seconds,
            ablations=(ask_again(heart, networks, image, muscle) if ablations else {})
            | ask_others(heart, others, image, muscle),
        ),
        pictures,
    )


def _truth_on(
    study: PhantomStudy, heart: HeartOnGrid, phase: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """True labels and lesions, and the late enhancement, (K, 64, 64) on the grid of a heart.

    The masks are those of the cine at ``phase``, or without one those of the late enhancement.
    """
    import torch

    cine, late = study.short_axis, study.enhancement
    assert late is not None  # the recipe asks for it
    spacing, slices = cine.geometry.pixel_spacing, list(heart.slices)
    known = (late.labels, late.lesions) if phase is None else (cine.labels[phase], cine.lesions[phase])
    labels, lesions = (
        sample_labels(masks[None, slices], spacing, heart.square, SIZE, count)[0]
        for masks, count in zip(known, (max(Label), 2), strict=True)
    )
    magnetisation = (late.phase_sensitive[slices].astype(np.float32) - PSIR_ZERO) / ENHANCEMENT_GREY
    image = sample_square(torch.from_numpy(magnetisation[:, None]), spacing, heart.square, SIZE)[:, 0].numpy()
    if phase is None:
        return labels, lesions, normalised_slices(image, labels, lesions)
    zero, unit = enhancement_scale(image, labels, lesions)
    return labels, lesions, np.clip((image - zero) / unit, -0.5, 1.5).astype(np.float32)
