"""What peers have sent, from the ledger to the audit trail: each association once, when it has ended.

Nothing of it is done while images come in, and nothing is lost with a receiver that dies: the ledger says which
instances of which study an association brought, and its successor ends the association.
"""

from __future__ import annotations

from collections.abc import Iterator

from dicom_node.audit.messages import AuditMessage, Participant, Study, Transfer, instances_transferred
from dicom_node.audit.trail import AuditTrail, held_patient_id
from storage.files import InstanceFiles
from storage.ledger import Ledger, utc_now
from storage.transfers import EndedAssociation, note_as_told, untold_associations

__all__ = ["tell_what_was_received"]

_AT_ONCE = 100


def tell_what_was_received(ledger: Ledger, files: InstanceFiles, trail: AuditTrail, receivers: str = "") -> int:
    """Write the messages of associations that have ended; returns how many associations there were.

    Parameters
    ----------
    receivers
        What the names of the receivers begin with whose associations are told: another host tells its own.

    Raises
    ------
    OSError
        The audit file cannot be written; nothing is noted as told.
    sqlalchemy.exc.SQLAlchemyError
        The ledger does not answer. What was written is recognised when it is told again.
    """
    ended = untold_associations(ledger, _AT_ONCE, receivers)
    if ended:
        trail.append([message for one in ended for message in _messages(one, files, trail)], once=True)
        note_as_told(ledger, [one.id for one in ended], at=utc_now())
    return len(ended)


def _messages(ended: EndedAssociation, files: InstanceFiles, trail: AuditTrail) -> Iterator[AuditMessage]:
    source = Participant(ended.calling_ae_title, ended.calling_ae_title, ended.address)
    receiver = Participant(ended.receiver.rpartition("/")[2], ended.called_ae_title, trail.node.host)
    for study in ended.studies:
        patient_id = None
        if trail.patient_ids:
            patient_id = "" if study.path is None else held_patient_id(files, study.path)
        yield instances_transferred(
            Transfer(source, receiver, Study(study.study_instance_uid, study.instances, patient_id), ended.id),
            trail.node,
            at=ended.closed_at,
            new_to_receiver=bool(study.instances),
            failure="" if ended.outcome == "released" else ended.outcome,
        )
