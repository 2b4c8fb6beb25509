"""Reads audit messages back: syslog header, schema, and what A.5.3 wants in each."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

SCHEMA = etree.RelaxNG(file=str(Path(__file__).with_name("audit_message.rng")))
LINE = re.compile(rb"<(\d+)>1 (\S+) (\S+) dicom-node (\S+) DICOM\+RFC3881 - (<AuditMessage>.*</AuditMessage>)")


@dataclass(frozen=True)
class ReadMessage:
    """One message of an audit trail."""

    priority: int
    at: str
    process: str
    root: etree._Element

    @property
    def event(self) -> str:
        return str(self.root.find("EventIdentification/EventID").get("csd-code"))

    @property
    def kind(self) -> str:
        return str(self.root.find("EventIdentification/EventTypeCode").get("csd-code"))

    @property
    def action(self) -> str:
        return str(self.root.find("EventIdentification").get("EventActionCode"))

    @property
    def outcome(self) -> int:
        return int(self.root.find("EventIdentification").get("EventOutcomeIndicator"))

    def participants(self, role: str) -> list[dict[str, str]]:
        """Attributes of the participants in a role."""
        return [
            dict(one.attrib)
            for one in self.root.findall("ActiveParticipant")
            if role in [code.get("csd-code") for code in one.findall("RoleIDCode")]
        ]

    def objects(self, id_type: str) -> list[etree._Element]:
        """Participating objects whose identifier is of a kind."""
        return [
            one
            for one in self.root.findall("ParticipantObjectIdentification")
            if one.find("ParticipantObjectIDTypeCode").get("csd-code") == id_type
        ]

    def instances(self) -> dict[str, int]:
        """SOP Class UID to number of instances."""
        return {one.get("UID"): int(one.get("NumberOfInstances")) for one in self.root.iter("SOPClass")}

    @property
    def studies(self) -> list[str]:
        return [one.get("ParticipantObjectID") for one in self.objects("110180")]

    @property
    def patients(self) -> list[str]:
        return [one.get("ParticipantObjectID") for one in self.objects("2")]

    def detail(self, kind: str) -> str:
        """A detail of the first object that has it."""
        (one, *_) = [one for one in self.root.iter("ParticipantObjectDetail") if one.get("type") == kind]
        return base64.b64decode(one.get("value")).decode()


def read_line(line: bytes) -> ReadMessage:
    """Read one syslog message and hold it against the schema."""
    parts = LINE.fullmatch(line)
    assert parts is not None, line
    root = etree.fromstring(parts[5])
    SCHEMA.assertValid(root)
    assert root.find("EventIdentification").get("EventDateTime") == parts[2].decode()
    # One that could be the requestor at most (A.5.2).
    assert sum(one.get("UserIsRequestor") == "true" for one in root.findall("ActiveParticipant")) <= 1
    return ReadMessage(int(parts[1]), parts[2].decode(), parts[4].decode(), root)


def read_trail(file: Path) -> list[ReadMessage]:
    """Every message of an audit file."""
    data = file.read_bytes()
    assert not data or data.endswith(b"\n")
    return [read_line(line) for line in data.splitlines()]
