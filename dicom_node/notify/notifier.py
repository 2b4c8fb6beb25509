"""The notifier: looks what happened, and tells it, each way at its own pace.

What was told is kept in a file beside the instances, for each way apart: what one way did not take is told again, and
nothing is told twice because the other failed. A way that is away loses nothing; all that waits goes in one message.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config import Configuration, NotificationCause
from dicom_node.deliver.retry import next_try
from dicom_node.errors import NodeError
from dicom_node.instance_files import instance_files
from dicom_node.node_status import Alarm, node_status
from dicom_node.notify.channels import Send, channels
from dicom_node.notify.notices import alarm_notices, job_notices
from dicom_node.roles import RoleContext
from storage.ended_jobs import jobs_ended
from storage.files import FILE_MODE
from storage.ledger import Ledger, open_ledger, utc_now

__all__ = ["Notifier", "serve_notifier"]

_log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0
STATE = ".notified.json"
LOCK = ".notifier.lock"
"""Held by the one notifier that tells."""
SETTLED = dt.timedelta(seconds=5)
"""What ended before may be committed after what ended later."""


@dataclass(slots=True)
class _Told:
    """What one way has told."""

    job: tuple[dt.datetime, int]
    """When the last job that was looked at ended, and its id."""
    alarms: dict[str, dt.datetime] = field(default_factory=dict)
    next_at: dt.datetime | None = None
    """Before then nothing is told."""
    failures: int = 0

    def is_due(self, now: dt.datetime) -> bool:
        return self.next_at is None or self.next_at <= now


def serve_notifier(context: RoleContext, configuration: Configuration) -> None:
    """Run the notifier until told to stop; where several hosts have one, the others stand by."""
    context.ready()
    lock = os.open(configuration.storage.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        while not _held(lock):
            if context.stop.wait(LOOK_EVERY_S):
                return
        _notify(context, configuration)
    finally:
        os.close(lock)


def _held(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _notify(context: RoleContext, configuration: Configuration) -> None:
    ledger = open_ledger(configuration.storage.database)
    notifier = Notifier(configuration, ledger)
    try:
        while not context.stop.wait(LOOK_EVERY_S):
            try:
                notifier.look(utc_now())
            except (SQLAlchemyError, OSError) as error:
                _log.warning("nobody could be notified", error=type(error).__name__)
    finally:
        ledger.close()


class Notifier:
    """Tells what happened since the last look.

    Parameters
    ----------
    ways
        How to tell it, by name; those of the configuration unless given.
    """

    def __init__(self, configuration: Configuration, ledger: Ledger, ways: dict[str, Send] | None = None) -> None:
        self._configuration, self._ledger = configuration, ledger
        self._settings = configuration.notifications
        self._ways = channels(self._settings, configuration.node.ae_title) if ways is None else ways
        self._file = configuration.storage.directory / STATE
        self._told = _read(self._file)

    def look(self, now: dt.datetime) -> None:
        """Tell what is to be told by now.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            The ledger does not answer.
        OSError
            What was told cannot be written down.
        """
        due = [name for name in self._ways if self._of(name, now).is_due(now)]
        if not due:
            return
        if self._settings.patient:
            # Imported late: it brings pynetdicom.
            from dicom_node.network.query_scp import describe_new_studies

            describe_new_studies(self._ledger, instance_files(self._configuration))
        alarms: Sequence[Alarm] = ()
        if NotificationCause.ALARM in self._settings.causes:
            alarms = node_status(self._configuration, self._ledger).alarms
        for name in due:
            self._tell(name, alarms, now)
        _write(self._file, self._told)

    def _of(self, name: str, now: dt.datetime) -> _Told:
        # Whoever begins to be told is not told the past.
        return self._told.setdefault(name, _Told((now, 0)))

    def _tell(self, name: str, alarms: Sequence[Alarm], now: dt.datetime) -> None:
        told = self._of(name, now)
        jobs = jobs_ended(self._ledger, after=told.job, until=now - SETTLED)
        remind = dt.timedelta(seconds=self._settings.remind_after_s)
        of_alarms, after = alarm_notices(alarms, told.alarms, remind, now)
        notices = [*of_alarms, *job_notices(jobs, self._settings)]
        if notices:
            try:
                self._ways[name](notices)
            except NodeError as error:
                told.failures += 1
                told.next_at = next_try(self._configuration.delivery, told.failures, now, random.random())
                _log.warning("notification not taken", way=name, what=error.what, notices=len(notices))
                return
            told.failures = 0
            told.next_at = now + dt.timedelta(seconds=self._settings.at_most_every_s)
            _log.info("notified", way=name, notices=len(notices))
        told.alarms = after
        if jobs:
            told.job = jobs[-1].ended_at, jobs[-1].id


def _read(file: Path) -> dict[str, _Told]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return {
            name: _Told(
                (dt.datetime.fromisoformat(row["job"][0]), int(row["job"][1])),
                {key: dt.datetime.fromisoformat(at) for key, at in row["alarms"].items()},
            )
            for name, row in rows.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        _log.warning("what was told is not known any more: only what happens from now on is told")
        return {}


def _write(file: Path, told: dict[str, _Told]) -> None:
    rows = {
        name: {
            "job": [one.job[0].isoformat(), one.job[1]],
            "alarms": {key: at.isoformat() for key, at in one.alarms.items()},
        }
        for name, one in told.items()
    }
    beside = file.with_suffix(".tmp")
    beside.touch(FILE_MODE)
    beside.write_text(json.dumps(rows), encoding="utf-8")
    beside.replace(file)
