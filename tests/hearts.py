"""Hearts of known size for the tests: drawn in anatomical coordinates, sliced by any image geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, FrameSource, StackGeometry, View
from pipelines.models.identity import ModelIdentity
from pipelines.segmentation.labels import CineSegmentation, Label

MODEL = ModelIdentity("drawn", "1", "0" * 64, "segmentation", "none", "Apache-2.0")
CINE_MR = "1.2.840.10008.5.1.4.1.1.4"


def unit(vector) -> NDArray[np.float64]:
    vector = np.asarray(vector, dtype=np.float64)
    return vector / np.linalg.norm(vector)


TO_APEX = unit([0.6, -0.6, -0.5])
SEPTAL = unit(np.cross(np.cross(TO_APEX, [-0.75, -0.65, 0.1]), TO_APEX))
ANTERIOR = np.cross(SEPTAL, TO_APEX)
"""Seen from the apex with the septum on the left, anterior is up."""


@dataclass(frozen=True)
class Shape:
    """What lies at depth z below the base, in mm: x toward the septum, y toward anterior."""

    lv: Callable[[NDArray, NDArray, NDArray], NDArray]
    heart: Callable[[NDArray, NDArray, NDArray], NDArray]
    rv: Callable[[NDArray, NDArray, NDArray], NDArray]


def half_ellipsoid(
    radius: float = 26.0, wall: float = 9.0, length: float = 85.0, rv: bool = True, rv_size: float = 0.95
) -> Shape:
    """Ventricle as a half ellipsoid under the base; the RV is a disc against the septum, ending before the apex."""

    def inside(a: float, depth: float):
        return lambda x, y, z: (z >= 0) & (z < depth) & (x**2 + y**2 <= a**2 * np.clip(1 - (z / depth) ** 2, 0, None))

    lv, heart = inside(radius, length), inside(radius + wall, length + wall)

    def right(x, y, z):
        outer = (radius + wall) * np.sqrt(np.clip(1 - (z / (length + wall)) ** 2, 0, None))
        centre, reach = rv_size * outer, rv_size * outer
        return rv & (z >= 0) & (z < 0.75 * length) & ((x - centre) ** 2 + y**2 <= reach**2) & ~heart(x, y, z)

    return Shape(lv, heart, right)


def emptied(shape_at: Callable[[float], Shape], phases: int, end_systole: float = 0.35) -> list[Shape]:
    """Shapes over the cycle; ``shape_at`` takes the contraction, 0 at ED … 1 at ES."""
    return [shape_at(float(c)) for c in contraction(phases, end_systole)]


def contraction(phases: int, end_systole: float = 0.35) -> NDArray[np.float64]:
    """0 at phase 0, 1 at end systole, smooth and periodic."""
    t = np.arange(phases) / phases
    warped = np.where(t < end_systole, 0.5 * t / end_systole, 0.5 + 0.5 * (t - end_systole) / (1 - end_systole))
    return 0.5 - 0.5 * np.cos(2 * np.pi * warped)


def beating(phases: int = 20, ef: float = 0.6, radius: float = 26.0, wall: float = 9.0, length: float = 85.0, **kwargs):
    """Half ellipsoids that keep their myocardial volume: area of the ring at the base and length are held."""

    def shape_at(c: float) -> Shape:
        r = radius * np.sqrt(1 - ef * c)
        outer = np.sqrt((radius + wall) ** 2 - radius**2 + r**2)
        # The RV shrinks so that both ventricles pump about the same.
        return half_ellipsoid(r, outer - r, length, **{"rv_size": 0.95 - 0.3 * ef * c, **kwargs})

    return emptied(shape_at, phases)


def geometry(
    slices: int = 12,
    pitch: float = 9.0,
    spacing: tuple[float, float] = (1.5, 1.5),
    size: tuple[int, int] = (96, 96),
    *,
    base_first: bool = True,
    turn: float = 0.3,
    above_base: float = 9.0,
    missing: tuple[int, ...] = (),
    thickness: float = 8.0,
) -> StackGeometry:
    """Stack whose long axis goes through the image centre; ``turn`` rotates the image about it (radians)."""
    normal = TO_APEX if base_first else -TO_APEX
    side = unit(np.cross(normal, [0.1, 0.2, 1.0]))
    up = np.cross(normal, side)
    row = np.cos(turn) * side + np.sin(turn) * up
    column = np.cross(normal, row)
    depths = np.arange(slices) * pitch - above_base + pitch / 2
    if not base_first:
        depths = depths[::-1]
    depths = np.delete(depths, list(missing))
    # A little off the middle of the pixel grid: on it, the areas of all discs err together.
    corner = -((0.5 * size[0] - 0.63) * spacing[0] * column + (0.5 * size[1] - 0.21) * spacing[1] * row)
    positions = np.array([20.0, -30.0, 40.0]) + depths[:, None] * TO_APEX + corner
    return StackGeometry(positions, row, column, spacing, thickness)


def draw(
    shapes: list[Shape],
    grid: StackGeometry,
    size: tuple[int, int] = (96, 96),
    *,
    rr: float = 900.0,
    shifts: NDArray | None = None,
    retrospective: bool = True,
    origin: NDArray | None = None,
) -> tuple[CineStack, CineSegmentation]:
    """Label every pixel centre. ``shifts`` (S, 2): displacement of each slice in the image plane, mm."""
    origin = np.array([20.0, -30.0, 40.0]) if origin is None else origin
    slices = len(grid.positions)
    shifts = np.zeros((slices, 2)) if shifts is None else np.asarray(shifts)
    rows, columns = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    labels = np.zeros((len(shapes), slices, *size), dtype=np.uint8)
    for s in range(slices):
        points = (
            grid.positions[s]
            + (columns[..., None] * grid.pixel_spacing[1] - shifts[s, 0]) * grid.row_direction
            + (rows[..., None] * grid.pixel_spacing[0] - shifts[s, 1]) * grid.column_direction
            - origin
        )
        x, y, z = points @ SEPTAL, points @ ANTERIOR, points @ TO_APEX
        for t, shape in enumerate(shapes):
            plane = labels[t, s]
            plane[shape.rv(x, y, z)] = Label.RV
            plane[shape.heart(x, y, z)] = Label.MYO
            plane[shape.lv(x, y, z)] = Label.LV
    return stack_of(labels, grid, rr=rr, retrospective=retrospective), segmentation_of(labels)


def stack_of(
    labels: NDArray[np.uint8], grid: StackGeometry, *, rr: float = 900.0, retrospective: bool = True
) -> CineStack:
    """Stack with bright blood and dark wall, noise included."""
    phases, slices = labels.shape[:2]
    grey = np.array([60.0, 240.0, 80.0, 220.0])[labels]
    pixels = (grey + np.random.default_rng(0).normal(0, 8, labels.shape)).astype(np.float32)
    times = np.arange(phases) * rr / phases * (1.0 if retrospective else 0.75)
    sources = tuple(
        tuple(
            FrameSource(CINE_MR, f"1.2.3.{t}.{s}", "1.2.3", None, t * slices + s + 1, float(times[t]))
            for s in range(slices)
        )
        for t in range(phases)
    )
    return CineStack(
        view=View.SAX,
        pixels=pixels,
        geometry=grid,
        sources=sources,
        trigger_times=np.repeat(times[:, None], slices, axis=1),
        rr_intervals=np.full(slices, rr),
        frame_of_reference_uid="1.2.3.4",
        retrospective=retrospective,
    )


def segmentation_of(labels: NDArray[np.uint8], agreement: float = 0.97) -> CineSegmentation:
    """Segmentation as the networks would give it."""
    return CineSegmentation(
        labels=labels,
        agreement=np.full(labels.shape[:2], agreement, dtype=np.float32),
        crop=(0, labels.shape[2], 0, labels.shape[3]),
        models=(MODEL,),
    )
