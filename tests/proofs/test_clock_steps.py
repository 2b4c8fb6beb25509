"""The clock is set, forth by years and back again: nothing waits for a time that will not come soon.

Receiver and scheduler are processes of their own whose time of day ``clock.c`` moves. ``DICOM_NODE_CLOCK_STEPS`` is
the number of steps, ``DICOM_NODE_CLOCK_SEED`` their seed.
"""

from __future__ import annotations

import datetime as dt
import mmap
import multiprocessing
import os
import random
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from interop.ports import wait_ready, wait_until
from ledger_rows import DELIVERED, a_result, receive_and_schedule
from network.objects import mr_image, new_uid, save
from network.patient_scanner import SETTINGS
from network.running_node import NODE, ReceiverProcess, configuration
from sqlalchemy import select

import dicom_node.schedule.clock
from dicom_node.config import Configuration, ExecutionSettings, Peer
from dicom_node.network.sender import send_files
from dicom_node.roles import RoleContext
from dicom_node.schedule.clock import SteadyTime
from dicom_node.schedule.scheduler import serve_scheduler
from proofs.recorded_disk import library
from storage.clock_steps import deliveries_due_within, jobs_due_within
from storage.deliveries import claim_deliveries, delivery_sent, destination_unreachable, destinations_with_work
from storage.jobs import claim_job, complete_job, fail_job, studies_to_consider
from storage.ledger import Ledger, open_ledger, utc_now
from storage.schema import InstanceRow, StudyRow

STEPS = int(os.environ.get("DICOM_NODE_CLOCK_STEPS", "4"))
SEED = int(os.environ.get("DICOM_NODE_CLOCK_SEED", "1"))
SOURCE = Path(__file__).with_name("clock.c")
DAY = 86400
_spawn = multiprocessing.get_context("spawn")


def _schedule(node: Configuration, ready: Event) -> None:
    serve_scheduler(RoleContext("scheduler", threading.Event(), ready.set), node)


@contextmanager
def node_by_another_clock(node: Configuration, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mmap.mmap]:
    """A receiver and a scheduler process, and the nanoseconds that their clock is ahead by."""
    file = folder / "offset"
    file.write_bytes(bytes(8))
    ready = _spawn.Event()
    process = _spawn.Process(target=_schedule, args=(node, ready), daemon=True)
    with monkeypatch.context() as environment:
        environment.setenv("LD_PRELOAD", str(library(folder, SOURCE)))
        environment.setenv("CLOCK_OFFSET", str(file))
        process.start()
        receiver = ReceiverProcess(node)
    try:
        wait_ready(ready, process.is_alive)
        with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as offset:
            yield offset
    finally:
        receiver.kill()
        process.kill()
        process.join()


@pytest.mark.slow
@pytest.mark.timeout(300 + 60 * STEPS)
def test_a_clock_that_is_set_stops_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(SEED)
    node = configuration(
        tmp_path,
        execution=ExecutionSettings(quiet_time_s=0.5, complete_quiet_time_s=0.5, incomplete_quiet_time_s=0.5),
    )
    peer = Peer(ae_title=NODE, host="127.0.0.1", port=node.node.port)
    steps = [0, 400 * DAY, 0, -3600]
    steps += [generator.choice((0, generator.uniform(-2, 400) * DAY)) for _ in range(STEPS - len(steps))]
    with (
        closing(open_ledger(node.storage.database)) as ledger,
        node_by_another_clock(node, tmp_path, monkeypatch) as offset,
    ):
        for number, seconds in enumerate(steps):
            study = new_uid()
            offset[:] = struct.pack("<q", int(seconds * 1e9))
            paths = [save(mr_image(study=study, series=f"{study}.1", seed=seed), tmp_path) for seed in range(2)]
            assert [one.status for one in send_files(paths, peer, SETTINGS)] == [0x0000] * 2

            def is_considered(study: str = study) -> bool:
                with ledger.reading() as session:
                    version = session.scalar(select(StudyRow.version).where(StudyRow.study_instance_uid == study))
                return bool(version) and not studies_to_consider(ledger)

            wait_until(is_considered, seconds=60, what=f"the study of step {number}, {seconds} s, is taken", every=0.2)
        with ledger.reading() as session:
            held = list(session.scalars(select(InstanceRow)))
        # Neither did retention take what is not old, nor a sweep what was on its way.
        assert len(held) == 2 * len(steps)
        assert [row.sop_instance_uid for row in held if row.removed_at is not None] == []
        assert [row.path for row in held if not (node.storage.directory / row.path).exists()] == []
    print(f"\n{len(steps)} steps, seed {SEED}")


def test_a_step_forth_is_believed_after_a_day_by_what_deletes(monkeypatch: pytest.MonkeyPatch) -> None:
    at, monotonic = [1_000_000.0], [50.0]
    monkeypatch.setattr(dicom_node.schedule.clock.time, "time", lambda: at[0])
    monkeypatch.setattr(dicom_node.schedule.clock.time, "monotonic", lambda: monotonic[0])
    steady = SteadyTime()

    def later(seconds: float, step: float = 0) -> float:
        at[0], monotonic[0] = at[0] + seconds + step, monotonic[0] + seconds
        return steady.now().timestamp()

    assert later(3600) == 1_003_600
    assert later(3600, step=2) == 1_007_202, "as the clock of a network sets it"
    assert later(3600, step=400 * DAY) == 1_010_802
    assert later(DAY - 1) == 1_010_802 + DAY - 1
    assert later(1) == 1_010_802 + DAY + 400 * DAY
    assert later(3600, step=-400 * DAY) == 1_014_402 + DAY, "back it is believed at once"
    assert later(3600, step=400 * DAY) == 1_018_002 + DAY
    assert later(3600, step=-400 * DAY) == 1_021_602 + DAY


# What the ledger holds from before the step.

NOW = utc_now()
AHEAD = NOW + dt.timedelta(days=400)
WITHIN = {"delay_s": 600.0, "commitment_s": 600.0, "lease_s": 120.0, "report_s": 600.0}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield opened
    opened.close()


def test_a_job_that_was_made_or_failed_while_the_clock_was_ahead_is_due(ledger: Ledger) -> None:
    receive_and_schedule(ledger, "1.2.3", at=AHEAD)
    assert claim_job(ledger, "w", NOW) is None
    assert jobs_due_within(ledger, NOW, delay_s=60) == 1
    job = claim_job(ledger, "w", NOW)
    assert job is not None
    fail_job(ledger, job, "test", retryable=True, retry_at=lambda _: AHEAD, now=AHEAD)
    assert claim_job(ledger, "w", NOW) is None
    assert jobs_due_within(ledger, NOW, delay_s=60) == 1
    assert claim_job(ledger, "w", NOW) is not None
    assert jobs_due_within(ledger, NOW, delay_s=60) == 0


def test_a_pause_that_the_policy_makes_is_kept(ledger: Ledger) -> None:
    receive_and_schedule(ledger, "1.2.3", at=NOW)
    job = claim_job(ledger, "w", NOW)
    assert job is not None
    fail_job(ledger, job, "test", retryable=True, retry_at=lambda _: NOW + dt.timedelta(seconds=60), now=NOW)
    assert jobs_due_within(ledger, NOW, delay_s=60) == 0
    assert claim_job(ledger, "w", NOW) is None


@pytest.mark.parametrize("state", ["queued", "outage", "sending", "awaiting commitment"])
def test_what_goes_out_does_not_wait_for_the_time_of_a_clock_that_was_ahead(ledger: Ledger, state: str) -> None:
    receive_and_schedule(ledger, "1.2.3", at=NOW)
    job = claim_job(ledger, "w", NOW)
    assert job is not None
    complete_job(ledger, job, [a_result(1)], DELIVERED, now=AHEAD if state == "queued" else NOW)
    later = NOW + dt.timedelta(seconds=1)
    if state != "queued":
        (claimed,) = claim_deliveries(ledger, "pacs", 10, "d", AHEAD if state == "sending" else later, 120)
        if state == "outage":
            destination_unreachable(ledger, "pacs", [claimed.id], "away", retry_at=lambda _: AHEAD, now=later)
        elif state == "awaiting commitment":
            delivery_sent(ledger, [claimed.id], "1.2.9", AHEAD, now=later)
    assert destinations_with_work(ledger, later) == ()
    assert deliveries_due_within(ledger, later, **WITHIN) == 1
    assert deliveries_due_within(ledger, later, **WITHIN) == 0
    if state == "sending":
        from storage.deliveries import release_expired_deliveries

        assert release_expired_deliveries(ledger, later + dt.timedelta(seconds=1)) == 1
    assert destinations_with_work(ledger, later + dt.timedelta(seconds=1)) == ("pacs",)
