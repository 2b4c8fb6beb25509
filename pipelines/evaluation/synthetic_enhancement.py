"""Synthetic enhancement against what is true of phantoms and real images of EMIDEC, and its probability in ACDC.

Phantoms go the whole way of a study: the node's segmentation, its key frames and its quality control. So do cines that
are simulated from the anatomy of a patient of EMIDEC; the truth is then the patient's image and the experts' masks.
Patients of ACDC have two phases and no late enhancement: all that can be asked is whether those with an old infarct get
a higher probability than the others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, StudyContext
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.evaluation.enhancement_ablations import (
    TRAINED,
    Ablated,
    ablated_from,
    ask_again,
    ask_others,
    load_others,
)
from pipelines.evaluation.figures import plain
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Keyframes
from pipelines.function.measure import measure_function
from pipelines.function.slices import measure_slices
from pipelines.models.registry import PACKAGED, LoadedModel
from pipelines.motion.crop import sample_labels
from pipelines.phantom.assembled import cine_stack
from pipelines.phantom.law import DEFAULT_LAW, PESSIMISTIC_LAW, JointLaw
from pipelines.phantom.recipe import PhantomRecipe
from pipelines.phantom.study import ENHANCEMENT_GREY, PSIR_ZERO, PhantomStudy, simulate
from pipelines.phantom.truth import PhantomTruth, measure_truth
from pipelines.quality.assess import assess_quality
from pipelines.sampling import Sampling
from pipelines.segmentation.grid import sample_square
from pipelines.segmentation.labels import Label
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import segment
from pipelines.statistics import auc
from pipelines.synthetic_enhancement.extent import measure_extents
from pipelines.synthetic_enhancement.features import (
    SIZE,
    SPACING_MM,
    Ablation,
    Circumstances,
)
from pipelines.synthetic_enhancement.findings import SyntheticEnhancement
from pipelines.synthetic_enhancement.load import Networks, load_networks
from pipelines.synthetic_enhancement.measure import (
    EXTENT_SEEN,
    SEGMENT_SHARE,
    HeartOnGrid,
    answer_of,
    conclude,
    heart_of,
)
from pipelines.training.acdc import find_patients, read_patient, to_stack
from pipelines.training.emidec import find_cases, read_case
from pipelines.training.enhancement_calibration import truth_of
from pipelines.training.enhancement_scale import enhancement_scale, normalised_slices
from pipelines.training.heart_clips import Population, clip_recipe
from pipelines.training.semi_synthetic import Part, part_of, semi_synthetic_study, upright

__all__ = [
    "AcdcEvaluation",
    "EnhancementEvaluation",
    "HeartResult",
    "Pictures",
    "evaluate_acdc",
    "evaluate_emidec",
    "evaluate_phantoms",
    "judge_phantom",
    "shown_cases",
]

_BOOTSTRAP = 1000
_PHASES = 14
_CEILING_FIRST, _CEILING_HEARTS = 600000, 80


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


@dataclass(frozen=True, slots=True)
class EnhancementEvaluation:
    """Figures over phantoms of one law; intervals are 95 % of a bootstrap over hearts."""

    hearts: int
    declined: int
    image_shown: int
    scarred: int
    hyperintense: dict[str, Any]
    intermediate: dict[str, Any]
    auc: dict[str, float]
    auc_detail: dict[str, Any]
    """The same with intervals and numbers of cases."""
    patient_auc_by_disease: dict[str, Any]
    """Scarred hearts of one disease, and every heart without scar."""
    hallucination_rate: float
    """Of the hearts without any scar: reported hyperintense extent of 1 % and more. Where that is 0 no image with
    enhancement is shown either."""
    hallucination_interval: tuple[float, float]
    """Exact (Clopper-Pearson) 95 % interval."""
    image_hallucination_rate: float
    """The same without the operating point: of the image alone, shown or not."""
    extents_by_disease: dict[str, Any]
    """Means of true scar, of the measure on the simulated late enhancement, and of the reported extent."""
    ablations: dict[str, Any]
    acquired_hallucination_rate: float
    """The same on the simulated late enhancement itself: what the measure makes of noise and of blood at the rim."""
    miss_rate: float
    """Of the hearts whose true scar is 1 % of the muscle and more: hyperintense extent below 1 %."""
    miss_rate_by_size: dict[str, Any]
    calibration: dict[str, Any]
    classifiers: dict[str, Any]
    ceiling: dict[str, Any]
    seconds: float
    results: tuple[HeartResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; figures that do not exist are ``None``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class AcdcEvaluation:
    """Probability of enhancement in patients of ACDC, two phases each."""

    patients: int
    declined: dict[str, str]
    auc_minf_vs_nor: float
    auc_minf_vs_rest: float
    auc_detail: dict[str, Any]
    """The same with intervals and numbers of patients."""
    auc_by_classifier: dict[str, Any]
    """Old infarct against normal, by way."""
    by_group: dict[str, dict[str, float]]
    probabilities: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; figures that do not exist are ``None``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A study as the node sees it."""

    heart: HeartOnGrid
    keyframes: Keyframes
    result: SyntheticEnhancement
    first: NDArray[np.float32]
    samples: NDArray[np.float32]
    probability: NDArray[np.float32]
    deviation: float


def _see(stack: CineStack, context: StudyContext, networks: Networks, sampling: Sampling) -> _Seen:
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
    return _Seen(
        heart, frames, result, answer.first, answer.samples, answer.probability, answer.deviation(heart.muscle)
    )


def evaluate_phantoms(
    count: int,
    *,
    seed: int = 900000,
    pessimistic: bool = False,
    ablations: bool = False,
    against: Sequence[Path] = (),
    models: Path = PACKAGED,
    sampling: Sampling | None = None,
    keep: Path | None = None,
    report: Callable[[HeartResult, int, int], None] | None = None,
) -> EnhancementEvaluation:
    """Analyse phantoms as the node would, segmentation included, and compare with what is true of them.

    Parameters
    ----------
    count : int
    seed : int
        Of the first phantom; seeds count up.
    pessimistic : bool
        Draw hearts by the pessimistic law of motion and scar instead of the default one.
    ablations : bool
        Ask the networks again with something kept from them, and the refiner with other numbers of steps.
    against : sequence of Path
        Folders that hold other first guesses, such as those that were trained without an input; the first is the one
        that the others are held against.
    models : Path
        Folder that holds the networks and the calibration.
    keep : Path or None
        Folder that keeps each heart, for a run to go on where it stopped, and the pictures of one slice of each.
    report : callable
        Is called after each phantom.

    Raises
    ------
    ModelUnavailable
        A network is missing.
    ValueError
        Two networks to compare have the same name.
    """
    law = PESSIMISTIC_LAW if pessimistic else DEFAULT_LAW
    judge = _Judge(law, load_networks(root=models), sampling or Sampling(), ablations, load_others(against), keep)

    def phantom(number: int) -> tuple[HeartResult, Pictures | None]:
        recipe = replace(clip_recipe(seed + number, Population.ALL, law), phases=_PHASES)
        return judge.heart(simulate(recipe, workers=1, matched_enhancement=True))

    return _over(
        [
            (f"{'pessimistic' if pessimistic else 'default'}-{seed + number}", partial(phantom, number))
            for number in range(count)
        ],
        judge,
        report,
    )


def evaluate_emidec(
    data: Path,
    *,
    part: Part = Part.REPORTED,
    pessimistic: bool = False,
    against: Sequence[Path] = (),
    models: Path = PACKAGED,
    sampling: Sampling | None = None,
    keep: Path | None = None,
    report: Callable[[HeartResult, int, int], None] | None = None,
) -> EnhancementEvaluation:
    """Analyse cines simulated from the anatomy of patients of EMIDEC, and compare with their real late enhancement.

    See :mod:`pipelines.training.semi_synthetic` for what is the patient's and what is simulated, and for the parts; no
    weight was fitted to the part that is reported on.

    Parameters
    ----------
    data : Path
        Folder with ``images`` and ``labels``.
    part : Part
    pessimistic, against, models, sampling, keep, report
        As in :func:`evaluate_phantoms`.

    Raises
    ------
    EmidecLayoutError
        The folder does not hold EMIDEC as PNG slices.
    ModelUnavailable
        A network is missing.
    ValueError
        Two networks to compare have the same name.
    """
    law = PESSIMISTIC_LAW if pessimistic else DEFAULT_LAW
    judge = _Judge(law, load_networks(root=models), sampling or Sampling(), False, load_others(against), keep)
    cases = find_cases(data)

    def patient(images: Sequence[Path]) -> tuple[HeartResult, Pictures | None]:
        case = upright(read_case(images))
        result, pictures = judge.heart(semi_synthetic_study(case, law), real=True)
        return replace(result, case=case.identifier, disease=case.group), pictures

    return _over(
        [
            (f"emidec-{'pessimistic' if pessimistic else 'default'}-{name}", partial(patient, images))
            for name, images in ((name, cases[name]) for name in part_of(tuple(cases), part))
        ],
        judge,
        report,
    )


def judge_phantom(recipe: PhantomRecipe, networks: Networks) -> HeartResult:
    """Analyse one phantom as the node would and compare with what is true; without the observer of the true motion."""
    study = simulate(replace(recipe, phases=_PHASES), workers=1, matched_enhancement=True)
    return _judged(study, networks, Sampling(), None, False, {}, False)[0]


@dataclass(frozen=True, slots=True)
class _Judge:
    """What all hearts of one evaluation are judged with."""

    law: JointLaw
    networks: Networks
    sampling: Sampling
    ablations: bool
    others: Mapping[str, LoadedModel]
    keep: Path | None

    def heart(self, study: PhantomStudy, *, real: bool = False) -> tuple[HeartResult, Pictures | None]:
        """See :func:`_judged`."""
        ceiling = _ceiling_model(self.law, self.keep)
        return _judged(study, self.networks, self.sampling, ceiling, self.ablations, self.others, real)


def _over(
    hearts: Sequence[tuple[str, Callable[[], tuple[HeartResult, Pictures | None]]]],
    judge: _Judge,
    report: Callable[[HeartResult, int, int], None] | None,
) -> EnhancementEvaluation:
    """Judge every heart that is not kept yet, by name, and summarise all."""
    networks, keep = judge.networks, judge.keep
    identity = "".join(
        model.identity.weights_sha256[:8] for model in (networks.first, networks.refiner, *judge.others.values())
    )
    results = []
    for number, (name, make) in enumerate(hearts, 1):
        kept = None if keep is None else keep / f"{name}-{identity}.json"
        if kept is not None and kept.is_file():
            result = _result_from(json.loads(kept.read_text(encoding="utf-8")))
        else:
            result, pictures = make()
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                if pictures is not None:
                    np.savez_compressed(
                        kept.with_suffix(".npz"),
                        **{field: getattr(pictures, field) for field in Pictures.__dataclass_fields__},
                    )
                kept.write_text(json.dumps(plain(asdict(result))), encoding="utf-8")
        results.append(result)
        if report is not None:
            report(result, number, len(hearts))
    return _summarise(results)


def _result_from(value: dict[str, Any]) -> HeartResult:
    pairs = {name: tuple(map(tuple, value[name])) for name in ("slices", "segments", "ceiling_segments")}
    others = {name: tuple(value[name]) for name in ("faults", "withheld", "hyperintense", "intermediate", "patient")}
    ablations = {name: ablated_from(entry) for name, entry in value["ablations"].items()}
    return HeartResult(**{**value, **pairs, **others, "ablations": ablations})


def shown_cases(results: Sequence[HeartResult]) -> list[int]:
    """Seeds of ten hearts to look at: the three whose hyperintense extent is most wrong, and seven at steps of rank."""
    ranked = sorted(
        (result for result in results if result.declined is None),
        key=lambda result: -abs(result.hyperintense[0] - result.hyperintense[1]),
    )
    if len(ranked) <= 10:
        return [result.seed for result in ranked]
    rest = np.linspace(3, len(ranked) - 1, 7).round().astype(int)
    return [ranked[index].seed for index in [0, 1, 2, *rest.tolist()]]


def _judged(
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
    ceiling = () if ceiling_model is None else _told_the_motion(truth, ceiling_model)
    started = time.process_time()
    faults = tuple(sorted(str(fault) for fault in recipe.faults))
    try:
        seen = _see(stack, context, networks, sampling)
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


def _ceiling_values(truth: PhantomTruth) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What the true motion says of segments 1 … 16, (16, P), and whether more than a tenth of each is scar."""
    strains = (truth.aha_circumferential, truth.aha_radial, truth.aha_longitudinal)
    thickness = truth.aha_thickness_mm[:, :16]
    systole = truth.facts.keyframes.end_systole
    own = [thickness[0], thickness.max(axis=0) / thickness[0]]
    for strain in strains:
        values = strain[:, :16]
        own += [values[systole], values.max(axis=0), values.min(axis=0)]
    columns = np.stack(own, axis=1)
    whole = np.concatenate([columns.mean(axis=0), columns.std(axis=0)])
    around = np.stack([_neighbours(column) for column in columns.T], axis=1)
    return (
        np.column_stack([columns, around, np.repeat(whole[None], 16, axis=0)]),
        np.asarray(truth.aha_transmurality[:16] > SEGMENT_SHARE),
    )


def _told_the_motion(truth: PhantomTruth, model: Any) -> tuple[tuple[bool, float], ...]:
    """Whether segments 1 … 16 are scar, and the probability of an observer told the true motion."""
    of_segments, has_scar = _ceiling_values(truth)
    return tuple(
        (bool(scar), float(probability))
        for scar, probability in zip(has_scar, model.predict_proba(of_segments)[:, 1], strict=True)
    )


def _neighbours(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the two segments beside each on its level."""
    found = np.empty(16)
    for first, end in ((0, 6), (6, 12), (12, 16)):
        level = values[first:end]
        found[first:end] = (np.roll(level, 1) + np.roll(level, -1)) / 2
    return found


@cache
def _ceiling_model(law: JointLaw, keep: Path | None) -> Any:
    """An observer of the true motion of every segment, fitted to other phantoms of the same law."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    table = _ceiling_table(law, keep)
    model = HistGradientBoostingClassifier(max_iter=120, learning_rate=0.06, max_leaf_nodes=12, random_state=0)
    return model.fit(table[:, :-1], table[:, -1] > 0)


def _ceiling_table(law: JointLaw, keep: Path | None) -> NDArray[np.float64]:
    """Segments of other phantoms, (16 N, P + 1): what their true motion says, and whether they are scar."""
    name = f"ceiling-{'pessimistic' if law == PESSIMISTIC_LAW else 'default'}-{_CEILING_FIRST}-{_CEILING_HEARTS}.npy"
    kept = None if keep is None else keep / name
    if kept is not None and kept.is_file():
        return np.asarray(np.load(kept, allow_pickle=False))
    rows = []
    for seed in range(_CEILING_FIRST, _CEILING_FIRST + _CEILING_HEARTS):
        recipe = clip_recipe(seed, Population.ALL, law)
        # Motion and scar do not depend on how the heart is imaged.
        small = replace(
            recipe, rows=64, columns=64, spacing_mm=4.0, slices=1, phases=10, late_enhancement=False, coils=1,
            faults=frozenset(),
        )  # fmt: skip
        of_segments, has_scar = _ceiling_values(measure_truth(simulate(small, workers=1)))
        rows.append(np.column_stack([of_segments, has_scar]))
    table = np.concatenate(rows)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, table)
    return table


def _summarise(results: Sequence[HeartResult]) -> EnhancementEvaluation:
    done = [result for result in results if result.declined is None]
    scarred = [result for result in done if result.patient[0]]
    free = [result for result in done if result.lesion_percent < 0.01]
    visible = [result for result in done if result.lesion_percent >= EXTENT_SEEN]

    def missed(members: Sequence[HeartResult]) -> float:
        return _mean([result.hyperintense[1] < EXTENT_SEEN for result in members])

    sizes = {"1 to 5 %": (1, 5), "5 to 15 %": (5, 15), "over 15 %": (15, 101)}
    ceiling = [[(truth, value) for truth, value in result.ceiling_segments] for result in results]
    areas = {
        "slice": _auc([list(result.slices) for result in done]),
        "segment": _auc([list(result.segments) for result in done]),
        "patient": _auc([[result.patient] for result in done]),
    }
    of_hearts = [[(any(t for t, _ in group), max(p for _, p in group))] for group in ceiling]
    return EnhancementEvaluation(
        hearts=len(results),
        declined=len(results) - len(done),
        image_shown=sum(result.shown == "image and probability" for result in done),
        scarred=len(scarred),
        hyperintense={
            **_agreement([result.hyperintense for result in done]),
            "of_true_scar": _agreement([(result.lesion_percent, result.hyperintense[1]) for result in done]),
        },
        intermediate=_agreement([result.intermediate for result in done]),
        auc={name: entry["auc"] for name, entry in areas.items()},
        auc_detail=areas,
        patient_auc_by_disease={
            disease: _auc([[one.patient] for one in done if one.disease == disease or one in free])
            for disease in sorted({one.disease for one in scarred})
        },
        hallucination_rate=_mean([result.hyperintense[1] >= EXTENT_SEEN for result in free]),
        hallucination_interval=_exact([result.hyperintense[1] >= EXTENT_SEEN for result in free]),
        image_hallucination_rate=_mean([result.image_percent >= EXTENT_SEEN for result in free]),
        extents_by_disease=_by_disease(done),
        ablations=_ablation_figures(done),
        acquired_hallucination_rate=_mean([result.hyperintense[0] >= EXTENT_SEEN for result in free]),
        miss_rate=missed(visible),
        miss_rate_by_size={
            name: {
                "hearts": len(members := [r for r in visible if low <= r.lesion_percent < high]),
                "rate": missed(members),
            }
            for name, (low, high) in sizes.items()
        },
        calibration={
            "slice": _calibration([pair for result in done for pair in result.slices]),
            "segment": _calibration([pair for result in done for pair in result.segments]),
            "patient": _calibration([result.patient for result in done]),
        },
        classifiers={
            name: {
                "auc": _auc([[(result.patient[0], result.classifiers[name])] for result in done]),
                **_calibration([(result.patient[0], result.classifiers[name]) for result in done]),
            }
            for name in (done[0].classifiers if done else {})
        },
        ceiling={"segment": _auc(ceiling), "patient": _auc(of_hearts)},
        seconds=_mean([result.seconds for result in done]),
        results=tuple(results),
    )


def _exact(hits: Sequence[bool]) -> tuple[float, float]:
    from scipy.stats import binomtest

    if not hits:
        return (float("nan"), float("nan"))
    found = binomtest(sum(hits), len(hits)).proportion_ci(method="exact")
    return (float(found.low), float(found.high))


def _by_disease(results: Sequence[HeartResult]) -> dict[str, Any]:
    found = {}
    for disease in sorted({one.disease for one in results}):
        members = [one for one in results if one.disease == disease]
        found[disease] = {
            "hearts": len(members),
            "true_percent": _mean([one.lesion_percent for one in members]),
            "acquired_percent": _mean([one.hyperintense[0] for one in members]),
            "predicted_percent": _mean([one.hyperintense[1] for one in members]),
        }
    return found


def _ablation_figures(results: Sequence[HeartResult]) -> dict[str, Any]:
    """Figures over hearts by what was changed.

    Networks that were asked again without an input are held against everything, those that were trained without one
    against the first of them. Differences are those of the same hearts, their intervals of a bootstrap over these.
    """
    tried = [one for one in results if one.ablations]
    names = tuple(tried[0].ablations) if tried else ()
    trained = next((name for name in names if name.startswith(TRAINED)), "")
    draws = _resampled(len(tried))
    found: dict[str, Any] = {}
    for name in names:
        reference = trained if name.startswith(TRAINED) else str(Ablation.EVERYTHING)
        parts, beside = ([one.ablations[which] for one in tried] for which in (name, reference))
        errors = np.array([part.squared_error for part in parts])
        more = errors - np.array([part.squared_error for part in beside])
        found[name] = {"squared_error": float(errors.mean()), "squared_error_interval": _of_means(errors, draws)}
        if name != reference:
            found[name]["more_squared_error"] = float(more.mean())
            found[name]["more_squared_error_interval"] = _of_means(more, draws)
        if parts[0].deviation is not None:
            found[name]["deviation"] = _mean([part.deviation or 0.0 for part in parts])
        if parts[0].hyperintense_percent is not None:
            found[name]["hyperintense"] = _agreement(
                [
                    (one.hyperintense[0], part.hyperintense_percent or 0.0)
                    for one, part in zip(tried, parts, strict=True)
                ]
            )
        if parts[0].probability is not None:
            found[name]["auc"] = _auc(
                [[(one.patient[0], part.probability or 0.0)] for one, part in zip(tried, parts, strict=True)]
            )
        if parts[0].logit is not None:
            found[name]["auc_uncalibrated"] = {
                "slice": _auc(of_slices := _logits_of_slices(tried, parts)),
                "patient": _auc(
                    [[(one.patient[0], part.logit or 0.0)] for one, part in zip(tried, parts, strict=True)]
                ),
            }
            if name != reference:
                other = _logits_of_slices(tried, beside)
                found[name]["less_auc_slice"] = _area(other) - _area(of_slices)
                found[name]["less_auc_slice_interval"] = _interval(
                    [_area([other[i] for i in chosen]) - _area([of_slices[i] for i in chosen]) for chosen in draws]
                )
    return found


def _logits_of_slices(results: Sequence[HeartResult], parts: Sequence[Ablated]) -> list[list[tuple[bool, float]]]:
    """Truth and uncalibrated logit of the slices of each heart."""
    return [
        [(scar, value) for (scar, _), value in zip(one.slices, part.slices, strict=True)]
        for one, part in zip(results, parts, strict=True)
    ]


def _of_means(values: NDArray[np.float64], draws: Sequence[NDArray[np.intp]]) -> tuple[float, float]:
    return _interval([float(values[chosen].mean()) for chosen in draws])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _resampled(count: int) -> list[NDArray[np.intp]]:
    rng = np.random.default_rng(count)
    return [rng.integers(count, size=count) for _ in range(_BOOTSTRAP)]


def _interval(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return (float("nan"), float("nan"))
    return (float(np.percentile(known, 2.5)), float(np.percentile(known, 97.5)))


def _agreement(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Pearson's r, bias and limits of agreement of synthetic and true extent."""
    values = np.array(pairs, np.float64).reshape(-1, 2)

    def correlation(chosen: NDArray[np.float64]) -> float:
        if len(chosen) < 3 or not chosen.std(axis=0).all():
            return float("nan")
        return float(np.corrcoef(chosen[:, 0], chosen[:, 1]).item(1))

    difference = values[:, 1] - values[:, 0]
    spread = float(difference.std(ddof=1)) if len(values) > 1 else float("nan")
    bias = _mean(difference.tolist())
    return {
        "r": correlation(values),
        "r_interval": _interval([correlation(values[chosen]) for chosen in _resampled(len(values))] if pairs else []),
        "bias_percent": bias,
        "limits_percent": (bias - 1.96 * spread, bias + 1.96 * spread),
        "hearts": len(values),
    }


def _auc(groups: Sequence[Sequence[tuple[bool, float]]]) -> dict[str, Any]:
    """Area under the ROC curve of everything in the groups, with an interval from resampling the groups (hearts)."""
    return {
        "auc": _area(groups),
        "interval": _interval([_area([groups[index] for index in chosen]) for chosen in _resampled(len(groups))])
        if groups
        else (float("nan"), float("nan")),
        "positive": sum(pair[0] for group in groups for pair in group),
        "cases": sum(len(group) for group in groups),
    }


def _area(groups: Sequence[Sequence[tuple[bool, float]]]) -> float:
    flat = [pair for group in groups for pair in group]
    truth = [bool(pair[0]) for pair in flat]
    if all(truth) or not any(truth):
        return float("nan")
    return auc(truth, [pair[1] for pair in flat])


def _calibration(pairs: Sequence[tuple[bool, float]]) -> dict[str, Any]:
    """Brier score, expected calibration error of five bins of equal count, and the bins."""
    if not pairs:
        return {"brier": float("nan"), "expected_calibration_error": float("nan"), "bins": []}
    truth = np.array([pair[0] for pair in pairs], np.float64)
    probability = np.array([pair[1] for pair in pairs], np.float64)
    parts = np.array_split(np.argsort(probability, kind="stable"), min(5, len(pairs)))
    bins = [(float(probability[part].mean()), float(truth[part].mean()), len(part)) for part in parts]
    return {
        "brier": float(np.mean(np.square(probability - truth))),
        "expected_calibration_error": sum(abs(p - t) * n for p, t, n in bins) / len(pairs),
        "bins": [{"predicted": p, "observed": t, "cases": n} for p, t, n in bins],
    }


def evaluate_acdc(
    data: Path,
    *,
    models: Path = PACKAGED,
    groups: Sequence[str] = ("MINF", "NOR", "DCM", "HCM", "RV"),
    report: Callable[[str, int, int], None] | None = None,
) -> AcdcEvaluation:
    """Probability of enhancement of patients in ACDC's layout, from end diastole and end systole alone.

    The networks of this analysis have seen no patient. The segmentation that finds the wall was trained on these
    patients' images and masks.

    Raises
    ------
    AcdcLayoutError
        The folder is not in ACDC's layout.
    ModelUnavailable
        A network is missing.
    """
    networks = load_networks(root=models)
    folders = sorted(find_patients(data))
    probabilities: dict[str, float] = {}
    ways: dict[str, dict[str, float]] = {}
    group_of: dict[str, str] = {}
    declined: dict[str, str] = {}
    for number, folder in enumerate(folders, 1):
        patient = read_patient(folder)
        if patient.group not in groups:
            continue
        try:
            seen = _see(to_stack(patient), StudyContext(study_instance_uid="2.25.1"), networks, Sampling(2, 1))
        except (AnalysisRefused, SegmentationRefused) as refusal:
            declined[patient.identifier] = str(refusal)
            continue
        group_of[patient.identifier] = patient.group
        probabilities[patient.identifier] = seen.result.study_probability
        for entry in seen.result.classifiers:
            ways.setdefault(entry.name, {})[patient.identifier] = entry.probability
        if report is not None:
            report(f"{patient.identifier} {patient.group}", number, len(folders))

    def against(values: dict[str, float], others: Sequence[str]) -> dict[str, Any]:
        kept = [name for name in values if group_of[name] == "MINF" or group_of[name] in others]
        return _auc([[(group_of[name] == "MINF", values[name])] for name in kept])

    rest = [group for group in groups if group != "MINF"]
    detail = {
        "auc_minf_vs_nor": against(probabilities, ["NOR"]),
        "auc_minf_vs_rest": against(probabilities, rest),
    }
    by_group = {group: [value for name, value in probabilities.items() if group_of[name] == group] for group in groups}
    return AcdcEvaluation(
        patients=len(probabilities) + len(declined),
        declined=declined,
        auc_minf_vs_nor=detail["auc_minf_vs_nor"]["auc"],
        auc_minf_vs_rest=detail["auc_minf_vs_rest"]["auc"],
        auc_detail=detail,
        auc_by_classifier={name: against(values, ["NOR"]) for name, values in ways.items()},
        by_group={
            group: {"patients": len(values), "mean": _mean(values), "median": float(np.median(values))}
            for group, values in by_group.items()
            if values
        },
        probabilities=probabilities,
    )
