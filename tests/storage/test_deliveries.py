"""Deliveries: each transition by itself."""

from __future__ import annotations

import concurrent.futures
import datetime as dt

import pytest
from ledger_rows import DELIVERED, NOW, a_result, claim, receive_and_schedule
from sqlalchemy import select, update

from storage.deliveries import (
    Delivery,
    Selection,
    claim_deliveries,
    claim_overdue,
    commitment_reported,
    delivery_confirmed,
    delivery_failed,
    delivery_put_off,
    delivery_sent,
    delivery_unverified,
    destination_reached,
    destination_unreachable,
    destinations_with_work,
    dismiss_deliveries,
    extend_deliveries,
    release_deliveries,
    release_expired_deliveries,
    requeue_deliveries,
)
from storage.jobs import claim_job, complete_job
from storage.ledger import Ledger, LedgerError, open_ledger
from storage.overview import DeliveryOverview, backlog, delivery_overviews, events_of_study
from storage.schema import DeliveryRow, DeliveryState, EventRow

SOON = NOW + dt.timedelta(seconds=30)
LATER = NOW + dt.timedelta(seconds=90)


@pytest.fixture
def queued(ledger: Ledger) -> Ledger:
    """A ledger with results 1 and 2 for ``pacs`` and result 1 for ``archive``."""
    receive_and_schedule(ledger)
    job = claim_job(ledger, "w", NOW)
    assert job is not None
    complete_job(ledger, job, [a_result(1, "pacs", "archive"), a_result(2)], DELIVERED, now=NOW)
    return ledger


def _claim(ledger: Ledger, now: dt.datetime = NOW, owner: str = "d", destination: str = "pacs") -> list[Delivery]:
    return claim_deliveries(ledger, destination, 10, owner, now, 60)


def _report(ledger: Ledger, transaction: str, committed: set[str], failed: dict[str, str] | None = None) -> int:
    return commitment_reported(
        ledger,
        transaction,
        committed,
        failed or {},
        destinations={"pacs", "archive"},
        now=SOON,
        retry_at=lambda failures: LATER if failures < 2 else None,
    )


def _by_id(ledger: Ledger) -> dict[int, DeliveryOverview]:
    return {one.id: one for one in delivery_overviews(ledger)}


def test_claims_take_one_destination_in_order_and_once(queued: Ledger) -> None:
    assert destinations_with_work(queued, NOW) == ("archive", "pacs")
    assert [one.sop_instance_uid for one in _claim(queued)] == ["2.25.1", "2.25.2"]
    assert _claim(queued) == []
    assert destinations_with_work(queued, NOW) == ("archive",)
    assert len(claim_deliveries(queued, "archive", 1, "d", NOW, 60)) == 1


def test_claims_at_once_share_the_work(queued: Ledger) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        claims = pool.map(lambda owner: claim_deliveries(queued, "pacs", 1, owner, NOW, 60), "abcd")
        ids = [one.id for claim in claims for one in claim]
    assert sorted(ids) == [1, 3]


def test_without_commitment_sent_is_the_end_and_said_to_be_unverified(queued: Ledger) -> None:
    delivery_sent(queued, [one.id for one in _claim(queued)], None, None, now=SOON)
    one = _by_id(queued)[1]
    assert (one.state, one.transaction_uid, one.committed_at) == (DeliveryState.NOT_VERIFIED, None, None)
    with pytest.raises(LedgerError, match="both"):
        delivery_sent(queued, [1], "7.7", None, now=SOON)


def test_commitment_closes_and_failure_reopens(queued: Ledger) -> None:
    delivery_sent(queued, [one.id for one in _claim(queued)], "7.7", SOON, now=NOW)
    assert _report(queued, "7.7", {"2.25.1", "9.9"}, {"2.25.2": "no such object instance"}) == 2
    assert _report(queued, "7.7", {"2.25.1"}, {"2.25.2": "no such object instance"}) == 0
    assert _report(queued, "8.8", {"2.25.2"}) == 0
    deliveries = _by_id(queued)
    assert deliveries[1].state is DeliveryState.COMMITTED
    assert deliveries[3].state is DeliveryState.QUEUED
    assert deliveries[3].error == "the destination did not commit it: no such object instance"
    assert _claim(queued, SOON) == []
    delivery_sent(queued, [one.id for one in _claim(queued, LATER)], "7.8", LATER, now=LATER)
    _report(queued, "7.8", set(), {"2.25.2": "no such object instance"})
    assert _by_id(queued)[3].state is DeliveryState.DEAD


def test_late_commitment_of_an_earlier_request_counts_and_late_failure_does_not(queued: Ledger) -> None:
    delivery_sent(queued, [one.id for one in _claim(queued)], "7.7", SOON, now=NOW)
    assert claim_overdue(queued, "pacs", SOON, 60) == []
    assert claim_overdue(queued, "archive", LATER, 60) == []
    assert [one.id for one in claim_overdue(queued, "pacs", LATER, 60)] == [1, 3]
    # Whoever took them looks after them; if it dies, another one does.
    assert claim_overdue(queued, "pacs", LATER, 60) == []
    assert [one.id for one in claim_overdue(queued, "pacs", LATER + dt.timedelta(seconds=61), 60)] == [1, 3]
    delivery_sent(queued, [1, 3], "7.8", LATER, now=LATER)
    assert _report(queued, "7.7", {"2.25.1"}, {"2.25.2": "processing failure"}) == 1
    states = {number: one.state for number, one in _by_id(queued).items()}
    assert (states[1], states[3]) == (DeliveryState.COMMITTED, DeliveryState.AWAITING_COMMITMENT)


def test_commitment_that_comes_while_it_is_sent_again_ends_it(queued: Ledger) -> None:
    delivery_sent(queued, [one.id for one in _claim(queued)], "7.7", SOON, now=NOW)
    delivery_failed(queued, 1, "time-out", SOON, now=SOON)
    assert [one.id for one in _claim(queued, SOON)] == [1]
    _report(queued, "7.7", {"2.25.1"})
    delivery_failed(queued, 1, "connection reset", LATER, now=SOON)
    delivery_sent(queued, [1], "7.9", LATER, now=SOON)
    assert _by_id(queued)[1].state is DeliveryState.COMMITTED


def test_found_by_query_is_committed(queued: Ledger) -> None:
    delivery_sent(queued, [one.id for one in _claim(queued)], "7.7", SOON, now=NOW)
    delivery_confirmed(queued, [1], how="found by C-FIND", now=LATER)
    delivery_confirmed(queued, [2], how="found by C-FIND", now=LATER)
    states = {number: one.state for number, one in _by_id(queued).items()}
    assert (states[1], states[2]) == (DeliveryState.COMMITTED, DeliveryState.QUEUED)


def test_failures_wait_and_then_die_and_can_be_requeued(queued: Ledger) -> None:
    _claim(queued)
    delivery_failed(queued, 1, "refused: A700", SOON, now=NOW)
    assert _claim(queued) == []
    assert [one.failed_attempts for one in _claim(queued, SOON)] == [1]
    delivery_failed(queued, 1, "refused: C000", None, now=SOON)
    one = _by_id(queued)[1]
    assert (one.state, one.failed_attempts, one.error) == (DeliveryState.DEAD, 2, "refused: C000")
    assert requeue_deliveries(queued, Selection(destination="archive"), now=SOON) == 0
    assert requeue_deliveries(queued, Selection(job_id=99), now=SOON) == 0
    assert requeue_deliveries(queued, Selection(role="role-2"), now=SOON) == 0
    assert requeue_deliveries(queued, Selection("pacs", "role-1", study_instance_uid="1.2.3"), now=SOON) == 1
    assert [one.failed_attempts for one in _claim(queued, SOON)] == [0]


def test_what_a_dead_owner_was_sending_is_sent_again_at_once(queued: Ledger) -> None:
    _claim(queued, owner="a")
    _claim(queued, owner="b", destination="archive")
    assert release_deliveries(queued, "a", NOW) == 2
    again = _claim(queued, owner="c")
    assert [one.failed_attempts for one in again] == [0, 0]
    extend_deliveries(queued, "c", [one.id for one in again], SOON, 60)
    assert release_expired_deliveries(queued, NOW + dt.timedelta(seconds=61)) == 1  # b's
    assert release_expired_deliveries(queued, LATER + dt.timedelta(seconds=1)) == 2


def test_a_report_closes_only_deliveries_of_those_whom_the_reporter_speaks_for(queued: Ledger) -> None:
    delivery_sent(queued, [one.id for one in _claim(queued)], "7.7", SOON, now=NOW)
    for said in ({"2.25.1", "2.25.2"}, set()):
        failed = dict.fromkeys({"2.25.1", "2.25.2"} - said, "no such object instance")
        told = commitment_reported(
            queued, "7.7", said, failed, destinations={"archive"}, now=SOON, retry_at=lambda _failures: None
        )
        assert told == 0
    assert _by_id(queued)[1].state is DeliveryState.AWAITING_COMMITMENT
    assert _report(queued, "7.7", {"2.25.1"}) == 1


def test_an_operator_chooses_by_destination_kind_job_and_study(queued: Ledger) -> None:
    for destination in ("pacs", "archive"):
        for one in _claim(queued, destination=destination):
            delivery_failed(queued, one.id, "refused", None, now=NOW)
    given = {"reason": "the archive is gone", "by": "ada", "now": SOON}
    assert dismiss_deliveries(queued, Selection("pacs", "role-9"), **given) == 0  # type: ignore[arg-type]
    assert dismiss_deliveries(queued, Selection(study_instance_uid="9.9"), **given) == 0  # type: ignore[arg-type]
    assert dismiss_deliveries(queued, Selection("archive"), **given) == 1  # type: ignore[arg-type]
    assert {one.destination for one in _by_id(queued).values() if one.state is DeliveryState.DEAD} == {"pacs"}
    assert requeue_deliveries(queued, Selection(role="role-1"), now=SOON) == 1
    assert requeue_deliveries(queued, Selection(), now=SOON, states=(DeliveryState.DISMISSED,)) == 1
    assert requeue_deliveries(queued, Selection(), now=SOON) == 1
    assert {one.state for one in _by_id(queued).values()} == {DeliveryState.QUEUED}


def test_every_dead_letter_of_a_job_is_requeued_however_many_there_are(sqlite_url: str) -> None:
    ledger = open_ledger(sqlite_url)
    receive_and_schedule(ledger)
    many = 1001
    complete_job(ledger, claim(ledger), [a_result(number) for number in range(many)], DELIVERED, now=NOW)
    with ledger.transaction() as session:
        session.execute(update(DeliveryRow).values(state=DeliveryState.DEAD, ended_at=NOW))
    assert requeue_deliveries(ledger, Selection(job_id=1), now=SOON) == many
    ledger.close()


def _events(ledger: Ledger, kind: str) -> list[dict[str, object]]:
    return [dict(one.detail) for one in events_of_study(ledger, "1.2.3") if one.kind == kind]


def test_what_is_given_up_is_told_with_who_and_why(queued: Ledger) -> None:
    for one in _claim(queued):
        delivery_failed(queued, one.id, "refused", None, now=NOW)
    assert dismiss_deliveries(queued, Selection(role="role-2"), reason="not wanted", by="ada", now=SOON) == 1
    (event,) = _events(queued, "delivery dismissed")
    assert (event["reason"], event["by"], event["destination"]) == ("not wanted", "ada", "pacs")


def test_what_a_destination_has_no_room_for_waits_without_an_attempt_and_is_told_once(queued: Ledger) -> None:
    first, _ = _claim(queued)
    for times in (1, 2):
        delivery_put_off(queued, first.id, "no room (A700)", SOON, now=NOW)
        assert _claim(queued) == []
        (again,) = _claim(queued, now=SOON)
        assert (again.id, again.put_off, again.failed_attempts) == (first.id, times, 0)
    assert [event["error"] for event in _events(queued, "delivery put off")] == ["no room (A700)"]
    # Of what is no longer sent nothing is put off.
    delivery_failed(queued, first.id, "refused", None, now=SOON)
    delivery_put_off(queued, first.id, "no room", LATER, now=SOON)
    assert _by_id(queued)[first.id].state is DeliveryState.DEAD


def test_what_cannot_be_asked_about_is_closed_as_not_verified(queued: Ledger) -> None:
    first, second = _claim(queued)
    delivery_sent(queued, [first.id], "7.7", SOON, now=NOW)
    delivery_unverified(queued, [first.id, second.id], why="it answers no query", now=SOON)
    states = _by_id(queued)
    assert (states[first.id].state, states[second.id].state) == (DeliveryState.NOT_VERIFIED, DeliveryState.SENDING)
    assert [event["why"] for event in _events(queued, "delivery not verified")] == ["it answers no query"]


def test_an_outage_has_one_beginning_its_own_attempts_and_one_end(queued: Ledger) -> None:
    asked: list[int] = []

    def retry_at(attempts: int) -> dt.datetime:
        asked.append(attempts)
        return NOW + attempts * dt.timedelta(minutes=1)

    destination_reached(queued, "pacs", now=NOW)
    for minute in (0, 1):
        now = NOW + dt.timedelta(minutes=minute)
        ids = [one.id for one in _claim(queued, now=now)]
        assert len(ids) == 2
        destination_unreachable(queued, "pacs", ids, f"refused {minute}", retry_at=retry_at, now=now)
        (outage,) = backlog(queued, now=now).outages
        assert (outage.destination, outage.since, outage.attempts, outage.error, outage.waiting) == (
            "pacs",
            NOW,
            minute + 1,
            f"refused {minute}",
            2,
        )
        assert outage.retry_at == NOW + dt.timedelta(minutes=minute + 1)
        assert destinations_with_work(queued, now) == ("archive",)
    assert asked == [1, 2]
    assert [one.failed_attempts for one in _claim(queued, now=NOW + dt.timedelta(minutes=2))] == [0, 0]
    destination_reached(queued, "pacs", now=LATER)
    assert backlog(queued, now=LATER).outages == ()
    destination_reached(queued, "pacs", now=LATER)
    with queued.reading() as session:
        told = session.execute(
            select(EventRow.kind, EventRow.at).where(EventRow.kind.like("destination %")).order_by(EventRow.id)
        ).all()
    assert [tuple(one) for one in told] == [("destination unreachable", NOW), ("destination reached again", LATER)]
