"""The closing job: made once, when all packages of a version have ended, whatever they came to."""

from __future__ import annotations

import concurrent.futures
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

from storage.closing import FRONT_PAGE, package_outcomes
from storage.instances import close_association, record_instances
from storage.jobs import (
    Job,
    Outcome,
    RoutedJob,
    claim_job,
    complete_job,
    create_jobs,
    fail_job,
    release_worker,
    requeue_job,
    study_contents,
)
from storage.ledger import Ledger, LedgerError
from storage.overview import job_overviews, ledger_overview, study_overviews
from storage.schema import JobSlot, JobState, Verdict

LATER = NOW + dt.timedelta(minutes=1)
FUNCTION, MOTION = "ventricular_function", "motion"


def _receive(ledger: Ledger, *packages: RoutedJob, count: int = 3, at: dt.datetime = NOW) -> tuple[int, ...]:
    association = associate(ledger, at=at)
    record_instances(ledger, [an_instance(association, number) for number in range(count)], at=at)
    close_association(ledger, association, outcome="released", at=at)
    created = create_jobs(ledger, study_contents(ledger, "1.2.3"), packages, reason="test", now=at)
    assert created is not None
    return created


def _both(ledger: Ledger, *, count: int = 3, at: dt.datetime = NOW) -> tuple[Job, Job]:
    _receive(ledger, route(), route(package=MOTION, priority=10), count=count, at=at)
    return claim(ledger, "a", at), claim(ledger, "b", at)


def _front_pages(ledger: Ledger) -> list[tuple[int, JobState]]:
    return [(job.id, job.state) for job in reversed(job_overviews(ledger)) if job.package == FRONT_PAGE]


def test_a_route_makes_a_job_of_each_package(ledger: Ledger) -> None:
    function, motion = _both(ledger)
    assert (function.package, motion.package) == (FUNCTION, MOTION)
    assert function.input_digest == motion.input_digest
    assert function.lease != motion.lease


def test_the_last_package_to_end_makes_the_closing_job(ledger: Ledger) -> None:
    function, motion = _both(ledger)
    sentence = "No long-axis cine was sent."
    complete_job(ledger, motion, [], Outcome(Verdict.DECLINED, (sentence,)), now=NOW)
    assert _front_pages(ledger) == []
    found = Outcome(Verdict.DELIVERED, (), ("LVEF is 57 %.",))
    complete_job(ledger, function, [a_result(1)], found, now=LATER)
    closing = claim(ledger, at=LATER)
    assert (closing.package, closing.route, len(closing.paths)) == (FRONT_PAGE, "cine", 3)
    first, second = package_outcomes(ledger, closing.id)
    assert (first.package, first.verdict, first.sentences) == (FUNCTION, Verdict.DELIVERED, ())
    assert first.key_numbers == ("LVEF is 57 %.",)
    assert [one.sop_instance_uid for one in first.results] == ["2.25.1"]
    assert (second.package, second.verdict, second.sentences) == (MOTION, Verdict.DECLINED, (sentence,))


@pytest.mark.parametrize("how", ["error", "death"])
def test_what_fails_for_good_is_told_too(ledger: Ledger, how: str) -> None:
    _receive(ledger, route(attempts=2))
    for attempt in (1, 2):
        assert _front_pages(ledger) == []
        job = claim(ledger)
        assert job.attempt == attempt
        if how == "error":
            fail_job(ledger, job, "out of memory", retryable=True, retry_at=retry_at_once(), now=NOW)
        else:
            release_worker(ledger, "w", "out of memory", counted=True, now=NOW, retry_at=retry_at_once())
    (outcome,) = package_outcomes(ledger, claim(ledger).id)
    assert (outcome.package, outcome.verdict, outcome.sentences) == (FUNCTION, Verdict.FAILED, ("out of memory",))


def test_what_a_package_found_goes_to_whoever_tells_it_and_not_beyond_its_run(ledger: Ledger) -> None:
    """A package that failed when it ran again was told with the numbers of the run before."""
    _receive(ledger, route())
    found = Outcome(
        Verdict.DELIVERED, summary={"numbers": {"LVEF_percent": 57.0}, "withheld": {"pacs": "not this manufacturer"}}
    )
    job = claim(ledger)
    complete_job(ledger, job, [a_result(1)], found, now=NOW)
    first = claim(ledger)
    (outcome,) = package_outcomes(ledger, first.id)
    assert outcome.job_id == job.id
    assert outcome.numbers == {"LVEF_percent": 57.0}
    assert outcome.withheld == {"pacs": "not this manufacturer"}
    complete_job(ledger, first, [a_result(9)], DELIVERED, now=NOW)
    requeue_job(ledger, job.id, now=LATER)
    again = claim(ledger, at=LATER)
    fail_job(ledger, again, "error", retryable=False, retry_at=retry_at_once(), now=LATER)
    (outcome,) = package_outcomes(ledger, claim(ledger, at=LATER).id)
    assert outcome.verdict is Verdict.FAILED
    assert (outcome.numbers, outcome.withheld) == ({}, {})


def test_a_package_that_runs_again_alone_leads_to_a_new_front_page(ledger: Ledger) -> None:
    function, motion = _both(ledger)
    complete_job(ledger, function, [a_result(1)], DELIVERED, now=NOW)
    fail_job(ledger, motion, "error", retryable=False, retry_at=retry_at_once(), now=NOW)
    first = claim(ledger)
    complete_job(ledger, first, [a_result(9)], DELIVERED, now=NOW)
    requeue_job(ledger, motion.id, now=LATER)
    again = claim(ledger, at=LATER)
    assert (again.id, again.attempt) == (motion.id, 1)
    assert claim_job(ledger, "v", LATER) is None
    complete_job(ledger, again, [a_result(2)], DELIVERED, now=LATER)
    second = claim(ledger, at=LATER)
    assert second.id != first.id
    assert second.identity != first.identity
    assert [one.sop_instance_uid for one in second.predecessors] == ["2.25.9"]
    assert [one.verdict for one in package_outcomes(ledger, second.id)] == [Verdict.DELIVERED, Verdict.DELIVERED]


def test_another_study_that_has_grown_keeps_no_front_page_back(ledger: Ledger) -> None:
    for count in (3, 4):
        receive_and_schedule(ledger, "9.9.9", count=count)
        complete_job(ledger, claim(ledger), [], DELIVERED, now=NOW)
    close_versions(ledger)
    receive_and_schedule(ledger)
    complete_job(ledger, claim(ledger), [a_result(1)], DELIVERED, now=NOW)
    closing = claim(ledger)
    assert (closing.package, closing.study_instance_uid) == (FRONT_PAGE, "1.2.3")


def test_results_name_those_of_a_version_that_still_ran_when_the_rest_came(ledger: Ledger) -> None:
    """The second half of a study came while the first was analysed: two reports, and neither named the other."""
    _receive(ledger, route())
    half = claim(ledger, "a")
    _receive(ledger, route(), count=4, at=LATER)
    assert claim_job(ledger, "b", LATER) is None
    complete_job(ledger, half, [a_result(1)], DELIVERED, now=LATER + dt.timedelta(minutes=1))
    for _ in range(2):
        whole = claim(ledger, "b", LATER + dt.timedelta(minutes=2))
        assert (whole.study_version, len(whole.paths)) == (2, 4)
        assert [one.sop_instance_uid for one in whole.predecessors] == ["2.25.1"]
        fail_job(ledger, whole, "error", retryable=True, retry_at=retry_at_once(), now=LATER)


def test_a_version_that_is_tried_again_holds_up_no_later_one(ledger: Ledger) -> None:
    _receive(ledger, route())
    half = claim(ledger, "a")
    _receive(ledger, route(), route(package=MOTION), count=4, at=LATER)
    assert claim(ledger, "b", LATER).package == MOTION
    fail_job(ledger, half, "error", retryable=True, retry_at=retry_at_once(), now=LATER)
    whole = claim(ledger, "c", LATER)
    assert (whole.study_version, whole.package, whole.predecessors) == (2, FUNCTION, ())


@pytest.mark.parametrize("running", [False, True])
def test_a_front_page_on_its_way_is_taken_back_when_a_package_runs_again(ledger: Ledger, running: bool) -> None:
    function, motion = _both(ledger)
    complete_job(ledger, function, [], DELIVERED, now=NOW)
    fail_job(ledger, motion, "error", retryable=False, retry_at=retry_at_once(), now=NOW)
    closing = claim(ledger) if running else None
    requeue_job(ledger, motion.id, now=NOW)
    assert [state for _, state in _front_pages(ledger)] == [JobState.SUPERSEDED]
    if closing is not None:
        assert not complete_job(ledger, closing, [a_result(9)], DELIVERED, now=NOW)
    complete_job(ledger, claim(ledger), [], DELIVERED, now=NOW)
    assert close_versions(ledger) == 1
    assert [state for _, state in _front_pages(ledger)] == [JobState.SUPERSEDED, JobState.SUCCEEDED]


def test_only_the_latest_front_page_can_run_again(ledger: Ledger) -> None:
    function, motion = _both(ledger)
    complete_job(ledger, function, [], DELIVERED, now=NOW)
    complete_job(ledger, motion, [], DELIVERED, now=NOW)
    close_versions(ledger)
    requeue_job(ledger, motion.id, now=NOW)
    complete_job(ledger, claim(ledger), [], DELIVERED, now=NOW)
    close_versions(ledger)
    (first, _), (second, _) = _front_pages(ledger)
    with pytest.raises(LedgerError, match="earlier version"):
        requeue_job(ledger, first, now=NOW)
    requeue_job(ledger, second, now=NOW)
    assert claim(ledger).id == second


def test_a_version_with_more_images_is_closed_instead_of_the_one_before(ledger: Ledger) -> None:
    function, _ = _both(ledger)
    assert len(_receive(ledger, route(), route(package=MOTION), count=5, at=LATER)) == 2
    complete_job(ledger, function, [a_result(1)], DELIVERED, now=LATER)
    release_worker(ledger, "b", "died", counted=True, now=LATER, retry_at=retry_at_once(LATER))
    assert _front_pages(ledger) == []
    for number in (2, 3):
        job = claim(ledger, at=LATER)
        assert job.study_version == 2
        complete_job(ledger, job, [a_result(number)], DELIVERED, now=LATER)
    closing = claim(ledger, at=LATER)
    assert closing.study_version == 2
    assert [one.study_version for one in package_outcomes(ledger, closing.id)] == [2, 2]


def test_a_package_that_is_new_on_the_route_is_told_with_what_is_there(ledger: Ledger) -> None:
    _receive(ledger, route())
    complete_job(ledger, claim(ledger), [], DELIVERED, now=NOW)
    close_versions(ledger)
    # An image of another series makes a version; the route has got a second package meanwhile.
    association = associate(ledger)
    record_instances(ledger, [an_instance(association, 9, series="8.8")], at=LATER)
    close_association(ledger, association, outcome="released", at=LATER)
    created = create_jobs(
        ledger, study_contents(ledger, "1.2.3"), [route(), route(package=MOTION)], reason="test", now=LATER
    )
    assert created is not None
    assert len(created) == 1
    complete_job(ledger, claim(ledger, at=LATER), [], DELIVERED, now=LATER)
    closing = claim(ledger, at=LATER)
    assert [(one.package, one.study_version) for one in package_outcomes(ledger, closing.id)] == [
        (FUNCTION, 1),
        (MOTION, 2),
    ]


def test_routes_are_closed_one_by_one(ledger: Ledger) -> None:
    _receive(ledger, route("one"), route("two"))
    complete_job(ledger, claim(ledger), [], DELIVERED, now=NOW)
    assert [job.route for job in job_overviews(ledger) if job.package == FRONT_PAGE] == ["one"]


def test_packages_that_end_at_once_make_one_closing_job(ledger: Ledger) -> None:
    names = [f"p{number}" for number in range(6)]
    _receive(ledger, *(route(package=name) for name in names))
    jobs = [claim(ledger, name) for name in names]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        ended = list(pool.map(lambda job: complete_job(ledger, job, [], DELIVERED, now=NOW), jobs))
    assert all(ended)
    assert len(_front_pages(ledger)) == 1


def test_workers_take_what_their_slot_is_for(ledger: Ledger) -> None:
    _receive(ledger, route(package="on_gpu", slot=JobSlot.GPU), route(package="on_cpu"))
    cpu = claim_job(ledger, "w", NOW, slots={JobSlot.CPU})
    assert cpu is not None
    assert cpu.package == "on_cpu"
    assert claim_job(ledger, "w", NOW, slots={JobSlot.CPU}) is None
    assert claim(ledger).package == "on_gpu"


def test_what_gives_way_waits_for_the_quick_packages_of_its_study(ledger: Ledger) -> None:
    _receive(ledger, route(), route(package="slow", background=True, priority=100))
    assert claim_job(ledger, "w", NOW, background=True) is None
    quick = claim(ledger)
    assert quick.package == FUNCTION
    assert claim_job(ledger, "w", NOW) is None
    complete_job(ledger, quick, [], DELIVERED, now=NOW)
    assert claim_job(ledger, "w", NOW, background=False) is None
    slow = claim_job(ledger, "w", NOW, background=True)
    assert slow is not None
    assert slow.package == "slow"


def test_what_gives_way_is_taken_last(ledger: Ledger) -> None:
    _receive(ledger, route(package="slow", background=True, priority=100), route(package="quick", priority=0))
    assert claim(ledger).package == "quick"


def test_verdicts_are_told_by_study_and_package(ledger: Ledger) -> None:
    function, motion = _both(ledger)
    complete_job(ledger, function, [a_result(1)], Outcome(Verdict.PARTIAL, ("x",)), now=NOW)
    fail_job(ledger, motion, "error", retryable=False, retry_at=retry_at_once(), now=NOW)
    close_versions(ledger)
    (study,) = study_overviews(ledger)
    assert study.verdicts == {FUNCTION: Verdict.PARTIAL, MOTION: Verdict.FAILED}
    assert ledger_overview(ledger, now=NOW).verdicts == {
        Verdict.PARTIAL: 1,
        Verdict.FAILED: 1,
        Verdict.DELIVERED: 1,
    }
    requeue_job(ledger, motion.id, now=NOW)
    (study,) = study_overviews(ledger)
    assert study.verdicts == {FUNCTION: Verdict.PARTIAL}


def test_other_studies_are_not_mixed_in(ledger: Ledger) -> None:
    receive_and_schedule(ledger, "1.2.4")
    receive_and_schedule(ledger, "1.2.5")
    complete_job(ledger, claim(ledger), [], DELIVERED, now=NOW)
    assert len(_front_pages(ledger)) == 1
