"""How the node is: does it run, is all well, and if not, what is wrong and what to do about it.

Of a node on several hosts: all that its storage directory and its ledger tell, whichever host asks.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node.config import Configuration
from dicom_node.hosts import host_name, slots
from dicom_node.process_states import ProcessState, read_states, serving_process, states_of
from storage.files import UNEXPLAINED
from storage.hosts import HeardHost, heard_hosts
from storage.journal import unfiled
from storage.ledger import Ledger, utc_now
from storage.orders import last_order_message
from storage.overview import CONFLICT_AGE, Backlog, JobOverview, LedgerOverview, backlog, job_overviews, ledger_overview
from storage.paused import paused_destinations
from storage.schema import DeliveryState, JobState, ReportState
from storage.uploads import HeldByHost, held_by_hosts

__all__ = ["Alarm", "Concern", "HostDisk", "NodeStatus", "Queue", "SilentHost", "local_time", "node_status"]

FAILED_STARTS_ALARM = 3
STARTING_ALARM = dt.timedelta(minutes=5)
"""A process that is not ready after so long calls for a person: a worker loads its models in seconds."""
UPLOAD_ALARM = dt.timedelta(minutes=2)
"""An image is uploaded within a second or two."""
HOST_SILENT = dt.timedelta(seconds=60)
"""A host without a directory in common with others runs no more when it has said nothing for so long."""
HISTORY = 20
"""How many of the last jobs tell how long one takes."""


class Concern(enum.StrEnum):
    """What an alarm is about: where to look."""

    NODE = "node"
    STORAGE = "storage"
    JOBS = "jobs"
    DELIVERIES = "deliveries"
    PEERS = "peers"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that is not well, and what to do about it."""

    sentence: str
    remedy: str
    concern: Concern


@dataclass(frozen=True, slots=True)
class Queue:
    """Jobs that have not ended, and when they should be ready by what the last ones took."""

    queued: int
    running: int
    typical_job_s: float | None
    """Median of the last jobs; none before the first."""
    ready_in_s: float | None


@dataclass(frozen=True, slots=True)
class SilentHost:
    """A host of the node that does not serve, as far as the others can tell."""

    name: str
    heard_at: dt.datetime | None
    """When it last said that it serves; none where it never did, and where a lock in a common directory tells."""
    processes: tuple[ProcessState, ...]
    """How its processes were when it told last."""


@dataclass(frozen=True, slots=True)
class HostDisk:
    """Where a host takes images in that has no directory in common with the one that tells."""

    host: str
    free_mb: float
    accepts_images: bool
    """Whether free space lies above the low watermark; below it C-STORE is answered A700."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """State of the node: its processes, queues, disk and deliveries, and the alarms that follow."""

    running: bool
    """Whether it runs, on any of its hosts."""
    pid: int | None
    """Of the supervisor on this machine."""
    well: bool
    """Whether it runs, all its processes are ready and nothing calls for a person."""
    alarms: tuple[Alarm, ...]
    starting: tuple[str, ...]
    """Processes that are not ready yet; until they are, something of what the node is for waits."""
    free_mb: float
    accepts_images: bool
    """Whether free space lies above the low watermark; below it C-STORE is answered A700."""
    other_disks: tuple[HostDisk, ...]
    """Of the other hosts that serve, where each has its own."""
    unfiled: int
    """Images that are acknowledged, and wait in a journal to be filed."""
    unfiled_mb: float
    not_uploaded: int
    """Images that are acknowledged, on the disk of one host alone, and not in the bucket yet."""
    processes: tuple[ProcessState, ...]
    """Of all hosts that serve."""
    silent_hosts: tuple[SilentHost, ...]
    queue: Queue
    waiting: Backlog
    ledger: LedgerOverview
    last_order_at: dt.datetime | None
    """When the last message about orders was accepted; none before the first."""


def node_status(configuration: Configuration, ledger: Ledger) -> NodeStatus:
    """Look at the lock, the processes, the disk and the ledger; nothing is changed and nobody is called."""
    now = utc_now()
    directory = configuration.storage.directory
    heard = _heard(configuration, ledger)
    serving = _serving(configuration, heard, now)
    pid = serving.get(host_name(configuration))
    processes = tuple(state for host in serving for state in _processes(configuration, host, heard))
    silent = tuple(_silent(configuration, serving, heard))
    disks = tuple(_other_disks(configuration, serving, heard))
    free_mb = shutil.disk_usage(_existing(directory)).free / 1e6
    accepts = free_mb >= configuration.storage.low_watermark_mb
    starting = tuple(_starting(configuration, serving, processes))
    waiting, overview = backlog(ledger, now=now), ledger_overview(ledger, now=now)
    ended = job_overviews(ledger, states=(JobState.SUCCEEDED,), limit=HISTORY)
    queue = _queue(waiting, ended, slots(configuration))
    held = held_by_hosts(ledger) if configuration.storage.bucket is not None else ()
    alarms = (
        *_host_alarms(serving, silent),
        *_process_alarms(processes, now),
        *_storage_alarms(configuration, free_mb, accepts=accepts),
        *(
            alarm
            for disk in disks
            for alarm in _storage_alarms(
                configuration, disk.free_mb, accepts=disk.accepts_images, where=f" of host {disk.host}"
            )
        ),
        *_file_alarms(directory),
        *_upload_alarms(held, now),
        *_work_alarms(waiting, overview),
        *_pause_alarms(ledger),
        *_quarantine_alarms(waiting),
    )
    count, size = unfiled(directory)
    return NodeStatus(
        running=bool(serving),
        pid=pid,
        well=not alarms and not starting,
        alarms=alarms,
        starting=starting,
        free_mb=free_mb,
        accepts_images=accepts,
        other_disks=disks,
        unfiled=count,
        unfiled_mb=size / 1e6,
        not_uploaded=sum(one.instances for one in held),
        processes=processes,
        silent_hosts=silent,
        queue=queue,
        waiting=waiting,
        ledger=overview,
        last_order_at=last_order_message(ledger),
    )


def _heard(configuration: Configuration, ledger: Ledger) -> dict[str, HeardHost]:
    """What hosts without a common directory said of themselves in the ledger."""
    if configuration.storage.bucket is None or not configuration.hosts:
        return {}
    return {one.name: one for one in heard_hosts(ledger)}


def _serving(configuration: Configuration, heard: Mapping[str, HeardHost], now: dt.datetime) -> dict[str, int | None]:
    """Process ids of the supervisors, by the hosts that serve now; of hosts with directories of their own none."""
    directory = configuration.storage.directory
    this = host_name(configuration)
    hosts = configuration.hosts or (this,)
    pids = {host: serving_process(directory, host) if directory.is_dir() else None for host in hosts}
    found: dict[str, int | None] = {host: pid for host, pid in pids.items() if pid is not None}
    lately = [host for host in configuration.hosts if host in heard and heard[host].at >= now - HOST_SILENT]
    return {**{host: None for host in sorted(lately) if host != this}, **found}


def _processes(configuration: Configuration, host: str, heard: Mapping[str, HeardHost]) -> Iterator[ProcessState]:
    """Processes of a host as it told last: in its own storage directory, or in the ledger."""
    states = read_states(configuration.storage.directory, host)
    if host in heard and host != host_name(configuration):
        try:
            states = states_of(heard[host].processes)
        except ValueError:
            # Of another version of this software, in the middle of an upgrade.
            states = ()
    for one in states:
        named = not configuration.hosts or one.name.startswith(f"{host}/")
        yield one if named else dataclasses.replace(one, name=f"{host}/{one.name}")


def _other_disks(
    configuration: Configuration, serving: Collection[str], heard: Mapping[str, HeardHost]
) -> Iterator[HostDisk]:
    for host in sorted(set(serving).intersection(heard) - {host_name(configuration)}):
        free_mb = heard[host].free_mb
        if free_mb is not None:
            yield HostDisk(host, free_mb, free_mb >= configuration.storage.low_watermark_mb)


def _silent(
    configuration: Configuration, serving: Collection[str], heard: Mapping[str, HeardHost]
) -> Iterator[SilentHost]:
    for host in sorted(set(configuration.hosts) - set(serving)):
        at = heard[host].at if host in heard else None
        yield SilentHost(host, at, tuple(_processes(configuration, host, heard)))


def _starting(
    configuration: Configuration, serving: Mapping[str, int | None], processes: Sequence[ProcessState]
) -> Iterator[str]:
    for host, pid in serving.items():
        # A supervisor migrates the ledger and opens its ports before it starts anything.
        if pid is not None and not read_states(configuration.storage.directory, host):
            yield f"{host}/supervisor" if configuration.hosts else "supervisor"
    yield from (one.name for one in processes if not one.ready)


def _existing(directory: Path) -> Path:
    return next(one for one in (directory, *directory.parents) if one.exists())


def _queue(waiting: Backlog, ended: Sequence[JobOverview], slots: int) -> Queue:
    seconds = sorted(
        (one.ended_at - one.started_at).total_seconds() for one in ended if one.ended_at and one.started_at
    )
    typical = seconds[len(seconds) // 2] if seconds else None
    queued, running = waiting.jobs.get(JobState.QUEUED, 0), waiting.jobs.get(JobState.RUNNING, 0)
    ready = None if typical is None else typical * -(-(queued + running) // slots)
    return Queue(queued, running, typical, ready)


def _host_alarms(serving: Collection[str], silent: Sequence[SilentHost]) -> Iterator[Alarm]:
    if not serving:
        yield Alarm("the node is not running", "start it: dicom-node serve", Concern.NODE)
        return
    for host in silent:
        if host.heard_at is None:
            yield Alarm(f"host {host.name} is not running", "start it there: dicom-node serve", Concern.NODE)
        else:
            yield Alarm(
                f"host {host.name} has said nothing since {local_time(host.heard_at)}: it does not run, or does not "
                "reach the ledger",
                "start it there: dicom-node serve; if it runs, dicom-node doctor there and its log say what keeps it "
                "from the ledger",
                Concern.NODE,
            )


def _process_alarms(processes: Sequence[ProcessState], now: dt.datetime) -> Iterator[Alarm]:
    for one in processes:
        if one.failed_starts >= FAILED_STARTS_ALARM:
            yield Alarm(
                f"process {one.name} cannot start: it died {one.failed_starts} times in a row ({one.last_death})",
                "read its last lines in the log of the node",
                Concern.NODE,
            )
        elif not one.ready and now - one.changed_at > STARTING_ALARM:
            yield Alarm(
                f"process {one.name} is not ready since {local_time(one.changed_at)}",
                "read its last lines in the log of the node; dicom-node doctor looks for what keeps it",
                Concern.NODE,
            )


def _storage_alarms(configuration: Configuration, free_mb: float, *, accepts: bool, where: str = "") -> Iterator[Alarm]:
    storage = configuration.storage
    if not accepts:
        yield Alarm(
            f"storage{where} is closed: {free_mb:.0f} MB are free, {storage.low_watermark_mb} are the low watermark, "
            "so every image is refused (A700)",
            f"free space until more than {storage.high_watermark_mb} MB are free",
            Concern.STORAGE,
        )
    elif free_mb < storage.high_watermark_mb:
        yield Alarm(
            f"storage{where} is nearly full: {free_mb:.0f} MB are free; under {storage.low_watermark_mb} images are "
            "refused",
            f"free space until more than {storage.high_watermark_mb} MB are free",
            Concern.STORAGE,
        )


def _file_alarms(directory: Path) -> Iterator[Alarm]:
    unexplained = sum(1 for _ in directory.glob(f"{UNEXPLAINED}/*/*/*.dcm"))
    if unexplained:
        yield Alarm(
            f"{unexplained} file(s) of the storage directory are in no ledger and were set aside",
            "is this the latest ledger? dicom-node adopt reads them into it",
            Concern.STORAGE,
        )


def _upload_alarms(held: Sequence[HeldByHost], now: dt.datetime) -> Iterator[Alarm]:
    for one in held:
        if now - one.since > UPLOAD_ALARM:
            yield Alarm(
                f"{one.instances} image(s) wait on the disk of host {one.host} to be uploaded, the oldest since "
                f"{local_time(one.since)}: no other host can read them",
                "does that host run, and is the bucket reachable from there? dicom-node doctor tells; they are lost "
                "only if its disk is",
                Concern.STORAGE,
            )


def _work_alarms(waiting: Backlog, overview: LedgerOverview) -> Iterator[Alarm]:
    failed = waiting.jobs.get(JobState.FAILED, 0)
    if failed:
        yield Alarm(
            f"{failed} job(s) failed",
            "dicom-node jobs shows why; dicom-node jobs --retry JOB runs one again",
            Concern.JOBS,
        )
    if waiting.jobs_late:
        yield Alarm(f"{waiting.jobs_late} job(s) are late", "dicom-node jobs shows them", Concern.JOBS)
    for (destination, state), count in sorted(waiting.deliveries.items()):
        if state is DeliveryState.DEAD:
            yield Alarm(
                f"{count} result(s) could not be delivered to {destination}",
                "dicom-node deliveries list shows what it answered; requeue sends them again, dismiss gives them up",
                Concern.DELIVERIES,
            )
    for outage in waiting.outages:
        yield Alarm(
            f"{outage.destination} cannot be reached since {local_time(outage.since)}; {outage.waiting} result(s) "
            f"wait, and the next call is at {local_time(outage.retry_at)}",
            outage.error,
            Concern.PEERS,
        )
    if overview.commitments.get(ReportState.DEAD):
        yield Alarm(
            f"{overview.commitments[ReportState.DEAD]} storage commitment report(s) could not be given to their peers",
            "dicom-node check calls every peer",
            Concern.PEERS,
        )


def _pause_alarms(ledger: Ledger) -> Iterator[Alarm]:
    for one in paused_destinations(ledger):
        yield Alarm(
            f"nothing is sent to {one.destination}: {one.by} paused it at {local_time(one.since)} ({one.reason})",
            "resume it in the console, page Deliveries",
            Concern.DELIVERIES,
        )


def _quarantine_alarms(waiting: Backlog) -> Iterator[Alarm]:
    # What else is in quarantine was refused to its sender or failed a job, which are told elsewhere.
    if waiting.conflicts_lately:
        yield Alarm(
            f"{waiting.conflicts_lately} object(s) of the last {CONFLICT_AGE.days} days came with other content under "
            "UIDs that are held, perhaps of a corrected patient: what came first counts, and these are in quarantine",
            "dicom-node quarantine list shows them; accept takes them in and drop deletes them",
            Concern.QUARANTINE,
        )


def local_time(at: dt.datetime | None) -> str:
    """A time in the zone of this machine, to the second."""
    return at.astimezone().isoformat(sep=" ", timespec="seconds") if at is not None else "never"
