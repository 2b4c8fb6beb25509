"""Reference intervals: the published means lie inside, and none is given where it does not belong."""

from __future__ import annotations

import pytest

from pipelines.cine.stack import StudyContext
from pipelines.function.findings import Quantity
from pipelines.function.normals import Standing, reference_interval


def patient(sex: str | None, age: float | None = 60.0) -> StudyContext:
    return StudyContext("1.2.3", sex=sex, age_years=age)


# Mean ± SD of Petersen et al. 2017, tables by sex.
PUBLISHED = {
    "M": {Quantity.LVEDV: (166, 32), Quantity.LVESV: (69, 16), Quantity.LVSV: (96, 20), Quantity.LVSVI: (49, 10),
          Quantity.LVEF: (58, 5), Quantity.LVMI: (53, 9)},
    "F": {Quantity.LVEDV: (124, 21), Quantity.LVESV: (49, 11), Quantity.LVSV: (75, 14), Quantity.LVSVI: (45, 8),
          Quantity.LVEF: (61, 5), Quantity.LVMI: (42, 7)},
}  # fmt: skip


@pytest.mark.parametrize("sex", ["M", "F"])
def test_bounds_are_about_two_published_deviations_from_the_mean(sex: str) -> None:
    for quantity, (mean, deviation) in PUBLISHED[sex].items():
        interval = reference_interval(quantity, patient(sex))
        for bound, sign in ((interval.lower, -1), (interval.upper, 1)):
            assert 1.7 < sign * (bound - mean) / deviation < 2.7, (quantity, bound)


@pytest.mark.parametrize("sex", ["M", "F"])
def test_intervals_are_consistent_with_each_other(sex: str) -> None:
    of = {q: reference_interval(q, patient(sex)) for q in Quantity}
    for interval in filter(None, of.values()):
        assert 0 < interval.lower < interval.upper
        assert "Petersen" in interval.source
        assert "papillary muscles in the cavity" in interval.source
        assert interval.definition
    for chamber in ("LV", "RV"):
        assert of[Quantity[f"{chamber}ESV"]].upper < of[Quantity[f"{chamber}EDV"]].upper
        # The body surface area of the population lies between the ratios of the bounds.
        for volume in ("EDV", "ESV", "SV"):
            plain, indexed = of[Quantity[f"{chamber}{volume}"]], of[Quantity[f"{chamber}{volume}I"]]
            assert 1.4 < plain.upper / indexed.upper < 2.2
            assert 1.4 < plain.lower / indexed.lower < 2.2


def test_men_have_larger_hearts() -> None:
    for quantity in (Quantity.LVEDV, Quantity.RVEDV, Quantity.LVMI, Quantity.RVESVI):
        assert reference_interval(quantity, patient("M")).upper > reference_interval(quantity, patient("F")).upper


def test_none_where_it_does_not_belong() -> None:
    assert reference_interval(Quantity.LVEDV, patient(None)) is None
    assert reference_interval(Quantity.LVEDV, patient("O")) is None
    assert reference_interval(Quantity.LVEDV, patient("F", 12.0)) is None
    assert reference_interval(Quantity.LVPFR, patient("F")) is None
    assert reference_interval(Quantity.HEART_RATE, patient("F")) is None


def test_age_outside_the_population_is_said() -> None:
    assert reference_interval(Quantity.LVEF, patient("F", 60.0)).age_fits is True
    assert reference_interval(Quantity.LVEF, patient("F", 30.0)).age_fits is False
    assert reference_interval(Quantity.LVEF, patient("F", None)).age_fits is None


def test_standing() -> None:
    interval = reference_interval(Quantity.LVEF, patient("M"))
    assert interval.standing(30.0) is Standing.BELOW
    assert interval.standing(58.0) is Standing.WITHIN
    assert interval.standing(interval.upper) is Standing.WITHIN
    assert interval.standing(80.0) is Standing.ABOVE
