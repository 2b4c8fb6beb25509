"""Takes in what destinations report about storage commitment, on whichever association the report comes."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt

from dicom_node.config import Configuration, DeliveryPolicy
from dicom_node.deliver.retry import next_attempt
from dicom_node.deliver.turnaround import observe_commitments
from dicom_node.errors import CannotUnderstandError, NodeError, classify
from dicom_node.network.commitment import FAILURE_REASONS, CommitmentReport, read_event_information
from storage.deliveries import commitment_reported
from storage.ledger import Ledger, utc_now

__all__ = ["answer_report", "destinations_of", "record_report"]

_log = structlog.get_logger(__name__)

_SUCCESS = 0x0000
_INVALID_ARGUMENT = 0x0115
_PROCESSING_FAILURE = 0x0110


def destinations_of(configuration: Configuration, ae_title: str) -> frozenset[str]:
    """Destinations that a peer speaks for: those that are it, and those whose profile says that it reports for them."""
    peers = {name for name, peer in configuration.peers.items() if peer.ae_title == ae_title}
    return frozenset(
        name
        for name, profile in configuration.results.destinations.items()
        if profile.peer in peers or peers.intersection(profile.commitment_reported_by)
    )


def record_report(
    ledger: Ledger, policy: DeliveryPolicy, report: CommitmentReport, destinations: Collection[str]
) -> None:
    """Write a report into the ledger: committed results are closed, failed ones tried again by the retry policy.

    Parameters
    ----------
    destinations
        Whom the reporter speaks for: a transaction of any other is as unknown to it as one that never was.
    """
    now, jitter = utc_now(), random.random()
    changed = commitment_reported(
        ledger,
        report.transaction_uid,
        report.committed,
        {uid: FAILURE_REASONS.get(reason, f"reason {reason:04X}") for uid, reason in report.failed.items()},
        destinations=destinations,
        now=now,
        retry_at=lambda failed_attempts: next_attempt(policy, failed_attempts, now, jitter),
    )
    observe_commitments(ledger, at=now, transaction_uid=report.transaction_uid)
    (_log.warning if report.failed else _log.info)(
        "commitment reported",
        transaction_uid=report.transaction_uid,
        committed=len(report.committed),
        failed=len(report.failed),
        deliveries=changed,
    )


def _read(event: evt.Event) -> CommitmentReport:
    try:
        return read_event_information(event.event_information)
    except NodeError:
        raise
    except Exception as error:
        # pydicom's readers raise whatever the damage leads them to.
        raise CannotUnderstandError("the event information cannot be parsed") from error


def answer_report(record: Callable[[CommitmentReport, str], None]) -> Callable[[evt.Event], tuple[int, Dataset | None]]:
    """Handler of N-EVENT-REPORT requests.

    Every report is answered, failures among the objects included: a PACS that gets no answer repeats its report or
    gives up the association.

    Parameters
    ----------
    record
        Called with each report and the AE title of the requestor of its association; may raise.
    """

    def handle(event: evt.Event) -> tuple[int, Dataset | None]:
        try:
            record(_read(event), str(event.assoc.requestor.ae_title))
        except NodeError as error:
            _log.warning("commitment report refused", what=error.what)
            return _INVALID_ARGUMENT, None
        except Exception as error:  # noqa: BLE001 - a peer must get an answer whatever happens
            _log.error("commitment report not recorded", what=classify(error).what)
            return _PROCESSING_FAILURE, None
        return _SUCCESS, None

    return handle
