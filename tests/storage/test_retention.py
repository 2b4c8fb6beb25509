"""Retention: what is finished goes after its time, and nothing else ever does."""

from __future__ import annotations

import datetime as dt
import os

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
from sqlalchemy import func, select

from storage import retention
from storage.deliveries import claim_deliveries, delivery_confirmed, delivery_failed, delivery_sent
from storage.files import RESULTS, InstanceFiles, StoredFile
from storage.instances import (
    QuarantinedObject,
    ReceivedInstance,
    Reception,
    close_association,
    record_instances,
    record_quarantine,
)
from storage.jobs import claim_job, complete_job, create_jobs, fail_job, requeue_job, study_contents
from storage.ledger import Ledger, LedgerError, utc_now
from storage.overview import events_of_study, job_overviews, quarantine_overviews, study_overviews
from storage.retention import Swept, expire_events, expire_history, expire_quarantine, expire_studies, sweep_files
from storage.schema import (
    Association,
    CommitmentRequest,
    DeliveryRow,
    InstanceRow,
    JobRow,
    JobState,
    ResultRow,
    SeriesRow,
    StudyRow,
)
from storage.transfers import pass_over_untold, untold_associations

MONTH = dt.timedelta(days=30)
LATER = NOW + MONTH + dt.timedelta(seconds=1)
HOUR = dt.timedelta(hours=1)
KNOWN = (Association, StudyRow, SeriesRow, InstanceRow, JobRow, ResultRow, DeliveryRow, CommitmentRequest)
NOTHING = Swept(0, 0)


def _expire(ledger: Ledger, now: dt.datetime = LATER) -> tuple[str, ...]:
    return expire_studies(ledger, retention=MONTH, now=now)


def _process(ledger: Ledger, at: dt.datetime = NOW) -> None:
    job = claim_job(ledger, "w", at)
    assert job is not None
    complete_job(ledger, job, [a_result(1)], DELIVERED, now=at)
    close_versions(ledger, at)


def _deliver(ledger: Ledger, at: dt.datetime = NOW) -> None:
    delivery_sent(ledger, [one.id for one in claim_deliveries(ledger, "pacs", 9, "d", at, 60)], None, None, now=at)


def test_a_finished_study_goes_after_its_time_and_once(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    _process(ledger)
    _deliver(ledger)
    assert _expire(ledger, NOW + MONTH) == ()
    assert _expire(ledger) == ("1.2.3",)
    assert _expire(ledger) == ()
    assert study_overviews(ledger)[0].removed_at == LATER


def test_time_counts_from_the_last_commitment(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    _process(ledger)
    _deliver(ledger, at=NOW + dt.timedelta(days=3))
    assert _expire(ledger) == ()
    assert _expire(ledger, LATER + dt.timedelta(days=3)) == ("1.2.3",)


def test_what_is_not_finished_stays_however_old_it_is(ledger: Ledger) -> None:
    ages = LATER + 100 * MONTH
    receive_and_schedule(ledger)
    assert _expire(ledger, ages) == ()  # job queued
    job = claim_job(ledger, "w", NOW)
    assert job is not None
    assert _expire(ledger, ages) == ()  # running
    fail_job(ledger, job, "error", retryable=False, retry_at=retry_at_once(), now=NOW)
    assert _expire(ledger, ages) == ()  # failed, and nobody was told yet
    requeue_job(ledger, job.id, now=NOW)
    _process(ledger)
    assert _expire(ledger, ages) == ()  # result queued
    (delivery,) = claim_deliveries(ledger, "pacs", 9, "d", NOW, 60)
    assert _expire(ledger, ages) == ()  # being sent
    delivery_sent(ledger, [delivery.id], "7.7", NOW, now=NOW)
    assert _expire(ledger, ages) == ()  # not committed
    delivery_failed(ledger, delivery.id, "refused", None, now=NOW)
    assert _expire(ledger, ages) == ()  # dead letter


def test_a_study_with_new_images_or_in_mid_association_stays(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    _process(ledger)
    _deliver(ledger)
    association = associate(ledger)
    record_instances(ledger, [an_instance(association, 1)], at=NOW)  # a duplicate, but somebody is sending
    assert _expire(ledger) == ()
    record_instances(ledger, [an_instance(association, 50)], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    assert _expire(ledger) == ()


def test_a_study_that_waits_does_not_hold_up_others(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    _process(ledger)
    _deliver(ledger)
    record_instances(ledger, [an_instance(associate(ledger), 1, study="5.5", series="5.5.1")], at=NOW)
    assert _expire(ledger) == ("1.2.3",)


def test_a_new_image_of_a_removed_study_goes_after_its_time_too(ledger: Ledger) -> None:
    receive_and_schedule(ledger, routed=route(series=("9.9",)))
    _process(ledger)
    _deliver(ledger)
    assert _expire(ledger) == ("1.2.3",)
    association = associate(ledger, at=LATER)
    assert record_instances(ledger, [an_instance(association, 50)], at=LATER) == [Reception.NEW]
    assert study_overviews(ledger)[0].removed_at is None
    close_association(ledger, association, outcome="released", at=LATER)
    create_jobs(ledger, study_contents(ledger, "1.2.3"), [], reason="quiet", now=LATER)
    assert _expire(ledger, LATER + MONTH + dt.timedelta(seconds=1)) == ("1.2.3",)


def test_a_study_that_no_route_took_goes_too(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    association = associate(ledger)
    record_instances(ledger, [an_instance(association, 1, study="5.5", series="5.5.1")], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    assert _expire(ledger) == ()  # 5.5 still waits to be scheduled
    create_jobs(ledger, study_contents(ledger, "5.5"), [], reason="quiet", now=NOW)
    assert _expire(ledger, NOW + MONTH) == ()
    assert _expire(ledger) == ("5.5",)


def test_history_is_forgotten_long_after_the_files_were_removed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "EVENTS_A_TRANSACTION", 2)
    year = dt.timedelta(days=365)
    receive_and_schedule(ledger)
    _process(ledger)
    _deliver(ledger)
    receive_and_schedule(ledger, "1.2.4", routed=route("other", ("1.2.4.1",)))  # waits for ever
    record_quarantine(ledger, QuarantinedObject("d" * 64, "quarantine/dd/d.dcm", "test"), at=NOW)
    waiting = events_of_study(ledger, "1.2.4")
    assert _expire(ledger) == ("1.2.3",)
    forgettable = len(events_of_study(ledger, "1.2.3"))
    assert expire_events(ledger, retention=year, now=NOW + year) == 0
    assert expire_events(ledger, retention=year, now=LATER + year) == 1  # of the quarantine
    assert expire_events(ledger, retention=year, now=LATER + year + HOUR) == forgettable > 5
    assert events_of_study(ledger, "1.2.3") == ()
    assert events_of_study(ledger, "1.2.4") == waiting != ()


def _store(files: InstanceFiles, data: bytes) -> StoredFile:
    return files.store(data, file_meta=b"", transfer_syntax_uid="1.2")


def _age(files: InstanceFiles, stored: StoredFile) -> None:
    old = (utc_now() - 2 * HOUR).timestamp()
    os.utime(files.absolute(stored.path), (old, old))


def _named(instance: ReceivedInstance, stored: StoredFile) -> ReceivedInstance:
    fields = {name: getattr(instance, name) for name in instance.__slots__}
    return ReceivedInstance(**fields | {"digest": stored.digest, "path": str(stored.path)})


def test_the_sweep_takes_what_the_ledger_let_go_of_and_moves_aside_what_nothing_explains(
    ledger: Ledger, files: InstanceFiles
) -> None:
    association = associate(ledger)
    named, orphan, young, aside = (_store(files, data) for data in (b"named", b"orphan", b"young", b"aside"))
    result = files.store(b"result", file_meta=b"", transfer_syntax_uid="1.2", folder=RESULTS)
    record_instances(ledger, [_named(an_instance(association, 1), named)], at=NOW)
    record_quarantine(ledger, QuarantinedObject(aside.digest, str(aside.path), "test"), at=NOW)
    abandoned = files.root / "incoming" / "half"
    abandoned.write_bytes(b"half")
    for stored in (named, orphan, aside, result, StoredFile(str(abandoned.relative_to(files.root)), "", 4)):
        _age(files, stored)
    assert sweep_files(ledger, files, grace=HOUR, now=utc_now()) == Swept(removed=1, set_aside=2)
    assert {str(path) for path in files.stored_paths()} == {named.path, young.path, aside.path}
    assert {str(path) for path in files.unexplained_paths()} == {
        f"unexplained/{orphan.path}",
        f"unexplained/{result.path}",
    }
    assert not abandoned.exists()
    assert expire_quarantine(ledger, retention=MONTH, now=NOW + MONTH) == 0
    assert expire_quarantine(ledger, retention=MONTH, now=LATER) == 1
    assert quarantine_overviews(ledger) == ()
    assert sweep_files(ledger, files, grace=HOUR, now=utc_now()) == Swept(removed=1, set_aside=0)
    assert not files.absolute(aside.path).exists()


def test_images_that_come_again_after_they_were_removed_are_new_and_stay(ledger: Ledger, files: InstanceFiles) -> None:
    association = associate(ledger)
    stored = _store(files, b"image")
    instance = _named(an_instance(association, 1), stored)
    record_instances(ledger, [instance], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    create_jobs(ledger, study_contents(ledger, "1.2.3"), [], reason="quiet", now=NOW)
    assert _expire(ledger) == ("1.2.3",)
    _age(files, stored)
    # The sender's file is written before its commit; the sweep between the two must leave it.
    again = _store(files, b"image")
    assert again.path == stored.path
    assert sweep_files(ledger, files, grace=HOUR, now=utc_now()) == NOTHING
    resent = _named(an_instance(associate(ledger, at=LATER), 1), again)
    assert record_instances(ledger, [resent], at=LATER) == [Reception.NEW]
    _age(files, again)
    assert sweep_files(ledger, files, grace=HOUR, now=utc_now()) == NOTHING
    (overview,) = study_overviews(ledger)
    assert (overview.removed_at, overview.instances_waiting) == (None, 1)


def test_a_failed_job_that_was_told_of_does_not_hold_its_study_for_ever(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    fail_job(ledger, claim(ledger), "error", retryable=False, retry_at=retry_at_once(), now=NOW)
    assert close_versions(ledger) == 1
    assert _expire(ledger, NOW + MONTH) == ()
    assert _expire(ledger) == ("1.2.3",)


def test_a_front_page_that_failed_holds_its_study(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    for _ in range(2):
        fail_job(ledger, claim(ledger), "error", retryable=False, retry_at=retry_at_once(), now=NOW)
    assert _expire(ledger) == ()
    requeue_job(ledger, 2, now=NOW)
    assert close_versions(ledger) == 1
    assert _expire(ledger) == ("1.2.3",)


def test_a_job_whose_files_retention_took_cannot_run_again(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    _process(ledger)
    _deliver(ledger)
    assert _expire(ledger) == ("1.2.3",)
    with pytest.raises(LedgerError, match=r"the files that job 1 read were removed: send the study again"):
        requeue_job(ledger, 1, now=LATER)
    assert [job.state for job in job_overviews(ledger)] == [JobState.SUCCEEDED, JobState.SUCCEEDED]


def test_a_study_that_is_sent_again_after_retention_is_analysed_again_as_other_objects(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    first = claim(ledger)
    complete_job(ledger, first, [a_result(1)], DELIVERED, now=NOW)
    close_versions(ledger)
    _deliver(ledger)
    assert _expire(ledger) == ("1.2.3",)
    assert receive_and_schedule(ledger, at=LATER) == (3,)
    again = claim(ledger, at=LATER)
    assert (again.study_version, len(again.paths)) == (2, 3)
    assert again.input_digest == first.input_digest == first.identity != again.identity
    assert [one.sop_instance_uid for one in again.predecessors] == ["2.25.1"]
    complete_job(ledger, again, [a_result(2)], DELIVERED, now=LATER)
    assert close_versions(ledger, LATER) == 1
    assert [one.sop_instance_uid for one in claim_deliveries(ledger, "pacs", 9, "d", LATER, 60)] == ["2.25.2"]


def test_a_job_that_runs_again_restores_no_result_twice(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    _process(ledger)
    _deliver(ledger)
    requeue_job(ledger, 1, now=LATER)
    _process(ledger, at=LATER)
    assert claim_deliveries(ledger, "pacs", 9, "d", LATER, 60) == []


def test_a_study_is_forgotten_whole_long_after_its_files_and_associations_with_it(ledger: Ledger) -> None:
    year = dt.timedelta(days=365)
    receive_and_schedule(ledger)
    _process(ledger)
    claimed = claim_deliveries(ledger, "pacs", 9, "d", NOW, 60)
    delivery_sent(ledger, [one.id for one in claimed], "7.7", LATER, now=NOW)
    delivery_confirmed(ledger, [one.id for one in claimed], how="found", now=NOW)
    receive_and_schedule(ledger, "1.2.4", routed=route("other", ("1.2.4.1",)))  # waits for ever
    idle = associate(ledger)
    close_association(ledger, idle, outcome="released", at=NOW)
    assert _expire(ledger) == ("1.2.3",)
    assert expire_history(ledger, retention=year, now=LATER + year) == 0  # nobody was told of the associations
    assert pass_over_untold(ledger) == 3
    assert untold_associations(ledger, 9) == ()
    assert expire_history(ledger, retention=year, now=LATER + year) == 1  # the idle one
    assert expire_history(ledger, retention=year, now=LATER + year + HOUR) == 2
    assert [one.study_instance_uid for one in study_overviews(ledger)] == ["1.2.4"]
    with ledger.reading() as session:
        counts = {
            row.__tablename__: session.scalar(select(func.count()).select_from(row))
            for row in (
                Association,
                StudyRow,
                SeriesRow,
                InstanceRow,
                JobRow,
                ResultRow,
                DeliveryRow,
                CommitmentRequest,
            )
        }
    assert counts == {
        "association": 1,
        "study": 1,
        "series": 1,
        "instance": 3,
        "job": 1,
        "result": 0,
        "delivery": 0,
        "commitment_request": 0,
    }
    assert expire_history(ledger, retention=year, now=LATER + 9 * year) == 0


def test_a_study_of_which_an_image_comes_while_history_is_forgotten_stays(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive_and_schedule(ledger)
    _process(ledger)
    _deliver(ledger)
    assert _expire(ledger) == ("1.2.3",)
    forget = retention._forget_study
    year = dt.timedelta(days=365)

    def after_an_image(ledger: Ledger, study_id: int, before: dt.datetime) -> bool:
        assert record_instances(ledger, [an_instance(associate(ledger), 50)], at=LATER + year) == [Reception.NEW]
        return forget(ledger, study_id, before)

    monkeypatch.setattr(retention, "_forget_study", after_an_image)
    assert expire_history(ledger, retention=year, now=LATER + year + HOUR) == 0
    (study,) = study_overviews(ledger)
    assert (study.removed_at, study.instances_waiting) == (None, 1)


def test_what_the_gate_kept_back_of_a_forgotten_study_is_let_go_of(ledger: Ledger, files: InstanceFiles) -> None:
    year = dt.timedelta(days=365)
    receive_and_schedule(ledger)
    kept_back, other = _store(files, b"kept back"), _store(files, b"of another study")
    record_quarantine(ledger, QuarantinedObject(kept_back.digest, str(kept_back.path), "gate", job_id=1), at=LATER)
    record_quarantine(ledger, QuarantinedObject(other.digest, str(other.path), "conflict"), at=LATER)
    _process(ledger)
    _deliver(ledger)
    assert _expire(ledger) == ("1.2.3",)
    assert expire_history(ledger, retention=year, now=LATER + year + HOUR) == 1
    assert [one.path for one in quarantine_overviews(ledger)] == [str(other.path)]
    for stored in (kept_back, other):
        _age(files, stored)
    assert sweep_files(ledger, files, grace=HOUR, now=LATER + 2 * year) == Swept(removed=1, set_aside=0)
    assert files.absolute(other.path).exists()
