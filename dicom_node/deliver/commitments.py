"""Reports of storage commitment to peers that asked for it, on associations that this node opens (PS3.4 J.3.3).

The receiver reports on the association of the request where it can; what is left is reported here, by the one retry
policy, until the peer answers.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from pynetdicom.presentation import build_context

from dicom_node.config import Configuration, Peer, PeerPermission
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
)
from storage.files import InstanceFiles
from storage.ledger import Ledger, utc_now

__all__ = ["CommitmentReporter"]

_log = structlog.get_logger(__name__)

MOST_PER_ASSOCIATION = 100
LEASE_S = 300.0
"""Longer than so many reports take; after it another deliverer reports what one that died had taken."""


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
            self._report(ae_title, due)
            return len(due)
        except Exception as error:  # noqa: BLE001 - the thread of a peer must outlive any failure
            _log.error("commitment round failed", peer=ae_title, what=classify(error).what)
            return 0

    def _report(self, ae_title: str, due: Sequence[CommitmentTransaction]) -> None:
        left = list(due)
        jitter = random.random()
        try:
            context = build_context(StorageCommitmentPushModel, list(UNCOMPRESSED))
            settings = ScuSettings.of(self.configuration)
            with associated(self._peer(ae_title), [context], settings, negotiation=(scp_role(),)) as association:
                while left:
                    report = report_due(self.ledger, self.files, left[0], now=utc_now())
                    status = send_report(association, report.information, report.event_type)
                    if not is_answer(status):
                        answer = "no answer" if status is None else f"status {status:04X}"
                        raise PeerFailedError(f"did not take the commitment report: {answer}", subject=ae_title)
                    assert status is not None
                    commitment_reported_to(
                        self.ledger,
                        left.pop(0).id,
                        committed=report.committed,
                        failed=report.failed,
                        status=status,
                        now=utc_now(),
                    )
        except NodeError as error:
            for transaction in left:
                self._failed(transaction, error, jitter)

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
