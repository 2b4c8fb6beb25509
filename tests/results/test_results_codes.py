"""Codes: complete, unique, within their value representations, and published as they are used."""

from __future__ import annotations

import re
from pathlib import Path

from pydicom.sr import _concepts_dict
from pydicom.sr.codedict import codes

from dicom_node.results import codes as ours
from dicom_node.results.codes import (
    AHA_SEGMENTS,
    GRADE,
    PRIVATE_CODES,
    PRIVATE_DESIGNATOR,
    PRIVATE_SCHEME_UID,
    QUALITY_CHECK,
    QUANTITY,
    REFUSAL_CODE,
)
from pipelines.errors import RefusalReason
from pipelines.function.findings import Quantity
from pipelines.quality.findings import Grade, QualityCheck

TABLE = Path(__file__).resolve().parents[2] / "docs" / "private_codes.md"


def test_everything_that_can_be_found_has_a_code() -> None:
    assert set(QUANTITY) == set(Quantity)
    assert set(QUALITY_CHECK) == set(QualityCheck)
    assert set(GRADE) == set(Grade)
    assert set(REFUSAL_CODE) == set(RefusalReason)


def test_numbers_of_one_ventricle_have_names_of_their_own() -> None:
    for chamber in ("LV", "RV"):
        named = [code for quantity, code in QUANTITY.items() if quantity.chamber == chamber]
        assert len(set(named)) == len(named)


def test_private_codes_fit_and_are_unique() -> None:
    assert len({code.value for code in PRIVATE_CODES}) == len(PRIVATE_CODES)
    assert all(len(code.value) <= 16 and len(code.meaning) <= 64 for code in PRIVATE_CODES)
    assert len(PRIVATE_DESIGNATOR) <= 16
    assert PRIVATE_DESIGNATOR.startswith("99")


def test_the_published_table_is_what_is_used() -> None:
    text = TABLE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", text, flags=re.MULTILINE)
    assert rows == [(code.value, code.meaning) for code in PRIVATE_CODES]
    assert f"`{PRIVATE_DESIGNATOR}`" in text
    assert f"`{PRIVATE_SCHEME_UID}`" in text


def test_standard_codes_mean_what_pydicom_says_they_mean() -> None:
    known: dict[tuple[str, str], set[str]] = {}
    for scheme, keywords in _concepts_dict.concepts.items():
        for entries in keywords.values():
            for value, (meaning, _) in entries.items():
                # SNOMED CT names its hierarchy in brackets at the end.
                known.setdefault((scheme, value), set()).update({meaning, re.sub(r" \([a-z ]+\)$", "", meaning)})
    used = [*QUANTITY.values(), *GRADE.values(), *AHA_SEGMENTS, *ours.BSA_EQUATION.values(), *ours.CHAMBER.values()]
    used += [value for value in vars(ours).values() if isinstance(value, ours.Code)]
    for code in used:
        if code.scheme_designator in ("DCM", "SCT", "LN"):
            assert code.meaning in known[code.scheme_designator, code.value], code


def test_aha_segments_are_those_of_cid_3717() -> None:
    assert set(AHA_SEGMENTS) == {getattr(codes.cid3717, name) for name in codes.cid3717.dir()}
    levels = ["basal"] * 6 + ["mid"] * 6 + ["apical"] * 4
    assert all(level in code.meaning for level, code in zip(levels, AHA_SEGMENTS, strict=False))
