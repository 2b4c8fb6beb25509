"""What the destinations that get messages have in common: one for each front page, closed by its answer.

A rejection note for such a destination names front pages that must not be used any more: a message withdraws each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydicom.errors import InvalidDicomError
from pydicom.uid import generate_uid
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.audit.messages import Participant
from dicom_node.deliver.lease import RoundLease
from dicom_node.deliver.round import DeliveryItem, Round
from dicom_node.deliver.study_report import StudyReport, study_report, withdrawn_reports
from dicom_node.errors import (
    DeliveryRefusedError,
    NodeError,
    NotAcceptedError,
    PeerFailedError,
    PeerUnavailableError,
    raised_at,
)
from dicom_node.results.roles import FRONT_PAGE
from storage.rejection import REJECTION_ROLE

__all__ = ["deliver_messages"]


def deliver_messages(
    present: Round,
    items: Sequence[DeliveryItem],
    receiver: Participant,
    send: Callable[[StudyReport], None],
    lease: RoundLease,
    how: str,
) -> None:
    """Send one message for each front page; afterwards each delivery is committed, failed or dead in the ledger.

    Parameters
    ----------
    send
        Sends one report and returns when it was taken; raises :class:`NodeError` otherwise.
    lease
        Told of each that is on its way.
    how
        What the answer was, for the record.

    Raises
    ------
    sqlalchemy.exc.SQLAlchemyError
        The ledger does not accept a transition.
    """
    for index, item in enumerate(items):
        delivery = item.delivery
        try:
            if delivery.role not in (FRONT_PAGE.value, REJECTION_ROLE):
                raise NotAcceptedError(
                    "it takes what front pages say, and no objects", subject=delivery.sop_instance_uid
                )
            reports, unknown = _reports(present, item)
            if reports:
                with present.sending(receiver, [item]) as arrived:
                    for report in reports:
                        lease.on_its_way()
                        send(report)
                    arrived.add(delivery.sop_instance_uid)
                present.reached()
            if unknown:
                raise DeliveryRefusedError(
                    f"{unknown} of the reports that it withdraws cannot be: the ledger has forgotten what they told",
                    subject=delivery.sop_instance_uid,
                    remedy="have them withdrawn at the receiver by hand, then dismiss",
                )
        except NodeError as error:
            if isinstance(error, PeerUnavailableError) and not isinstance(error, PeerFailedError):
                present.unreachable([one.delivery for one in items[index:]], error)
                return
            present.failed(delivery, error)
            continue
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001 - one report must not hold up the others, whatever it holds
            refused = DeliveryRefusedError(
                f"it cannot be told: {raised_at(error)}",
                subject=delivery.sop_instance_uid,
                remedy="run the job again, then requeue",
            )
            present.failed(delivery, refused)
            continue
        # Its answer says that it keeps it: nothing is to be looked up later.
        present.sent([delivery], str(generate_uid(prefix=None)))
        present.confirmed([delivery], how)


def _reports(present: Round, item: DeliveryItem) -> tuple[tuple[StudyReport, ...], int]:
    """What is to be told, and how many reports cannot be, see :func:`withdrawn_reports`."""
    try:
        if item.delivery.role == REJECTION_ROLE:
            return withdrawn_reports(present.ledger, item.file.path)
        return (study_report(present.ledger, item.delivery.job_id, item.file.path, present.destination),), 0
    except (OSError, InvalidDicomError) as error:
        raise DeliveryRefusedError(
            f"what it is told from cannot be read: {type(error).__name__}",
            subject=item.delivery.sop_instance_uid,
            remedy="restore the file or run the job again, then requeue",
        ) from error
