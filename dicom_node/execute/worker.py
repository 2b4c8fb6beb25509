"""The worker: one process for each slot of a device, with the models loaded, one job at a time."""

from __future__ import annotations

import contextlib
import contextvars
import datetime as dt
import errno
import gc
import math
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import metrics
from dicom_node.config import Configuration, ResultSettings, Route
from dicom_node.errors import ConfigurationError, GateError, NodeError, classify
from dicom_node.execute.kept import KeptFindings
from dicom_node.execute.lanes import Lane
from dicom_node.execute.memory import available_mb, let_go_of_models
from dicom_node.execute.retry import backing_off
from dicom_node.execute.running_step import RunningStep
from dicom_node.instance_files import instance_files
from dicom_node.results.verdict import VerdictKind
from dicom_node.roles import RoleContext
from dicom_node.shadow.comparison import ACQUIRED, PREDICTED, compared, scanner_of
from dicom_node.shadow.withholding import withheld_destinations
from pipelines.errors import raised_along
from pipelines.package import packages
from storage.assessments import note_corrections
from storage.bucket import BucketError
from storage.closing import FRONT_PAGE, PackageOutcome, package_outcomes
from storage.earlier import earlier_study
from storage.files import QUARANTINE, RESULTS, InstanceFiles
from storage.instances import QuarantinedObject, record_quarantine
from storage.jobs import (
    Job,
    Outcome,
    ResultConflictError,
    ResultRecord,
    claim_job,
    complete_job,
    fail_job,
    inputs_in_work,
    put_job_off,
    shares_input,
)
from storage.ledger import Ledger, open_ledger, utc_now
from storage.overview import result_overviews
from storage.schema import Verdict
from storage.shadow import drop_comparison, kept_comparisons, record_comparison
from storage.uploads import studies_being_uploaded

if TYPE_CHECKING:
    from dicom_node.execute.process import Processed, ProcessedStudy
    from dicom_node.results.content import Predecessor
    from dicom_node.results.front_page import ListedPackage
    from dicom_node.results.objects import ResultObject
    from dicom_node.results.paragraph import EarlierExamination
    from dicom_node.results.whole import RejectedObject

__all__ = ["JobEnd", "ProcessStudy", "Worker", "mind_memory", "open_worker", "serve_worker"]

_log = structlog.get_logger(__name__)

T = TypeVar("T")

IDLE_S = 0.1
BUCKET_AWAY = dt.timedelta(seconds=30)
"""Until a job is tried again whose files could not be had from the bucket."""
COLLECT_AFTER = 50_000
"""Objects more than there were at the last look for those that nobody refers to."""
STORED_AT_ONCE = 4
"""Results whose files, or objects in the bucket, are written at the same time."""
LOOK_AT_MEMORY_EVERY_S = 10.0
OVERLONG_GRACE_S = 30.0
"""After its time a worker that nobody has killed dies by itself."""
LOWEST_PRIORITY = 19
STRUCTURED_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
"""How the UIDs of SR storage SOP classes begin (PS3.4 B.5)."""


class ProcessStudy(Protocol):
    """What a worker does with a job: :func:`dicom_node.execute.process.process_study`."""

    def __call__(
        self,
        paths: Sequence[Path],
        *,
        package: str,
        study_instance_uid: str,
        inputs: Sequence[str],
        created: dt.datetime,
        route_name: str,
        route: Route,
        results: ResultSettings,
        predecessors: Sequence[Predecessor],
        known: Mapping[type, object],
        own_results: Mapping[str, str],
        last_attempt: bool,
        device: str,
        on_step: Callable[[str], None],
    ) -> ProcessedStudy:
        """Process the files of one study with one analysis package of one route."""


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How the attempt at a job ended."""

    succeeded: bool
    """Whether the analysis came to an end, whatever it found."""
    seconds: float


def serve_worker(
    context: RoleContext, configuration: Configuration, lane: Lane, process: ProcessStudy | None = None
) -> None:
    """Run the worker role until told to stop.

    Parameters
    ----------
    lane
        Which jobs this worker takes, and on which device.
    process
        What to do with a job, unless it is the one thing that the node does.
    """
    worker = open_worker(context.name, configuration, lane, process)
    context.ready()
    looked_at, left_over = 0.0, False
    while not (context.stop.is_set() or worker.spent):
        # Between two jobs: each runs by one configuration.
        configuration = context.renewed() or configuration
        worker.configuration = configuration
        try:
            worked = worker.work_once()
        except SQLAlchemyError as error:
            # Nothing was changed that is not seen in the ledger; the lease brings back what was at hand.
            _log.error("the ledger did not answer", error=type(error).__name__)
            worked = False
        if not worked:
            if left_over:
                gc.collect()
            context.stop.wait(IDLE_S)
        left_over = worked
        if time.monotonic() - looked_at >= LOOK_AT_MEMORY_EVERY_S:
            looked_at = time.monotonic()
            mind_memory(configuration.execution.free_memory_mb)
    worker.close()


def open_worker(name: str, configuration: Configuration, lane: Lane, process: ProcessStudy | None = None) -> Worker:
    """A worker with the models of quick analyses loaded; the parameters are those of :func:`serve_worker`."""
    return Worker(
        open_ledger(configuration.storage.database),
        instance_files(configuration),
        configuration,
        name,
        lane,
        _processing(lane, configuration) if process is None else process,
    )


def mind_memory(wanted_mb: int) -> None:
    """Let go of the models of an idle worker where less memory is free than wanted, 2^20 bytes."""
    free_mb = available_mb()
    if free_mb < wanted_mb and let_go_of_models():
        _log.warning("models let go of: memory is short", free_mb=round(free_mb), wanted_mb=wanted_mb)


def _processing(lane: Lane, configuration: Configuration) -> ProcessStudy:
    """What the node does with a job; the quick analyses' models and encoders are loaded, others when first needed."""
    if lane.background:
        return _process_when_needed
    from dicom_node.results.drawing import start_drawing

    # It loads its fonts while this process loads the networks.
    start_drawing()
    import torch

    from dicom_node.execute.process import process_study
    from dicom_node.results.capture import warm_fonts
    from dicom_node.results.encoders import encoder_of
    from pipelines.models.registry import ModelUnavailable
    from pipelines.package import needs, packages
    from pipelines.segmentation.labels import CineSegmentation
    from pipelines.segmentation.segment import warm

    torch.set_num_threads(lane.threads)
    routed = {name for route in configuration.routes.values() for name in route.analyses}
    quick = [package for name, package in packages().items() if name in routed and package.priority >= 0]
    for package in quick:
        encoder_of(package)
    if any(needs(package, CineSegmentation) for package in quick):
        try:
            warm(lane.device)
        except ModelUnavailable as error:
            # Studies are then answered with a report that says so.
            _log.error("models not loaded", error=str(error))
    warm_fonts()
    # What stands now stays: the collector need not look through half a million objects in the middle of a study.
    gc.collect()
    gc.freeze()
    # A job makes half a million objects and keeps most of them to its end: looking through them time and again takes a
    # tenth of its processor time. What it leaves is collected when there is nothing to do.
    gc.set_threshold(COLLECT_AFTER, 20, 100)
    return process_study


def _process_when_needed(paths: Sequence[Path], **arguments: Any) -> ProcessedStudy:
    # A worker that has nothing to do takes no memory.
    import torch

    from dicom_node.execute.process import process_study

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return process_study(paths, **arguments)


class Worker:
    """Does jobs, one at a time, and records what each came to."""

    def __init__(
        self,
        ledger: Ledger,
        files: InstanceFiles,
        configuration: Configuration,
        name: str,
        lane: Lane,
        process: ProcessStudy,
    ) -> None:
        self._ledger = ledger
        self._files = files
        self._kept = KeptFindings(configuration.storage.directory)
        self.configuration = configuration
        self._name = name
        self._lane = lane
        self._process = process
        self._run_with_priority = _at_lowest_priority() if lane.background else _as_it_is
        self.spent = False
        """Whether a defect showed: the next attempt deserves a fresh process, with its memory and device unspoilt."""

    def work_once(self) -> bool:
        """Do one job; false when there is none."""
        job = claim_job(self._ledger, self._name, utc_now(), slots=self._lane.slots, background=self._lane.background)
        if job is None:
            return False
        self.work_on(job)
        return True

    def work_on(self, job: Job) -> JobEnd:
        """Do a job that this worker holds.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            The ledger does not know how the job ended.
        """
        started = time.monotonic()
        # Kept by the kernel, whatever this process is doing: a worker that lost its lease is watched by nobody else.
        signal.setitimer(signal.ITIMER_REAL, job.timeout_s + OVERLONG_GRACE_S)
        try:
            with structlog.contextvars.bound_contextvars(
                correlation_id=job.correlation_id, job=job.id, study_instance_uid=job.study_instance_uid
            ):
                succeeded = self._work_on(job)
        except SQLAlchemyError:
            # The ledger does not know how the job ended: when this process has, its parent gives the job back.
            self.spent = True
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        end = JobEnd(succeeded, time.monotonic() - started)
        metrics.JOB_SECONDS.labels("succeeded" if succeeded else "failed").observe(end.seconds)
        return end

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def _work_on(self, job: Job) -> bool:
        _log.info("job started", route=job.route, package=job.package, instances=len(job.paths), attempt=job.attempt)
        try:
            # Begun here, it talks to the ledger at the usual priority.
            with RunningStep(self._ledger, job.lease) as running:
                records, outcome = self._run_with_priority(lambda: self._run(job, running))
            held = complete_job(self._ledger, job, records, outcome, now=utc_now())
        except BucketError as error:
            # The job waits for it as long as it takes.
            now = utc_now()
            _log.warning("job put off", what=error.strerror)
            put_job_off(self._ledger, job, str(error.strerror), until=now + BUCKET_AWAY, now=now)
            return False
        except Exception as error:  # noqa: BLE001 - whatever happens to a job is recorded, never lost
            self._failed(job, error)
            return False
        if held:
            _log.info(
                "job succeeded",
                verdict=outcome.verdict.value,
                results=len(records),
                seconds=outcome.summary.get("seconds"),
            )
        else:
            _log.warning("job was taken away meanwhile; its results are dropped")
        return True

    def _run(self, job: Job, running: RunningStep) -> tuple[list[ResultRecord], Outcome]:
        route = self.configuration.routes.get(job.route)
        if route is None:
            raise ConfigurationError(
                "the route is no longer configured",
                subject=f"routes.{job.route}",
                remedy=f"bring it back and run `dicom-node jobs --retry {job.id}`",
            )
        paths = self._inputs(job)
        if job.package == FRONT_PAGE:
            processed: Processed = self._front_page(job, route, paths)
            numbers: Mapping[str, float] = {}
            withheld: Mapping[str, str] = {}
        else:
            withheld = self._withheld(job, route)
            told = route.model_copy(
                update={"destinations": tuple(name for name in route.destinations if name not in withheld)}
            )
            of_package = self._package(job, told, paths, running)
            processed, numbers = of_package, of_package.numbers.get(job.package, {})
        # Files first, each flushed, which is waiting most of all; the one commit that names them comes last.
        with ThreadPoolExecutor(STORED_AT_ONCE, "storing") as pool:
            records = list(pool.map(self._stored, processed.objects))
        for rejected in processed.rejected:
            self._quarantined(job, rejected)
        return records, _outcome(processed, numbers, withheld)

    def _inputs(self, job: Job) -> list[Path]:
        found = []
        for path in job.paths:
            with contextlib.suppress(FileNotFoundError):
                found.append(self._files.readable(path))
        paths = [path for path in found if path.is_file()]
        missing = len(job.paths) - len(paths)
        if missing and job.study_instance_uid in studies_being_uploaded(self._ledger):
            raise BucketError(errno.EAGAIN, f"{missing} of {len(job.paths)} input files are not in the bucket yet")
        if missing or not paths:
            raise NodeError(
                f"{missing} of {len(job.paths)} input files are gone",
                subject=job.study_instance_uid,
                remedy="send the study again",
            )
        return paths

    def _withheld(self, job: Job, route: Route) -> Mapping[str, str]:
        """Destinations of the route that get nothing of a package, and why."""
        if job.package != PREDICTED:
            return {}
        profiles = self.configuration.results.destinations
        return withheld_destinations(
            {name: profiles[name] for name in route.destinations if name in profiles},
            kept_comparisons(self._ledger),
            _version(PREDICTED),
        )

    def _package(self, job: Job, route: Route, paths: Sequence[Path], running: RunningStep) -> ProcessedStudy:
        known = self._kept.load(job.input_digest, job.package, self._lane.device)
        processed = self._process(
            paths,
            package=job.package,
            study_instance_uid=job.study_instance_uid,
            inputs=(job.identity,),
            created=job.created_at,
            route_name=job.route,
            route=route,
            results=self.configuration.results,
            predecessors=_earlier_reports(job),
            known=known,
            own_results={
                one.sop_instance_uid: one.role for one in result_overviews(self._ledger, job.study_instance_uid)
            },
            last_attempt=job.attempt >= job.maximum_attempts,
            device=self._lane.device,
            on_step=running.begins,
        )
        self._note_corrections(job, processed)
        if not known and shares_input(self._ledger, job):
            self._kept.save(job.input_digest, self._lane.device, processed.findings.values)
        return processed

    def _note_corrections(self, job: Job, processed: ProcessedStudy) -> None:
        """A person who corrects masks judges the results that they were of."""
        from pipelines.segmentation.labels import CineSegmentation

        segmentation = processed.findings.get(CineSegmentation)
        if segmentation is not None and segmentation.corrections:
            made = [(one.by, one.sop_instance_uid) for one in segmentation.corrections]
            note_corrections(self._ledger, job.id, made, now=utc_now())

    def _front_page(self, job: Job, route: Route, paths: Sequence[Path]) -> Processed:
        from dicom_node.execute.process import process_front_page

        # Nothing of this study waits any more.
        self._kept.sweep(inputs_in_work(self._ledger))
        outcomes = package_outcomes(self._ledger, job.id)
        order = {name: number for number, name in enumerate(route.analyses)}
        self._compare(job, {one.package: one.numbers for one in outcomes}, paths)
        return process_front_page(
            paths,
            listed=[_listed(one) for one in sorted(outcomes, key=lambda one: order.get(one.package, len(order)))],
            withheld={one.package: one.withheld for one in outcomes if one.withheld},
            study_instance_uid=job.study_instance_uid,
            inputs=(job.identity,),
            created=job.created_at,
            route_name=job.route,
            route=route,
            results=self.configuration.results,
            predecessors=_earlier_reports(job),
            earlier=self._earlier(job) if self.configuration.results.paragraph.compare else None,
        )

    def _earlier(self, job: Job) -> EarlierExamination | None:
        from dicom_node.network.query_scp import describe_new_studies
        from dicom_node.results.numbers import numbers_from
        from dicom_node.results.paragraph import EarlierExamination

        describe_new_studies(self._ledger, self._files)
        found = earlier_study(self._ledger, job.study_instance_uid)
        if found is None:
            return None
        return EarlierExamination(found.study_instance_uid, found.study_date, numbers_from(found.numbers))

    def _compare(self, job: Job, numbers: Mapping[str, Mapping[str, float]], paths: Sequence[Path]) -> None:
        """Hold what was predicted against what was acquired, where a study has both."""
        if PREDICTED not in numbers or ACQUIRED not in numbers:
            return
        comparison = compared(
            numbers[PREDICTED],
            numbers[ACQUIRED],
            version=_version(PREDICTED),
            scanner=scanner_of(paths),
            now=job.created_at,
        )
        if comparison is None:
            # Of an earlier version of the study there may be one.
            drop_comparison(self._ledger, job.study_instance_uid, job.route)
        else:
            record_comparison(self._ledger, job.study_instance_uid, job.route, comparison)

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
        classified = _classified(job, error)
        self.spent = classified.retryable
        # Messages of unknown exceptions can quote values of the data set, so only their place is logged.
        _log.error(
            "job failed",
            error=str(classified),
            retryable=classified.retryable,
            at=raised_along(error),
        )
        now = utc_now()
        fail_job(
            self._ledger,
            job,
            str(classified),
            retryable=classified.retryable,
            retry_at=backing_off(now),
            now=now,
        )


def _classified(job: Job, error: Exception) -> NodeError:
    if isinstance(error, ResultConflictError):
        return GateError(
            str(error),
            subject=f"job {job.id}",
            remedy="raise the version of the analysis package whenever what it makes changes",
        )
    return classify(error)


def _as_it_is(work: Callable[[], T]) -> T:
    return work()


def _at_lowest_priority() -> Callable[[Callable[[], T]], T]:
    """Calls a function in a thread of the lowest priority, as are the threads that it starts.

    The process itself keeps its priority: it would hold locks of the ledger that quick workers and receivers wait for.
    """

    def give_way() -> None:
        # On Linux each thread has a priority of its own (setpriority(2)).
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)

    pool = ThreadPoolExecutor(1, "background", initializer=give_way)
    return lambda work: pool.submit(contextvars.copy_context().run, work).result()


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """A PS3.10 file in two parts: what precedes the data set, and the data set."""
    # 128 bytes preamble, DICM, then (0002,0000) UL: the length of the rest of the group (PS3.10 7.1).
    (length,) = struct.unpack_from("<L", content, 140)
    return content[: 144 + length], content[144 + length :]


def _version(package: str) -> str:
    """Of an analysis package; empty when it is not installed any more."""
    known = packages().get(package)
    return "" if known is None else known.version


def _outcome(processed: Processed, numbers: Mapping[str, float], withheld: Mapping[str, str]) -> Outcome:
    from dicom_node.execute.process import ProcessedStudy
    from dicom_node.results.numbers import numbers_record

    summary: dict[str, Any] = {
        "seconds": {step: round(value, 3) for step, value in processed.seconds.items()},
        "results": [one.role.value for one in processed.objects],
        "rejected": [
            {"role": one.object.role.value, "problems": [str(problem) for problem in one.problems]}
            for one in processed.rejected
        ],
    }
    if processed.told:
        summary["told"] = {
            uid: {"paragraph": told.paragraph, "numbers": numbers_record(told.numbers)}
            for uid, told in processed.told.items()
        }
    if processed.verdicts:
        (verdict,) = processed.verdicts
        summary["numbers"] = {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
        if isinstance(processed, ProcessedStudy):
            summary["reported"] = numbers_record(processed.reported)
            summary["quality"] = _quality(processed)
        sentences = verdict.sentences
        if verdict.kind in (VerdictKind.DELIVERED, VerdictKind.PARTIAL) and withheld:
            summary["withheld"] = dict(withheld)
            sentences = (*sentences, *(f"{name}: {sentence}" for name, sentence in withheld.items()))
        return Outcome(Verdict(verdict.kind.value), sentences, verdict.key_numbers, summary)
    if not processed.rejected:
        return Outcome(Verdict.DELIVERED, summary=summary)
    kept_back = tuple(f"{one.object.series_description}: kept back by the gate" for one in processed.rejected)
    return Outcome(Verdict.PARTIAL if processed.objects else Verdict.FAILED, kept_back, summary=summary)


def _quality(processed: ProcessedStudy) -> list[dict[str, str]]:
    """What quality control found that is to be read with the numbers, the worst first."""
    from pipelines.quality.findings import Grade, QualityAssessment

    assessment = processed.findings.get(QualityAssessment)
    found = [one for one in assessment.findings if one.grade > Grade.EXCELLENT] if assessment is not None else []
    return [
        {"check": one.check.value, "grade": one.grade.name, "sentence": one.sentence}
        for one in sorted(found, key=lambda one: -one.grade)
    ]


def _listed(outcome: PackageOutcome) -> ListedPackage:
    from dicom_node.results import verdict
    from dicom_node.results.front_page import ListedPackage, ListedResult
    from dicom_node.results.numbers import numbers_from

    return ListedPackage(
        verdict.Verdict(
            outcome.package, verdict.VerdictKind(outcome.verdict.value), outcome.sentences, outcome.key_numbers
        ),
        tuple(
            ListedResult(one.sop_class_uid, one.sop_instance_uid, one.series_instance_uid, one.series_description)
            for one in outcome.results
        ),
        numbers_from(outcome.reported),
    )


def _earlier_reports(job: Job) -> tuple[Predecessor, ...]:
    from dicom_node.results.content import Predecessor

    return tuple(
        Predecessor(job.study_instance_uid, one.series_instance_uid, one.sop_class_uid, one.sop_instance_uid)
        for one in job.predecessors
        if one.sop_class_uid.startswith(STRUCTURED_REPORTS)
    )
