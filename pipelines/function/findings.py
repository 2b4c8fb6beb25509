"""What the analysis of ventricular function finds: numbers with units, intervals and the way they were obtained."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BsaFormula",
    "Chamber",
    "ChamberFunction",
    "Interval",
    "Keyframes",
    "Measurement",
    "Quantity",
    "SegmentalWall",
    "UncheckedFunction",
    "VentricularFunction",
    "VolumeCurve",
]


class Chamber(enum.StrEnum):
    """Ventricle a quantity belongs to."""

    LV = "LV"
    RV = "RV"


class BsaFormula(enum.StrEnum):
    """Equation of the body surface area (DICOM CID 3663)."""

    MOSTELLER = "Mosteller"
    """DCM 122244; NEJM 1987;317:1098."""
    DU_BOIS = "Du Bois"
    """DCM 122241; Arch Intern Med 1916;17:863."""


class Quantity(enum.StrEnum):
    """Every number of a ventricular function report; the value is its key in ``results.json``."""

    LVEDV = "LVEDV_ml"
    LVESV = "LVESV_ml"
    LVSV = "LVSV_ml"
    LVEF = "LVEF_percent"
    LVCO = "LVCO_l_min"
    LVEDVI = "LVEDVI_ml_m2"
    LVESVI = "LVESVI_ml_m2"
    LVSVI = "LVSVI_ml_m2"
    LVCI = "LVCI_l_min_m2"
    LVPER = "LVPER_ml_s"
    LVPFR = "LVPFR_ml_s"
    LVM = "LVM_g"
    LVMI = "LVMI_g_m2"
    RVEDV = "RVEDV_ml"
    RVESV = "RVESV_ml"
    RVSV = "RVSV_ml"
    RVEF = "RVEF_percent"
    RVCO = "RVCO_l_min"
    RVEDVI = "RVEDVI_ml_m2"
    RVESVI = "RVESVI_ml_m2"
    RVSVI = "RVSVI_ml_m2"
    RVCI = "RVCI_l_min_m2"
    RVPER = "RVPER_ml_s"
    RVPFR = "RVPFR_ml_s"
    HEART_RATE = "heart_rate_bpm"
    BSA = "BSA_m2"

    @property
    def unit(self) -> str:
        """UCUM unit."""
        for suffix, unit in _UCUM:
            if self.value.endswith(suffix):
                return unit
        raise AssertionError(self)

    @property
    def chamber(self) -> Chamber | None:
        """Ventricle, ``None`` for heart rate and body surface area."""
        return Chamber(self.value[:2]) if self.value[:2] in ("LV", "RV") else None


_UCUM = (
    ("_ml_m2", "ml/m2"),
    ("_g_m2", "g/m2"),
    ("_l_min_m2", "l/min/m2"),
    ("_l_min", "l/min"),
    ("_ml_s", "ml/s"),
    ("_percent", "%"),
    ("_bpm", "/min"),
    ("_ml", "ml"),
    ("_g", "g"),
    ("_m2", "m2"),
)


@dataclass(frozen=True, slots=True)
class Interval:
    """Uncertainty of a number: lower and upper bound in the unit of that number (DICOM CID 225)."""

    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number of the report."""

    quantity: Quantity
    value: float
    method: str
    """How it was obtained, one sentence."""
    interval: Interval | None = None
    """Where an uncertainty can be had."""


@dataclass(frozen=True, slots=True, eq=False)
class VolumeCurve:
    """Volume of a chamber over the cardiac cycle.

    Attributes
    ----------
    times_ms : (T,) float64
        Delay from the R wave, ms: mean of the slices' trigger times, on the common RR interval.
    ml : (T,) float64
        Volume as measured, ml.
    smoothed_ml : (T,) float64
        The same after cyclic smoothing; ED and ES are read from it. Equal to ``ml`` for fewer than 8 phases.
    rr_ms : float or None
        Period of the curve, ms; ``None`` when no RR interval is known.
    """

    times_ms: NDArray[np.float64]
    ml: NDArray[np.float64]
    smoothed_ml: NDArray[np.float64]
    rr_ms: float | None


@dataclass(frozen=True, slots=True)
class Keyframes:
    """End diastole and end systole, as 0-based phase indices of the stack, with their delay from the R wave."""

    end_diastole: int
    end_systole: int
    end_diastole_ms: float
    end_systole_ms: float
    method: str


@dataclass(frozen=True, slots=True, eq=False)
class ChamberFunction:
    """Function of one ventricle. ``None``: not available (no heart rate, no body surface area, too few phases)."""

    chamber: Chamber
    edv_ml: float
    esv_ml: float
    stroke_volume_ml: float
    ejection_fraction_percent: float
    cardiac_output_l_min: float | None
    edv_index_ml_m2: float | None
    esv_index_ml_m2: float | None
    stroke_volume_index_ml_m2: float | None
    cardiac_index_l_min_m2: float | None
    peak_ejection_rate_ml_s: float | None
    """Largest rate of emptying, a positive number."""
    peak_filling_rate_ml_s: float | None
    curve: VolumeCurve
    edv_interval_ml: Interval
    """95 % bounds of this and the others: :mod:`pipelines.function.uncertainty` says what is in them."""
    esv_interval_ml: Interval
    stroke_volume_interval_ml: Interval
    ejection_fraction_interval_percent: Interval | None


@dataclass(frozen=True, slots=True, eq=False)
class SegmentalWall:
    """Wall thickness of the AHA segments (Cerqueira et al., Circulation 2002;105:539).

    Element ``i`` belongs to AHA segment ``i + 1``; NaN where a segment could not be measured.

    Attributes
    ----------
    ed_thickness_mm, es_thickness_mm, thickening_percent : (16,) or (17,) float64
        17 only when the apical cap is visible.
    levels : tuple of S str or None
        ``"basal"``, ``"mid"``, ``"apical"``, ``"cap"`` or ``None`` for each slice of the stack.
    anterior_insertion, inferior_insertion : (3,) float64
        RV insertion points of the mid level at ED, patient coordinates, mm: the reference of the angles.
    method : str
    """

    ed_thickness_mm: NDArray[np.float64]
    es_thickness_mm: NDArray[np.float64]
    thickening_percent: NDArray[np.float64]
    levels: tuple[str | None, ...]
    anterior_insertion: NDArray[np.float64]
    inferior_insertion: NDArray[np.float64]
    method: str

    @property
    def segments(self) -> int:
        """Number of segments: 16, or 17 with the apical cap."""
        return len(self.ed_thickness_mm)


@dataclass(frozen=True, slots=True, eq=False)
class VentricularFunction:
    """Function of both ventricles as it may be reported.

    Attributes
    ----------
    rv : ChamberFunction or None
        ``None`` when the right ventricle was not seen.
    lv_mass_g : float
        Myocardial volume at ED × 1.05 g/ml.
    lv_mass_interval_g : Interval
        95 % bounds.
    lv_mass_curve_g : (T,) float64
        The same at every phase: constant in truth.
    wall : SegmentalWall or None
        ``None`` when the RV insertion points, and with them the segments, could not be found.
    counted_slices : (T, S) bool
        Slices whose LV cavity was counted (the rule of the basal slice leaves some out).
    base_slice, apex_slice : int
        Most basal and most apical slice with LV cavity at ED.
    notes : tuple of str
        What a reader must know of how the numbers came about.
    """

    lv: ChamberFunction
    rv: ChamberFunction | None
    lv_mass_g: float
    lv_mass_interval_g: Interval
    lv_mass_index_g_m2: float | None
    lv_mass_curve_g: NDArray[np.float64]
    wall: SegmentalWall | None
    keyframes: Keyframes
    heart_rate_bpm: float | None
    bsa_m2: float | None
    bsa_formula: BsaFormula | None
    counted_slices: NDArray[np.bool_]
    base_slice: int
    apex_slice: int
    papillaries_in_cavity: bool = True
    """DICOM 122670 = 122621 (included) when true. Mass then excludes them."""
    notes: tuple[str, ...] = field(default=())

    def measurements(self) -> Iterator[Measurement]:
        """Every number that is available, in the order of the report."""
        yield from _of_chamber(self.lv)
        yield Measurement(
            Quantity.LVM,
            self.lv_mass_g,
            "myocardial volume at end diastole × 1.05 g/ml, papillary muscles excluded",
            self.lv_mass_interval_g,
        )
        if self.lv_mass_index_g_m2 is not None:
            yield Measurement(Quantity.LVMI, self.lv_mass_index_g_m2, "LV mass ÷ body surface area")
        if self.rv is not None:
            yield from _of_chamber(self.rv)
        if self.heart_rate_bpm is not None:
            yield Measurement(
                Quantity.HEART_RATE, self.heart_rate_bpm, "from the acquisition (heart rate or RR interval)"
            )
        if self.bsa_m2 is not None:
            yield Measurement(Quantity.BSA, self.bsa_m2, f"{self.bsa_formula} equation from height and weight")


def _of_chamber(chamber: ChamberFunction) -> Iterator[Measurement]:
    rows: tuple[tuple[str, float | None, str, Interval | None], ...] = (
        ("EDV_ml", chamber.edv_ml, "sum of areas × slice interval at end diastole", chamber.edv_interval_ml),
        ("ESV_ml", chamber.esv_ml, "sum of areas × slice interval at end systole", chamber.esv_interval_ml),
        ("SV_ml", chamber.stroke_volume_ml, "EDV − ESV", chamber.stroke_volume_interval_ml),
        (
            "EF_percent",
            chamber.ejection_fraction_percent,
            "(EDV − ESV) ÷ EDV",
            chamber.ejection_fraction_interval_percent,
        ),
        ("CO_l_min", chamber.cardiac_output_l_min, "stroke volume × heart rate", None),
        ("EDVI_ml_m2", chamber.edv_index_ml_m2, "EDV ÷ body surface area", None),
        ("ESVI_ml_m2", chamber.esv_index_ml_m2, "ESV ÷ body surface area", None),
        ("SVI_ml_m2", chamber.stroke_volume_index_ml_m2, "stroke volume ÷ body surface area", None),
        ("CI_l_min_m2", chamber.cardiac_index_l_min_m2, "cardiac output ÷ body surface area", None),
        ("PER_ml_s", chamber.peak_ejection_rate_ml_s, "steepest fall of the periodic volume curve", None),
        ("PFR_ml_s", chamber.peak_filling_rate_ml_s, "steepest rise of the periodic volume curve", None),
    )
    for suffix, value, method, interval in rows:
        if value is not None:
            yield Measurement(Quantity(f"{chamber.chamber}{suffix}"), value, method, interval)


@dataclass(frozen=True, slots=True, eq=False)
class UncheckedFunction:
    """Function as measured, before quality control has said whether it may be reported. Never encoded."""

    function: VentricularFunction
