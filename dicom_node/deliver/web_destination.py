"""Requests to a DICOMweb destination: look up, store, and look up again.

What stands for storage commitment is that the service shows each instance (QIDO-RS): the web service for commitment of
PS3.18 13 is offered by hardly anybody.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from pydicom.uid import generate_uid

from dicom_node.audit.messages import Participant
from dicom_node.config import WebDestination
from dicom_node.deliver.lease import RoundLease
from dicom_node.deliver.round import DeliveryItem, Round
from dicom_node.errors import DeliveryRefusedError, NodeError, PeerFailedError, PeerUnavailableError
from dicom_node.web.client import DicomWebClient
from storage.deliveries import Delivery

__all__ = ["WebDestinationClient"]

_log = structlog.get_logger(__name__)

_MEGABYTE = 1_000_000
SHOWN_WITHIN_S = 2.0
"""How long a round waits for the service to show what it stored; what is late is looked for at its deadline."""
_LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class WebDestinationClient:
    """Sends to a destination over HTTP (STOW-RS)."""

    round: Round
    service: WebDestination
    found_by: str = "QIDO-RS"

    def deliver(self, items: Sequence[DeliveryItem], lease: RoundLease) -> None:
        """Send in as few requests as can be, see :class:`~dicom_node.deliver.round.DestinationClient`."""
        left = {item.delivery.id: item for item in items}
        try:
            with self._client() as client:
                exchange = _Exchange(self.round, client, self.service, left, lease)
                exchange.send(int(self.service.maximum_request_mb * _MEGABYTE))
        except NodeError as error:
            if isinstance(error, PeerUnavailableError) and not isinstance(error, PeerFailedError):
                self.round.unreachable([item.delivery for item in left.values()], error)
                return
            for item in left.values():
                self.round.failed(item.delivery, error)

    def held(self, deliveries: Collection[Delivery]) -> frozenset[str]:
        """Ask by QIDO-RS, see :class:`~dicom_node.deliver.round.DestinationClient`."""
        with self._client() as client:
            held = _held(client, deliveries)
        if held is None:
            raise DeliveryRefusedError("offers neither queries nor metadata", subject=self.round.destination)
        return held

    def _client(self) -> DicomWebClient:
        return DicomWebClient(self.service, self.round.policy.response_timeout_s)


class _Exchange:
    """The requests of one round; ``left`` keeps what is neither sent nor failed."""

    def __init__(
        self,
        present: Round,
        client: DicomWebClient,
        service: WebDestination,
        left: dict[int, DeliveryItem],
        lease: RoundLease,
    ) -> None:
        self._round, self._client, self._left, self._lease = present, client, left, lease
        host = urlsplit(service.url).hostname or ""
        self._receiver = Participant(host, "", host)
        self._verifies = present.profile.storage_commitment
        self._transaction_uid = str(generate_uid(prefix=None)) if self._verifies else None
        self._sent: list[Delivery] = []

    def send(self, most_bytes: int) -> None:
        if self._verifies:
            self._take_what_is_there()
        for portion in _portions(list(self._left.values()), most_bytes):
            self._store(portion)
        if self._verifies:
            try:
                self._verify()
            except NodeError as error:
                # It is sent: it is looked for again at its deadline.
                _log.warning("what was sent cannot be looked up", destination=self._round.destination, what=error.what)

    def _take_what_is_there(self) -> None:
        # The answer to an earlier request may have been lost, or the service may have taken its time.
        before = [
            item.delivery
            for item in self._left.values()
            if item.delivery.failed_attempts or item.delivery.transaction_uid is not None
        ]
        there = _held(self._client, before) or frozenset()
        found = [delivery for delivery in before if delivery.sop_instance_uid in there]
        if found:
            # It answered: an outage is over also where nothing is left to store.
            self._round.reached()
        self._stored(found)

    def _store(self, items: Sequence[DeliveryItem]) -> None:
        size = sum(one.file.size for one in items)
        self._lease.on_its_way(size)
        try:
            with self._round.sending(self._receiver, items) as arrived:
                answers = self._client.store([item.file for item in items], lambda: self._lease.on_its_way(size))
                arrived.update(uid for uid, (_, refusal) in answers.items() if refusal is None)
        except (DeliveryRefusedError, PeerFailedError) as error:
            # A service that fails may fail over anything: only when it does so again is it put down to one object.
            again = isinstance(error, DeliveryRefusedError) or any(one.delivery.failed_attempts for one in items)
            if len(items) > 1 and again:
                # One object may spoil the request for the others, or all together are too much.
                half = len(items) // 2
                self._store(items[:half])
                self._store(items[half:])
                return
            answers = {one.file.sop_instance_uid: ("", error) for one in items}
        self._round.reached()
        there = []
        refusal: NodeError | None
        for item in items:
            warning, refusal = answers[item.file.sop_instance_uid]
            if refusal is not None:
                del self._left[item.delivery.id]
                self._round.failed(item.delivery, refusal)
                continue
            if warning:
                self._round.remark(item.delivery, warning)
            there.append(item.delivery)
        self._stored(there)

    def _stored(self, deliveries: Collection[Delivery]) -> None:
        if deliveries:
            self._round.sent(deliveries, self._transaction_uid)
            self._sent.extend(deliveries)
        for delivery in deliveries:
            del self._left[delivery.id]

    def _verify(self) -> None:
        """Close what the service shows; what it does not show yet waits for its deadline."""
        give_up = time.monotonic() + min(SHOWN_WITHIN_S, self._round.profile.commitment_timeout_s)
        missing = self._sent
        while missing:
            self._lease.on_its_way()
            held = _held(self._client, missing)
            if held is None:
                remedy = "enable QIDO-RS at the service, or set storage_commitment: false for this destination"
                self._round.commitment_not_offered(missing[0], remedy)
                self._round.unverified(missing, "the destination cannot be asked for it")
                return
            self._committed([one for one in missing if one.sop_instance_uid in held], "found by QIDO-RS")
            missing = [one for one in missing if one.sop_instance_uid not in held]
            if time.monotonic() > give_up:
                return
            if missing:
                time.sleep(_LOOK_EVERY_S)

    def _committed(self, deliveries: Collection[Delivery], how: str) -> None:
        if deliveries:
            self._round.confirmed(deliveries, how)


def _held(client: DicomWebClient, deliveries: Collection[Delivery]) -> frozenset[str] | None:
    instances: dict[tuple[str, str], set[str]] = {}
    for one in deliveries:
        instances.setdefault((one.study_instance_uid, one.series_instance_uid), set()).add(one.sop_instance_uid)
    return client.held_instances(instances)


def _portions(items: Sequence[DeliveryItem], most_bytes: int) -> Iterator[list[DeliveryItem]]:
    """Items of one study that go in one request; what is larger than allowed goes alone."""
    portion: list[DeliveryItem] = []
    for item in sorted(items, key=lambda one: one.delivery.study_instance_uid):
        study = item.delivery.study_instance_uid
        size = sum(one.file.size for one in portion) + item.file.size
        if portion and (size > most_bytes or portion[0].delivery.study_instance_uid != study):
            yield portion
            portion = []
        portion.append(item)
    if portion:
        yield portion
