"""Carries patient and study from a source instance into results, as they stand, and derives the UIDs of results.

Nothing is corrected: a date of ``20120000``, a UID with leading zeroes in a component or an empty accession number
arrives at the archive as the modality sent it, because the archive files by those very strings. Text keeps its bytes
and its character set: a name then reads in the results as it reads in the images, also where the declaration is wrong.
"""

from __future__ import annotations

import dataclasses
import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, MAX_VALUE_LEN, STR_VR, PersonName

from dicom_node.results.stated import stated
from dicom_node.results.uids import derive_uid
from pipelines.cine.elements import raw as raw_element
from pipelines.cine.stack import CineStack, CineStudy, LateEnhancementStack
from pipelines.models.identity import ModelIdentity

__all__ = [
    "CARRIED",
    "CarriedIdentity",
    "ResultIdentity",
    "ascii_text",
    "one_line",
    "with_frames_of_reference",
    "write_as_read",
]

AnyStack = TypeVar("AnyStack", CineStack, LateEnhancementStack)

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

CARRIED: tuple[str, ...] = (*_PATIENT, *_CLINICAL_TRIAL, *_STUDY, *_PATIENT_STUDY)
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

_STRINGS = frozenset(vr.value for vr in STR_VR)
"""VRs whose values are characters: what stands in the source can be put into a result byte by byte."""

_PLAIN_CHARACTER_SETS = frozenset(
    (
        *("ISO_IR 100", "ISO_IR 101", "ISO_IR 109", "ISO_IR 110", "ISO_IR 126"),
        *("ISO_IR 127", "ISO_IR 138", "ISO_IR 144", "ISO_IR 148", "ISO_IR 166"),
        *("ISO_IR 192", "GB18030"),
    )
)
"""Terms of PS3.3 C.12.1.1.2 whose Python codec writes what any reader reads: no code extensions, also where one of them
stands alone; not ISO_IR 13, whose codec has characters of several bytes; not GBK, which validators do not know."""

_ASCII = str.maketrans(
    {
        "×": "x",
        "÷": "/",
        "−": "-",
        "→": "->",
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


def one_line(text: str, limit: int) -> str:
    """The text as an LO or SH of at most ``limit`` characters can hold it: no control character, no backslash."""
    kept = "".join(" " if unicodedata.category(c) == "Cc" or c == "\\" else c for c in text)
    return kept.strip()[:limit].strip()


@dataclass(frozen=True, slots=True)
class ResultIdentity:
    """From what the UIDs of all results of one job follow.

    Attributes
    ----------
    digest : str
        SHA-256 over study, inputs, route, packages, models, settings and software version.
    """

    digest: str

    @classmethod
    def of(
        cls,
        *,
        study_instance_uid: str,
        inputs: Iterable[str],
        route_name: str,
        packages: Iterable[str],
        models: Sequence[ModelIdentity],
        settings: str,
        software_version: str,
    ) -> ResultIdentity:
        """Derive the identity of the results of one job.

        Parameters
        ----------
        inputs
            What identifies each input instance: digest or SOP Instance UID; their order does not matter.
        packages
            Name and version of each package that the results are of, in the order of the route.
        models
            Networks that took part in these packages, and no others.
        settings
            What of the configuration changes the objects, serialised.
        """
        parts = [study_instance_uid, route_name, settings, software_version, *packages]
        parts += sorted(f"{model.name} {model.version} {model.weights_sha256} {model.precision}" for model in models)
        parts += sorted(inputs)
        return cls(hashlib.sha256("\x1f".join(parts).encode()).hexdigest())

    def refined(self, *parts: str) -> ResultIdentity:
        """Identity of results that depend on something more."""
        return ResultIdentity(hashlib.sha256("\x1f".join((self.digest, *parts)).encode()).hexdigest())

    def uid(self, *parts: str) -> str:
        """UID of one thing in the results: series, instance, tracked region."""
        return derive_uid(self.digest, *parts)


@dataclass(frozen=True, slots=True, eq=False)
class CarriedIdentity:
    """Patient, study and visit as a source instance has them, ready to be put into a result.

    Attributes
    ----------
    elements : tuple of DataElement or RawDataElement
        In the form in which they are written: strings of every VR as the bytes of the source, whatever they hold.
    character_set : tuple of str
        SpecificCharacterSet of the source, and of the results; empty when the source has none.
    timezone_offset : str
        TimezoneOffsetFromUTC of the source, ``""`` when absent; see :mod:`dicom_node.results.dates`.
    """

    elements: tuple[DataElement | RawDataElement, ...]
    character_set: tuple[str, ...]
    timezone_offset: str

    @classmethod
    def of(cls, source: Dataset) -> CarriedIdentity:
        """Take it from a source data set (pixels are not needed)."""
        carried = (_carried(source, tag_for_keyword(keyword)) for keyword in CARRIED)
        offset = str(stated(source, "TimezoneOffsetFromUTC") or "")
        return cls(tuple(element for element in carried if element is not None), _declared(source), offset)

    def text(self, keyword: str) -> str:
        """Value of a single-valued ASCII element, without padding; ``""`` when the source has none."""
        tag = tag_for_keyword(keyword)
        value = next((element.value for element in self.elements if element.tag == tag), None) or ""
        plain = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
        return plain.strip(" \0")

    def apply(self, dataset: Dataset) -> None:
        """Make a result belong to the patient and the study; call it last, it also settles the character set.

        All other text in the result stays as it is where the character set of the source can say it, and becomes
        ASCII where it cannot.
        """
        for keyword in CARRIED:
            if keyword in dataset:
                del dataset[keyword]
        _fit(dataset, _codec(self.character_set))
        if self.character_set:
            dataset.SpecificCharacterSet = list(self.character_set)
        elif "SpecificCharacterSet" in dataset:
            del dataset.SpecificCharacterSet
        for element in self.elements:
            dataset[element.tag] = element
        for keyword in _TYPE_2:
            if keyword not in dataset:
                setattr(dataset, keyword, "")
        write_as_read(dataset)


def with_frames_of_reference(study: CineStudy) -> CineStudy:
    """The study with a Frame of Reference UID on every stack.

    A source without one gets one that follows from its series: SEG and images of a stack share it, whichever analysis
    made them, and claim no relation to another stack.
    """
    return dataclasses.replace(
        study,
        stacks=tuple(map(_with_frame_of_reference, study.stacks)),
        late_enhancement=tuple(map(_with_frame_of_reference, study.late_enhancement)),
    )


def _with_frame_of_reference(stack: AnyStack) -> AnyStack:
    if stack.frame_of_reference_uid:
        return stack
    lines = (stack.sources,) if isinstance(stack, LateEnhancementStack) else stack.sources
    series = sorted({source.series_instance_uid for line in lines for source in line})
    return dataclasses.replace(stack, frame_of_reference_uid=derive_uid("frame of reference", *series))


def _declared(dataset: Dataset) -> tuple[str, ...]:
    value = stated(dataset, "SpecificCharacterSet")
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value)


def _codec(declared: tuple[str, ...]) -> str:
    """Python codec that surely agrees with the declaration; ASCII, which all character sets hold, otherwise."""
    if len(declared) != 1 or declared[0] not in _PLAIN_CHARACTER_SETS:
        return "ascii"
    return python_encoding[declared[0]]


def write_as_read(dataset: Dataset, read: Dataset | None = None) -> None:
    """Have the raw elements written byte by byte: pydicom decodes and encodes them again where it sees a change.

    Parameters
    ----------
    read
        Where they were read from, unless ``dataset`` itself: its character set is theirs.
    """
    dataset.set_original_encoding(False, True, (dataset if read is None else read)._character_set)


def _vr(element: DataElement | RawDataElement) -> str:
    if element.VR in (None, "UN"):
        return dictionary_VR(element.tag) if keyword_for_tag(element.tag) else "UN"
    return str(element.VR)


def _carried(source: Dataset, tag: int | None) -> DataElement | RawDataElement | None:
    if tag is None or tag not in source:
        return None
    raw = raw_element(source, tag)
    assert raw is not None
    vr = _vr(raw)
    if vr == "SQ":
        items = []
        value = stated(source, tag)
        if value is None:
            return None
        for item in value:
            copied = Dataset()
            for inner in list(item.keys()):
                element = _carried(item, inner)
                if element is not None:
                    copied[inner] = element
            write_as_read(copied)
            items.append(copied)
        return DataElement(tag, "SQ", items)
    if isinstance(raw, RawDataElement) and vr in _STRINGS:
        value = bytes(raw.value or b"").rstrip(b" \0")
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        return RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, True)
    if isinstance(raw, RawDataElement) and raw.value and stated(source, tag) is None:
        # It cannot be read. What is empty is carried as such.
        return None
    element = source[tag]
    return DataElement(element.tag, element.VR, element.value, already_converted=True)


def _fit(dataset: Dataset, codec: str) -> None:
    def fitting(text: str, limit: int | None) -> str:
        try:
            length = len(text.encode(codec))
        except UnicodeEncodeError:
            return ascii_text(text)[:limit]
        # The limit is one of characters (PS3.5 6.2), but who cannot read the character set counts bytes.
        while limit is not None and length > limit:
            text = text[: -max(1, (length - limit) // 4)]
            length = len(text.encode(codec))
        return text

    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _fit(item, codec)
                # Settled, as the whole is: pydicom would go through everything below each item again before it writes.
                write_as_read(item)
        elif element.VR in CUSTOMIZABLE_CHARSET_VR and element.value:
            # ASCII can take more characters than the text had.
            limit = MAX_VALUE_LEN.get(element.VR)
            if isinstance(element.value, (str, PersonName)):
                element.value = fitting(str(element.value), limit)
            else:
                element.value = [fitting(str(part), limit) for part in element.value]
