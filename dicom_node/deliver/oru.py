"""Unsolicited observation messages, HL7 v2.5.1 chapter 7: one ORU^R01 for each front page."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator

from pydicom.sr.coding import Code

from dicom_node.config import Hl7Destination
from dicom_node.deliver.study_report import StudyReport, code_of
from dicom_node.results.codes import PRIVATE_DESIGNATOR
from dicom_node.results.numbers import ReportedNumber
from dicom_node.results.uids import derive_uid

__all__ = ["control_id", "observation_message"]

_REPORT = Code("18748-4", "LN", "Diagnostic imaging study")
_FINDINGS = Code("59776-5", "LN", "Procedure findings")
_STUDY_UID = Code("113014", "DCM", "DICOM Study")
_CONTROL_CHARACTERS = (chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)))
"""Among them the ends of segments and, for some receivers, of messages (MLLP)."""
_ESCAPES = str.maketrans(
    {
        **{sign: f"\\X{sign.encode().hex().upper()}\\" for sign in _CONTROL_CHARACTERS},
        **{"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"},
    }
)
_PRELIMINARY = "P"
"""OBR-25 and OBX-11: nobody has verified it."""
_NO_RESULT, _WRONG = "X", "W"
"""Of what is withdrawn: OBR-25, there is no result any more (table 0123), and OBX-11, it was wrong (table 0085)."""


def control_id(report: StudyReport) -> str:
    """MSH-10: the same however often the message is sent, so that a receiver knows one that comes again."""
    told = f"{report.report_uid} {report.told_as}".rstrip()
    return hashlib.sha256(told.encode()).hexdigest()[:20].upper()


def filler_number(report: StudyReport) -> str:
    """OBR-3: by it a receiver knows which report a message corrects or withdraws.

    One number for all versions of what one route says of a study of one patient. Under the accession number, which is
    the order's and stands in OBR-18, the report of a second route would replace that of the first; and the withdrawal
    of a report that went to a wrong patient would take back the one of the right patient, whichever comes first.
    """
    return derive_uid(
        "HL7 report", report.study_instance_uid, report.route, report.patient_id, report.issuer_of_patient_id
    )


def observation_message(report: StudyReport, receiver: Hl7Destination, at: dt.datetime) -> str:
    """Put a report into segments, each ended by a carriage return.

    Parameters
    ----------
    at
        When it is sent, aware (MSH-7).
    """
    accession = _escaped(report.accession_number)
    header = [
        "MSH", "^~\\&", receiver.sending_application, receiver.sending_facility, receiver.receiving_application,
        receiver.receiving_facility, f"{at:%Y%m%d%H%M%S%z}", "", "ORU^R01^ORU_R01", control_id(report),
        receiver.processing_id, "2.5.1", "", "", "", "", "", "UNICODE UTF-8",
    ]  # fmt: skip
    patient = [
        "PID", "1", "", _identifier(report), "", _name(report.patient_name), "", _escaped(report.birth_date),
        report.sex if report.sex in ("M", "F", "O") else "U",
    ]  # fmt: skip
    studied = _escaped(f"{report.study_date}{report.study_time}")
    request = _fields(
        "OBR",
        {
            1: "1",
            3: f"{filler_number(report)}^DICOMNODE",
            4: _coded(_REPORT),
            7: studied,
            16: _physician(report.referring_physician),
            18: accession,
            22: _escaped(report.created),
            24: "RAD",
            25: _NO_RESULT if report.withdrawn else _PRELIMINARY,
        },
    )
    lines = ["|".join(header), "|".join(patient), "PV1|1|U", request]
    for number, fields in enumerate(_observations(report, studied), start=1):
        lines.append(_fields("OBX", {1: str(number), **fields}))
    return "".join(f"{line}\r" for line in lines)


def _observations(report: StudyReport, studied: str) -> Iterator[dict[int, str]]:
    common = {11: _WRONG if report.withdrawn else _PRELIMINARY, 14: studied}
    yield {2: "HD", 3: _coded(_STUDY_UID), 5: f"^{_escaped(report.study_instance_uid)}^ISO", **common}
    text = report.paragraph or " ".join(report.sentences)
    yield {2: "TX", 3: _coded(_FINDINGS), 5: _escaped(text), **common}
    for number in report.numbers:
        common[11] = _PRELIMINARY if report.holds(number) else _WRONG
        yield {**_observed(number), **common}
        if number.lower is not None and number.upper is not None:
            # Of the same observation, in a sub-identifier of its own (OBX-4): many receivers drop comments (NTE).
            yield {
                2: "ST",
                3: _coded(code_of(number), f"{number.name}_interval"),
                4: "2",
                5: _escaped(f"95 % interval {number.lower:.1f} to {number.upper:.1f}"),
                6: _unit(number.unit),
                **common,
            }


def _observed(number: ReportedNumber) -> dict[int, str]:
    low, high = number.normal_lower, number.normal_upper
    fields = {
        2: "NM",
        3: _coded(code_of(number), number.name),
        4: "1",
        5: f"{number.value:.1f}",
        6: _unit(number.unit),
        17: f"^{_escaped(number.method)}" if number.method else "",
    }
    if low is not None and high is not None:
        fields |= {7: f"{low:.1f}-{high:.1f}", 8: number.flag}
    return fields


def _fields(segment: str, values: dict[int, str]) -> str:
    return "|".join([segment, *(values.get(number, "") for number in range(1, max(values) + 1))])


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def _coded(code: Code, name: str = "") -> str:
    """CWE: the code, and as the alternate one the name of the number in ``results.json``."""
    said = f"{code.value}^{_escaped(code.meaning)}^{code.scheme_designator}"
    return f"{said}^{name}^{name}^{PRIVATE_DESIGNATOR}" if name else said


def _unit(unit: str) -> str:
    return f"{unit}^{unit}^UCUM"


def _identifier(report: StudyReport) -> str:
    """CX."""
    return f"{_escaped(report.patient_id)}^^^{_escaped(report.issuer_of_patient_id)}^MR"


def _name(value: str) -> str:
    """XPN from a person name of DICOM (PS3.5 6.2.1): the first group; prefix and suffix change places."""
    family, given, middle, prefix, suffix = _components(value)
    return "^".join((family, given, middle, suffix, prefix)).rstrip("^")


def _physician(value: str) -> str:
    """XCN without an identifier."""
    name = _name(value)
    return f"^{name}" if name else ""


def _components(value: str) -> list[str]:
    parts = [_escaped(part.strip()) for part in value.split("=")[0].split("^")]
    return [*parts, "", "", "", "", ""][:5]
