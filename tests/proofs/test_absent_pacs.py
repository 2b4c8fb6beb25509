"""The PACS is away for a week, by a simulated clock; then it comes back, at first with little room.

Studies go on to be finished all the time. The clock is set forth and back in the middle. Afterwards the backlog drains
without a person, the oldest first, over one association at a time and never above what the PACS has room for; retention
has taken nothing that was not delivered. ``DICOM_NODE_ABSENT_STUDIES`` is the number of studies of that week,
``DICOM_NODE_ABSENT_DAYS`` its length.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import deliver.results_due
import pytest
from crash_parts import NotingPacs
from deliver.results_due import result_objects, results_due
from interop.ports import free_port, wait_until
from ledger_rows import close_versions
from network.running_node import configuration, destination_sections, pacs_peer
from pynetdicom import evt

import dicom_node.deliver.deliver
import dicom_node.deliver.reports
import dicom_node.deliver.round
from dicom_node.config import Configuration, DeliveryPolicy
from dicom_node.deliver.deliver import Deliverer, serve_deliverer
from dicom_node.network.pacs import CommitmentAnswer, PacsSettings
from dicom_node.schedule.scheduler import clean
from storage.files import InstanceFiles
from storage.identity import bind
from storage.ledger import Ledger, open_ledger, utc_now
from storage.overview import DeliveryOverview, delivery_overviews, outages
from storage.schema import DeliveryState

STUDIES = int(os.environ.get("DICOM_NODE_ABSENT_STUDIES", "8"))
DAYS = float(os.environ.get("DICOM_NODE_ABSENT_DAYS", "7"))
OBJECTS = 2
"""Of each study."""
LOOK = dt.timedelta(minutes=20)
ROOM = 10
"""Objects that the PACS has room for when it comes back."""
PAUSE = dt.timedelta(seconds=3)
"""Between two looks at the backlog while nothing of it is on its way: sixty seconds in one."""
UNDER_WAY = {DeliveryState.SENDING, DeliveryState.AWAITING_COMMITMENT}


class SimulatedClock:
    """The time of day of all that delivers."""

    def __init__(self) -> None:
        self._now, self._runs = utc_now(), False
        self._started = utc_now()

    def __call__(self) -> dt.datetime:
        return self._now + (utc_now() - self._started) if self._runs else self._now

    def step(self, by: dt.timedelta) -> None:
        self._now += by

    def run(self) -> None:
        self._started, self._runs = utc_now(), True


class CountingPacs(NotingPacs):
    """Notes how many associations are open at once, and what it refuses for want of room."""

    def __init__(self, settings: PacsSettings) -> None:
        super().__init__(settings)
        self.most_open = 0
        self.refused = 0
        self._open: set[object] = set()
        self._counting = threading.Lock()

    def _store(self, event: evt.Event) -> int:
        with self._counting:
            self._open = {one for one in self._open if one.is_established} | {event.assoc}
            self.most_open = max(self.most_open, len(self._open))
        status = super()._store(event)
        self.refused += status == 0xA700
        return status


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimulatedClock:
    one = SimulatedClock()
    modules = (dicom_node.deliver.deliver, dicom_node.deliver.round, dicom_node.deliver.reports, deliver.results_due)
    for module in modules:
        monkeypatch.setattr(module, "utc_now", one)
    monkeypatch.setattr(dicom_node.deliver.deliver, "RELEASE_EXPIRED_EVERY_S", 0.5)
    return one


@contextmanager
def delivering(node: Configuration) -> Iterator[None]:
    """The deliverer as the node runs it."""
    stop = threading.Event()
    thread = threading.Thread(target=serve_deliverer, args=(node, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def overview(ledger: Ledger) -> list[DeliveryOverview]:
    return sorted(delivery_overviews(ledger, limit=100_000), key=lambda one: one.id)


def drained(ledger: Ledger, clock: SimulatedClock, condition: Callable[[], bool], *, what: str) -> None:
    """Wait, and spare the pauses: not what is under way, whose leases and time limits would end on a slow machine."""

    def looked() -> bool:
        if UNDER_WAY.isdisjoint(one.state for one in overview(ledger)):
            clock.step(PAUSE)
        return condition()

    wait_until(looked, seconds=500, what=what)


def a_round(deliverer: Deliverer) -> int:
    """As the serving loop does while nobody answers; returns how many destinations were called."""
    called = deliverer.destinations_with_work()
    for destination in called:
        deliverer.deliver_once(destination)
    return len(called)


@pytest.mark.slow
@pytest.mark.timeout(1200 + 2 * STUDIES)
def test_a_pacs_that_is_away_for_a_week(tmp_path: Path, clock: SimulatedClock) -> None:
    settings = PacsSettings(tmp_path / "pacs", free_port(), commitment=CommitmentAnswer.SAME_ASSOCIATION)
    node = configuration(
        tmp_path,
        **destination_sections(pacs_peer(settings.port), commitment_timeout_s=60),
        # As shipped, but for the longest pause: a week of ten-minute pauses takes minutes.
    ).model_copy(update={"delivery": DeliveryPolicy(maximum_delay_s=3600, response_timeout_s=5)})
    calls = 0
    with closing(open_ledger(node.storage.database)) as ledger:
        files = InstanceFiles(node.storage.directory)
        bind(ledger, files, now=clock())
        deliverer = Deliverer(node, ledger, files, "test")
        names = [f"1.2.826.{number}" for number in range(STUDIES)]
        looks = int(DAYS * 86400 / LOOK.total_seconds())
        due = iter([round((number + 1) * looks / (STUDIES + 1)) for number in range(STUDIES)])
        next_study, waiting = next(due), iter(names)
        for look in range(looks):
            clock.step(LOOK)
            if look == looks // 2:
                # A clock that was ahead for one look: what it wrote down must hold nobody up afterwards.
                clock.step(dt.timedelta(days=400))
            while next_study is not None and look >= next_study:
                results_due(node, ledger, result_objects(OBJECTS), study=next(waiting))
                close_versions(ledger, clock())
                next_study = next(due, None)
            calls += a_round(deliverer)
            if look == looks // 2:
                clock.step(-dt.timedelta(days=400))
                deliverer.forget_clock_steps()
            if look % (looks // 7) == 0:
                clean(ledger, files, node, clock())
        before = overview(ledger)
        assert len(before) == STUDIES * OBJECTS
        assert {(one.state, one.failed_attempts) for one in before} == {(DeliveryState.QUEUED, 0)}
        assert [one.destination for one in outages(ledger)] == ["pacs"]
        # Called again and again to the end, and never more often than the policy lets it.
        assert DAYS * 24 <= calls <= looks

        clock.run()
        with CountingPacs(settings) as pacs:
            pacs.maximum_objects = ROOM
            with delivering(node):
                drained(ledger, clock, lambda: pacs.refused > 0, what="the PACS is out of room")
                assert len(pacs.held()) == ROOM
                pacs.maximum_objects = None
                drained(
                    ledger,
                    clock,
                    lambda: {one.state for one in overview(ledger)} == {DeliveryState.COMMITTED},
                    what="all is committed",
                )
            arrived = [uid for uid, _ in pacs.arrivals]
            assert sorted(arrived) == sorted(one.sop_instance_uid for one in before), "each came once"
            first_come = {one.sop_instance_uid: number for number, one in enumerate(before)}
            order = [first_come[uid] for uid in arrived]
            backward = sum(later < earlier for earlier, later in itertools.pairwise(order))
            assert order[:ROOM] == list(range(ROOM))
            assert pacs.most_open == 1
        assert outages(ledger) == ()
    print(f"\n{STUDIES} studies in {DAYS:g} days, {calls} calls in vain, {backward} steps back in the order of arrival")
    assert backward <= 1 + pacs.refused // ROOM
