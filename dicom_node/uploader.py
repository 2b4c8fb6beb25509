"""The uploader role: brings what this host has taken in into the bucket, and keeps its copies within their bound.

There is one on each host of a node that keeps its instance files in a bucket (``storage.bucket``). While the bucket is
away it waits, and so do the images, on the disk of this host; nothing is lost and nobody is refused until that disk is
full (``storage.low_watermark_mb``).
"""

from __future__ import annotations

import collections
import datetime as dt
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from dicom_node import metrics
from dicom_node.config import Configuration
from dicom_node.execute.kept import KeptFindings
from dicom_node.hosts import host_name
from dicom_node.instance_files import instance_files
from dicom_node.process_states import ProcessState, described, read_states
from dicom_node.roles import RoleContext
from dicom_node.schedule.clock import RegularWork, SteadyTime
from storage.bucket import BucketError
from storage.bucket_files import UNUSED_S, BucketFiles
from storage.bucket_sweep import sweep_front
from storage.hosts import beat
from storage.identity import IdentityError
from storage.jobs import inputs_in_work
from storage.ledger import Ledger, open_ledger, utc_now
from storage.retention import SWEEP_GRACE
from storage.uploads import Upload, begin_uploads, end_uploads, held_by_hosts, uploads_due

__all__ = ["HostReport", "Uploader", "serve_uploader"]

_log = structlog.get_logger(__name__)

AT_ONCE = 8
BATCH = 64
LOOK_EVERY_S = 0.5
BEAT_EVERY_S = 2.0
COUNT_EVERY_S = 5.0
OTHERS_EVERY_S = 60.0
CLEAR_EVERY_S = 60.0
SWEEP_EVERY_S = 3600.0
UNUSED = dt.timedelta(seconds=UNUSED_S)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0


class HostReport:
    """Says in the ledger that a host serves, how much room it has, and how its processes are where that has changed."""

    def __init__(self, ledger: Ledger, storage_directory: Path, host: str) -> None:
        self._ledger, self._directory, self._host = ledger, storage_directory, host
        self._said: tuple[ProcessState, ...] | None = None

    def tell(self, now: dt.datetime) -> None:
        """Say it once."""
        states = read_states(self._directory, self._host)
        free_mb = shutil.disk_usage(self._directory).free / 1e6
        processes = None if states == self._said else described(states)
        beat(self._ledger, self._host, now, processes=processes, free_mb=free_mb)
        self._said = states


class Uploader:
    """Uploads what one host has taken in."""

    def __init__(self, ledger: Ledger, files: BucketFiles) -> None:
        self._ledger, self._files = ledger, files
        self._pool = ThreadPoolExecutor(AT_ONCE, "upload")
        self._absent: set[int] = set()
        """Instances whose file is not on this disk."""
        self._uploaded: collections.deque[tuple[float, str]] = collections.deque()
        """What still lies before the bucket too, for whoever is about to read it."""
        self._pause_s = 0.0
        self._not_before = 0.0

    def upload(self) -> int:
        """Upload some of what waits; returns how many are in the bucket now that were not before."""
        if time.monotonic() < self._not_before:
            return 0
        due = uploads_due(self._ledger, self._files.held_by, limit=BATCH, passed_over=self._absent)
        return self._upload(due, absent_is_an_error=True)

    def upload_for_others(self) -> int:
        """Upload what another host alone has by the ledger, and this one too: the sender sent it again."""
        mine = {str(path) for path in self._files.front_paths()}
        due = [one for one in uploads_due(self._ledger, None, limit=100_000) if one.path in mine] if mine else []
        return self._upload(due[:BATCH], absent_is_an_error=False)

    def _upload(self, due: Sequence[Upload], *, absent_is_an_error: bool) -> int:
        if not due:
            return 0
        begin_uploads(self._ledger, due)
        failure: BucketError | None = None
        there = []
        for one, error in zip(due, self._pool.map(self._put, due), strict=True):
            if error is None:
                there.append(one)
            elif isinstance(error, BucketError):
                failure = error
            elif absent_is_an_error:
                self._absent.add(one.instance_id)
                _log.error(
                    "an instance of this host cannot be uploaded: it is not on its disk; send it again",
                    path=one.path,
                    error=error.strerror,
                )
        if there:
            end_uploads(self._ledger, there)
            now = time.monotonic()
            self._uploaded.extend((now, one.path) for one in there)
            metrics.UPLOADS.inc(len(there))
        self._note(failure)
        return len(there)

    def _put(self, one: Upload) -> OSError | None:
        try:
            self._files.upload(one.path)
        except OSError as error:
            if isinstance(error, BucketError) or self._files.absolute(one.path).exists():
                return error if isinstance(error, BucketError) else BucketError(error.errno, error.strerror)
            return self._perhaps_there(one, error)
        return None

    def _perhaps_there(self, one: Upload, error: OSError) -> OSError | None:
        """An earlier life may have died between upload and commit, and its file been taken away since."""
        try:
            return None if self._files.bucket.size_of(one.path) is not None else error
        except BucketError as away:
            return away

    def _note(self, failure: BucketError | None) -> None:
        metrics.BUCKET_AWAY.set(failure is not None)
        if failure is None:
            if self._pause_s:
                _log.info("the bucket takes uploads again")
            self._pause_s = 0.0
            return
        if not self._pause_s:
            _log.error("the bucket takes no uploads: images wait on this host", what=failure.strerror)
        self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
        self._not_before = time.monotonic() + self._pause_s

    def clear(self) -> None:
        """Remove from before the bucket what was uploaded a while ago and does not wait there again."""
        before = time.monotonic() - UNUSED_S
        old = []
        while self._uploaded and self._uploaded[0][0] < before:
            old.append(self._uploaded.popleft()[1])
        if not old:
            return
        again = {one.path for one in uploads_due(self._ledger, None, limit=1_000_000)}
        now = utc_now()
        for path in old:
            # Only what is as old as its upload: it may have come again this moment, and not be in the ledger yet.
            if path not in again:
                self._files.remove_if_older(path, now - UNUSED)

    def close(self) -> None:
        """End, after the uploads at hand."""
        self._pool.shutdown()


def serve_uploader(context: RoleContext, configuration: Configuration) -> None:
    """Run the uploader until told to stop."""
    files = instance_files(configuration)
    assert isinstance(files, BucketFiles)
    assert configuration.storage.bucket is not None
    limit, host = configuration.storage.bucket.cache_mb * 1_000_000, host_name(configuration)
    ledger = open_ledger(configuration.storage.database)
    uploader, steady = Uploader(ledger, files), SteadyTime()
    kept = KeptFindings(configuration.storage.directory)

    def upload(_now: dt.datetime) -> None:
        while uploader.upload() and not context.stop.is_set():
            continue

    def count(_now: dt.datetime) -> None:
        mine = (one.instances for one in held_by_hosts(ledger) if one.host == host)
        metrics.UPLOADS_WAITING.set(sum(mine))

    def sweep(_now: dt.datetime) -> None:
        kept.sweep(inputs_in_work(ledger))
        try:
            swept = sweep_front(ledger, files, grace=SWEEP_GRACE, now=steady.now())
        except IdentityError as error:
            _log.error("storage not swept", what=str(error))
            return
        if swept.set_aside:
            _log.error("files of this host set aside that the ledger does not explain", files=swept.set_aside)

    # Each in a thread of its own: whoever waits for the bucket keeps nobody from hearing that this host serves.
    regular = RegularWork()
    regular.every(LOOK_EVERY_S, upload)
    regular.every(BEAT_EVERY_S, HostReport(ledger, configuration.storage.directory, host).tell)
    regular.every(COUNT_EVERY_S, count)
    regular.every(OTHERS_EVERY_S, lambda _now: uploader.upload_for_others())
    regular.every(CLEAR_EVERY_S, lambda _now: uploader.clear())
    regular.every(CLEAR_EVERY_S, lambda _now: files.evict(limit))
    regular.every(SWEEP_EVERY_S, sweep)
    try:
        regular.run(context.stop, context.ready)
    finally:
        uploader.close()
        ledger.close()
