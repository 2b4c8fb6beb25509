"""Pairs of a simulated cine and a real late-enhancement image of the same ventricle, from EMIDEC.

The image is a patient's, with its infarct and obstruction; the cine is simulated from that anatomy: the patient's
contours, the infarct as scar field, motion by the joint law of the phantom. What the image shows beyond the labels, a
network cannot find in such a cine.

EMIDEC is read here as PNG whose spacing is lost. The ventricle is taken to be as wide as high
(:func:`pipelines.training.emidec.aspect`), and cavity and muscle together as large as those of the person drawn for it.
The right ventricle is not labelled. These PNG show it at the bottom, chest wall at the bottom right and lung on the
right: they are mirrored at the other diagonal, and :func:`upright` puts them as a reader sees a short axis.

Every third patient is reported on and never trained on. Of the others every fifth is held out, for decisions.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, gaussian_filter1d, map_coordinates

from pipelines.late_enhancement.labels import Tissue
from pipelines.phantom.anatomy import Anatomy
from pipelines.phantom.identity import recipe_key
from pipelines.phantom.law import DEFAULT_LAW, JointLaw
from pipelines.phantom.population import draw_subject
from pipelines.phantom.recipe import Dialect, Disease, PhantomRecipe
from pipelines.phantom.study import ENHANCEMENT_GREY, PSIR_ZERO, Enhancement, PhantomStudy, simulate
from pipelines.phantom.tables import ANGLES, angle_grid
from pipelines.phantom.tissue import EnhancementTiming
from pipelines.segmentation.labels import Label
from pipelines.tissue import MYOCARDIAL_DENSITY_G_ML
from pipelines.training.emidec import ASSUMED_PITCH_MM, EmidecCase, aspect, find_cases, read_case
from pipelines.training.heart_clips import VERSION, clips_of, law_name, recipe_of, write_clips

__all__ = [
    "Part",
    "Placed",
    "pack_patients",
    "part_of",
    "place",
    "semi_synthetic_recipe",
    "semi_synthetic_study",
    "upright",
]

_STEP_MM = 0.2
_THINNEST_MM = 2.5
"""Where the label of the wall is open the wall goes on, at least this thick."""
_SMOOTH_DEG = 4.0
_LABEL_OF = np.array([Label.BACKGROUND, Label.LV, Label.MYO, Label.MYO, Label.MYO], np.uint8)
_LESION_OF = np.array([0, 0, 0, 1, 2], np.uint8)
_REPORTED_EVERY, _HELD_OUT_EVERY = 3, 5


class Part(enum.StrEnum):
    """What patients of EMIDEC are for, where cines are simulated from their anatomy."""

    REPORTED = "reported"
    """Figures are reported on them; nothing is decided on them."""
    HELD_OUT = "held-out"
    """Networks and settings are chosen on them."""
    TRAINING = "training"
    """Weights may be fitted to them."""


def part_of(cases: Sequence[str], part: Part) -> tuple[str, ...]:
    """Those of the cases, by identifier, that belong to a part; a function of all identifiers in their order."""
    known = sorted(cases)
    reported = known[::_REPORTED_EVERY]
    others = [case for case in known if case not in set(reported)]
    held_out = others[::_HELD_OUT_EVERY]
    match part:
        case Part.REPORTED:
            return tuple(reported)
        case Part.HELD_OUT:
            return tuple(held_out)
        case Part.TRAINING:
            return tuple(case for case in others if case not in set(held_out))


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A case in millimetres about the long axis of its left ventricle; K slices, apex first.

    Attributes
    ----------
    slices : (K,) int
        Slices of the case that show cavity and muscle.
    centres : (K, 2) float64
        Row and column of the long axis in each, pixels.
    spacing_mm : (float, float)
        Taken distance of rows and of columns.
    anatomy : Anatomy
    """

    slices: NDArray[np.intp]
    centres: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    anatomy: Anatomy


def upright(case: EmidecCase) -> EmidecCase:
    """A case as read from PNG, put as a reader sees a short axis: right ventricle left, anterior wall up."""
    pixels = np.ascontiguousarray(case.pixels[:, ::-1, ::-1].swapaxes(1, 2))
    labels = np.ascontiguousarray(case.labels[:, ::-1, ::-1].swapaxes(1, 2))
    return replace(case, pixels=pixels, labels=labels)


def place(case: EmidecCase, volume_ml: float) -> Placed:
    """Take scale and long axis of a case from its labels, so that cavity and muscle fill ``volume_ml``.

    Raises
    ------
    ValueError
        Fewer than three slices show cavity and muscle.
    """
    cavity, body = _filled(case.labels)
    slices = np.flatnonzero(cavity.any((1, 2)) & (body & ~cavity).any((1, 2)))
    if slices.size < 3:
        raise ValueError(f"{case.identifier} shows the left ventricle on {slices.size} slices: three are needed")
    # The area of a pixel follows from the volume.
    pixel_mm2 = 1000 * volume_ml / (float(body[slices].sum()) * ASSUMED_PITCH_MM)
    ratio = aspect(case.labels)
    spacing = (math.sqrt(pixel_mm2 / ratio), math.sqrt(pixel_mm2 * ratio))
    centres = np.array([np.argwhere(body[index]).mean(axis=0) for index in slices])
    rays = [
        _rays(case.labels[index], cavity[index], body[index], centre, spacing)
        for index, centre in zip(slices, centres, strict=True)
    ]
    endo, epi, *depths = (np.stack(column) for column in zip(*rays, strict=True))
    return Placed(
        slices, centres, spacing, Anatomy(ASSUMED_PITCH_MM, endo, epi, (depths[0], depths[1]), (depths[2], depths[3]))
    )


def _filled(labels: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Cavity with papillary muscles, and cavity and wall, (S, R, C) each."""
    cavity = np.stack([binary_fill_holes(plane == Tissue.LV) for plane in labels])
    body = np.stack([binary_fill_holes(plane != Tissue.BACKGROUND) for plane in labels])
    return cavity, body


def _rays(
    labels: NDArray[np.uint8],
    cavity: NDArray[np.bool_],
    body: NDArray[np.bool_],
    centre: NDArray[np.float64],
    spacing: tuple[float, float],
) -> tuple[NDArray[np.float64], ...]:
    """Endocardium and epicardium (mm), and inner and outer depth of scar and of obstruction, (ANGLES,) each."""
    rows, columns = np.nonzero(body)
    away = np.hypot((rows - centre[0]) * spacing[0], (columns - centre[1]) * spacing[1])
    reach = float(away.max()) + 3 * max(spacing)
    radius = np.arange(_STEP_MM, reach, _STEP_MM)
    angle = angle_grid()[:, None]
    # θ runs counter-clockwise on the image: row = −y.
    place_of = [centre[0] - radius * np.sin(angle) / spacing[0], centre[1] + radius * np.cos(angle) / spacing[1]]

    def furthest(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        inside = map_coordinates(mask.astype(np.float64), place_of, order=1) > 0.5
        return np.where(inside.any(axis=1), radius[inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)], np.nan)

    endo = np.maximum(_smooth(_bridged(furthest(cavity))), 1.0)
    outer = furthest(body)
    wall = np.where(outer - endo > spacing[0], outer - endo, np.nan)
    epi = endo + np.maximum(_smooth(_bridged(wall)), _THINNEST_MM)
    found = map_coordinates(labels, place_of, order=0)
    depth = (radius[None, :] - endo[:, None]) / (epi - endo)[:, None]
    within = (depth > 0) & (depth <= 1)
    tables: list[NDArray[np.float64]] = [endo, epi]
    for tissues in ((Tissue.INFARCT, Tissue.OBSTRUCTION), (Tissue.OBSTRUCTION,)):
        here = np.isin(found, tissues) & within
        any_ = here.any(axis=1)
        inner = np.where(any_, np.where(here, depth, np.inf).min(axis=1, initial=2.0), 0.0)
        far = np.where(any_, np.where(here, depth, -np.inf).max(axis=1, initial=-1.0), 0.0)
        # A scar that begins within a pixel of the endocardium begins at it.
        inner = np.where(inner * (epi - endo) < max(spacing), 0.0, inner)
        tables += [inner, far]
    return tuple(tables)


def _bridged(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values around the ventricle with gaps (NaN) bridged."""
    known = np.isfinite(values)
    if not known.any():
        return np.full_like(values, _THINNEST_MM)
    return np.interp(np.arange(ANGLES), np.flatnonzero(known), values[known], period=ANGLES)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(gaussian_filter1d(values, _SMOOTH_DEG / 360 * ANGLES, mode="wrap"))


def semi_synthetic_recipe(case: EmidecCase, law: JointLaw = DEFAULT_LAW, draw: int = 0) -> PhantomRecipe:
    """Recipe of the simulated patient and scanner of a case, drawn from its identifier and the number of the draw.

    With an infarct it is an acute one, as EMIDEC's are. Without, muscle stands still without scar as often as the law
    says of a heart with an old infarct: these patients came with symptoms, too.
    """
    name = case.identifier if draw == 0 else f"{case.identifier}#{draw}"
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    rng = np.random.default_rng([seed, 0x454D49])
    dialect = tuple(Dialect)[int(rng.integers(len(Dialect)))]
    stunned = rng.random() < law.hibernation
    spacing = float(rng.uniform(1.3, 1.9))
    infarct = case.group != "normal"
    return PhantomRecipe(
        seed=seed,
        disease=Disease.INFARCT if infarct else Disease.HIBERNATION if stunned else Disease.NORMAL,
        dialect=dialect,
        slices=len(case.pixels),
        phases=14,
        rows=round(200 / spacing),
        columns=round(200 / spacing),
        spacing_mm=spacing,
        pitch_mm=ASSUMED_PITCH_MM,
        long_axis=False,
        acute=True if infarct else None,
        obstruction=case.group == "obstruction" if infarct else None,
        coils=2,
        law=law,
    )


def semi_synthetic_study(
    case: EmidecCase, law: JointLaw = DEFAULT_LAW, *, draw: int = 0, workers: int = 1
) -> PhantomStudy:
    """Simulate the cine of a case; its late enhancement is the real image with the experts' masks.

    Parameters
    ----------
    case : EmidecCase
        Upright: the right ventricle of the cine lies on the left.
    law : JointLaw
        Of motion and scar.
    draw : int
        Another number gives another simulated patient and scanner about the same anatomy and image.
    workers : int
        Processes.

    Raises
    ------
    ValueError
        Fewer than three slices show cavity and muscle.
    """
    recipe = semi_synthetic_recipe(case, law, draw)
    person = np.random.SeedSequence(recipe.seed).spawn(4)[0]
    subject = draw_subject(recipe, np.random.default_rng(person))
    placed = place(case, subject.lv_edv_ml + subject.lv_mass_g / MYOCARDIAL_DENSITY_G_ML)
    study = simulate(recipe, workers=workers, anatomy=placed.anatomy)
    return replace(study, enhancement=_real_enhancement(case, placed, study))


def _real_enhancement(case: EmidecCase, placed: Placed, study: PhantomStudy) -> Enhancement:
    """Image and masks of the case on the grid of the simulated short axis."""
    cine = study.short_axis
    rows, columns = cine.pixels.shape[2:]
    spacing = cine.geometry.pixel_spacing
    down = (np.arange(rows) - (rows - 1) / 2)[:, None] * spacing[0]
    right = (np.arange(columns) - (columns - 1) / 2)[None, :] * spacing[1]
    grey = np.zeros(cine.pixels.shape[1:], np.float32)
    masks = np.zeros(grey.shape, np.uint8)
    for index, (slice_, (row, column)) in enumerate(zip(placed.slices, placed.centres, strict=True)):
        at = np.broadcast_arrays(row + down / placed.spacing_mm[0], column + right / placed.spacing_mm[1])
        grey[index] = map_coordinates(case.pixels[slice_], at, order=1, mode="nearest")
        masks[index] = map_coordinates(case.labels[slice_], at, order=0, mode="constant")
    level = (grey / 255 * ENHANCEMENT_GREY).round().astype(np.uint16)
    return Enhancement(
        magnitude=level,
        phase_sensitive=(level + PSIR_ZERO).astype(np.uint16),
        geometry=cine.geometry,
        labels=_LABEL_OF[masks],
        lesions=_LESION_OF[masks],
        timing=EnhancementTiming(math.nan, math.nan),
        trigger_ms=math.nan,
    )


def pack_patients(
    folder: Path,
    data: Path,
    part: Part,
    draws: int,
    law: JointLaw = DEFAULT_LAW,
    *,
    workers: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write the clips of every patient of a part that ``folder`` does not hold yet.

    Parameters
    ----------
    folder : Path
        Made when absent.
    data : Path
        Folder of EMIDEC with ``images`` and ``labels``.
    part : Part
    draws : int
        Cines that are simulated of each patient.
    law : JointLaw
        Of motion and scar.
    workers : int
        Processes.
    report : callable
        Is called with the cines done and wanted.

    Returns
    -------
    list of Path
        Files for :func:`pipelines.training.heart_clips.read_clips`, patient by patient.

    Raises
    ------
    EmidecLayoutError
        The folder does not hold EMIDEC as PNG slices.
    ValueError
        A patient has fewer than three slices that show cavity and muscle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = find_cases(data)
    wanted = [(found[case], draw) for case in part_of(tuple(found), part) for draw in range(draws)]
    files = []
    with ProcessPoolExecutor(workers) as pool:
        for done, path in enumerate(pool.map(partial(_pack_one, folder, law), wanted), 1):
            files.append(path)
            if report is not None:
                report(done, len(wanted))
    return files


def _pack_one(folder: Path, law: JointLaw, wanted: tuple[Sequence[Path], int]) -> Path:
    import torch

    torch.set_num_threads(1)
    images, draw = wanted
    case = upright(read_case(images))
    path = folder / f"emidec-{law_name(law)}-v{VERSION}-{case.identifier}-{draw}.npz"
    if path.is_file() and recipe_of(path) == recipe_key(semi_synthetic_recipe(case, law, draw)):
        return path
    study = semi_synthetic_study(case, law, draw=draw)
    late = study.enhancement
    assert late is not None  # put there by semi_synthetic_study
    clips = clips_of(study, late.lesions, case.identifier)
    if clips is None:
        raise ValueError(f"the cine simulated for {case.identifier} shows no left ventricle: leave the patient out")
    write_clips(clips, path)
    return path
