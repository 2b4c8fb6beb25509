"""Which files still hold what a job read; and that a study is described by what is held of it."""

from __future__ import annotations

import dataclasses
import datetime as dt

from ledger_rows import NOW, an_instance, associate, receive_and_schedule, route
from sqlalchemy import select

from storage.files import QUARANTINE, InstanceFiles
from storage.holdings import describe_study, held_studies, undescribed_studies
from storage.inputs import files_read
from storage.instances import ReceivedInstance, close_association, record_instances
from storage.jobs import create_jobs, study_contents
from storage.ledger import Ledger
from storage.replacement import replace_instance
from storage.retention import expire_studies
from storage.schema import InstanceRow, QuarantineRow, SeriesRow

STUDY = "1.2.3"
SYNTAX = "1.2.840.10008.1.2.1"


def image(ledger: Ledger, files: InstanceFiles, association: str, number: int, content: bytes) -> ReceivedInstance:
    stored = files.store(content, file_meta=b"meta", transfer_syntax_uid=SYNTAX)
    one = an_instance(association, number, study=STUDY, series=f"{STUDY}.1", digest=stored.digest)
    return dataclasses.replace(one, path=stored.path, size=stored.size)


def received(ledger: Ledger, files: InstanceFiles, *numbers: int) -> list[ReceivedInstance]:
    """Images of one association."""
    association = associate(ledger)
    images = [image(ledger, files, association, number, b"before %d" % number) for number in numbers]
    record_instances(ledger, images, at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    return images


def corrected(ledger: Ledger, files: InstanceFiles, *numbers: int) -> None:
    """The same images with other bytes, in their place."""
    association = associate(ledger)
    for number in numbers:
        one = image(ledger, files, association, number, b"after %d" % number)
        assert replace_instance(ledger, files, one, by="MR1", now=NOW)
    close_association(ledger, association, outcome="released", at=NOW)


def job(ledger: Ledger) -> int:
    made = create_jobs(ledger, study_contents(ledger, STUDY), [route(series=(f"{STUDY}.1",))], reason="test", now=NOW)
    assert made is not None
    (one,) = made
    return one


def test_what_a_job_read_is_known_whatever_came_or_was_corrected_since(ledger: Ledger, files: InstanceFiles) -> None:
    files.make_folders()
    images = received(ledger, files, 1, 2)
    first = job(ledger)
    assert files_read(ledger, first) == tuple(one.path for one in images)
    received(ledger, files, 3)
    corrected(ledger, files, 1)
    second = job(ledger)
    # Twice: what quarantine has of the second is none of what the first job read.
    corrected(ledger, files, 2)
    with ledger.reading() as session:
        aside = {one.digest: one.path for one in session.scalars(select(QuarantineRow))}
        (third,) = session.scalars(select(InstanceRow.path).where(InstanceRow.sop_instance_uid == f"{STUDY}.1.3"))
        (now_first,) = session.scalars(select(InstanceRow.path).where(InstanceRow.sop_instance_uid == f"{STUDY}.1.1"))
    assert all(path.startswith(QUARANTINE) for path in aside.values())
    assert files_read(ledger, first) == (aside[images[0].digest], aside[images[1].digest])
    assert files_read(ledger, second) == (now_first, third, aside[images[1].digest])
    third_job = job(ledger)
    assert len(files_read(ledger, third_job)) == 3
    assert not set(files_read(ledger, third_job)) & set(aside.values())


def test_nothing_is_guessed_of_what_a_job_read(ledger: Ledger, files: InstanceFiles) -> None:
    (made,) = receive_and_schedule(ledger, STUDY)
    with ledger.transaction() as session:
        session.scalars(select(InstanceRow).order_by(InstanceRow.id)).first().digest = 64 * "f"  # type: ignore[union-attr]
    assert files_read(ledger, made) == ()
    with ledger.transaction() as session:
        session.scalars(select(SeriesRow)).one().series_instance_uid = "1.2.9"
    assert files_read(ledger, made) == ()


def test_a_study_is_described_by_what_is_held_of_it(ledger: Ledger, files: InstanceFiles) -> None:
    """What had been read of a file before it was replaced, or removed, was kept as that of the study."""
    files.make_folders()
    received(ledger, files, 1)
    (read,) = undescribed_studies(ledger)
    corrected(ledger, files, 1)
    assert not describe_study(ledger, read.id, {"PatientID": "WRONG"}, read_from=read.path)
    assert held_studies(ledger) == ()
    (again,) = undescribed_studies(ledger)
    assert again.path != read.path
    assert create_jobs(ledger, study_contents(ledger, STUDY), [], reason="test", now=NOW) == ()
    assert expire_studies(ledger, retention=dt.timedelta(days=1), now=NOW + dt.timedelta(days=2)) == (STUDY,)
    assert not describe_study(ledger, again.id, {"PatientID": "LEFT BEHIND"}, read_from=again.path)
    received(ledger, files, 2)
    (last,) = undescribed_studies(ledger)
    assert describe_study(ledger, last.id, {"PatientID": "P"}, read_from=last.path)
    assert [one.attributes for one in held_studies(ledger)] == [{"PatientID": "P"}]
