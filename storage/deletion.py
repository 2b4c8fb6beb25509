"""Deleting a study because somebody says so: nothing of its images stays in the ledger or on the disk."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from storage.deliveries import dismiss
from storage.job_rows import supersede
from storage.ledger import Ledger, LedgerError, record_event
from storage.rejection import REJECTION_ROLE
from storage.retention import release_files
from storage.schema import (
    ENDED,
    Association,
    AssociationStudy,
    DeliveryRow,
    InstanceRow,
    JobRow,
    JobState,
    QuarantineRow,
    ResultRow,
    SeriesRow,
    ShadowComparisonRow,
    StudyAttributesRow,
    StudyRow,
)

__all__ = ["DeletedStudy", "check_deletable", "delete_study"]


@dataclass(frozen=True, slots=True)
class DeletedStudy:
    """What was deleted."""

    instances: int
    results: int
    deliveries: int
    """That were given up, because they had not been made."""


def delete_study(ledger: Ledger, study_instance_uid: str, *, reason: str, by: str, now: dt.datetime) -> DeletedStudy:
    """Delete a study from this node.

    Its instances are forgotten, so that they are new when they come again, with whatever bytes; jobs that have not
    ended are superseded; results that were not delivered are not delivered any more. Rejection notes stay and go out:
    see :mod:`storage.rejection` for what reached a destination.

    Raises
    ------
    LedgerError
        There is no such study, or an association that sends it is open.
    """
    with ledger.transaction() as session:
        study = _deletable(session, study_instance_uid)
        _end_jobs(session, study, now)
        given_up = _give_up_deliveries(session, study, reason, by, now)
        results = _release_results(session, study, now)
        instances = _forget_instances(session, study, now)
        for told_of in (StudyAttributesRow, ShadowComparisonRow):
            session.execute(delete(told_of).where(told_of.study_id == study.id))
        study.instances = 0
        study.last_received_at = now
        record_event(
            session,
            "study deleted",
            study_instance_uid,
            at=now,
            study_id=study.id,
            reason=reason,
            by=by,
            instances=instances,
            results=results,
        )
        return DeletedStudy(instances, results, given_up)


def check_deletable(ledger: Ledger, study_instance_uid: str) -> None:
    """Look whether a study can be deleted, before anything that belongs to its deletion is done.

    Raises
    ------
    LedgerError
        As in :func:`delete_study`.
    """
    with ledger.transaction() as session:
        _deletable(session, study_instance_uid)


def _deletable(session: Session, study_instance_uid: str) -> StudyRow:
    study = session.scalars(
        select(StudyRow).where(StudyRow.study_instance_uid == study_instance_uid).with_for_update(key_share=True)
    ).one_or_none()
    if study is None:
        raise LedgerError(f"no study {study_instance_uid} in the ledger")
    sending = session.scalar(
        select(func.count())
        .select_from(AssociationStudy)
        .join(Association, Association.id == AssociationStudy.association_id)
        .where(AssociationStudy.study_id == study.id, Association.closed_at.is_(None))
    )
    if sending:
        raise LedgerError(f"study {study_instance_uid} is being received: wait until its association has ended")
    return study


def _end_jobs(session: Session, study: StudyRow, now: dt.datetime) -> None:
    jobs = session.scalars(select(JobRow).where(JobRow.study_id == study.id).with_for_update()).all()
    for job in jobs:
        # Failed ones too: nobody is to be told of a study that is gone.
        if job.state in (JobState.QUEUED, JobState.RUNNING, JobState.FAILED):
            supersede(session, job, now)
        job.inputs_removed_at = job.inputs_removed_at or now


def _give_up_deliveries(session: Session, study: StudyRow, reason: str, by: str, now: dt.datetime) -> int:
    rows = session.scalars(
        select(DeliveryRow)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .join(JobRow, JobRow.id == ResultRow.job_id)
        .where(JobRow.study_id == study.id, ResultRow.role != REJECTION_ROLE, DeliveryRow.state.not_in(ENDED))
        .with_for_update(of=DeliveryRow)
    ).all()
    for row in rows:
        dismiss(session, row, reason=reason, by=by, now=now)
    return len(rows)


def _release_results(session: Session, study: StudyRow, now: dt.datetime) -> int:
    mine = ResultRow.job_id.in_(select(JobRow.id).where(JobRow.study_id == study.id))
    void = mine & (ResultRow.role != REJECTION_ROLE) & ResultRow.removed_at.is_(None)
    release_files(session, select(ResultRow.path).where(void), now=now)
    return len(session.scalars(update(ResultRow).where(void).values(removed_at=now).returning(ResultRow.id)).all())


def _forget_instances(session: Session, study: StudyRow, now: dt.datetime) -> int:
    of_study = InstanceRow.series_id.in_(select(SeriesRow.id).where(SeriesRow.study_id == study.id))
    uids = select(InstanceRow.sop_instance_uid).where(of_study)
    # What conflicted with them, or was replaced by them, is of the same study and goes as well.
    aside = QuarantineRow.sop_instance_uid.in_(uids)
    release_files(session, select(QuarantineRow.path).where(aside), now=now)
    session.execute(delete(QuarantineRow).where(aside))
    release_files(session, select(InstanceRow.path).where(of_study, InstanceRow.removed_at.is_(None)), now=now)
    forgotten = session.scalars(delete(InstanceRow).where(of_study).returning(InstanceRow.id)).all()
    session.execute(delete(SeriesRow).where(SeriesRow.study_id == study.id))
    return len(forgotten)
