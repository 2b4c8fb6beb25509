"""Synthetic enhancement of a study: run the networks, calibrate their outputs, and decide what to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, StudyContext
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import Interval, Keyframes
from pipelines.function.segments import SegmentMap, segment_map, segment_of
from pipelines.function.slices import SliceMeasures
from pipelines.motion.crop import centre_of_ventricle, sample_cine, sample_labels, square_at
from pipelines.quality.findings import QualityAssessment, QualityCheck
from pipelines.sampling import Sampling
from pipelines.segmentation.grid import Square, sample_image
from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement.calibration import Calibration, Probabilities, logit
from pipelines.synthetic_enhancement.contours import ANGLES
from pipelines.synthetic_enhancement.extent import (
    HALF_MAXIMUM,
    INTERMEDIATE,
    N_SD,
    Extents,
    measure_extents,
    no_extents,
)
from pipelines.synthetic_enhancement.features import (
    FIELD_PX,
    SIZE,
    SPACING_MM,
    Circumstances,
    HeartCrop,
    crop_heart,
    describe,
    regional_motion,
    slice_inputs,
)
from pipelines.synthetic_enhancement.findings import (
    Extent,
    ScarClassifier,
    SegmentEnhancement,
    Shown,
    SyntheticEnhancement,
)
from pipelines.synthetic_enhancement.network import draw_samples, guess
from pipelines.synthetic_enhancement.predictors import heart_predictors, slice_predictors
from pipelines.synthetic_enhancement.sequence import heart_values, piece_logits

if TYPE_CHECKING:
    from pipelines.models.registry import LoadedModel
    from pipelines.synthetic_enhancement.load import Networks

__all__ = [
    "EXTENT_SEEN",
    "GENERATIVE",
    "SEGMENT_PREDICTORS",
    "SEQUENCE",
    "SLICE_LOGITS",
    "STUDY_LOGITS",
    "THICKENING",
    "Answer",
    "answer_of",
    "conclude",
    "heart_of",
    "segment_values",
    "slice_values",
    "study_values",
    "synthesise",
]

GENERATIVE = "synthetic image"
"""Name of the way to the probability that starts from the generative network."""
THICKENING = "thickening and radiomics"
SEQUENCE = "motion sequence"
"""Name of the way that reads the wall moment by moment, with an LSTM."""
SLICE_LOGITS = ("logit of the slice", "mean probability", "highest tenth", "study")
STUDY_LOGITS = ("mean of the two likeliest slices", "mean of the slices", "mean probability")
SEGMENT_PREDICTORS = ("mean probability", "highest quarter", "study")
SEGMENT_SHARE = 0.1
"""Share of a segment that has to be scar for the segment to count as enhanced."""
_MUSCLE_PX_MIN = 6
_SEGMENTS = 16
_WITHHELD_BY = frozenset(
    {
        QualityCheck.GATING,
        QualityCheck.RR_VARIATION,
        QualityCheck.SLICE_GAP,
        QualityCheck.SLICE_SHIFT,
        QualityCheck.PLANE,
        QualityCheck.CONTRAST,
        QualityCheck.GHOSTING,
        QualityCheck.TRIGGERING,
        QualityCheck.AGREEMENT,
        QualityCheck.CONTIGUITY,
        QualityCheck.CURVE_SMOOTHNESS,
        QualityCheck.CURVE_SHAPE,
        QualityCheck.MYOCARDIAL_RING,
        QualityCheck.BASE_COVERAGE,
        QualityCheck.APEX_COVERAGE,
        QualityCheck.SLICES,
    }
)
"""Checks whose grade poor means that the image is withheld: motion, or which muscle is seen, cannot be relied on."""
EXTENT_SEEN = 1.0
"""Hyperintense extent, % of the muscle, from which an image shows enhancement."""


@dataclass(frozen=True, slots=True, eq=False)
class HeartOnGrid:
    """The slices of a study that show muscle at end diastole, from apex to base, on the square around the ventricle.

    Attributes
    ----------
    crop : HeartCrop
    slices : tuple of int
        Slice of the stack that each is.
    square : Square
        Of the networks, on the stack.
    muscle, cavity : (K, 64, 64) bool
        At end diastole.
    segments : (K, 64, 64) uint8
        AHA segment of each pixel, 0 where it cannot be told.
    weights : (K,) float64
        Tissue that each slice stands for, mm.
    """

    crop: HeartCrop
    slices: tuple[int, ...]
    square: Square
    muscle: NDArray[np.bool_]
    cavity: NDArray[np.bool_]
    segments: NDArray[np.uint8]
    weights: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Outputs of the networks for a heart; K slices.

    Attributes
    ----------
    probability : (K, 64, 64) float32
        As the network has it, before any calibration.
    slice_logit : (K,) float64
    first : (K, 64, 64) float32
        The first guess.
    samples : (N, K, 64, 64) float32
    deep : (F,) float64
        Pooled features at the bottom of the network, mean over the slices.
    sequence : (len(SEQUENCE_PREDICTORS),) float64
        What the network that reads sequences says of the heart.
    """

    probability: NDArray[np.float32]
    slice_logit: NDArray[np.float64]
    first: NDArray[np.float32]
    samples: NDArray[np.float32]
    deep: NDArray[np.float64]
    sequence: NDArray[np.float64]

    def deviation(self, muscle: NDArray[np.bool_]) -> float:
        """Mean standard deviation of the samples in muscle."""
        return float(self.samples.std(axis=0)[muscle].mean())


def heart_of(
    stack: CineStack, slices: SliceMeasures, keyframes: Keyframes, circumstances: Circumstances
) -> HeartOnGrid:
    """Bring the slices with muscle to the square around the ventricle.

    Raises
    ------
    AnalysisRefused
        Fewer than two slices show muscle at end diastole.
    """
    diastole = keyframes.end_diastole
    labels = np.where(slices.above_base[None, :, None, None], np.uint8(Label.BACKGROUND), slices.labels)
    shows = [int(index) for index in slices.from_base()[::-1] if (labels[diastole, index] == Label.MYO).any()]
    centre = centre_of_ventricle(labels, stack.geometry)
    if centre is None or len(shows) < 2:
        sentence = "Fewer than two short-axis slices show the wall of the left ventricle at end diastole."
        raise AnalysisRefused(RefusalReason.NO_VENTRICLE_FOUND, sentence)
    spacing = stack.geometry.pixel_spacing
    middle = square_at(centre, stack.geometry)
    wide = Square(middle.row_mm, middle.column_mm, FIELD_PX * SPACING_MM)
    images = (200 * sample_cine(stack.pixels[:, shows].astype(np.float32), spacing, wide, FIELD_PX)).round().byte()
    masks = sample_labels(labels[:, shows], spacing, wide, FIELD_PX, max(Label))
    height = np.abs((stack.geometry.positions[shows] - stack.geometry.positions[shows[0]]) @ stack.geometry.normal)
    crop = crop_heart(
        images.numpy(),
        masks,
        (height / max(float(height[-1]), 1e-6)).astype(np.float32),
        diastole,
        keyframes.end_systole,
        circumstances,
    )
    edge = (FIELD_PX - SIZE) // 2
    inside = masks[diastole][:, edge:-edge, edge:-edge]
    return HeartOnGrid(
        crop,
        tuple(shows),
        Square(middle.row_mm, middle.column_mm, SIZE * SPACING_MM),
        inside == Label.MYO,
        inside == Label.LV,
        _segments(crop, shows, segment_map(stack, slices, diastole)),
        slices.intervals_mm[shows],
    )


def _segments(crop: HeartCrop, shows: list[int], known: SegmentMap | None) -> NDArray[np.uint8]:
    """AHA segment of each pixel of the slices that have a level."""
    import torch

    from pipelines.synthetic_enhancement.contours import polar_coordinates

    found = np.zeros((len(shows), SIZE, SIZE), np.uint8)
    if known is None:
        return found
    _, position = polar_coordinates(torch.from_numpy(crop.centre), SIZE)
    angles = position.numpy().astype(np.float64) * (2 * np.pi / ANGLES)
    for place, index in enumerate(shows):
        level = known.levels[index]
        if level is not None:
            found[place] = segment_of(angles[place].ravel(), level, known.reference).reshape(SIZE, SIZE)
    return found


def answer_of(
    heart: HeartCrop,
    first_model: LoadedModel,
    refiner: LoadedModel,
    sequence: LoadedModel,
    sampling: Sampling,
    seed: int = 0,
) -> Answer:
    """Run the networks on a heart."""
    inputs = slice_inputs(describe(heart))
    first, deep = guess(inputs, first_model)
    samples = draw_samples(inputs, first, refiner, samples=sampling.samples, steps=sampling.steps, seed=seed)
    return Answer(
        probability=first.logit.sigmoid().numpy(),
        slice_logit=first.slice_logit.double().numpy(),
        first=first.image.clamp(-0.5, 1.5).numpy(),
        samples=samples.numpy(),
        deep=deep.double().mean(0).numpy(),
        sequence=heart_values(piece_logits(heart, sequence)),
    )


def _highest(values: NDArray[np.float32], share: float) -> float:
    count = max(round(share * values.size), 1)
    return float(np.sort(values)[-count:].mean()) if values.size else 0.0


def slice_values(answer: Answer, muscle: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Predictors (K, len(SLICE_LOGITS)) of the probability of each slice; the last is that of the whole study."""
    inside = [probability[mask] for probability, mask in zip(answer.probability, muscle, strict=True)]
    mean = np.array([float(values.mean()) if values.size else 0.0 for values in inside])
    highest = np.array([_highest(values, 0.1) for values in inside])
    study = np.full(len(muscle), _likeliest(answer.slice_logit))
    return np.column_stack([answer.slice_logit, logit(mean), logit(highest), study])


def _likeliest(slice_logit: NDArray[np.float64]) -> float:
    """Mean logit of the two likeliest slices."""
    return float(np.sort(slice_logit)[-2:].mean())


def study_values(of_slices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Predictors (len(STUDY_LOGITS),) of the probability of the study from those of its slices."""
    return np.array([_likeliest(of_slices[:, 0]), of_slices[:, 0].mean(), of_slices[:, 1].mean()])


def segment_values(answer: Answer, heart: HeartOnGrid, study: NDArray[np.float64]) -> dict[int, NDArray[np.float64]]:
    """Predictors (len(SEGMENT_PREDICTORS),) of each AHA segment that has enough muscle."""
    found = {}
    for segment in range(1, _SEGMENTS + 1):
        inside = answer.probability[heart.muscle & (heart.segments == segment)]
        if inside.size >= _MUSCLE_PX_MIN:
            values = np.array([inside.mean(), _highest(inside, 0.25)], np.float64)
            found[segment] = np.array([*logit(values), study[0]])
    return found


def novelty(answer: Answer, calibration: Calibration) -> float:
    """Root mean square departure of the deep features from those of simulated hearts, in standard deviations."""
    departure = (answer.deep - np.array(calibration.deep_means)) / np.array(calibration.deep_scales)
    return float(np.sqrt(np.mean(np.square(departure))))


def synthesise(
    stack: CineStack,
    slices: SliceMeasures,
    keyframes: Keyframes,
    quality: QualityAssessment,
    context: StudyContext,
    networks: Networks,
    sampling: Sampling | None = None,
) -> SyntheticEnhancement:
    """Synthetic enhancement of a study.

    Raises
    ------
    AnalysisRefused
        Quality is too low for any number, too little muscle is seen, or the heart is too unlike those that the
        networks know.
    """
    if quality.refusal is not None:
        sentence = f"Quality is too low to predict enhancement. {quality.refusal}"
        raise AnalysisRefused(RefusalReason.QUALITY_TOO_LOW, sentence)
    sampling = sampling or Sampling()
    heart = heart_of(stack, slices, keyframes, Circumstances(context.field_strength_t, context.manufacturer))
    if heart.muscle.sum() < _MUSCLE_PX_MIN:
        sentence = "No wall of the left ventricle lies in the square that enhancement is predicted in."
        raise AnalysisRefused(RefusalReason.NO_VENTRICLE_FOUND, sentence)
    answer = answer_of(heart.crop, networks.first, networks.refiner, networks.sequence, sampling)
    return conclude(heart, answer, networks, quality, stack, slices, keyframes, sampling)


def conclude(
    heart: HeartOnGrid,
    answer: Answer,
    networks: Networks,
    quality: QualityAssessment,
    stack: CineStack,
    slices: SliceMeasures,
    keyframes: Keyframes,
    sampling: Sampling,
) -> SyntheticEnhancement:
    """Turn the outputs of the networks into findings, and decide how much of them may be shown."""
    calibration = networks.calibration
    departure = novelty(answer, calibration)
    if departure > calibration.novelty_refused:
        sentence = (
            f"The heart is too unlike the simulated hearts that the networks know ({departure:.1f} standard "
            f"deviations, limit {calibration.novelty_refused:.1f}): nothing is predicted."
        )
        raise AnalysisRefused(RefusalReason.NOT_SUITABLE, sentence)
    fitted = calibration.whole_cycle if heart.crop.whole_cycle else calibration.two_moments
    of_slices = slice_values(answer, heart.muscle)
    study = study_values(of_slices)
    slice_probability = fitted.slice.probability(of_slices)
    classifiers = classify(heart, answer, study, fitted)
    probability = next(entry.probability for entry in classifiers if entry.reported)
    # The mean of a few samples errs more than the first guess, which is trained to be that mean.
    on_image = measure_extents(answer.first, heart.muscle, heart.cavity, heart.weights, SPACING_MM)
    withheld = _withheld(heart, answer, calibration, quality, stack, departure)
    extents = on_image
    if probability < fitted.operating_point:
        extents = no_extents(heart.muscle)
        withheld += _contradicted(on_image, probability, fitted)
    elif not on_image.hyperintense_percent:
        withheld += (_nothing_stands_out(probability),)
    by_sample = [
        measure_extents(sample, heart.muscle, heart.cavity, heart.weights, SPACING_MM) for sample in answer.samples
    ]
    muscle = np.where(slices.above_base[:, None, None], False, slices.labels[keyframes.end_diastole] == Label.MYO)
    shown = Shown.PROBABILITY if withheld else Shown.IMAGE_AND_PROBABILITY
    on_stack = _OnStack(heart, stack)
    return SyntheticEnhancement(
        geometry=stack.geometry,
        phase=keyframes.end_diastole,
        slices=tuple(sorted(heart.slices)),
        image=None if withheld else on_stack.bring(answer.first),
        uncertainty=None if withheld else on_stack.bring(answer.samples.std(axis=0)),
        probability=np.where(muscle, on_stack.bring(answer.probability), 0).astype(np.float32),
        enhanced=(on_stack.bring(extents.hyperintense.astype(np.float32)) >= 0.5) & muscle,
        muscle=muscle,
        slice_probability={
            index: float(probability)
            for index, probability in sorted(zip(heart.slices, slice_probability, strict=True))
        },
        segments=_segment_findings(heart, answer, extents, fitted, study),
        study_probability=probability,
        operating_point=fitted.operating_point,
        hyperintense=_extent(
            extents.hyperintense_percent, [one.hyperintense_percent for one in by_sample], HALF_MAXIMUM
        ),
        intermediate=_extent(
            extents.intermediate_percent, [one.intermediate_percent for one in by_sample], INTERMEDIATE
        ),
        shown=shown,
        withheld=withheld,
        classifiers=classifiers,
        samples=sampling.samples,
        steps=sampling.steps,
        notes=_notes(heart, calibration),
        models=networks.identities,
        beyond_5_sd=_extent(extents.n_sd_percent, [one.n_sd_percent for one in by_sample], N_SD),
        novelty=departure,
    )


def classify(
    heart: HeartOnGrid, answer: Answer, study: NDArray[np.float64], fitted: Probabilities
) -> tuple[ScarClassifier, ...]:
    """Probability of the study by every way that is fitted."""
    ways = {GENERATIVE: float(fitted.study.probability(study))}
    predictors = {THICKENING: heart_predictors(slice_predictors(heart.crop)), SEQUENCE: answer.sequence}
    for name, model in fitted.classifiers.items():
        ways[name] = float(model.probability(predictors[name]))
    return tuple(ScarClassifier(name, probability, name == fitted.reported) for name, probability in ways.items())


def _withheld(
    heart: HeartOnGrid,
    answer: Answer,
    calibration: Calibration,
    quality: QualityAssessment,
    stack: CineStack,
    departure: float,
) -> tuple[str, ...]:
    """Why the image is not shown, for a radiologist; empty when it is."""
    reasons = []
    if not heart.crop.whole_cycle:
        reasons.append(
            f"The short-axis cine has {stack.phases} phases: too few for an image; the probability is from end "
            "diastole and end systole alone."
        )
    reasons += [
        finding.sentence
        for finding in quality.concerns
        if finding.check in _WITHHELD_BY and (heart.crop.whole_cycle or finding.check is not QualityCheck.GATING)
    ]
    deviation = answer.deviation(heart.muscle)
    if deviation > calibration.deviation_limit:
        reasons.append(
            f"The samples of the image disagree (standard deviation {deviation:.2f} of the signal of dense scar, "
            f"limit {calibration.deviation_limit:.2f})."
        )
    if departure > calibration.novelty_limit:
        reasons.append(
            f"The heart is unlike the simulated hearts that the networks know ({departure:.1f} standard deviations, "
            f"limit {calibration.novelty_limit:.1f})."
        )
    return tuple(reasons)


def _contradicted(on_image: Extents, probability: float, fitted: Probabilities) -> tuple[str, ...]:
    """Why an image that shows enhancement is withheld where the probability of the heart does not bear it out."""
    if on_image.hyperintense_percent < EXTENT_SEEN:
        return ()
    needed = fitted.operating_point
    # As many digits as tell the two apart: 0.65 where 0.65 is needed says nothing.
    digits = next((count for count in (2, 3, 4) if f"{probability:.{count}f}" != f"{needed:.{count}f}"), 5)
    return (
        f"The image shows enhancement of {on_image.hyperintense_percent:.0f} % of the muscle that the probability of "
        f"the heart ({probability:.{digits}f}, {needed:.{digits}f} needed) does not bear out.",
    )


def _nothing_stands_out(probability: float) -> str:
    """Why an image is withheld on which nothing stands out, though the probability of the heart says muscle enhances.

    Seen in the largest infarcts, which the networks paint faintly: bright and dark muscle lie too close to tell.
    """
    return (
        f"The probability of the heart ({probability:.2f}) says that muscle enhances, and nothing stands out on the "
        "image: the extent of 0 % is no measurement."
    )


def _segment_findings(
    heart: HeartOnGrid, answer: Answer, extents: Extents, fitted: Probabilities, study: NDArray[np.float64]
) -> tuple[SegmentEnhancement, ...]:
    values = segment_values(answer, heart, study)
    depth = transmurality(heart, extents.hyperintense)
    found = []
    for segment, predictors in values.items():
        inside = heart.muscle & (heart.segments == segment)
        found.append(
            SegmentEnhancement(
                segment=segment,
                probability=float(fitted.segment.probability(predictors)),
                percent=100 * float(extents.hyperintense[inside].mean()),
                transmurality_percent=depth.get(segment, 0.0),
            )
        )
    return tuple(found)


def transmurality(heart: HeartOnGrid, enhanced: NDArray[np.bool_]) -> dict[int, float]:
    """Mean depth of enhancement, % of the wall, of each segment over the directions that enhance."""
    import torch

    from pipelines.synthetic_enhancement.contours import polar_coordinates

    _, position = polar_coordinates(torch.from_numpy(heart.crop.centre), SIZE)
    direction = position.numpy().round().astype(np.intp) % ANGLES
    depths: dict[int, list[float]] = {}
    for wall, bright, of, segments in zip(heart.muscle, enhanced, direction, heart.segments, strict=True):
        total = np.bincount(of[wall], minlength=ANGLES)
        lit = np.bincount(of[wall & bright], minlength=ANGLES)
        for angle in np.flatnonzero((total >= 2) & (lit > 0)):
            of_angle = segments[wall & (of == angle)]
            depths.setdefault(int(np.bincount(of_angle).argmax()), []).append(100 * lit[angle] / total[angle])
    return {segment: float(np.mean(values)) for segment, values in depths.items() if segment}


def _extent(percent: float, by_sample: list[float], method: str) -> Extent:
    """An extent with the range of the samples; it holds the extent itself, which is that of the first guess."""
    low, high = np.percentile(by_sample, [5, 95])
    return Extent(percent, Interval(min(float(low), percent), max(float(high), percent)), method)


def _notes(heart: HeartOnGrid, calibration: Calibration) -> tuple[str, ...]:
    notes = [
        "Predicted from cine without contrast agent by networks trained on simulated cine: unproven in patients.",
        f"Probabilities are calibrated on {calibration.hearts} held-out simulated hearts.",
        "Stunned or hibernating muscle moves like scar and can be taken for it.",
    ]
    loss, _ = regional_motion(heart.crop.inner[:2], heart.crop.outer[:2])
    if not heart.segments.any():
        notes.append("The insertion points of the right ventricle were not found: no probability by segment.")
    if float(loss[1].mean()) < 0.1:
        notes.append("The wall hardly moves anywhere: motion tells scar from muscle poorly in this heart.")
    return tuple(notes)


@dataclass(frozen=True, slots=True, eq=False)
class _OnStack:
    """Brings what lies on the square of the networks back to the grid of the stack."""

    heart: HeartOnGrid
    stack: CineStack

    def bring(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        """(K, 64, 64) to (S, R, C); 0 outside the square and on other slices."""
        import torch

        spacing, square = self.stack.geometry.pixel_spacing, self.heart.square
        bounds = []
        for centre, step, length in zip(
            (square.row_mm, square.column_mm), spacing, self.stack.pixels.shape[2:], strict=True
        ):
            first = int(np.clip(np.ceil((centre - square.field_mm / 2) / step), 0, length))
            end = int(np.clip(np.floor((centre + square.field_mm / 2) / step) + 1, first, length))
            bounds.append((first, end))
        rows, columns = bounds
        found = np.zeros((self.stack.slices, *self.stack.pixels.shape[2:]), np.float32)
        native = sample_image(torch.from_numpy(crops[:, None]), spacing, square, rows, columns)[:, 0].numpy()
        for place, index in enumerate(self.heart.slices):
            found[index, rows[0] : rows[1], columns[0] : columns[1]] = native[place]
        return found
