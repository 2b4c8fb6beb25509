"""Rejection notes: Key Object Selection documents that tell an archive to take results out of use.

IHE RAD TF-1 33, TF-2 4.66 (Imaging Object Change Management): the document title says why, and what it references is
what is rejected. Everything of patient, study and equipment is taken over from one of the rejected objects, as it
stands there: the archive files the note by it, also where that is what was wrong.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.sr.coding import Code
from pydicom.uid import KeyObjectSelectionDocumentStorage

from dicom_node.results.codes import code_item
from dicom_node.results.identity import CARRIED
from dicom_node.results.part10 import part10_file
from dicom_node.results.uids import derive_uid

__all__ = ["REJECTION_SERIES", "RejectedObject", "RejectionNote", "RejectionReason", "rejection_note"]

REJECTION_SERIES = 1000
"""Added to the first series number of results: beyond the blocks of all packages."""
SERIES_DESCRIPTION = "AI results REJECTED"
_EQUIPMENT = (
    "Manufacturer",
    "ManufacturerModelName",
    "InstitutionName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)
_IMAGE = "1.2.840.10008.5.1.4.1.1."
_DOCUMENTS = (f"{_IMAGE}88.", f"{_IMAGE}104.", f"{_IMAGE}11.", f"{_IMAGE}66")


class RejectionReason(enum.Enum):
    """Why results are rejected: the title of the note (PS3.16 CID 7011)."""

    PATIENT_SAFETY = Code("113037", "DCM", "Rejected for Patient Safety Reasons")
    """They must not be seen: a later version of the study contradicts them, or they are of another patient."""
    RETENTION = Code("113039", "DCM", "Data Retention Policy Expired")
    """They need not be kept any longer."""


@dataclass(frozen=True, slots=True)
class RejectedObject:
    """One object that a note rejects."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class RejectionNote:
    """A note, written."""

    sop_instance_uid: str
    series_instance_uid: str
    content: bytes
    """PS3.10 file."""


def rejection_note(
    reference: Dataset,
    rejected: Sequence[RejectedObject],
    reason: RejectionReason,
    *,
    sentence: str,
    series_number: int,
    at: dt.datetime,
) -> RejectionNote:
    """Write a note; equal input gives equal bytes.

    Parameters
    ----------
    reference : pydicom.Dataset
        Header of one of the rejected objects.
    rejected : sequence of RejectedObject
        At least one; all of the study of ``reference``.
    sentence
        Why, for people: Key Object Description.
    at
        When they became void, with time zone; told in the zone that ``reference`` states, or else in the node's.
    """
    ordered = sorted(rejected, key=lambda one: (one.series_instance_uid, one.sop_instance_uid))
    parts = ("rejection note", reason.value.value, *(one.sop_instance_uid for one in ordered))
    note = Dataset()
    note.SpecificCharacterSet = reference.get("SpecificCharacterSet")
    for keyword in (*CARRIED, *_EQUIPMENT):
        if keyword in reference:
            note[keyword] = reference[keyword]
    note.SOPClassUID, note.SOPInstanceUID = KeyObjectSelectionDocumentStorage, derive_uid(*parts)
    note.SeriesInstanceUID = derive_uid(*parts, "series")
    note.Modality, note.SeriesNumber, note.InstanceNumber = "KO", series_number, 1
    note.SeriesDescription = SERIES_DESCRIPTION
    note.ReferencedPerformedProcedureStepSequence = ItemSequence()
    local = at.astimezone(_zone(reference))
    note.TimezoneOffsetFromUTC = local.strftime("%z")
    note.ContentDate, note.ContentTime = local.strftime("%Y%m%d"), local.strftime("%H%M%S.%f")
    note.SeriesDate, note.SeriesTime = note.ContentDate, note.ContentTime
    note.CurrentRequestedProcedureEvidenceSequence = [_evidence(note.StudyInstanceUID, ordered)]
    _write_content(note, ordered, reason, sentence)
    return RejectionNote(note.SOPInstanceUID, note.SeriesInstanceUID, part10_file(note))


def _zone(reference: Dataset) -> dt.tzinfo | None:
    offset = str(reference.get("TimezoneOffsetFromUTC") or "")
    try:
        return dt.datetime.strptime(offset, "%z").tzinfo
    except ValueError:
        return None


def _evidence(study_instance_uid: str, rejected: Sequence[RejectedObject]) -> Dataset:
    by_series: dict[str, list[RejectedObject]] = {}
    for one in rejected:
        by_series.setdefault(one.series_instance_uid, []).append(one)
    study = Dataset()
    study.StudyInstanceUID = study_instance_uid
    study.ReferencedSeriesSequence = [_series(uid, members) for uid, members in by_series.items()]
    return study


def _series(series_instance_uid: str, members: Sequence[RejectedObject]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = series_instance_uid
    series.ReferencedSOPSequence = [_reference(one) for one in members]
    return series


def _reference(one: RejectedObject) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
    return item


def _write_content(note: Dataset, rejected: Sequence[RejectedObject], reason: RejectionReason, sentence: str) -> None:
    """TID 2010 Key Object Selection."""
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    note.ValueType, note.ContinuityOfContent = "CONTAINER", "SEPARATE"
    note.ConceptNameCodeSequence = [code_item(reason.value)]
    note.ContentTemplateSequence = [template]
    description = Dataset()
    description.RelationshipType, description.ValueType = "CONTAINS", "TEXT"
    description.ConceptNameCodeSequence = [code_item(Code("113012", "DCM", "Key Object Description"))]
    description.TextValue = sentence
    note.ContentSequence = [description, *(_content_item(one) for one in rejected)]


def _content_item(one: RejectedObject) -> Dataset:
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "COMPOSITE" if one.sop_class_uid.startswith(_DOCUMENTS) else "IMAGE"
    item.ReferencedSOPSequence = [_reference(one)]
    return item
