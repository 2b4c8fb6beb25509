"""Who is scanned: bodies, hearts and diseases drawn from published distributions.

Indices of healthy hearts follow the UK Biobank reference (Petersen 2017: LVEF 58 ± 5 / 61 ± 5 %, LV mass
53 ± 9 / 42 ± 7 g/m², men / women); those of disease are set to lie in the ranges that clinical cohorts report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipelines.phantom.cycle import CardiacCycle, draw_cycle
from pipelines.phantom.recipe import Disease, Fault, PhantomRecipe, Territory

__all__ = ["Body", "Hypertrophy", "Infarct", "Subject", "draw_subject"]


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


@dataclass(frozen=True, slots=True)
class Infarct:
    """One infarct as an elliptical patch on the unrolled ventricle.

    Attributes
    ----------
    territory : Territory
    angle_deg, half_width_deg : float
        Centre and half extent around the ventricle; 0 lateral, 90 anterior, 180 septal, 270 inferior.
    level, half_length : float
        Centre and half extent along the long axis, fractions of its length (0 apex, 1 base).
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
    angle_deg: float
    half_width_deg: float
    level: float
    half_length: float
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
    infarct: Infarct | None
    hypertrophy: Hypertrophy | None


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
    ejection = float(np.clip(ejection, 0.12, 0.74))
    edv = float(np.clip(edv_index, 45, 190)) * surface
    la_maximum = float(np.clip(la_index, 22, 80)) * surface
    return Subject(
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
        infarct=_draw_infarct(recipe, rng) if disease is Disease.INFARCT else None,
        hypertrophy=hypertrophy,
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


def _draw_infarct(recipe: PhantomRecipe, rng: np.random.Generator) -> Infarct:
    # All draws happen whether or not the recipe fixes a value, so fixing one does not change the others.
    territory = (Territory.LAD, Territory.RCA, Territory.LCX)[int(rng.choice(3, p=[0.45, 0.33, 0.22]))]
    transmurality, acute = rng.uniform(0.25, 1.0), bool(rng.random() < 0.6)
    obstructed = bool(rng.random() < 0.38)
    width, level, length = rng.uniform(45, 85), rng.normal(0, 0.06), rng.uniform(0.34, 0.56)
    offset, residual, thinning = rng.normal(0, 10), rng.normal(0, 0.08), rng.uniform(0.05, 0.4)
    territory = recipe.territory or territory
    transmurality = recipe.transmurality or transmurality
    if recipe.obstruction is not None:
        acute = acute or recipe.obstruction
    acute = recipe.acute if recipe.acute is not None else acute
    obstruction = acute and (obstructed if recipe.obstruction is None else recipe.obstruction)
    if obstruction and recipe.transmurality is None:
        transmurality = 0.5 + 0.5 * transmurality  # obstruction is a mark of large, deep infarcts
    angle, centre = {
        Territory.LAD: (122.0, 0.34),
        Territory.RCA: (248.0, 0.62),
        Territory.LCX: (345.0, 0.58),
    }[territory]
    return Infarct(
        territory=territory,
        angle_deg=angle + offset,
        half_width_deg=width,
        level=centre + level,
        half_length=length,
        transmurality=transmurality,
        contractility=float(np.clip(0.60 - 0.72 * transmurality + residual, -0.1, 0.5)),
        acute=acute,
        obstruction=obstruction,
        thinning=0.0 if acute else thinning * transmurality,
    )
