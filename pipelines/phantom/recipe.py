"""What to simulate: the recipe of one phantom study."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from pipelines.phantom.law import DEFAULT_LAW, JointLaw

__all__ = ["Dialect", "Disease", "Fault", "PhantomRecipe", "RecipeError", "Territory"]


class RecipeError(ValueError):
    """A recipe asks for something that cannot be simulated; the message says what to change."""


class Disease(enum.StrEnum):
    """Condition of the simulated heart."""

    NORMAL = "normal"
    DCM = "dcm"
    """Dilated cardiomyopathy."""
    HCM = "hcm"
    """Hypertrophic cardiomyopathy, asymmetric septal."""
    INFARCT = "infarct"
    """Myocardial infarction, acute or chronic."""
    RV_OVERLOAD = "rv-overload"
    """Dilated right ventricle with a flattened septum."""
    HIBERNATION = "hibernation"
    """A coronary territory that stands still without scar: stunned or hibernating muscle."""
    MYOCARDITIS = "myocarditis"
    """Subepicardial lateral lesions; motion is often normal."""
    AMYLOID = "amyloid"
    """Thick walls with diffuse enhancement; longitudinal motion is lost at the base and spared at the apex."""
    BUNDLE_BRANCH_BLOCK = "bundle-branch-block"
    """Left bundle branch block or right ventricular pacing: septal flash, late lateral wall, no scar."""


class Territory(enum.StrEnum):
    """Coronary territory of an infarct (AHA 17-segment assignment, Cerqueira 2002)."""

    LAD = "LAD"
    LCX = "LCX"
    RCA = "RCA"


class Dialect(enum.StrEnum):
    """How a scanner writes its DICOM."""

    SIEMENS = "siemens"
    """Classic MR, one series for each slice."""
    SIEMENS_XA = "siemens-xa"
    """Enhanced MR, one object for each slice."""
    GE = "ge"
    """Classic MR, the whole stack in one series, slice by slice."""
    PHILIPS = "philips"
    """Classic MR, one series, shuffled instance numbers, TriggerTime that is not the delay from the R wave."""
    PHILIPS_ENHANCED = "philips-enhanced"
    """Enhanced MR, the whole stack in one object."""

    @property
    def manufacturer(self) -> str:
        """Vendor whose physics, reconstruction and header habits are imitated."""
        return {"siemens": "SIEMENS", "siemens-xa": "Siemens Healthineers", "ge": "GE MEDICAL SYSTEMS"}.get(
            self.value, "Philips Medical Systems"
        )


class Fault(enum.StrEnum):
    """A defect of the acquisition."""

    MISTRIGGER = "mistrigger"
    """10–30 % of the k-space lines come from another phase."""
    BREATHING = "breathing"
    """Each breath-hold ends at another height: slices shift against each other (sigma 5 mm)."""
    GHOSTING = "ghosting"
    """Periodic modulation of k-space lines by respiration: ghosts along the phase-encoding direction."""
    ARRHYTHMIA = "arrhythmia"
    """RR intervals vary from beat to beat: each phase mixes neighbouring phases, RR differs from slice to slice."""
    MISSING_SLICES = "missing-slices"
    """One or two slices inside the stack were not sent."""
    WRONG_VIEW = "wrong-view"
    """The short-axis stack is angled 30° off the short axis."""
    LOW_SNR = "low-snr"
    """A quarter of the usual signal-to-noise ratio."""
    POOR_COVERAGE = "poor-coverage"
    """The stack stops short: a third of the ventricle, at the base or at the apex, was not imaged."""


@dataclass(frozen=True, slots=True)
class PhantomRecipe:
    """Everything that determines a phantom study; equal recipes give equal studies.

    Attributes
    ----------
    seed : int
        Seed of every random draw (numpy PCG64), 0 or greater.
    disease : Disease
    dialect : Dialect
        Vendor: decides physics and reconstruction details and the DICOM written by ``write_study``.
    slices, phases : int
        Size of the short-axis stack; long-axis views have one slice and as many phases.
    rows, columns : int
        Matrix of the short-axis images; long-axis images are square, ``max(rows, columns)``.
    spacing_mm : float
        Pixel spacing of the cine, mm.
    pitch_mm : float or None
        Distance between slice centres, mm; ``None`` lets the stack cover the ventricle (6–12 mm).
    long_axis : bool
        Whether 2CH, 3CH and 4CH cines are acquired.
    late_enhancement : bool
        Whether a late enhancement stack (magnitude and PSIR) is acquired.
    field_strength_t : float or None
        1.5 or 3.0; ``None`` draws one.
    territory, transmurality, acute, obstruction
        Fixed properties of an infarct; ``None`` draws them. Transmurality is a fraction, 0.25 … 1.
        ``obstruction`` asks for a microvascular obstruction, which only an acute infarct has.
    coils : int
        Receiver coil elements, 1 … 16.
    law : JointLaw
        How motion and scar belong together.
    severe : bool
        Draw the far end of the disease: hypertrophy that is thick, asymmetric, concentric or apical around a slit-like
        cavity, or a right ventricle that is greatly dilated and thick-walled. Needs HCM or RV overload.
    faults : frozenset of Fault
    """

    seed: int
    disease: Disease = Disease.NORMAL
    dialect: Dialect = Dialect.SIEMENS
    slices: int = 12
    phases: int = 30
    rows: int = 208
    columns: int = 256
    spacing_mm: float = 1.4
    pitch_mm: float | None = None
    long_axis: bool = True
    late_enhancement: bool = False
    field_strength_t: float | None = None
    territory: Territory | None = None
    transmurality: float | None = None
    acute: bool | None = None
    obstruction: bool | None = None
    coils: int = 4
    law: JointLaw = DEFAULT_LAW
    severe: bool = False
    faults: frozenset[Fault] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        limits: tuple[tuple[str, float, float, float], ...] = (
            ("seed", self.seed, 0, 2**63),
            ("slices", self.slices, 1, 40),
            ("phases", self.phases, 4, 60),
            ("rows", self.rows, 64, 512),
            ("columns", self.columns, 64, 512),
            ("spacing_mm", self.spacing_mm, 0.7, 4.0),
            ("coils", self.coils, 1, 16),
        )
        for name, value, low, high in limits:
            if not low <= value <= high:
                raise RecipeError(f"{name} is {value}; it must lie between {low} and {high}")
        if self.pitch_mm is not None and not 2 <= self.pitch_mm <= 20:
            raise RecipeError(f"pitch_mm is {self.pitch_mm}; it must lie between 2 and 20 mm")
        if self.field_strength_t not in (None, 1.5, 3.0):
            raise RecipeError(f"field_strength_t is {self.field_strength_t}; it must be 1.5 or 3.0")
        if self.transmurality is not None and not 0.25 <= self.transmurality <= 1:
            raise RecipeError(f"transmurality is {self.transmurality}; it must lie between 0.25 and 1")
        if self.severe and self.disease not in (Disease.HCM, Disease.RV_OVERLOAD):
            raise RecipeError(f"severe needs disease 'hcm' or 'rv-overload', not {self.disease}")
        infarct = (self.territory, self.transmurality, self.acute, self.obstruction)
        if self.disease is not Disease.INFARCT and any(value is not None for value in infarct):
            raise RecipeError(
                f"territory, transmurality, acute and obstruction need disease 'infarct', not {self.disease}"
            )
        if self.obstruction and self.acute is False:
            raise RecipeError(
                "a chronic infarct has no microvascular obstruction: drop acute=False or obstruction=True"
            )
