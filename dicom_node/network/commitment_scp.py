"""Storage commitment as SCP (PS3.4 annex J): what this node keeps for peers that ask.

The request is taken into the ledger and answered at once. The report follows on the same association when that stays
open and idle; else :mod:`dicom_node.deliver.commitments` brings it on an association of its own, until it is answered.
Verdicts are made when a report leaves, from the ledger and the disk: a report never says more than is true at that
moment. What is reported as committed is kept for ``storage.retention_days`` from then on.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.presentation import PresentationContext

from dicom_node.config import PeerPermission
from dicom_node.errors import NodeError, classify
from dicom_node.network.commitment import (
    ALL_COMMITTED,
    CLASS_INSTANCE_CONFLICT,
    DUPLICATE_TRANSACTION_UID,
    INSTANCE,
    NO_SUCH_OBJECT_INSTANCE,
    PROCESSING_FAILURE,
    REQUEST_COMMITMENT,
    SOME_FAILED,
    SopReference,
    event_information,
    is_answer,
    read_action_information,
)
from dicom_node.network.services import Caller, await_idle, decoded, encoded, exchange
from dicom_node.network.sop_classes import StorageCommitmentPushModel
from dicom_node.network.typed import context_id
from storage.commitments import (
    CommitmentTransaction,
    commitment_reported_to,
    commitment_transaction,
    record_commitment_request,
    report_elsewhere,
    take_responsibility,
)
from storage.files import InstanceFiles
from storage.holdings import HeldInstance
from storage.ledger import Ledger, utc_now

__all__ = ["CommitmentReportDue", "CommitmentService", "report_due"]

_log = structlog.get_logger(__name__)

_SUCCESS, _NO_SUCH_INSTANCE, _INVALID_ARGUMENT, _NO_SUCH_ACTION = 0x0000, 0x0112, 0x0115, 0x0123
_NOT_AUTHORISED, _UNRECOGNISED_OPERATION, _RESOURCE_LIMITATION = 0x0124, 0x0211, 0x0213

QUIET_S = 0.1
"""An association that is silent for this long after the answer waits for its report."""
PATIENCE_S = 5.0
"""For that silence, and for the answer to the report."""
HANDED_OVER = dt.timedelta(seconds=3 * PATIENCE_S)
"""Until then the receiver reports on the association of the request; after that the deliverer does, come what may."""


@dataclass(frozen=True, slots=True)
class CommitmentReportDue:
    """An N-EVENT-REPORT request to be sent."""

    information: Dataset
    event_type: int
    committed: int
    failed: int


def report_due(
    ledger: Ledger, files: InstanceFiles, transaction: CommitmentTransaction, *, now: dt.datetime
) -> CommitmentReportDue:
    """Judge the objects of a request as they are now.

    Raises
    ------
    sqlalchemy.exc.SQLAlchemyError
        The ledger cannot be read.
    """
    references = [SopReference(*pair) for pair in transaction.referenced]
    if transaction.reuses_transaction_uid:
        failed = dict.fromkeys(references, DUPLICATE_TRANSACTION_UID)
    else:
        held = take_responsibility(ledger, [reference.sop_instance_uid for reference in references], now=now)
        verdicts = {reference: _failure(reference, held, files) for reference in references}
        failed = {reference: reason for reference, reason in verdicts.items() if reason is not None}
    committed = [reference for reference in references if reference not in failed]
    return CommitmentReportDue(
        event_information(transaction.transaction_uid, committed, failed),
        SOME_FAILED if failed else ALL_COMMITTED,
        len(committed),
        len(failed),
    )


def _failure(reference: SopReference, held: Mapping[str, HeldInstance], files: InstanceFiles) -> int | None:
    """Failure Reason, or ``None`` when the object is recorded, kept, and what it is said to be."""
    instance = held.get(reference.sop_instance_uid)
    if instance is None:
        return NO_SUCH_OBJECT_INSTANCE
    if instance.sop_class_uid != reference.sop_class_uid:
        return CLASS_INSTANCE_CONFLICT
    try:
        # Another host has it on its disk, as its row says, until it is uploaded.
        elsewhere = instance.held_by not in (None, files.held_by)
        there = elsewhere or files.size_of(instance.path) == instance.size
    except OSError:
        there = False
    return None if there else PROCESSING_FAILURE


@dataclass(frozen=True, slots=True)
class CommitmentService:
    """Serves N-ACTION requests of the Storage Commitment Push Model on one association."""

    ledger: Ledger
    files: InstanceFiles
    caller: Caller
    offered: bool
    """See ``node.commitment``."""

    def serve(self, association: Association, request: N_ACTION, context: PresentationContext) -> None:
        """Answer the request, then report on the same association if the peer waits for it."""
        status, transaction_id = self._take(request, context)
        response = N_ACTION()
        response.MessageIDBeingRespondedTo = request.MessageID
        response.AffectedSOPClassUID = request.RequestedSOPClassUID
        response.AffectedSOPInstanceUID = request.RequestedSOPInstanceUID
        response.ActionTypeID = request.ActionTypeID
        response.Status = status
        association.dimse.send_msg(response, context_id(context))
        if transaction_id is not None:
            self._report(association, transaction_id, context)

    def _take(self, request: N_ACTION, context: PresentationContext) -> tuple[int, int | None]:
        """Status of the response, and the id of the request in the ledger."""
        if context.abstract_syntax != StorageCommitmentPushModel:
            return _UNRECOGNISED_OPERATION, None
        if not self.offered or PeerPermission.SEND not in self.caller.permissions:
            return _NOT_AUTHORISED, None
        if request.RequestedSOPInstanceUID != INSTANCE:
            return _NO_SUCH_INSTANCE, None
        if request.ActionTypeID != REQUEST_COMMITMENT:
            return _NO_SUCH_ACTION, None
        try:
            transaction_uid, references = read_action_information(decoded(request.ActionInformation, context))
        except Exception as error:  # noqa: BLE001 - whatever pydicom makes of a broken data set
            what = error.what if isinstance(error, NodeError) else "its data set cannot be read"
            _log.warning("commitment request refused", what=what, calling_ae_title=self.caller.ae_title)
            return _INVALID_ARGUMENT, None
        now = utc_now()
        try:
            transaction_id = record_commitment_request(
                self.ledger,
                calling_ae_title=self.caller.ae_title,
                transaction_uid=transaction_uid,
                referenced=[(reference.sop_class_uid, reference.sop_instance_uid) for reference in references],
                correlation_id=self.caller.correlation_id(),
                due_at=now + HANDED_OVER,
                now=now,
            )
        except Exception as error:  # noqa: BLE001 - a peer must get an answer whatever happens
            _log.warning("commitment request not recorded", what=classify(error).what)
            return _RESOURCE_LIMITATION, None
        _log.info(
            "commitment asked",
            transaction_uid=transaction_uid,
            objects=len(references),
            calling_ae_title=self.caller.ae_title,
        )
        return _SUCCESS, transaction_id

    def _report(self, association: Association, transaction_id: int, context: PresentationContext) -> None:
        try:
            if await_idle(association, QUIET_S, PATIENCE_S):
                transaction = commitment_transaction(self.ledger, transaction_id)
                due = report_due(self.ledger, self.files, transaction, now=utc_now())
                response = exchange(association, _request(due, context), context_id(context), PATIENCE_S)
                if response is not None and is_answer(response.Status):
                    commitment_reported_to(
                        self.ledger,
                        transaction_id,
                        committed=due.committed,
                        failed=due.failed,
                        status=response.Status,
                        now=utc_now(),
                    )
                    return
            report_elsewhere(self.ledger, transaction_id, now=utc_now())
        except Exception as error:  # noqa: BLE001 - the ledger may be down; the deliverer reports when it is back
            _log.warning("commitment not reported yet", what=classify(error).what)


def _request(due: CommitmentReportDue, context: PresentationContext) -> Any:
    request = N_EVENT_REPORT()
    request.MessageID = 1
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = StorageCommitmentPushModel, INSTANCE
    request.EventTypeID = due.event_type
    request.EventInformation = encoded(due.information, context)
    return request
