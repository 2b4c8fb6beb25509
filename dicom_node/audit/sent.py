"""What this node sends, in the audit trail: once when it begins, once when it has ended."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node.audit.messages import Participant, Study, Transfer, begin_transferring, instances_transferred
from dicom_node.audit.trail import AuditTrail, patient_id_of
from storage.ledger import utc_now

__all__ = ["Outgoing", "sending"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An object that is to be sent."""

    study_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    path: Path
    correlation_id: str = ""
    """Of the association that it came of, if there is one."""


@contextlib.contextmanager
def sending(
    trail: AuditTrail, destination: Participant, objects: Sequence[Outgoing], requestor: Participant | None = None
) -> Iterator[set[str]]:
    """Tell that objects begin to be sent and, when the block ends or raises, which were and which were not.

    Parameters
    ----------
    requestor
        Who asked for them, where that is not this node.

    Yields
    ------
    set of str
        The block adds the SOP Instance UID of each object that the destination has stored.
    """
    sent: set[str] = set()
    if trail.file is None:
        yield sent
        return
    studies: dict[str, list[Outgoing]] = {}
    for one in objects:
        studies.setdefault(one.study_instance_uid, []).append(one)
    for members in studies.values():
        transfer = _transfer(trail, destination, members, requestor)
        trail.record(begin_transferring(transfer, trail.node, at=utc_now()))
    try:
        yield sent
    finally:
        for members in studies.values():
            for arrived, failure in ((True, ""), (False, "not stored by the destination")):
                told = [one for one in members if (one.sop_instance_uid in sent) is arrived]
                if told:
                    # Whether the destination held them before is not known here.
                    transfer = _transfer(trail, destination, told, requestor)
                    trail.record(
                        instances_transferred(
                            transfer, trail.node, at=utc_now(), new_to_receiver=False, failure=failure
                        )
                    )


def _transfer(
    trail: AuditTrail, destination: Participant, objects: Sequence[Outgoing], requestor: Participant | None
) -> Transfer:
    first = objects[0]
    study = Study(
        first.study_instance_uid,
        Counter(one.sop_class_uid for one in objects),
        patient_id_of(first.path) if trail.patient_ids else None,
    )
    return Transfer(trail.node, destination, study, first.correlation_id, requestor)
