"""One association with a destination: look up, store, ask for commitment, listen for the answer."""

from __future__ import annotations

import contextlib
import datetime as dt
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import structlog
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_node import metrics
from dicom_node.audit.messages import Participant
from dicom_node.audit.sent import Outgoing, sending
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import DeliveryPolicy, DestinationProfile, Peer
from dicom_node.deliver.reports import answer_report, record_report
from dicom_node.deliver.retry import next_attempt
from dicom_node.deliver.turnaround import observe_commitments
from dicom_node.errors import NodeError, PeerUnavailableError
from dicom_node.network.capabilities import UNCOMPRESSED
from dicom_node.network.commitment import (
    INSTANCE,
    REQUEST_COMMITMENT,
    CommitmentReport,
    SopReference,
    action_information,
)
from dicom_node.network.query import find_context, held_instances, offers
from dicom_node.network.sender import DicomFile, ScuSettings, associated, store_contexts, store_file
from storage.deliveries import Delivery, delivery_failed, delivery_sent, extend_deliveries
from storage.ledger import Ledger, record_event, utc_now

__all__ = ["LEASE_S", "RESERVED_CONTEXTS", "Parcel", "Visitor", "series_of"]

_log = structlog.get_logger(__name__)

LEASE_S = 120.0
REPORT_ON_SAME_ASSOCIATION_S = 1.0
"""How long an association stays open for a report on it; after that the peer reports on one of its own."""
RESERVED_CONTEXTS = 2
"""Storage commitment and query."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A delivery and the file it brings."""

    delivery: Delivery
    file: DicomFile


def series_of(deliveries: Sequence[Delivery]) -> list[tuple[str, str]]:
    """Study and series of some deliveries, each series once."""
    return list(dict.fromkeys((delivery.study_instance_uid, delivery.series_instance_uid) for delivery in deliveries))


@dataclass(frozen=True, slots=True)
class Visitor:
    """Visits one destination."""

    ledger: Ledger
    owner: str
    destination: str
    peer: Peer
    profile: DestinationProfile
    policy: DeliveryPolicy
    settings: ScuSettings
    luck: float
    """Jitter of this round, uniform in [0, 1)."""
    trail: AuditTrail

    def visit(self, parcels: Sequence[Parcel]) -> None:
        """Bring parcels over one association; afterwards each is sent, failed or dead in the ledger.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            The ledger does not accept a transition.
        """
        left = {parcel.delivery.id: parcel for parcel in parcels}
        reports: queue.Queue[threading.Thread] = queue.Queue()

        def record(report: CommitmentReport) -> None:
            reports.put(threading.current_thread())
            record_report(self.ledger, self.policy, report)

        contexts = [*store_contexts([parcel.file for parcel in parcels]), find_context()]
        if self.profile.storage_commitment:
            contexts.append(build_context(StorageCommitmentPushModel, list(UNCOMPRESSED)))
        try:
            with associated(
                self.peer, contexts, self.settings, ((evt.EVT_N_EVENT_REPORT, answer_report(record)),)
            ) as association:
                commits = self._commits(association, parcels[0].delivery)
                there = self._already_there(association, parcels) if commits else frozenset[str]()
                outgoing = [_outgoing(one) for one in parcels if one.delivery.sop_instance_uid not in there]
                receiver = Participant(self.peer.ae_title, self.peer.ae_title, self.peer.host)
                with sending(self.trail, receiver, outgoing) as arrived:
                    for stored in self._store(association, left, there):
                        arrived.add(stored.delivery.sop_instance_uid)
                        if not commits:
                            self._sent(left, [stored], None)
                if commits and left:
                    transaction_uid = str(generate_uid(prefix=None))
                    asked = list(left.values())
                    self._sent(left, asked, transaction_uid)
                    if self._ask(association, transaction_uid, asked):
                        _await_answered(reports, min(REPORT_ON_SAME_ASSOCIATION_S, self.profile.commitment_timeout_s))
        except NodeError as error:
            for parcel in left.values():
                self.failed(parcel.delivery, error)

    def failed(self, delivery: Delivery, error: NodeError) -> None:
        """Record a failed attempt: tried again by the policy, or dead when trying again cannot help."""
        now = utc_now()
        retry_at = next_attempt(self.policy, delivery.failed_attempts + 1, now, self.luck) if error.retryable else None
        delivery_failed(self.ledger, delivery.id, str(error), retry_at, now=now)
        metrics.DELIVERIES.labels(self.destination, "failed" if retry_at else "dead").inc()
        _log.warning(
            "delivery failed" if retry_at else "delivery dead",
            destination=self.destination,
            sop_instance_uid=delivery.sop_instance_uid,
            correlation_id=delivery.correlation_id,
            what=error.what,
            attempts=delivery.failed_attempts + 1,
            retry_at=retry_at.isoformat() if retry_at else None,
        )

    def _commits(self, association: Association, delivery: Delivery) -> bool:
        if not self.profile.storage_commitment:
            return False
        if offers(association, StorageCommitmentPushModel):
            return True
        with self.ledger.transaction() as session:
            record_event(
                session,
                "commitment not offered",
                self.destination,
                at=utc_now(),
                correlation_id=delivery.correlation_id,
                remedy="enable storage commitment at the peer, or set storage_commitment: false for this destination",
            )
        _log.warning("destination does not offer storage commitment", destination=self.destination)
        return False

    def _already_there(self, association: Association, parcels: Sequence[Parcel]) -> frozenset[str]:
        # Only what was sent before can be there; its commitment was lost or late.
        before = [parcel.delivery for parcel in parcels if parcel.delivery.transaction_uid is not None]
        return (held_instances(association, series_of(before)) if before else None) or frozenset()

    def _store(self, association: Association, left: dict[int, Parcel], there: frozenset[str]) -> Iterator[Parcel]:
        extend_at = time.monotonic() + LEASE_S / 3
        for parcel in list(left.values()):
            if parcel.delivery.sop_instance_uid in there:
                yield parcel
                continue
            outcome = store_file(association, parcel.file)
            if outcome.error is None:
                if outcome.warning or outcome.transcoded:
                    _log.warning(
                        "delivered with a remark",
                        destination=self.destination,
                        sop_instance_uid=outcome.sop_instance_uid,
                        correlation_id=parcel.delivery.correlation_id,
                        remark=outcome.warning or "sent uncompressed",
                    )
                yield parcel
            elif association.is_established:
                del left[parcel.delivery.id]
                self.failed(parcel.delivery, outcome.error)
            else:
                raise outcome.error
            if time.monotonic() > extend_at:
                extend_deliveries(self.ledger, self.owner, utc_now(), LEASE_S)
                extend_at = time.monotonic() + LEASE_S / 3

    def _sent(self, left: dict[int, Parcel], parcels: Sequence[Parcel], transaction_uid: str | None) -> None:
        now = utc_now()
        deadline = None
        if transaction_uid is not None:
            deadline = now + dt.timedelta(seconds=self.profile.commitment_timeout_s)
        ids = [parcel.delivery.id for parcel in parcels]
        delivery_sent(self.ledger, ids, transaction_uid, deadline, now=now)
        metrics.DELIVERIES.labels(self.destination, "sent").inc(len(ids))
        if transaction_uid is None:
            observe_commitments(self.ledger, at=now, delivery_ids=ids)
        for parcel in parcels:
            del left[parcel.delivery.id]

    def _ask(self, association: Association, transaction_uid: str, parcels: Sequence[Parcel]) -> bool:
        """N-ACTION; a request that fails puts the deliveries back."""
        references = [SopReference(parcel.file.sop_class_uid, parcel.file.sop_instance_uid) for parcel in parcels]
        try:
            response, _ = association.send_n_action(
                action_information(transaction_uid, references),
                REQUEST_COMMITMENT,
                StorageCommitmentPushModel,
                INSTANCE,
            )
            status = response.get("Status")
        except RuntimeError:
            status = None
        if status == 0x0000:
            return True
        answer = "no answer" if status is None else f"status {status:04X}"
        error = PeerUnavailableError(f"did not take the storage commitment request: {answer}", subject=self.destination)
        for parcel in parcels:
            self.failed(parcel.delivery, error)
        return False


def _outgoing(parcel: Parcel) -> Outgoing:
    delivery = parcel.delivery
    return Outgoing(
        delivery.study_instance_uid,
        delivery.sop_class_uid,
        delivery.sop_instance_uid,
        parcel.file.path,
        delivery.correlation_id,
    )


def _await_answered(reports: queue.Queue[threading.Thread], patience_s: float) -> None:
    """Wait for a report and for the answer to it.

    pynetdicom serves the report in a thread of its own; a release before that thread is done would cut off its answer.
    """
    with contextlib.suppress(queue.Empty):
        reports.get(timeout=patience_s).join()
