"""The line of patient identity at the head of each page, as it stands in the source."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from dicom_node.results.stated import stated

__all__ = ["PatientLine", "patient_line"]


@dataclass(frozen=True, slots=True)
class PatientLine:
    """What the head of a page says of patient and study."""

    name: str
    """In each script that the source gives: alphabetic / ideographic / phonetic (PS3.5 6.2.1)."""
    details: tuple[str, ...]
    """Patient ID, birth date, sex, study date, accession number, acquisition."""


def patient_line(header: Dataset) -> PatientLine:
    """Identity of patient and study from a source image.

    Nothing is corrected: what is no date of the calendar, such as ``20120000``, is said as it stands, and what is
    empty is said to be.
    """
    issuer = _text(header, "IssuerOfPatientID")
    identifier = _text(header, "PatientID") or "not in the source"
    return PatientLine(
        name=_name(stated(header, "PatientName")) or "name not in the source",
        details=(
            f"ID {identifier}{f' ({issuer})' if issuer else ''}",
            f"born {_date(_text(header, 'PatientBirthDate'))}",
            f"sex {_text(header, 'PatientSex') or '–'}",
            f"study of {_date(_text(header, 'StudyDate'))}",
            f"accession {_text(header, 'AccessionNumber') or '–'}",
            f"acquired {_acquired(header)}",
        ),
    )


def _text(header: Dataset, keyword: str) -> str:
    value = stated(header, keyword)
    return "" if value is None else str(value).strip()


def _name(value: object) -> str:
    if value is None:
        return ""
    person = value if isinstance(value, PersonName) else PersonName(str(value))
    groups = []
    for group, between in ((person.alphabetic, ", "), (person.ideographic, " "), (person.phonetic, " ")):
        family, *others = (part.strip() for part in str(group).split("^"))
        said = between.join(part for part in (family, " ".join(part for part in others if part)) if part)
        if said:
            groups.append(said)
    return " / ".join(groups)


def _date(value: str) -> str:
    """A date of the calendar with dashes; anything else as it stands."""
    try:
        return datetime.datetime.strptime(value, "%Y%m%d").date().isoformat() if len(value) == 8 else value or "–"
    except ValueError:
        return value


def _acquired(header: Dataset) -> str:
    both = _text(header, "AcquisitionDateTime")
    date = both[:8] or _text(header, "AcquisitionDate")
    time = both[8:] or _text(header, "AcquisitionTime")
    if not date:
        return "on a date not in the source"
    clock = f" {time[:2]}:{time[2:4]}" if time[:4].isdigit() and len(time) >= 4 else ""
    return f"{_date(date)}{clock}"
