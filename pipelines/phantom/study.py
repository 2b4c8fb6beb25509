"""Simulate one study: subject, planes, images and truth."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import StackGeometry, View
from pipelines.phantom.anatomy import Anatomy, subject_with
from pipelines.phantom.heart import Heart, HeartState, build_heart
from pipelines.phantom.lesions import Appearance
from pipelines.phantom.population import Subject, breathing_sd_mm, draw_subject
from pipelines.phantom.recipe import Dialect, Fault, PhantomRecipe
from pipelines.phantom.render import HeartMovie, Plane, RenderedSlice, film_heart, render_slice
from pipelines.phantom.scanner import (
    Coils,
    Reconstruction,
    Shim,
    acquire,
    build_coils,
    cine_signals,
    draw_shim,
    reconstruction_of,
)
from pipelines.phantom.thorax import Thorax, build_thorax
from pipelines.phantom.tissue import (
    EnhancementTiming,
    SteadyState,
    Tissue,
    bssfp,
    enhancement_signal,
    myocardial_null_ms,
    relaxation,
)

__all__ = ["CineAcquisition", "Enhancement", "PhantomStudy", "draw_heart", "simulate"]

Array = NDArray[np.float64]
BLOOD_GREY = 240.0
"""Grey value of blood at the heart in the stored cine images."""
LONG_AXIS_ANGLES_DEG = {View.LAX_2CH: 92.0, View.LAX_3CH: 140.0, View.LAX_4CH: 8.0}
"""Angle of each long-axis plane about the long axis: 0 lateral, 90 anterior."""
PSIR_ZERO = 1000
"""Grey value of no longitudinal magnetisation in phase-sensitive late enhancement images."""
ENHANCEMENT_GREY = 1800.0
"""Grey value of full longitudinal magnetisation in late enhancement images."""


@dataclass(frozen=True, slots=True, eq=False)
class CineAcquisition:
    """One acquired stack and what is truly in it.

    Attributes
    ----------
    pixels : (T, S, R, C) uint16
        Stored grey values, slices in ascending order along the normal (apex first in the short axis).
    geometry : StackGeometry
        Where the scanner says the slices are (breathing shifts are not in it).
    labels : (T, S, R, C) uint8
        Values of :class:`pipelines.segmentation.labels.Label`.
    atria : (T, S, R, C) uint8
        1 left, 2 right atrium.
    lesions : (T, S, R, C) uint8
        1 infarct, 2 microvascular obstruction.
    trigger_times : (T, S) float64
        Delay from the R wave, ms.
    rr_intervals : (S,) float64
        ms.
    """

    view: View
    pixels: NDArray[np.uint16]
    geometry: StackGeometry
    labels: NDArray[np.uint8]
    atria: NDArray[np.uint8]
    lesions: NDArray[np.uint8]
    trigger_times: Array
    rr_intervals: Array


@dataclass(frozen=True, slots=True, eq=False)
class Enhancement:
    """Late enhancement stack: the planned slices of the short axis, at mid-diastole unless it was simulated as matched.

    Attributes
    ----------
    magnitude : (S, R, C) uint16
    phase_sensitive : (S, R, C) uint16
        PSIR: grey value ``PSIR_ZERO`` is no magnetisation, less is negative.
    labels, lesions : (S, R, C) uint8
        As in :class:`CineAcquisition`, of the moment and the breath-hold of this stack.
    trigger_ms : float
        Delay from the R wave, ms.
    """

    magnitude: NDArray[np.uint16]
    phase_sensitive: NDArray[np.uint16]
    geometry: StackGeometry
    labels: NDArray[np.uint8]
    lesions: NDArray[np.uint8]
    timing: EnhancementTiming
    trigger_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class PhantomStudy:
    """A simulated study: who, what was acquired, and the heart behind it."""

    recipe: PhantomRecipe
    subject: Subject
    heart: Heart
    states: tuple[HeartState, ...]
    """The heart at each cine phase."""
    protocol: SteadyState
    cines: tuple[CineAcquisition, ...]
    """Short axis first, then the long-axis views."""
    enhancement: Enhancement | None = None

    @property
    def short_axis(self) -> CineAcquisition:
        """The short-axis stack."""
        return self.cines[0]


@dataclass(frozen=True, slots=True, eq=False)
class _Room:
    """What every acquisition of one study shares."""

    recipe: PhantomRecipe
    heart: Heart
    thorax: Thorax
    shim: Shim
    coils: Coils
    reconstruction: Reconstruction
    protocol: SteadyState
    inflow: float
    """Signal of blood relative to blood at rest: fresh spins flow in."""
    flow: float
    """Relative variation of the signal of moving blood."""


def simulate(
    recipe: PhantomRecipe, *, workers: int = 2, matched_enhancement: bool = False, anatomy: Anatomy | None = None
) -> PhantomStudy:
    """Simulate the study of a recipe.

    Parameters
    ----------
    recipe : PhantomRecipe
    workers : int
        Threads; the result does not depend on it.
    matched_enhancement : bool
        Image late enhancement, where the recipe asks for it, at end diastole and in the breath-holds of the cine. No
        scanner can: it is the target of a network that makes such images from cine.
    anatomy : Anatomy or None
        Left ventricle and scar of a patient, in place of those of the recipe. The short axis then shows the slices of
        the anatomy, across the long axis and each in the middle of its image, and no other view.

    Returns
    -------
    PhantomStudy
    """
    _, _, room_stream, images = np.random.SeedSequence(recipe.seed).spawn(4)
    subject, heart, build_rng = _build_heart(recipe, anatomy)
    thorax = build_thorax(heart, build_rng)
    room = _prepare_room(recipe, heart, thorax, np.random.default_rng(room_stream))
    states = _states(heart, recipe.phases)
    movie = film_heart(heart, states)
    plan_rng = np.random.default_rng(images.spawn(1)[0])
    if anatomy is None:
        planned, imaged = _short_axis_planes(room, plan_rng)
    else:
        planned = imaged = _planes_across(room, anatomy)
    stacks: list[tuple[View, list[Plane], list[Plane]]] = [(View.SAX, planned, imaged)]
    if recipe.long_axis and anatomy is None:
        for view in LONG_AXIS_ANGLES_DEG:
            plane = _long_axis_plane(room, view, plan_rng)
            stacks.append((view, [plane], [_shifted(plane, plan_rng.normal(0, breathing_sd_mm(recipe)))]))
    jobs = [(index, true) for index, (_, _, truth) in enumerate(stacks) for true in truth]
    seeds = images.spawn(len(jobs))
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        rendered = list(
            pool.map(
                lambda job: _image_slice(room, movie, job[0][1], np.random.default_rng(job[1])),
                zip(jobs, seeds, strict=True),
            )
        )
    rr_rng = np.random.default_rng(images.spawn(1)[0])
    cines = []
    for index, (view, planned, _) in enumerate(stacks):
        slices = [slice_ for (job, _), slice_ in zip(jobs, rendered, strict=True) if job == index]
        cines.append(_stack(room, view, planned, slices, rr_rng))
    enhancement = None
    if recipe.late_enhancement:
        matched = stacks[0][2] if matched_enhancement else None
        enhancement = _enhancement(room, stacks[0][1], images.spawn(1)[0], workers, matched)
    return PhantomStudy(recipe, subject, heart, states, room.protocol, tuple(cines), enhancement)


def draw_heart(recipe: PhantomRecipe) -> tuple[Subject, Heart]:
    """Person and heart of a recipe, without any image."""
    subject, heart, _ = _build_heart(recipe)
    return subject, heart


def _build_heart(recipe: PhantomRecipe, anatomy: Anatomy | None = None) -> tuple[Subject, Heart, np.random.Generator]:
    """Person, heart, and the generator that goes on to build the thorax."""
    person, build, *_ = np.random.SeedSequence(recipe.seed).spawn(4)
    subject = draw_subject(recipe, np.random.default_rng(person))
    if anatomy is not None:
        subject = subject_with(subject, anatomy, recipe.law, np.random.default_rng([recipe.seed, 0x414E4154]))
    build_rng = np.random.default_rng(build)
    return subject, build_heart(subject, recipe.law, build_rng, anatomy), build_rng


def _states(heart: Heart, phases: int) -> tuple[HeartState, ...]:
    times = np.arange(phases) / phases
    return tuple(heart.at_time(float(time)) for time in times)


def _prepare_room(recipe: PhantomRecipe, heart: Heart, thorax: Thorax, rng: np.random.Generator) -> _Room:
    drawn = 3.0 if rng.random() < 0.4 else 1.5
    field = recipe.field_strength_t or drawn
    flip, repetition = rng.uniform(50, 65), rng.uniform(2.8, 3.2)
    if recipe.dialect is Dialect.GE:
        flip, repetition = rng.uniform(45, 55), rng.uniform(3.3, 3.8)
    if field > 2:
        flip -= 8
    protocol = SteadyState(round(repetition, 2), round(repetition / 2, 2), round(flip), field)
    centre = thorax.heart_centre
    return _Room(
        recipe=recipe,
        heart=heart,
        thorax=thorax,
        shim=draw_shim(centre, field, rng),
        coils=build_coils(heart.subject.body, centre, recipe.coils),
        reconstruction=reconstruction_of(recipe, rng),
        protocol=protocol,
        inflow=rng.uniform(1.05, 1.35),
        flow=rng.uniform(0.07, 0.17),
    )


def _short_axis_planes(room: _Room, rng: np.random.Generator) -> tuple[list[Plane], list[Plane]]:
    """Planned slices, apex first, and where the heart really was when each was acquired."""
    recipe, heart = room.recipe, room.heart
    tilt = math.radians(30.0) if Fault.WRONG_VIEW in recipe.faults else math.radians(rng.normal(0, 2.5))
    normal = heart.axes[2] * math.cos(tilt) + heart.axes[0] * math.sin(tilt)
    across = math.radians(rng.normal(0, 2.5))
    normal = normal * math.cos(across) + heart.axes[1] * math.sin(across)
    normal /= np.linalg.norm(normal)
    turn = math.radians(rng.normal(0, 7))
    lateral = heart.axes[0] * math.cos(turn) + heart.axes[1] * math.sin(turn)
    row = lateral - (lateral @ normal) * normal
    row /= np.linalg.norm(row)
    column = np.cross(normal, row)
    length = heart.lv.length
    pitch = recipe.pitch_mm
    if pitch is None:
        pitch = float(np.clip(math.ceil((length + 12) / recipe.slices), 6, 12))
    thickness = min(8.0, pitch) if pitch >= 8 else min(6.0, pitch)
    middle = length / 2 + 4 if pitch * recipe.slices >= length else length / 2
    count = recipe.slices
    if Fault.POOR_COVERAGE in recipe.faults:
        count = max(count - max(round(count / 3), 1), 1)
        middle += (0.5 if rng.random() < 0.5 else -0.5) * (recipe.slices - count) * pitch
    centre = heart.to_patient(np.array([-14.0 + rng.normal(0, 4), 6.0 + rng.normal(0, 4), middle]))
    corner = (
        centre - row * (recipe.columns - 1) / 2 * recipe.spacing_mm - column * (recipe.rows - 1) / 2 * recipe.spacing_mm
    )
    planned = [
        Plane(
            position=corner + (index - (count - 1) / 2) * pitch * normal,
            row=row,
            column=column,
            spacing=recipe.spacing_mm,
            rows=recipe.rows,
            columns=recipe.columns,
            thickness=thickness,
        )
        for index in range(count)
    ]
    sd = breathing_sd_mm(recipe)
    true = [_shifted(plane, rng.normal(0, sd)) for plane in planned]
    if Fault.MISSING_SLICES in recipe.faults and count >= 5:
        inside = 1 + rng.permutation(count - 2)[: 2 if count >= 10 else 1]
        keep = [index for index in range(count) if index not in set(inside.tolist())]
        planned, true = [planned[index] for index in keep], [true[index] for index in keep]
    return planned, true


def _planes_across(room: _Room, anatomy: Anatomy) -> list[Plane]:
    """A plane for each slice of an anatomy, across the long axis, which goes through the middle of the image."""
    recipe, heart = room.recipe, room.heart
    row, column = heart.axes[0], heart.axes[1]
    corner = -((recipe.columns - 1) / 2 * row + (recipe.rows - 1) / 2 * column) * recipe.spacing_mm
    return [
        Plane(
            position=heart.to_patient(np.array([0.0, 0.0, level])) + corner,
            row=row,
            column=column,
            spacing=recipe.spacing_mm,
            rows=recipe.rows,
            columns=recipe.columns,
            thickness=min(8.0, anatomy.pitch_mm),
        )
        for level in anatomy.levels_mm
    ]


def _long_axis_plane(room: _Room, view: View, rng: np.random.Generator) -> Plane:
    """A plane through the long axis, turned in plane as radiographers show it: 4CH like an axial, others like a
    sagittal image.
    """
    recipe, heart = room.recipe, room.heart
    angle = math.radians(LONG_AXIS_ANGLES_DEG[view] + rng.normal(0, 4))
    across = heart.axes[0] * math.cos(angle) - heart.axes[1] * math.sin(angle)
    normal = np.cross(heart.axes[2], across)
    down = np.array([0.0, 1.0, 0.0]) if view is View.LAX_4CH else np.array([0.0, 0.0, -1.0])
    right = np.array([1.0, 0.0, 0.0]) if view is View.LAX_4CH else np.array([0.0, 1.0, 0.0])
    column = down - (down @ normal) * normal
    column /= np.linalg.norm(column)
    row = np.cross(column, normal)
    if row @ right < 0:
        row = -row
    size = max(recipe.rows, recipe.columns)
    middle = heart.to_patient(np.array([-12.0 * math.cos(angle), 0.0, 0.6 * heart.lv.length]))
    half = (size - 1) / 2 * recipe.spacing_mm
    return Plane(
        position=middle - half * row - half * column,
        row=row,
        column=column,
        spacing=recipe.spacing_mm,
        rows=size,
        columns=size,
        thickness=6.0,
    )


def _shifted(plane: Plane, height_mm: float) -> Plane:
    """The plane as the heart saw it: a breath-hold at another height moves the heart along z."""
    return Plane(
        position=plane.position + np.array([0.0, -0.3, 1.0]) * height_mm,
        row=plane.row,
        column=plane.column,
        spacing=plane.spacing,
        rows=plane.rows,
        columns=plane.columns,
        thickness=plane.thickness,
    )


def _stored(image: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Grey values of twelve bits."""
    np.rint(image, out=image)
    return np.clip(image, 0, 4095, out=image).astype(np.uint16)


def _image_slice(
    room: _Room, movie: HeartMovie, plane: Plane, rng: np.random.Generator
) -> tuple[NDArray[np.uint16], RenderedSlice]:
    infarct = room.heart.subject.infarct
    acute = infarct is not None and infarct.acute
    signals = cine_signals(plane, room.protocol, room.shim, acute=acute, inflow=room.inflow)
    _alter_cine(signals, room.heart.lesions.appearance)
    rendered = render_slice(movie, room.thorax, plane, signals, rng, flow=room.flow)
    blood = float(bssfp(relaxation(room.protocol.field_t)[Tissue.BLOOD], room.protocol, np.zeros(1))[0])
    image = acquire(
        rendered.signal,
        room.coils.receive_profile(plane),
        room.reconstruction,
        blood,
        rng,
        faults=room.recipe.faults,
    )
    image *= np.float32(BLOOD_GREY / blood)
    return _stored(image), rendered


def _alter_cine(signals: dict[Tissue, Array], appearance: Appearance) -> None:
    """Give lesions the signal of this subject: fat in the scar, how far oedema and the obstructed core stand out."""
    muscle, scar = signals[Tissue.MYOCARDIUM], signals[Tissue.INFARCT]
    signals[Tissue.OEDEMA] = muscle + appearance.oedema * (signals[Tissue.OEDEMA] - muscle)
    signals[Tissue.OBSTRUCTION] = scar + appearance.core * (signals[Tissue.OBSTRUCTION] - scar)
    signals[Tissue.INFARCT] = (1 - appearance.fat) * scar + appearance.fat * signals[Tissue.FAT]


def _enhancement(
    room: _Room, planned: list[Plane], seed: np.random.SeedSequence, workers: int, matched: list[Plane] | None
) -> Enhancement:
    """Acquire the late enhancement stack: one phase, magnitude and PSIR of the same k-space.

    At mid-diastole and in breath-holds of its own, or at end diastole where the heart was in ``matched``.
    """
    heart, recipe = room.heart, room.recipe
    cycle = heart.subject.cycle
    time = np.array([0.5 * (cycle.filling_end + cycle.atrial_start) if matched is None else 0.0])
    state = heart.at_time(float(time[0]))
    movie = film_heart(heart, (state,))
    rng = np.random.default_rng(seed.spawn(1)[0])
    repetition = 2 * cycle.rr_ms
    timing = EnhancementTiming(myocardial_null_ms(repetition) * float(rng.uniform(0.93, 1.15)), repetition)
    table = relaxation(room.protocol.field_t)
    level = {tissue: enhancement_signal(tissue, timing, values.density) for tissue, values in table.items()}
    enhanced = heart.lesions.appearance.enhancement
    level[Tissue.INFARCT] = level[Tissue.MYOCARDIUM] + enhanced * (level[Tissue.INFARCT] - level[Tissue.MYOCARDIUM])
    reconstruction = Reconstruction(0.7, 0.85, 0.8, 0.45, room.reconstruction.uniformity, 0.9 * room.reconstruction.snr)
    true = matched or [_shifted(plane, rng.normal(0, breathing_sd_mm(recipe))) for plane in planned]

    def image(job: tuple[Plane, np.random.SeedSequence]) -> tuple[NDArray[np.float32], RenderedSlice]:
        plane, stream = job
        own = np.random.default_rng(stream)
        signals = {tissue: np.full(plane.rows * plane.columns, value) for tissue, value in level.items()}
        rendered = render_slice(movie, room.thorax, plane, signals, own, samples=4, flow=0.08)
        real = acquire(
            rendered.signal,
            room.coils.receive_profile(plane),
            reconstruction,
            0.5,
            own,
            faults=recipe.faults & {Fault.GHOSTING, Fault.LOW_SNR},
            keep_sign=True,
        )
        return real, rendered

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        images = list(pool.map(image, zip(true, seed.spawn(len(true)), strict=True)))
    real = np.concatenate([frame for frame, _ in images]) * np.float32(ENHANCEMENT_GREY)
    return Enhancement(
        magnitude=_stored(np.abs(real)),
        phase_sensitive=_stored(real + np.float32(PSIR_ZERO)),
        geometry=_geometry(planned),
        labels=np.concatenate([rendered.labels for _, rendered in images]),
        lesions=np.concatenate([rendered.lesions for _, rendered in images]),
        timing=timing,
        trigger_ms=float(time[0]) * cycle.rr_ms,
    )


def _geometry(planned: list[Plane]) -> StackGeometry:
    first = planned[0]
    return StackGeometry(
        positions=np.stack([plane.position for plane in planned]),
        row_direction=first.row,
        column_direction=first.column,
        pixel_spacing=(first.spacing, first.spacing),
        slice_thickness=first.thickness,
    )


def _stack(
    room: _Room,
    view: View,
    planned: list[Plane],
    slices: list[tuple[NDArray[np.uint16], RenderedSlice]],
    rng: np.random.Generator,
) -> CineAcquisition:
    pixels = np.stack([image for image, _ in slices], axis=1)
    nominal = room.heart.subject.cycle.rr_ms
    spread = 0.14 if Fault.ARRHYTHMIA in room.recipe.faults else 0.02
    rr = np.round(nominal * np.clip(1 + rng.normal(0, spread, len(slices)), 0.6, 1.5))
    phases = pixels.shape[0]
    return CineAcquisition(
        view=view,
        pixels=pixels,
        geometry=_geometry(planned),
        labels=np.stack([rendered.labels for _, rendered in slices], axis=1),
        atria=np.stack([rendered.atria for _, rendered in slices], axis=1),
        lesions=np.stack([rendered.lesions for _, rendered in slices], axis=1),
        trigger_times=np.arange(phases)[:, None] / phases * rr[None, :],
        rr_intervals=rr,
    )
