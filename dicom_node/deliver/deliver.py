"""The deliverer: results to their destinations, one round after another, until each is committed or a dead letter.

A round of one destination takes everything that is due, sends it over as few associations or requests as can be, and
asks for storage commitment. Nothing is tried again within a round: what fails goes back to the ledger with the time of
its next attempt. A result that was sent before is looked up at the destination first (C-FIND, QIDO-RS), so that a lost
commitment does not send it twice.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import structlog

from dicom_node import metrics
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import Configuration
from dicom_node.deliver.commitments import LEASE_S as REPORT_LEASE_S
from dicom_node.deliver.commitments import CommitmentReporter
from dicom_node.deliver.dimse_destination import DimseDestinationClient
from dicom_node.deliver.lease import RoundLease
from dicom_node.deliver.retry import next_attempt, next_try
from dicom_node.deliver.round import DeliveryItem, DestinationClient, Round
from dicom_node.deliver.turnaround import observe_commitments
from dicom_node.deliver.web_destination import WebDestinationClient
from dicom_node.errors import CannotUnderstandError, DeliveryRefusedError, NodeError, PeerUnavailableError, classify
from dicom_node.hosts import owner_name
from dicom_node.instance_files import instance_files
from dicom_node.network.sender import ScuSettings, read_dicom_file
from storage.bucket import BucketError
from storage.clock_steps import deliveries_due_within
from storage.deliveries import (
    Delivery,
    claim_deliveries,
    claim_overdue,
    commitments_postponed,
    delivery_confirmed,
    delivery_failed,
    delivery_put_off,
    destinations_with_work,
    extend_deliveries,
    release_deliveries,
    release_expired_deliveries,
)
from storage.files import InstanceFiles
from storage.ledger import Ledger, open_ledger, utc_now

__all__ = ["Deliverer", "serve_deliverer"]

_log = structlog.get_logger(__name__)

POLL_S = 0.1
BUCKET_AWAY = dt.timedelta(seconds=30)
"""Until a result is tried again that could not be had from the bucket."""
RELEASE_EXPIRED_EVERY_S = 15.0
LEASE_S = 120.0
MOST_PER_ROUND = 200
MOST_THREADS = 256
"""Made as they are needed: the configuration may change, and more destinations than these are none."""


def serve_deliverer(
    configuration: Configuration,
    stop_event: threading.Event,
    *,
    name: str = "deliverer",
    ready: Callable[[], None] = lambda: None,
    renewed: Callable[[], Configuration | None] = lambda: None,
) -> None:
    """Deliver until told to stop.

    Parameters
    ----------
    configuration
        Of the node.
    stop_event
        Set to end; the rounds at hand are finished first.
    name
        Of this process, the same after a restart: what its earlier life was sending is sent again.
    ready
        Called once, when the ledger is open.
    renewed
        Gives the configuration when it changed; the rounds at hand end by the one they began with.

    Raises
    ------
    sqlalchemy.exc.SQLAlchemyError
        The ledger cannot be reached.
    """
    ledger = open_ledger(configuration.storage.database)
    owner = owner_name(configuration, name)
    files = instance_files(configuration)
    deliverer = Deliverer(configuration, ledger, files, owner)
    reporter = CommitmentReporter(configuration, ledger, files)
    rounds: dict[tuple[str, str], Future[int]] = {}
    try:
        released = release_deliveries(ledger, owner, utc_now())
        _log.info("delivering", destinations=sorted(configuration.results.destinations), released=released)
        ready()
        release_expired_at = time.monotonic() + RELEASE_EXPIRED_EVERY_S
        # One that does not answer must not hold up the others: each destination and each peer has a thread.
        with ThreadPoolExecutor(MOST_THREADS, "destination") as pool:
            while not stop_event.wait(POLL_S):
                changed = renewed()
                if changed is not None:
                    deliverer = replace(deliverer, configuration=changed)
                    reporter = replace(reporter, configuration=changed)
                try:
                    waiting = [
                        *(("deliver", one, deliverer.deliver_once) for one in deliverer.destinations_with_work()),
                        *(("report", one, reporter.report_once) for one in reporter.peers_with_work()),
                    ]
                    if time.monotonic() > release_expired_at:
                        release_expired_deliveries(ledger, utc_now())
                        deliverer.forget_clock_steps()
                        release_expired_at = time.monotonic() + RELEASE_EXPIRED_EVERY_S
                except Exception as error:  # noqa: BLE001 - the ledger may be down for a while
                    _log.warning("ledger not readable", what=_in_words(error))
                    continue
                for kind, peer, work in waiting:
                    if (kind, peer) not in rounds or rounds[kind, peer].done():
                        rounds[kind, peer] = pool.submit(work, peer)
        _log.info("deliverer stopped")
    finally:
        ledger.close()


@dataclass(frozen=True, slots=True)
class Deliverer:
    """Delivers results in rounds of one destination; several may work on one ledger under different owner names."""

    configuration: Configuration
    ledger: Ledger
    files: InstanceFiles
    owner: str

    def destinations_with_work(self) -> tuple[str, ...]:
        """Destinations with a delivery that is due or a commitment that is overdue, and no outage."""
        return destinations_with_work(self.ledger, utc_now())

    def forget_clock_steps(self) -> None:
        """Make due what waits for a time that was written down while the clock was ahead."""
        policy, destinations = self.configuration.delivery, self.configuration.results.destinations.values()
        timeouts = [one.commitment_timeout_s for one in destinations]
        changed = deliveries_due_within(
            self.ledger,
            utc_now(),
            delay_s=policy.maximum_delay_s,
            commitment_s=max([policy.maximum_delay_s, *timeouts]),
            lease_s=LEASE_S,
            report_s=max(policy.maximum_delay_s, REPORT_LEASE_S),
        )
        if changed:
            _log.warning("the clock was set back; what waited for a later time is due", rows=changed)

    def deliver_once(self, destination: str) -> int:
        """Make one round of one destination; returns how many deliveries it touched.

        Never raises: what goes wrong is in the ledger, or in the log when the ledger is what is wrong. Deliveries left
        in SENDING by that come back when their lease runs out.
        """
        try:
            touched = self._pursue_overdue(destination)
            claimed = claim_deliveries(self.ledger, destination, MOST_PER_ROUND, self.owner, utc_now(), LEASE_S)
            if claimed:
                self._send(destination, claimed)
            return touched + len(claimed)
        except Exception as error:  # noqa: BLE001 - the thread of a destination must outlive any failure
            _log.error("delivery round failed", destination=destination, what=_in_words(error))
            return 0

    def _round(self, destination: str) -> Round | None:
        profile = self.configuration.results.destinations.get(destination)
        if profile is None:
            return None
        return Round(
            self.ledger,
            self.owner,
            destination,
            profile,
            self.configuration.delivery,
            random.random(),
            AuditTrail.of(self.configuration, self.owner.rpartition("/")[2]),
        )

    def _client(self, present: Round) -> DestinationClient:
        profile = present.profile
        if profile.web is not None:
            return WebDestinationClient(present, profile.web)
        # Imported by whoever has such destinations.
        if profile.hl7 is not None:
            from dicom_node.deliver.hl7_destination import Hl7DestinationClient

            return Hl7DestinationClient(present, profile.hl7)
        if profile.fhir is not None:
            from dicom_node.deliver.fhir_destination import FhirDestinationClient

            return FhirDestinationClient(present, profile.fhir)
        assert profile.peer is not None
        return DimseDestinationClient(
            present, self.configuration.peers[profile.peer], ScuSettings.of(self.configuration)
        )

    def _pursue_overdue(self, destination: str) -> int:
        """Put back what was not committed in time; at the last attempt, being held counts as committed."""
        overdue = claim_overdue(self.ledger, destination, utc_now(), LEASE_S)
        last: list[Delivery] = []
        now, jitter = utc_now(), random.random()
        for delivery in overdue:
            retry_at = next_attempt(self.configuration.delivery, delivery.failed_attempts + 1, now, jitter)
            if retry_at is None:
                last.append(delivery)
            else:
                delivery_failed(self.ledger, delivery.id, "storage commitment did not come in time", retry_at, now=now)
                metrics.DELIVERIES.labels(destination, "failed").inc()
        found_by, held = self._look_up(destination, last) if last else ("", frozenset[str]())
        shown = "does not show the object" if found_by else "cannot be asked whether it holds the object"
        if held is None:
            deadline = next_try(self.configuration.delivery, last[0].failed_attempts, utc_now(), 1.0)
            commitments_postponed(self.ledger, [delivery.id for delivery in last], deadline)
            return len(overdue)
        for delivery in last:
            if delivery.sop_instance_uid in held:
                how = f"found by {found_by}; storage commitment never came"
                now = utc_now()
                delivery_confirmed(self.ledger, [delivery.id], how=how, now=now)
                observe_commitments(self.ledger, at=now, delivery_ids=[delivery.id])
            else:
                why = f"storage commitment never came, and the destination {shown}"
                delivery_failed(self.ledger, delivery.id, why, None, now=utc_now())
                metrics.DELIVERIES.labels(destination, "dead").inc()
        return len(overdue)

    def _look_up(self, destination: str, deliveries: Sequence[Delivery]) -> tuple[str, frozenset[str] | None]:
        """How the destination was asked, empty where it cannot be, and what it shows; ``None`` when it cannot be
        reached to be asked.
        """
        present = self._round(destination)
        if present is None:
            return "", frozenset()
        client = self._client(present)
        try:
            return client.found_by, client.held(deliveries)
        except PeerUnavailableError as error:
            _log.warning("destination could not be queried", destination=destination, what=error.what)
            return client.found_by, None
        except NodeError as error:
            _log.warning("destination does not answer queries", destination=destination, what=error.what)
            return "", frozenset()

    def _send(self, destination: str, deliveries: Sequence[Delivery]) -> None:
        present = self._round(destination)
        if present is None:
            why = f"{destination} is not in results.destinations any more; restore it, then requeue"
            for delivery in deliveries:
                delivery_failed(self.ledger, delivery.id, why, None, now=utc_now())
                metrics.DELIVERIES.labels(destination, "dead").inc()
            return
        ids = [delivery.id for delivery in deliveries]

        def extend() -> None:
            extend_deliveries(self.ledger, self.owner, ids, utc_now(), LEASE_S)

        with RoundLease(extend, present.policy.response_timeout_s, LEASE_S) as lease:
            items = self._read(present, deliveries, lease)
            if items:
                self._client(present).deliver(items, lease)

    def _read(self, present: Round, deliveries: Sequence[Delivery], lease: RoundLease) -> list[DeliveryItem]:
        """The files of these; what cannot be had is put off or failed."""
        items: list[DeliveryItem] = []
        for delivery in deliveries:
            lease.on_its_way(delivery.size)
            try:
                items.append(DeliveryItem(delivery, read_dicom_file(self.files.readable(delivery.path))))
            except BucketError as error:
                # It says nothing of the object: it waits for as long as it takes.
                now = utc_now()
                delivery_put_off(self.ledger, delivery.id, str(error.strerror), now + BUCKET_AWAY, now=now)
            except (CannotUnderstandError, OSError) as error:
                unreadable = DeliveryRefusedError(
                    f"the result file cannot be read: {type(error).__name__}",
                    subject=delivery.path,
                    remedy="restore the file or run the job again, then requeue",
                )
                present.failed(delivery, unreadable)
        return items


def _in_words(error: BaseException) -> str:
    known = classify(error)
    return known.what if known is error else f"{type(error).__name__} ({type(known).__name__})"
