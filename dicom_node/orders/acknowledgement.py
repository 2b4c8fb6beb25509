"""Acknowledgements in original mode (HL7 v2 chapter 2.9.2): accepted, in error or rejected, and why."""

from __future__ import annotations

import datetime as dt
import uuid

from dicom_node.errors import OrderRefusedError
from dicom_node.orders.message import MessageHeader

__all__ = ["acknowledgement"]

_CONDITIONS = {
    "100": "Segment sequence error",
    "101": "Required field missing",
    "102": "Data type error",
    "103": "Table value not found",
    "200": "Unsupported message type",
    "201": "Unsupported event code",
    "202": "Unsupported processing id",
    "203": "Unsupported version id",
    "207": "Application internal error",
}
"""Table 0357."""
_NEWEST = "2.5.1"


def acknowledgement(header: MessageHeader | None, refusal: OrderRefusedError | None, at: dt.datetime) -> bytes:
    """Answer a message, in its own separators; what is wrong is told in MSA-3 and ERR-8.

    Parameters
    ----------
    header
        Of the message; ``None`` where it has none, which then is answered without a control ID.
    refusal
        Why it was not taken; ``None`` where it was.
    at
        Aware (MSH-7).
    """
    of = header or MessageHeader()
    first, second = of.separators[0], of.separators[1]
    event = (of.event,) if of.event else ()
    code = "AA" if refusal is None else "AR" if refusal.rejects else "AE"
    words = "" if refusal is None else "".join(sign for sign in refusal.what if sign not in of.separators)
    segments = [
        [
            *("MSH", of.separators[1:], *of.receiver, *of.sender, f"{at:%Y%m%d%H%M%S%z}", ""),
            *(second.join(("ACK", *event, "ACK") if event else ("ACK",)), uuid.uuid4().hex[:20].upper()),
            *(of.processing_id or "P", of.version or _NEWEST),
        ],
        ["MSA", code, of.control_id, words] if words else ["MSA", code, of.control_id],
    ]
    if refusal is not None:
        condition = second.join((refusal.condition, _CONDITIONS[refusal.condition], "HL70357"))
        segments.append(["ERR", "", "", condition, "E", "", "", "", words])
    return "".join(f"{first.join(one)}\r" for one in segments).encode("iso8859-1")
