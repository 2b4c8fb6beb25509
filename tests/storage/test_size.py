"""Ten million instances: nothing that a running node does again and again looks through all of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ledger_rows import DELIVERED, NOW, a_result, an_instance, associate, receive_and_schedule
from sqlalchemy import Connection, event, text

from storage import (
    commitments,
    deliveries,
    holdings,
    instances,
    jobs,
    leases,
    overview,
    rejection,
    retention,
    transfers,
)
from storage.ledger import Ledger

LATER = NOW + dt.timedelta(days=400)
GROWS = {"association", "association_study", "event", "instance", "series", "study", "job", "result", "delivery"}
# Indexes over what is unfinished or present.
SMALL = {"ix_instance_waiting", "ix_study_present"}

REPEATED: dict[str, Callable[[Ledger], object]] = {
    "record new instances": lambda ledger: instances.record_instances(
        ledger, [an_instance(_associate(ledger), n, study="5.5", series="5.5.1") for n in range(3)], at=NOW
    ),
    "record duplicates": lambda ledger: instances.record_instances(
        ledger, [an_instance(_associate(ledger), n) for n in range(3)], at=NOW
    ),
    "open and close an association": lambda ledger: instances.close_association(
        ledger, _associate(ledger), outcome="released", at=NOW
    ),
    "close abandoned associations": lambda ledger: instances.close_abandoned_associations(ledger, "node/", at=NOW),
    "look for studies": jobs.studies_to_consider,
    "read a study": lambda ledger: jobs.study_contents(ledger, "1.2.3"),
    "close a version": lambda ledger: jobs.create_jobs(
        ledger, jobs.study_contents(ledger, "1.2.3"), [], reason="test", now=NOW
    ),
    "claim a job": lambda ledger: jobs.claim_job(ledger, "w", NOW),
    "watch leases": leases.leases_of,
    "watch own leases": lambda ledger: leases.leases_of(ledger, ["w"]),
    "keep leases alive": lambda ledger: leases.renew(ledger, ["t"]),
    "release expired jobs": lambda ledger: jobs.release_expired_jobs(
        ledger, [leases.Lease(1, "w", "t", 1, 300)], now=LATER, retry_at=lambda _attempts: LATER
    ),
    "look for deliveries": lambda ledger: deliveries.destinations_with_work(ledger, NOW),
    "claim deliveries": lambda ledger: deliveries.claim_deliveries(ledger, "pacs", 10, "d", NOW, 60),
    "release expired deliveries": lambda ledger: deliveries.release_expired_deliveries(ledger, LATER),
    "look for overdue commitments": lambda ledger: deliveries.claim_overdue(ledger, "pacs", LATER, 60),
    "tell what waits": lambda ledger: overview.backlog(ledger, now=NOW),
    "tell the audit trail": lambda ledger: transfers.note_as_told(
        ledger, [one.id for one in transfers.untold_associations(ledger, 10)], at=NOW
    ),
    "commit to instances": lambda ledger: commitments.take_responsibility(ledger, ["1.2.3.1.1", "9"], now=NOW),
    "look for due commitments": lambda ledger: commitments.due_commitments(ledger, NOW),
    "take due commitments": lambda ledger: commitments.claim_commitments(ledger, "MR1", NOW, limit=9, lease_s=60),
    "look for associations of dead hosts": instances.open_receptions,
    "look for instances of a study": lambda ledger: holdings.count_instances(ledger, study_instance_uid="1.2.3"),
    "list studies": overview.study_overviews,
    "explain a study": lambda ledger: overview.events_of_study(ledger, "1.2.3"),
    "look for void results": rejection.superseded_sets,
    "look for what another route took over": lambda ledger: rejection.taken_over_sets(ledger, {"cine": ("infarct",)}),
    "look for what a route was left with": lambda ledger: rejection.left_sets(ledger, {"cine": ("infarct",)}),
    "look for what was corrected": rejection.corrected_sets,
    "forget history": lambda ledger: retention.expire_history(ledger, retention=dt.timedelta(days=365), now=NOW),
    "pass over what nobody is told": transfers.pass_over_untold,
    "expire studies": lambda ledger: retention.expire_studies(ledger, retention=dt.timedelta(days=14), now=LATER),
    "expire events": lambda ledger: retention.expire_events(ledger, retention=dt.timedelta(days=365), now=LATER),
    "expire the quarantine": lambda ledger: retention.expire_quarantine(
        ledger, retention=dt.timedelta(days=14), now=LATER
    ),
}


def _associate(ledger: Ledger) -> str:
    return associate(ledger, "node/receiver-0")


@contextmanager
def _statements(ledger: Ledger) -> Iterator[list[tuple[str, Any]]]:
    seen: list[tuple[str, Any]] = []

    def note(
        _connection: Connection, _cursor: object, statement: str, parameters: Any, _context: object, many: bool
    ) -> None:
        seen.append((statement, parameters[0] if many else parameters))

    event.listen(ledger.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(ledger.engine, "before_cursor_execute", note)


def _scans(ledger: Ledger, statement: str, parameters: Any) -> list[str]:
    """What a statement would look through row by row."""
    with ledger.engine.connect() as connection:
        if ledger.engine.dialect.name == "sqlite":
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            lines = [str(row[-1]) for row in plan]
            return [
                line
                for line in lines
                if line.startswith("SCAN") and line.split()[1] in GROWS
                # The first hundred of an index.
                if not ("USING INDEX" in line and "LIMIT" in statement)
            ]
        # Tables under test are small: leave the planner no reason to look through them but a missing index.
        connection.execute(text("SET enable_seqscan = off"))
        plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        return [str(row[0]) for row in plan if "Seq Scan on" in row[0]]


@pytest.mark.parametrize("what", REPEATED)
def test_what_is_done_again_and_again_scans_no_table_that_grows(ledger: Ledger, what: str) -> None:
    receive_and_schedule(ledger)
    job = jobs.claim_job(ledger, "w", NOW)
    assert job is not None
    jobs.complete_job(ledger, job, [a_result(1)], DELIVERED, now=NOW)
    instances.record_instances(ledger, [an_instance(_associate(ledger), 9)], at=NOW)
    with _statements(ledger) as statements:
        REPEATED[what](ledger)
    assert statements
    scans = [
        scan
        for statement, parameters in statements
        if statement.split()[0] in ("SELECT", "UPDATE", "DELETE")
        for scan in _scans(ledger, statement, parameters)
        if not any(index in scan for index in SMALL)
    ]
    assert scans == []
