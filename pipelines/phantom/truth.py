"""Ground truth of a phantom, and the file that holds it.

A truth file is one ``.npz`` archive without pickled objects: numeric arrays, and the key ``facts`` with a JSON text.
``docs/phantom.md`` lists every key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.phantom.cycle import KeyTimes
from pipelines.phantom.heart import ATRIAL_WIDTH, LID_TILT, Heart, HeartState
from pipelines.phantom.identity import phantom_uid, recipe_key
from pipelines.phantom.recipe import PhantomRecipe
from pipelines.phantom.study import LONG_AXIS_ANGLES_DEG, CineAcquisition, PhantomStudy, draw_heart
from pipelines.phantom.tables import angle_grid
from pipelines.phantom.ventricle import MotionState
from pipelines.tissue import MYOCARDIAL_DENSITY_G_ML

__all__ = [
    "Keyframes",
    "PhantomTruth",
    "RemodellingTruth",
    "TruthError",
    "TruthFacts",
    "lesion_share",
    "measure_truth",
    "read_truth",
    "remodelling_outcome",
    "remodelling_probability",
    "remodelling_truth",
    "write_truth",
]

Array = NDArray[np.float64]

TRUTH_VERSION = 2
_SEGMENTS = 17
_PEAK_TIMES = np.linspace(0.05, 0.6, 12)
"""When the peak of a segment is looked for, fractions of RR: ejection, and what shortens after it."""


class TruthError(ValueError):
    """A file is not a truth file of a version that can be read."""


@dataclass(frozen=True, slots=True)
class Keyframes:
    """The five keyframes as 0-based phase indices of the cine."""

    end_diastole: int
    mid_systole: int
    end_systole: int
    peak_flow: int
    mid_diastole: int


@dataclass(frozen=True, slots=True)
class TruthFacts:
    """Scalars of a truth file.

    Volumes in mL, masses in g, fractions and strains in %, thickness in mm, angles in degrees.
    """

    version: int
    recipe: str
    study_instance_uid: str
    disease: str
    sex: str
    age_years: int
    height_m: float
    weight_kg: float
    fat_mm: float
    heart_rate_bpm: float
    field_strength_t: float
    lv_edv_ml: float
    lv_esv_ml: float
    lv_ef_percent: float
    lv_mass_g: float
    rv_edv_ml: float
    rv_esv_ml: float
    rv_ef_percent: float
    gls_percent: float
    """Peak global longitudinal strain: mid-wall contour of 2CH, 3CH and 4CH."""
    gcs_percent: float
    """Peak global circumferential strain: mid-wall circumference, mean over the levels."""
    gcs_endocardial_percent: float
    grs_percent: float
    """Peak relative change of wall thickness."""
    la_reservoir_percent: float
    la_conduit_percent: float
    la_booster_percent: float
    infarct_percent: float
    """What enhances late, obstruction included, % of left ventricular mass."""
    obstruction_percent: float
    infarct_territory: str
    infarct_transmurality: float
    infarct_acute: bool
    remodelling_probability: float
    """Of left ventricular adverse remodelling, by the law of :func:`remodelling_probability`; NaN without infarct."""
    remodelling: bool
    """Outcome drawn with that probability."""
    keyframes: Keyframes
    key_times: KeyTimes


@dataclass(frozen=True, slots=True, eq=False)
class PhantomTruth:
    """Ground truth of one study; T phases, S slices, N material points.

    Attributes
    ----------
    facts : TruthFacts
    lv_volume_ml, rv_volume_ml, la_volume_ml : (T,) float64
    longitudinal, circumferential, radial, la_strain : (T,) float64
        Global curves, % relative to end diastole (phase 0).
    aha_circumferential, aha_radial, aha_longitudinal : (T, 17) float64
        Mean Green–Lagrange strain of each AHA segment in the wall's own axes, %; segment 1 is index 0.
    aha_thickness_mm : (T, 17) float64
    aha_transmurality : (17,) float64
        Mean depth of scar as a fraction of the wall.
    point_material : (N, 3) float64
        Depth in the wall (0 … 1), angle (rad, 0 lateral, counter-clockwise seen from the apex), S (mm from the apex).
    point_segment : (N,) uint8
        AHA segment 1 … 17.
    point_position : (T, N, 3) float32
        Patient coordinates (LPS, mm); displacement is the difference from phase 0.
    point_strain : (T, N, 3) float32
        Green–Lagrange strain: radial, circumferential, longitudinal.
    sax_labels, sax_atria, sax_lesions : (T, S, R, C) uint8
        As in :class:`pipelines.phantom.study.CineAcquisition`, slices apex first.
    sax_positions : (S, 3) float64
    sax_orientation : (6,) float64
    sax_spacing : (2,) float64
    lax_labels, lax_atria, lax_lesions : (V, T, R, C) uint8
        The same of the long-axis views, in the order 2CH, 3CH, 4CH; V is 0 without them.
    lax_positions : (V, 3) float64
    lax_orientation : (V, 6) float64
    lax_spacing : (V, 2) float64
    enhancement_labels, enhancement_lesions : (S, R, C) uint8
        On the late enhancement stack, which has the geometry of the short axis; empty (0, 0, 0) without one.
    """

    facts: TruthFacts
    lv_volume_ml: Array
    rv_volume_ml: Array
    la_volume_ml: Array
    longitudinal: Array
    circumferential: Array
    radial: Array
    la_strain: Array
    aha_circumferential: Array
    aha_radial: Array
    aha_longitudinal: Array
    aha_thickness_mm: Array
    aha_transmurality: Array
    point_material: Array
    point_segment: NDArray[np.uint8]
    point_position: NDArray[np.float32]
    point_strain: NDArray[np.float32]
    sax_labels: NDArray[np.uint8]
    sax_atria: NDArray[np.uint8]
    sax_lesions: NDArray[np.uint8]
    sax_positions: Array
    sax_orientation: Array
    sax_spacing: Array
    lax_labels: NDArray[np.uint8]
    lax_atria: NDArray[np.uint8]
    lax_lesions: NDArray[np.uint8]
    lax_positions: Array
    lax_orientation: Array
    lax_spacing: Array
    enhancement_labels: NDArray[np.uint8]
    enhancement_lesions: NDArray[np.uint8]


def write_truth(truth: PhantomTruth, path: Path) -> Path:
    """Write a truth file (``.npz``)."""
    arrays = {field.name: getattr(truth, field.name) for field in fields(truth) if field.name != "facts"}
    facts = json.dumps(asdict(truth.facts), ensure_ascii=False, sort_keys=True)
    with path.open("wb") as file:
        np.savez_compressed(file, facts=np.array(facts), **arrays)
    return path


def read_truth(path: Path) -> PhantomTruth:
    """Read a truth file.

    Raises
    ------
    TruthError
        The file is not a truth file or of another version; the message says which.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise TruthError(f"{path.name} is not a truth file: {error}") from error
    if "facts" not in arrays:
        raise TruthError(f"{path.name} is not a truth file: it has no key 'facts'")
    facts = json.loads(str(arrays.pop("facts")))
    if facts.get("version") != TRUTH_VERSION:
        raise TruthError(
            f"{path.name} is a truth file of version {facts.get('version')}; this software reads {TRUTH_VERSION}"
        )
    facts["keyframes"] = Keyframes(**facts["keyframes"])
    facts["key_times"] = KeyTimes(**facts["key_times"])
    missing = {field.name for field in fields(PhantomTruth)} - {"facts"} - arrays.keys()
    if missing:
        raise TruthError(f"{path.name} lacks {', '.join(sorted(missing))}")
    return PhantomTruth(facts=TruthFacts(**facts), **arrays)


def measure_truth(study: PhantomStudy) -> PhantomTruth:
    """Compute the ground truth of a study from the closed-form motion of its heart."""
    heart, states = study.heart, study.states
    lv = heart.lv
    # The curves of a movie may miss the extremes; the facts use the exact moments.
    end_diastole, end_systole = _extreme_moments(heart)
    moments = (*states, end_diastole, end_systole)
    longitudinal = np.array([_long_axis_length(heart, state) for state in moments])
    circumference = np.array([_circumference(heart, state, 0.5) for state in moments])
    inner = np.array([_circumference(heart, state, 0.0) for state in moments])
    thickness = np.array([_mean_thickness(heart, state) for state in moments])
    la_arc = np.array([_atrial_arc(state) for state in moments])

    def relative(values: Array) -> Array:
        return 100 * (values / values[-2] - 1)

    material, depth, segment = _material_points(heart)
    position, strain = _point_motion(heart, [state.motion for state in states], material)
    infarct, obstruction = lesion_share(heart)
    gls = float(relative(longitudinal)[-1])
    la = relative(la_arc)
    cycle = study.subject.cycle
    before_kick = heart.at_time(cycle.atrial_start)
    booster = 100 * (_atrial_arc(before_kick) / la_arc[-2] - 1)
    patch = study.subject.infarct
    probability, event = math.nan, False
    if patch is not None:
        probability, event = remodelling_outcome(study.recipe.seed, infarct, obstruction > 0, gls, float(la[-1]))
    rest = lv.state(0.0, 0.0)
    muscle = lv.volume_ml(lv.epicardium(rest), rest) - lv.volume_ml(lv.cavity(rest), rest)
    phases = len(states)
    times = replace(cycle.key_times, end_systole=heart.end_systole)
    body = study.subject.body
    facts = TruthFacts(
        version=TRUTH_VERSION,
        recipe=recipe_key(study.recipe),
        study_instance_uid=phantom_uid(study.recipe, "study"),
        disease=str(study.subject.disease),
        sex=body.sex,
        age_years=body.age_years,
        height_m=body.height_m,
        weight_kg=body.weight_kg,
        fat_mm=body.fat_mm,
        heart_rate_bpm=60000 / cycle.rr_ms,
        field_strength_t=study.protocol.field_t,
        lv_edv_ml=end_diastole.lv_volume_ml,
        lv_esv_ml=end_systole.lv_volume_ml,
        lv_ef_percent=100 * (1 - end_systole.lv_volume_ml / end_diastole.lv_volume_ml),
        lv_mass_g=muscle * MYOCARDIAL_DENSITY_G_ML,
        rv_edv_ml=end_diastole.rv_volume_ml,
        rv_esv_ml=end_systole.rv_volume_ml,
        rv_ef_percent=100 * (1 - end_systole.rv_volume_ml / end_diastole.rv_volume_ml),
        gls_percent=gls,
        gcs_percent=float(relative(circumference)[-1]),
        gcs_endocardial_percent=float(relative(inner)[-1]),
        grs_percent=float(relative(thickness)[-1]),
        la_reservoir_percent=float(la[-1]),
        la_conduit_percent=float(la[-1]) - booster,
        la_booster_percent=booster,
        infarct_percent=infarct,
        obstruction_percent=obstruction,
        infarct_territory=str(patch.territory) if patch else "",
        infarct_transmurality=patch.transmurality if patch else 0.0,
        infarct_acute=bool(patch and patch.acute),
        remodelling_probability=probability,
        remodelling=event,
        keyframes=Keyframes(
            **{name: round(time * phases) % phases for name, time in asdict(times).items()},
        ),
        key_times=times,
    )
    segments = [segment == number for number in range(1, _SEGMENTS + 1)]

    def by_segment(values: NDArray[np.float32]) -> Array:
        return np.stack([values[:, chosen].mean(axis=1) for chosen in segments], axis=1).astype(np.float64)

    cine, lge, long = study.short_axis, study.enhancement, study.cines[1:]
    empty = np.zeros((0, 0, 0), np.uint8)

    def of_long_axes(masks: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return np.stack([mask[:, 0] for mask in masks]) if masks else np.zeros((0, 0, 0, 0), np.uint8)

    return PhantomTruth(
        facts=facts,
        lv_volume_ml=np.array([state.lv_volume_ml for state in states]),
        rv_volume_ml=np.array([state.rv_volume_ml for state in states]),
        la_volume_ml=np.array([state.la_volume_ml for state in states]),
        longitudinal=relative(longitudinal)[:-2],
        circumferential=relative(circumference)[:-2],
        radial=relative(thickness)[:-2],
        la_strain=la[:-2],
        aha_circumferential=100 * by_segment(strain[..., 1]),
        aha_radial=100 * by_segment(strain[..., 0]),
        aha_longitudinal=100 * by_segment(strain[..., 2]),
        aha_thickness_mm=_segment_thickness(heart, states),
        aha_transmurality=_segment_mean(
            heart,
            np.zeros_like(lv.endo2) if heart.lesions.scar is None else heart.lesions.scar[1] - heart.lesions.scar[0],
        ),
        point_material=np.column_stack([depth, material[:, 1], material[:, 2]]),
        point_segment=segment,
        point_position=position,
        point_strain=strain,
        sax_labels=cine.labels,
        sax_atria=cine.atria,
        sax_lesions=cine.lesions,
        sax_positions=cine.geometry.positions,
        sax_orientation=_orientation(cine),
        sax_spacing=np.array(cine.geometry.pixel_spacing),
        lax_labels=of_long_axes([view.labels for view in long]),
        lax_atria=of_long_axes([view.atria for view in long]),
        lax_lesions=of_long_axes([view.lesions for view in long]),
        lax_positions=np.array([view.geometry.positions[0] for view in long]).reshape(-1, 3),
        lax_orientation=np.array([_orientation(view) for view in long]).reshape(-1, 6),
        lax_spacing=np.array([view.geometry.pixel_spacing for view in long]).reshape(-1, 2),
        enhancement_labels=lge.labels if lge else empty,
        enhancement_lesions=lge.lesions if lge else empty,
    )


def _orientation(cine: CineAcquisition) -> Array:
    return np.concatenate([cine.geometry.row_direction, cine.geometry.column_direction])


def remodelling_probability(infarct_percent: float, obstruction: bool, gls_percent: float, la_percent: float) -> float:
    """Probability of adverse remodelling: the stated law from which outcomes are drawn.

    A logistic law of the predictors that the LVAR study (Int J Cardiol 2026) found independent (infarct size, GLS, left
    atrial reservoir strain) and of microvascular obstruction. Its odds ratios (1.12 a percent of the ventricle, 1.38 a
    point of GLS, 0.91 a point of reservoir strain, 3.3 with obstruction) are of the size that cohorts after reperfused
    infarction report, set from memory of them. The intercept gives events in a quarter of the acute infarcts of the
    phantom: cohorts report 12 to 30 % by the definition in use, that study 22 of the 76 patients of its test. The Bayes
    AUC, that of the probability itself against drawn outcomes, is about .92 in the same population (the model of the
    study reached .889), and the rest is chance: no model, and no measurement however exact, can do better. It is a rule
    of this simulator, not a finding about patients.
    """
    logit = (
        -2.8
        + 0.11 * (infarct_percent - 18)
        + 0.32 * (gls_percent + 14)
        - 0.09 * (la_percent - 25)
        + (1.2 if obstruction else 0.0)
    )
    return 1 / (1 + math.exp(-logit))


def remodelling_outcome(
    seed: int, infarct_percent: float, obstruction: bool, gls_percent: float, la_percent: float
) -> tuple[float, bool]:
    """Probability of :func:`remodelling_probability` and the outcome drawn with it, the same for a seed every time."""
    probability = remodelling_probability(infarct_percent, obstruction, gls_percent, la_percent)
    draw = np.random.default_rng([seed, 0x4C56]).random()
    return probability, bool(draw < probability)


@dataclass(frozen=True, slots=True, eq=False)
class RemodellingTruth:
    """What decides the outcome of a heart with an infarct, and how its segments move; no image is needed for it.

    Attributes
    ----------
    infarct_percent, gls_percent, gcs_percent, la_reservoir_percent : float
        As in :class:`TruthFacts`.
    obstruction : bool
    length_mm : float
        Of the cavity at end diastole, endocardial apex to mitral plane.
    segment_circumferential_percent : (16,) float64
        Peak circumferential strain of AHA segments 1 … 16 as a change of length, %.
    segment_time_to_peak : (16,) float64
        When it is reached, as a share of the cycle.
    segment_thickness_mm, segment_thickening_percent : (16,) float64
        At end diastole; from there to end systole.
    probability : float
    remodelling : bool
    """

    infarct_percent: float
    obstruction: bool
    gls_percent: float
    gcs_percent: float
    la_reservoir_percent: float
    length_mm: float
    segment_circumferential_percent: Array
    segment_time_to_peak: Array
    segment_thickness_mm: Array
    segment_thickening_percent: Array
    probability: float
    remodelling: bool


def remodelling_truth(recipe: PhantomRecipe) -> RemodellingTruth:
    """Build the heart of a recipe, without images, and draw its outcome.

    Raises
    ------
    TruthError
        The heart has no infarct.
    """
    subject, heart = draw_heart(recipe)
    if subject.infarct is None:
        raise TruthError("a heart without an infarct has no outcome after one")
    moments = _extreme_moments(heart)
    longitudinal = [_long_axis_length(heart, state) for state in moments]
    circumference = [_circumference(heart, state, 0.5) for state in moments]
    arc = [_atrial_arc(state) for state in moments]
    material, _, segment = _material_points(heart)
    _, strain = _point_motion(heart, [_wall_motion(heart, float(time)) for time in _PEAK_TIMES], material)
    length = 100 * (np.sqrt(1 + 2 * strain[..., 1].astype(np.float64)) - 1)
    curves = np.stack([length[:, segment == number].mean(axis=1) for number in range(1, 17)], axis=1)
    thickness = _segment_thickness(heart, moments)[:, :16]
    infarct, obstruction = lesion_share(heart)
    gls, gcs, la = (100 * (values[1] / values[0] - 1) for values in (longitudinal, circumference, arc))
    probability, event = remodelling_outcome(recipe.seed, infarct, obstruction > 0, gls, la)
    return RemodellingTruth(
        infarct_percent=infarct,
        obstruction=obstruction > 0,
        gls_percent=gls,
        gcs_percent=gcs,
        la_reservoir_percent=la,
        length_mm=heart.lv.length - heart.lv.apex,
        segment_circumferential_percent=curves.min(axis=0),
        segment_time_to_peak=_PEAK_TIMES[curves.argmin(axis=0)],
        segment_thickness_mm=thickness[0],
        segment_thickening_percent=100 * (thickness[1] / thickness[0] - 1),
        probability=probability,
        remodelling=event,
    )


def _wall_motion(heart: Heart, time: float) -> MotionState:
    """Motion of a left ventricle that contracts everywhere at once, at a time in fractions of RR."""
    cycle = heart.subject.cycle
    return heart.lv.state(float(cycle.contraction(np.array(time))), float(cycle.twist(np.array(time))))


def _extreme_moments(heart: Heart) -> tuple[HeartState, HeartState]:
    """End diastole and end systole, exactly: the phases of a cine may miss them."""
    end_systole = heart.state(1.0, 1.0) if heart.lesions.delay is None else heart.at_time(heart.end_systole)
    return heart.state(0.0, 0.0), end_systole


def aha_segment(angle_rad: Array, level: Array, apex: float, length: float) -> NDArray[np.uint8]:
    """AHA segment (1 … 17) of material points; angles 0 lateral, 90° anterior, 180° septal."""
    degrees = np.mod(np.degrees(angle_rad), 360)
    sixth = (np.floor((degrees - 60) / 60) % 6).astype(np.int64)
    quarter = (np.floor((degrees - 45) / 90) % 4).astype(np.int64)
    fraction = (level - apex) / (length - apex)
    number = np.where(fraction >= 2 / 3, 1 + sixth, np.where(fraction >= 1 / 3, 7 + sixth, 13 + quarter))
    return np.where(level < apex, 17, number).astype(np.uint8)


def _wall_points(heart: Heart, angle: Array, level: Array, depth: Array | float) -> Array:
    """Material coordinates (R, Θ, S) at a depth of the wall."""
    lv = heart.lv
    inner = np.sqrt(np.maximum(lv.at(lv.endo2, level, angle), 0))
    outer = np.sqrt(np.maximum(lv.at(lv.epi2, level, angle), 0))
    return np.stack([inner + depth * (outer - inner), angle, level], axis=-1)


def _cartesian(spatial: Array) -> Array:
    """Heart-frame (x, y, s) of cylindrical (r, θ, s)."""
    radius, angle, position = spatial[..., 0], spatial[..., 1], spatial[..., 2]
    return np.stack([radius * np.cos(angle), -radius * np.sin(angle), position], axis=-1)


def _long_axis_length(heart: Heart, state: HeartState) -> float:
    """Sum of the mid-wall contours of the three long-axis views, mm."""
    lv = heart.lv
    level = np.linspace(lv.apex * 0.5, lv.length, 60)
    total = 0.0
    for angle in LONG_AXIS_ANGLES_DEG.values():
        for side in (angle, angle + 180):
            points = _wall_points(heart, np.full(level.size, math.radians(side)), level, 0.5)
            moved = _cartesian(lv.deform(points, state.motion))
            total += float(np.linalg.norm(np.diff(moved, axis=0), axis=1).sum())
    return total


def _circumference(heart: Heart, state: HeartState, depth: float) -> float:
    """Mean relative circumference over levels: each level counts the same, as slices do."""
    lv = heart.lv
    angles = np.linspace(0, 2 * math.pi, 181)
    total = 0.0
    for fraction in np.linspace(0.2, 0.92, 10):
        level = np.full(angles.size, lv.apex + fraction * (lv.length - lv.apex))
        points = _wall_points(heart, angles, level, depth)
        now = _cartesian(lv.deform(points, state.motion))
        rest = _cartesian(points)
        lengths = [float(np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1).sum()) for path in (now, rest)]
        total += lengths[0] / lengths[1]
    return total


def _thickness(heart: Heart, state: HeartState) -> Array:
    """Radial wall thickness, mm, (levels, angles)."""
    inner = np.sqrt(np.maximum(heart.lv.cavity(state.motion), 0))
    outer = np.sqrt(np.maximum(heart.lv.epicardium(state.motion), 0))
    return outer - inner


def _mean_thickness(heart: Heart, state: HeartState) -> float:
    lv = heart.lv
    inside = (lv.levels > lv.apex + 0.2 * (lv.length - lv.apex)) & (lv.levels < 0.94 * lv.length)
    return float(_thickness(heart, state)[inside].mean())


def _segment_mean(heart: Heart, table: Array) -> Array:
    lv = heart.lv
    levels, angles = np.broadcast_arrays(lv.levels[:, None], angle_grid()[None, :])
    segment = aha_segment(angles, levels, lv.apex, lv.length)
    inside = (levels > 0) & (levels < lv.length)
    return np.array([table[inside & (segment == number)].mean() for number in range(1, _SEGMENTS + 1)])


def _segment_thickness(heart: Heart, states: tuple[HeartState, ...]) -> Array:
    return np.stack([_segment_mean(heart, _thickness(heart, state)) for state in states])


def _atrial_arc(state: HeartState) -> float:
    """Length of the left atrial wall from annulus over the roof to annulus, mm: sum of 2CH and 4CH."""
    atrium = state.left_atrium
    start = math.asin((state.lid + LID_TILT * atrium.x - atrium.s) / atrium.half_length)
    turn = np.linspace(start, math.pi - start, 400)
    total = 0.0
    for first, half_axis in ((0.0, atrium.radius * ATRIAL_WIDTH), (math.pi / 2, atrium.radius / ATRIAL_WIDTH)):
        near, far = atrium.outline(np.array([first, first + math.pi]))
        x = half_axis * np.where(turn < math.pi / 2, near, far) * np.cos(turn)
        total += float(np.hypot(np.diff(x), np.diff(atrium.half_length * np.sin(turn))).sum())
    return total


def _material_points(heart: Heart) -> tuple[Array, Array, NDArray[np.uint8]]:
    lv = heart.lv
    angles = np.radians(np.arange(0, 360, 10.0))
    levels = np.concatenate([[0.6 * lv.apex], np.arange(lv.apex + 2, lv.length - 3, 4.0)])
    depths = np.array([0.15, 0.5, 0.85])
    depth, level, angle = (grid.ravel() for grid in np.meshgrid(depths, levels, angles, indexing="ij"))
    material = _wall_points(heart, angle, level, depth)
    return material, depth, aha_segment(angle, level, lv.apex, lv.length)


def _point_motion(
    heart: Heart, motions: Sequence[MotionState], material: Array
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Positions (T, N, 3) in the patient and strains (T, N, 3) in the axes of the wall."""
    slope = _wall_slope(heart, material)
    cosine, sine = 1 / np.hypot(1, slope), slope / np.hypot(1, slope)
    zero = np.zeros_like(cosine)
    # The wall's longitudinal direction is tangent to the mid-wall meridian (dR/dS, 0, 1); radial is normal to it.
    axes = np.stack(
        [
            np.stack([cosine, zero, -sine], axis=-1),
            np.stack([zero, zero + 1, zero], axis=-1),
            np.stack([sine, zero, cosine], axis=-1),
        ],
        axis=1,
    )
    positions, strains = [], []
    for motion in motions:
        positions.append(heart.to_patient(_cartesian(heart.lv.deform(material, motion))))
        gradient = heart.lv.gradient(material, motion)
        green = 0.5 * (np.swapaxes(gradient, -1, -2) @ gradient - np.eye(3))
        strains.append(np.einsum("nai,nij,naj->na", axes, green, axes))
    return np.stack(positions).astype(np.float32), np.stack(strains).astype(np.float32)


def _wall_slope(heart: Heart, material: Array) -> Array:
    """dR/dS of the mid-wall meridian at end diastole, limited near the apex."""
    step = 1.0
    angle, level = material[:, 1], material[:, 2]
    above = _wall_points(heart, angle, level + step, 0.5)[:, 0]
    below = _wall_points(heart, angle, np.maximum(level - step, 0.1), 0.5)[:, 0]
    return np.clip((above - below) / (2 * step), -4, 4)


def lesion_share(heart: Heart) -> tuple[float, float]:
    """Infarct (with obstruction) and obstruction as % of the left ventricular wall volume."""
    if heart.lesions.scar is None:
        return 0.0, 0.0
    lv = heart.lv
    state = lv.state(0.0, 0.0)
    inner, outer = (lv.surfaces(state, depth) for depth in heart.lesions.scar)

    def shell(inner: Array, outer: Array) -> float:
        return lv.volume_ml(outer, state) - lv.volume_ml(inner, state)

    muscle = shell(lv.cavity(state), lv.epicardium(state))
    infarct = shell(inner, outer)
    obstruction = 0.0
    if heart.obstruction is not None:
        low, high = heart.obstruction
        obstruction = shell(lv.surfaces(state, low), lv.surfaces(state, high))
    return 100 * infarct / muscle, 100 * obstruction / muscle
