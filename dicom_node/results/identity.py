"""Whose study a result belongs to, carried over from a source instance as it stands, and the UIDs of the results.

Nothing is corrected: a date of ``20120000``, a UID with leading zeroes in a component or an empty accession number
arrives at the archive as the modality sent it, because the archive files by those very strings. Only the encoding of
text may change, and only where that loses nothing.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom import config as pydicom_config
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, PN_DELIMS, TEXT_VR_DELIMS, PersonName

from dicom_node.results.uids import derive_uid
from pipelines.models.identity import ModelIdentity

__all__ = ["CARRIED", "CarriedIdentity", "ResultIdentity", "ascii_text"]

UNICODE = "ISO_IR 192"

_PATIENT = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "SourcePatientGroupIdentificationSequence",
    "GroupOfPatientsIdentificationSequence",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar",
    "PatientSex",
    "ReferencedPatientSequence",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "EthnicGroup",
    "EthnicGroupCodeSequence",
    "PatientComments",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "StrainDescription",
    "StrainNomenclature",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "QualityControlSubject",
)
"""Patient Module, PS3.3 C.7.1.1."""

_CLINICAL_TRIAL = (
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "IssuerOfClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "IssuerOfClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "IssuerOfClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "IssuerOfClinicalTrialSubjectReadingID",
    "ClinicalTrialProtocolEthicsCommitteeName",
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
    "ClinicalTrialTimePointID",
    "IssuerOfClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)
"""Clinical Trial Subject and Clinical Trial Study Modules, PS3.3 C.7.1.3 and C.7.2.3."""

_STUDY = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianName",
    "ConsultingPhysicianIdentificationSequence",
    "StudyID",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "PhysiciansOfRecord",
    "PhysiciansOfRecordIdentificationSequence",
    "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence",
    "RequestingService",
    "RequestingServiceCodeSequence",
    "ReferencedStudySequence",
    "ProcedureCodeSequence",
    "ReasonForPerformedProcedureCodeSequence",
)
"""General Study Module, PS3.3 C.7.2.1."""

_PATIENT_STUDY = (
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientBodyMassIndex",
    "PatientSizeCodeSequence",
    "MedicalAlerts",
    "Allergies",
    "SmokingStatus",
    "PregnancyStatus",
    "LastMenstrualDate",
    "PatientState",
    "Occupation",
    "AdditionalPatientHistory",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ReasonForVisit",
    "ReasonForVisitCodeSequence",
    "ServiceEpisodeID",
    "IssuerOfServiceEpisodeIDSequence",
    "ServiceEpisodeDescription",
    "PatientSexNeutered",
)
"""Patient Study Module, PS3.3 C.7.2.2."""

CARRIED: tuple[str, ...] = (*_PATIENT, *_CLINICAL_TRIAL, *_STUDY, *_PATIENT_STUDY, "TimezoneOffsetFromUTC")
"""Keywords of the elements that results take over from a source instance."""

_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)

_ASCII = str.maketrans(
    {
        "×": "x",
        "÷": "/",
        "−": "-",
        "–": "-",
        "—": "-",
        "·": "-",
        "²": "2",
        "³": "3",
        "±": "+/-",
        "≥": ">=",
        "≤": "<=",
        "…": "...",
        "’": "'",
        "‘": "'",
        "“": '"',
        "”": '"',
        "°": " degrees",
        "µ": "u",
        "ß": "ss",
    }
)


def ascii_text(text: str) -> str:
    """The text in ASCII, for objects whose character set cannot hold anything else for certain."""
    folded = unicodedata.normalize("NFKD", text.translate(_ASCII))
    return "".join(c for c in folded if not unicodedata.combining(c)).encode("ascii", "replace").decode("ascii")


@dataclass(frozen=True, slots=True)
class ResultIdentity:
    """From what the UIDs of all results of one job follow.

    Attributes
    ----------
    digest : str
        SHA-256 over study, inputs, route, models, settings and software version.
    """

    digest: str

    @classmethod
    def of(
        cls,
        *,
        study_instance_uid: str,
        inputs: Iterable[str],
        route_name: str,
        models: Sequence[ModelIdentity],
        settings: str,
        software_version: str,
    ) -> ResultIdentity:
        """Derive it.

        Parameters
        ----------
        inputs
            What identifies each input instance: digest or SOP Instance UID; their order does not matter.
        settings
            What of the configuration changes the objects, serialised.
        """
        parts = [study_instance_uid, route_name, settings, software_version]
        parts += sorted(f"{model.name} {model.version} {model.weights_sha256}" for model in models)
        parts += sorted(inputs)
        return cls(hashlib.sha256("\x1f".join(parts).encode()).hexdigest())

    def uid(self, *parts: str) -> str:
        """UID of one thing in the results: series, instance, tracked region."""
        return derive_uid(self.digest, *parts)


@dataclass(frozen=True, slots=True, eq=False)
class CarriedIdentity:
    """Patient, study and visit as a source instance has them, ready to be put into a result.

    Attributes
    ----------
    elements : tuple of DataElement
        In the form in which they are written.
    character_set : tuple of str
        SpecificCharacterSet of the results; empty when the source has none and its bytes are kept.
    bytes_kept : bool
        True where the source's text cannot be decoded for certain: an undeclared or wrongly declared character set.
        Such results keep the bytes and the declaration of the source, and say everything else in ASCII; otherwise
        text is transcoded to ISO_IR 192 without loss.
    """

    elements: tuple[DataElement, ...]
    character_set: tuple[str, ...]
    bytes_kept: bool

    @classmethod
    def of(cls, source: Dataset) -> CarriedIdentity:
        """Take it from a source data set (pixels are not needed)."""
        declared = _declared(source)
        kept = any(
            not _decodes(value, vr, charset)
            for keyword in CARRIED
            for vr, value, charset in _texts(source, tag_for_keyword(keyword), declared)
        )
        elements = []
        for keyword in CARRIED:
            element = _carried(source, tag_for_keyword(keyword), declared, kept)
            if element is not None:
                elements.append(element)
        return cls(tuple(elements), declared if kept else (UNICODE,), kept)

    @property
    def timezone_offset(self) -> str:
        """TimezoneOffsetFromUTC of the source, ``""`` when absent; it also governs the dates of the results."""
        return str(self.value("TimezoneOffsetFromUTC") or "")

    def value(self, keyword: str) -> Any:
        """Value carried for a keyword, ``None`` when the source has none."""
        tag = tag_for_keyword(keyword)
        return next((element.value for element in self.elements if element.tag == tag), None)

    def apply(self, dataset: Dataset) -> None:
        """Make a result belong to the patient and the study; call it last, it also settles the character set."""
        for keyword in CARRIED:
            if keyword in dataset:
                del dataset[keyword]
        if self.bytes_kept:
            _fold(dataset)
        if self.character_set:
            dataset.SpecificCharacterSet = list(self.character_set)
        elif "SpecificCharacterSet" in dataset:
            del dataset.SpecificCharacterSet
        for element in self.elements:
            dataset[element.tag] = element
        for keyword in _TYPE_2:
            if keyword not in dataset:
                setattr(dataset, keyword, "")


def _declared(dataset: Dataset) -> tuple[str, ...]:
    value = dataset.get("SpecificCharacterSet")
    if value in (None, ""):
        return ()
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value)


def _encodings(declared: tuple[str, ...]) -> list[str]:
    return list(convert_encodings(list(declared) if declared else None))


def _texts(
    dataset: Dataset, tag: int | BaseTag | None, declared: tuple[str, ...]
) -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """Every undecoded text under an element: VR, bytes, declared character set."""
    if tag is None or tag not in dataset:
        return
    element = dataset.get_item(tag)
    vr = _vr(element)
    if vr == "SQ":
        for item in dataset[tag].value:
            own = _declared(item) or declared
            for inner in item:
                yield from _texts(item, inner.tag, own)
    elif vr in CUSTOMIZABLE_CHARSET_VR and isinstance(element, RawDataElement) and element.value:
        yield vr, bytes(element.value), declared


def _vr(element: DataElement | RawDataElement) -> str:
    if element.VR in (None, "UN"):
        return dictionary_VR(element.tag) if keyword_for_tag(element.tag) else "UN"
    return str(element.VR)


def _decodes(value: bytes, vr: str, declared: tuple[str, ...]) -> bool:
    if value.isascii() and b"\x1b" not in value:
        return True
    # Undeclared text beyond ASCII: pydicom would read it as Latin-1, a viewer may read it otherwise.
    if all(name in ("", "ISO_IR 6") for name in declared):
        return False
    before = pydicom_config.settings.reading_validation_mode
    pydicom_config.settings.reading_validation_mode = pydicom_config.RAISE
    try:
        for part in value.split(b"=") if vr == "PN" else [value]:
            decode_bytes(part, _encodings(declared), PN_DELIMS if vr == "PN" else TEXT_VR_DELIMS)
    except (UnicodeError, LookupError, ValueError):
        return False
    finally:
        pydicom_config.settings.reading_validation_mode = before
    return True


def _carried(source: Dataset, tag: int | None, declared: tuple[str, ...], keep_bytes: bool) -> DataElement | None:
    if tag is None or tag not in source:
        return None
    raw = source.get_item(tag)
    vr = _vr(raw)
    if vr == "SQ":
        items = []
        for item in source[tag].value:
            own = _declared(item) or declared
            copied = Dataset()
            for inner in item:
                element = _carried(item, inner.tag, own, keep_bytes)
                if element is not None and (keep_bytes or inner.keyword != "SpecificCharacterSet"):
                    copied[inner.tag] = element
            items.append(copied)
        return DataElement(tag, "SQ", items)
    if vr in CUSTOMIZABLE_CHARSET_VR:
        if keep_bytes and isinstance(raw, RawDataElement):
            value = bytes(raw.value or b"")
            if vr == "PN":
                return DataElement(tag, vr, _kept_names(value, declared))
            return DataElement(tag, vr, value, already_converted=True)
        decoded = source[tag].value
        if vr == "PN":
            names = [decoded] if isinstance(decoded, (str, PersonName)) else list(decoded or [])
            return DataElement(tag, vr, [PersonName(str(name)) for name in names] if len(names) > 1 else str(decoded))
        return DataElement(tag, vr, decoded)
    element = source[tag]
    return DataElement(element.tag, element.VR, element.value, already_converted=True)


def _kept_names(value: bytes, declared: tuple[str, ...]) -> Any:
    encodings = _encodings(declared)
    names = [PersonName(part, encodings) for part in value.rstrip(b" \0").split(b"\\")]
    return names if len(names) > 1 else names[0]


def _fold(dataset: Dataset) -> None:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _fold(item)
        elif element.VR in CUSTOMIZABLE_CHARSET_VR and element.value:
            if isinstance(element.value, str):
                element.value = ascii_text(element.value)
            elif isinstance(element.value, PersonName):
                element.value = ascii_text(str(element.value))
            else:
                element.value = [ascii_text(str(part)) for part in element.value]
