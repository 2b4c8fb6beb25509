"""The body around the heart: chest wall, lungs, mediastinum, diaphragm, abdominal organs, spine.

Static during a breath-hold. Shapes are signed distances in patient coordinates (LPS, mm), painted back to front with
edges one pixel wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.phantom.heart import Heart
from pipelines.phantom.population import Body
from pipelines.phantom.tissue import Tissue

__all__ = ["Texture", "Thorax", "build_thorax"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Texture:
    """Random fields on the pixels of one slice, unit variance: fine (2–3 mm), medium (5 mm), coarse (12 mm)."""

    fine: Array
    medium: Array
    coarse: Array


@dataclass(frozen=True, slots=True, eq=False)
class Thorax:
    """Position of the organs around the heart of one body; see :func:`build_thorax`."""

    body: Body
    heart_centre: Array
    heart_floor: float
    heart_sac: tuple[Array, float]
    rib_phase: float
    liver_edge: float
    stomach: Array
    stomach_axes: Array
    stomach_gas: float
    spleen: Array
    spine_y: float

    def paint(self, points: Array, signal: dict[Tissue, Array], texture: Texture, pixel: float) -> Array:
        """Signed signal at points.

        Parameters
        ----------
        points : (N, 3) float64
            Patient coordinates, mm.
        signal : dict of Tissue to (N,) float64
            Signal of each tissue at the points, as off-resonance makes it.
        texture : Texture
            Fields on the same points.
        pixel : float
            Width of an edge, mm.

        Returns
        -------
        (N,) float64
        """
        x, y, z = points.T
        body = self.body

        def cover(distance: Array) -> Array:
            return np.clip(0.5 - distance / pixel, 0, 1)

        def paint(image: Array, coverage: Array, value: Array) -> Array:
            return image + coverage * (value - image)

        def ball(centre: tuple[float, float], radius: float) -> Array:
            return np.hypot(x - centre[0], y - centre[1]) - radius

        shade = 1 + 0.06 * texture.medium
        muscle = signal[Tissue.MUSCLE] * (1 + 0.08 * texture.medium + 0.06 * texture.fine)
        fat = signal[Tissue.FAT] * (1 + 0.05 * texture.coarse + 0.04 * texture.fine)
        radius = np.hypot(x, y) + 1e-6
        scaled = (np.abs(x / body.half_width_mm) ** 2.6 + np.abs(y / body.half_depth_mm) ** 2.6) ** (1 / 2.6)
        depth = radius * (1 - 1 / np.maximum(scaled, 1e-3))
        fat_here = body.fat_mm * (0.7 + 0.6 * np.abs(x) / body.half_width_mm) * (1 + 0.04 * texture.coarse)
        wall = 15 + 14 * np.clip(y / body.half_depth_mm, 0, 1) + 4 * np.clip(np.abs(x) / body.half_width_mm, 0, 1)
        image = cover(depth) * fat
        image = paint(image, cover(depth + fat_here), muscle)
        # Fat between the muscle layers of the chest wall.
        seam = np.abs(depth + fat_here + 0.42 * wall) - 1.2 + 0.8 * texture.medium
        image = paint(image, cover(seam) * 0.8, fat)
        cavity = cover(depth + fat_here + wall)
        slant = np.mod(z + 0.45 * y + self.rib_phase, 27.0) - 13.5
        rib = np.hypot(depth + fat_here + 0.7 * wall, slant / 1.5) - 5.0
        image = paint(image, cover(rib - 1.2), signal[Tissue.BONE])
        image = paint(image, cover(rib + 1.2), signal[Tissue.MARROW])
        lung = signal[Tissue.LUNG] * (1 + 0.3 * texture.medium)
        image = paint(image, cavity, lung)
        hilum = np.exp(-(((np.abs(x - 5) - 55) / 45) ** 2) - ((y - 15) / 60) ** 2)
        vessels = np.clip((texture.medium - 2.5 + 0.7 * hilum) / 0.35, 0, 1)
        image = paint(image, cavity * vessels * 0.8, signal[Tissue.BLOOD])
        middle = np.sqrt(((x - 4) / 34) ** 2 + ((y - 22) / 46) ** 2) - 1
        image = paint(image, cavity * cover(middle * 34 + 3 * texture.coarse) * 0.95, 0.75 * fat)
        # Fat behind the sternum and in front of the pericardium.
        front = depth + fat_here + wall + 15 + 3 * texture.coarse
        anterior = np.clip((-y - 25) / 15, 0, 1) * np.clip((75 - np.abs(x - 22)) / 12, 0, 1)
        image = paint(image, cavity * cover(-front) * anterior, fat * 0.95)
        centre, size = self.heart_sac
        relative = points - centre
        sac = np.sqrt((relative**2).sum(axis=1)) - size - 2.5 * texture.coarse
        pad = cover(sac) * np.clip((self.heart_floor + 8 - z) / 10 + 0.3, 0, 1)
        image = paint(image, cavity * pad, fat * 0.9)
        image = self._abdomen(image, points, signal, texture, cavity, cover, shade, fat)
        spine = (0.0, self.spine_y)
        disc = np.mod(z + self.rib_phase, 30.0) < 6
        vertebra = ball(spine, 17.0)
        image = paint(image, cover(vertebra - 1.5), signal[Tissue.BONE])
        marrow = np.where(disc, 0.5, 1.0) * signal[Tissue.MARROW] * (1 + 0.1 * texture.fine)
        image = paint(image, cover(vertebra + 1.0), marrow)
        canal = ball((0.0, self.spine_y + 27), 9.0)
        image = paint(image, cover(canal - 2), signal[Tissue.BONE])
        image = paint(image, cover(canal), signal[Tissue.FLUID] * 0.8)
        image = paint(image, cover(ball((0.0, self.spine_y + 27), 5.0)), signal[Tissue.MUSCLE])
        aorta = ball((25.0, self.spine_y - 12), 11.5)
        image = paint(image, cover(aorta - 1.8), signal[Tissue.MUSCLE])
        return paint(image, cover(aorta), signal[Tissue.BLOOD] * shade)

    def _abdomen(
        self,
        image: Array,
        points: Array,
        signal: dict[Tissue, Array],
        texture: Texture,
        cavity: Array,
        cover: object,
        shade: Array,
        fat: Array,
    ) -> Array:
        x, y, z = points.T
        assert callable(cover)
        floor = self.heart_floor
        right = floor + 22 - 42 * (((x + 75) / 72) ** 2 + ((y - 5) / 85) ** 2)
        left = floor + 4 - 42 * (((x - 82) / 66) ** 2 + ((y - 8) / 85) ** 2)
        tendon = floor - 3 - 30 * (((x - 18) / 75) ** 2 + ((y + 22) / 70) ** 2)
        dome = np.maximum(np.maximum(right, left), tendon)
        below = cavity * cover((z - dome) * 0.8)
        image = image + below * (fat * 0.95 - image)
        muscle_line = cavity * cover(np.abs(z - dome) * 0.8 - 1.2)
        liver_edge = x - (self.liver_edge - 0.25 * y + 0.35 * (z - floor) + 3 * texture.coarse)
        liver = below * cover(liver_edge)
        value = signal[Tissue.LIVER] * (1 + 0.05 * texture.fine + 0.04 * texture.medium)
        image = image + liver * (value - image)
        vessels = np.clip((0.5 * texture.coarse + 0.8 * texture.medium - 1.75) / 0.3, 0, 1)
        image = image + liver * vessels * 0.7 * (signal[Tissue.VENOUS_BLOOD] - image)
        cava = below * cover(np.hypot(x + 24, y - self.spine_y + 42) - 11)
        image = image + cava * (signal[Tissue.VENOUS_BLOOD] * shade - image)
        for organ, centre, axes in (
            (Tissue.SPLEEN, self.spleen, np.array([28.0, 40.0, 45.0])),
            (Tissue.STOMACH, self.stomach, self.stomach_axes),
        ):
            scaled = np.sqrt((((points - centre) / axes) ** 2).sum(axis=1))
            distance = (scaled - 1) * axes.min() + 1.5 * texture.coarse
            coverage = below * cover(distance)
            if organ is Tissue.SPLEEN:
                image = image + coverage * (signal[organ] * shade - image)
                continue
            image = image + coverage * (signal[Tissue.MUSCLE] - image)
            content = np.clip(0.5 + 0.35 * texture.medium + 0.2 * texture.fine, 0, 1.2)
            filled = signal[organ] * content * (1 - self.stomach_gas)
            image = image + below * cover(distance + 4) * (filled - image)
        return image + muscle_line * 0.7 * (signal[Tissue.MUSCLE] - image)


def build_thorax(heart: Heart, rng: np.random.Generator) -> Thorax:
    """Draw the surroundings of a heart so that it rests on the diaphragm."""
    lv = heart.lv
    centre = heart.to_patient(np.array([-12.0, 0.0, 0.55 * lv.length]))
    inferior = float(np.sqrt(np.maximum(lv.epi2, 0)).max()) + 3.0
    floor = float(heart.to_patient(np.array([-10.0, inferior, 0.5 * lv.length]))[2])
    body = heart.subject.body
    return Thorax(
        body=body,
        heart_centre=centre,
        heart_floor=floor,
        heart_sac=(centre + np.array([4.0, -8.0, -6.0]), 0.56 * lv.length + 8 + body.fat_mm * 0.2),
        rib_phase=rng.uniform(0, 27),
        liver_edge=rng.normal(28, 9),
        stomach=np.array([66 + rng.normal(0, 6), -12 + rng.normal(0, 8), floor - 42 + rng.normal(0, 5)]),
        stomach_axes=np.array([42.0, 46.0, 34.0]) * rng.uniform(0.8, 1.15),
        stomach_gas=rng.uniform(0, 1) ** 2,
        spleen=np.array([100 + rng.normal(0, 5), 42 + rng.normal(0, 6), floor - 38 + rng.normal(0, 6)]),
        spine_y=body.half_depth_mm - body.fat_mm - 48,
    )
