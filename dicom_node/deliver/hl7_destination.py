"""Messages to an HL7 receiver: ORU^R01 over MLLP, each acknowledged."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dicom_node.audit.messages import Participant
from dicom_node.config import Hl7Destination
from dicom_node.deliver.lease import RoundLease
from dicom_node.deliver.messages import deliver_messages
from dicom_node.deliver.mllp import MllpConnection
from dicom_node.deliver.oru import control_id, observation_message
from dicom_node.deliver.round import DeliveryItem, Round
from dicom_node.deliver.study_report import StudyReport
from storage.deliveries import Delivery
from storage.ledger import utc_now

__all__ = ["Hl7DestinationClient"]


@dataclass(frozen=True, slots=True)
class Hl7DestinationClient:
    """Sends to an HL7 receiver."""

    round: Round
    receiver: Hl7Destination
    found_by: str = "nothing: an HL7 receiver cannot be asked"

    def deliver(self, items: Sequence[DeliveryItem], lease: RoundLease) -> None:
        """Send one message after the other, see :class:`~dicom_node.deliver.round.DestinationClient`."""
        host = self.receiver.host
        deliver_messages(
            self.round, items, Participant(host, "", host), self._send, lease, "acknowledged by the receiver (MSA)"
        )

    def held(self, deliveries: Collection[Delivery]) -> frozenset[str]:  # noqa: ARG002
        """Nothing: what was not acknowledged is sent again, under the same control id."""
        return frozenset()

    def _send(self, report: StudyReport) -> None:
        message = observation_message(report, self.receiver, utc_now())
        # A connection for each: receivers differ in how long they keep one open.
        with MllpConnection(self.receiver, self.round.policy.response_timeout_s) as connection:
            connection.send(message, control_id(report))
