"""The worker: one process for each slot of a device, with the models loaded, one job at a time."""

from __future__ import annotations

import contextlib
import datetime as dt
import struct
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import metrics
from dicom_node.config import Configuration, ResultSettings, Route
from dicom_node.errors import ConfigurationError, NodeError, classify
from dicom_node.roles import RoleContext
from storage.files import QUARANTINE, RESULTS, InstanceFiles
from storage.instances import QuarantinedObject, record_quarantine
from storage.jobs import Job, ResultRecord, claim_job, complete_job, extend_job, fail_job
from storage.ledger import Ledger, open_ledger, utc_now

if TYPE_CHECKING:
    from dicom_node.execute.process import ProcessedStudy
    from dicom_node.results.objects import ResultObject
    from dicom_node.results.whole import RejectedObject

__all__ = ["ProcessStudy", "serve_worker"]

_log = structlog.get_logger(__name__)

LEASE_S = 60.0
IDLE_S = 0.1
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 60.0


class ProcessStudy(Protocol):
    """What a worker does with a job: :func:`dicom_node.execute.process.process_study`."""

    def __call__(
        self,
        paths: Sequence[Path],
        *,
        study_instance_uid: str,
        inputs: Sequence[str],
        created: dt.datetime,
        route_name: str,
        route: Route,
        results: ResultSettings,
        last_attempt: bool,
        device: str,
    ) -> ProcessedStudy:
        """Process the files of one study by one route."""


def serve_worker(
    context: RoleContext,
    configuration: Configuration,
    device: str,
    threads: int,
    process: ProcessStudy | None = None,
) -> None:
    """Run the worker role until told to stop.

    Parameters
    ----------
    device
        Torch device that networks run on.
    threads
        CPU threads that this worker may use.
    process
        What to do with a job, unless it is the one thing that the node does.
    """
    ledger = open_ledger(configuration.storage.database)
    worker = _Worker(
        ledger,
        InstanceFiles(configuration.storage.directory),
        configuration,
        context.name,
        device,
        _warmed(threads, device) if process is None else process,
    )
    context.ready()
    while not (context.stop.is_set() or worker.spent):
        try:
            worked = worker.work_once()
        except SQLAlchemyError as error:
            # Nothing was changed that is not seen in the ledger; the lease brings back what was at hand.
            _log.error("the ledger did not answer", error=type(error).__name__)
            worked = False
        if not worked:
            context.stop.wait(IDLE_S)
    ledger.close()


def _warmed(threads: int, device: str) -> ProcessStudy:
    import torch

    from dicom_node.execute.process import process_study
    from pipelines.models.registry import ModelUnavailable
    from pipelines.segmentation.segment import warm

    torch.set_num_threads(threads)
    try:
        warm(device)
    except ModelUnavailable as error:
        # Studies are then answered with a report that says so.
        _log.error("models not loaded", error=str(error))
    return process_study


class _Worker:
    def __init__(
        self,
        ledger: Ledger,
        files: InstanceFiles,
        configuration: Configuration,
        name: str,
        device: str,
        process: ProcessStudy,
    ) -> None:
        self._ledger = ledger
        self._files = files
        self._configuration = configuration
        self._name = name
        self._device = device
        self._process = process
        self.spent = False
        """Whether a defect showed: the next attempt deserves a fresh process, with its memory and device unspoilt."""

    def work_once(self) -> bool:
        """Do one job; false when there is none."""
        job = claim_job(self._ledger, self._name, utc_now(), LEASE_S)
        if job is None:
            return False
        with (
            structlog.contextvars.bound_contextvars(
                correlation_id=job.correlation_id, job=job.id, study_instance_uid=job.study_instance_uid
            ),
            self._heartbeat(job),
        ):
            _log.info("job started", route=job.route, instances=len(job.paths), attempt=job.attempt)
            started = time.monotonic()
            try:
                records, summary = self._run(job)
            except Exception as error:  # noqa: BLE001 - whatever happens to a job is recorded, never lost
                metrics.JOB_SECONDS.labels("failed").observe(time.monotonic() - started)
                self._failed(job, error)
                return True
            metrics.JOB_SECONDS.labels("succeeded").observe(time.monotonic() - started)
            if complete_job(self._ledger, job.id, records, summary, worker=self._name, now=utc_now()):
                _log.info("job succeeded", results=len(records), seconds=summary["seconds"])
            else:
                _log.warning("job was taken away meanwhile; its results are dropped")
        return True

    def _run(self, job: Job) -> tuple[list[ResultRecord], dict[str, Any]]:
        route = self._configuration.routes.get(job.route)
        if route is None:
            raise ConfigurationError(
                "the route is no longer configured",
                subject=f"routes.{job.route}",
                remedy=f"bring it back and run `dicom-node jobs --retry {job.id}`",
            )
        paths = [self._files.absolute(path) for path in job.paths]
        missing = [path for path in paths if not path.is_file()]
        if not paths or missing:
            raise NodeError(
                f"{len(missing)} of {len(paths)} input files are gone",
                subject=job.study_instance_uid,
                remedy="send the study again",
            )
        processed = self._process(
            paths,
            study_instance_uid=job.study_instance_uid,
            inputs=(job.input_digest,),
            created=job.created_at,
            route_name=job.route,
            route=route,
            results=self._configuration.results,
            last_attempt=job.attempt >= job.maximum_attempts,
            device=self._device,
        )
        # Files first, each flushed; the one commit that names them comes last.
        records = [self._stored(one) for one in processed.objects]
        for rejected in processed.rejected:
            self._quarantined(job, rejected)
        return records, _summary(processed)

    def _stored(self, result: ResultObject) -> ResultRecord:
        file_meta, data = _parts(result.content)
        file = self._files.store(
            data, file_meta=file_meta, transfer_syntax_uid=result.transfer_syntax_uid, folder=RESULTS
        )
        return ResultRecord(
            role=result.role.value,
            sop_class_uid=result.sop_class_uid,
            sop_instance_uid=result.sop_instance_uid,
            series_instance_uid=result.series_instance_uid,
            series_description=result.series_description,
            path=file.path,
            digest=file.digest,
            size=file.size,
            destinations=tuple(sorted(result.destinations)),
        )

    def _quarantined(self, job: Job, rejected: RejectedObject) -> None:
        result, problems = rejected.object, [str(problem) for problem in rejected.problems]
        file_meta, data = _parts(result.content)
        file = self._files.store(
            data, file_meta=file_meta, transfer_syntax_uid=result.transfer_syntax_uid, folder=QUARANTINE
        )
        quarantined = QuarantinedObject(
            digest=file.digest,
            path=file.path,
            reason=f"{result.role.value}: {'; '.join(problems)}",
            sop_instance_uid=result.sop_instance_uid,
            job_id=job.id,
        )
        record_quarantine(self._ledger, quarantined, at=utc_now())
        metrics.OBJECTS_QUARANTINED.inc()
        _log.error("result failed the gate", sop_instance_uid=result.sop_instance_uid, problems=problems)

    def _failed(self, job: Job, error: Exception) -> None:
        classified = classify(error)
        self.spent = classified.retryable
        now = utc_now()
        # Messages of unknown exceptions can quote values of the data set, so only their place is logged.
        _log.error(
            "job failed",
            error=str(error) if isinstance(error, NodeError) else type(error).__name__,
            retryable=classified.retryable,
            at=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)],
        )
        fail_job(
            self._ledger,
            job.id,
            str(classified),
            retryable=classified.retryable,
            retry_at=now + dt.timedelta(seconds=min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** (job.attempt - 1))),
            worker=self._name,
            now=now,
        )

    @contextlib.contextmanager
    def _heartbeat(self, job: Job) -> Iterator[None]:
        done = threading.Event()

        def beat() -> None:
            while not done.wait(LEASE_S / 4):
                try:
                    extend_job(self._ledger, job.id, self._name, utc_now(), LEASE_S)
                except SQLAlchemyError as error:
                    _log.warning("lease not prolonged", error=type(error).__name__)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """A PS3.10 file in two parts: what precedes the data set, and the data set."""
    # 128 bytes preamble, DICM, then (0002,0000) UL: the length of the rest of the group (PS3.10 7.1).
    (length,) = struct.unpack_from("<L", content, 140)
    return content[: 144 + length], content[144 + length :]


def _summary(processed: ProcessedStudy) -> dict[str, Any]:
    seconds: Mapping[str, float] = processed.seconds
    return {
        "seconds": {step: round(value, 3) for step, value in seconds.items()},
        "results": [one.role.value for one in processed.objects],
        "rejected": [
            {"role": one.object.role.value, "problems": [str(problem) for problem in one.problems]}
            for one in processed.rejected
        ],
        "refusals": [one.sentence for one in processed.findings.refusals],
    }
