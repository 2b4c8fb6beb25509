"""The segmentation against other people's annotation, on other scanners: Sunnybrook contours, fitted surfaces.

Both sets are too small to tune on; they say whether the network travels.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStack, StackGeometry, StudyContext
from pipelines.evaluation.segmentation import dice
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Quantity
from pipelines.function.measure import measure_function
from pipelines.function.slices import measure_slices
from pipelines.quality.assess import assess_quality
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.segmentation.segment import segment

__all__ = [
    "AnnotatedFrames",
    "AnnotationError",
    "ContourComparison",
    "SurfaceComparison",
    "compare_with_contours",
    "compare_with_surfaces",
    "contour_distance",
    "cut_surface",
    "fill_segments",
    "read_annotated_frames",
    "read_surface",
]


class AnnotationError(ValueError):
    """Annotation files are missing or malformed; the message names the file."""


@dataclass(frozen=True, slots=True)
class ContourComparison:
    """One Sunnybrook patient, over the slices that have a contour.

    Volumes in ml over the same slices for both; contour distances are means over slices, mm in the plane.
    """

    patient: str
    endocardium_slices: tuple[int, int]
    """Slices annotated at end diastole and end systole."""
    endocardium_dice: tuple[float, float]
    endocardium_mm: tuple[float, float]
    epicardium_dice: float
    epicardium_mm: float
    edv_ml: tuple[float, float]
    """Measured, annotated."""
    esv_ml: tuple[float, float]
    ef_percent: tuple[float, float]
    product: dict[str, float]
    """What the node reports of the same images, all slices and its own key phases: EDV, ESV, ml, and EF, %, each with
    the bounds of its interval."""
    confidence: str
    """Grade of the whole, as the node reports it."""
    agreement: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SurfaceComparison:
    """One stack against fitted surfaces, over all phases and the slices that cut a surface in closed curves."""

    phases: int
    slices: int
    lv_dice: float
    lv_mm: float
    rv_dice: float
    rv_mm: float
    guide_points_mm: dict[str, float]
    """Median in-plane distance of each kind of guide point to the contour it belongs to."""
    agreement: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def contour_distance(found: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, float]) -> float:
    """Average symmetric distance between the outlines of two regions of one slice, mm; NaN where either is empty."""
    if not found.any() or not truth.any():
        return float("nan")
    outlines = [region & ~ndimage.binary_erosion(region) for region in (found, truth)]
    distances = [ndimage.distance_transform_edt(~outline, sampling=spacing) for outline in outlines]
    total = distances[1][outlines[0]].sum() + distances[0][outlines[1]].sum()
    return float(total / (outlines[0].sum() + outlines[1].sum()))


def _short_axis(dicom: Path) -> CineStack:
    studies = assemble(sorted(path for path in dicom.rglob("*") if path.is_file()))
    stacks = [study.short_axis for study in studies if study.short_axis is not None]
    if len(stacks) != 1:
        raise AnnotationError(f"{dicom} holds {len(stacks)} studies with a short-axis stack, expected one")
    return stacks[0]


def _read_contours(folder: Path) -> dict[int, NDArray[np.float64]]:
    """Contours (N, 2) of (x, y) pixels, by instance number."""
    result = {}
    for path in sorted(folder.glob("IM-*-*contour-manual.txt")):
        match = re.match(r"IM-\d+-(\d+)-", path.name)
        try:
            points = np.loadtxt(path, ndmin=2)
        except ValueError as error:
            raise AnnotationError(f"{path} is not a list of x y pairs: {error}") from error
        if match is None or points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            raise AnnotationError(f"{path} is not a contour: expected IM-0001-NNNN and at least three x y pairs")
        result[int(match[1])] = points
    if not result:
        raise AnnotationError(f"{folder} holds no contours")
    return result


def _masks(
    contours: dict[int, NDArray[np.float64]], stack: CineStack, folder: Path
) -> dict[tuple[int, int], NDArray[np.bool_]]:
    """Region of each contour by (phase, slice) of the stack."""
    from skimage.draw import polygon2mask

    place = {
        source.instance_number: (phase, index)
        for phase, row in enumerate(stack.sources)
        for index, source in enumerate(row)
    }
    missing = sorted(set(contours) - set(place))
    if missing:
        raise AnnotationError(f"{folder} has contours of images that are not in the stack: {missing}")
    shape = stack.pixels.shape[2:]
    return {place[number]: polygon2mask(shape, points[:, ::-1]) for number, points in contours.items()}


def _of_phase(masks: dict[tuple[int, int], NDArray[np.bool_]], phase: int) -> tuple[list[int], NDArray[np.bool_]]:
    slices = sorted(index for at, index in masks if at == phase)
    return slices, np.stack([masks[phase, index] for index in slices])


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedFrames:
    """A Sunnybrook patient with its contours as regions (R, C), by (phase, slice) of the short-axis stack."""

    stack: CineStack
    endocardium: dict[tuple[int, int], NDArray[np.bool_]]
    epicardium: dict[tuple[int, int], NDArray[np.bool_]]
    end_diastole: int
    end_systole: int


def read_annotated_frames(patient: Path) -> AnnotatedFrames:
    """Read one patient of Sunnybrook Cardiac Data.

    Parameters
    ----------
    patient : Path
        Folder as in :func:`compare_with_contours`.

    Raises
    ------
    AnnotationError
        Contours are missing, malformed or belong to other images.
    """
    stack = _short_axis(patient / "dicom")
    folder = patient / "contours"
    inner = _masks(_read_contours(folder / "i-contours"), stack, folder)
    outer = _masks(_read_contours(folder / "o-contours"), stack, folder)
    diastole = max({phase for phase, _ in outer}, key=lambda phase: sum(at == phase for at, _ in outer))
    others = {phase for phase, _ in inner} - {diastole}
    if not others:
        raise AnnotationError(f"{folder} has endocardial contours of one phase only")
    systole = max(others, key=lambda phase: sum(at == phase for at, _ in inner))
    return AnnotatedFrames(stack, inner, outer, diastole, systole)


def compare_with_contours(patient: Path) -> ContourComparison:
    """Segment one patient of Sunnybrook Cardiac Data and compare with its contours.

    Radau et al., "Evaluation framework for algorithms segmenting short axis cardiac MRI", MIDAS Journal 2009.

    Parameters
    ----------
    patient : Path
        Folder with ``dicom`` and ``contours/i-contours`` (endocardium at both phases), ``contours/o-contours``
        (epicardium at end diastole).

    Raises
    ------
    AnnotationError
        Contours are missing, malformed or belong to other images.
    SegmentationRefused
        The stack could not be segmented.
    """
    frames = read_annotated_frames(patient)
    stack, inner, outer = frames.stack, frames.endocardium, frames.epicardium
    diastole, systole = frames.end_diastole, frames.end_systole
    segmentation = segment(stack)
    spacing = stack.geometry.pixel_spacing
    tissue = stack.geometry.slice_intervals() * spacing[0] * spacing[1] / 1000
    overlaps, distances, counts, measured, annotated = [], [], [], [], []
    for phase in (diastole, systole):
        slices, truth = _of_phase(inner, phase)
        found = segmentation.labels[phase, slices] == Label.LV
        overlaps.append(dice(found, truth))
        distances.append(
            float(np.nanmean([contour_distance(*pair, spacing) for pair in zip(found, truth, strict=True)]))
        )
        counts.append(len(slices))
        measured.append(float(found.sum((1, 2)) @ tissue[slices]))
        annotated.append(float(truth.sum((1, 2)) @ tissue[slices]))
    slices, truth = _of_phase(outer, diastole)
    found = np.isin(segmentation.labels[diastole, slices], (Label.LV, Label.MYO))
    fractions = [100 * (first - second) / first for first, second in (measured, annotated)]
    product, confidence = _as_reported(stack, segmentation)
    return ContourComparison(
        patient=patient.name,
        endocardium_slices=(counts[0], counts[1]),
        endocardium_dice=(overlaps[0], overlaps[1]),
        endocardium_mm=(distances[0], distances[1]),
        epicardium_dice=dice(found, truth),
        epicardium_mm=float(np.nanmean([contour_distance(*pair, spacing) for pair in zip(found, truth, strict=True)])),
        edv_ml=(measured[0], annotated[0]),
        esv_ml=(measured[1], annotated[1]),
        ef_percent=(fractions[0], fractions[1]),
        product=product,
        confidence=confidence,
        agreement=float(segmentation.agreement.mean()),
    )


def _as_reported(stack: CineStack, segmentation: CineSegmentation) -> tuple[dict[str, float], str]:
    """The node's numbers of the left ventricle and its grade, whether or not it would report them."""
    slices = measure_slices(stack, segmentation)
    keyframes = find_keyframes(stack, slices.lv_ml)
    function = measure_function(stack, slices, keyframes, StudyContext(""))
    numbers: dict[str, float] = {}
    for each in function.measurements():
        if each.quantity in (Quantity.LVEDV, Quantity.LVESV, Quantity.LVEF) and each.interval is not None:
            name = each.quantity.value.split("_")[0]
            numbers |= {name: each.value, f"{name}_lower": each.interval.lower, f"{name}_upper": each.interval.upper}
    return numbers, assess_quality(stack, segmentation, slices, function).overall.name


def read_surface(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points (N, 3), mm, and triangles (M, 3) of a VTK legacy 5.1 ASCII surface.

    Raises
    ------
    AnnotationError
        The file is not such a surface.
    """
    words = path.read_text(encoding="ascii").split()
    try:
        at = words.index("POINTS")
        count = int(words[at + 1])
        points = np.array(words[at + 3 : at + 3 + 3 * count], dtype=np.float64).reshape(count, 3)
        at = words.index("POLYGONS")
        corners = int(words[at + 2])
        at = words.index("CONNECTIVITY")
        triangles = np.array(words[at + 2 : at + 2 + corners], dtype=np.int64).reshape(-1, 3)
    except (ValueError, IndexError) as error:
        raise AnnotationError(f"{path} is not a VTK 5.1 ASCII surface of triangles: {error}") from error
    if len(triangles) == 0 or triangles.max() >= count:
        raise AnnotationError(f"{path} has no triangles, or triangles of points that are not there")
    # Septum and free wall are written as two patches: their seam is closed by making one of points in the same place.
    points, index = np.unique(points.round(4), axis=0, return_inverse=True)
    triangles = index.reshape(-1)[triangles]
    first, second, third = triangles.T
    return points, triangles[(first != second) & (second != third) & (third != first)]


def cut_surface(
    points: NDArray[np.float64], triangles: NDArray[np.int64], geometry: StackGeometry, index: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Cut a surface with the plane of one slice.

    Returns
    -------
    segments : (N, 2, 2) float64
        Segments from (row, column) to (row, column), fractional pixels.
    ends : (E, 2) float64
        Where curves end because the plane leaves the surface through an open end; none where all are closed.

    ``None`` where the plane misses the surface, or cuts it where more than two triangles meet.
    """
    offset = points - geometry.positions[index]
    # A point exactly in the plane would be on neither side of it.
    height = offset @ geometry.normal + 1e-9
    place = np.stack(
        [
            offset @ geometry.column_direction / geometry.pixel_spacing[0],
            offset @ geometry.row_direction / geometry.pixel_spacing[1],
        ],
        axis=1,
    )
    above = height[triangles] > 0
    cut = triangles[(above.sum(1) == 1) | (above.sum(1) == 2)]
    if not len(cut):
        return None
    edges = cut[:, [[0, 1], [1, 2], [2, 0]]]
    crosses = (height[edges[..., 0]] > 0) != (height[edges[..., 1]] > 0)
    crossed = np.sort(edges[crosses].reshape(-1, 2, 2), axis=2)
    each_once, uses = np.unique(crossed.reshape(-1, 2), axis=0, return_counts=True)
    if uses.max() > 2:
        return None

    def at(edge: NDArray[np.int64]) -> NDArray[np.float64]:
        first, second = edge[..., 0], edge[..., 1]
        share = height[first] / (height[first] - height[second])
        result: NDArray[np.float64] = place[first] + share[..., None] * (place[second] - place[first])
        return result

    return at(crossed), at(each_once[uses == 1])


def fill_segments(segments: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centres lie inside closed curves given as segments (N, 2, 2), by the even-odd rule."""
    mask = np.zeros(shape, dtype=bool)
    low, high = segments[:, :, 0].min(1), segments[:, :, 0].max(1)
    columns = np.arange(shape[1])
    for row in range(max(0, int(np.ceil(low.min()))), min(shape[0], int(high.max()) + 1)):
        crossing = segments[(low <= row) & (row < high)]
        share = (row - crossing[:, 0, 0]) / (crossing[:, 1, 0] - crossing[:, 0, 0])
        at = crossing[:, 0, 1] + share * (crossing[:, 1, 1] - crossing[:, 0, 1])
        mask[row] = (at[:, None] < columns).sum(0) % 2 == 1
    return mask


_BOUNDARIES = {
    "SAX_LV_ENDOCARDIAL": (Label.LV,),
    "SAX_LV_EPICARDIAL": (Label.LV, Label.MYO),
    "SAX_RV_FREEWALL": (Label.RV,),
    "SAX_RV_SEPTUM": (Label.RV,),
}


def _guide_point_distances(paths: Sequence[Path], stack: CineStack, segmentation: CineSegmentation) -> dict[str, float]:
    """Median in-plane distance (mm) of guide points to the outline of the region they bound, by kind of point."""
    geometry = stack.geometry
    heights = geometry.positions @ geometry.normal
    distances: dict[str, list[float]] = {kind: [] for kind in _BOUNDARIES}
    for phase, path in enumerate(paths):
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            fields = line.split("\t")
            if len(fields) < 4:
                raise AnnotationError(f"{path} has a line of {len(fields)} columns, expected at least four")
            if fields[3] not in _BOUNDARIES:
                continue
            point = np.array(fields[:3], dtype=np.float64)
            index = int(np.argmin(np.abs(heights - point @ geometry.normal)))
            region = np.isin(segmentation.labels[phase, index], _BOUNDARIES[fields[3]])
            if not region.any():
                continue
            outline = np.argwhere(region & ~ndimage.binary_erosion(region)) * geometry.pixel_spacing
            offset = point - geometry.positions[index]
            place = np.array([offset @ geometry.column_direction, offset @ geometry.row_direction])
            distances[fields[3]].append(float(np.linalg.norm(outline - place, axis=1).min()))
    return {kind: float(np.median(values)) for kind, values in distances.items() if values}


def compare_with_surfaces(subject: Path) -> SurfaceComparison:
    """Segment one subject with fitted biventricular surfaces and guide points in every phase.

    Parameters
    ----------
    subject : Path
        Folder with ``dicom``, ``meshes`` (``*_LV_ENDOCARDIAL_TTT.vtk``, ``*_RV_ENDOCARDIAL_TTT.vtk`` in patient
        coordinates) and ``guidepoints`` (``GPFile_TTT.txt``).

    Raises
    ------
    AnnotationError
        Surfaces are missing, malformed or not one a phase.
    SegmentationRefused
        The stack could not be segmented.
    """
    stack = _short_axis(subject / "dicom")
    segmentation = segment(stack)
    overlaps: dict[Label, list[tuple[int, int]]] = {Label.LV: [], Label.RV: []}
    distances: dict[Label, list[float]] = {Label.LV: [], Label.RV: []}
    used = set()
    for label in (Label.LV, Label.RV):
        paths = sorted((subject / "meshes").glob(f"*_{label.name}_ENDOCARDIAL_*.vtk"))
        if len(paths) != stack.phases:
            raise AnnotationError(
                f"{subject / 'meshes'} has {len(paths)} {label.name} surfaces, the stack {stack.phases} phases"
            )
        for phase, path in enumerate(paths):
            points, triangles = read_surface(path)
            for index in range(stack.slices):
                cut = cut_surface(points, triangles, stack.geometry, index)
                if cut is None or len(cut[1]):
                    continue
                truth = fill_segments(cut[0], (stack.pixels.shape[2], stack.pixels.shape[3]))
                found = segmentation.labels[phase, index] == label
                overlaps[label].append((2 * int((found & truth).sum()), int(found.sum()) + int(truth.sum())))
                distances[label].append(contour_distance(found, truth, stack.geometry.pixel_spacing))
                used.add(index)
    totals = {label: np.array(pairs).sum(0) for label, pairs in overlaps.items()}
    return SurfaceComparison(
        phases=stack.phases,
        slices=len(used),
        lv_dice=float(totals[Label.LV][0] / totals[Label.LV][1]),
        lv_mm=float(np.nanmean(distances[Label.LV])),
        rv_dice=float(totals[Label.RV][0] / totals[Label.RV][1]),
        rv_mm=float(np.nanmean(distances[Label.RV])),
        guide_points_mm=_guide_point_distances(
            sorted((subject / "guidepoints").glob("GPFile_*.txt"))[: stack.phases], stack, segmentation
        ),
        agreement=float(segmentation.agreement.mean()),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare one subject and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.evaluation.external", description=__doc__)
    parser.add_argument("kind", choices=("contours", "surfaces"), help="contours of Sunnybrook, or fitted surfaces")
    parser.add_argument("folder", type=Path, help="folder of one patient")
    options = parser.parse_args(arguments)
    compare = compare_with_contours if options.kind == "contours" else compare_with_surfaces
    print(json.dumps(compare(options.folder).to_json()))


if __name__ == "__main__":
    main()
