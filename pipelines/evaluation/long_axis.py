"""The long-axis network against phantoms that it has not seen, and against fitted surfaces of one real subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStudy, StackGeometry, View
from pipelines.evaluation.external import AnnotationError, cut_surface, fill_segments, read_surface
from pipelines.evaluation.segmentation import dice
from pipelines.evaluation.volumes import Errors, errors_of
from pipelines.function.slices import measure_slices
from pipelines.function.valve_cut import cut_by_views
from pipelines.long_axis.annulus import annulus_points, apex_points
from pipelines.long_axis.atrium import atrial_function
from pipelines.long_axis.findings import LongAxisLabel, Valve
from pipelines.long_axis.measure import long_axis_stacks, read_view, read_views
from pipelines.long_axis.outline import axis_length_mm, midwall_length_mm
from pipelines.long_axis.valve_plane import ValvePlanes, valve_planes
from pipelines.models.registry import PACKAGED
from pipelines.phantom.assembled import cine_stack
from pipelines.phantom.heart import LID_TILT
from pipelines.phantom.study import PhantomStudy, simulate
from pipelines.phantom.truth import measure_truth
from pipelines.segmentation.segment import segment
from pipelines.training.long_axis import true_labels, view_recipe

__all__ = ["PhantomViews", "SurfaceViews", "compare_with_phantoms", "compare_with_surfaces"]

_CLOSED_BY = {"LV": LongAxisLabel.LV, "RV": LongAxisLabel.RV}


@dataclass(frozen=True, slots=True)
class PhantomViews:
    """Figures over phantoms; Dice over all phases of a view, distances in mm over all phases.

    ``mitral_mm`` and ``tricuspid_mm`` are distances along the long axis between the fitted valve plane and the true one
    at the middle of the annulus; ``apex_mm`` between endocardial apices found and true labels give.
    """

    phantoms: int
    first_seed: int
    dice: dict[str, dict[str, float]]
    """By view and label."""
    mitral_mm: float
    mitral_bias_mm: float
    mitral_worst_mm: float
    tricuspid_mm: float | None
    apex_mm: float
    annulus_missed: int
    atrium_missed: int
    """Hearts whose left atrium could not be measured."""
    reservoir_percent: dict[str, Errors]
    """Left atrial reservoir strain, points: against ``contours``, true ones on the same views, and against ``heart``,
    the wall cut through the middle of the atrium, which the views miss by up to 10 mm."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SurfaceViews:
    """One subject with fitted surfaces: Dice of the cavities over all phases and distance of the mitral plane."""

    dice: dict[str, dict[str, float]]
    mitral_mm: dict[str, float]
    """By view: mean distance of the annulus points to the rim of the fitted endocardium, mm."""
    lv_ef_percent: dict[str, float]
    """Left ventricular ejection fraction: of the fitted surfaces, of the short axis alone, cut at the valve plane."""
    lv_esv_ml: dict[str, float]
    lv_edv_ml: dict[str, float]
    longitudinal_percent: dict[str, dict[str, float]]
    """By view: peak longitudinal strain of the lines that the plane cuts out of the fitted surfaces, and as found. The
    fitted epicardium is that of both ventricles: it counts where the plane meets no right ventricle."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def _true_lids(study: PhantomStudy) -> NDArray[np.float64]:
    return np.array([state.lid for state in study.states])


def _plane_error(study: PhantomStudy, planes: ValvePlanes) -> NDArray[np.float64]:
    """Height of the fitted plane over the true one at the middle of the annulus, (T,), mm, towards the atrium."""
    local = study.heart.to_heart(planes.points)
    return local[:, 2] - (_true_lids(study) + LID_TILT * local[:, 0])


def compare_with_phantoms(
    count: int,
    first_seed: int,
    *,
    models: Path = PACKAGED,
    phases: int = 20,
    report: Callable[[int, int], None] | None = None,
) -> PhantomViews:
    """Read the long-axis views of phantoms and compare with what is true.

    Parameters
    ----------
    first_seed : int
        Of phantoms that the network has not been trained on.
    """
    overlaps: dict[str, dict[str, list[float]]] = {}
    mitral: list[NDArray[np.float64]] = []
    tricuspid: list[NDArray[np.float64]] = []
    apices: list[float] = []
    missed, atrium_missed = 0, 0
    reservoirs: dict[str, list[tuple[float, float]]] = {"contours": [], "heart": []}
    for index in range(count):
        study = simulate(replace(view_recipe(first_seed + index), phases=phases), workers=1)
        centre = study.heart.to_patient(np.array([0.0, 0.0, 0.55 * study.heart.lv.length]))
        views, true_views = [], []
        for cine in study.cines[1:]:
            view = read_view(cine_stack(cine), centre, models=models)
            views.append(view)
            truth = true_labels(cine)
            of_view = overlaps.setdefault(str(cine.view), {})
            for label in LongAxisLabel:
                if label is not LongAxisLabel.BACKGROUND and (truth == label).sum() > 40 * len(truth):
                    of_view.setdefault(label.name, []).append(dice(view.labels == label, truth == label))
            true_mitral = annulus_points(truth, cine.geometry, Valve.MITRAL)
            if true_mitral is not None:
                true_views.append(replace(view, labels=truth, annuli={Valve.MITRAL: true_mitral}))
            if true_mitral is not None and np.isfinite(view.apex).all():
                true_apex = apex_points(truth, cine.geometry, true_mitral)
                apices.append(float(np.linalg.norm(view.apex - true_apex, axis=1).mean()))
        for valve, errors in ((Valve.MITRAL, mitral), (Valve.TRICUSPID, tricuspid)):
            planes = valve_planes(views, valve, study.heart.axes[2], phases)
            if planes is None:
                missed += valve is Valve.MITRAL
            else:
                errors.append(_plane_error(study, planes))
        atrium, true_atrium = atrial_function(views), atrial_function(true_views)
        if atrium is None:
            atrium_missed += 1
        else:
            found = atrium.reservoir_percent
            reservoirs["heart"].append((measure_truth(study).facts.la_reservoir_percent, found))
            if true_atrium is not None:
                reservoirs["contours"].append((true_atrium.reservoir_percent, found))
        if report is not None:
            report(index + 1, count)
    errors_mm = np.concatenate(mitral)
    return PhantomViews(
        phantoms=count,
        first_seed=first_seed,
        dice={
            view: {label: float(np.mean(values)) for label, values in labels.items()}
            for view, labels in overlaps.items()
        },
        mitral_mm=float(np.abs(errors_mm).mean()),
        mitral_bias_mm=float(errors_mm.mean()),
        mitral_worst_mm=float(np.abs(errors_mm).max()),
        tricuspid_mm=float(np.abs(np.concatenate(tricuspid)).mean()) if tricuspid else None,
        apex_mm=float(np.mean(apices)),
        annulus_missed=missed,
        atrium_missed=atrium_missed,
        reservoir_percent={against: errors_of(pairs) for against, pairs in reservoirs.items()},
    )


def compare_with_surfaces(subject: Path, *, models: Path = PACKAGED) -> SurfaceViews:
    """Read the 2CH, 3CH and 4CH views of a subject with fitted endocardial surfaces of every phase.

    Raises
    ------
    AnnotationError
        Surfaces are missing or not one a phase, or the subject has no long-axis view.
    """
    studies = assemble(sorted(path for path in (subject / "dicom").rglob("*") if path.is_file()))
    stacks = [
        stack
        for study in studies
        for stack in study.stacks
        if stack.view in (View.LAX_2CH, View.LAX_3CH, View.LAX_4CH) and stack.slices == 1
    ]
    if not stacks:
        raise AnnotationError(f"{subject} has no long-axis view")
    overlaps: dict[str, dict[str, float]] = {}
    rims: dict[str, float] = {}
    strains: dict[str, dict[str, float]] = {}
    for number, stack in enumerate(stacks):
        surfaces = {name: _surfaces(subject, f"{name}_ENDOCARDIAL", stack.phases) for name in _CLOSED_BY}
        centre = surfaces["LV"][0][0].mean(axis=0)
        view = read_view(stack, centre, models=models)
        name = f"{stack.view} {number + 1}"
        overlaps[name] = {}
        shape = (stack.pixels.shape[2], stack.pixels.shape[3])
        distances: list[float] = []
        for chamber, label in _CLOSED_BY.items():
            both, total = 0, 0
            for phase, surface in enumerate(surfaces[chamber]):
                found = view.labels[phase] == label
                cut = cut_surface(*surface, stack.geometry, 0)
                if cut is None or len(cut[1]) not in (0, 2):
                    continue
                segments, rim = cut
                if len(rim):
                    # The surface is open at its base: the curve is closed from one side of the rim to the other.
                    segments = np.concatenate([segments, rim[None]])
                    if chamber == "LV" and Valve.MITRAL in view.annuli:
                        distances += _rim_distances(rim, view.annuli[Valve.MITRAL][phase], stack.geometry)
                truth = fill_segments(segments, shape)
                both += 2 * int((found & truth).sum())
                total += int(found.sum()) + int(truth.sum())
            if total:
                overlaps[name][chamber] = both / total
        if distances:
            rims[name] = float(np.mean(distances))
        lines = {"fitted endocardium": _cut_lengths(surfaces["LV"], stack.geometry)}
        if all(cut_surface(*surface, stack.geometry, 0) is None for surface in surfaces["RV"]):
            lines["fitted epicardium"] = _cut_lengths(_surfaces(subject, "EPICARDIAL", stack.phases), stack.geometry)
        lines |= {"found, mid-wall": midwall_length_mm(view, 0), "found, axis": axis_length_mm(view)}
        strains[name] = {way: float(100 * (mm / mm[0] - 1).min()) for way, mm in lines.items() if mm is not None}
    volumes = _lv_volumes(next(study for study in studies if study.short_axis is not None), subject, models)
    return SurfaceViews(
        overlaps,
        rims,
        {way: float(100 * (1 - ml.min() / ml.max())) for way, ml in volumes.items()},
        {way: float(ml.min()) for way, ml in volumes.items()},
        {way: float(ml.max()) for way, ml in volumes.items()},
        strains,
    )


def _cut_lengths(
    surfaces: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]], geometry: StackGeometry
) -> NDArray[np.float64] | None:
    """Length of the line that a plane cuts out of the surface of each phase, mm; ``None`` where it misses one."""
    lengths = []
    for surface in surfaces:
        cut = cut_surface(*surface, geometry, 0)
        if cut is None:
            return None
        ends = cut[0] * np.asarray(geometry.pixel_spacing)
        lengths.append(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum())
    return np.array(lengths)


def _lv_volumes(study: CineStudy, subject: Path, models: Path) -> dict[str, NDArray[np.float64]]:
    """Left ventricular volume of each phase, ml, by the way it was obtained."""
    stack = study.short_axis
    if stack is None:
        raise AnnotationError(f"{subject} has no short-axis stack")
    segmentation = segment(stack)
    alone = measure_slices(stack, segmentation)
    cut = cut_by_views(alone, stack, read_views(long_axis_stacks(study), stack, segmentation, models=models))
    surfaces = np.array([_enclosed_ml(*surface) for surface in _surfaces(subject, "LV_ENDOCARDIAL", stack.phases)])
    return {"surfaces": surfaces, "short axis alone": alone.lv_ml, "cut at the valve plane": cut.lv_ml}


def _enclosed_ml(points: NDArray[np.float64], triangles: NDArray[np.int64]) -> float:
    """Volume within a surface that is open at its base, closed by a fan about the middle of its rim, ml."""
    edges, uses = np.unique(
        np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1),
        axis=0,
        return_counts=True,
    )
    rim = np.unique(edges[uses == 1])
    # Seen from the middle of the rim the fan that closes the surface has no volume.
    first, second, third = (points - points[rim].mean(axis=0))[triangles].transpose(1, 0, 2)
    return float(abs(np.einsum("ij,ij->i", first, np.cross(second, third)).sum()) / 6000.0)


def _rim_distances(rim: NDArray[np.float64], annulus: NDArray[np.float64], geometry: StackGeometry) -> list[float]:
    truth = geometry.to_patient(0.0, rim[:, 0], rim[:, 1])
    straight = np.linalg.norm(annulus - truth, axis=1)
    crossed = np.linalg.norm(annulus - truth[::-1], axis=1)
    return list(crossed if crossed.sum() < straight.sum() else straight)


def _surfaces(subject: Path, name: str, phases: int) -> Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    paths = sorted((subject / "meshes").glob(f"*_{name}_*.vtk"))
    if len(paths) != phases:
        raise AnnotationError(f"{subject / 'meshes'} has {len(paths)} {name} surfaces, the view {phases} phases")
    return [read_surface(path) for path in paths]
