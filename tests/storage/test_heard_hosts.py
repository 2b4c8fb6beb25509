"""What hosts without a common directory say of themselves in the ledger."""

from __future__ import annotations

import datetime as dt

from ledger_rows import NOW
from sqlalchemy import event

from storage.hosts import HeardHost, HostWatch, beat, heard_hosts
from storage.ledger import Ledger

LATER = NOW + dt.timedelta(hours=1)


def test_a_host_that_says_nothing_serves_no_more(ledger: Ledger) -> None:
    now = 0.0
    watch = HostWatch(30.0, clock=lambda: now)
    beat(ledger, "one", NOW)
    assert watch.silent(ledger, {"one", "never"}) == frozenset()
    now = 29.0
    assert watch.silent(ledger, {"one", "never"}) == frozenset()
    # Whatever its clock says.
    beat(ledger, "one", NOW - dt.timedelta(days=400))
    now = 31.0
    assert watch.silent(ledger, {"one", "never", "new"}) == {"never"}
    now = 62.0
    assert watch.silent(ledger, {"one", "never", "new"}) == {"one", "never", "new"}
    beat(ledger, "one", NOW)
    assert watch.silent(ledger, {"one"}) == frozenset()


def test_what_a_host_said_of_its_processes_stays_until_it_says_otherwise(ledger: Ledger) -> None:
    assert heard_hosts(ledger) == ()
    beat(ledger, "two", NOW)
    beat(ledger, "one", NOW, processes=[{"name": "receiver-0", "ready": False}], free_mb=1000.5)
    beat(ledger, "one", LATER)
    assert heard_hosts(ledger) == (
        HeardHost("one", LATER, ({"name": "receiver-0", "ready": False},), 1000.5),
        HeardHost("two", NOW, (), None),
    )
    beat(ledger, "one", LATER, processes=[])
    assert heard_hosts(ledger)[0].processes == ()


def test_a_host_whose_processes_are_as_before_writes_them_no_more(ledger: Ledger) -> None:
    said: list[str] = []
    event.listen(ledger.engine, "before_cursor_execute", lambda *call: said.append(call[2]))
    beat(ledger, "one", NOW, processes=[{"name": "receiver-0"}])
    assert [one for one in said if "UPDATE" in one and "processes" in one]
    said.clear()
    beat(ledger, "one", LATER)
    assert [one for one in said if "UPDATE" in one]
    assert not [one for one in said if "processes" in one]
