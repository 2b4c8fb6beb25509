"""Cine on the square that motion is followed in, packed once and read by every training of the registration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStack, StackGeometry, View
from pipelines.motion.crop import SPACING_MM, centre_of_ventricle, sample_cine, sample_labels, square_at
from pipelines.motion.phantoms import seen_points
from pipelines.phantom.generator import training_recipe
from pipelines.phantom.recipe import PhantomRecipe
from pipelines.phantom.study import CineAcquisition, simulate
from pipelines.phantom.truth import PhantomTruth, measure_truth
from pipelines.segmentation.grid import Square
from pipelines.segmentation.segment import segment

__all__ = ["CineCrop", "motion_recipe", "phantom_crops", "read_crops", "study_crops", "write_crops"]

SIZE = 112
"""A margin about the square of the network, for augmentation."""
_SLICES = 4
_FAULT_RATE = 0.4
_POINTS = 160
LABELS = 5
"""LV cavity, myocardium, RV cavity, left atrium, right atrium."""
_LONG_AXIS_VIEWS = (View.LAX_2CH, View.LAX_3CH, View.LAX_4CH, View.LAX)


@dataclass(frozen=True, slots=True, eq=False)
class CineCrop:
    """One slice over the cycle.

    Attributes
    ----------
    identifier : str
        Case, view and slice.
    images : (T, 112, 112) uint8
        Grey values 0 … 1.25 times 200.
    labels : (T, 112, 112) uint8 or None
        0 background, 1 … 5 as in :data:`LABELS`; ``None`` where nobody has drawn them.
    points : (T, N, 2) float32 or None
        Where points of the wall are seen in the plane, row and column, mm from the centre of the square; NaN where one
        is not in it. ``None`` where nobody knows.
    """

    identifier: str
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None
    points: NDArray[np.float32] | None = None


def motion_recipe(seed: int) -> PhantomRecipe:
    """Recipe of a training phantom: any disease, vendor and field, a fault in two of five, long axis included."""
    rng = np.random.default_rng([seed, 0x4D4F54])
    spacing = float(rng.uniform(1.3, 1.9))
    size = round(200 / spacing)
    return replace(
        training_recipe(seed, phases=int(rng.integers(12, 21)), fault_rate=_FAULT_RATE),
        slices=6,
        long_axis=True,
        rows=size,
        columns=size,
        spacing_mm=spacing,
    )


def phantom_crops(seed: int) -> list[CineCrop]:
    """Four short-axis slices and the long-axis views of one phantom."""
    study = simulate(motion_recipe(seed), workers=1)
    centre = centre_of_ventricle(study.short_axis.labels, study.short_axis.geometry)
    if centre is None:
        return []
    rng = np.random.default_rng([seed, 0x534C49])
    truth = measure_truth(study)
    crops = []
    for cine in study.cines:
        chosen = sorted(rng.permutation(cine.pixels.shape[1])[:_SLICES].tolist())
        labels = np.where(cine.atria > 0, 3 + cine.atria, cine.labels).astype(np.uint8)[:, chosen]
        if cine.view is View.SAX:
            seen = [index for index in range(len(chosen)) if (labels[:, index] > 0).any()]
            chosen, labels = [chosen[index] for index in seen], labels[:, seen]
        images = _images(cine.pixels[:, chosen].astype(np.float32), cine.geometry, centre)
        square = square_at(centre, cine.geometry)
        wide = Square(square.row_mm, square.column_mm, SIZE * SPACING_MM)
        masks = sample_labels(labels, cine.geometry.pixel_spacing, wide, SIZE, LABELS)
        crops += [
            CineCrop(
                f"phantom-{seed}/{cine.view}/{index}",
                images[:, place],
                masks[:, place],
                _points(truth, cine, index, centre),
            )
            for place, index in enumerate(chosen)
        ]
    return crops


def _points(truth: PhantomTruth, cine: CineAcquisition, index: int, centre: NDArray[np.float64]) -> NDArray[np.float32]:
    """Where points of the wall are seen on one slice; at most 160 of them on a long-axis view."""
    seen = seen_points(truth, cine.geometry, index, square_at(centre, cine.geometry), through=cine.view is View.SAX)
    if cine.view is not View.SAX:
        seen = seen[:, np.random.default_rng(index).permutation(seen.shape[1])[:_POINTS]]
    return seen.astype(np.float32)


def _images(pixels: NDArray[np.float32], geometry: StackGeometry, centre: NDArray[np.float64]) -> NDArray[np.uint8]:
    square = square_at(centre, geometry)
    wide = Square(square.row_mm, square.column_mm, SIZE * SPACING_MM)
    return np.asarray((200 * sample_cine(pixels, geometry.pixel_spacing, wide, SIZE)).round().byte().numpy())


def study_crops(folder: Path) -> Iterator[CineCrop]:
    """Every slice of the short axis and the long-axis views of the studies in a folder, without labels.

    Raises
    ------
    SegmentationRefused
        No ventricle was found on a short-axis stack.
    """
    for study in assemble(sorted(path for path in folder.rglob("*") if path.is_file())):
        short = study.short_axis
        if short is None:
            continue
        centre = centre_of_ventricle(segment(short).labels, short.geometry)
        if centre is None:
            continue
        stacks: list[CineStack] = [short, *(stack for stack in study.stacks if stack.view in _LONG_AXIS_VIEWS)]
        for number, stack in enumerate(stacks):
            images = _images(stack.pixels, stack.geometry, centre)
            for index in range(stack.slices):
                yield CineCrop(f"{folder.name}/{number}-{stack.view}/{index}", images[:, index], None)


def write_crops(crops: Iterable[CineCrop], path: Path, key: str) -> None:
    """Write crops to one ``.npz`` without pickled objects; ``key`` says what they were made from."""
    arrays: dict[str, NDArray[Any]] = {}
    names: list[str] = []
    for crop in crops:
        arrays[f"images_{len(names)}"] = crop.images
        if crop.labels is not None:
            arrays[f"labels_{len(names)}"] = crop.labels
        if crop.points is not None:
            arrays[f"points_{len(names)}"] = crop.points
        names.append(crop.identifier)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, names=np.array(json.dumps({"key": key, "names": names})), **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def read_crops(path: Path, key: str) -> list[CineCrop] | None:
    """Crops of :func:`write_crops`, or ``None`` where the file is missing or was made from something else."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as archive:
        facts = json.loads(str(archive["names"]))
        if facts["key"] != key:
            return None
        return [
            CineCrop(
                name,
                archive[f"images_{index}"],
                archive[f"labels_{index}"] if f"labels_{index}" in archive.files else None,
                archive[f"points_{index}"] if f"points_{index}" in archive.files else None,
            )
            for index, name in enumerate(facts["names"])
        ]


def packed_crops(
    path: Path,
    phantoms: int,
    first_seed: int,
    folders: Sequence[Path],
    report: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> list[CineCrop]:
    """Crops of phantoms and of patients, made once and kept in ``path``."""
    sources = ["version 2", f"phantoms {first_seed} {phantoms}", *(folder.name for folder in folders)]
    key = hashlib.sha256("\n".join(sources).encode()).hexdigest()
    kept = read_crops(path, key)
    if kept is not None:
        return kept
    crops: list[CineCrop] = []
    with ProcessPoolExecutor(workers) as pool:
        for done, made in enumerate(pool.map(phantom_crops, range(first_seed, first_seed + phantoms)), 1):
            crops += made
            if report is not None:
                report(done, phantoms)
    for folder in folders:
        crops += study_crops(folder)
    write_crops(crops, path, key)
    return crops
