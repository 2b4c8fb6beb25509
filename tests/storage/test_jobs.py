"""Jobs: each transition by itself, and claims under concurrency."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime as dt

import pytest
from ledger_rows import (
    DELIVERED,
    NOW,
    a_result,
    an_instance,
    associate,
    claim,
    close_versions,
    receive_and_schedule,
    retry_at_once,
    route,
)

from storage.closing import FRONT_PAGE
from storage.deliveries import claim_deliveries
from storage.instances import close_association, record_instances
from storage.jobs import (
    ResultConflictError,
    claim_job,
    complete_job,
    create_jobs,
    fail_job,
    inputs_in_work,
    note_step,
    release_lease,
    release_worker,
    requeue_job,
    shares_input,
    studies_to_consider,
    study_contents,
)
from storage.leases import renew
from storage.ledger import Ledger, LedgerError
from storage.overview import delivery_overviews, events_of_study, job_overviews
from storage.schema import JobState, Verdict

LATER = NOW + dt.timedelta(seconds=60)


def _states(ledger: Ledger) -> list[JobState]:
    return [job.state for job in reversed(job_overviews(ledger))]


def test_no_job_is_made_while_an_association_is_open(ledger: Ledger) -> None:
    association = associate(ledger)
    record_instances(ledger, [an_instance(association, 1)], at=NOW)
    contents = study_contents(ledger, "1.2.3")
    assert create_jobs(ledger, contents, [route()], reason="quiet", now=NOW) is None
    close_association(ledger, association, outcome="released", at=NOW)
    assert create_jobs(ledger, contents, [route()], reason="quiet", now=NOW) == (1,)


def test_only_who_holds_a_job_says_at_which_step_it_is(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    first = claim(ledger)
    (seen,) = job_overviews(ledger)
    assert (seen.state, seen.step) == (JobState.RUNNING, None)
    note_step(ledger, first.lease, "cine_segmentation")
    (seen,) = job_overviews(ledger)
    assert seen.step == "cine_segmentation"
    assert release_lease(ledger, first.lease, "it hung", now=NOW, retry_at=retry_at_once(NOW))
    note_step(ledger, first.lease, "encode")
    (seen,) = job_overviews(ledger)
    assert (seen.state, seen.step) == (JobState.QUEUED, None)
    # The next attempt begins anew.
    second = claim(ledger, at=LATER)
    note_step(ledger, first.lease, "encode")
    (seen,) = job_overviews(ledger)
    assert (seen.state, seen.step) == (JobState.RUNNING, None)
    note_step(ledger, second.lease, "x" * 100)
    assert complete_job(ledger, second, [], DELIVERED, now=LATER)
    assert [one.step for one in job_overviews(ledger)] == [None, None]


def test_a_duplicate_holds_the_study_in_mid_association(ledger: Ledger) -> None:
    first, second = associate(ledger), associate(ledger)
    record_instances(ledger, [an_instance(first, 1)], at=NOW)
    close_association(ledger, first, outcome="released", at=NOW)
    record_instances(ledger, [an_instance(second, 1)], at=NOW)
    (waiting,) = studies_to_consider(ledger)
    assert waiting.open_associations == 1


def test_no_job_is_made_of_a_study_that_changed_since_it_was_seen(ledger: Ledger) -> None:
    association = associate(ledger)
    record_instances(ledger, [an_instance(association, 1)], at=NOW)
    seen = study_contents(ledger, "1.2.3")
    record_instances(ledger, [an_instance(association, 2)], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    assert create_jobs(ledger, seen, [route()], reason="quiet", now=NOW) is None
    (waiting,) = studies_to_consider(ledger)
    assert (waiting.version, waiting.instances) == (0, 2)


def test_making_jobs_twice_makes_them_once(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    assert studies_to_consider(ledger) == ()
    assert create_jobs(ledger, study_contents(ledger, "1.2.3"), [route()], reason="again", now=NOW) is None
    assert _states(ledger) == [JobState.QUEUED]


def test_a_late_arrival_is_a_new_version_that_supersedes_what_has_not_started(ledger: Ledger) -> None:
    receive_and_schedule(ledger, count=2)
    receive_and_schedule(ledger, count=3, at=LATER)
    assert _states(ledger) == [JobState.SUPERSEDED, JobState.QUEUED]
    job = claim_job(ledger, "w", LATER)
    assert job is not None
    assert (job.study_version, len(job.paths)) == (2, 3)


def test_an_earlier_version_that_is_given_back_does_not_run_after_the_later_one(ledger: Ledger) -> None:
    receive_and_schedule(ledger, count=2)
    assert claim_job(ledger, "w", NOW) is not None
    receive_and_schedule(ledger, count=3, at=LATER)
    release_worker(ledger, "w", "SIGKILL", counted=True, now=LATER, retry_at=retry_at_once(LATER))
    assert _states(ledger) == [JobState.SUPERSEDED, JobState.QUEUED]


def test_a_job_reads_its_version_and_not_what_came_later(ledger: Ledger) -> None:
    receive_and_schedule(ledger, count=2)
    association = associate(ledger)
    record_instances(ledger, [an_instance(association, 9)], at=LATER)
    job = claim_job(ledger, "w", LATER)
    assert job is not None
    assert len(job.paths) == 2


def test_a_late_arrival_outside_the_route_makes_a_version_but_no_job(ledger: Ledger) -> None:
    receive_and_schedule(ledger, count=2)
    association = associate(ledger)
    record_instances(ledger, [an_instance(association, 9, series="8.8")], at=LATER)
    close_association(ledger, association, outcome="released", at=LATER)
    contents = study_contents(ledger, "1.2.3")
    assert create_jobs(ledger, contents, [route()], reason="quiet", now=LATER) == ()
    assert study_contents(ledger, "1.2.3").version == 2
    assert _states(ledger) == [JobState.QUEUED]


def test_pauses_are_measured_among_the_instances_that_wait(ledger: Ledger) -> None:
    association = associate(ledger)
    for number, second in enumerate((0, 1, 8, 9)):
        record_instances(ledger, [an_instance(association, number)], at=NOW + dt.timedelta(seconds=second))
    close_association(ledger, association, outcome="released", at=NOW)
    contents = study_contents(ledger, "1.2.3")
    assert contents.longest_pause_s == 7
    create_jobs(ledger, contents, [], reason="quiet", now=NOW)
    assert study_contents(ledger, "1.2.3").longest_pause_s == 0


def test_claims_go_by_priority_then_age(ledger: Ledger) -> None:
    for number, (priority, minute) in enumerate([(10, 0), (50, 2), (50, 1)]):
        study = f"1.2.{number}"
        receive_and_schedule(
            ledger,
            study,
            routed=route(series=(f"{study}.1",), priority=priority),
            at=NOW + dt.timedelta(minutes=minute),
        )
    claimed = [claim_job(ledger, "w", LATER + dt.timedelta(minutes=9)) for _ in range(4)]
    assert [job and job.study_instance_uid for job in claimed] == ["1.2.2", "1.2.1", "1.2.0", None]


def test_workers_that_claim_at_once_never_get_the_same_job(ledger: Ledger) -> None:
    for number in range(12):
        receive_and_schedule(ledger, f"1.2.{number}", count=1)

    def claim_all(worker: str) -> list[int]:
        claimed = []
        while (job := claim_job(ledger, worker, NOW)) is not None:
            claimed.append(job.id)
        return claimed

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        claimed = [job for jobs in pool.map(claim_all, "abcd") for job in jobs]
    assert sorted(claimed) == list(range(1, 13))


def test_completing_records_results_and_deliveries_once(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    job = claim(ledger)
    results = [a_result(1, "pacs", "archive"), a_result(2, "pacs")]
    assert complete_job(ledger, job, results, DELIVERED, now=NOW)
    assert not complete_job(ledger, job, results, DELIVERED, now=NOW)
    requeue_job(ledger, job.id, now=NOW)
    again = claim(ledger)
    assert again.id == job.id
    assert complete_job(ledger, again, [*results, a_result(3)], DELIVERED, now=NOW)
    assert [(one.sop_instance_uid, one.destination) for one in reversed(delivery_overviews(ledger))] == [
        ("2.25.1", "pacs"),
        ("2.25.1", "archive"),
        ("2.25.2", "pacs"),
        ("2.25.3", "pacs"),
    ]
    assert claim_deliveries(ledger, "pacs", 9, "d", NOW, 60)[0].correlation_id == job.correlation_id


def test_other_bytes_under_a_recorded_uid_are_refused_and_nothing_is_recorded(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    job = claim(ledger)
    complete_job(ledger, job, [a_result(1)], DELIVERED, now=NOW)
    requeue_job(ledger, job.id, now=NOW)
    again = claim(ledger)
    other = dataclasses.replace(a_result(1), digest="f" * 64, path="results/ff/f.dcm")
    with pytest.raises(ResultConflictError, match=r"role-1 2\.25\.1: job 1 has recorded .* with other bytes"):
        complete_job(ledger, again, [a_result(5), other], DELIVERED, now=NOW)
    (overview,) = job_overviews(ledger, states=(JobState.RUNNING,))
    assert overview.results == 1
    assert {one.sop_instance_uid for one in delivery_overviews(ledger)} == {"2.25.1"}
    assert fail_job(ledger, again, "conflict", retryable=False, retry_at=retry_at_once(), now=NOW)


def test_a_worker_that_lost_its_job_cannot_end_it(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    slow = claim(ledger, "w")
    release_worker(ledger, "w", "died", counted=True, now=NOW, retry_at=retry_at_once())
    # Under the same name: a process that was started again is another one.
    quick = claim(ledger, "w")
    assert (quick.id, quick.attempt) == (slow.id, 2)
    assert not complete_job(ledger, slow, [a_result(1)], DELIVERED, now=LATER)
    assert not fail_job(ledger, slow, "late", retryable=False, retry_at=retry_at_once(), now=LATER)
    assert renew(ledger, [slow.lease, quick.lease]) == {quick.lease}
    assert complete_job(ledger, quick, [a_result(1)], DELIVERED, now=LATER)


@pytest.mark.parametrize(("retryable", "attempts"), [(True, 3), (False, 1)])
def test_errors_are_tried_again_only_when_that_can_help(ledger: Ledger, retryable: bool, attempts: int) -> None:
    receive_and_schedule(ledger)
    now = NOW
    for attempt in range(1, attempts + 1):
        job = claim_job(ledger, "w", now)
        assert job is not None
        assert job.attempt == attempt
        later = now + dt.timedelta(seconds=5)
        fail_job(ledger, job, "out of memory", retryable=retryable, retry_at=retry_at_once(later), now=now)
        ended = attempt == attempts
        assert close_versions(ledger, now) == ended
        now = later
    _, job_overview = job_overviews(ledger)
    assert (job_overview.state, job_overview.verdict) == (JobState.FAILED, Verdict.FAILED)
    assert job_overview.error == "out of memory"
    assert job_overview.sentences == ("out of memory",)
    requeue_job(ledger, job_overview.id, now=now)
    assert claim_job(ledger, "w", now) is not None


def test_a_job_that_kills_its_workers_comes_after_the_others_and_ends(ledger: Ledger) -> None:
    receive_and_schedule(ledger, "1.2.1", routed=route(series=("1.2.1.1",), attempts=3, priority=90))
    asked: list[int] = []

    def retry_at(attempts: int) -> dt.datetime:
        asked.append(attempts)
        return NOW

    assert claim(ledger).study_instance_uid == "1.2.1"
    release_worker(ledger, "w", "SIGKILL", counted=True, now=NOW, retry_at=retry_at)
    for number in (2, 3):
        study = f"1.2.{number}"
        receive_and_schedule(ledger, study, routed=route(series=(f"{study}.1",)), at=LATER)
    order = []
    while (job := claim_job(ledger, "w", LATER)) is not None:
        order.append(job.study_instance_uid)
        if job.study_instance_uid == "1.2.1" and job.package != FRONT_PAGE:
            assert release_worker(ledger, "w", "SIGKILL", counted=True, now=NOW, retry_at=retry_at) == (job.id,)
        else:
            complete_job(ledger, job, [], DELIVERED, now=LATER)
    assert order == ["1.2.2", "1.2.3", "1.2.2", "1.2.3", "1.2.1", "1.2.1", "1.2.1"]
    assert asked == [1, 2]
    failed = job_overviews(ledger, states=(JobState.FAILED,))
    assert [(one.study_instance_uid, one.attempts, one.error) for one in failed] == [("1.2.1", 3, "SIGKILL")]


def test_a_stopped_worker_costs_the_job_nothing(ledger: Ledger) -> None:
    receive_and_schedule(ledger, routed=route(attempts=1))
    for _ in range(20):
        job = claim_job(ledger, "w", NOW)
        assert job is not None
        assert job.attempt == 1
        release_worker(ledger, "w", "stopped", counted=False, now=NOW, retry_at=retry_at_once())


def test_only_ended_jobs_can_be_requeued(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    with pytest.raises(LedgerError, match="queued"):
        requeue_job(ledger, 1, now=NOW)
    with pytest.raises(LedgerError, match="no job 7"):
        requeue_job(ledger, 7, now=NOW)
    with pytest.raises(LedgerError, match="no study"):
        study_contents(ledger, "9.9")


def test_events_tell_the_story_in_order_under_one_correlation_id(ledger: Ledger) -> None:
    receive_and_schedule(ledger, count=1)
    job = claim_job(ledger, "w", NOW)
    assert job is not None
    complete_job(ledger, job, [], DELIVERED, now=NOW)
    events = events_of_study(ledger, "1.2.3")
    assert [event.kind for event in events] == [
        "reception started",
        "study complete",
        "job queued",
        "job started",
        "job succeeded",
        "job queued",
    ]
    assert {event.correlation_id for event in events} == {job.correlation_id}


def test_each_attempt_is_told_with_its_number_and_its_error(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    for attempt in (1, 2):
        job = claim(ledger)
        fail_job(ledger, job, f"error {attempt}", retryable=attempt == 1, retry_at=retry_at_once(), now=NOW)
    told = [(one.kind, one.detail.get("attempt"), one.detail.get("error")) for one in events_of_study(ledger, "1.2.3")]
    assert told[2:] == [
        ("job queued", None, None),
        ("job started", 1, None),
        ("job attempt failed", 1, "error 1"),
        ("job started", 2, None),
        ("job failed", 2, "error 2"),
        ("job queued", None, None),
    ]


def test_a_lease_that_is_taken_back_counts_an_attempt_and_says_why(ledger: Ledger) -> None:
    receive_and_schedule(ledger, routed=route(attempts=2))
    for attempt in (1, 2):
        job = claim(ledger)
        assert job.attempt == attempt
        assert not release_lease(ledger, "another", "no", now=NOW, retry_at=retry_at_once())
        assert release_lease(ledger, job.lease, "took too long", now=NOW, retry_at=retry_at_once())
        assert not release_lease(ledger, job.lease, "took too long", now=NOW, retry_at=retry_at_once())
    (failed,) = job_overviews(ledger, states=(JobState.FAILED,))
    assert (failed.attempts, failed.error) == (2, "took too long")


def test_an_input_is_kept_while_another_package_waits_for_it(ledger: Ledger) -> None:
    association = associate(ledger)
    record_instances(ledger, [an_instance(association, 1)], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    two = [route(), dataclasses.replace(route(), package="another")]
    assert create_jobs(ledger, study_contents(ledger, "1.2.3"), two, reason="quiet", now=NOW) == (1, 2)
    first = claim(ledger)
    assert shares_input(ledger, first)
    assert inputs_in_work(ledger) == {first.input_digest}
    second = claim(ledger)
    assert not shares_input(ledger, first)
    for job in (first, second):
        assert complete_job(ledger, job, [], DELIVERED, now=NOW)
    assert inputs_in_work(ledger) == frozenset()
