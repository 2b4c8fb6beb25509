"""Messages about orders, as information systems send them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["cancelled", "infarct_order", "order_message"]

PATIENT = "PID|1||P1^^^HOSPITAL^MR||Müller^Änne||19500101|F"


def order_message(*segments: str, kind: str = "OMI^O23^OMI_O23", control_id: str = "1", header: str = "") -> str:
    """A message that names a patient, with these segments."""
    first = header or f"MSH|^~\\&|RIS|WARD|DICOMNODE|MR|20260301113000||{kind}|{control_id}|P|2.5.1||||||UNICODE UTF-8"
    return "".join(f"{one}\r" for one in (first, PATIENT, "PV1|1|I", *segments))


def infarct_order(
    accession: str = "A1",
    *,
    control_id: str = "1",
    control: str = "NW",
    number: str = "4711",
    diagnosis: str = "I21.0^Acute transmural infarct of anterior wall^I10",
    reasons: Sequence[str] = ("STEMI, day 4",),
) -> str:
    """OMI^O23 for an examination after an infarct."""
    return order_message(
        f"ORC|{control}|{number}^RIS",
        f"OBR|1|{number}^RIS||MRHEART^MR heart^L|||||||||{'~'.join(reasons)}||||||||||||||||||^Chest pain",
        f"DG1|1||{diagnosis}",
        f"IPC|{accession}|RP1|1.2.3.4",
        control_id=control_id,
    )


def cancelled(number: str = "4711", *, control_id: str = "2", control: str = "CA") -> str:
    """The same order does not hold any more."""
    return order_message(f"ORC|{control}|{number}^RIS", control_id=control_id)
