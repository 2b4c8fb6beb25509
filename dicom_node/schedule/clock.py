"""Runs work at regular intervals, whatever is done to the time of day.

APScheduler keeps when a job is due by the time of day. Left alone it runs nothing for an hour when that is set back by
one, and counts every run that it missed when it is set forth.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import threading
import time
from collections.abc import Callable

import structlog
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import raised_at
from storage.ledger import utc_now

__all__ = ["RegularWork", "SteadyTime"]

_log = structlog.get_logger(__name__)

LOOK_AT_CLOCKS_EVERY_S = 1.0
STEP_S = 1.0
"""Both clocks apart by so much more than at the last look: the time of day was set."""


BELIEVED_AFTER_S = 86400.0
SMALL_STEP_S = 60.0


class SteadyTime:
    """The time of day for what deletes: when that is set forth by more than a minute, it is believed a day later.

    Retention by a clock that is ahead for a moment would remove all there is, and a sweep what is on its way just then.
    A clock that is ahead when the process starts is believed.
    """

    def __init__(self) -> None:
        self._apart = time.time() - time.monotonic()
        self._doubted_since: float | None = None

    def now(self) -> dt.datetime:
        """The time, aware, UTC."""
        monotonic = time.monotonic()
        apart = time.time() - monotonic
        if apart <= self._apart + SMALL_STEP_S:
            self._apart, self._doubted_since = apart, None
        elif self._doubted_since is None:
            self._doubted_since = monotonic
        elif monotonic - self._doubted_since >= BELIEVED_AFTER_S:
            self._apart, self._doubted_since = apart, None
        return dt.datetime.fromtimestamp(monotonic + self._apart, dt.UTC)


class _Once(BaseTrigger):
    """Due when it was added, and not again: what runs adds the next run itself, so that none falls due meanwhile.

    Attributes
    ----------
    by
        When it is to run, by the monotonic clock, s: the time of day may be set while its due time is written down.
    """

    def __init__(self, by: float) -> None:
        self.by = by

    def get_next_fire_time(self, previous_fire_time: dt.datetime | None, now: dt.datetime) -> dt.datetime | None:
        return now if previous_fire_time is None else None


class RegularWork:
    """Work that is done at regular intervals, each kind in a thread of its own and never twice at once.

    What takes longer than its interval is done again as soon as it has ended.
    """

    def __init__(self) -> None:
        self._clock = BackgroundScheduler(timezone=dt.UTC)
        self._lock, self._stopped = threading.Lock(), False

    def every(
        self, seconds: float, work: Callable[[dt.datetime], object], sooner: Callable[[], float] = lambda: math.inf
    ) -> None:
        """Do something as soon as it runs, and again every so many seconds.

        Parameters
        ----------
        sooner
            Asked when the work is done: seconds from its beginning until it is to be done again, where that is sooner.
        """

        def run() -> None:
            began = time.monotonic()
            try:
                work(utc_now())
            except SQLAlchemyError as error:
                # The ledger is away or locked: nothing was changed, and the next run tries again.
                _log.error("the ledger did not answer", error=type(error).__name__)
            except OSError as error:
                _log.error("the storage directory cannot be read", error=error.strerror)
            except Exception as error:  # noqa: BLE001 - the next run may find other things
                _log.error("a run of the scheduler failed", error=type(error).__name__, at=raised_at(error))
            self._add(run, max(0.0, began + min(seconds, sooner()) - time.monotonic()))

        self._add(run, 0.0)

    def _add(self, run: Callable[[], None], in_seconds: float) -> None:
        with self._lock:
            # A clock that is stopped waits for what runs, and would not take this up.
            if not self._stopped:
                by = time.monotonic() + in_seconds
                due = utc_now() + dt.timedelta(seconds=in_seconds)
                self._clock.add_job(run, _Once(by), misfire_grace_time=None, next_run_time=due)

    def _run_overdue(self) -> None:
        """Have what is overdue by the monotonic clock run now, however far ahead the time of day has it."""
        for job in self._clock.get_jobs():
            if job.trigger.by <= time.monotonic() and job.next_run_time > utc_now():
                # It may have begun meanwhile.
                with contextlib.suppress(JobLookupError):
                    job.modify(next_run_time=utc_now())

    def run(self, stop: threading.Event, started: Callable[[], None]) -> None:
        """Run until told to stop; what runs then is awaited."""
        self._clock.start()
        started()
        apart = time.time() - time.monotonic()
        while not stop.wait(LOOK_AT_CLOCKS_EVERY_S):
            was, apart = apart, time.time() - time.monotonic()
            if abs(apart - was) >= STEP_S:
                _log.warning("the time of day was set", seconds=round(apart - was, 1))
            self._run_overdue()
        with self._lock:
            self._stopped = True
        self._clock.shutdown(wait=True)
