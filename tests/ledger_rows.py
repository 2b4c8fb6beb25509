"""Rows for ledgers under test."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence

from storage.closing import FRONT_PAGE
from storage.instances import ReceivedInstance, close_association, open_association, record_instances
from storage.jobs import Job, Outcome, ResultRecord, RoutedJob, claim_job, complete_job, create_jobs, study_contents
from storage.ledger import Ledger
from storage.schema import JobSlot, Verdict

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
DELIVERED = Outcome(Verdict.DELIVERED)


def associate(ledger: Ledger, receiver: str = "node/receiver-0", at: dt.datetime = NOW) -> str:
    return open_association(
        ledger, calling_ae_title="MR1", called_ae_title="NODE", address="10.0.0.9", at=at, receiver=receiver
    )


def an_instance(
    association_id: str, number: int, *, study: str = "1.2.3", series: str = "1.2.3.1", digest: str | None = None
) -> ReceivedInstance:
    digest = digest or f"{number:064x}"
    return ReceivedInstance(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
        sop_instance_uid=f"{series}.{number}",
        series_instance_uid=series,
        study_instance_uid=study,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        digest=digest,
        path=f"instances/{digest[:2]}/{digest}.dcm",
        size=1000,
        association_id=association_id,
        calling_ae_title="MR1",
        modality="MR",
        series_description="cine SAX\0",
        study_description="Cardiac",
        manufacturer="SIEMENS",
        body_part_examined="HEART",
        facts={"planes": []},
    )


def route(
    name: str = "cine",
    series: tuple[str, ...] = ("1.2.3.1",),
    *,
    package: str = "ventricular_function",
    priority: int = 50,
    attempts: int = 3,
    slot: JobSlot = JobSlot.CPU,
    background: bool = False,
) -> RoutedJob:
    return RoutedJob(
        name,
        package,
        series,
        priority=priority,
        deadline_s=600,
        maximum_attempts=attempts,
        timeout_s=300,
        slot=slot,
        background=background,
    )


def retry_at_once(at: dt.datetime = NOW) -> Callable[[int], dt.datetime]:
    """A retry policy without a pause."""
    return lambda _attempts: at


def claim(ledger: Ledger, worker: str = "w", at: dt.datetime = NOW) -> Job:
    job = claim_job(ledger, worker, at)
    assert job is not None
    return job


def close_versions(ledger: Ledger, at: dt.datetime = NOW, *, paragraph: str = "") -> int:
    """Run the closing jobs that are due, each without a result; how many there were.

    Parameters
    ----------
    paragraph
        What their front pages tell.
    """
    count = 0
    told = {"told": {"2.25.77": {"paragraph": paragraph, "numbers": []}}} if paragraph else {}
    outcome = dataclasses.replace(DELIVERED, summary=told)
    while (job := claim_job(ledger, "closing", at)) is not None:
        assert job.package == FRONT_PAGE
        assert complete_job(ledger, job, [], outcome, now=at)
        count += 1
    return count


def a_result(number: int, *destinations: str) -> ResultRecord:
    digest = f"{number:064x}"
    return ResultRecord(
        role=f"role-{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4",
        sop_instance_uid=f"2.25.{number}",
        series_instance_uid=f"2.25.9{number}",
        series_description="SEG",
        path=f"results/{digest[:2]}/{digest}.dcm",
        digest=digest,
        size=2000,
        destinations=destinations or ("pacs",),
    )


def receive_and_schedule(
    ledger: Ledger,
    study: str = "1.2.3",
    *,
    count: int = 3,
    routed: RoutedJob | None = None,
    also: Sequence[RoutedJob] = (),
    at: dt.datetime = NOW,
) -> tuple[int, ...]:
    """Receive a study of one series in one association, and schedule it by one route, for one package unless more."""
    association = associate(ledger, at=at)
    for number in range(count):
        record_instances(ledger, [an_instance(association, number, study=study, series=f"{study}.1")], at=at)
    close_association(ledger, association, outcome="released", at=at)
    jobs = [routed or route(series=(f"{study}.1",)), *also]
    created = create_jobs(ledger, study_contents(ledger, study), jobs, reason="test", now=at)
    assert created is not None
    return created
