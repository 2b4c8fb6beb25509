"""What the page *Now* tells: what arrives, runs, waits and goes out, and whether all is well.

One look at the node serves everybody who asks within two seconds, so that many readers cost what one costs.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from dicom_node.console.node import Node
from dicom_node.errors import raised_at
from dicom_node.node_status import NodeStatus, node_status
from dicom_node.schedule.completeness import decide, study_reading
from pipelines.cine.facts import StackCompleteness
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

FRESH_S = 2.0
LATELY = 12
"""Studies that are listed."""
ARRIVING_SHOWN = 20
FAILED_SHOWN = 20
READ_AGAIN_S = 4.0
"""A study that is coming in is read again after so long: each image changes it."""


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
    arriving: tuple[Arriving, ...]
    running: tuple[RunningJob, ...]
    queued: tuple[RunningJob, ...]
    failed: tuple[JobOverview, ...]
    studies: tuple[StudyOverview, ...]
    peers: tuple[PeerState, ...]


class NowBoard:
    """Looks at the node when somebody asks and the last look is too old."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._seen: NowView | None = None
        self._seen_at = 0.0
        self._readings: dict[str, tuple[WaitingStudy, float, Arriving]] = {}

    def view(self) -> NowView:
        """The node as it was at most two seconds ago."""
        with self._lock:
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
        arriving = self._arriving(now)
        return NowView(
            at=now,
            sentence=_sentence(status, arriving),
            status=status,
            arriving=arriving,
            running=tuple(_running(one, typical) for one in reversed(jobs) if one.state is JobState.RUNNING),
            queued=tuple(RunningJob(one, None) for one in reversed(jobs) if one.state is JobState.QUEUED),
            failed=job_overviews(node.ledger, states=(JobState.FAILED,), limit=FAILED_SHOWN),
            studies=study_overviews(node.ledger, limit=LATELY),
            peers=_peers(node, status),
        )

    def _arriving(self, now: dt.datetime) -> tuple[Arriving, ...]:
        waiting = studies_to_consider(self._node.ledger)[:ARRIVING_SHOWN]
        known = {one.study_instance_uid for one in waiting}
        self._readings = {uid: kept for uid, kept in self._readings.items() if uid in known}
        return tuple(self._read(one, now) for one in waiting)

    def _read(self, study: WaitingStudy, now: dt.datetime) -> Arriving:
        uid = study.study_instance_uid
        seen, read_at, kept = self._readings.get(uid, (None, 0.0, None))
        age_s = time.monotonic() - read_at
        if kept is not None and ((seen == study and age_s < 2 * READ_AGAIN_S) or age_s < READ_AGAIN_S):
            return kept
        node = self._node
        try:
            reading = study_reading(node.ledger, node.configuration, uid)
            decision = decide(reading, node.configuration.execution, open_associations=study.open_associations, now=now)
            stacks, sentence = reading.completeness.stacks, decision.sentence
        except Exception as error:  # noqa: BLE001 - whatever one study holds, the page tells of the others
            _log.warning("study cannot be read for the console", study_instance_uid=uid, at=raised_at(error))
            stacks, sentence = (), "what it holds cannot be read at present"
        arriving = Arriving(uid, study.instances, study.open_associations > 0, stacks, sentence)
        self._readings[uid] = (study, time.monotonic(), arriving)
        return arriving


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
        return f"All is well; {doing}." if doing else "All is well, and nothing waits."
    if not status.alarms:
        return f"Not ready yet: {', '.join(status.starting)}."
    more = len(status.alarms) - 1
    also = f" ({more} more below)" if more else ""
    return f"Not all is well: {status.alarms[0].sentence}{also}."


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
