"""One association with a destination: look up, store, ask for commitment, listen for the answer."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from dicom_node.audit.messages import Participant
from dicom_node.config import Peer
from dicom_node.deliver.lease import RoundLease
from dicom_node.deliver.reports import answer_report, record_report
from dicom_node.deliver.round import DeliveryItem, Round
from dicom_node.errors import DeliveryRefusedError, NodeError, PeerFailedError, PeerUnavailableError
from dicom_node.network.capabilities import UNCOMPRESSED
from dicom_node.network.commitment import (
    INSTANCE,
    REQUEST_COMMITMENT,
    CommitmentReport,
    SopReference,
    action_information,
)
from dicom_node.network.query import find_context, held_instances, offers
from dicom_node.network.sender import PEER_TROUBLE, ScuSettings, associated, batches, store_contexts, store_file
from dicom_node.network.sop_classes import StorageCommitmentPushModel
from storage.deliveries import Delivery

__all__ = ["DimseDestinationClient"]

REPORT_ON_SAME_ASSOCIATION_S = 1.0
"""How long an association stays open for a report on it; after that the peer reports on one of its own."""
RESERVED_CONTEXTS = 2
"""Storage commitment and query."""


@dataclass(frozen=True, slots=True)
class DimseDestinationClient:
    """Sends to a destination over associations (C-STORE)."""

    round: Round
    peer: Peer
    settings: ScuSettings
    found_by: str = "C-FIND"

    def deliver(self, items: Sequence[DeliveryItem], lease: RoundLease) -> None:
        """Send over as few associations as can be, see :class:`~dicom_node.deliver.round.DestinationClient`."""
        by_file = {item.file: item for item in items}
        for part in batches(list(by_file), reserved_contexts=RESERVED_CONTEXTS):
            self._exchange([by_file[file] for file in part], lease)

    def held(self, deliveries: Collection[Delivery]) -> frozenset[str]:
        """Ask by C-FIND, see :class:`~dicom_node.deliver.round.DestinationClient`."""
        with associated(self.peer, [find_context()], self.settings) as association:
            held = held_instances(association, _series_of(deliveries))
        if held is None:
            raise DeliveryRefusedError("does not offer queries, or fails them", subject=self.round.destination)
        return held

    def _exchange(self, items: Sequence[DeliveryItem], lease: RoundLease) -> None:
        lease.on_its_way()
        left = {item.delivery.id: item for item in items}
        reports: queue.Queue[threading.Thread] = queue.Queue()

        def record(report: CommitmentReport, _requestor: str) -> None:
            reports.put(threading.current_thread())
            record_report(self.round.ledger, self.round.policy, report, frozenset({self.round.destination}))

        contexts = [*store_contexts([item.file for item in items]), find_context()]
        if self.round.profile.storage_commitment:
            contexts.append(build_context(StorageCommitmentPushModel, list(UNCOMPRESSED)))
        try:
            with associated(
                self.peer, contexts, self.settings, ((evt.EVT_N_EVENT_REPORT, answer_report(record)),)
            ) as association:
                commits = self._commits(association, items[0].delivery)
                there = self._already_there(association, items) if commits else frozenset[str]()
                receiver = Participant(self.peer.ae_title, self.peer.ae_title, self.peer.host)
                missing = [item for item in items if item.delivery.sop_instance_uid not in there]
                with self.round.sending(receiver, missing) as arrived:
                    for stored in self._store(association, left, there, lease):
                        arrived.add(stored.delivery.sop_instance_uid)
                        if not commits:
                            self._sent(left, [stored], None)
                lease.on_its_way()
                if commits and left:
                    transaction_uid = str(generate_uid(prefix=None))
                    asked = list(left.values())
                    self._sent(left, asked, transaction_uid)
                    if self._ask(association, transaction_uid, asked):
                        _await_answered(
                            reports, min(REPORT_ON_SAME_ASSOCIATION_S, self.round.profile.commitment_timeout_s)
                        )
        except PeerUnavailableError as error:
            # Of what was not yet offered it says nothing.
            self.round.unreachable([item.delivery for item in left.values()], error)
        except NodeError as error:
            for item in left.values():
                self.round.failed(item.delivery, error)

    def _commits(self, association: Association, delivery: Delivery) -> bool:
        if not self.round.profile.storage_commitment:
            return False
        if offers(association, StorageCommitmentPushModel):
            return True
        remedy = "enable storage commitment at the peer, or set storage_commitment: false for this destination"
        self.round.commitment_not_offered(delivery, remedy)
        return False

    def _already_there(self, association: Association, items: Sequence[DeliveryItem]) -> frozenset[str]:
        # Only what was sent before can be there; its commitment was lost or late.
        before = [item.delivery for item in items if item.delivery.transaction_uid is not None]
        return (held_instances(association, _series_of(before)) if before else None) or frozenset()

    def _store(
        self, association: Association, left: dict[int, DeliveryItem], there: frozenset[str], lease: RoundLease
    ) -> Iterator[DeliveryItem]:
        for item in list(left.values()):
            if item.delivery.sop_instance_uid in there:
                # It answered the query: an outage is over also where nothing is left to store.
                self.round.reached()
                yield item
                continue
            lease.on_its_way(item.file.size)
            outcome = store_file(association, item.file)
            if outcome.status is not None:
                self.round.reached()
            if outcome.error is None:
                if outcome.warning or outcome.transcoded:
                    self.round.remark(item.delivery, outcome.warning or "sent uncompressed")
                yield item
            else:
                # Also where the association broke off over it: an object that a peer cannot take must not come first,
                # and stop all others, for ever.
                del left[item.delivery.id]
                self.round.failed(item.delivery, outcome.error)
                if not association.is_established:
                    raise PeerUnavailableError("the association broke off", subject=self.round.destination)

    def _sent(self, left: dict[int, DeliveryItem], items: Sequence[DeliveryItem], transaction_uid: str | None) -> None:
        self.round.sent([item.delivery for item in items], transaction_uid)
        for item in items:
            del left[item.delivery.id]

    def _ask(self, association: Association, transaction_uid: str, items: Sequence[DeliveryItem]) -> bool:
        """N-ACTION; a request that fails puts the deliveries back."""
        references = [SopReference(item.file.sop_class_uid, item.file.sop_instance_uid) for item in items]
        try:
            response, _ = association.send_n_action(
                action_information(transaction_uid, references),
                REQUEST_COMMITMENT,
                StorageCommitmentPushModel,
                INSTANCE,
            )
            status = response.get("Status")
        except PEER_TROUBLE:
            status = None
        if status == 0x0000:
            return True
        answer = "no answer" if status is None else f"status {status:04X}"
        error = PeerFailedError(
            f"did not take the storage commitment request: {answer}", subject=self.round.destination
        )
        for item in items:
            self.round.failed(item.delivery, error)
        return False


def _series_of(deliveries: Collection[Delivery]) -> list[tuple[str, str]]:
    """Study and series of some deliveries, each series once."""
    return list(dict.fromkeys((delivery.study_instance_uid, delivery.series_instance_uid) for delivery in deliveries))


def _await_answered(reports: queue.Queue[threading.Thread], patience_s: float) -> None:
    """Wait for a report and for the answer to it.

    pynetdicom serves the report in a thread of its own; a release before that thread is done would cut off its answer.
    """
    with contextlib.suppress(queue.Empty):
        reports.get(timeout=patience_s).join()
