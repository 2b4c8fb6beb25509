"""One round of one destination: what is sent, and what the ledger records of it."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from dicom_node import metrics
from dicom_node.audit.messages import Participant
from dicom_node.audit.sent import Outgoing, sending
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import DeliveryPolicy, DestinationProfile
from dicom_node.deliver.lease import RoundLease
from dicom_node.deliver.retry import next_attempt, next_try
from dicom_node.deliver.turnaround import observe_commitments
from dicom_node.errors import (
    NodeError,
    NotAcceptedError,
    PeerFailedError,
    PeerOutOfResourcesError,
    PeerUnavailableError,
)
from dicom_node.network.sender import DicomFile
from storage.deliveries import (
    Delivery,
    delivery_confirmed,
    delivery_failed,
    delivery_not_accepted,
    delivery_put_off,
    delivery_sent,
    delivery_unverified,
    destination_reached,
    destination_unreachable,
)
from storage.ledger import Ledger, record_event, utc_now

__all__ = ["DeliveryItem", "DestinationClient", "Round"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeliveryItem:
    """A delivery and the file that it sends."""

    delivery: Delivery
    file: DicomFile


class DestinationClient(Protocol):
    """Sends deliveries to a destination and asks what it holds, by the protocol that it speaks."""

    @property
    def found_by(self) -> str:
        """What :meth:`held` asks with, in words."""

    def deliver(self, items: Sequence[DeliveryItem], lease: RoundLease) -> None:
        """Send; afterwards each is sent, committed, failed or dead in the ledger.

        Parameters
        ----------
        lease
            Told of each that is on its way.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            The ledger does not accept a transition.
        """

    def held(self, deliveries: Collection[Delivery]) -> frozenset[str]:
        """SOP Instance UIDs among these that the destination shows.

        Raises
        ------
        NodeError
            It cannot be asked.
        """


@dataclass(frozen=True, slots=True)
class Round:
    """One round; each method is one transition in the ledger."""

    ledger: Ledger
    owner: str
    destination: str
    profile: DestinationProfile
    policy: DeliveryPolicy
    jitter: float
    """Of this round, uniform in [0, 1), see :func:`~dicom_node.deliver.retry.next_try`."""
    trail: AuditTrail

    def sending(
        self, receiver: Participant, items: Collection[DeliveryItem]
    ) -> contextlib.AbstractContextManager[set[str]]:
        """Tell the audit trail what is sent to whom, see :func:`dicom_node.audit.sent.sending`."""
        outgoing = [
            Outgoing(
                item.delivery.study_instance_uid,
                item.delivery.sop_class_uid,
                item.delivery.sop_instance_uid,
                item.file.path,
                item.delivery.correlation_id,
            )
            for item in items
        ]
        return sending(self.trail, receiver, outgoing)

    def failed(self, delivery: Delivery, error: NodeError) -> None:
        """Record why one object was not stored: what it counts for is in the kind of the error.

        An object of a kind that the destination does not take has come to its end. One for which it has no room is
        offered again for as long as it takes. What is left counts: tried again by the policy, or dead when trying again
        cannot help or the attempts are used up.
        """
        now = utc_now()
        if isinstance(error, NotAcceptedError):
            delivery_not_accepted(self.ledger, delivery.id, str(error), now=now)
            self._noted(delivery, error, "not accepted")
        elif isinstance(error, PeerOutOfResourcesError):
            retry_at = next_try(self.policy, delivery.put_off + 1, now, self.jitter, error.retry_after_s)
            delivery_put_off(self.ledger, delivery.id, str(error), retry_at, now=now)
            self._noted(delivery, error, "put off")
        elif isinstance(error, PeerUnavailableError) and not isinstance(error, PeerFailedError):
            self.unreachable([delivery], error)
        else:
            self._attempt_failed(delivery, error, now)

    def _attempt_failed(self, delivery: Delivery, error: NodeError, now: dt.datetime) -> None:
        attempts = delivery.failed_attempts + 1
        retry_at = None
        if error.retryable:
            retry_at = next_attempt(self.policy, attempts, now, self.jitter, error.retry_after_s)
        delivery_failed(self.ledger, delivery.id, str(error), retry_at, now=now)
        self._noted(delivery, error, "failed" if retry_at else "dead", attempts=attempts)

    def _noted(self, delivery: Delivery, error: NodeError, outcome: str, **more: object) -> None:
        metrics.DELIVERIES.labels(self.destination, outcome).inc()
        _log.warning(
            f"delivery {outcome}",
            destination=self.destination,
            sop_instance_uid=delivery.sop_instance_uid,
            correlation_id=delivery.correlation_id,
            what=error.what,
            **more,
        )

    def unreachable(self, deliveries: Collection[Delivery], error: NodeError) -> None:
        """Record that the destination cannot be reached: all wait, nothing counts, and the next call is put off."""
        now = utc_now()
        retry_after_s = error.retry_after_s
        destination_unreachable(
            self.ledger,
            self.destination,
            [one.id for one in deliveries],
            str(error),
            retry_at=lambda tries: next_try(self.policy, tries, now, self.jitter, retry_after_s),
            now=now,
        )
        metrics.DELIVERIES.labels(self.destination, "unreachable").inc(len(deliveries))
        _log.warning("destination unreachable", destination=self.destination, what=error.what, waiting=len(deliveries))

    def reached(self) -> None:
        """Record that the destination answers: an outage that it had is over."""
        destination_reached(self.ledger, self.destination, now=utc_now())

    def sent(self, deliveries: Collection[Delivery], transaction_uid: str | None) -> None:
        """Record that the destination stored these; ``transaction_uid`` unless it is not asked for commitment."""
        now = utc_now()
        deadline = None
        if transaction_uid is not None:
            deadline = now + dt.timedelta(seconds=self.profile.commitment_timeout_s)
        ids = [one.id for one in deliveries]
        delivery_sent(self.ledger, ids, transaction_uid, deadline, now=now)
        metrics.DELIVERIES.labels(self.destination, "sent").inc(len(ids))
        if transaction_uid is None:
            observe_commitments(self.ledger, at=now, delivery_ids=ids)

    def confirmed(self, deliveries: Collection[Delivery], how: str) -> None:
        """Record that the destination holds these."""
        now, ids = utc_now(), [one.id for one in deliveries]
        delivery_confirmed(self.ledger, ids, how=how, now=now)
        observe_commitments(self.ledger, at=now, delivery_ids=ids)

    def unverified(self, deliveries: Collection[Delivery], why: str) -> None:
        """Record that the destination stored these and cannot be asked whether it keeps them."""
        now, ids = utc_now(), [one.id for one in deliveries]
        delivery_unverified(self.ledger, ids, why=why, now=now)
        observe_commitments(self.ledger, at=now, delivery_ids=ids)

    def remark(self, delivery: Delivery, remark: str) -> None:
        """Log what the destination said of an object that it stored."""
        _log.warning(
            "delivered with a remark",
            destination=self.destination,
            sop_instance_uid=delivery.sop_instance_uid,
            correlation_id=delivery.correlation_id,
            remark=remark,
        )

    def commitment_not_offered(self, delivery: Delivery, remedy: str) -> None:
        """Record that the destination does not do what its profile asks for."""
        with self.ledger.transaction() as session:
            record_event(
                session,
                "commitment not offered",
                self.destination,
                at=utc_now(),
                correlation_id=delivery.correlation_id,
                remedy=remedy,
            )
        _log.warning("destination does not offer storage commitment", destination=self.destination)
