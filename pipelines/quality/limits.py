"""The limits that quality control holds its values against, each with its source."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.quality.findings import Grade

__all__ = ["Limit", "QualityLimits"]

PHANTOMS = "this network on 40 phantoms (benchmarks/badge.py --first 10000 --count 40 --limits): "
QUARTILE = PHANTOMS + "exceeded by a quarter and a tenth of the studies whose numbers are right, by half of the others"
LARGEST = PHANTOMS + "exceeded by a tenth of the studies whose numbers are right, and the largest of them"
ACDC = "95th percentile of the expert contours of 80 ACDC patients (Bernard et al., IEEE TMI 2018;37:2514)"


@dataclass(frozen=True, slots=True)
class Limit:
    """Where one value passes from one grade to the next.

    Values at or inside ``good`` are excellent; beyond ``good`` they are good, beyond ``poor`` poor, beyond
    ``unusable`` unusable. Whether beyond means above or below follows from the order of the three.
    """

    good: float
    poor: float
    unusable: float
    source: str

    def __post_init__(self) -> None:
        if not (self.good <= self.poor <= self.unusable or self.good >= self.poor >= self.unusable):
            raise ValueError(f"limits must ascend or descend: {self.good}, {self.poor}, {self.unusable}")

    def grade(self, value: float) -> Grade:
        """Grade of a value; NaN is unusable."""
        if math.isnan(value):
            return Grade.UNUSABLE
        sign = 1.0 if self.unusable >= self.good else -1.0
        beyond = [sign * value > sign * bound for bound in (self.good, self.poor, self.unusable)]
        return Grade(sum(beyond))


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """All limits. Units stand in the names."""

    phases: Limit = Limit(20, 12, 1, "SCMR protocols 2020 (JCMR 22:17) ask for 20 phases and more; 2 are the least")
    slices: Limit = Limit(8, 5, 2, "output control of automated pipelines: six contiguous LV slices at least")
    pitch_mm: Limit = Limit(10, 12, 25, "SCMR protocols 2020: 8 to 10 mm; beyond 12 mm the stack is sparse")
    uneven_gap: Limit = Limit(1.2, 1.5, math.inf, "widest gap over the median gap: 1.5 means half a slice is missing")
    plane_deg: Limit = Limit(
        9, 12, math.inf, "40 phantoms whose stack is 30° off: 12.6 to 22.7; on it: at most 4.6 (seeds 980000 to 980039)"
    )
    rr_variation_percent: Limit = Limit(10, 20, math.inf, "breath holds of one study keep within 10 %")
    base_ring_at_es: Limit = Limit(0.5, 0.9, math.inf, "at ES the base has descended: a closed ring in the end slice")
    apex_area_fraction: Limit = Limit(0.3, 0.5, math.inf, ACDC + " is 0.34")
    shift_mm: Limit = Limit(
        2.0, 3.4, 10.0, "Tarroni et al., Sci Rep 2020, 10.1038/s41598-020-58212-2: mean above 3.4 mm in 16 % of stacks"
    )
    contrast: Limit = Limit(0.35, 0.2, 0.05, "5th percentile of 80 ACDC patients is 0.40, the least 0.25")
    contrast_to_noise: Limit = Limit(
        9,
        3,
        -math.inf,
        "12.5 and more in 26 phantoms of usual signal, 7.1 in one of a quarter of it (seeds 57000 …, 59100 …); below 3 "
        "nothing is told from noise (Rose, J Opt Soc Am 1948;38:196)",
    )
    ghosts_percent: Limit = Limit(
        2.5,
        4,
        math.inf,
        "at most 0.9 % in 11 phantoms without a fault, 5.7 % and more in the same with ghosts or wrong triggers (seeds "
        "61000 to 61010); beyond 4 % in 2 of 80 ACDC patients, all beyond with ghosts put into their k-space",
    )
    slice_delay_percent: Limit = Limit(
        10,
        15,
        math.inf,
        "0 % in 11 phantoms without a fault (seeds 61000 to 61010); two patients of Sunnybrook: 15 and 0 %",
    )
    jump_at_the_end: Limit = Limit(
        1.0, 1.2, math.inf, "at most 0.8 in 11 phantoms without a fault (seeds 61000 to 61010) and 3 real studies"
    )
    roughness_percent: Limit = Limit(3, 8, 25, "scatter about the smoothed curve, percent of the stroke volume")
    minima: Limit = Limit(1, 1, math.inf, "a cardiac cycle has one systole")
    ejection_fraction_low_percent: Limit = Limit(15, 8, 3, "the least of 80 ACDC patients with heart failure is 10 %")
    ejection_fraction_high_percent: Limit = Limit(80, 85, 95, "the largest of 80 ACDC patients is 82 %")
    stroke_volume_mismatch_percent: Limit = Limit(15, 20, math.inf, QUARTILE)
    mass_change_percent: Limit = Limit(16, 22, 75, LARGEST)
    basal_spread_points: Limit = Limit(10, 11, math.inf, QUARTILE)
    base_above_stack_mm: Limit = Limit(
        1.5, 4.0, math.inf, "the mitral plane errs by 1.1 mm; a slab of 4 mm holds 8 ml of a normal ventricle"
    )
    long_axis_delay_percent: Limit = Limit(
        0,
        0,
        math.inf,
        "a view that begins elsewhere in the cycle tells of wrong triggers, of which slices may have more",
    )
    long_axis_shift_mm: Limit = Limit(
        4,
        6,
        math.inf,
        "at most 4.3 mm in 30 phantoms without mistriggering (seeds 53100 …); 6 mm is half the way to a slice",
    )
    long_axis_volume_percent: Limit = Limit(
        10, 15, math.inf, "beyond 10 % in 3 of 30 phantoms without mistriggering, at most 13.7 % (seeds 53100 …)"
    )
    rv_fragments_percent: Limit = Limit(6, 15, math.inf, LARGEST)
    rv_dips_percent: Limit = Limit(1, 5, math.inf, LARGEST)
    rv_flicker_percent: Limit = Limit(3, 5, math.inf, LARGEST)
    rv_to_lv_low: Limit = Limit(0.7, 0.5, 0.0, "1 of 20 ACDC patients of the training folds is below 0.36")
    rv_to_lv_high: Limit = Limit(1.8, 2.2, math.inf, "1 of 20 ACDC patients of the training folds is above 2.2")
    agreement: Limit = Limit(
        0.92, 0.85, 0.6, "mean Dice of the ensemble with its consensus; below 0.85 a person should look"
    )
    ring: Limit = Limit(0.9, 0.75, 0.5, "mid-ventricular expert contours are closed in all of 80 ACDC patients")
    rv_slices_fraction: Limit = Limit(0.6, 0.4, -1.0, "the RV reaches along most of the LV")
    edv_low_ml: Limit = Limit(60, 35, 8, "from a small child to the smallest of 80 ACDC patients, 49 ml")
    edv_high_ml: Limit = Limit(380, 450, 800, "the largest of 80 ACDC patients is 374 ml")
    mass_low_g: Limit = Limit(40, 25, 5, "the least of 80 ACDC patients is 34 g")
    mass_high_g: Limit = Limit(280, 350, 800, "the largest of 80 ACDC patients is 272 g")
