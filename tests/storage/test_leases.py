"""Leases: one expires by itself, alone, and never because a clock was set."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st
from ledger_rows import DELIVERED, NOW, claim, receive_and_schedule, retry_at_once, route

from storage.jobs import complete_job, release_expired_jobs
from storage.leases import Lease, LeaseWatch, leases_of, renew
from storage.ledger import Ledger
from storage.overview import job_overviews
from storage.schema import JobState

YEARS = dt.timedelta(days=4000)


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _two_jobs_of_one_worker(ledger: Ledger) -> None:
    for study in ("1.2.1", "1.2.2"):
        receive_and_schedule(ledger, study, routed=route(series=(f"{study}.1",)))


def test_only_the_lease_that_expired_is_released(ledger: Ledger) -> None:
    _two_jobs_of_one_worker(ledger)
    silent, busy = claim(ledger, "w"), claim(ledger, "w")
    clock = _Clock()
    watch = LeaseWatch(60, clock)
    for _ in range(7):
        assert watch.expired(leases_of(ledger)) == ()
        clock.now += 9
        assert renew(ledger, [busy.lease]) == {busy.lease}
    expired = watch.expired(leases_of(ledger))
    assert [one.job_id for one in expired] == [silent.id]
    assert release_expired_jobs(ledger, expired, now=NOW, retry_at=retry_at_once()) == (silent.id,)
    states = {job.id: job.state for job in job_overviews(ledger)}
    assert states == {silent.id: JobState.QUEUED, busy.id: JobState.RUNNING}
    assert complete_job(ledger, busy, [], DELIVERED, now=NOW)
    assert not complete_job(ledger, silent, [], DELIVERED, now=NOW)


def test_a_step_of_the_wall_clock_expires_nothing(ledger: Ledger) -> None:
    _two_jobs_of_one_worker(ledger)
    job = claim(ledger, at=NOW - YEARS + YEARS)
    watch = LeaseWatch(60, _Clock())
    assert watch.expired(leases_of(ledger)) == ()
    claim(ledger, "v", at=NOW + YEARS)
    assert watch.expired(leases_of(ledger)) == ()
    assert complete_job(ledger, job, [], DELIVERED, now=NOW - YEARS)


def test_a_heartbeat_between_the_look_and_the_release_saves_the_lease(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    job = claim(ledger)
    seen = leases_of(ledger)
    renew(ledger, [job.lease])
    assert release_expired_jobs(ledger, seen, now=NOW, retry_at=retry_at_once()) == ()
    assert release_expired_jobs(ledger, leases_of(ledger), now=NOW, retry_at=retry_at_once()) == (job.id,)


def test_a_watch_that_stood_still_begins_anew() -> None:
    clock = _Clock()
    watch = LeaseWatch(60, clock)
    lease = Lease(1, "w", "t", 1, 300)
    assert watch.expired([lease]) == ()
    clock.now += 100_000
    assert watch.expired([lease]) == ()
    for _ in range(5):
        clock.now += 10
        assert watch.expired([lease]) == ()
    clock.now += 10
    assert watch.expired([lease]) == (lease,)


def test_a_watch_that_looks_twice_in_the_time_of_a_lease_stood_not_still() -> None:
    clock = _Clock()
    watch = LeaseWatch(60, clock)
    lease = Lease(1, "w", "t", 1, 300)
    for _ in range(2):
        assert watch.expired([lease]) == ()
        clock.now += 30
    assert watch.expired([lease]) == (lease,)


def test_leases_are_those_of_the_workers_asked_for(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    job = claim(ledger, "w")
    assert leases_of(ledger, ["v"]) == ()
    assert leases_of(ledger, ["w"]) == (Lease(job.id, "w", job.lease, 1, 300),)
    assert renew(ledger, []) == renew(ledger, ["unknown"]) == frozenset()


@given(st.lists(st.tuples(st.floats(0, 40), st.sets(st.sampled_from("abc"))), max_size=60))
def test_a_lease_expires_exactly_when_no_change_was_seen_for_its_time(steps: list[tuple[float, set[str]]]) -> None:
    clock = _Clock()
    watch = LeaseWatch(60, clock)
    beats = dict.fromkeys("abc", 0)
    changed = dict.fromkeys("abc", clock.now)
    watch.expired([Lease(1, "w", token, 0, 300) for token in beats])
    for pause, beating in steps:
        clock.now += pause
        for token in beating:
            beats[token] += 1
        if pause > 30:
            changed = dict.fromkeys("abc", clock.now)
        changed |= dict.fromkeys(beating, clock.now)
        expired = watch.expired([Lease(1, "w", token, beats[token], 300) for token in beats])
        assert {one.token for one in expired} == {token for token in beats if clock.now - changed[token] >= 60}
