"""The audit trail as the console shows it: the last messages of its file, without what tells of patients."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AuditEntry", "audit_entries"]

LOOKED_AT_BYTES = 8 << 20
"""The end of the file; what is older is for the collector."""
_LINE = re.compile(rb"<\d+>1 \S+ \S+ \S+ (\S+) \S+ - (<AuditMessage>.*</AuditMessage>)")
_STUDY, _PATIENT_ROLE = "110180", "1"
_OUTCOMES = {"0": "success", "4": "minor failure", "8": "serious failure", "12": "major failure"}
_ACTIONS = {"C": "create", "R": "read", "U": "update", "D": "delete", "E": "execute"}


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One message."""

    at: dt.datetime
    process: str
    """Of the node, that wrote it."""
    event: str
    kind: str
    """What of the event, for a log-in or a start; empty otherwise."""
    action: str
    outcome: str
    who: tuple[str, ...]
    """Participants, with their addresses."""
    studies: tuple[str, ...]
    words: str
    """Reasons and descriptions."""


def audit_entries(file: Path | None, *, text: str = "", limit: int = 200) -> tuple[AuditEntry, ...]:
    """The last messages in which a text stands, the newest first; none where there is no trail.

    Raises
    ------
    OSError
        The file is there and cannot be read.
    """
    if file is None or not file.exists():
        return ()
    with file.open("rb") as trail:
        trail.seek(max(0, os.fstat(trail.fileno()).st_size - LOOKED_AT_BYTES))
        lines = trail.read().splitlines()
    wanted, found = text.casefold(), list[AuditEntry]()
    for line in reversed(lines):
        # The first line may be half a one.
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        entry = _entry(match[1].decode("ascii", "replace"), ET.fromstring(match[2]))
        if not wanted or wanted in _text(entry):
            found.append(entry)
            if len(found) == limit:
                break
    return tuple(found)


def _entry(process: str, root: ET.Element) -> AuditEntry:
    event = root.find("EventIdentification")
    assert event is not None
    kind = event.find("EventTypeCode")
    who = []
    for one in root.findall("ActiveParticipant"):
        name, where = one.get("UserID", ""), one.get("NetworkAccessPointID", "")
        who.append(f"{name} ({where})" if where else name)
    described = [event.findtext("EventOutcomeDescription") or "", *_alerts(root)]
    return AuditEntry(
        at=dt.datetime.fromisoformat(event.get("EventDateTime", "")),
        process=process,
        event=_meaning(event.find("EventID")),
        kind="" if kind is None else _meaning(kind),
        action=_ACTIONS.get(event.get("EventActionCode", ""), ""),
        outcome=_OUTCOMES.get(event.get("EventOutcomeIndicator", ""), "unknown"),
        who=tuple(who),
        studies=tuple(
            one.get("ParticipantObjectID", "")
            for one in root.findall("ParticipantObjectIdentification")
            if one.get("ParticipantObjectTypeCodeRole") != _PATIENT_ROLE
            and (code := one.find("ParticipantObjectIDTypeCode")) is not None
            and code.get("csd-code") == _STUDY
        ),
        words="; ".join(one for one in described if one),
    )


def _alerts(root: ET.Element) -> list[str]:
    found = []
    for one in root.iter("ParticipantObjectDetail"):
        if one.get("type") == "Alert Description":
            try:
                found.append(base64.b64decode(one.get("value", ""), validate=True).decode("utf-8", "replace"))
            except binascii.Error:
                continue
    return found


def _meaning(code: ET.Element | None) -> str:
    return "" if code is None else code.get("originalText", "")


def _text(entry: AuditEntry) -> str:
    told = (entry.process, entry.event, entry.kind, entry.action, entry.outcome, entry.words)
    return " ".join((*told, *entry.who, *entry.studies)).casefold()
