"""Whatever happens in whatever order: nothing is lost, nothing ends twice, everything can come to an end."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from ledger_rows import DELIVERED, NOW, a_result, an_instance, associate, receive_and_schedule, retry_at_once, route
from sqlalchemy import func, select

from storage.closing import FRONT_PAGE, package_outcomes
from storage.deliveries import (
    Selection,
    claim_deliveries,
    claim_overdue,
    commitment_reported,
    delivery_failed,
    delivery_not_accepted,
    delivery_sent,
    destination_unreachable,
    destinations_with_work,
    dismiss_deliveries,
    release_deliveries,
    release_expired_deliveries,
    requeue_deliveries,
)
from storage.instances import Reception, close_association, record_instances
from storage.jobs import (
    Job,
    Outcome,
    ResultRecord,
    claim_job,
    complete_job,
    create_jobs,
    fail_job,
    release_expired_jobs,
    release_worker,
    requeue_job,
    studies_to_consider,
    study_contents,
)
from storage.leases import LeaseWatch, leases_of, renew
from storage.ledger import LedgerError, open_ledger
from storage.overview import JobOverview, delivery_overviews, job_overviews
from storage.schema import ENDED, DeliveryRow, DeliveryState, InstanceRow, JobState, ResultRow, Verdict

STUDIES = ("1.1", "1.2")
WORKERS = ("w1", "w2")
ATTEMPTS = 2
PACKAGES = ("ventricular_function", "motion")
LEASE_S = 60.0


class _LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.ledger = open_ledger(f"sqlite:///{self.folder}/ledger.sqlite")
        self.now = NOW

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def time_passes(self, seconds: int) -> None:
        self.now += dt.timedelta(seconds=seconds)


class JobMachine(_LedgerMachine):
    """Reception, scheduling and execution of two packages on one route."""

    open_associations = Bundle("open_associations")

    def __init__(self) -> None:
        super().__init__()
        self.acknowledged: dict[str, set[str]] = {study: set() for study in STUDIES}
        self.open: dict[str, set[str]] = {}
        self.held: dict[str, Job] = {}
        self.lost: list[Job] = []
        """Of workers that do not know yet that they lost them."""
        self.ran: set[int] = set()
        """Jobs that succeeded at least once."""
        self.monotonic = 0.0
        self.watch = LeaseWatch(LEASE_S, lambda: self.monotonic)

    @rule(target=open_associations)
    def scanner_opens(self) -> str:
        association = associate(self.ledger, at=self.now)
        self.open[association] = set()
        return association

    @rule(
        association=open_associations,
        sent=st.lists(st.tuples(st.sampled_from(STUDIES), st.integers(0, 5)), min_size=1, max_size=4),
    )
    def scanner_sends(self, association: str, sent: list[tuple[str, int]]) -> None:
        batch = [
            an_instance(association, number, study=study, series=f"{study}.1", digest=f"{study}{number:060x}"[:64])
            for study, number in sent
        ]
        for instance, reception in zip(batch, record_instances(self.ledger, batch, at=self.now), strict=True):
            acknowledged = self.acknowledged[instance.study_instance_uid]
            known = instance.sop_instance_uid in acknowledged
            assert reception is (Reception.DUPLICATE if known else Reception.NEW)
            acknowledged.add(instance.sop_instance_uid)
            self.open[association].add(instance.study_instance_uid)

    @rule(association=consumes(open_associations))
    def scanner_closes(self, association: str) -> None:
        close_association(self.ledger, association, outcome="released", at=self.now)
        del self.open[association]

    @rule(study=st.sampled_from(STUDIES))
    def scheduler_looks(self, study: str) -> None:
        waiting = {one.study_instance_uid: one for one in studies_to_consider(self.ledger)}
        if study not in waiting:
            return
        in_mid_association = sum(study in sent for sent in self.open.values())
        assert waiting[study].open_associations == in_mid_association
        created = create_jobs(
            self.ledger,
            study_contents(self.ledger, study),
            [route(series=(f"{study}.1",), package=package, attempts=ATTEMPTS) for package in PACKAGES],
            reason="test",
            now=self.now,
        )
        assert (created is None) == bool(in_mid_association)

    @rule(worker=st.sampled_from(WORKERS))
    def worker_claims(self, worker: str) -> None:
        if worker in self.held:
            return
        job = claim_job(self.ledger, worker, self.now)
        if job is not None:
            assert job.id not in {held.id for held in self.held.values()}
            self.held[worker] = job

    @rule(worker=st.sampled_from(WORKERS), verdict=st.sampled_from(Verdict))
    def worker_completes(self, worker: str, verdict: Verdict) -> None:
        if worker not in self.held:
            return
        job = self.held.pop(worker)
        if job.package == FRONT_PAGE:
            told = package_outcomes(self.ledger, job.id)
            assert sorted(one.package for one in told) == sorted(PACKAGES)
        assert complete_job(self.ledger, job, _results(job), Outcome(verdict), now=self.now)
        self.ran.add(job.id)

    @rule(worker=st.sampled_from(WORKERS), retryable=st.booleans())
    def worker_fails(self, worker: str, retryable: bool) -> None:
        if worker not in self.held:
            return
        job = self.held.pop(worker)
        retry_at = retry_at_once(self.now + dt.timedelta(seconds=5))
        assert fail_job(self.ledger, job, "error", retryable=retryable, retry_at=retry_at, now=self.now)

    @rule(worker=st.sampled_from(WORKERS), counted=st.booleans())
    def worker_dies(self, worker: str, counted: bool) -> None:
        released = release_worker(
            self.ledger, worker, "died", counted=counted, now=self.now, retry_at=retry_at_once(self.now)
        )
        assert released == ((self.held.pop(worker).id,) if worker in self.held else ())

    @rule(worker=st.sampled_from(WORKERS))
    def worker_beats(self, worker: str) -> None:
        if worker in self.held:
            assert renew(self.ledger, [self.held[worker].lease]) == {self.held[worker].lease}

    @rule(seconds=st.sampled_from([1, 25, 29]))
    def monotonic_time_passes(self, seconds: int) -> None:
        self.monotonic += seconds
        expired = self.watch.expired(leases_of(self.ledger))
        for job_id in release_expired_jobs(self.ledger, expired, now=self.now, retry_at=retry_at_once(self.now)):
            (worker,) = (name for name, held in self.held.items() if held.id == job_id)
            self.lost.append(self.held.pop(worker))

    @rule()
    def who_lost_a_job_tries_to_end_it(self) -> None:
        for job in self.lost:
            assert not complete_job(self.ledger, job, [a_result(999)], DELIVERED, now=self.now)
            assert not fail_job(
                self.ledger, job, "late", retryable=True, retry_at=retry_at_once(self.now), now=self.now
            )
        self.lost.clear()

    @rule(any_state=st.booleans())
    def operator_requeues(self, any_state: bool) -> None:
        jobs = job_overviews(self.ledger)
        for job in jobs:
            if job.state is not JobState.FAILED and not (any_state and job.state is JobState.SUCCEEDED):
                continue
            if any(_is_of_later_version(one, job) for one in jobs):
                with pytest.raises(LedgerError, match="earlier version"):
                    requeue_job(self.ledger, job.id, now=self.now)
                continue
            requeue_job(self.ledger, job.id, now=self.now)
            for worker, held in list(self.held.items()):
                if (held.package, held.study_instance_uid) == (FRONT_PAGE, job.study_instance_uid):
                    self.lost.append(self.held.pop(worker))
            return

    @invariant()
    def every_acknowledged_image_is_there(self) -> None:
        for study, uids in self.acknowledged.items():
            if uids:
                assert study_contents(self.ledger, study).instances == len(uids)

    @invariant()
    def jobs_are_held_by_who_holds_them(self) -> None:
        jobs = job_overviews(self.ledger)
        assert {job.id: job.worker for job in jobs if job.state is JobState.RUNNING} == {
            job.id: worker for worker, job in self.held.items()
        }
        assert {one.token for one in leases_of(self.ledger)} == {job.lease for job in self.held.values()}
        for job in jobs:
            assert (job.ended_at is not None) == (
                job.state in (JobState.SUCCEEDED, JobState.FAILED, JobState.SUPERSEDED)
            )
            assert (job.verdict is not None) == (job.state in (JobState.SUCCEEDED, JobState.FAILED))
            assert job.attempts <= job.maximum_attempts or job.package == FRONT_PAGE

    @invariant()
    def each_job_has_one_set_of_results(self) -> None:
        for job in job_overviews(self.ledger):
            assert job.results == (2 if job.id in self.ran else 0)

    @invariant()
    def only_the_latest_version_of_a_study_waits_to_run(self) -> None:
        for study in STUDIES:
            jobs = job_overviews(self.ledger, study_instance_uid=study)
            for job in jobs:
                if job.state is JobState.QUEUED:
                    assert not any(_is_of_later_version(one, job) for one in jobs)

    @invariant()
    def a_version_is_closed_exactly_when_its_packages_have_ended(self) -> None:
        for study in STUDIES:
            jobs = job_overviews(self.ledger, study_instance_uid=study)
            if not jobs:
                continue
            latest = max(job.study_version for job in jobs)
            of_version = [job for job in jobs if job.study_version == latest]
            ended = all(
                job.state in (JobState.SUCCEEDED, JobState.FAILED) for job in of_version if job.package != FRONT_PAGE
            )
            closing = [job for job in of_version if job.package == FRONT_PAGE]
            current = [job for job in closing if job.state is not JobState.SUPERSEDED]
            if ended:
                assert max(closing, key=lambda job: job.id).state is not JobState.SUPERSEDED
            else:
                assert not any(job.state in (JobState.QUEUED, JobState.RUNNING) for job in current)

    def teardown(self) -> None:
        # Whatever state things are in, they come to an end: every acknowledged image in jobs that ended, and told.
        for association in self.open:
            close_association(self.ledger, association, outcome="released", at=self.now)
        self.open.clear()
        for study in STUDIES:
            self.scheduler_looks(study)
        self.now += dt.timedelta(seconds=10)
        for worker in WORKERS:
            self.worker_completes(worker, Verdict.DELIVERED)
        while (job := claim_job(self.ledger, "w1", self.now)) is not None:
            self.held["w1"] = job
            self.worker_completes("w1", Verdict.DELIVERED)
        self.a_version_is_closed_exactly_when_its_packages_have_ended()
        assert studies_to_consider(self.ledger) == ()
        for study, uids in self.acknowledged.items():
            jobs = job_overviews(self.ledger, study_instance_uid=study)
            assert bool(jobs) == bool(uids)
            assert all(job.state not in (JobState.QUEUED, JobState.RUNNING) for job in jobs)
            if jobs:
                assert jobs[0].package == FRONT_PAGE
        with self.ledger.reading() as session:
            assert not session.scalar(
                select(func.count()).select_from(InstanceRow).where(InstanceRow.study_version.is_(None))
            )
        super().teardown()


def _results(job: Job) -> list[ResultRecord]:
    return [a_result(2 * job.id), a_result(2 * job.id + 1)]


def _is_of_later_version(one: JobOverview, job: JobOverview) -> bool:
    same = (one.study_instance_uid, one.package) == (job.study_instance_uid, job.package)
    return same and one.id > job.id


class DeliveryMachine(_LedgerMachine):
    """Two results on their way to two destinations, with a PACS that answers when it likes."""

    transactions = Bundle("transactions")

    @initialize()
    def results_wait(self) -> None:
        receive_and_schedule(self.ledger)
        job = claim_job(self.ledger, "w", NOW)
        assert job is not None
        complete_job(self.ledger, job, [a_result(1, "pacs", "archive"), a_result(2, "pacs")], DELIVERED, now=NOW)
        self.committed: set[int] = set()
        self.sending: dict[int, str] = {}
        self.uid_of = {one.id: one.sop_instance_uid for one in delivery_overviews(self.ledger)}
        self.requests: dict[str, set[int]] = {}

    @rule(destination=st.sampled_from(["pacs", "archive"]), owner=st.sampled_from(["a", "b"]), limit=st.integers(1, 3))
    def claims(self, destination: str, owner: str, limit: int) -> None:
        for one in claim_deliveries(self.ledger, destination, limit, owner, self.now, 60):
            assert one.id not in self.committed
            assert one.id not in self.sending
            self.sending[one.id] = owner

    @rule(target=transactions, owner=st.sampled_from(["a", "b"]))
    def sends(self, owner: str) -> object:
        ids = {number for number, holder in self.sending.items() if holder == owner}
        if not ids:
            return multiple()
        return self._request(ids)

    def _request(self, ids: set[int]) -> str:
        transaction = f"2.25.{len(self.requests) + 1}"
        delivery_sent(self.ledger, ids, transaction, self.now + dt.timedelta(seconds=30), now=self.now)
        self.requests[transaction] = ids
        for number in ids:
            self.sending.pop(number, None)
        return transaction

    @rule(owner=st.sampled_from(["a", "b"]))
    def sends_without_commitment(self, owner: str) -> None:
        ids = {number for number, holder in self.sending.items() if holder == owner}
        delivery_sent(self.ledger, ids, None, None, now=self.now)
        for number in ids:
            del self.sending[number]

    @rule(transaction=transactions, committed=st.sets(st.sampled_from(["2.25.1", "2.25.2", "9.9"])))
    def pacs_reports(self, transaction: str, committed: set[str]) -> None:
        failed = {"2.25.1", "2.25.2"} - committed
        commitment_reported(
            self.ledger,
            transaction,
            committed,
            dict.fromkeys(failed, "processing failure"),
            destinations={"pacs", "archive"},
            now=self.now,
            retry_at=lambda failures: self.now if failures < 3 else None,
        )
        for number in self.requests[transaction]:
            if self.uid_of[number] in committed:
                self.committed.add(number)
                self.sending.pop(number, None)

    @rule(target=transactions)
    def commitment_is_overdue(self) -> object:
        overdue = {one.id for name in ("pacs", "archive") for one in claim_overdue(self.ledger, name, self.now, 60)}
        return self._request(overdue) if overdue else multiple()

    @rule(owner=st.sampled_from(["a", "b"]), for_good=st.booleans())
    def attempt_fails(self, owner: str, for_good: bool) -> None:
        for number in [number for number, holder in self.sending.items() if holder == owner]:
            retry_at = None if for_good else self.now + dt.timedelta(seconds=5)
            delivery_failed(self.ledger, number, "connection reset", retry_at, now=self.now)
            del self.sending[number]

    @rule(owner=st.sampled_from(["a", "b"]))
    def owner_dies(self, owner: str) -> None:
        mine = {number for number, holder in self.sending.items() if holder == owner}
        assert release_deliveries(self.ledger, owner, self.now) == len(mine)
        for number in mine:
            del self.sending[number]

    @rule()
    def leases_run_out(self) -> None:
        release_expired_deliveries(self.ledger, self.now)
        still = {one.id for one in delivery_overviews(self.ledger, states=(DeliveryState.SENDING,))}
        self.sending = {number: owner for number, owner in self.sending.items() if number in still}

    @rule()
    def operator_requeues(self) -> None:
        requeue_deliveries(self.ledger, Selection(), now=self.now, states=(DeliveryState.DEAD, *ENDED - REACHED))

    @rule()
    def operator_dismisses(self) -> None:
        dismiss_deliveries(self.ledger, Selection(), reason="no longer wanted", by="test", now=self.now)

    @rule(owner=st.sampled_from(["a", "b"]), destination=st.sampled_from(["pacs", "archive"]))
    def destination_cannot_be_reached(self, owner: str, destination: str) -> None:
        mine = [number for number, holder in self.sending.items() if holder == owner]
        mine = [one.id for one in delivery_overviews(self.ledger) if one.id in mine and one.destination == destination]
        before = {one.id: one.failed_attempts for one in delivery_overviews(self.ledger)}
        until = self.now + dt.timedelta(seconds=5)
        destination_unreachable(
            self.ledger, destination, mine, "cannot be reached", retry_at=lambda _tries: until, now=self.now
        )
        for number in mine:
            del self.sending[number]
        assert {one.id: one.failed_attempts for one in delivery_overviews(self.ledger)} == before
        assert claim_deliveries(self.ledger, destination, 9, "c", self.now, 60) == []
        assert destination not in destinations_with_work(self.ledger, self.now)

    @rule(owner=st.sampled_from(["a", "b"]))
    def kind_is_not_accepted(self, owner: str) -> None:
        for number in [number for number, holder in self.sending.items() if holder == owner][:1]:
            delivery_not_accepted(self.ledger, number, "does not take it", now=self.now)
            del self.sending[number]

    @invariant()
    def committed_is_for_ever_and_nothing_else_is(self) -> None:
        deliveries = delivery_overviews(self.ledger)
        assert {one.id for one in deliveries if one.state is DeliveryState.COMMITTED} == self.committed
        assert {one.id for one in deliveries if one.state is DeliveryState.SENDING} == set(self.sending)
        for one in deliveries:
            assert (one.committed_at is not None) == (one.state is DeliveryState.COMMITTED)
            assert (one.ended_at is not None) == (one.state in ENDED | {DeliveryState.DEAD})

    @invariant()
    def each_result_has_one_delivery_a_destination(self) -> None:
        with self.ledger.reading() as session:
            assert session.scalar(select(func.count()).select_from(ResultRow)) == 2
            assert session.scalar(select(func.count()).select_from(DeliveryRow)) == 3

    def teardown(self) -> None:
        # A PACS that at last answers gets everything, whatever was before.
        self.now += dt.timedelta(seconds=120)
        self.leases_run_out()
        self.operator_requeues()
        for destination in ("pacs", "archive"):
            self.claims(destination, "a", 3)
        for owner in ("a", "b"):
            if self.sending:
                self.sends(owner)
        for transaction in [*self.requests]:
            self.pacs_reports(transaction, {"2.25.1", "2.25.2"})
        assert {one.state for one in delivery_overviews(self.ledger)} <= REACHED
        super().teardown()


REACHED = frozenset({DeliveryState.COMMITTED, DeliveryState.NOT_VERIFIED})
_SETTINGS = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestJobs = JobMachine.TestCase
TestJobs.settings = _SETTINGS
TestDeliveries = DeliveryMachine.TestCase
TestDeliveries.settings = _SETTINGS
