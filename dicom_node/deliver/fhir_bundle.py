"""A study's numbers as FHIR resources: ImagingStudy, Observation and DiagnosticReport in one transaction.

Built with ``fhir.resources`` (R4B): every element that is used is the same in R4. Each resource is put by its
identifier (conditional update), so that a transaction that is sent again changes nothing, and a later version of a
report takes the place of the earlier one.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.imagingstudy import ImagingStudy
from fhir.resources.R4B.observation import Observation
from pydicom.sr.coding import Code

from dicom_node.config import FhirDestination
from dicom_node.deliver.study_report import StudyReport, code_of
from dicom_node.implementation import SOFTWARE_VERSION
from dicom_node.results.codes import PRIVATE_DESIGNATOR, PRIVATE_SCHEME_UID
from dicom_node.results.numbers import ReportedNumber

__all__ = ["transaction"]

_SYSTEMS = {
    "LN": "http://loinc.org",
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    PRIVATE_DESIGNATOR: f"urn:oid:{PRIVATE_SCHEME_UID}",
}
_DICOM_UID = "urn:dicom:uid"
_OWN = f"urn:oid:{PRIVATE_SCHEME_UID}"
_FLAGS = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
_PRELIMINARY, _ENTERED_IN_ERROR = "preliminary", "entered-in-error"
"""Nobody has verified it."""


def transaction(report: StudyReport, server: FhirDestination) -> Bundle:
    """The bundle that tells a server of a report."""
    study = _study(report, server)
    study_entry = _entry(study, report)
    observations = [_entry(_observation(one, report, server, study_entry["fullUrl"]), report) for one in report.numbers]
    # Those of an earlier version would stay as they were, and under a patient who was corrected since.
    given_up = [_entry(_observation(one, report, server, study_entry["fullUrl"]), report) for one in report.given_up]
    holding = zip(report.numbers, observations, strict=True)
    references = [one["fullUrl"] for number, one in holding if report.withdrawn or report.holds(number)]
    conclusion = _entry(_diagnostic_report(report, server, study_entry["fullUrl"], references), report)
    return Bundle.model_validate({"type": "transaction", "entry": [study_entry, *observations, *given_up, conclusion]})


def _entry(resource: ImagingStudy | Observation | DiagnosticReport, report: StudyReport) -> dict[str, Any]:
    assert resource.identifier is not None
    identifier = resource.identifier[0]
    kind = type(resource).__name__
    name = f"{kind} {identifier.system} {identifier.value} {report.report_uid}"
    return {
        "fullUrl": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}",
        "resource": resource,
        "request": {"method": "PUT", "url": f"{kind}?identifier={identifier.system}|{identifier.value}"},
    }


def _study(report: StudyReport, server: FhirDestination) -> ImagingStudy:
    identifiers = [{"system": _DICOM_UID, "value": f"urn:oid:{report.study_instance_uid}"}]
    if report.accession_number:
        identifiers.append({"system": server.accession_system, "value": report.accession_number})
    return ImagingStudy.model_validate(
        {
            "identifier": identifiers,
            "status": "available",
            "subject": _subject(report, server),
            "modality": [{"system": _SYSTEMS["DCM"], "code": "MR"}],
            **_when("started", report),
        }
    )


def _observation(number: ReportedNumber, report: StudyReport, server: FhirDestination, study: str) -> Observation:
    code = code_of(number)
    coding = [_coding(code)]
    if code.value != number.name:
        coding.append({"system": _OWN, "code": number.name})
    values: dict[str, Any] = {}
    if number.normal_lower is not None and number.normal_upper is not None:
        values["interpretation"] = [{"coding": [{"system": _FLAGS, "code": number.flag}]}]
        values["referenceRange"] = [
            {
                "low": _quantity(number.normal_lower, number.unit),
                "high": _quantity(number.normal_upper, number.unit),
                **({"text": number.normal_source} if number.normal_source else {}),
            }
        ]
    if number.lower is not None and number.upper is not None:
        values["note"] = [{"text": f"95 % interval of the measurement {number.lower:.1f} to {number.upper:.1f}"}]
    if number.method:
        values["method"] = {"text": number.method}
    return Observation.model_validate(
        {
            "identifier": [{"system": _OWN, "value": f"{report.study_instance_uid}/{report.route}/{number.name}"}],
            "status": _PRELIMINARY if number not in report.given_up and report.holds(number) else _ENTERED_IN_ERROR,
            "category": [_category("imaging", "http://terminology.hl7.org/CodeSystem/observation-category")],
            "code": {"coding": coding, "text": code.meaning},
            "subject": _subject(report, server),
            "valueQuantity": _quantity(number.value, number.unit),
            "derivedFrom": [{"reference": study}],
            "device": {"display": f"dicom-node {SOFTWARE_VERSION}, {number.version}".rstrip(", ")},
            **_when("effectiveDateTime", report),
            **values,
        }
    )


def _diagnostic_report(
    report: StudyReport, server: FhirDestination, study: str, observations: list[str]
) -> DiagnosticReport:
    return DiagnosticReport.model_validate(
        {
            "identifier": [
                {"system": _OWN, "value": f"{report.study_instance_uid}/{report.route}"},
                {"system": _DICOM_UID, "value": f"urn:oid:{report.report_uid}"},
            ],
            "status": _ENTERED_IN_ERROR if report.withdrawn else _PRELIMINARY,
            "category": [_category("RAD", "http://terminology.hl7.org/CodeSystem/v2-0074")],
            "code": {"coding": [_coding(Code("18748-4", "LN", "Diagnostic imaging study"))]},
            "subject": _subject(report, server),
            "imagingStudy": [{"reference": study}],
            "result": [{"reference": one} for one in observations] or None,
            "conclusion": report.paragraph or " ".join(report.sentences) or None,
            **_when("effectiveDateTime", report),
        }
    )


def _subject(report: StudyReport, server: FhirDestination) -> dict[str, Any]:
    """A logical reference: whom the server knows under this identifier."""
    system = report.issuer_of_patient_id if ":" in report.issuer_of_patient_id else server.patient_system
    identifier: dict[str, Any] = {"system": system, "value": report.patient_id or "unknown"}
    if report.issuer_of_patient_id and system != report.issuer_of_patient_id:
        identifier["assigner"] = {"display": report.issuer_of_patient_id}
    return {"type": "Patient", "identifier": identifier}


def _coding(code: Code) -> dict[str, str]:
    return {"system": _SYSTEMS[code.scheme_designator], "code": code.value, "display": code.meaning}


def _category(code: str, system: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def _quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": round(value, 2), "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}


def _when(key: str, report: StudyReport) -> dict[str, str]:
    """Date of the study; without a zone FHIR allows no time of day."""
    try:
        return {key: dt.datetime.strptime(report.study_date, "%Y%m%d").date().isoformat()}
    except ValueError:
        return {}
