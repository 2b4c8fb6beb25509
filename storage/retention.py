"""Retention: which files may be removed from the disk, and their removal without losing an image still needed.

Two steps. The ledger first lets go of what is no longer needed, file by file; later the sweep removes those files and
no others. A file that came again in between is young, and the sweep leaves young files alone. A file that the ledger
neither names nor let go of is not this ledger's to delete: it is moved aside, reported, and kept until a person
explains it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Select, Table, delete, exists, func, literal, or_, select, update
from sqlalchemy.orm import Session, aliased

from storage.closing import FRONT_PAGE
from storage.files import InstanceFiles
from storage.identity import IdentityError, is_bound
from storage.ledger import Ledger, absent_insert, record_event
from storage.schema import (
    ENDED,
    Association,
    AssociationStudy,
    CommitmentRequest,
    CommitmentTransactionRow,
    DeliveryRow,
    EventRow,
    InstanceRow,
    JobRow,
    JobState,
    PerformedStepRow,
    PerformedStepStudyRow,
    QuarantineRow,
    ReleasedFileRow,
    ReportState,
    ResultRow,
    SeriesRow,
    ShadowComparisonRow,
    StudyAttributesRow,
    StudyRow,
)

__all__ = [
    "SWEEP_GRACE",
    "Swept",
    "check_bound",
    "expire_commitments",
    "expire_events",
    "expire_history",
    "expire_quarantine",
    "expire_steps",
    "expire_studies",
    "named_paths",
    "release_files",
    "sweep_files",
]

EVENTS_A_TRANSACTION = 1000
ASSOCIATIONS_A_TRANSACTION = 500
SWEEP_GRACE = dt.timedelta(hours=6)
"""For the sweep: longer than any transfer or job lasts."""


def expire_studies(ledger: Ledger, *, retention: dt.timedelta, now: dt.datetime) -> tuple[str, ...]:
    """Mark the files of finished studies as removed.

    A study is finished when no instance of it waits, no association that sent it is open, all its jobs have ended, what
    failed among them was told on a front page, and all deliveries of its results have ended (committed, delivered
    without verification, not accepted or dismissed); and when nothing of that happened, and this node committed to no
    instance of it, within ``retention``. A study with a failed job that nobody was told of, or with a dead delivery,
    stays until an operator has dealt with it.

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
    delivered = DeliveryRow.state.in_(ENDED) & (DeliveryRow.ended_at < before)
    delivering = exists().where(
        JobRow.study_id == StudyRow.id,
        ResultRow.job_id == JobRow.id,
        DeliveryRow.result_id == ResultRow.id,
        ~func.coalesce(delivered, False),
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
        of_study = InstanceRow.series_id.in_(select(SeriesRow.id).where(SeriesRow.study_id == study_id))
        present = of_study & InstanceRow.removed_at.is_(None)
        release_files(session, select(InstanceRow.path).where(present), now=now)
        session.execute(update(InstanceRow).where(present).values(removed_at=now))
        made = ResultRow.job_id.in_(select(JobRow.id).where(JobRow.study_id == study_id))
        kept = made & ResultRow.removed_at.is_(None)
        release_files(session, select(ResultRow.path).where(kept), now=now)
        session.execute(update(ResultRow).where(kept).values(removed_at=now))
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
    old = QuarantineRow.at < now - retention
    with ledger.transaction() as session:
        release_files(session, select(QuarantineRow.path).where(old), now=now)
        return len(session.scalars(delete(QuarantineRow).where(old).returning(QuarantineRow.id)).all())


def release_files(session: Session, paths: Select[str], *, now: dt.datetime) -> None:
    """Let go of files: the sweep removes each unless a row names it, or names it again by then.

    Parameters
    ----------
    paths
        Query for their paths.
    """
    table = cast(Table, ReleasedFileRow.__table__)
    listed = paths.subquery()
    session.execute(
        absent_insert(session.get_bind().dialect.name, table).from_select(
            ["path", "at"],
            select(listed.c.path, literal(now, ReleasedFileRow.at.type)).where(listed.c.path != "").distinct(),
        )
    )


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


def expire_history(ledger: Ledger, *, retention: dt.timedelta, now: dt.datetime) -> int:
    """Forget studies whose files were removed longer ago than ``retention``, with all that is known of them, and
    associations that ended longer ago and brought nothing that is still known.

    Returns
    -------
    int
        How many studies and associations were forgotten.
    """
    before = now - retention
    with ledger.reading() as session:
        removed = select(StudyRow.id).where(StudyRow.removed_at < before).order_by(StudyRow.removed_at)
        studies = session.scalars(removed).all()
    # One transaction a study: scanners wait for each.
    forgotten = sum(_forget_study(ledger, study_id, before) for study_id in studies)
    while True:
        with ledger.transaction() as session:
            ids = session.scalars(_forgettable_associations(before)).all()
            session.execute(delete(Association).where(Association.id.in_(ids)))
        forgotten += len(ids)
        if len(ids) < ASSOCIATIONS_A_TRANSACTION:
            return forgotten


def _forget_study(ledger: Ledger, study_id: int, before: dt.datetime) -> bool:
    with ledger.transaction() as session:
        still = select(StudyRow.id).where(StudyRow.id == study_id, StudyRow.removed_at < before)
        if session.scalar(still.with_for_update()) is None:
            # An image of it came.
            return False
        jobs = select(JobRow.id).where(JobRow.study_id == study_id)
        results = select(ResultRow.id).where(ResultRow.job_id.in_(jobs))
        deliveries = select(DeliveryRow.id).where(DeliveryRow.result_id.in_(results))
        series = select(SeriesRow.id).where(SeriesRow.study_id == study_id)
        release_files(session, select(QuarantineRow.path).where(QuarantineRow.job_id.in_(jobs)), now=before)
        for statement in (
            delete(CommitmentRequest).where(CommitmentRequest.delivery_id.in_(deliveries)),
            delete(DeliveryRow).where(DeliveryRow.result_id.in_(results)),
            delete(ResultRow).where(ResultRow.job_id.in_(jobs)),
            delete(QuarantineRow).where(QuarantineRow.job_id.in_(jobs)),
            delete(JobRow).where(JobRow.study_id == study_id),
            delete(InstanceRow).where(InstanceRow.series_id.in_(series)),
            delete(SeriesRow).where(SeriesRow.study_id == study_id),
            delete(AssociationStudy).where(AssociationStudy.study_id == study_id),
            delete(StudyAttributesRow).where(StudyAttributesRow.study_id == study_id),
            # It holds nothing of the patient, and the site's agreement is told over longer.
            update(ShadowComparisonRow).where(ShadowComparisonRow.study_id == study_id).values(study_id=None),
            delete(EventRow).where(EventRow.study_id == study_id),
            delete(StudyRow).where(StudyRow.id == study_id),
        ):
            session.execute(statement)
        return True


def _forgettable_associations(before: dt.datetime) -> Select[str]:
    return (
        select(Association.id)
        .where(
            Association.closed_at < before,
            Association.audited_at.is_not(None),
            *(
                ~exists().where(column == Association.id)
                for column in (
                    AssociationStudy.association_id,
                    InstanceRow.association_id,
                    StudyRow.last_association_id,
                    QuarantineRow.association_id,
                )
            ),
        )
        .limit(ASSOCIATIONS_A_TRANSACTION)
    )


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did."""

    removed: int
    """Files that the ledger had let go of, and half-written ones of processes that died."""
    set_aside: int
    """Files that nothing explains."""


def sweep_files(ledger: Ledger, files: InstanceFiles, *, grace: dt.timedelta, now: dt.datetime) -> Swept:
    """Remove the files that the ledger let go of; move those aside that nothing explains.

    While a backup runs nothing is swept: it copies what the ledger named when it began.

    Parameters
    ----------
    grace
        Younger files are left alone: their commit may still come. Longer than any transfer or job lasts.

    Raises
    ------
    IdentityError
        The directory is not the ledger's (it was unmounted, or another was mounted): nothing was touched.
    """
    check_bound(ledger, files)
    with files.sweeping() as alone:
        return _sweep(ledger, files, grace, now) if alone else Swept(0, 0)


def _sweep(ledger: Ledger, files: InstanceFiles, grace: dt.timedelta, now: dt.datetime) -> Swept:
    # The directory is listed before the ledger is read: a file that is committed in between is then seen as named.
    stored = [str(path) for path in files.stored_paths()]
    named = named_paths(ledger)
    with ledger.reading() as session:
        released = set(session.scalars(select(ReleasedFileRow.path).where(ReleasedFileRow.at <= now)))
    than = now - grace
    removed = {path for path in released - named if files.remove_if_older(path, than)}
    _forget_released(ledger, [path for path in released if path in named or not files.absolute(path).exists()])
    aside = [path for path in stored if path not in named | released and files.set_aside_if_older(path, than)]
    if aside:
        with ledger.transaction() as session:
            record_event(
                session, "files set aside", "storage directory", at=now, files=len(aside), for_example=aside[0]
            )
    waste = sum(files.remove_if_older(path, than) for path in files.incoming_paths())
    return Swept(len(removed) + waste, len(aside))


def check_bound(ledger: Ledger, files: InstanceFiles) -> None:
    """Make sure that what is about to be swept is the ledger's.

    Raises
    ------
    IdentityError
        It is not (it was unmounted, or another was mounted).
    """
    if not is_bound(ledger, files):
        raise IdentityError("the storage directory is not the one of this ledger any more: nothing is swept")


def named_paths(ledger: Ledger) -> frozenset[str]:
    """Paths of all files that the ledger names."""
    with ledger.reading() as session:
        return frozenset(
            (
                *session.scalars(
                    # By way of the studies that are present: they are few beside all that the ledger remembers.
                    select(InstanceRow.path)
                    .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
                    .join(StudyRow, StudyRow.id == SeriesRow.study_id)
                    .where(StudyRow.removed_at.is_(None), InstanceRow.removed_at.is_(None))
                ),
                *session.scalars(select(ResultRow.path).where(ResultRow.removed_at.is_(None))),
                *session.scalars(select(QuarantineRow.path)),
            )
        )


def _forget_released(ledger: Ledger, paths: list[str]) -> None:
    for start in range(0, len(paths), EVENTS_A_TRANSACTION):
        with ledger.transaction() as session:
            part = paths[start : start + EVENTS_A_TRANSACTION]
            session.execute(delete(ReleasedFileRow).where(ReleasedFileRow.path.in_(part)))
