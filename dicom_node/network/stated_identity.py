"""Whose a study is and who gave its accession number, as its header states it, to hold orders against."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from storage.identifiers import NOBODY, Issuer, PatientIdentifier, StudyIdentity

__all__ = ["stated_identity"]


def stated_identity(header: Dataset) -> StudyIdentity:
    """Read the numbers of the patient (PatientID and OtherPatientIDsSequence) and the issuer of the accession number.

    What cannot be read counts as not stated.
    """
    accession_issuer = next((_designator(one) for one in _items(header, "IssuerOfAccessionNumberSequence")), NOBODY)
    numbers = (_patient(one) for one in (header, *_items(header, "OtherPatientIDsSequence")))
    return StudyIdentity(tuple(dict.fromkeys(one for one in numbers if one.number)), accession_issuer)


def _patient(of: Dataset) -> PatientIdentifier:
    qualified = next((_designator(one) for one in _items(of, "IssuerOfPatientIDQualifiersSequence")), NOBODY)
    return PatientIdentifier(_text(of, "PatientID"), Issuer(_text(of, "IssuerOfPatientID"), qualified.universal_id))


def _designator(item: Dataset) -> Issuer:
    return Issuer(_text(item, "LocalNamespaceEntityID"), _text(item, "UniversalEntityID"))


def _items(of: Dataset, keyword: str) -> Iterator[Dataset]:
    try:
        yield from of.get(keyword) or ()
    except Exception:  # noqa: BLE001 - whatever pydicom makes of a damaged value
        return


def _text(of: Dataset, keyword: str) -> str:
    try:
        return str(of.get(keyword) or "").replace("\0", "").strip()
    except Exception:  # noqa: BLE001 - whatever pydicom makes of a damaged value
        return ""
