"""Queries (C-FIND, PS3.4 annex C.4.1) over what the node holds: Patient Root and Study Root, hierarchical.

UIDs and modalities come from the ledger. What else a query asks is read from the header of one file: of a study once,
when it is first asked for, and kept in the ledger until the study is removed; of series and images each time.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import UID
from pynetdicom import evt

from dicom_node.errors import DataSetMismatchError, classify
from dicom_node.network.matching import is_single_value, matches
from dicom_node.network.sop_classes import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
)
from dicom_node.network.stated_identity import stated_identity
from storage.files import InstanceFiles
from storage.holdings import (
    HeldInstance,
    HeldStudy,
    count_instances,
    describe_study,
    held_instances,
    held_series,
    held_studies,
    undescribed_studies,
)
from storage.ledger import Ledger

__all__ = ["Keys", "Level", "QueryService", "describe_new_studies", "query_keys"]

_log = structlog.get_logger(__name__)

_PENDING, _PENDING_UNSUPPORTED_KEYS = 0xFF00, 0xFF01
_CANCELLED, _OUT_OF_RESOURCES = 0xFE00, 0xA700

_PATIENT_ROOT = frozenset(
    {
        PatientRootQueryRetrieveInformationModelFind,
        PatientRootQueryRetrieveInformationModelGet,
        PatientRootQueryRetrieveInformationModelMove,
    }
)

_PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
_STUDY = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "StudyDescription",
    "ReferringPhysicianName",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
)
_IDENTITY = ("IssuerOfAccessionNumberSequence", "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence")
"""Of a study, beside these: what orders are held against."""
_SERIES = (
    "SeriesNumber",
    "SeriesDescription",
    "SeriesDate",
    "SeriesTime",
    "BodyPartExamined",
    "ProtocolName",
    "Manufacturer",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
)
_IMAGE = (
    "InstanceNumber",
    "ImageType",
    "ContentDate",
    "ContentTime",
    "AcquisitionNumber",
    "NumberOfFrames",
    "Rows",
    "Columns",
)
_LAST_GROUP = 0x0040
_SPECIFIC_CHARACTER_SET = Tag(0x0008, 0x0005)
_NOT_KEYS = frozenset({"QueryRetrieveLevel", "SpecificCharacterSet", "TimezoneOffsetFromUTC"})


class Level(enum.StrEnum):
    """Query/Retrieve Level (0008,0052), from the top."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


_UNIQUE_KEY: Mapping[Level, str] = {
    Level.PATIENT: "PatientID",
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a query, as read from its Identifier."""

    level: Level
    values: Mapping[str, str]
    r"""By keyword, stripped; several values separated by ``\``, ``""`` for those to be returned only."""
    unknown: tuple[int, ...]
    """Tags of keys that are no attributes of a query, sequences among them: returned empty."""

    def uids(self, level: Level) -> tuple[str, ...] | None:
        """Values of a level's unique key; ``None`` for all."""
        value = self.values.get(_UNIQUE_KEY[level], "")
        return tuple(value.split("\\")) if value else None


def query_keys(identifier: Dataset, sop_class_uid: str) -> Keys:
    """Read the Identifier of a query or retrieval.

    Raises
    ------
    DataSetMismatchError
        Its level is not one of the information model, or a unique key above that level has not exactly one value
        (PS3.4 C.4.1.2.1, C.4.1.3.1.1: relational queries are not negotiated).
    """
    try:
        level = Level(str(identifier.get("QueryRetrieveLevel", "")).strip())
    except ValueError as error:
        raise DataSetMismatchError("QueryRetrieveLevel is missing or unknown") from error
    patient_root = UID(sop_class_uid) in _PATIENT_ROOT
    if level is Level.PATIENT and not patient_root:
        raise DataSetMismatchError("level PATIENT is not of the Study Root model")
    values, unknown = dict[str, str](), list[int]()
    for element in identifier:
        keyword = keyword_for_tag(element.tag)
        if not keyword or element.VR == "SQ" or " or " in dictionary_VR(keyword):
            unknown.append(int(element.tag))
        elif keyword not in _NOT_KEYS:
            values[keyword] = "\\".join(_texts(element.value))
    levels = list(Level)
    for above in levels[0 if patient_root else 1 : levels.index(level)]:
        keyword = _UNIQUE_KEY[above]
        if not is_single_value(dictionary_VR(keyword), values.get(keyword, "")):
            raise DataSetMismatchError(f"level {level} needs one {keyword}")
    return Keys(level, values, tuple(unknown))


def describe_new_studies(ledger: Ledger, files: InstanceFiles, study_instance_uid: str | None = None) -> None:
    """Read the attributes of studies that have come since the last query; of all of them unless one is named.

    Raises
    ------
    OSError
        The file of the one that is named cannot be read. Of others is kept that nothing is known of them.
    """
    corrected = False
    for study in undescribed_studies(ledger, study_instance_uid):
        if study_instance_uid is not None:
            files.readable(study.path).open("rb").close()
        header = _header(files, study.path, (*_PATIENT, *_STUDY, *_IDENTITY))
        attributes = {keyword: "" if header is None else _text(header, keyword) for keyword in (*_PATIENT, *_STUDY)}
        identity = None if header is None else stated_identity(header)
        corrected |= not describe_study(ledger, study.id, attributes, read_from=study.path, identity=identity)
    if corrected:
        describe_new_studies(ledger, files, study_instance_uid)


@dataclass(frozen=True, slots=True)
class QueryService:
    """Answers C-FIND requests."""

    ledger: Ledger
    files: InstanceFiles
    ae_title: str
    """Of this node: from where the objects can be retrieved."""
    maximum_matches: int

    def find(self, event: evt.Event) -> Iterator[tuple[int | Dataset, Dataset | None]]:
        """Handle a request: a Pending status with each match, and at the end what ended it unless all went well."""
        try:
            keys = query_keys(event.identifier, str(event.request.AffectedSOPClassUID))
            describe_new_studies(self.ledger, self.files)
            count = 0
            for found in self._matching(keys):
                if event.is_cancelled:
                    yield _CANCELLED, None
                    return
                if count == self.maximum_matches:
                    _log.warning("query cut short", level=keys.level.value, matches=count)
                    yield _failure(_OUT_OF_RESOURCES, f"more than {count} matches, narrow the query"), None
                    return
                count += 1
                yield _pending(keys, found), self._response(keys, found)
            _log.info("query answered", level=keys.level.value, matches=count)
        except Exception as error:  # noqa: BLE001 - a peer must get a status whatever happens
            known = classify(error)
            # The text of an unforeseen exception may quote the query, which is patient data.
            what = known.what if known is error else type(error).__name__
            _log.warning("query failed", what=what)
            # PS3.4 C.4.1.1.4: what has no status of its own is Unable to Process.
            yield _failure(known.dimse_status if known.dimse_status >= 0xA000 else 0xC000, what), None

    def _matching(self, keys: Keys) -> Iterator[dict[str, str]]:
        for candidate in self._candidates(keys):
            if all(
                matches(dictionary_VR(keyword), key, candidate[keyword].split("\\"))
                for keyword, key in keys.values.items()
                if keyword in candidate
            ):
                self._count(keys, candidate)
                yield candidate

    def _candidates(self, keys: Keys) -> Iterator[dict[str, str]]:
        patient_id = keys.values.get("PatientID", "")
        studies = held_studies(
            self.ledger,
            study_instance_uids=keys.uids(Level.STUDY),
            patient_id=patient_id if is_single_value("LO", patient_id) else None,
        )
        if keys.level is Level.PATIENT:
            yield from _patients(studies)
            return
        for study in studies:
            of_study = _of_study(study)
            if keys.level is Level.STUDY:
                yield of_study
                continue
            for series in held_series(self.ledger, study.study_instance_uid):
                wanted = keys.uids(Level.SERIES)
                if wanted is not None and series.series_instance_uid not in wanted:
                    continue
                of_series = of_study | {"SeriesInstanceUID": series.series_instance_uid, "Modality": series.modality}
                if keys.level is Level.SERIES:
                    yield of_series | self._read_if_asked(keys, _SERIES, series.path)
                    continue
                with self.ledger.reading() as session:
                    instances = held_instances(
                        session,
                        series_instance_uids=[series.series_instance_uid],
                        study_instance_uids=[study.study_instance_uid],
                        sop_instance_uids=keys.uids(Level.IMAGE),
                    )
                for instance in instances:
                    yield of_series | _of_instance(instance) | self._read_if_asked(keys, _IMAGE, instance.path)

    def _read_if_asked(self, keys: Keys, keywords: Sequence[str], path: str) -> dict[str, str]:
        asked = [keyword for keyword in keywords if keyword in keys.values]
        return _read(self.files, path, asked) if asked else {}

    def _count(self, keys: Keys, found: dict[str, str]) -> None:
        # Counting reads the ledger, so only for what matches and only when asked for.
        if "NumberOfStudyRelatedInstances" in keys.values and keys.level is Level.STUDY:
            count = count_instances(self.ledger, study_instance_uid=found["StudyInstanceUID"])
            found["NumberOfStudyRelatedInstances"] = str(count)
        if "NumberOfSeriesRelatedInstances" in keys.values and keys.level is Level.SERIES:
            found["NumberOfSeriesRelatedInstances"] = str(
                count_instances(
                    self.ledger,
                    study_instance_uid=found["StudyInstanceUID"],
                    series_instance_uid=found["SeriesInstanceUID"],
                )
            )

    def _response(self, keys: Keys, found: Mapping[str, str]) -> Dataset:
        response = Dataset()
        for tag in keys.unknown:
            response.add_new(tag, "SQ" if _is_sequence(tag) else "UN", [] if _is_sequence(tag) else b"")
        for keyword in keys.values:
            setattr(response, keyword, _converted(keyword, found.get(keyword, "")))
        # The unique keys above the level are returned whether asked for or not (PS3.4 C.4.1.1.3.2).
        for level in Level:
            if _UNIQUE_KEY[level] in found:
                setattr(response, _UNIQUE_KEY[level], found[_UNIQUE_KEY[level]])
        response.QueryRetrieveLevel = keys.level.value
        response.RetrieveAETitle = self.ae_title
        response.InstanceAvailability = "ONLINE"
        if not all(value.isascii() for value in found.values()):
            response.SpecificCharacterSet = "ISO_IR 192"
        return response


def _patients(studies: Iterable[HeldStudy]) -> Iterator[dict[str, str]]:
    together: dict[tuple[str, str], list[HeldStudy]] = {}
    for study in studies:
        key = study.attributes.get("PatientID", ""), study.attributes.get("IssuerOfPatientID", "")
        together.setdefault(key, []).append(study)
    for members in together.values():
        yield {keyword: members[-1].attributes.get(keyword, "") for keyword in _PATIENT} | {
            "NumberOfPatientRelatedStudies": str(len(members)),
            "NumberOfPatientRelatedSeries": str(sum(member.series for member in members)),
        }


def _of_study(study: HeldStudy) -> dict[str, str]:
    return {keyword: study.attributes.get(keyword, "") for keyword in (*_PATIENT, *_STUDY)} | {
        "StudyInstanceUID": study.study_instance_uid,
        "ModalitiesInStudy": "\\".join(study.modalities),
        "NumberOfStudyRelatedSeries": str(study.series),
    }


def _of_instance(instance: HeldInstance) -> dict[str, str]:
    return {
        "SOPInstanceUID": instance.sop_instance_uid,
        "SOPClassUID": instance.sop_class_uid,
        "AvailableTransferSyntaxUID": instance.transfer_syntax_uid,
    }


_ALWAYS = frozenset({"RetrieveAETitle", "InstanceAvailability"})


def _pending(keys: Keys, found: Mapping[str, str]) -> int:
    supported = not keys.unknown and all(keyword in found or keyword in _ALWAYS for keyword in keys.values)
    return _PENDING if supported else _PENDING_UNSUPPORTED_KEYS


def _read(files: InstanceFiles, path: str, keywords: Sequence[str]) -> dict[str, str]:
    r"""Text of some attributes of a file, ``""`` where absent; several values are separated by ``\``."""
    header = _header(files, path, keywords)
    # What the ledger knows of it is answered all the same.
    return {keyword: "" if header is None else _text(header, keyword) for keyword in keywords}


def _header(files: InstanceFiles, path: str, keywords: Sequence[str]) -> Dataset | None:
    """Some attributes of a file; ``None`` where it is gone or damaged."""
    try:
        with files.readable(path).open("rb") as file:
            return read_partial(
                file,
                stop_when=lambda tag, _vr, _length: tag.group > _LAST_GROUP,
                specific_tags=[_SPECIFIC_CHARACTER_SET, *map(Tag, keywords)],
            )
    except (OSError, InvalidDicomError):
        return None


def _text(header: Dataset, keyword: str) -> str:
    try:
        return "\\".join(_texts(header.get(keyword)))
    except Exception:  # noqa: BLE001 - whatever pydicom makes of a damaged value
        return ""


def _texts(value: object) -> list[str]:
    if value is None:
        return []
    several = value if isinstance(value, MultiValue | list | tuple) else [value]
    return [str(one).replace("\0", "").strip() for one in several if one is not None]


def _converted(keyword: str, text: str) -> object:
    vr = dictionary_VR(keyword)
    if not text:
        return [] if vr == "SQ" else None
    if vr in ("US", "UL", "SS", "SL"):
        return [int(one) for one in text.split("\\")]
    return text


def _is_sequence(tag: int) -> bool:
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False


def _failure(status: int, comment: str) -> Dataset:
    failure = Dataset()
    failure.Status = status
    failure.ErrorComment = comment[:64]
    return failure
