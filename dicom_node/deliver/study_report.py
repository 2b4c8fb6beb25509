"""What is told of a study outside of DICOM: from the front page and from what its closing job kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_node.results.codes import PRIVATE_DESIGNATOR, QUANTITY
from dicom_node.results.numbers import ReportedNumber, numbers_from
from dicom_node.results.verdict import package_headline
from pipelines.function.findings import Quantity
from storage.assessments import RejectedAnswers, rejected_answers
from storage.closing import closing_job_of, package_outcomes, told_before, told_summary
from storage.ledger import Ledger

__all__ = ["StudyReport", "code_of", "patient_of", "study_report", "withdrawn_reports"]


@dataclass(frozen=True, slots=True)
class StudyReport:
    """One version of what this node says of a study. Patient data.

    Attributes
    ----------
    patient_name : str
        As in DICOM: components between ``^``, groups between ``=``.
    birth_date, study_date : str
        ``YYYYMMDD``; empty where not known.
    study_time : str
        ``HHMMSS``, as far as known.
    created : str
        Date and time of the report, ``YYYYMMDDHHMMSS±ZZXX``, the zone where it is known.
    report_uid : str
        SOP Instance UID of the front page.
    route : str
    numbers : tuple of ReportedNumber
        Those of which the package says how they were measured: what is only predicted or auxiliary stays in the SR.
    paragraph : str
    sentences : tuple of str
        What each package came to.
    withdrawn : bool
        Whether it is told that the report of this UID must not be used any more.
    rejected : frozenset of str
        Names of numbers that must not be used, because a radiologist rejected the results that they are of.
    given_up : tuple of ReportedNumber
        What the same receiver was told by earlier reports of study and route, and this one does not have.
    told_as : str
        Tells messages of one report apart that say different things of what may be used; empty for the usual one.
    """

    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    birth_date: str
    sex: str
    accession_number: str
    study_instance_uid: str
    study_date: str
    study_time: str
    referring_physician: str
    created: str
    report_uid: str
    route: str
    numbers: tuple[ReportedNumber, ...]
    paragraph: str
    sentences: tuple[str, ...]
    withdrawn: bool = False
    rejected: frozenset[str] = frozenset()
    given_up: tuple[ReportedNumber, ...] = ()
    told_as: str = ""

    def holds(self, number: ReportedNumber) -> bool:
        """Whether a number may be used."""
        return not self.withdrawn and number.name not in self.rejected


def study_report(ledger: Ledger, job_id: int, path: Path, destination: str) -> StudyReport:
    """Put together what is told.

    Parameters
    ----------
    job_id
        The closing job that made the front page.
    path
        File of the front page.
    destination
        Who is told.

    Raises
    ------
    OSError, pydicom.errors.InvalidDicomError
        It cannot be read.
    """
    header = dcmread(path)
    report = _report(ledger, job_id, header, str(header.SOPInstanceUID))
    sections = _findings(header)
    rejected = rejected_answers(ledger, job_id)
    report = replace(
        report,
        sentences=tuple(sentence for section in sections for sentence in section),
        given_up=_given_up(ledger, report, destination),
        told_as=rejected.told_as,
    )
    return _without_rejected(ledger, job_id, report, rejected, sections) if rejected.packages else report


def _given_up(ledger: Ledger, report: StudyReport, destination: str) -> tuple[ReportedNumber, ...]:
    has = {number.name for number in report.numbers}
    before = numbers_from(told_before(ledger, report.report_uid, destination))
    return tuple({one.name: one for one in before if one.method and one.name not in has}.values())


def _without_rejected(
    ledger: Ledger, job_id: int, report: StudyReport, rejected: RejectedAnswers, sections: Sequence[Sequence[str]]
) -> StudyReport:
    """The report, told as what it is once a radiologist has rejected answers of it."""
    titles = [package_headline(one) for one in rejected.packages]
    why = f"{'; '.join(titles)}: rejected by a radiologist. What was reported of it must not be used."
    kept = [section for section in sections if not section or section[0].partition(":")[0] not in titles]
    of_rejected = {
        str(number["name"])
        for one in package_outcomes(ledger, job_id)
        if one.package in rejected.packages
        for number in one.reported
    }
    return replace(
        report,
        withdrawn=rejected.of_all,
        rejected=frozenset(of_rejected),
        # It speaks of all of them.
        paragraph="",
        sentences=(why, *(() if rejected.of_all else (sentence for section in kept for sentence in section))),
    )


def withdrawn_reports(ledger: Ledger, path: Path) -> tuple[tuple[StudyReport, ...], int]:
    """The reports of the front pages that a rejection note names, as what must not be used any more.

    And how many it names of which the ledger does not know any more what they told: these cannot be withdrawn.

    Parameters
    ----------
    path
        File of the note.

    Raises
    ------
    OSError, pydicom.errors.InvalidDicomError
        It cannot be read.
    """
    header = dcmread(path)
    why = " ".join(str(item.TextValue) for item in header.ContentSequence if item.ValueType == "TEXT")
    named = [
        str(instance.ReferencedSOPInstanceUID)
        for study in header.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
    found = []
    for uid in named:
        job_id = closing_job_of(ledger, uid, str(header.StudyInstanceUID))
        if job_id is not None:
            report = _report(ledger, job_id, header, uid)
            found.append(replace(report, withdrawn=True, told_as="withdrawn", paragraph="", sentences=(why,)))
    return tuple(found), len(named) - len(found)


def patient_of(header: Dataset) -> tuple[str, str]:
    """By what receivers of messages know the patient of an object: the number, and who gave it."""
    return _text(header, "PatientID"), _text(header, "IssuerOfPatientID")


def _report(ledger: Ledger, job_id: int, header: Dataset, report_uid: str) -> StudyReport:
    summary = told_summary(ledger, job_id, report_uid)
    patient_id, issuer = patient_of(header)
    created = f"{_text(header, 'ContentDate')}{_text(header, 'ContentTime')[:6]}"
    return StudyReport(
        patient_id=patient_id,
        issuer_of_patient_id=issuer,
        patient_name=_text(header, "PatientName"),
        birth_date=_text(header, "PatientBirthDate"),
        sex=_text(header, "PatientSex"),
        accession_number=_text(header, "AccessionNumber"),
        study_instance_uid=str(header.StudyInstanceUID),
        study_date=_text(header, "StudyDate"),
        study_time=_text(header, "StudyTime")[:6],
        referring_physician=_text(header, "ReferringPhysicianName"),
        created=f"{created}{_text(header, 'TimezoneOffsetFromUTC')}",
        report_uid=report_uid,
        route=summary.route,
        numbers=tuple(one for one in numbers_from(summary.numbers) if one.method),
        paragraph=summary.paragraph,
        sentences=(),
    )


def code_of(number: ReportedNumber) -> Code:
    """The code of a number: LOINC or SNOMED CT where there is one, this node's own otherwise."""
    try:
        return QUANTITY[Quantity(number.name)]
    except ValueError:
        return Code(number.name, PRIVATE_DESIGNATOR, number.name.replace("_", " "))


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip()


def _findings(header: Dataset) -> list[list[str]]:
    """The sentences of each section of the front page, of one package each."""
    return [
        [str(item.TextValue) for item in section.ContentSequence if item.ValueType == "TEXT"]
        for section in header.ContentSequence
        if section.ValueType == "CONTAINER"
    ]
