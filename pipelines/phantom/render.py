"""From the heart and the body to signed images and labels of one imaging plane, before acquisition.

Partial volume: each slice is the mean of sub-slices through its thickness, shifted against each other in plane by
fractions of a pixel, and every border is one pixel wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix

from pipelines.phantom.heart import ATRIAL_WIDTH, GRAIN, LID_TILT, Atrium, Heart, HeartState, Layer
from pipelines.phantom.tables import ANGLES
from pipelines.phantom.thorax import Texture, Thorax
from pipelines.phantom.tissue import Tissue
from pipelines.segmentation.labels import Label

__all__ = ["HeartMovie", "Plane", "RenderedSlice", "film_heart", "render_slice"]

Array = NDArray[np.float64]
Signals = dict[Tissue, Array]

_POSITION_STEP = 1.0
_CLEFT = 5.0
"""Radius of the curve that fat draws across the cleft between two chambers, mm."""
_LEAFLET = 1.8
"""Thickness of a closed valve, mm."""


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One slice: position of its first pixel centre, unit row, column and normal direction (LPS), spacing, size."""

    position: Array
    row: Array
    column: Array
    spacing: float
    rows: int
    columns: int
    thickness: float

    @property
    def normal(self) -> Array:
        """Unit normal, row × column."""
        return np.cross(self.row, self.column)

    def points(self, along_row: float = 0.0, along_column: float = 0.0, through: float = 0.0) -> Array:
        """Patient coordinates of all pixel centres shifted by mm along the three directions, (rows·columns, 3)."""
        origin = self.position + along_row * self.row + along_column * self.column + through * self.normal
        columns = np.arange(self.columns) * self.spacing
        rows = np.arange(self.rows) * self.spacing
        grid = origin + rows[:, None, None] * self.column + columns[None, :, None] * self.row
        return grid.reshape(-1, 3)


@dataclass(frozen=True, slots=True, eq=False)
class HeartMovie:
    """The layers of the heart at all phases of one acquisition.

    Attributes
    ----------
    table : (positions · ANGLES, layers, phases) float64
    first : float
        Spatial level s of the first position, mm; positions are 1 mm apart.
    layers : tuple of Layer
        Which layers the table holds, in order.
    """

    heart: Heart
    states: tuple[HeartState, ...]
    table: Array
    first: float
    positions: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RenderedSlice:
    """Signed signal (T, R, C) float32 and what is where, (T, R, C) uint8.

    ``labels`` holds values of :class:`Label`; ``atria`` 1 left and 2 right atrium; ``lesions`` 1 what
    enhances late, 2 microvascular obstruction (within the myocardium).
    """

    signal: NDArray[np.float32]
    labels: NDArray[np.uint8]
    atria: NDArray[np.uint8]
    lesions: NDArray[np.uint8]


def film_heart(heart: Heart, states: tuple[HeartState, ...]) -> HeartMovie:
    """Tabulate the layers of the heart for all phases."""
    layers = heart.present_layers
    positions = np.arange(-10.0, heart.lv.length + 9.0, _POSITION_STEP)
    table = np.empty((positions.size, ANGLES, len(layers), len(states)))
    for index, state in enumerate(states):
        table[..., index] = heart.layers(state, positions)
    return HeartMovie(
        heart=heart,
        states=states,
        table=table.reshape(positions.size * ANGLES, len(layers), len(states)),
        first=float(positions[0]),
        positions=positions.size,
        layers=layers,
    )


def texture_fields(plane: Plane, rng: np.random.Generator) -> Texture:
    """Draw the random fields of one slice."""
    fields = []
    for correlation in (1.6, 3.2, 8.0):
        noise = rng.standard_normal((plane.rows, plane.columns))
        smooth = gaussian_filter(noise, correlation / plane.spacing, mode="wrap")
        fields.append((smooth / smooth.std()).ravel())
    return Texture(*fields)


def sub_slices(count: int, plane: Plane) -> list[tuple[float, float, float]]:
    """Shifts (along row, along column, through plane) in mm of the samples that make one slice."""
    shifts = []
    for index in range(count):
        through = ((index + 0.5) / count - 0.5) * plane.thickness
        turn = 2 * math.pi * (index * 0.381966)
        radius = 0.0 if count == 1 else 0.3 * plane.spacing
        shifts.append((radius * math.cos(turn), radius * math.sin(turn), through))
    return shifts


def render_slice(
    movie: HeartMovie,
    thorax: Thorax,
    plane: Plane,
    signal: Signals,
    rng: np.random.Generator,
    *,
    samples: int = 3,
    flow: float = 0.05,
) -> RenderedSlice:
    """Render all phases of one slice.

    Parameters
    ----------
    movie : HeartMovie
    thorax : Thorax
    plane : Plane
    signal : dict of Tissue to (rows·columns,) float64
        Signal of each tissue at every pixel.
    rng : numpy.random.Generator
        Texture of the body and of the blood.
    samples : int
        Sub-slices.
    flow : float
        Relative amplitude of the signal variation in blood.
    """
    texture = texture_fields(plane, rng)
    phases = len(movie.states)
    size = plane.rows * plane.columns
    inside = _heart_pixels(movie, plane)
    local = {tissue: values[inside] for tissue, values in signal.items()}
    blood = _blood_texture(plane, inside, phases, rng, flow)
    heart_sum = np.zeros((inside.size, phases))
    coverage = _Coverage.empty(inside.size, phases, lesions=Layer.SCAR_OUTER in movie.layers)
    shifts = sub_slices(samples, plane)
    # Two depths suffice for what does not move.
    near, far = (thorax.paint(plane.points(*shift), signal, texture, plane.spacing) for shift in sub_slices(2, plane))
    static = (near + far) / 2
    if inside.size:
        for shift in shifts:
            points = plane.points(*shift)
            background = near if shift[2] <= 0 else far
            heart_sum += _paint_heart(
                movie, plane, points[inside], background[inside], local, blood, coverage, plane.thickness / samples
            )
    image = np.repeat(static.astype(np.float32)[None], phases, axis=0)
    image[:, inside] = (heart_sum / samples).T
    shape = (phases, plane.rows, plane.columns)
    labels, atria, lesions = (np.zeros((phases, size), np.uint8) for _ in range(3))
    if inside.size:
        labels[:, inside], atria[:, inside], lesions[:, inside] = coverage.decide(samples)
    return RenderedSlice(image.reshape(shape), labels.reshape(shape), atria.reshape(shape), lesions.reshape(shape))


@dataclass(slots=True, eq=False)
class _Coverage:
    """Sums over sub-slices of the fraction of each pixel that each structure fills, (P, T) float64."""

    lv: Array
    myocardium: Array
    rv: Array
    left_atrium: Array
    right_atrium: Array
    scar: Array | None
    obstruction: Array | None

    @classmethod
    def empty(cls, pixels: int, phases: int, *, lesions: bool) -> _Coverage:
        zeros = [np.zeros((pixels, phases)) for _ in range(5)]
        extra = [np.zeros((pixels, phases)) if lesions else None for _ in range(2)]
        return cls(*zeros, *extra)

    def decide(self, samples: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """Labels, atria and lesions, each (T, P): the structure that fills most of a pixel at least half full."""
        heart = self.lv + self.myocardium + self.rv
        stacked = np.stack([self.lv, self.myocardium, self.rv])
        order = np.array([Label.LV, Label.MYO, Label.RV], np.uint8)
        labels = np.where(heart > 0.5 * samples, order[np.argmax(stacked, axis=0)], np.uint8(Label.BACKGROUND))
        atria = np.where(
            self.left_atrium + self.right_atrium > 0.5 * samples,
            np.where(self.left_atrium >= self.right_atrium, np.uint8(1), np.uint8(2)),
            np.uint8(0),
        )
        lesions = np.zeros_like(labels)
        if self.scar is not None and self.obstruction is not None:
            muscle = labels == Label.MYO
            lesions[muscle & (self.scar > 0.5 * self.myocardium)] = 1
            lesions[muscle & (self.obstruction > 0.5 * self.myocardium)] = 2
        return labels.T, atria.astype(np.uint8).T, lesions.T


def _interpolation(movie: HeartMovie, heart_points: Array) -> csr_matrix:
    """Sparse bilinear interpolation from the layer tables to points (x, y, s) of the heart frame."""
    x, y, s = heart_points.T
    rows = np.clip((s - movie.first) / _POSITION_STEP, 0, movie.positions - 1.001)
    angles = np.mod(np.arctan2(-y, x), 2 * math.pi) * (ANGLES / (2 * math.pi))
    row, angle = rows.astype(np.int64), angles.astype(np.int64) % ANGLES
    row_part, angle_part = rows - row, angles - np.floor(angles)
    following = (angle + 1) % ANGLES
    columns = np.stack(
        [row * ANGLES + angle, row * ANGLES + following, (row + 1) * ANGLES + angle, (row + 1) * ANGLES + following],
        axis=1,
    )
    weights = np.stack(
        [
            (1 - row_part) * (1 - angle_part),
            (1 - row_part) * angle_part,
            row_part * (1 - angle_part),
            row_part * angle_part,
        ],
        axis=1,
    )
    pointers = np.arange(0, 4 * x.size + 1, 4)
    return csr_matrix((weights.ravel(), columns.ravel(), pointers), shape=(x.size, movie.positions * ANGLES))


def _heart_pixels(movie: HeartMovie, plane: Plane) -> NDArray[np.int64]:
    """Indices of the pixels that the heart touches in any phase."""
    points = movie.heart.to_heart(plane.points())
    x, y, s = points.T
    in_plane = abs(float(plane.normal @ movie.heart.axes[2]))
    margin = 3.0 + 0.5 * plane.thickness * math.sqrt(max(1 - in_plane**2, 0.0)) + 0.5 * plane.thickness * in_plane
    weights = _interpolation(movie, points)
    fat = movie.table[:, movie.layers.index(Layer.FAT), :].max(axis=1)
    outer = np.sqrt(np.maximum(weights @ fat, 0)) + margin
    ventricles = (x**2 + y**2 < outer**2) & (s > -8 - margin)
    low = min(state.lid for state in movie.states) - 8 - margin
    high = max(state.left_atrium.s + state.left_atrium.half_length for state in movie.states) + 30 + margin
    base = (s > low) & (s < high) & (x > -90) & (x < 55) & (y > -105) & (y < 65)
    return np.flatnonzero((ventricles & (s < low + 30)) | base)


def _blood_texture(
    plane: Plane, inside: NDArray[np.int64], phases: int, rng: np.random.Generator, amplitude: float
) -> Array:
    """Relative signal of moving blood, (P, T): random waves of 10–40 mm that change through the cycle."""
    waves = 20
    row, column = np.divmod(inside, plane.columns)
    direction = rng.uniform(0, 2 * math.pi, waves)
    wave_number = 2 * math.pi / rng.uniform(10, 40, waves)
    turns = rng.integers(-3, 4, waves)
    offset = rng.uniform(0, 2 * math.pi, waves)
    space = plane.spacing * (
        row[:, None] * (np.sin(direction) * wave_number) + column[:, None] * (np.cos(direction) * wave_number)
    )
    time = 2 * math.pi * turns[:, None] * np.arange(phases)[None, :] / phases + offset[:, None]
    field = np.cos(space) @ np.cos(time) - np.sin(space) @ np.sin(time)
    return 1 + amplitude * field * math.sqrt(2 / waves)


def _paint_heart(
    movie: HeartMovie,
    plane: Plane,
    points: Array,
    background: Array,
    signal: Signals,
    blood_texture: Array,
    total: _Coverage,
    depth: float,
) -> Array:
    """Signal of one sub-slice of that depth (mm) over the background, (P, T), adding to the coverage sums."""
    heart = movie.heart
    local = heart.to_heart(points)
    x, y, s = local.T
    weights = _interpolation(movie, local)
    phases = len(movie.states)
    shape = (movie.table.shape[0], len(movie.layers) * phases)
    values = (weights @ movie.table.reshape(shape)).reshape(-1, len(movie.layers), phases)
    distance2 = x**2 + y**2
    # Width of an edge in squared radius: the in-plane gradient of r² − q(s), from the epicardium at end diastole.
    epi = movie.table[:, movie.layers.index(Layer.EPI), 0].reshape(movie.positions, ANGLES)
    slope = weights @ (np.diff(epi, axis=0, append=epi[-1:]) / _POSITION_STEP).ravel()
    gradient = np.stack([2 * x, 2 * y, -slope], axis=1) @ heart.axes
    steepness = np.hypot(gradient @ plane.row, gradient @ plane.column)
    inverse = (1 / (plane.spacing * np.maximum(steepness, 6.0)))[:, None]
    offset = 0.5 - distance2[:, None] * inverse

    def cover(layer: Layer) -> Array:
        edge = values[:, movie.layers.index(layer)] * inverse
        edge += offset
        return np.clip(edge, 0, 1, out=edge)

    def paint(image: Array, coverage: Array, value: Array) -> None:
        image += coverage * (value - image)

    muscle, fat = signal[Tissue.MYOCARDIUM][:, None], signal[Tissue.FAT][:, None]
    blood = signal[Tissue.BLOOD][:, None] * blood_texture
    image = np.repeat(background[:, None], phases, axis=1)
    paint(image, cover(Layer.FAT), fat)
    paint(image, cover(Layer.RV_WALL), muscle)
    rv_visible = cover(Layer.RV_VISIBLE)
    venous = signal[Tissue.VENOUS_BLOOD][:, None] * blood_texture
    paint(image, rv_visible, venous)
    epi_cover, endo_cover = cover(Layer.EPI), cover(Layer.ENDO)
    strands = _strands(movie, values, distance2)
    paint(image, rv_visible * strands * np.clip(1.35 - s / heart.lv.length, 0.15, 1)[:, None], muscle)
    inner = values[:, movie.layers.index(Layer.ENDO)]
    outer = values[:, movie.layers.index(Layer.EPI)]
    within = np.clip((distance2[:, None] - inner) / np.maximum(outer - inner, 1.0), 0, 1)
    grain = values[:, movie.layers.index(Layer.TEXTURE_ENDO)] * (1 - within)
    grain += values[:, movie.layers.index(Layer.TEXTURE_EPI)] * within
    paint(image, epi_cover, muscle * (1 + grain))
    scar_cover = obstruction_cover = None
    if Layer.AT_RISK in movie.layers:
        paint(image, cover(Layer.AT_RISK), signal[Tissue.OEDEMA][:, None] * (1 + grain))
    if Layer.SCAR_OUTER in movie.layers:
        scar_cover = np.maximum(cover(Layer.SCAR_OUTER) - np.maximum(cover(Layer.SCAR_INNER), endo_cover), 0)
        paint(image, scar_cover, signal[Tissue.INFARCT][:, None] * (1 + grain))
    if Layer.OBSTRUCTION_OUTER in movie.layers:
        obstruction_cover = np.maximum(cover(Layer.OBSTRUCTION_OUTER) - cover(Layer.OBSTRUCTION_INNER), 0)
        paint(image, obstruction_cover, signal[Tissue.OBSTRUCTION][:, None] * (1 + grain))
    paint(image, cover(Layer.ENDO_VISIBLE), blood)
    papillary = np.maximum(cover(Layer.PAPILLARY_OUTER) - cover(Layer.PAPILLARY_INNER), 0) * endo_cover
    paint(image, papillary, muscle)
    along = math.hypot(float(heart.axes[2] @ plane.row), float(heart.axes[2] @ plane.column))
    # A sub-slice stands for its whole depth: across the valve plane its edge is as wide as that.
    lid_width = max(plane.spacing * along, depth * abs(float(heart.axes[2] @ plane.normal)), 0.5)
    lids = np.array([state.lid for state in movie.states])
    above = lids[None, :] + (LID_TILT * x - s)[:, None]
    lid = np.clip(0.5 + above / lid_width, 0, 1)
    rv_cover = np.maximum(cover(Layer.RV) - epi_cover, 0)
    total.lv += endo_cover * lid
    total.myocardium += np.maximum(epi_cover - endo_cover, 0) * lid
    total.rv += rv_cover * lid
    if scar_cover is not None and total.scar is not None:
        total.scar += scar_cover * lid
    if obstruction_cover is not None and total.obstruction is not None:
        total.obstruction += np.maximum(obstruction_cover - endo_cover, 0) * lid
    rows = np.flatnonzero(lid.min(axis=1) < 1)
    if rows.size:
        systole = np.array([state.contraction for state in movie.states])
        ejecting = np.concatenate([np.diff(systole) > 0, [False]]) | (systole > 0.93)
        leaflets = np.clip(0.5 + 0.5 * (_LEAFLET - 2 * np.abs(above[rows])) / lid_width, 0, 1)
        leaflets *= min(1.0, _LEAFLET / lid_width) * ejecting * (endo_cover[rows] + rv_cover[rows])
        valve = image[rows]
        paint(valve, leaflets * 0.7, muscle[rows])
        behind = _paint_base(
            movie, plane, local[rows], background[rows], signal, (blood[rows], venous[rows]), rows, total, lid
        )
        image[rows] = behind + lid[rows] * (valve - behind)
    return image


def _strands(movie: HeartMovie, values: Array, distance2: Array) -> Array:
    """How much of each pixel of the right ventricle its trabeculae fill, (P, T): strands from septum to free wall."""
    epi, rv = values[:, movie.layers.index(Layer.EPI)], values[:, movie.layers.index(Layer.RV)]
    across = np.clip((distance2[:, None] - epi) / np.maximum(rv - epi, 1.0), 0, 1)
    # The grain of the left wall, continued: it moves with the muscle and costs no table of its own.
    noise = values[:, movie.layers.index(Layer.TEXTURE_EPI)] * (1 - across)
    noise += values[:, movie.layers.index(Layer.TEXTURE_ENDO)] * across
    return np.clip((noise / GRAIN - 0.7 + 0.2 * across) / 0.4, 0, 0.9) * (0.3 + 0.7 * across)


def _paint_base(
    movie: HeartMovie,
    plane: Plane,
    local: Array,
    background: Array,
    signal: Signals,
    blood: tuple[Array, Array],
    rows: NDArray[np.int64],
    total: _Coverage,
    lid: Array,
) -> Array:
    """What lies behind the valve plane: atria, aortic root, pulmonary trunk, fat of the atrioventricular groove."""
    muscle = signal[Tissue.MYOCARDIUM][rows, None]
    fat = signal[Tissue.FAT][rows, None]
    arterial, venous = blood
    image = np.repeat(background[:, None], len(movie.states), axis=1)
    left = _atrium_distance(local, tuple(state.left_atrium for state in movie.states))
    right = _atrium_distance(local, tuple(state.right_atrium for state in movie.states))
    edge = plane.spacing

    def paint(distance: Array, value: Array, strength: float = 1.0) -> Array:
        coverage = np.clip(0.5 - distance / edge, 0, 1) * strength
        image.__iadd__(coverage * (value - image))
        return coverage

    plane_level = max(state.lid for state in movie.states)
    tubes = _vessels(movie.heart, plane_level)
    pipes = [_capsule(local, start, end)[:, None] - radius for start, end, radius in tubes]
    # Fat fills the clefts between chambers and vessels: a smooth minimum of their distances.
    clefts = np.exp(-left / _CLEFT) + np.exp(-right / _CLEFT) + sum(np.exp(-pipe / _CLEFT) for pipe in pipes)
    paint(-_CLEFT * np.log(clefts) - 3.0, fat, 0.9)
    paint(right - 0.8, muscle)
    right_cover = paint(right, venous)
    paint(left - 1.2, muscle)
    left_cover = paint(left, arterial)
    vessels = np.zeros_like(left_cover)
    for pipe, content in zip(pipes, (arterial, arterial, venous), strict=True):
        paint(pipe - 1.0, muscle)
        vessels = np.maximum(vessels, paint(pipe, content))
    behind = (1 - lid[rows]) * (1 - vessels)
    total.left_atrium[rows] += left_cover * behind
    total.right_atrium[rows] += right_cover * (1 - left_cover) * behind
    return image


def _atrium_distance(local: Array, atria: tuple[Atrium, ...]) -> Array:
    """Approximate signed distance to the atrium at each phase, mm, (P, T)."""
    x, y, s = local.T
    first = atria[0]
    wide, high = (x - first.x) / ATRIAL_WIDTH, (y - first.y) * ATRIAL_WIDTH
    across = (wide**2 + high**2) / first.outline(np.arctan2(high, wide)) ** 2
    radius = np.array([atrium.radius for atrium in atria])
    half = np.array([atrium.half_length for atrium in atria])
    along = s[:, None] - np.array([atrium.s for atrium in atria])[None, :]
    scaled = np.sqrt(across[:, None] / radius**2 + along**2 / half**2)
    gradient = np.sqrt(across[:, None] / radius**4 + along**2 / half**4) + 1e-9
    return scaled * (scaled - 1) / gradient


def _vessels(heart: Heart, lid: float) -> list[tuple[Array, Array, float]]:
    """Aortic root and ascending aorta, pulmonary trunk: capsules (start, end, radius) in the heart frame."""
    scale = (heart.subject.body.surface_m2 / 1.9) ** 0.5
    up = heart.axes @ np.array([0.0, 0.0, 1.0])
    root = np.array([-9.0, -13.0, lid - 10.0])
    bend = root + 24 * scale * (0.75 * np.array([0.0, 0.0, 1.0]) + 0.4 * up)
    trunk = np.array([-22.0, -34.0, lid - 12.0])
    return [
        (root, bend, 12.5 * scale),
        (bend, bend + 60 * up, 14.0 * scale),
        (trunk, trunk + np.array([14.0, -6.0, 34.0]) * scale, 12.5 * scale),
    ]


def _capsule(points: Array, start: Array, end: Array) -> Array:
    """Distance to the axis of a capsule, mm."""
    axis = end - start
    along = np.clip(((points - start) @ axis) / (axis @ axis), 0, 1)
    return np.linalg.norm(points - start - along[:, None] * axis, axis=1)
