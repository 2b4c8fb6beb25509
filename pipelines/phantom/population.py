"""The simulated population: bodies, hearts and diseases drawn from published distributions.

Indices of healthy hearts follow the UK Biobank reference (Petersen 2017: LVEF 58 ± 5 / 61 ± 5 %, LV mass
53 ± 9 / 42 ± 7 g/m², men / women); those of disease are set to lie in the ranges that clinical cohorts report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pipelines.phantom.cycle import CardiacCycle, draw_cycle
from pipelines.phantom.recipe import Disease, Fault, PhantomRecipe, Territory

__all__ = [
    "CONTRACTILITY",
    "HALF_LENGTH",
    "HALF_WIDTH_DEG",
    "RESIDUAL_SD",
    "TRANSMURALITY",
    "AkineticPatch",
    "Body",
    "Conduction",
    "Fibrosis",
    "Hypertrophy",
    "Infarct",
    "Patch",
    "Subject",
    "breathing_sd_mm",
    "contractility_of",
    "draw_subject",
    "expected_contractility",
]

TRANSMURALITY = (0.25, 1.0)
"""Range of the depth of an infarct, uniform but for what the law says of obstruction."""
HALF_WIDTH_DEG, HALF_LENGTH = (45.0, 85.0), (0.34, 0.56)
"""Ranges of the half extents of an infarct, uniform but for what the law says of acute ones; of the level as a fraction
of the length."""
CONTRACTILITY = (-0.1, 0.5)
RESIDUAL_SD = 0.08
"""Standard deviation of the contraction of the core about :func:`expected_contractility`."""
_CENTRES = {Territory.LAD: (122.0, 0.34), Territory.RCA: (248.0, 0.62), Territory.LCX: (345.0, 0.58)}
"""Angle (degrees) and level (fraction of the length) of the middle of each coronary territory."""


@dataclass(frozen=True, slots=True)
class Body:
    """The person around the heart. Lengths in mm, except ``height_m``."""

    sex: str
    age_years: int
    height_m: float
    weight_kg: float
    fat_mm: float
    """Subcutaneous fat over the anterior chest, 5 … 40 mm."""
    half_width_mm: float
    half_depth_mm: float

    @property
    def surface_m2(self) -> float:
        """Body surface area, m² (Mosteller)."""
        return math.sqrt(self.height_m * 100 * self.weight_kg / 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """An elliptical patch on the unrolled ventricle.

    Attributes
    ----------
    angle_deg, half_width_deg : float
        Centre and half extent around the ventricle; 0 lateral, 90 anterior, 180 septal, 270 inferior.
    level, half_length : float
        Centre and half extent along the long axis, fractions of its length (0 apex, 1 base).
    """

    angle_deg: float
    half_width_deg: float
    level: float
    half_length: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AkineticPatch(Patch):
    """Stunned or hibernating muscle: ``severity`` of its contractility is lost (1 akinetic), and nothing enhances."""

    severity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fibrosis(Patch):
    """Enhancement without infarction between two depths of the wall (0 endocardium, 1 epicardium).

    ``severity`` of the contractility is lost in its middle.
    """

    inner: float
    outer: float
    severity: float


@dataclass(frozen=True, slots=True)
class Conduction:
    """Left bundle branch block or pacing: what is activated first, and how much later the opposite wall follows."""

    early_deg: float
    spread: float
    """Fraction of RR between the earliest and the latest wall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Infarct(Patch):
    """One infarct.

    Attributes
    ----------
    territory : Territory
    transmurality : float
        Depth from the endocardium as a fraction of the wall, 0.25 … 1.
    contractility : float
        Contraction of the core relative to remote muscle, −0.1 (dyskinetic) … 0.5.
    acute : bool
    obstruction : bool
        Whether it has a microvascular obstruction.
    thinning : float
        Fraction of wall thickness lost (chronic infarcts only).
    """

    territory: Territory
    transmurality: float
    contractility: float
    acute: bool
    obstruction: bool
    thinning: float


@dataclass(frozen=True, slots=True)
class Hypertrophy:
    """Extra wall thickness of asymmetric hypertrophy: ``gain`` times the wall at the centre of a Gaussian patch."""

    angle_deg: float
    width_deg: float
    level: float
    length: float
    gain: float


@dataclass(frozen=True, slots=True)
class Subject:
    """One simulated person.

    Volumes are targets that the geometry is fitted to: mL; mass in g; ``ejection_fraction`` (0 … 1) is that of
    muscle without infarct, so an infarct lowers it further.
    """

    number: int
    disease: Disease
    body: Body
    cycle: CardiacCycle
    lv_edv_ml: float
    lv_mass_g: float
    ejection_fraction: float
    rv_edv_ml: float
    long_axis_mm: float
    """End-diastolic length from endocardial apex to mitral plane."""
    shortening: float
    """Longitudinal shortening 1 − λ of healthy muscle at end systole."""
    twist_base_deg: float
    twist_apex_deg: float
    ovality: tuple[float, float, float, float]
    """Amplitude and angle (rad) of the second and third angular shape modes."""
    septal_flattening: float
    trabeculation: float
    la_maximum_ml: float
    la_minimum_ml: float
    infarcts: tuple[Infarct, ...]
    """The first is the one that the recipe describes."""
    hypertrophy: Hypertrophy | None
    akinesia: tuple[AkineticPatch, ...] = ()
    fibrosis: tuple[Fibrosis, ...] = ()
    conduction: Conduction | None = None
    basal_loss: float = 0.0
    """Contractility lost at the base; less towards the apex (apical sparing of amyloid)."""
    rv_wall_mm: float = 2.2
    """Thickness of the right ventricular wall at end diastole."""

    @property
    def infarct(self) -> Infarct | None:
        """The first infarct."""
        return self.infarcts[0] if self.infarcts else None


def draw_subject(recipe: PhantomRecipe, rng: np.random.Generator) -> Subject:
    """Draw a person with the disease of the recipe."""
    disease = recipe.disease
    sex = "M" if rng.random() < 0.5 else "F"
    body = _draw_body(rng, sex)
    male = sex == "M"
    surface = body.surface_m2
    heart_rate = float(np.clip(rng.normal(66 if disease is Disease.NORMAL else 72, 9), 50, 100))
    edv_index, mass_index = rng.normal(80 if male else 73, 9), rng.normal(53 if male else 42, 6.5)
    ejection = rng.normal(0.595 if male else 0.61, 0.035)
    shortening, twist = rng.normal(0.178, 0.013), rng.normal(1.0, 0.12)
    rv_ratio = rng.normal(1.08, 0.06)
    la_index, la_emptying = rng.normal(38, 5), rng.normal(0.57, 0.03)
    flattening = 0.0
    hypertrophy = None
    if disease is Disease.DCM:
        edv_index, mass_index = rng.normal(128, 18), rng.normal(76, 10)
        ejection, shortening, twist = rng.normal(0.29, 0.06), rng.normal(0.08, 0.015), rng.normal(0.5, 0.1)
        la_index, la_emptying = rng.normal(52, 8), rng.normal(0.38, 0.05)
    elif disease is Disease.HCM:
        edv_index, mass_index = rng.normal(72, 9), rng.normal(82, 14)
        ejection, shortening = rng.normal(0.66, 0.035), rng.normal(0.12, 0.012)
        la_index, la_emptying = rng.normal(50, 8), rng.normal(0.45, 0.05)
        hypertrophy = Hypertrophy(
            angle_deg=rng.normal(150, 20),
            width_deg=rng.uniform(35, 60),
            level=rng.uniform(0.55, 0.8),
            length=rng.uniform(0.25, 0.45),
            gain=rng.uniform(0.7, 1.5),
        )
    elif disease is Disease.INFARCT:
        edv_index, mass_index = rng.normal(90, 12), rng.normal(60, 8)
        la_index, la_emptying = rng.normal(43, 6), rng.normal(0.48, 0.05)
    elif disease is Disease.RV_OVERLOAD:
        rv_ratio = rng.normal(1.65, 0.18)
        flattening = rng.uniform(0.10, 0.22)
        ejection = rng.normal(0.55, 0.05)
    elif disease is Disease.HIBERNATION:
        edv_index, mass_index = rng.normal(92, 12), rng.normal(60, 8)
        la_index, la_emptying = rng.normal(44, 6), rng.normal(0.47, 0.05)
    elif disease is Disease.AMYLOID:
        edv_index, mass_index = rng.normal(66, 8), rng.normal(98, 14)
        ejection, shortening, twist = rng.normal(0.60, 0.05), rng.normal(0.12, 0.02), rng.normal(0.7, 0.1)
        la_index, la_emptying = rng.normal(56, 8), rng.normal(0.30, 0.06)
    elif disease is Disease.BUNDLE_BRANCH_BLOCK:
        edv_index, mass_index = rng.normal(105, 20), rng.normal(62, 9)
        ejection, shortening, twist = rng.normal(0.48, 0.08), rng.normal(0.13, 0.025), rng.normal(0.6, 0.15)
        la_index, la_emptying = rng.normal(46, 8), rng.normal(0.45, 0.06)
    ejection = float(np.clip(ejection, 0.12, 0.74))
    edv = float(np.clip(edv_index, 45, 190)) * surface
    # Draws of their own: what the law adds does not change who the person is.
    more = np.random.default_rng([recipe.seed, 0x4C41])
    infarcts = _draw_infarcts(recipe, rng, more) if disease is Disease.INFARCT else ()
    la_maximum = float(np.clip(la_index, 22, 80)) * surface
    subject = Subject(
        number=recipe.seed,
        disease=disease,
        body=body,
        cycle=draw_cycle(rng, heart_rate, stiff=disease is Disease.HCM or body.age_years > 68),
        lv_edv_ml=edv,
        lv_mass_g=float(np.clip(mass_index, 28, 120)) * surface,
        ejection_fraction=ejection,
        rv_edv_ml=edv * float(np.clip(rv_ratio, 0.9, 2.2)) * (0.75 if disease is Disease.DCM else 1.0),
        long_axis_mm=16.3 * edv ** (1 / 3) * float(np.clip(rng.normal(1, 0.035), 0.9, 1.1)),
        shortening=float(np.clip(shortening, 0.03, 0.2)),
        twist_base_deg=-3.0 * twist,
        twist_apex_deg=8.0 * twist,
        ovality=(
            abs(rng.normal(0.03, 0.015)),
            rng.uniform(0, math.pi),
            abs(rng.normal(0.012, 0.008)),
            rng.uniform(0, 2 * math.pi),
        ),
        septal_flattening=flattening,
        trabeculation=rng.uniform(0.07, 0.16),
        la_maximum_ml=la_maximum,
        la_minimum_ml=la_maximum * (1 - float(np.clip(la_emptying, 0.2, 0.68))),
        infarcts=infarcts,
        hypertrophy=hypertrophy,
        akinesia=_draw_akinesia(recipe, infarcts, more),
        fibrosis=_draw_fibrosis(recipe, hypertrophy, more),
        conduction=_draw_conduction(more) if disease is Disease.BUNDLE_BRANCH_BLOCK else None,
        basal_loss=float(more.uniform(0.3, 0.7)) if disease is Disease.AMYLOID else 0.0,
    )
    return _far_end(subject, np.random.default_rng([recipe.seed, 0x534556])) if recipe.severe else subject


def _far_end(subject: Subject, rng: np.random.Generator) -> Subject:
    """The subject with the far end of its disease: ranges of published series of severe cases, set from memory."""
    surface = subject.body.surface_m2
    if subject.disease is Disease.RV_OVERLOAD:
        return replace(
            subject,
            lv_edv_ml=rng.uniform(50, 75) * surface,
            rv_edv_ml=rng.uniform(110, 190) * surface,
            septal_flattening=rng.uniform(0.15, 0.30),
            rv_wall_mm=rng.uniform(3.0, 7.5),
        )
    kind = rng.choice(3, p=[0.45, 0.3, 0.25])
    if kind == 0:  # asymmetric
        place = (rng.normal(150, 30), rng.uniform(40, 75), rng.uniform(0.45, 0.8), rng.uniform(0.25, 0.5))
        gain = rng.uniform(1.2, 2.6)
    elif kind == 1:  # apical, all around
        place = (0.0, 4000.0, rng.uniform(0.1, 0.3), rng.uniform(0.12, 0.25))
        gain = rng.uniform(0.8, 2.2)
    else:  # concentric
        place, gain = (0.0, 4000.0, 0.5, 2.0), rng.uniform(0.2, 0.6)
    return replace(
        subject,
        lv_edv_ml=rng.uniform(42, 75) * surface,
        lv_mass_g=rng.uniform(95, 165) * surface,
        ejection_fraction=rng.uniform(0.62, 0.80),
        hypertrophy=Hypertrophy(*place, gain),
        rv_wall_mm=rng.uniform(2.2, 5.0),
        trabeculation=rng.uniform(0.1, 0.22),
    )


def breathing_sd_mm(recipe: PhantomRecipe) -> float:
    """Standard deviation of the shift between breath-holds, mm (1.82 ± 1.60 mm reported; the fault is larger)."""
    return 5.0 if Fault.BREATHING in recipe.faults else 0.7


def _draw_body(rng: np.random.Generator, sex: str) -> Body:
    height = rng.normal(1.77 if sex == "M" else 1.64, 0.065)
    bmi = float(np.clip(rng.normal(26.5, 4.0), 18, 42))
    fat = float(np.clip(rng.normal((bmi - 17) * (1.2 if sex == "M" else 1.7), 3.0), 5, 40))
    width = (150 if sex == "M" else 136) + rng.normal(0, 6) + 0.5 * (bmi - 26) + 0.45 * fat
    depth = (98 if sex == "M" else 90) + rng.normal(0, 4) + 0.4 * (bmi - 26) + 0.55 * fat
    return Body(
        sex=sex,
        age_years=int(np.clip(rng.normal(55, 14), 18, 90)),
        height_m=round(float(np.clip(height, 1.48, 2.02)), 2),
        weight_kg=round(bmi * float(height) ** 2, 0),
        fat_mm=fat,
        half_width_mm=float(width),
        half_depth_mm=float(depth),
    )


def expected_contractility(transmurality: float) -> float:
    """Contraction of the core of an infarct of a depth relative to remote muscle, before limits and chance."""
    return 0.60 - 0.72 * transmurality


def contractility_of(transmurality: float, residual: float = 0.0) -> float:
    """Contraction of the core of an infarct relative to remote muscle, by its depth and what departs from the rule."""
    return float(np.clip(expected_contractility(transmurality) + residual, *CONTRACTILITY))


def _draw_infarct(recipe: PhantomRecipe, rng: np.random.Generator) -> Infarct:
    # All draws happen whether or not the recipe fixes a value, so fixing one does not change the others.
    territory = (Territory.LAD, Territory.RCA, Territory.LCX)[int(rng.choice(3, p=[0.45, 0.33, 0.22]))]
    transmurality, acute = rng.uniform(*TRANSMURALITY), bool(rng.random() < 0.6)
    obstructed = bool(rng.random() < 0.38)
    width, level, length = rng.uniform(*HALF_WIDTH_DEG), rng.normal(0, 0.06), rng.uniform(*HALF_LENGTH)
    offset, residual, thinning = rng.normal(0, 10), rng.normal(0, RESIDUAL_SD), rng.uniform(0.05, 0.4)
    # A draw of its own: hearts without an acute infarct stay what they were before the law had it.
    larger = float(np.random.default_rng([recipe.seed, 0x4D564F]).standard_normal())
    territory = recipe.territory or territory
    transmurality = recipe.transmurality or transmurality
    if recipe.obstruction is not None:
        acute = acute or recipe.obstruction
    acute = recipe.acute if recipe.acute is not None else acute
    obstruction = acute and (obstructed if recipe.obstruction is None else recipe.obstruction)
    # Obstruction is a mark of large, deep infarcts that move little.
    if acute:
        scale = math.sqrt(math.exp(recipe.law.infarct_spread * larger))
        width, length = width * scale, length * scale
    if obstruction:
        scale = math.sqrt(recipe.law.obstruction_size)
        width, length, residual = width * scale, length * scale, residual - recipe.law.obstruction_motion
        if recipe.transmurality is None:
            deeper = recipe.law.obstruction_depth
            transmurality = deeper + (1 - deeper) * transmurality
    angle, centre = _CENTRES[territory]
    return Infarct(
        territory=territory,
        angle_deg=angle + offset,
        half_width_deg=width,
        level=centre + level,
        half_length=length,
        transmurality=transmurality,
        contractility=contractility_of(transmurality, residual),
        acute=acute,
        obstruction=obstruction,
        thinning=0.0 if acute else thinning * transmurality,
    )


def _draw_infarcts(recipe: PhantomRecipe, rng: np.random.Generator, more: np.random.Generator) -> tuple[Infarct, ...]:
    """The infarct of the recipe and, with the probability of the law, an old one in another territory."""
    first = _draw_infarct(recipe, rng)
    second, transmurality, thinning = more.random(), more.uniform(0.25, 0.8), more.uniform(0.05, 0.4)
    others = [territory for territory in Territory if territory is not first.territory]
    territory = others[int(more.integers(len(others)))]
    angle, level = _CENTRES[territory]
    width, length = more.uniform(30, 50), more.uniform(0.2, 0.35)
    if second >= recipe.law.second_infarct:
        return (first,)
    old = Infarct(
        territory=territory,
        angle_deg=angle,
        half_width_deg=width,
        level=level,
        half_length=length,
        transmurality=transmurality,
        contractility=contractility_of(transmurality),
        acute=False,
        obstruction=False,
        thinning=thinning * transmurality,
    )
    return first, old


def _draw_akinesia(
    recipe: PhantomRecipe, infarcts: tuple[Infarct, ...], rng: np.random.Generator
) -> tuple[AkineticPatch, ...]:
    """A territory that stands still without scar: always in hibernation, sometimes beside a chronic infarct."""
    beside, severity = rng.random(), rng.uniform(0.55, 1.1)
    taken = {infarct.territory for infarct in infarcts}
    free = [territory for territory in Territory if territory not in taken]
    angle, level = _CENTRES[free[int(rng.integers(len(free)))]]
    width, length, offset = rng.uniform(40, 75), rng.uniform(0.3, 0.5), rng.normal(0, 10)
    chronic = bool(infarcts) and not infarcts[0].acute
    if recipe.disease is not Disease.HIBERNATION and not (chronic and beside < recipe.law.hibernation):
        return ()
    return (
        AkineticPatch(
            angle_deg=angle + offset, half_width_deg=width, level=level, half_length=length, severity=severity
        ),
    )


def _draw_fibrosis(
    recipe: PhantomRecipe, hypertrophy: Hypertrophy | None, rng: np.random.Generator
) -> tuple[Fibrosis, ...]:
    """Enhancement that is no infarct, by disease and the prevalences of the law."""
    present = rng.random()
    if recipe.disease is Disease.DCM and present < recipe.law.midwall_fibrosis_dcm:
        # A stripe in the middle of the septum.
        return (
            Fibrosis(
                angle_deg=rng.normal(175, 12),
                half_width_deg=rng.uniform(25, 50),
                level=rng.uniform(0.55, 0.75),
                half_length=rng.uniform(0.2, 0.4),
                inner=rng.uniform(0.3, 0.4),
                outer=rng.uniform(0.55, 0.7),
                severity=rng.uniform(0.0, 0.3),
            ),
        )
    if recipe.disease is Disease.HCM and hypertrophy is not None and present < recipe.law.patchy_fibrosis_hcm:
        # The insertions of the right ventricle and the thickest wall, patchy.
        places = [(118.0, 10.0), (245.0, 10.0), (hypertrophy.angle_deg, 18.0), (hypertrophy.angle_deg + 20, 14.0)]
        chosen = rng.permutation(len(places))[: int(rng.integers(1, len(places) + 1))]
        return tuple(
            Fibrosis(
                angle_deg=places[index][0] + rng.normal(0, 6),
                half_width_deg=places[index][1] * rng.uniform(0.7, 1.4),
                level=float(np.clip(hypertrophy.level + rng.normal(0, 0.1), 0.3, 0.9)),
                half_length=rng.uniform(0.08, 0.22),
                inner=rng.uniform(0.2, 0.35),
                outer=rng.uniform(0.6, 0.85),
                severity=rng.uniform(0.0, 0.2),
            )
            for index in chosen
        )
    if recipe.disease is Disease.MYOCARDITIS and present < recipe.law.lesion_myocarditis:
        return tuple(
            Fibrosis(
                angle_deg=rng.normal(330, 30),
                half_width_deg=rng.uniform(15, 40),
                level=rng.uniform(0.35, 0.75),
                half_length=rng.uniform(0.1, 0.25),
                inner=rng.uniform(0.5, 0.65),
                outer=1.0,
                severity=rng.uniform(0.0, 0.25),
            )
            for _ in range(int(rng.integers(1, 4)))
        )
    if recipe.disease is Disease.AMYLOID:
        # All around, from the endocardium, deeper in advanced disease.
        return (
            Fibrosis(
                angle_deg=0.0,
                half_width_deg=4000.0,
                level=0.6,
                half_length=rng.uniform(0.8, 1.5),
                inner=0.0,
                outer=rng.uniform(0.35, 1.0),
                severity=0.0,
            ),
        )
    return ()


def _draw_conduction(rng: np.random.Generator) -> Conduction:
    """Left bundle branch block (the septum first) or right ventricular pacing (its apex and inferior septum first)."""
    first = 180 if rng.random() < 0.7 else 215
    return Conduction(early_deg=rng.normal(first, 15), spread=rng.uniform(0.08, 0.2))
