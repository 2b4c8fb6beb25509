"""Lesions of the wall: scar, area at risk, thinning and lost or late contraction, as tables over the ventricle.

Tables are (levels, ANGLES) on material levels; depths are fractions of the wall, 0 endocardium and 1 epicardium. How
the loss of motion follows from the scar, and how much of it does not, is :mod:`pipelines.phantom.law`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.phantom.law import JointLaw
from pipelines.phantom.population import Conduction, Infarct, Patch, Subject
from pipelines.phantom.recipe import Disease
from pipelines.phantom.tables import ANGLES, angle_grid, angular_distance, smooth_table

__all__ = [
    "Appearance",
    "Lesions",
    "appearance_of",
    "build_lesions",
    "lost_motion",
    "lost_to_patches",
    "patch_distance",
]

Array = NDArray[np.float64]

_FIELD_MM, _FIELD_DEG = 12.0, 25.0
"""Correlation of what is drawn independently of the scar."""
_INDEPENDENT_LOSS = 0.45
"""Scale of motion loss without a cause in the scar, at coupling 0."""
_UNIFORM = (Disease.NORMAL, Disease.RV_OVERLOAD)
"""Hearts whose left ventricle is healthy: nothing but heterogeneity departs from full contraction."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """Appearance of lesions in the images.

    Attributes
    ----------
    fat : float
        Share of fat in the scar.
    oedema : float
        Share of the T2 effect of oedema that shows in the area at risk.
    core : float
        How far the signal of an obstruction departs from that of the infarct around it in cine images, 0 … 1: most with
        haemorrhage.
    enhancement : float
        Late enhancement of the scar, from that of muscle (0) to that of a dense infarct (1).
    """

    fat: float = 0.0
    oedema: float = 0.0
    core: float = 1.0
    enhancement: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Lesions:
    """Everything that departs from a healthy left ventricular wall.

    Attributes
    ----------
    scar : (N, ANGLES) float64 twice, or None
        Inner and outer depth of what enhances; equal where nothing does.
    distance : (N, ANGLES) float64
        Relative distance from the centre of the first infarct (1 at its border); a random outline without one.
    at_risk : (N, ANGLES) float64 or None
        Depth of the area at risk of an acute infarct: 1 inside.
    thinning : (N, ANGLES) float64
        Fraction of wall thickness lost.
    loss : (N, ANGLES) float64
        Contractility lost: 0 in healthy muscle, 1 akinetic, more is dyskinetic.
    delay : (N, ANGLES) float64 or None
        Electrical delay, fractions of RR; ``None`` where all contracts together.
    """

    scar: tuple[Array, Array] | None
    distance: Array
    at_risk: Array | None
    thinning: Array
    loss: Array
    delay: Array | None
    appearance: Appearance


def build_lesions(
    subject: Subject, law: JointLaw, levels: Array, length: float, outline: Array, rng: np.random.Generator
) -> Lesions:
    """Build the tables of a subject.

    Parameters
    ----------
    levels : (N,) float64
        Material levels, mm.
    length : float
        Level of the mitral plane, mm.
    outline : (N, ANGLES) float64
        Random field that makes borders irregular.
    rng : numpy.random.Generator
        For what the law draws.
    """
    fraction = (levels / length)[:, None]
    shape = (levels.size, ANGLES)
    inner, outer = np.zeros(shape), np.zeros(shape)
    at_risk, thinning, law_loss = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    stunning, ratio = rng.uniform(*law.stunning), rng.uniform(*law.risk_ratio)
    distance = outline
    for index, infarct in enumerate(subject.infarcts):
        away = patch_distance(infarct, fraction, outline)
        distance = away if index == 0 else distance
        depth = _infarct_depth(infarct, away)
        outer = np.maximum(outer, depth)
        core = 1 - infarct.contractility
        if infarct.acute:
            risk = smooth_table((patch_distance(infarct, fraction, outline, ratio) < 1).astype(np.float64), 2.0, 4.0)
            at_risk = np.maximum(at_risk, risk)
            shown = np.maximum(depth / infarct.transmurality, stunning * risk)
        else:
            thinning = np.maximum(thinning, infarct.thinning * smooth_table((depth > 0).astype(np.float64), 5, 9))
            shown = _visible(depth, law)
        law_loss = np.maximum(law_loss, core * shown)
    law_loss = np.maximum(law_loss, lost_to_patches(subject, fraction, outline))
    for band in subject.fibrosis:
        inside = np.clip((1 - patch_distance(band, fraction, outline)) / 0.35, 0, 1)
        here = inside > 0
        inner = np.where(here & (outer <= inner), band.inner, inner)
        outer = np.where(here, np.maximum(outer, band.inner + (band.outer - band.inner) * np.sqrt(inside)), outer)
        law_loss = np.maximum(law_loss, band.severity * inside)
    law_loss += subject.basal_loss * np.clip((fraction - 0.2) / 0.8, 0, 1)
    return Lesions(
        scar=(inner, outer) if outer.any() else None,
        distance=distance,
        at_risk=at_risk if at_risk.any() else None,
        thinning=thinning,
        loss=lost_motion(subject, law, smooth_table(law_loss, 6.0, 12.0), rng),
        delay=_delay(subject.conduction),
        appearance=appearance_of(subject, law, rng),
    )


def lost_to_patches(subject: Subject, fraction: Array, outline: Array) -> Array:
    """Contractility lost where muscle stands still without scar, (N, ANGLES)."""
    loss = np.zeros_like(outline)
    for patch in subject.akinesia:
        inside = np.clip((1 - patch_distance(patch, fraction, outline)) / 0.3, 0, 1)
        loss = np.maximum(loss, patch.severity * np.sqrt(inside))
    return loss


def patch_distance(patch: Patch, fraction: Array, outline: Array, area_ratio: float = 1.0) -> Array:
    """Relative distance from the centre of a patch, 1 at its border; ``area_ratio`` makes the patch larger."""
    scale = np.sqrt(area_ratio)
    around = angular_distance(angle_grid(), patch.angle_deg)[None, :] / (patch.half_width_deg * scale)
    along = (fraction - patch.level) / (patch.half_length * scale)
    # An apical patch closes over the apex, where angles lose their meaning.
    wrap = np.clip(fraction / 0.18, 0.25, 1)
    return np.sqrt((around * wrap) ** 2 + along**2) + 0.10 * outline / outline.std()


def _infarct_depth(infarct: Infarct, distance: Array) -> Array:
    depth = infarct.transmurality * np.sqrt(np.clip((1 - distance) / 0.3, 0, 1))
    return smooth_table(depth, 1.0, 2.0) * (depth > 0)


def _visible(depth: Array, law: JointLaw) -> Array:
    """Share of the motion loss of a chronic scar that shows, by its depth: 0 at depth 0, 1 at depth 1."""

    def logistic(value: Array | float) -> Array:
        return 1 / (1 + np.exp(-(np.asarray(value) - law.visible_transmurality) / law.visibility_width))

    floor, ceiling = logistic(0.0), logistic(1.0)
    return (logistic(depth) - floor) / (ceiling - floor)


def lost_motion(subject: Subject, law: JointLaw, caused: Array, rng: np.random.Generator) -> Array:
    """Motion loss of the law: what follows from the lesions, what is drawn independently, and heterogeneity."""
    change, elsewhere, uneven = (_field(caused.shape, rng) for _ in range(3))
    free = 1 - law.coupling
    loss = caused * np.clip(1 + free * change, 0, 2)
    if subject.disease not in _UNIFORM:
        loss = loss + free * _INDEPENDENT_LOSS * np.maximum(elsewhere - 0.5, 0)
    loss = loss + law.heterogeneity * uneven
    return np.clip(loss, -0.25, 1.15)


def _field(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Smooth Gaussian field of mean 0 and standard deviation 1."""
    smooth = smooth_table(rng.standard_normal(shape), _FIELD_MM, _FIELD_DEG)
    return (smooth - smooth.mean()) / smooth.std()


def _delay(conduction: Conduction | None) -> Array | None:
    if conduction is None:
        return None
    towards = 0.5 - 0.5 * np.cos(np.radians(angular_distance(angle_grid(), conduction.early_deg)))
    return (conduction.spread * (towards - 0.5))[None, :]


def appearance_of(subject: Subject, law: JointLaw, rng: np.random.Generator) -> Appearance:
    """Draw how the lesions of a subject look."""
    # All draws happen for everybody, so that one parameter of the law does not change the others.
    fatty, fat = rng.random() < law.fat, rng.uniform(0.1, 0.6)
    oedema = rng.uniform(*law.oedema)
    bleeding, dark, faint = rng.random() < law.haemorrhage, rng.uniform(0.5, 1.2), rng.uniform(0.0, 0.35)
    enhancement = rng.uniform(0.8, 1.0) if subject.infarcts else rng.uniform(0.35, 0.9)
    old = bool(subject.infarcts) and not subject.infarcts[0].acute
    return Appearance(
        fat=fat if fatty and old else 0.0, oedema=oedema, core=dark if bleeding else faint, enhancement=enhancement
    )
