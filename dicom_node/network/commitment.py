"""Storage Commitment Push Model (PS3.4 annex J): makes and reads the data sets of its requests and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation

from dicom_node.errors import CannotUnderstandError
from dicom_node.network.identity import is_uid
from dicom_node.network.sender import PEER_TROUBLE
from dicom_node.network.sop_classes import StorageCommitmentPushModel

__all__ = [
    "ALL_COMMITTED",
    "CLASS_INSTANCE_CONFLICT",
    "DUPLICATE_TRANSACTION_UID",
    "FAILURE_REASONS",
    "INSTANCE",
    "NO_SUCH_OBJECT_INSTANCE",
    "PROCESSING_FAILURE",
    "REQUEST_COMMITMENT",
    "SOME_FAILED",
    "CommitmentReport",
    "SopReference",
    "action_information",
    "event_information",
    "is_answer",
    "read_action_information",
    "read_event_information",
    "scp_role",
    "send_report",
]

INSTANCE = UID("1.2.840.10008.1.20.1.1")
"""Storage Commitment Push Model SOP Instance, the well-known one (PS3.4 J.3.5)."""
REQUEST_COMMITMENT = 1
"""Action Type ID (PS3.4 J.3.2)."""
ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event Type IDs (PS3.4 J.3.3)."""

PROCESSING_FAILURE, NO_SUCH_OBJECT_INSTANCE = 0x0110, 0x0112
CLASS_INSTANCE_CONFLICT, DUPLICATE_TRANSACTION_UID = 0x0119, 0x0131
FAILURE_REASONS: Mapping[int, str] = {
    PROCESSING_FAILURE: "processing failure",
    NO_SUCH_OBJECT_INSTANCE: "no such object instance",
    CLASS_INSTANCE_CONFLICT: "class / instance conflict",
    0x0122: "referenced SOP class not supported",
    DUPLICATE_TRANSACTION_UID: "duplicate transaction UID",
    0x0213: "resource limitation",
}
"""Failure Reason (0008,1197), PS3.3 C.14.1.1."""


@dataclass(frozen=True, slots=True)
class SopReference:
    """Reference to one object, by its SOP class and instance."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What a storage commitment SCP reports."""

    transaction_uid: str
    committed: frozenset[str]
    """SOP Instance UIDs."""
    failed: Mapping[str, int]
    """SOP Instance UID to Failure Reason."""


def action_information(transaction_uid: str, references: Iterable[SopReference]) -> Dataset:
    """Action Information of the N-ACTION request (PS3.4 table J.3-1)."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [_item(reference) for reference in references]
    return information


def read_action_information(information: Dataset) -> tuple[str, tuple[SopReference, ...]]:
    """Transaction UID and the objects whose commitment is asked for.

    Raises
    ------
    CannotUnderstandError
        An argument is missing.
    """
    references = tuple(_reference(item) for item in information.get("ReferencedSOPSequence") or ())
    if not references:
        raise CannotUnderstandError("the commitment request references no object")
    return _transaction_uid(information), references


def event_information(
    transaction_uid: str, committed: Iterable[SopReference], failed: Mapping[SopReference, int]
) -> Dataset:
    """Event Information of the N-EVENT-REPORT request (PS3.4 table J.3-2)."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    kept = [_item(reference) for reference in committed]
    if kept:
        information.ReferencedSOPSequence = kept
    if failed:
        items = []
        for reference, reason in failed.items():
            item = _item(reference)
            item.FailureReason = reason
            items.append(item)
        information.FailedSOPSequence = items
    return information


def read_event_information(information: Dataset) -> CommitmentReport:
    """Read a report.

    Raises
    ------
    CannotUnderstandError
        An argument is missing.
    """
    committed = frozenset(_reference(item).sop_instance_uid for item in information.get("ReferencedSOPSequence") or ())
    failed = {
        _reference(item).sop_instance_uid: int(item.get("FailureReason") or PROCESSING_FAILURE)
        for item in information.get("FailedSOPSequence") or ()
    }
    return CommitmentReport(_transaction_uid(information), committed - failed.keys(), failed)


def scp_role() -> SCP_SCU_RoleSelectionNegotiation:
    """Role of the SCP that opens an association to report (PS3.4 J.3.3)."""
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = StorageCommitmentPushModel, False, True
    return role


def send_report(association: Association, information: Dataset, event_type: int) -> int | None:
    """Report over an association that this side opened; returns the status, ``None`` when there was no answer."""
    try:
        response, _ = association.send_n_event_report(information, event_type, StorageCommitmentPushModel, INSTANCE)
    except PEER_TROUBLE:
        # The association ended meanwhile, or the peer did not accept this role.
        return None
    return response.get("Status")


def is_answer(status: int | None) -> bool:
    """Whether a status settles a report: the peer took the report, or says that it never will."""
    return status is not None and status not in (0x0110, 0x0213)


def _transaction_uid(information: Dataset) -> str:
    value = str(information.get("TransactionUID") or "")
    if not is_uid(value):
        raise CannotUnderstandError("the storage commitment message has no Transaction UID")
    return value


def _item(reference: SopReference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item


def _reference(item: Dataset) -> SopReference:
    class_uid, instance_uid = (
        str(item.get(keyword) or "") for keyword in ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
    )
    if not is_uid(class_uid) or not is_uid(instance_uid):
        raise CannotUnderstandError("a referenced object has no class or no instance UID")
    return SopReference(class_uid, instance_uid)
