"""Hearts drawn with compasses: rings whose radii, scar and late enhancement are known exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement.features import FIELD_PX
from pipelines.training.heart_clips import HeartClips

__all__ = ["ring_clips", "ring_labels"]

_RECIPE = "seed={seed};disease={disease};dialect=siemens;slices=4"


def ring_labels(centre: tuple[float, float], inner: float, outer: float) -> NDArray[np.uint8]:
    """A cavity in a ring of muscle, radii in pixels; the right ventricle lies beside it along the columns."""
    rows, columns = np.indices((FIELD_PX, FIELD_PX)) - (FIELD_PX - 1) / 2
    away = np.hypot(rows - centre[0], columns - centre[1])
    right = (np.hypot(rows - centre[0], columns - centre[1] + 0.9 * outer) < 0.9 * outer) & (away >= outer)
    labels = np.where(right, np.uint8(Label.RV), np.uint8(Label.BACKGROUND))
    labels[away < outer] = Label.MYO
    labels[away < inner] = Label.LV
    return labels.astype(np.uint8)


def ring_clips(seed: int, *, scarred: bool, phases: int = 10, slices: int = 4) -> HeartClips:
    """A beating ring; scar is a sector of the lower half that does not move and shines in late enhancement."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((FIELD_PX, FIELD_PX)) - (FIELD_PX - 1) / 2
    still = (rows > np.abs(columns)) if scarred else np.zeros(rows.shape, bool)
    labels = np.zeros((phases, slices, FIELD_PX, FIELD_PX), np.uint8)
    for phase in range(phases):
        squeezed = 4 * np.sin(np.pi * phase / phases) ** 2
        moving, resting = ring_labels((0, 0), 12 - squeezed, 18), ring_labels((0, 0), 12, 18)
        labels[phase] = np.where(still, resting, moving)
    lesions = (still & (labels[0] == Label.MYO)).astype(np.uint8)
    bright = np.choose(labels, [40, 160, 60, 150]).astype(np.float64)
    images = np.clip(bright + rng.normal(0, 4, labels.shape), 0, 250).astype(np.uint8)
    shine = np.choose(labels[0], [0.1, 0.2, 0.04, 0.19]) + 0.2 * (lesions > 0) + rng.normal(0, 0.02, labels[0].shape)
    disease = "infarct" if scarred else "normal"
    return HeartClips(
        seed=seed,
        images=images,
        labels=labels,
        lesions=lesions,
        enhancement=shine.astype(np.float16),
        height=np.linspace(0, 1, slices).astype(np.float32),
        pitch_mm=10.0,
        facts={"recipe": _RECIPE.format(seed=seed, disease=disease), "disease": disease, "field_strength_t": 1.5},
    )
