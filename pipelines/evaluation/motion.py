"""Keyframes, strain and motion against what is true of phantoms, and on real studies against what people drew."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStack, CineStudy, View
from pipelines.errors import AnalysisRefused
from pipelines.evaluation.external import read_annotated_frames
from pipelines.evaluation.segmentation import dice
from pipelines.evaluation.volumes import (
    BadgeRow,
    Errors,
    FindingRow,
    StudyVolumes,
    badge_table,
    errors_of,
    finding_table,
    interval_table,
    number_errors,
    study_volumes,
    true_volumes,
)
from pipelines.function.curves import find_keyframes as volume_keyframes
from pipelines.function.slices import SliceMeasures, measure_slices
from pipelines.function.valve_cut import cut_by_views
from pipelines.long_axis.findings import LongAxisViews
from pipelines.long_axis.measure import long_axis_stacks, read_views
from pipelines.models.registry import PACKAGED, load_model_once
from pipelines.motion.crop import SIDE_MM, SIZE, centre_of_ventricle, sample_cine, square_at
from pipelines.motion.fields import displace_points, jacobian, warp
from pipelines.motion.findings import CardiacMotion, Component, Keyframe, StrainCurve
from pipelines.motion.keyframes import MotionDescriptor, find_keyframes
from pipelines.motion.measure import follow_study, keyframes_of, measure_motion
from pipelines.motion.network import REGISTRATION_MODEL
from pipelines.motion.phantoms import measured_recipe, seen_points
from pipelines.motion.track import CineMotion, follow_from, motion_between
from pipelines.phantom.assembled import cine_study
from pipelines.phantom.study import simulate
from pipelines.phantom.truth import PhantomTruth, measure_truth
from pipelines.segmentation.grid import Square, sample_square
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.segmentation.refusal import SegmentationRefused
from pipelines.segmentation.segment import segment

if TYPE_CHECKING:
    from pipelines.models.registry import LoadedModel

__all__ = [
    "MotionEvaluation",
    "PairEvaluation",
    "PairResult",
    "PhantomResult",
    "StudyResult",
    "evaluate_acdc",
    "evaluate_folder",
    "evaluate_phantoms",
    "summarise_pairs",
]


@dataclass(frozen=True, slots=True)
class PhantomResult:
    """Results on one phantom. Strain in %, torsion in ° a cm."""

    seed: int
    disease: str
    vendor: str
    faults: tuple[str, ...]
    phases: int
    refused: str | None
    cfd: dict[str, dict[str, int]]
    """Cyclic frame difference by view and keyframe."""
    cfd_published: dict[str, dict[str, int]]
    """The same by the published rules."""
    cfd_volume: dict[str, int]
    """The same of end diastole and end systole by the volume-curve rule."""
    strain: dict[str, tuple[float, float, float]]
    """By component: true, measured, measured the second way."""
    covered: dict[str, bool]
    """By component: whether the interval holds the truth."""
    segments: dict[str, float]
    """By component: mean absolute error of the peaks of the segments."""
    torsion: tuple[float, float]
    """True, measured."""
    end_point_mm: dict[str, float]
    """By view: mean distance between where points of the wall are seen at end systole and where they are taken to be.
    On the short axis these are lines of muscle seen where they cross the plane, see :func:`seen_points`."""
    motion_mm: dict[str, float]
    """By view: how far they go."""
    disagreement_mm: float
    closure_mm: float
    folded_percent: float
    seconds: float
    volumes: StudyVolumes | None
    """``None`` where the study was refused before anything was measured."""


@dataclass(frozen=True, slots=True)
class MotionEvaluation:
    """Figures over phantoms."""

    phantoms: int
    refused: int
    model: str
    cfd: dict[str, dict[str, float]]
    """Mean cyclic frame difference by view and keyframe, ``mean`` over the five; beside it ``volume_rule``, and each
    view by the published rules."""
    strain: dict[str, dict[str, Errors]]
    """By component: ``all``, ``second way``, and each disease, vendor and fault."""
    interval_coverage: dict[str, float]
    """Share of the intervals that hold the truth: by strain component, and by volume, mass and ejection fraction."""
    ef_error: dict[str, dict[str, Errors]]
    """Of volumes, mass and ejection fractions: as ``reported``, with valve planes, and by the ``short_axis`` alone."""
    badge: dict[str, BadgeRow]
    findings: dict[str, FindingRow]
    """By quality check with a concern in any study: errors with and without it."""
    segments: dict[str, float]
    torsion: Errors
    end_point_mm: dict[str, float]
    motion_mm: dict[str, float]
    disagreement_mm: float
    closure_mm: float
    folded_percent: float
    seconds: float
    results: tuple[PhantomResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; figures that do not exist are ``None``."""
        return _plain(asdict(self))


@dataclass(frozen=True, slots=True)
class StudyResult:
    """Results on one real study. Strain in %."""

    study: str
    refused: str | None
    phases: int
    views: tuple[str, ...]
    keyframes: dict[str, dict[str, int]]
    annotated: dict[str, int]
    """Phases of the frames that people took for end diastole and end systole, where there are contours."""
    volume_rule: dict[str, int]
    strain: dict[str, dict[str, float]]
    torsion_deg_per_cm: float | None
    warped_dice: dict[str, float]
    """Labels of end systole pulled back to end diastole against those of end diastole, over the slices that have the
    chamber at both: cavity and wall of the segmentation; ``contours`` is the endocardium people drew."""
    unmoved_dice: dict[str, float]
    """The same without registration."""
    disagreement_mm: float
    closure_mm: float
    folded_percent: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if np.isfinite(value) else None
    return value


@dataclass(frozen=True, slots=True, eq=False)
class _Analysed:
    short_axis: CineStack
    segmentation: CineSegmentation
    slices: SliceMeasures
    uncut: SliceMeasures
    """As the short axis alone shows them."""
    motion: CineMotion
    result: CardiacMotion


def _analyse(study: CineStudy, model: LoadedModel) -> _Analysed:
    """The steps of the package, with a registration network from anywhere.

    Raises
    ------
    AnalysisRefused, SegmentationRefused
    """
    from pipelines.ventricular_function.steps import short_axis

    stack = short_axis.function(study=study)
    segmentation = segment(stack)
    views = read_long_axis(study, stack, segmentation)
    uncut = measure_slices(stack, segmentation)
    slices = uncut if views is None else cut_by_views(uncut, stack, views)
    motion = follow_study(study, stack, slices, views, model)
    measured = measure_motion(motion, keyframes_of(motion), slices, views, model)
    return _Analysed(stack, segmentation, slices, uncut, motion, measured)


def read_long_axis(study: CineStudy, stack: CineStack, segmentation: CineSegmentation) -> LongAxisViews | None:
    """Long-axis views of a study as the node reads them; ``None`` without any that can be read."""
    stacks = long_axis_stacks(study)
    try:
        return read_views(stacks, stack, segmentation) if stacks else None
    except AnalysisRefused:
        # As in the node: without views that can be read, motion does without their contours.
        return None


def evaluate_phantoms(
    count: int,
    *,
    seed: int = 0,
    faults: bool = False,
    models: Path = PACKAGED,
    report: Callable[[PhantomResult, int, int], None] | None = None,
) -> MotionEvaluation:
    """Analyse phantoms as the node would, segmentation included, and compare with what is true of them.

    Parameters
    ----------
    count : int
    seed : int
        Of the first phantom; seeds count up.
    faults : bool
        Whether the acquisitions of three in five phantoms have a fault.
    models : Path
        Folder of the registration network; by default the one that comes with the package.
    report : callable
        Called after each phantom.

    Raises
    ------
    ModelUnavailable
        There is no registration network in ``models``.
    """
    model = load_model_once(REGISTRATION_MODEL, root=models)
    results = []
    for number in range(count):
        results.append(_phantom(seed + number, faults, model))
        if report is not None:
            report(results[-1], number + 1, count)
    return _summarise(results, f"{model.identity.version} {model.identity.weights_sha256}")


def _phantom(seed: int, faults: bool, model: LoadedModel) -> PhantomResult:
    recipe = measured_recipe(seed, faults=faults)
    study = simulate(recipe)
    truth = measure_truth(study)
    lv = study.heart.lv
    true_torsion = float(np.degrees(lv.twist_apex - lv.twist_base) / (lv.length / 10))
    named = (seed, str(recipe.disease), str(recipe.dialect), tuple(sorted(map(str, recipe.faults))), recipe.phases)
    started = time.perf_counter()
    try:
        found = _analyse(cine_study(study), model)
    except (AnalysisRefused, SegmentationRefused) as refusal:
        nan = float("nan")
        return PhantomResult(
            *named, str(refusal), {}, {}, {}, {}, {}, {}, (true_torsion, nan), {}, {}, nan, nan, nan, nan, None
        )
    seconds = time.perf_counter() - started
    result, strain = found.result, found.result.strain
    true_keys = {Keyframe(name): frame for name, frame in asdict(truth.facts.keyframes).items()}
    by_volume = volume_keyframes(found.short_axis, found.slices.lv_ml)
    true_peak = {
        Component.LONGITUDINAL: truth.facts.gls_percent,
        Component.CIRCUMFERENTIAL: truth.facts.gcs_percent,
        Component.RADIAL: truth.facts.grs_percent,
    }
    end_points, moved = _end_points(found.motion, truth, true_keys[Keyframe.END_SYSTOLE], model)
    return PhantomResult(
        *named,
        refused=None,
        cfd={
            str(entry.view): {
                str(key): _cyclic(frame, true_keys[key], recipe.phases) for key, frame in entry.phases.items()
            }
            for entry in result.keyframes.views
        },
        cfd_published={
            str(entry.view): {
                key: _cyclic(frame, true_keys[Keyframe(key)], recipe.phases)
                for key, frame in _published(entry.descriptor, recipe.phases).items()
            }
            for entry in result.keyframes.views
        },
        cfd_volume={
            "end_diastole": _cyclic(by_volume.end_diastole, true_keys[Keyframe.END_DIASTOLE], recipe.phases),
            "end_systole": _cyclic(by_volume.end_systole, true_keys[Keyframe.END_SYSTOLE], recipe.phases),
        },
        strain={
            str(curve.component): (true_peak[curve.component], curve.peak_percent, _second_peak(curve))
            for curve in strain.curves()
        },
        covered={
            str(curve.component): curve.interval.lower <= true_peak[curve.component] <= curve.interval.upper
            for curve in strain.curves()
        },
        segments={
            str(part.component): float(np.nanmean(np.abs(part.peak_percent - _true_segments(truth, part.component))))
            for part in strain.segments
        },
        torsion=(true_torsion, strain.torsion.peak_deg_per_cm if strain.torsion is not None else float("nan")),
        end_point_mm=end_points,
        motion_mm=moved,
        disagreement_mm=result.disagreement_mm,
        closure_mm=result.closure_mm,
        folded_percent=result.folded_percent,
        seconds=seconds,
        volumes=study_volumes(
            found.short_axis, found.segmentation, found.slices, found.uncut, true_volumes(truth.facts)
        ),
    )


def _published(descriptor: MotionDescriptor, phases: int) -> dict[str, int]:
    moments = find_keyframes(descriptor.direction, rest_share=0.0, onset_share=1.0)
    return {} if moments is None else moments.frames(phases)


def _cyclic(found: int, true: int, phases: int) -> int:
    apart = abs(found - true) % phases
    return min(apart, phases - apart)


def _second_peak(curve: StrainCurve) -> float:
    second = curve.second_percent
    return float(second.max() if curve.component is Component.RADIAL else second.min())


def _true_segments(truth: PhantomTruth, component: Component) -> NDArray[np.float64]:
    """Peak engineering strain of segments 1 … 16, %, from Green–Lagrange strain or from thickness."""
    if component is Component.RADIAL:
        thickness = truth.aha_thickness_mm[:, :16]
        return np.asarray(100 * (thickness / thickness[0] - 1).max(axis=0))
    green = truth.aha_circumferential if component is Component.CIRCUMFERENTIAL else truth.aha_longitudinal
    return np.asarray(100 * (np.sqrt(1 + 2 * green[:, :16] / 100) - 1).min(axis=0))


def _end_points(
    motion: CineMotion, truth: PhantomTruth, end_systole: int, model: LoadedModel
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean end-point error and mean motion in the plane, mm, by view, from phase 0 to end systole."""
    errors: dict[str, float] = {}
    moved: dict[str, float] = {}
    for view in (motion.short_axis, *motion.long_axis):
        displacement = motion_between(view, 0, end_systole, model)
        found = [np.zeros((0, 2))]
        for index in range(view.stack.slices):
            through = view.stack.view is View.SAX
            seen = seen_points(truth, view.stack.geometry, index, view.square, through=through)
            before, after = (
                frame[np.isfinite(seen[[0, end_systole]]).all(axis=(0, 2))] for frame in seen[[0, end_systole]]
            )
            followed = displace_points(before, displacement[index], SIDE_MM)
            found.append(
                np.stack([np.linalg.norm(followed - after, axis=1), np.linalg.norm(after - before, axis=1)], axis=-1)
            )
        distances = np.concatenate(found)
        if len(distances):
            errors[str(view.stack.view)], moved[str(view.stack.view)] = (float(part) for part in distances.mean(axis=0))
    return errors, moved


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _summarise(results: Sequence[PhantomResult], model: str) -> MotionEvaluation:
    done = [result for result in results if result.refused is None]
    cfd: dict[str, dict[str, float]] = {}
    for view in sorted({view for result in done for view in result.cfd}):
        of_view = [result.cfd[view] for result in done if view in result.cfd]
        cfd[view] = {str(key): _mean([entry[key] for entry in of_view]) for key in Keyframe}
        cfd[view]["mean"] = _mean(list(cfd[view].values()))
        published = [result.cfd_published[view] for result in done if result.cfd_published.get(view)]
        cfd[f"{view} published rules"] = {str(key): _mean([entry[key] for entry in published]) for key in Keyframe}
    cfd["volume_rule"] = {
        key: _mean([result.cfd_volume[key] for result in done]) for key in ("end_diastole", "end_systole")
    }
    strain = {}
    for component in Component:
        with_it = [result for result in done if component in result.strain]
        groups: dict[str, list[PhantomResult]] = {"all": with_it}
        for result in with_it:
            for name in (result.disease, result.vendor, *(result.faults or ("no fault",))):
                groups.setdefault(name, []).append(result)
        strain[str(component)] = {
            name: errors_of([result.strain[component][:2] for result in members]) for name, members in groups.items()
        }
        strain[str(component)]["second way"] = errors_of(
            [(result.strain[component][0], result.strain[component][2]) for result in with_it]
        )
    views = sorted({view for result in done for view in result.end_point_mm})
    volumes = [result.volumes for result in done if result.volumes is not None]
    return MotionEvaluation(
        phantoms=len(results),
        refused=len(results) - len(done),
        model=model,
        cfd=cfd,
        strain=strain,
        interval_coverage={
            str(component): _mean([result.covered[component] for result in done if component in result.covered])
            for component in Component
        }
        | {name: row.held / row.cases for name, row in interval_table(volumes).items()},
        ef_error=number_errors(volumes),
        badge=badge_table(volumes),
        findings=finding_table(volumes),
        segments={
            str(component): _mean([result.segments[component] for result in done if component in result.segments])
            for component in (Component.CIRCUMFERENTIAL, Component.RADIAL, Component.LONGITUDINAL)
        },
        torsion=errors_of([result.torsion for result in done]),
        end_point_mm={view: _mean([r.end_point_mm[view] for r in done if view in r.end_point_mm]) for view in views},
        motion_mm={view: _mean([r.motion_mm[view] for r in done if view in r.motion_mm]) for view in views},
        disagreement_mm=_mean([result.disagreement_mm for result in done]),
        closure_mm=_mean([result.closure_mm for result in done]),
        folded_percent=_mean([result.folded_percent for result in done]),
        seconds=_mean([result.seconds for result in done]),
        results=tuple(results),
    )


def evaluate_folder(folder: Path, *, models: Path = PACKAGED) -> list[StudyResult]:
    """Analyse the studies in a folder of DICOM; where it is a Sunnybrook patient, compare with the contours.

    Parameters
    ----------
    folder : Path
        DICOM at any depth; ``contours`` beside ``dicom`` for a patient of Sunnybrook Cardiac Data.

    Raises
    ------
    AnnotationError
        Contours are malformed or belong to other images.
    ModelUnavailable
        There is no registration network in ``models``.
    """
    model = load_model_once(REGISTRATION_MODEL, root=models)
    studies = assemble(sorted(path for path in folder.rglob("*") if path.is_file()))
    return [_study(study, folder, model) for study in studies if study.stacks]


def _study(study: CineStudy, folder: Path, model: LoadedModel) -> StudyResult:
    started = time.perf_counter()
    try:
        found = _analyse(study, model)
    except (AnalysisRefused, SegmentationRefused) as refusal:
        nan = float("nan")
        return StudyResult(folder.name, str(refusal), 0, (), {}, {}, {}, {}, None, {}, {}, nan, nan, nan, nan)
    seconds = time.perf_counter() - started
    result, stack = found.result, found.short_axis
    by_volume = volume_keyframes(stack, found.slices.lv_ml)
    keys = result.keyframes.views[0].phases
    diastole, systole = keys[Keyframe.END_DIASTOLE], keys[Keyframe.END_SYSTOLE]
    followed = follow_from(found.motion.short_axis, diastole, model)
    warped, unmoved = warped_overlap(
        found.slices.labels[diastole],
        found.slices.labels[systole],
        followed.displacement[systole],
        found.motion.short_axis.square,
        stack.geometry.pixel_spacing,
    )
    annotated: dict[str, int] = {}
    if (folder / "contours").is_dir():
        frames = read_annotated_frames(folder)
        annotated = {"end_diastole": frames.end_diastole, "end_systole": frames.end_systole}
        both = [
            index
            for phase, index in frames.endocardium
            if phase == frames.end_systole
            if (frames.end_diastole, index) in frames.endocardium
        ]
        before, after = (
            np.stack([np.where(frames.endocardium[phase, index], np.uint8(Label.LV), np.uint8(0)) for index in both])
            for phase in (frames.end_diastole, frames.end_systole)
        )
        field = motion_between(found.motion.short_axis, frames.end_diastole, frames.end_systole, model)[both]
        drawn = warped_overlap(before, after, field, found.motion.short_axis.square, stack.geometry.pixel_spacing)
        warped["contours"], unmoved["contours"] = drawn[0]["LV"], drawn[1]["LV"]
    return StudyResult(
        study=folder.name,
        refused=None,
        phases=stack.phases,
        views=tuple(str(each.view) for each in study.stacks),
        keyframes={
            str(entry.view): {str(key): frame for key, frame in entry.phases.items()}
            for entry in result.keyframes.views
        },
        annotated=annotated,
        volume_rule={"end_diastole": by_volume.end_diastole, "end_systole": by_volume.end_systole},
        strain={
            str(curve.component): {
                "peak": curve.peak_percent,
                "second_way": _second_peak(curve),
                "lower": curve.interval.lower,
                "upper": curve.interval.upper,
            }
            for curve in result.strain.curves()
        },
        torsion_deg_per_cm=None if result.strain.torsion is None else result.strain.torsion.peak_deg_per_cm,
        warped_dice=warped,
        unmoved_dice=unmoved,
        disagreement_mm=result.disagreement_mm,
        closure_mm=result.closure_mm,
        folded_percent=result.folded_percent,
        seconds=seconds,
    )


def warped_overlap(
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    displacement: NDArray[np.float32],
    square: Square,
    spacing: tuple[float, float],
) -> tuple[dict[str, float], dict[str, float]]:
    """Dice of the labels of a later frame pulled back to an earlier one, and of the two as they are.

    Parameters
    ----------
    before, after : (S, R, C) uint8
        Values of :class:`Label`.
    displacement : (S, 2, h, w) float32, mm
        Motion of the tissue from the earlier to the later frame.

    Returns
    -------
    warped, unmoved : dict of str to float
        For LV cavity and wall, over the slices that show them in both frames; missing where none does.
    """
    import torch

    both = [
        bool((one == Label.LV).any() and (other == Label.LV).any()) for one, other in zip(before, after, strict=True)
    ]
    if not any(both):
        return {}, {}
    one_hot = [
        torch.stack([torch.from_numpy(labels[both] == label) for label in (Label.LV, Label.MYO)], dim=1).float()
        for labels in (before, after)
    ]
    sampled = [sample_square(shares, spacing, square, 2 * SIZE) for shares in one_hot]
    pulled = warp(sampled[1], torch.from_numpy(displacement[both]), SIDE_MM)
    found: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for channel, name in enumerate(("LV", "MYO")):
        target = (sampled[0][:, channel] > 0.5).numpy()
        if target.any():
            found[0][name] = dice((pulled[:, channel] > 0.5).numpy(), target)
            found[1][name] = dice((sampled[1][:, channel] > 0.5).numpy(), target)
    return found


@dataclass(frozen=True, slots=True)
class PairResult:
    """One patient of ACDC: end systole pulled back to end diastole."""

    patient: str
    group: str
    warped_dice: dict[str, float]
    unmoved_dice: dict[str, float]
    folded_percent: float


@dataclass(frozen=True, slots=True)
class PairEvaluation:
    """Figures over patients of ACDC."""

    patients: int
    warped_dice: dict[str, float]
    warped_dice_interval: dict[str, tuple[float, float]]
    """95 % of the mean, by a bootstrap over patients."""
    unmoved_dice: dict[str, float]
    worst_warped_dice: dict[str, float]
    folded_percent: float
    results: tuple[PairResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return _plain(asdict(self))


def _of_mean(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean by a percentile bootstrap; NaN of fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    found = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)


def evaluate_acdc(data: Path, *, models: Path = PACKAGED) -> PairEvaluation:
    """Registration of end diastole with end systole on patients in ACDC's layout, with the labels people drew.

    Raises
    ------
    AcdcLayoutError
        The folder is not in ACDC's layout.
    ModelUnavailable
        There is no registration network in ``models``.
    """
    import torch

    from pipelines.motion.fields import integrate
    from pipelines.motion.network import velocity_between
    from pipelines.training.acdc import find_patients, read_patient, to_stack

    model = load_model_once(REGISTRATION_MODEL, root=models)
    results = []
    for folder in sorted(find_patients(data)):
        patient = read_patient(folder)
        stack = to_stack(patient)
        labels = np.stack([frame.labels for frame in patient.frames])
        centre = centre_of_ventricle(labels, stack.geometry)
        if centre is None:
            continue
        square = square_at(centre, stack.geometry)
        images = sample_cine(stack.pixels, stack.geometry.pixel_spacing, square)
        with torch.inference_mode():
            field = integrate(velocity_between(images[0], images[1], model), SIDE_MM).numpy()
        warped, unmoved = warped_overlap(labels[0], labels[1], field, square, stack.geometry.pixel_spacing)
        folded = 100 * float((jacobian(field, SIDE_MM) <= 0).mean())
        results.append(PairResult(patient.identifier, patient.group, warped, unmoved, folded))
    return summarise_pairs(results)


def summarise_pairs(results: Sequence[PairResult]) -> PairEvaluation:
    """Figures over patients."""
    names = ("LV", "MYO")
    return PairEvaluation(
        patients=len(results),
        warped_dice_interval={name: _of_mean([result.warped_dice[name] for result in results]) for name in names},
        warped_dice={name: _mean([result.warped_dice[name] for result in results]) for name in names},
        unmoved_dice={name: _mean([result.unmoved_dice[name] for result in results]) for name in names},
        worst_warped_dice={name: min(result.warped_dice[name] for result in results) for name in names},
        folded_percent=_mean([result.folded_percent for result in results]),
        results=tuple(results),
    )
