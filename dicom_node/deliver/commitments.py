"""Reports of storage commitment to peers that asked for it, on associations that this node opens (PS3.4 J.3.3).

The receiver reports on the association of the request where it can; what is left is reported here, by the one retry
policy, until the peer answers.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from dicom_node.config import Configuration, Peer, PeerPermission
from dicom_node.deliver.lease import RoundLease
from dicom_node.deliver.retry import next_attempt, next_try
from dicom_node.errors import DeliveryRefusedError, NodeError, PeerFailedError, PeerUnavailableError, classify
from dicom_node.network.capabilities import UNCOMPRESSED
from dicom_node.network.commitment import is_answer, scp_role, send_report
from dicom_node.network.commitment_scp import report_due
from dicom_node.network.sender import ScuSettings, associated
from dicom_node.network.sop_classes import StorageCommitmentPushModel
from storage.commitments import (
    CommitmentTransaction,
    claim_commitments,
    commitment_reported_to,
    commitment_unreported,
    due_commitments,
    extend_commitments,
)
from storage.files import InstanceFiles
from storage.ledger import Ledger, utc_now

__all__ = ["CommitmentReporter"]

_log = structlog.get_logger(__name__)

MOST_PER_ASSOCIATION = 100
LEASE_S = 300.0
"""After it another deliverer reports what one that died had taken; one that is at work prolongs it."""


class _Claim:
    """Requests that one round has claimed, and until when nobody else reports them; for use from several threads."""

    def __init__(self, ledger: Ledger, due: Sequence[CommitmentTransaction]) -> None:
        self._ledger, self._lock = ledger, threading.Lock()
        self._ids, self._until = frozenset(one.id for one in due), due[0].due_at

    def extend(self) -> frozenset[int]:
        """Prolong the lease; returns which of the requests are still held."""
        with self._lock:
            until = utc_now() + dt.timedelta(seconds=LEASE_S)
            self._ids = extend_commitments(self._ledger, self._ids, held_until=self._until, until=until)
            self._until = until
            return self._ids


@dataclass(frozen=True, slots=True)
class CommitmentReporter:
    """Reports what is due; one at a time for each peer."""

    configuration: Configuration
    ledger: Ledger
    files: InstanceFiles

    def peers_with_work(self) -> tuple[str, ...]:
        """AE titles of the peers that wait for a report."""
        return tuple(sorted({one.calling_ae_title for one in due_commitments(self.ledger, utc_now())}))

    def report_once(self, ae_title: str) -> int:
        """Report what is due to one peer over one association; returns how many requests that were.

        Never raises: what goes wrong is in the ledger, or in the log when the ledger is what is wrong.
        """
        try:
            due = claim_commitments(self.ledger, ae_title, utc_now(), limit=MOST_PER_ASSOCIATION, lease_s=LEASE_S)
            if due:
                self._report(ae_title, due)
            return len(due)
        except Exception as error:  # noqa: BLE001 - the thread of a peer must outlive any failure
            _log.error("commitment round failed", peer=ae_title, what=classify(error).what)
            return 0

    def _report(self, ae_title: str, due: Sequence[CommitmentTransaction]) -> None:
        left, claim = list(due), _Claim(self.ledger, due)
        jitter = random.random()
        with RoundLease(claim.extend, self.configuration.delivery.response_timeout_s, LEASE_S) as lease:
            try:
                context = build_context(StorageCommitmentPushModel, list(UNCOMPRESSED))
                settings = ScuSettings.of(self.configuration)
                with associated(self._peer(ae_title), [context], settings, negotiation=(scp_role(),)) as association:
                    while left:
                        lease.on_its_way()
                        self._report_one(association, left[0], claim)
                        left.pop(0)
            except NodeError as error:
                # What somebody else has claimed since is theirs to report, and to record.
                held = claim.extend()
                for transaction in left:
                    if transaction.id in held:
                        self._failed(transaction, error, jitter)

    def _report_one(self, association: Association, transaction: CommitmentTransaction, claim: _Claim) -> None:
        report = report_due(self.ledger, self.files, transaction, now=utc_now())
        if transaction.id not in claim.extend():
            return
        status = send_report(association, report.information, report.event_type)
        if not is_answer(status):
            answer = "no answer" if status is None else f"status {status:04X}"
            raise PeerFailedError(f"did not take the commitment report: {answer}", subject=transaction.calling_ae_title)
        assert status is not None
        commitment_reported_to(
            self.ledger,
            transaction.id,
            committed=report.committed,
            failed=report.failed,
            status=status,
            now=utc_now(),
        )

    def _peer(self, ae_title: str) -> Peer:
        peers = [
            peer
            for peer in self.configuration.peers.values()
            if peer.ae_title == ae_title and peer.host and peer.port and PeerPermission.SEND in peer.may
        ]
        if not peers:
            raise DeliveryRefusedError(
                "asked for storage commitment, but has no host and port to report to",
                subject=ae_title,
                remedy="complete it in section peers, then let it ask again",
            )
        return peers[0]

    def _failed(self, transaction: CommitmentTransaction, error: NodeError, jitter: float) -> None:
        now, attempts = utc_now(), transaction.failed_attempts + 1
        policy = self.configuration.delivery
        retry_at = None
        if isinstance(error, PeerUnavailableError) and not isinstance(error, PeerFailedError):
            # Waits as long as what it reports is kept.
            kept = dt.timedelta(days=self.configuration.storage.retention_days)
            if now < transaction.requested_at + kept:
                retry_at = next_try(policy, attempts, now, jitter)
        elif error.retryable:
            retry_at = next_attempt(policy, attempts, now, jitter)
        commitment_unreported(self.ledger, transaction.id, str(error), retry_at, now=now)
        _log.warning(
            "commitment not reported" if retry_at else "commitment report dead",
            peer=transaction.calling_ae_title,
            transaction_uid=transaction.transaction_uid,
            what=error.what,
            attempts=attempts,
        )
