"""``/metrics`` for Prometheus: the numbers of all processes, and what the ledger and the disk say, at one port.

Served by the supervisor, the one process that every node has and that outlives the others.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import itertools
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config import Configuration
from dicom_node.errors import NodeError
from dicom_node.hosts import numbers_name
from dicom_node.instance_files import instance_files
from dicom_node.network.places import PlaceTable
from storage.ledger import Ledger, open_ledger, utc_now
from storage.overview import Backlog, backlog
from storage.schema import ENDED, DeliveryState, JobState

__all__ = ["NodeState", "exposed", "shared_numbers"]

_log = structlog.get_logger(__name__)

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Read by :mod:`dicom_node.metrics` when a process imports it."""
SHARED_MEMORY = Path("/dev/shm")
_MEGABYTE = 1_000_000


@contextlib.contextmanager
def exposed(configuration: Configuration, places: PlaceTable) -> Iterator[None]:
    """Serve ``/metrics`` until the block ends, if ``metrics.port`` is set.

    Processes started within the block add their numbers. :mod:`dicom_node.metrics` may not have been imported before.

    Parameters
    ----------
    places
        Where the receivers count open associations.

    Raises
    ------
    NodeError
        The port is taken, or the numbers cannot be kept.
    """
    settings = configuration.metrics
    if settings.port is None:
        yield
        return
    if "dicom_node.metrics" in sys.modules:
        raise RuntimeError("dicom_node.metrics was imported before it was said where its numbers go")
    directory = _cleaned(numbers_name(configuration))
    os.environ[DIRECTORY_VARIABLE] = str(directory)
    ledger = open_ledger(configuration.storage.database)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))
    registry.register(NodeState(configuration, ledger, places))
    try:
        server, thread = start_http_server(settings.port, settings.address, registry)
    except OSError as error:
        ledger.close()
        raise NodeError(
            f"{settings.address}:{settings.port} cannot be listened on: {error.strerror}",
            subject="metrics.port",
            remedy="stop what uses the port, or choose another",
        ) from error
    _log.info("metrics served", address=settings.address, port=settings.port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        ledger.close()
        del os.environ[DIRECTORY_VARIABLE]
        shutil.rmtree(directory, ignore_errors=True)


def shared_numbers(named: Path) -> Path:
    """The directory in shared memory for the numbers of a host, by what :func:`~dicom_node.hosts.numbers_name` says."""
    name = hashlib.sha256(str(named.resolve()).encode()).hexdigest()[:16]
    return SHARED_MEMORY / f"dicom-node-{os.geteuid()}-{name}"


def _cleaned(named: Path) -> Path:
    """An empty directory for the numbers of all processes.

    In memory, not beside the instances: a process that writes to a mapped file on a full disk is killed (SIGBUS).
    """
    directory = shared_numbers(named)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        if directory.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise NodeError("is not this user's alone", subject=str(directory), remedy="remove it")
        for file in directory.glob("*.db"):
            file.unlink()
    except OSError as error:
        raise NodeError(f"cannot be written: {error.strerror}", subject=str(directory), remedy="remove it") from error
    return directory


class NodeState(Collector):
    """What the ledger, the disk and the installation say, asked at each scrape."""

    def __init__(self, configuration: Configuration, ledger: Ledger, places: PlaceTable) -> None:
        self._ledger, self._places = ledger, places
        self._storage = configuration.storage
        self._destinations = tuple(configuration.results.destinations)
        self._files = instance_files(configuration)

    def describe(self) -> Iterable[Metric]:
        """Describe no metrics ahead: they are known at each scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment; the ledger may be down, the rest is told all the same."""
        yield InfoMetricFamily(
            "dicom_node_build",
            "What runs here.",
            {"version": version("dicom-node"), "python": platform.python_version()},
        )
        yield from self._associations()
        yield from self._disk()
        try:
            waiting = backlog(self._ledger, now=utc_now())
        except SQLAlchemyError as error:
            _log.warning("ledger not readable", what=type(error).__name__)
            yield _gauge("ledger_up", "Whether the ledger answers.", 0)
            return
        yield _gauge("ledger_up", "Whether the ledger answers.", 1)
        yield from self._waiting(waiting)

    def _associations(self) -> Iterator[Metric]:
        yield _gauge("associations_open", "Associations that peers have open now.", self._places.total())
        peers = _family("peer_associations_open", "Associations that a peer has open now.", "peer")
        for name in self._places.columns:
            peers.add_metric([name], self._places.total(name))
        yield peers

    def _disk(self) -> Iterator[Metric]:
        storage = self._storage
        try:
            free = self._files.free_bytes()
        except OSError as error:
            _log.warning("storage not readable", what=error.strerror)
        else:
            yield _gauge("storage_free_bytes", "Free space on the disk of the storage directory.", free)
        text = "Free space under which C-STORE is answered with A700."
        yield _gauge("storage_low_watermark_bytes", text, storage.low_watermark_mb * _MEGABYTE)
        text = "Free space over which C-STORE is accepted again."
        yield _gauge("storage_high_watermark_bytes", text, storage.high_watermark_mb * _MEGABYTE)

    def _waiting(self, waiting: Backlog) -> Iterator[Metric]:
        yield _gauge("studies_waiting", "Studies with instances that no job has seen.", waiting.studies_waiting)
        jobs = _family("jobs", "Jobs that wait, run or failed.", "state")
        for state in (JobState.QUEUED, JobState.RUNNING, JobState.FAILED):
            jobs.add_metric([state.value], waiting.jobs.get(state, 0))
        yield jobs
        yield _gauge("jobs_late", "Jobs past their deadline and not ended.", waiting.jobs_late)
        if waiting.oldest_job_at is not None:
            text = "When the oldest job that has not ended was made."
            yield _time("jobs_oldest_timestamp_seconds", text, waiting.oldest_job_at)
        deliveries = _family("deliveries", "Results on their way or given up.", "destination", "state")
        # None of a kind is a number too; and one may wait for a destination that is no longer configured.
        known = itertools.product(self._destinations, set(DeliveryState) - ENDED)
        for destination, delivery_state in sorted({*known, *waiting.deliveries}):
            count = waiting.deliveries.get((destination, delivery_state), 0)
            deliveries.add_metric([destination, delivery_state.value], count)
        yield deliveries
        oldest = _family(
            "deliveries_oldest_timestamp_seconds", "When the oldest waiting delivery was made.", "destination"
        )
        for destination, at in waiting.oldest_delivery_at.items():
            oldest.add_metric([destination], at.timestamp())
        yield oldest
        unreachable = _family("destination_unreachable", "Whether nobody answered the last call.", "destination")
        away = {one.destination for one in waiting.outages}
        for destination in sorted({*self._destinations, *away}):
            unreachable.add_metric([destination], destination in away)
        yield unreachable
        yield _gauge("quarantined_objects", "Objects in quarantine.", waiting.quarantined)
        if waiting.last_received_at is not None:
            text = "When the last instance was received."
            yield _time("last_received_timestamp_seconds", text, waiting.last_received_at)


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dicom_node_{name}", text, labels=labels)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dicom_node_{name}", text, value=value)


def _time(name: str, text: str, at: dt.datetime) -> GaugeMetricFamily:
    return _gauge(name, text, at.timestamp())
