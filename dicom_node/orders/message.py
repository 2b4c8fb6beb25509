"""What an HL7 v2 message says of orders: ORM^O01 (v2.3 and later), OMG^O19 and OMI^O23 (v2.5), chapter 4.

Read are MSH, ORC, OBR, DG1 and IPC, and of PID the numbers of the patient (PID-2 to PID-4). All other fields and
segments that tell of the patient are dropped before anything is parsed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import hl7

from dicom_node.config import OrderSettings
from dicom_node.errors import OrderRefusedError
from storage.identifiers import NOBODY, Issuer, OrderIdentity, PatientIdentifier
from storage.orders import CancelledOrder, Order

__all__ = ["MessageHeader", "OrderMessage", "read_header", "read_orders"]

_TYPES = {"ORM": "O01", "OMI": "O23", "OMG": "O19"}
_WHOLE = frozenset({"NW", "XO", "XX", "XR", "RO", "PA", "CH"})
"""ORC-1 (table 0119) of an order that is told whole, new or changed."""
_STATUS = frozenset({"NA", "SN", "RE", "SC", "SS", "OK", "CN", "AF", "HD", "OH", "HR", "RL", "OE", "OR"})
"""ORC-1 of what tells how an order stands, or what its numbers are: what it does not repeat still holds."""
_REPLACED = frozenset({"RP", "RQ", "RU"})
"""ORC-1 of what other orders of the message (RO) take the place of."""
_CANCELLED = frozenset({"CA", "OC", "CR", "DC", "OD", "DR"})
"""ORC-1 of what does not hold any more, for whoever cancelled or discontinued it."""
_CANCELLED_STATUS = frozenset({"CA", "DC", "RP"})
"""ORC-5 (table 0038) that says the same."""
_PRIOR = "PR"
"""ORC-1 of an earlier examination, told with the order of the next one."""
_DELETED = "D"
"""DG1-21 (table 0206) of a diagnosis that does not hold any more."""
_CODECS = {
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 15)},
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "GB 18030-2000": "gb18030",
    "BIG-5": "big5",
    "KS X 1001": "euc_kr",
}
"""MSH-18 (table 0211)."""
_UNSTATED = frozenset({"", "ASCII", "UNICODE"})
"""Where most senders write in UTF-8 or ISO 8859-1, whatever they say."""
_READ = ("MSH", "PID", "ORC", "OBR", "DG1", "IPC")
_PATIENT_IDENTIFIERS, _PATIENT_ID, _ALTERNATE_PATIENT_ID = 3, 2, 4
"""Fields of PID. The name is the fifth: none behind these is read."""
_WITH_ISSUER = frozenset({"IPC-1", "OBR-2", "OBR-3", "ORC-2", "ORC-3"})
"""Fields for an accession number that are entity identifiers; the others are text."""
_LONGEST_READ = 65_536
"""Characters of these segments: an order has a few hundred, and parsing costs 10 µs each."""
_LONGEST_ACCESSION, _LONGEST_NUMBER, _LONGEST_CONTROL_ID = 64, 200, 199
_CODED = (0, 1, 3, 4, 8)
"""Of CE and CWE: identifier, text, alternate identifier, alternate text, original text."""
_NULL = '""'
_T = TypeVar("_T")

_MISSING_SEGMENT, _MISSING_FIELD, _DATA_TYPE, _TABLE_VALUE = "100", "101", "102", "103"
_MESSAGE_TYPE, _EVENT, _PROCESSING_ID, _VERSION = "200", "201", "202", "203"


@dataclass(frozen=True, slots=True)
class MessageHeader:
    """Segment MSH, as far as the message is read by it and its acknowledgement repeats it.

    Attributes
    ----------
    separators
        Of fields, components, repetitions, escapes and subcomponents: MSH-1 and MSH-2.
    sender, receiver
        Application and facility: MSH-3 and MSH-4, MSH-5 and MSH-6, as they stand there.
    """

    separators: str = "|^~\\&"
    sender: tuple[str, str] = ("", "")
    receiver: tuple[str, str] = ("", "")
    code: str = ""
    event: str = ""
    control_id: str = ""
    processing_id: str = ""
    version: str = ""
    character_set: str = ""


@dataclass(frozen=True, slots=True)
class OrderMessage:
    """What a message wants done.

    Attributes
    ----------
    digest
        sha256 over sender, control ID and all segments but MSH: the same when a message comes again, and another when
        a sender counts its control IDs from the beginning again.
    changes
        In the order of the message.
    """

    digest: str
    changes: tuple[Order | CancelledOrder, ...]


def read_header(block: bytes) -> MessageHeader | None:
    """Read the header of a message; ``None`` where there is none.

    Parameters
    ----------
    block
        What stands between the marks of MLLP.
    """
    line = re.split("[\r\n]", block.decode("iso8859-1").lstrip(), maxsplit=1)[0]
    separators = line[3:8]
    if not line.startswith("MSH") or not _usable(separators):
        return None
    of_fields = separators[0]
    fields = ["", of_fields, *line.split(of_fields)[1:]]
    # Bytes beyond ASCII are repeated as they are, control characters would break the acknowledgement.
    told = ["".join(sign for sign in one if sign >= " " and sign != "\x7f") for one in fields] + [""] * 20
    code, event, *_ = (*told[9].split(separators[1]), "", "")
    return MessageHeader(
        separators=separators,
        sender=(told[3], told[4]),
        receiver=(told[5], told[6]),
        code=code.strip(),
        event=event.strip(),
        control_id=told[10].strip(),
        processing_id=told[11].split(separators[1])[0].strip(),
        version=told[12].split(separators[1])[0].strip(),
        character_set=told[18].split(separators[2])[0].strip().upper(),
    )


def _usable(separators: str) -> bool:
    punctuation = all(sign.isascii() and sign.isprintable() and not sign.isalnum() for sign in separators)
    return len(separators) == 5 and punctuation and len(set(separators)) == 5 and " " not in separators


def read_orders(header: MessageHeader, block: bytes, settings: OrderSettings) -> OrderMessage:
    """Read what a message says of orders.

    Raises
    ------
    OrderRefusedError
        It is of another kind, or lacks what is needed.
    """
    _check(header, settings)
    text = _text(header, block)
    # A carriage return ends a segment; some senders end it with a line feed instead, or besides.
    lines = (text.replace("\r\n", "\r") if "\r" in text else text.replace("\n", "\r")).split("\r")
    of_fields = header.separators[0]
    wanted = [
        of_fields.join(line.split(of_fields)[: _ALTERNATE_PATIENT_ID + 1]) if line[:3] == "PID" else line
        for line in lines
        if line[:3] in _READ and line[3:4] in ("", of_fields)
    ]
    if sum(map(len, wanted)) > _LONGEST_READ:
        raise OrderRefusedError(f"the orders are longer than {_LONGEST_READ} characters", condition=_DATA_TYPE)
    try:
        message = hl7.parse("\r".join(wanted))
    except (hl7.HL7Exception, ValueError, IndexError) as error:
        raise OrderRefusedError("the message cannot be parsed", condition=_DATA_TYPE) from error
    told = [*header.sender, header.control_id, *(line for line in lines if line[:3] != "MSH")]
    groups = _groups([_fields(segment) for segment in message])
    reading = _Reading(header.separators)
    reading = replace(reading, replaces=any(reading.control(one) == "RO" for one in groups))
    changes: list[Order | CancelledOrder] = []
    before: _Group | None = None
    for group in groups:
        for change in reading.changes(group, settings):
            last = changes[-1] if changes and before is not None and before.orc is group.orc else None
            if isinstance(last, Order) and isinstance(change, Order) and _same(last, change):
                # What one order asks for in several OBR without numbers of their own.
                changes[-1] = _together(last, change)
            else:
                changes.append(change)
        before = group
    return OrderMessage(hashlib.sha256(json.dumps(told).encode()).hexdigest(), tuple(changes))


def _same(one: Order, other: Order) -> bool:
    numbers = [(each.accession_number, each.order_number, each.identity) for each in (one, other)]
    return numbers[0] == numbers[1]


def _together(one: Order, other: Order) -> Order:
    return replace(
        one,
        procedures=_once((*one.procedures, *other.procedures)),
        reasons=_once((*one.reasons, *other.reasons)),
        diagnoses=_once((*one.diagnoses, *other.diagnoses)),
    )


def _check(header: MessageHeader, settings: OrderSettings) -> None:
    if header.code not in _TYPES:
        kinds = ", ".join(f"{code} {event}" for code, event in _TYPES.items())
        raise OrderRefusedError(f"MSH-9 is none of {kinds}", condition=_MESSAGE_TYPE, rejects=True)
    if header.event not in ("", _TYPES[header.code]):
        raise OrderRefusedError("MSH-9 names an event that is not taken", condition=_EVENT, rejects=True)
    if header.processing_id not in ("", settings.processing_id):
        raise OrderRefusedError(
            f"MSH-11 is not {settings.processing_id}, which this node takes", condition=_PROCESSING_ID, rejects=True
        )
    if header.version and not header.version.startswith("2"):
        raise OrderRefusedError("MSH-12 is no version 2", condition=_VERSION, rejects=True)
    if not header.control_id:
        raise OrderRefusedError("MSH-10 is missing", condition=_MISSING_FIELD)
    if len(header.control_id) > _LONGEST_CONTROL_ID:
        raise OrderRefusedError("MSH-10 is too long", condition=_DATA_TYPE)


def _text(header: MessageHeader, block: bytes) -> str:
    if header.character_set in _UNSTATED:
        try:
            return block.decode("utf-8").strip()
        except UnicodeDecodeError:
            return block.decode("iso8859-1").strip()
    codec = _CODECS.get(header.character_set)
    if codec is None:
        raise OrderRefusedError("MSH-18 names a character set that is not read here", condition=_TABLE_VALUE)
    try:
        return block.decode(codec).strip()
    except UnicodeDecodeError as error:
        raise OrderRefusedError("the text is not in the character set of MSH-18", condition=_DATA_TYPE) from error


def _fields(segment: hl7.Segment) -> list[str]:
    """Name and fields of a segment as they stand there, by their numbers in the standard."""
    return [str(one) for one in segment]


@dataclass(slots=True)
class _Group:
    """One order of a message: an ORC, what follows it, and the PID that it follows."""

    orc: list[str]
    pid: list[str]
    obr: list[str] = field(default_factory=list)
    dg1: list[list[str]] = field(default_factory=list)
    ipc: list[list[str]] = field(default_factory=list)


def _groups(segments: Sequence[list[str]]) -> list[_Group]:
    groups: list[_Group] = []
    diagnoses: list[list[str]] = []
    pid: list[str] = []
    # Behind an order, a PID begins what was examined before (OMG^O19, PATIENT_PRIOR): no order of this message.
    earlier = False
    for one in segments:
        name = one[0]
        if name == "PID":
            pid, earlier = one, bool(groups)
        elif name == "ORC":
            earlier = "".join(one[1:2]).strip().upper() == _PRIOR
            if not earlier:
                groups.append(_Group(one, pid))
        elif earlier:
            continue
        elif name == "DG1" and not groups:
            diagnoses.append(one)
        elif name != "MSH" and not groups:
            raise OrderRefusedError(f"{name} comes before any ORC", condition=_MISSING_SEGMENT)
        elif name == "OBR":
            if groups[-1].obr:
                groups.append(_Group(groups[-1].orc, pid))
            groups[-1].obr = one
        elif name == "DG1":
            groups[-1].dg1.append(one)
        elif name == "IPC":
            groups[-1].ipc.append(one)
    if not groups:
        raise OrderRefusedError("there is no ORC", condition=_MISSING_SEGMENT)
    for group in groups:
        # What stands before all orders, as some senders put it, is of all.
        group.dg1 = [*diagnoses, *group.dg1]
    return groups


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads fields by the separators of a message.

    Attributes
    ----------
    replaces
        Whether the message holds orders that take the place of others.
    """

    separators: str
    replaces: bool = False

    def control(self, group: _Group) -> str:
        """Order control code."""
        return self._first(group.orc, 1).upper()

    def changes(self, group: _Group, settings: OrderSettings) -> Iterator[Order | CancelledOrder]:
        """What one order of a message wants done."""
        control = self.control(group)
        replaced = control in _REPLACED and self.replaces
        cancelled = replaced or control in _CANCELLED or self._first(group.orc, 5).upper() in _CANCELLED_STATUS
        if not cancelled and control not in _WHOLE | _STATUS | _REPLACED:
            raise OrderRefusedError(
                "ORC-1 is missing, or says what this node does not understand", condition=_TABLE_VALUE
            )
        accession_numbers = self._accession_numbers(group, settings)
        placer, number_issuer = self._number(group, 2)
        filler, filler_issuer = self._number(group, 3)
        number = placer or filler
        patients = self._patients(group.pid)
        if cancelled:
            if not number and not accession_numbers:
                raise OrderRefusedError("a cancelled order has no number", condition=_MISSING_FIELD)
            for accession, issuer in accession_numbers or [("", NOBODY)]:
                identity = OrderIdentity(patients, issuer, number_issuer if placer else filler_issuer)
                yield CancelledOrder(accession, number, filler, identity)
            return
        if not accession_numbers and control in _STATUS and number:
            # How an order stands of which no accession number is known: nothing that a route asks for.
            return
        if not accession_numbers:
            fields = ", ".join(settings.accession_number)
            raise OrderRefusedError(f"an order has no accession number in {fields}", condition=_MISSING_FIELD)
        held = [one for one in group.dg1 if self._first(one, 21).upper() != _DELETED]
        diagnoses = [value for one in held for value in (*self._coded(one, 3), *self._coded(one, 4))]
        procedures = (*self._coded(group.obr, 4), *self._coded(group.obr, 44))
        reasons = (*self._coded(group.obr, 31), *self._coded(group.obr, 13))
        for accession, issuer in accession_numbers:
            yield Order(
                accession,
                number,
                _once(procedures),
                _once(reasons),
                _once(diagnoses),
                filler,
                OrderIdentity(patients, issuer, number_issuer if placer else filler_issuer),
                whole=control not in _STATUS,
            )

    def _number(self, group: _Group, at: int) -> tuple[str, Issuer]:
        """A number of an order and who gave it, from OBR or else from ORC; empty where neither holds one."""
        for one in (group.obr, group.orc):
            number = self._first(one, at)
            if len(number) > _LONGEST_NUMBER:
                raise OrderRefusedError("an order number is too long", condition=_DATA_TYPE)
            if number:
                return number, self._issuer(self._written(one, at)[0][1:3])
        return "", NOBODY

    def _accession_numbers(self, group: _Group, settings: OrderSettings) -> list[tuple[str, Issuer]]:
        segments = {"ORC": [group.orc], "OBR": [group.obr], "IPC": group.ipc}
        for named in settings.accession_number:
            name, _, number = named.partition("-")
            found: dict[str, Issuer] = {}
            for one in segments[name]:
                accession = self._first(one, int(number))
                if accession and accession not in found:
                    stated = self._written(one, int(number))[0][1:3] if named in _WITH_ISSUER else []
                    found[accession] = self._issuer(stated)
            if any(len(one) > _LONGEST_ACCESSION for one in found):
                raise OrderRefusedError(f"the accession number in {named} is too long", condition=_DATA_TYPE)
            if found:
                return list(found.items())
        return []

    def _patients(self, pid: Sequence[str]) -> tuple[PatientIdentifier, ...]:
        """All numbers of PID-3 with their assigning authorities (CX-4); where it has none, those of PID-2 and PID-4.

        Up to HL7 v2.3 the number that the ordering system gave stood in PID-2, others in PID-4 (since v2.3.1, chapter
        3, kept for such systems alone).
        """
        return self._numbers(pid, _PATIENT_IDENTIFIERS) or _once(
            (*self._numbers(pid, _PATIENT_ID), *self._numbers(pid, _ALTERNATE_PATIENT_ID))
        )

    def _numbers(self, pid: Sequence[str], at: int) -> tuple[PatientIdentifier, ...]:
        found: dict[PatientIdentifier, None] = {}
        for written in self._written(pid, at):
            number = self._plain(written[0])
            if len(number) > _LONGEST_NUMBER:
                raise OrderRefusedError("a number of the patient is too long", condition=_DATA_TYPE)
            authority = written[3].split(self.separators[4]) if len(written) > 3 else []
            if number:
                found[PatientIdentifier(number, self._issuer(authority[:2]))] = None
        return tuple(found)

    def _issuer(self, written: Sequence[str]) -> Issuer:
        """Namespace and universal ID, as they stand in a message."""
        namespace, universal_id = (*(self._plain(one) for one in written), "", "")[:2]
        if max(len(namespace), len(universal_id)) > _LONGEST_NUMBER:
            raise OrderRefusedError("the issuer of a number is too long", condition=_DATA_TYPE)
        return Issuer(namespace, universal_id)

    def _first(self, segment: Sequence[str], number: int) -> str:
        """The first component of the first repetition of a field; empty where it is absent or null."""
        return next(iter(self._repetitions(segment, number)), [""])[0]

    def _coded(self, segment: Sequence[str], number: int) -> list[str]:
        """Codes and texts of a field, each by itself; a text without components is one."""
        return [one[at] for one in self._repetitions(segment, number) for at in _CODED if at < len(one) and one[at]]

    def _repetitions(self, segment: Sequence[str], number: int) -> list[list[str]]:
        return [[self._plain(component) for component in one] for one in self._written(segment, number)]

    def _written(self, segment: Sequence[str], number: int) -> list[list[str]]:
        """Components of each repetition of a field, as they stand there."""
        of_components, of_repetitions = self.separators[1], self.separators[2]
        if number >= len(segment):
            return []
        return [repetition.split(of_components) for repetition in segment[number].split(of_repetitions)]

    def _plain(self, value: str) -> str:
        """Text without escape sequences (chapter 2.7), on one line and without control characters.

        That of the library writes what it cannot read into the log.
        """
        if value.strip() == _NULL:
            return ""
        # Of fields, components, repetitions, the escape character itself, of subcomponents.
        meant = dict(zip("FSRET", self.separators, strict=True))
        first, *parts = value.split(meant["E"])
        text = [first]
        # An escape sequence stands between two escape characters: every other part, while there is one behind.
        for at, part in enumerate(parts):
            text.append(meant.get(part, " ") if at % 2 == 0 and at + 1 < len(parts) else part)
        readable = "".join(sign if sign.isprintable() else " " for sign in "".join(text))
        return " ".join(readable.split())


def _once(values: Sequence[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(values))
