"""The scheduler role: looks at the ledger at regular intervals, and turns complete studies into jobs.

All state is in the ledger, so a scheduler that dies loses nothing. A time of day that is set stops nothing
(``clock.py``, ``tests/proofs/test_clock_steps.py``).
"""

from __future__ import annotations

import datetime as dt
import math
import resource

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config import Configuration
from dicom_node.deliver.rejection import reject_superseded
from dicom_node.errors import raised_at
from dicom_node.execute.kept import KeptFindings
from dicom_node.execute.retry import LONGEST_S, backing_off
from dicom_node.instance_files import instance_files
from dicom_node.process_states import serving_hosts
from dicom_node.roles import RoleContext
from dicom_node.schedule.clock import RegularWork, SteadyTime
from dicom_node.schedule.completeness import StudyReading, decide, study_reading
from dicom_node.schedule.correcting import correcting_series, with_corrections
from dicom_node.schedule.judging import note_verdicts_received
from dicom_node.schedule.ordered import LateOrders, asking_routes, tell_unused
from dicom_node.schedule.routed import jobs_of_route
from pipelines.package import packages
from storage.bucket import BucketError
from storage.bucket_files import BucketFiles
from storage.bucket_sweep import part_of_the_day, sweep_bucket
from storage.clock_steps import jobs_due_within
from storage.files import UNEXPLAINED, InstanceFiles
from storage.hosts import HostWatch
from storage.identity import IdentityError
from storage.instances import close_receptions, open_receptions
from storage.jobs import (
    WaitingStudy,
    create_jobs,
    inputs_in_work,
    release_expired_jobs,
    studies_to_consider,
)
from storage.leases import LEASE_S, LeaseWatch, leases_of
from storage.ledger import Ledger, open_ledger
from storage.orders import expire_orders
from storage.retention import (
    SWEEP_GRACE,
    expire_commitments,
    expire_events,
    expire_history,
    expire_quarantine,
    expire_steps,
    expire_studies,
    sweep_files,
)
from storage.set_aside import set_study_aside, why_set_aside
from storage.transfers import pass_over_untold
from storage.uploads import studies_being_uploaded

__all__ = ["StudyScheduler", "serve_scheduler"]

_log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.2
SOONEST_S = 0.01
"""Between two looks, however soon a study is complete."""
RELEASE_EVERY_S = 10.0
REJECT_EVERY_S = 2.0
CLEAN_EVERY_S = 3600.0
READ_AFTER_S = 0.3
"""Silence after which the headers of a study are read, so that it need not wait for that once it is complete. Earlier,
one of which each image comes on an association of its own would be read again after every image."""
UNREADABLE_PAUSE = dt.timedelta(seconds=30)
"""Between two tries to read a study while its files cannot be reached."""
SET_ASIDE = dt.timedelta(days=1)
"""How long a study that failed is passed over, unless something comes in for it: a later version may read it."""
HOST_SILENT_S = 30.0
"""A host that has no directory in common with others serves no more when it has said nothing for so long."""
MEMORY_BYTES = 2 << 30
"""What the scheduler may take: a header that asks for more ends in a reason, not in the death of the process."""


class StudyScheduler:
    """Considers the studies that wait; remembers what it read of each until the study changes."""

    def __init__(self, ledger: Ledger, configuration: Configuration) -> None:
        self._ledger = ledger
        self._configuration = configuration
        self._readings: dict[str, tuple[WaitingStudy, StudyReading]] = {}
        self._passed_over: dict[str, tuple[WaitingStudy, dt.datetime | None]] = {}
        """What was last seen of each study that waits, and until when it is passed over."""
        self._ahead: dict[str, tuple[dt.datetime, dt.datetime]] = {}
        """Of studies that came in at a time that has not come yet: that time, and when it was first seen."""
        self._late_orders = LateOrders()
        self.look_again_s = math.inf
        """Seconds from the last look until a study may be complete that was not complete then."""

    def renew(self, configuration: Configuration) -> None:
        """Go on with another configuration: every study that waits is looked at anew."""
        self._configuration, self._readings, self._passed_over = configuration, {}, {}

    def consider(self, now: dt.datetime) -> tuple[int, ...]:
        """Schedule every study that is complete; returns the ids of the new jobs."""
        self.look_again_s = math.inf
        settings = self._configuration.execution
        waiting = studies_to_consider(self._ledger)
        self._readings = {
            one.study_instance_uid: self._readings[one.study_instance_uid]
            for one in waiting
            if one.study_instance_uid in self._readings
        }
        self._passed_over = {
            one.study_instance_uid: self._passed_over[one.study_instance_uid]
            for one in waiting
            if one.study_instance_uid in self._passed_over
        }
        looked = self._late_orders.look(
            self._ledger, self._configuration, {one.study_instance_uid for one in waiting}, now
        )
        for uid in looked.to_be_read:
            self._readings.pop(uid, None)
        created = list(looked.jobs)
        apart = bool(waiting and self._configuration.storage.bucket is not None and self._configuration.hosts)
        uploading = studies_being_uploaded(self._ledger) if apart else frozenset()
        for study in waiting:
            told = self._by_its_clock(study, now)
            quiet_s = (told - study.last_received_at).total_seconds()
            soonest_s = min(READ_AFTER_S, settings.complete_quiet_time_s, settings.quiet_time_s)
            if study.open_associations:
                continue
            if quiet_s < soonest_s and study.step_changed_at is None:
                self._look_again_in(soonest_s - quiet_s)
                continue
            if study.study_instance_uid in uploading:
                # Whoever is to work on it could not read it yet.
                continue
            again_at = self._passed_over_until(study)
            if again_at is not None and now < again_at:
                continue
            failure = ""
            try:
                reading = self._read(study)
                decision = decide(reading, settings, open_associations=study.open_associations, now=told)
                if decision.ready:
                    created.extend(self._schedule(reading, decision.sentence, now))
                else:
                    self._look_again_in(decision.silence_s)
            except SQLAlchemyError:
                raise
            except OSError as error:
                # Storage may come back.
                self._passed_over[study.study_instance_uid] = (study, now + UNREADABLE_PAUSE)
                _log.error(
                    "study cannot be scheduled: its files cannot be read; restore the storage, or send it again",
                    study_instance_uid=study.study_instance_uid,
                    error=f"{type(error).__name__}: {error.strerror}",
                )
            except Exception as error:  # noqa: BLE001 - one study must not hold up the others, whatever it holds
                # The text of an unforeseen exception may quote the data set.
                failure = f"what it holds cannot be read ({type(error).__name__})"
                _log.error("study failed", study_instance_uid=study.study_instance_uid, at=raised_at(error))
            if failure:
                # Only now is what the exception held let go: it may have been all memory.
                self._set_aside(study, failure, now)
        return tuple(created)

    def _look_again_in(self, seconds: float) -> None:
        self.look_again_s = min(self.look_again_s, max(seconds, SOONEST_S))

    def _passed_over_until(self, study: WaitingStudy) -> dt.datetime | None:
        """Until when to pass over a study: as remembered, or as an earlier life of the scheduler wrote down."""
        seen, until = self._passed_over.get(study.study_instance_uid, (None, None))
        if seen != study:
            aside = why_set_aside(self._ledger, study)
            until = None if aside is None else aside.at + SET_ASIDE
            self._passed_over[study.study_instance_uid] = (study, until)
        return until

    def _set_aside(self, study: WaitingStudy, reason: str, now: dt.datetime) -> None:
        set_study_aside(self._ledger, study, reason, now=now)
        self._passed_over[study.study_instance_uid] = (study, now + SET_ASIDE)
        self._readings.pop(study.study_instance_uid, None)
        _log.error(
            "study set aside; the others go on; it is looked at again when something comes in for it, or in a day",
            study_instance_uid=study.study_instance_uid,
            reason=reason,
        )

    def _by_its_clock(self, study: WaitingStudy, now: dt.datetime) -> dt.datetime:
        """The time by the clock that the study came in by: when it was set back since, nothing is to wait for that."""
        if study.last_received_at <= now:
            self._ahead.pop(study.study_instance_uid, None)
            return now
        last, seen = self._ahead.get(study.study_instance_uid, (None, now))
        if last != study.last_received_at or now < seen:
            seen = now
            self._ahead[study.study_instance_uid] = (study.last_received_at, seen)
        return study.last_received_at + (now - seen)

    def _read(self, study: WaitingStudy) -> StudyReading:
        seen, reading = self._readings.get(study.study_instance_uid, (None, None))
        if reading is None or seen != study:
            reading = study_reading(self._ledger, self._configuration, study.study_instance_uid)
            self._readings[study.study_instance_uid] = (study, reading)
        return reading

    def _schedule(self, reading: StudyReading, why: str, now: dt.datetime) -> tuple[int, ...]:
        routed = [
            job
            for one in reading.routes
            if one.series_instance_uids
            for job in jobs_of_route(self._configuration, one.route, one.series_instance_uids)
        ]
        note_verdicts_received(self._ledger, self._configuration, reading.contents, now=now)
        corrected = correcting_series(self._ledger, reading.contents)
        if corrected:
            routed = with_corrections(routed, corrected)
        created = create_jobs(self._ledger, reading.contents, routed, reason=why, now=now)
        if created is None:
            # Something came in between: look again in the next run.
            self._readings.pop(reading.contents.study_instance_uid, None)
            return ()
        if asking_routes(self._configuration):
            tell_unused(self._ledger, reading.contents.study_instance_uid, reading.orders.unused, now)
        _log.info(
            "study scheduled",
            study_instance_uid=reading.contents.study_instance_uid,
            version=reading.contents.version + 1,
            reason=why,
            routes=list(dict.fromkeys(one.route for one in routed)),
            packages=list(dict.fromkeys(one.package for one in routed)),
            jobs=created,
        )
        return created


def close_receptions_of_dead_hosts(
    ledger: Ledger, configuration: Configuration, watch: HostWatch, now: dt.datetime
) -> int:
    """Close what receivers of hosts that serve no more left open; returns how much that was.

    A study to which an association is open is not complete; a host that never starts again would never close its own.

    Parameters
    ----------
    watch
        Of hosts that have no directory in common.
    """
    if not configuration.hosts:
        return 0
    opened = open_receptions(ledger)
    # Asked for after the associations: a host that serves has had its lock since before it opened any.
    if configuration.storage.bucket is None:
        dead = frozenset(opened).difference(serving_hosts(configuration.storage.directory))
    else:
        dead = watch.silent(ledger, opened.keys())
    left = {host: opened[host] for host in dead}
    for host, ids in left.items():
        _log.warning("associations closed of a host that serves no more", host=host, associations=len(ids))
    return close_receptions(ledger, frozenset().union(*left.values()), at=now) if left else 0


def clean(ledger: Ledger, files: InstanceFiles, configuration: Configuration, now: dt.datetime) -> None:
    """Remove what retention allows to remove."""
    storage = configuration.storage
    retention = dt.timedelta(days=storage.retention_days)
    removed = expire_studies(ledger, retention=retention, now=now)
    for study_instance_uid in removed:
        _log.info("study removed by retention", study_instance_uid=study_instance_uid)
    expire_commitments(ledger, retention=retention, now=now)
    expire_steps(ledger, retention=retention, now=now)
    expire_orders(ledger, retention=dt.timedelta(days=configuration.orders.kept_days), now=now)
    if configuration.audit.file is None:
        pass_over_untold(ledger)
    history = dt.timedelta(days=storage.history_days)
    expire_events(ledger, retention=history, now=now)
    expire_history(ledger, retention=history, now=now)
    forgotten = expire_quarantine(ledger, retention=dt.timedelta(days=storage.quarantine_days), now=now)
    KeptFindings(storage.directory).sweep(inputs_in_work(ledger))
    try:
        if isinstance(files, BucketFiles):
            swept = sweep_bucket(ledger, files, grace=SWEEP_GRACE, now=now, shards=part_of_the_day(now))
        else:
            swept = sweep_files(ledger, files, grace=SWEEP_GRACE, now=now)
    except IdentityError as error:
        _log.error("storage not swept", what=str(error))
        return
    except BucketError as error:
        _log.error("storage not swept", what=error.strerror)
        return
    if forgotten or swept.removed:
        _log.info("files removed", files=swept.removed, quarantined_objects_forgotten=forgotten)
    if swept.set_aside:
        _log.error(
            "files set aside that the ledger does not explain: nothing of them is deleted; is this the latest ledger? "
            "`dicom-node adopt` reads them into it",
            files=swept.set_aside,
            folder=f"{files.bucket if isinstance(files, BucketFiles) else files.root}/{UNEXPLAINED}",
        )


def serve_scheduler(context: RoleContext, configuration: Configuration) -> None:
    """Run the scheduler role until told to stop."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    # What the packages declare is loaded now: half a second that the first study would wait for.
    packages()
    ledger = open_ledger(configuration.storage.database)
    files = instance_files(configuration)
    studies = StudyScheduler(ledger, configuration)

    def consider(now: dt.datetime) -> None:
        nonlocal configuration
        renewed = context.renewed()
        if renewed is not None:
            configuration = renewed
            studies.renew(configuration)
        studies.consider(now)

    watch, hosts = LeaseWatch(LEASE_S), HostWatch(HOST_SILENT_S)

    def release(now: dt.datetime) -> None:
        expired = watch.expired(leases_of(ledger))
        release_expired_jobs(ledger, expired, now=now, retry_at=backing_off(now))
        jobs_due_within(ledger, now, delay_s=LONGEST_S)

    regular, steady = RegularWork(), SteadyTime()
    regular.every(LOOK_EVERY_S, consider, sooner=lambda: studies.look_again_s)
    regular.every(RELEASE_EVERY_S, release)
    regular.every(RELEASE_EVERY_S, lambda now: close_receptions_of_dead_hosts(ledger, configuration, hosts, now))
    regular.every(REJECT_EVERY_S, lambda now: reject_superseded(ledger, files, configuration, now))
    regular.every(CLEAN_EVERY_S, lambda _now: clean(ledger, files, configuration, steady.now()))
    regular.run(context.stop, context.ready)
    ledger.close()
