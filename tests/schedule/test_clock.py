"""Work at regular intervals: never twice at once, and not told of as skipped when it takes longer than its interval."""

from __future__ import annotations

import datetime as dt
import itertools
import logging
import threading
import time

import pytest

from dicom_node.schedule import clock
from dicom_node.schedule.clock import RegularWork
from storage.ledger import utc_now

PATIENCE_S = 60.0


def run_until(work: RegularWork, enough: threading.Event) -> None:
    stop, started = threading.Event(), threading.Event()
    thread = threading.Thread(target=work.run, args=(stop, started.set))
    thread.start()
    try:
        assert started.wait(PATIENCE_S)
        assert enough.wait(PATIENCE_S)
    finally:
        stop.set()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_work_that_takes_longer_than_its_interval_is_done_again_when_it_has_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    at_once, most, runs = 0, 0, 0
    enough = threading.Event()

    def slow(_now: object) -> None:
        nonlocal at_once, most, runs
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.15)
        at_once -= 1
        runs += 1
        if runs == 4:
            enough.set()

    work = RegularWork()
    work.every(0.02, slow)
    with caplog.at_level(logging.WARNING):
        run_until(work, enough)
    assert most == 1
    assert [one.getMessage() for one in caplog.records if one.name.startswith("apscheduler")] == []


def test_work_that_fails_is_done_again() -> None:
    runs, enough = 0, threading.Event()

    def failing(_now: object) -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            enough.set()
        raise (ValueError("a defect") if runs == 1 else OSError(5, "Input/output error"))

    work = RegularWork()
    work.every(0.01, failing)
    run_until(work, enough)


def test_work_that_knows_of_something_due_is_done_again_sooner() -> None:
    runs, enough = 0, threading.Event()

    def look(_now: object) -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            enough.set()

    work = RegularWork()
    # Without that, the second run would be an hour after the first.
    work.every(3600.0, look, sooner=lambda: 0.01)
    run_until(work, enough)


def test_the_interval_counts_from_one_beginning_to_the_next() -> None:
    began, enough = list[float](), threading.Event()

    def short(_now: object) -> None:
        began.append(time.monotonic())
        if len(began) == 4:
            enough.set()

    work = RegularWork()
    work.every(0.2, short)
    run_until(work, enough)
    # However busy the machine is, never earlier; a timer may be a millisecond fast.
    assert all(later - earlier >= 0.195 for earlier, later in itertools.pairwise(began))


def test_work_whose_time_was_written_down_by_a_clock_that_was_ahead_for_a_moment_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs, enough = 0, threading.Event()

    def ahead() -> dt.datetime:
        # Set forth and back between two looks at the clocks, of which neither sees anything.
        monkeypatch.setattr(clock, "utc_now", utc_now)
        return utc_now() + dt.timedelta(days=400)

    def look(_now: object) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            monkeypatch.setattr(clock, "utc_now", ahead)
        elif runs == 3:
            enough.set()

    work = RegularWork()
    work.every(0.01, look)
    run_until(work, enough)
