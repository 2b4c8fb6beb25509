"""What a job read: which files still hold it, byte for byte."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from storage.jobs import STUDY_COMPLETE, input_digest
from storage.ledger import Ledger
from storage.replacement import INSTANCE_REPLACED, REPLACED
from storage.schema import EventRow, InstanceRow, JobRow, QuarantineRow, SeriesRow

__all__ = ["files_read"]


def files_read(ledger: Ledger, job_id: int) -> tuple[str, ...]:
    """Files that hold images as a job read them, relative to the storage directory.

    Of images that were replaced since, they are those that quarantine keeps. Nothing is guessed: the digests have to
    add up to that of the job's input. Empty where they do not, or where no file is left.
    """
    with ledger.reading() as session:
        job = session.get_one(JobRow, job_id)
        of_study = SeriesRow.study_id == job.study_id
        rows = session.execute(
            select(InstanceRow, SeriesRow.series_instance_uid)
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .where(of_study)
            .order_by(InstanceRow.id)
        ).all()
        events = session.scalars(
            select(EventRow)
            .where(EventRow.study_id == job.study_id, EventRow.kind.in_((STUDY_COMPLETE, INSTANCE_REPLACED)))
            # Not by their time: clocks are set.
            .order_by(EventRow.id.desc())
        )
        digests = {row.sop_instance_uid: row.digest for row, _ in rows}
        counts = [len(rows)]
        for one in events:
            if one.kind == STUDY_COMPLETE and one.detail["version"] == job.study_version:
                # What came later stands after what was there, also where that came again after retention.
                counts.append(int(one.detail["instances"]))
                break
            if one.kind == INSTANCE_REPLACED and digests.get(one.subject) == one.detail["after"]:
                digests[one.subject] = str(one.detail["before"])
        for count in counts:
            read = [row for row, uid in rows[:count] if uid in job.series_instance_uids]
            if input_digest(digests[row.sop_instance_uid] for row in read) == job.input_digest:
                held = [
                    row.path for row in read if row.removed_at is None and row.digest == digests[row.sop_instance_uid]
                ]
                return (*held, *_kept_aside(session, of_study, {row.sop_instance_uid for row in read}, digests))
        return ()


def _kept_aside(
    session: Session, of_study: ColumnElement[bool], read: Collection[str], digests: Mapping[str, str]
) -> list[str]:
    uids = select(InstanceRow.sop_instance_uid).join(SeriesRow, SeriesRow.id == InstanceRow.series_id).where(of_study)
    rows = session.execute(
        select(QuarantineRow.sop_instance_uid, QuarantineRow.digest, QuarantineRow.path)
        .where(QuarantineRow.sop_instance_uid.in_(uids), QuarantineRow.reason == REPLACED)
        .order_by(QuarantineRow.id)
    )
    return [path for uid, digest, path in rows if uid is not None and uid in read and digests[uid] == digest]
