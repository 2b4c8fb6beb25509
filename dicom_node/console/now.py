"""What the page *Now* tells: what arrives, runs, waits and goes out, and whether all is well.

One look at the node serves everybody who asks within two seconds, so that many readers cost what one costs. Headers of
images that are coming in are read a few at a time, and nobody waits long for it: what arrives is more important than
who looks on.
"""

from __future__ import annotations

import datetime as dt
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from dicom_node.console.node import Node
from dicom_node.console.rendering import Region, Renderer
from dicom_node.errors import raised_at
from dicom_node.node_status import Alarm, Concern, NodeStatus, node_status
from dicom_node.schedule.completeness import decide, study_reading
from pipelines.cine.facts import InstanceFacts, StackCompleteness, instance_facts
from storage.jobs import WaitingStudy, studies_to_consider
from storage.ledger import utc_now
from storage.overview import (
    JobOverview,
    StudyOverview,
    job_overviews,
    senders,
    study_overviews,
    typical_job_s,
)
from storage.paused import paused_destinations
from storage.schema import DeliveryState, JobState

__all__ = ["Arriving", "NowBoard", "NowView", "PeerState", "RunningJob"]

_log = structlog.get_logger(__name__)

_TO_DO = {
    Concern.JOBS: "the jobs are listed below; their studies say why, and run them again",
    Concern.DELIVERIES: "Deliveries tells what the destination answered, sends again, gives up or resumes",
    Concern.PEERS: "Deliveries tests the connection",
    Concern.QUARANTINE: "Deliveries lists them at its end, takes them in or drops them",
}
FRESH_S = 2.0
LATELY = 12
"""Studies that are listed."""
ARRIVING_SHOWN = 20
FAILED_SHOWN = 20
READ_AGAIN_S = 4.0
"""A study that is coming in is read again after so long: each image changes it."""
READING_SHARE = 0.05
"""Of one processor, for headers of images that are coming in; the scheduler reads what is left when they have come."""
FIRST_READING_S = 1.0
"""How long a page waits for the first reading of a study."""


@dataclass(frozen=True, slots=True)
class Arriving:
    """One study that has images which no job has seen."""

    study_instance_uid: str
    instances: int
    receiving: bool
    """Whether an association that sends it is open."""
    stacks: tuple[StackCompleteness, ...]
    sentence: str
    """How complete it is, and what it waits for."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was read of a study as it was at some time."""

    of: WaitingStudy
    arriving: Arriving


@dataclass(frozen=True, slots=True)
class RunningJob:
    """One job that runs or waits for a worker."""

    job: JobOverview
    ready_at: dt.datetime | None
    """By the median of the last jobs of its package on this node; none before the first, or while it waits."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """One destination or sender, in words."""

    name: str
    kind: str
    """``sends`` or ``receives``."""
    well: bool
    words: str
    since: dt.datetime | None


@dataclass(frozen=True, slots=True)
class NowView:
    """The node at one moment."""

    at: dt.datetime
    sentence: str
    status: NodeStatus
    what_to_do: tuple[str, ...]
    """For each alarm of the status: in the console where it can be done there, else by a command."""
    arriving: tuple[Arriving, ...]
    running: tuple[RunningJob, ...]
    queued: tuple[RunningJob, ...]
    failed: tuple[JobOverview, ...]
    studies: tuple[StudyOverview, ...]
    peers: tuple[PeerState, ...]


class NowBoard:
    """Looks at the node when somebody asks and the last look is too old, and draws what it saw once for all."""

    def __init__(self, node: Node, renderer: Renderer) -> None:
        self._node, self._renderer = node, renderer
        self._lock = threading.Lock()
        self._seen: NowView | None = None
        self._seen_at = 0.0
        self._drawn: tuple[NowView, Region] | None = None
        self._readings: dict[str, tuple[WaitingStudy, float, Arriving]] = {}
        self._being_read: dict[str, Future[_Reading]] = {}
        self._readers = ThreadPoolExecutor(1, "reading")
        self._closed = threading.Event()

    def close(self) -> None:
        """Read no more."""
        self._closed.set()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def view(self) -> NowView:
        """The node as it was at most two seconds ago."""
        with self._lock:
            return self._fresh()

    def region(self) -> Region:
        """The part of the page that shows it."""
        with self._lock:
            seen = self._fresh()
            if self._drawn is None or self._drawn[0] is not seen:
                self._drawn = seen, self._renderer.region("now_region.html", now=seen)
            return self._drawn[1]

    def _fresh(self) -> NowView:
        if self._seen is None or time.monotonic() - self._seen_at > FRESH_S:
            self._seen, self._seen_at = self._look(), time.monotonic()
        return self._seen

    def forget(self) -> None:
        """Look again for whoever asks next: somebody has changed something."""
        with self._lock:
            self._seen = None

    def _look(self) -> NowView:
        node, now = self._node, utc_now()
        status = node_status(node.configuration, node.ledger)
        jobs = job_overviews(node.ledger, states=(JobState.RUNNING, JobState.QUEUED), limit=200)
        typical = typical_job_s(node.ledger)
        arriving = self._arriving()
        return NowView(
            at=now,
            sentence=_sentence(status, arriving),
            status=status,
            what_to_do=tuple(map(_to_do, status.alarms)),
            arriving=arriving,
            running=tuple(_running(one, typical) for one in reversed(jobs) if one.state is JobState.RUNNING),
            queued=tuple(RunningJob(one, None) for one in reversed(jobs) if one.state is JobState.QUEUED),
            failed=job_overviews(node.ledger, states=(JobState.FAILED,), limit=FAILED_SHOWN),
            studies=study_overviews(node.ledger, limit=LATELY),
            peers=_peers(node, status),
        )

    def _arriving(self) -> tuple[Arriving, ...]:
        waiting = studies_to_consider(self._node.ledger)[:ARRIVING_SHOWN]
        known = {one.study_instance_uid for one in waiting}
        self._readings = {uid: kept for uid, kept in self._readings.items() if uid in known}
        self._being_read = {uid: reading for uid, reading in self._being_read.items() if uid in known}
        due = [one for one in waiting if self._is_due(one)]
        for one in due:
            if one.study_instance_uid not in self._being_read:
                self._being_read[one.study_instance_uid] = self._readers.submit(self._reading, one)
        first = [one.study_instance_uid for one in due if one.study_instance_uid not in self._readings]
        wait([self._being_read[uid] for uid in first], timeout=FIRST_READING_S)
        for one in due:
            if self._being_read[one.study_instance_uid].done():
                found = self._being_read.pop(one.study_instance_uid).result()
                self._readings[one.study_instance_uid] = (found.of, time.monotonic(), found.arriving)
        return tuple(map(self._known, waiting))

    def _is_due(self, study: WaitingStudy) -> bool:
        """Whether a study is to be read, again or for the first time."""
        seen, read_at, _ = self._readings.get(study.study_instance_uid, (None, -math.inf, None))
        age_s = time.monotonic() - read_at
        return age_s >= (2 * READ_AGAIN_S if seen == study else READ_AGAIN_S)

    def _known(self, study: WaitingStudy) -> Arriving:
        """What was read of a study last, with what is known of it now."""
        uid, receiving = study.study_instance_uid, study.open_associations > 0
        if uid not in self._readings:
            return Arriving(uid, study.instances, receiving, (), "its images are being read")
        return replace(self._readings[uid][2], instances=study.instances, receiving=receiving)

    def _reading(self, study: WaitingStudy) -> _Reading:
        node, uid = self._node, study.study_instance_uid
        try:
            reading = study_reading(node.ledger, node.configuration, uid, facts=self._headers)
            decision = decide(
                reading, node.configuration.execution, open_associations=study.open_associations, now=utc_now()
            )
            stacks, sentence = reading.completeness.stacks, decision.sentence
        except Exception as error:  # noqa: BLE001 - whatever one study holds, the page tells of the others
            _log.warning("study cannot be read for the console", study_instance_uid=uid, at=raised_at(error))
            stacks, sentence = (), "what it holds cannot be read at present"
        return _Reading(study, Arriving(uid, study.instances, study.open_associations > 0, stacks, sentence))

    def _headers(self, paths: Sequence[Path]) -> list[InstanceFacts]:
        """Read headers, and pause after each: in a thread of a lower priority they would hold up every page (GIL)."""
        found = []
        for path in paths:
            began = time.thread_time()
            found.append(instance_facts(path))
            self._closed.wait((time.thread_time() - began) * (1 / READING_SHARE - 1))
        return found


def _to_do(alarm: Alarm) -> str:
    return _TO_DO.get(alarm.concern, alarm.remedy)


def _running(job: JobOverview, typical: Mapping[str, float]) -> RunningJob:
    seconds = typical.get(job.package)
    ready = None if seconds is None or job.started_at is None else job.started_at + dt.timedelta(seconds=seconds)
    return RunningJob(job, ready)


def _sentence(status: NodeStatus, arriving: tuple[Arriving, ...]) -> str:
    if status.well:
        busy = [
            f"{len(arriving)} {'study is' if len(arriving) == 1 else 'studies are'} arriving" if arriving else "",
            f"{status.queue.running} jobs run" if status.queue.running > 1 else "",
            "one job runs" if status.queue.running == 1 else "",
        ]
        doing = " and ".join(word for word in busy if word)
        well = f"All is well; {doing}." if doing else "All is well, and nothing waits."
        aside = status.waiting.quarantined
        kept = f" {aside} {'object is' if aside == 1 else 'objects are'} kept aside: Deliveries says why."
        return well + kept if aside else well
    if not status.alarms:
        return f"Not ready yet: {', '.join(status.starting)}; wait, it takes a minute or two."
    first, more = status.alarms[0], len(status.alarms) - 1
    also = f" ({more} more below)" if more else ""
    return f"Not all is well: {first.sentence}{also}; what to do: {_to_do(first)}."


def _peers(node: Node, status: NodeStatus) -> tuple[PeerState, ...]:
    configuration = node.configuration
    away = {one.destination: one for one in status.waiting.outages}
    paused = {one.destination: one for one in paused_destinations(node.ledger)}
    found = []
    for name in configuration.results.destinations:
        waiting = sum(
            count
            for (destination, state), count in status.waiting.deliveries.items()
            if destination == name and state is not DeliveryState.DEAD
        )
        dead = status.waiting.deliveries.get((name, DeliveryState.DEAD), 0)
        on_the_way = f"{waiting} on the way" if waiting else "nothing waits for it"
        if name in paused:
            found.append(PeerState(name, "receives", False, f"paused by {paused[name].by}", paused[name].since))
        elif name in away:
            found.append(PeerState(name, "receives", False, f"cannot be reached: {away[name].error}", away[name].since))
        elif dead:
            found.append(PeerState(name, "receives", False, f"{dead} not delivered, {on_the_way}", None))
        else:
            found.append(PeerState(name, "receives", True, on_the_way, None))
    titles = {peer.ae_title: name for name, peer in configuration.peers.items()}
    for one in senders(node.ledger):
        name = titles.get(one.calling_ae_title, one.calling_ae_title)
        found.append(PeerState(name, "sends", True, f"last association {one.outcome}", one.last_closed_at))
    return tuple(found)
