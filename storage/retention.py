"""What may leave the disk, and how it leaves without ever taking an acknowledged image along.

Two steps. The ledger first marks what is no longer needed; later the sweep removes files that no row of the ledger
names any more. A file that came again in between is young, and the sweep leaves young files alone.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Select, delete, exists, func, or_, select, update
from sqlalchemy.orm import aliased

from storage.closing import FRONT_PAGE
from storage.files import InstanceFiles
from storage.ledger import Ledger, record_event
from storage.schema import (
    Association,
    AssociationStudy,
    CommitmentTransactionRow,
    DeliveryRow,
    DeliveryState,
    EventRow,
    InstanceRow,
    JobRow,
    JobState,
    PerformedStepRow,
    PerformedStepStudyRow,
    QuarantineRow,
    ReportState,
    ResultRow,
    SeriesRow,
    StudyAttributesRow,
    StudyRow,
)

__all__ = [
    "expire_commitments",
    "expire_events",
    "expire_quarantine",
    "expire_steps",
    "expire_studies",
    "sweep_files",
]

EVENTS_A_TRANSACTION = 1000


def expire_studies(ledger: Ledger, *, retention: dt.timedelta, now: dt.datetime) -> tuple[str, ...]:
    """Mark the files of finished studies as removed.

    A study is finished when no instance of it waits, no association that sent it is open, all its jobs have ended, what
    failed among them was told on a front page, and all deliveries of its results are committed; and when nothing of
    that happened, and this node committed to no instance of it, within ``retention``. A study with a failed job that
    nobody was told of, or with a dead delivery, stays until an operator has dealt with it.

    Returns
    -------
    tuple of str
        Study Instance UIDs of the studies marked.
    """
    before = now - retention
    waiting = exists().where(
        SeriesRow.study_id == StudyRow.id,
        InstanceRow.series_id == SeriesRow.id,
        InstanceRow.study_version.is_(None),
        InstanceRow.removed_at.is_(None),
    )
    sending = exists().where(
        AssociationStudy.study_id == StudyRow.id,
        Association.id == AssociationStudy.association_id,
        Association.closed_at.is_(None),
    )
    telling = aliased(JobRow)
    told = exists().where(
        telling.study_id == JobRow.study_id,
        telling.route == JobRow.route,
        telling.package == FRONT_PAGE,
        telling.state == JobState.SUCCEEDED,
        telling.study_version >= JobRow.study_version,
        telling.ended_at >= JobRow.ended_at,
    )
    # What has lost its files can neither run again nor need them.
    over = JobRow.state.in_((JobState.SUCCEEDED, JobState.SUPERSEDED)) | (
        (JobRow.state == JobState.FAILED) & (told | JobRow.inputs_removed_at.is_not(None))
    )
    ended = over & (JobRow.ended_at < before)
    working = exists().where(JobRow.study_id == StudyRow.id, ~func.coalesce(ended, False))
    committed = (DeliveryRow.state == DeliveryState.COMMITTED) & (DeliveryRow.committed_at < before)
    delivering = exists().where(
        JobRow.study_id == StudyRow.id,
        ResultRow.job_id == JobRow.id,
        DeliveryRow.result_id == ResultRow.id,
        ~func.coalesce(committed, False),
    )
    finished = select(StudyRow.id, StudyRow.study_instance_uid).where(
        StudyRow.removed_at.is_(None),
        StudyRow.last_received_at < before,
        or_(StudyRow.committed_at.is_(None), StudyRow.committed_at < before),
        ~waiting,
        ~sending,
        ~working,
        ~delivering,
    )
    with ledger.reading() as session:
        studies = session.execute(finished).all()
    # One transaction a study: scanners wait for each.
    return tuple(uid for study_id, uid in studies if _expire_study(ledger, finished, study_id, now))


def _expire_study(ledger: Ledger, finished: Select[int, str], study_id: int, now: dt.datetime) -> bool:
    with ledger.transaction() as session:
        # Locked before it is looked at: what came or joined until then is seen.
        session.execute(select(StudyRow.id).where(StudyRow.id == study_id).with_for_update(key_share=True))
        study = session.execute(finished.where(StudyRow.id == study_id)).one_or_none()
        if study is None:
            return False
        session.execute(update(StudyRow).where(StudyRow.id == study_id).values(removed_at=now))
        session.execute(
            update(InstanceRow)
            .where(
                InstanceRow.series_id.in_(select(SeriesRow.id).where(SeriesRow.study_id == study_id)),
                InstanceRow.removed_at.is_(None),
            )
            .values(removed_at=now)
        )
        session.execute(
            update(ResultRow)
            .where(
                ResultRow.job_id.in_(select(JobRow.id).where(JobRow.study_id == study_id)),
                ResultRow.removed_at.is_(None),
            )
            .values(removed_at=now)
        )
        session.execute(
            update(JobRow)
            .where(JobRow.study_id == study_id, JobRow.inputs_removed_at.is_(None))
            .values(inputs_removed_at=now)
        )
        session.execute(delete(StudyAttributesRow).where(StudyAttributesRow.study_id == study_id))
        record_event(session, "study removed", study.study_instance_uid, at=now, study_id=study_id)
        return True


def expire_quarantine(ledger: Ledger, *, retention: dt.timedelta, now: dt.datetime) -> int:
    """Forget objects that were quarantined longer ago than ``retention``; returns how many."""
    with ledger.transaction() as session:
        expired = session.scalars(
            delete(QuarantineRow).where(QuarantineRow.at < now - retention).returning(QuarantineRow.id)
        ).all()
        return len(expired)


def expire_commitments(ledger: Ledger, *, retention: dt.timedelta, now: dt.datetime) -> int:
    """Forget storage commitment requests that ended longer ago than ``retention``; returns how many."""
    with ledger.transaction() as session:
        expired = session.scalars(
            delete(CommitmentTransactionRow)
            .where(
                CommitmentTransactionRow.state != ReportState.DUE,
                CommitmentTransactionRow.due_at < now - retention,
                func.coalesce(CommitmentTransactionRow.reported_at < now - retention, True),
            )
            .returning(CommitmentTransactionRow.id)
        ).all()
        return len(expired)


def expire_steps(ledger: Ledger, *, retention: dt.timedelta, now: dt.datetime) -> int:
    """Forget performed procedure steps that changed longer ago than ``retention``, ended or not; returns how many."""
    old = select(PerformedStepRow.id).where(PerformedStepRow.changed_at < now - retention)
    with ledger.transaction() as session:
        session.execute(delete(PerformedStepStudyRow).where(PerformedStepStudyRow.step_id.in_(old)))
        expired = session.scalars(
            delete(PerformedStepRow).where(PerformedStepRow.id.in_(old)).returning(PerformedStepRow.id)
        ).all()
        return len(expired)


def expire_events(ledger: Ledger, *, retention: dt.timedelta, now: dt.datetime) -> int:
    """Forget events older than ``retention``, except of studies whose files were not removed as long ago.

    Returns
    -------
    int
        How many were forgotten.
    """
    before = now - retention
    expired = (
        select(EventRow.id, EventRow.at)
        .outerjoin(StudyRow, StudyRow.id == EventRow.study_id)
        .where(EventRow.at < before, or_(EventRow.study_id.is_(None), StudyRow.removed_at < before))
        .order_by(EventRow.at)
        .limit(EVENTS_A_TRANSACTION)
    )
    forgotten = 0
    since = dt.datetime.min.replace(tzinfo=dt.UTC)
    while True:
        # Scanners wait for each transaction.
        with ledger.transaction() as session:
            rows = session.execute(expired.where(EventRow.at >= since)).all()
            session.execute(delete(EventRow).where(EventRow.id.in_([row.id for row in rows])))
        forgotten += len(rows)
        if len(rows) < EVENTS_A_TRANSACTION:
            return forgotten
        since = rows[-1].at


def sweep_files(ledger: Ledger, files: InstanceFiles, *, grace: dt.timedelta, now: dt.datetime) -> int:
    """Remove files that no row names: expired ones, and what a crash left between the file and its commit.

    Parameters
    ----------
    grace
        Younger files are left alone: their commit may still come. Longer than any transfer or job lasts.

    Returns
    -------
    int
        How many files were removed.
    """
    # The directory is listed before the ledger is read: a file that is committed in between is then seen as named.
    stored = list(files.stored_paths())
    with ledger.reading() as session:
        named = {
            *session.scalars(
                # By way of the studies that are present: they are few beside all that the ledger remembers.
                select(InstanceRow.path)
                .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
                .join(StudyRow, StudyRow.id == SeriesRow.study_id)
                .where(StudyRow.removed_at.is_(None), InstanceRow.removed_at.is_(None))
            ),
            *session.scalars(select(ResultRow.path).where(ResultRow.removed_at.is_(None))),
            *session.scalars(select(QuarantineRow.path)),
        }
    unnamed = [path for path in stored if str(path) not in named]
    return sum(files.remove_if_older(path, now - grace) for path in (*unnamed, *files.incoming_paths()))
