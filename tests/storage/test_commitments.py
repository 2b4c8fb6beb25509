"""Storage commitment requests of peers in the ledger, and what retention may not take."""

from __future__ import annotations

import datetime as dt

import pytest
from ledger_rows import NOW, an_instance, associate
from sqlalchemy import select

from storage.commitments import (
    claim_commitments,
    commitment_reported_to,
    commitment_transaction,
    commitment_unreported,
    due_commitments,
    extend_commitments,
    record_commitment_request,
    report_elsewhere,
    take_responsibility,
)
from storage.instances import close_association, record_instances
from storage.jobs import create_jobs, study_contents
from storage.ledger import Ledger, LedgerError
from storage.retention import expire_commitments, expire_studies
from storage.schema import CommitmentTransactionRow, ReportState, StudyRow

MR = "1.2.840.10008.5.1.4.1.1.4"
DAY = dt.timedelta(days=1)


def asked(ledger: Ledger, transaction_uid: str = "1.2.1", *objects: str, title: str = "MR1") -> int:
    return record_commitment_request(
        ledger,
        calling_ae_title=title,
        transaction_uid=transaction_uid,
        referenced=[(MR, uid) for uid in objects or ("1.2.3",)],
        correlation_id=None,
        due_at=NOW + DAY,
        now=NOW,
    )


def row(ledger: Ledger, number: int) -> CommitmentTransactionRow:
    with ledger.reading() as session:
        return session.get_one(CommitmentTransactionRow, number)


def test_a_report_is_due_until_it_is_answered_or_given_up(ledger: Ledger) -> None:
    first, second = asked(ledger, "1.2.1"), asked(ledger, "1.2.2")
    assert due_commitments(ledger, NOW) == ()
    report_elsewhere(ledger, first, now=NOW)
    assert [one.id for one in due_commitments(ledger, NOW)] == [first]
    assert [one.id for one in due_commitments(ledger, NOW + DAY)] == [first, second]
    commitment_unreported(ledger, first, "it is down", NOW + 2 * DAY, now=NOW)
    (left,) = due_commitments(ledger, NOW + DAY)
    assert (left.id, left.referenced, left.failed_attempts) == (second, ((MR, "1.2.3"),), 0)
    commitment_unreported(ledger, first, "it is down", None, now=NOW)
    commitment_reported_to(ledger, second, committed=1, failed=0, status=0, now=NOW)
    assert (row(ledger, first).state, row(ledger, first).attempts) == (ReportState.DEAD, 2)
    assert row(ledger, second).state is ReportState.REPORTED
    # What comes late changes nothing.
    commitment_unreported(ledger, second, "late", None, now=NOW)
    report_elsewhere(ledger, first, now=NOW)
    assert due_commitments(ledger, NOW + 9 * DAY) == ()
    # Asked again, it is reported again.
    assert asked(ledger, "1.2.1") == first
    assert commitment_transaction(ledger, first).failed_attempts == 0
    assert [one.id for one in due_commitments(ledger, NOW + DAY)] == [first]
    with pytest.raises(LedgerError, match="no commitment transaction"):
        commitment_transaction(ledger, 99)


def test_whoever_reports_keeps_what_it_has_claimed_and_nothing_else(ledger: Ledger) -> None:
    first, second, foreign = asked(ledger, "1.2.1"), asked(ledger, "1.2.2"), asked(ledger, "1.2.3", title="MR2")
    at = NOW + DAY
    minute = dt.timedelta(minutes=1)
    claimed = claim_commitments(ledger, "MR1", at, limit=9, lease_s=60)
    assert [(one.id, one.due_at) for one in claimed] == [(first, at + minute), (second, at + minute)]
    commitment_reported_to(ledger, first, committed=1, failed=0, status=0, now=at)
    ids = [first, second, foreign]
    # What is told is kept no longer, and what was not claimed has another time.
    assert extend_commitments(ledger, ids, held_until=at + minute, until=at + 2 * minute) == {second}
    assert row(ledger, second).due_at == at + 2 * minute
    assert row(ledger, foreign).due_at == at
    # It ran out, and somebody else has it.
    assert [one.id for one in claim_commitments(ledger, "MR1", at + 2 * minute, limit=9, lease_s=60)] == [second]
    assert extend_commitments(ledger, ids, held_until=at + 2 * minute, until=at + 9 * minute) == frozenset()
    # The peer asks again: it is due as of then.
    asked(ledger, "1.2.2")
    assert extend_commitments(ledger, ids, held_until=at + 3 * minute, until=at + 9 * minute) == frozenset()


def test_a_transaction_uid_stands_for_one_set_of_objects_of_one_peer(ledger: Ledger) -> None:
    first = asked(ledger, "1.2.1", "1.2.3", "1.2.4")
    assert asked(ledger, "1.2.1", "1.2.4", "1.2.3") == first
    other, neighbour = asked(ledger, "1.2.1", "1.2.5"), asked(ledger, "1.2.1", "1.2.5", title="MR2")
    reuses = [commitment_transaction(ledger, one).reuses_transaction_uid for one in (first, other, neighbour)]
    assert reuses == [False, True, False]


def test_what_is_committed_stays_for_the_retention_time_from_the_report(ledger: Ledger) -> None:
    association = associate(ledger)
    instance, another = (an_instance(association, number) for number in (1, 2))
    record_instances(ledger, [instance, another], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    assert create_jobs(ledger, study_contents(ledger, "1.2.3"), [], reason="test", now=NOW) == ()
    # Only what was asked for, not the rest of its study.
    (held,) = take_responsibility(ledger, [instance.sop_instance_uid, "1.2"], now=NOW + 10 * DAY).values()
    assert (held.sop_instance_uid, held.path, held.size) == (instance.sop_instance_uid, instance.path, instance.size)
    assert expire_studies(ledger, retention=14 * DAY, now=NOW + 23 * DAY) == ()
    assert expire_studies(ledger, retention=14 * DAY, now=NOW + 25 * DAY) == ("1.2.3",)
    # What is gone is committed no more.
    assert take_responsibility(ledger, [instance.sop_instance_uid], now=NOW + 26 * DAY) == {}
    with ledger.reading() as session:
        assert session.scalars(select(StudyRow)).one().committed_at == NOW + 10 * DAY


def test_ended_requests_are_forgotten_and_open_ones_are_not(ledger: Ledger) -> None:
    asked(ledger, "1.2.1")
    commitment_reported_to(ledger, asked(ledger, "1.2.2"), committed=1, failed=0, status=0, now=NOW + 2 * DAY)
    assert expire_commitments(ledger, retention=14 * DAY, now=NOW + 15.5 * DAY) == 0
    assert expire_commitments(ledger, retention=14 * DAY, now=NOW + 17 * DAY) == 1
    assert [one.transaction_uid for one in due_commitments(ledger, NOW + DAY)] == ["1.2.1"]
