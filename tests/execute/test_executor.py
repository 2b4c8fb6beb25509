"""Workers: what they make of jobs, and what becomes of jobs whose workers fail, hang, die or stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slow_roles
from crash_analysis import ROLES, cheap_analysis
from crash_parts import write_cine
from interop.ports import wait_until
from ledger_rows import NOW, an_instance, associate
from pydicom import dcmread

from dicom_node.config import (
    Configuration,
    DestinationProfile,
    ExecutionSettings,
    Peer,
    ResultSettings,
    Route,
    StorageSettings,
)
from dicom_node.execute.local import serve_executor, threads_per_slot
from dicom_node.results.uids import derive_uid
from dicom_node.roles import RoleContext
from storage.files import InstanceFiles
from storage.instances import ReceivedInstance, close_association, record_instances
from storage.jobs import RoutedJob, create_jobs, study_contents
from storage.ledger import Ledger, open_ledger
from storage.overview import JobOverview, delivery_overviews, events_of_study, job_overviews
from storage.schema import JobState


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # The executor sets these for its workers, here in the process of the test.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")


STUDY, SERIES = derive_uid("a", "study"), derive_uid("a", "series")


def _configuration(folder: Path, **execution: object) -> Configuration:
    return Configuration(
        peers={"pacs": Peer(ae_title="PACS", host="localhost", port=104, may=frozenset({"receive"}))},
        routes={"cine": Route(destinations=("pacs",))},
        storage=StorageSettings(database=f"sqlite:///{folder}/ledger.sqlite", directory=folder / "instances"),
        execution=ExecutionSettings(threads_per_slot=1, **execution),
        results=ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs")}),
    )


def _receive_cine(ledger: Ledger, configuration: Configuration, folder: Path, *, route: str = "cine") -> None:
    """Put a tiny cine into storage and ledger, and queue its job."""
    files = InstanceFiles(configuration.storage.directory)
    association = associate(ledger)
    paths = write_cine(folder / "cine", "a")
    for number, path in enumerate(paths):
        stored = files.store(path.read_bytes()[132:], file_meta=path.read_bytes()[:132], transfer_syntax_uid="1.2")
        row = an_instance(association, number, study=STUDY, series=SERIES)
        fields = {name: getattr(row, name) for name in row.__slots__}
        fields |= {"digest": stored.digest, "path": str(stored.path)}
        record_instances(ledger, [ReceivedInstance(**fields)], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    routed = RoutedJob(route, (SERIES,), priority=50, deadline_s=600, maximum_attempts=2)
    assert create_jobs(ledger, study_contents(ledger, STUDY), [routed], reason="test", now=NOW) == (1,)


class _Executor:
    """An executor in a thread of the test; its workers are processes."""

    def __init__(self, configuration: Configuration, process: Callable[..., object]) -> None:
        self.stop, self.ready = threading.Event(), threading.Event()
        context = RoleContext("executor", self.stop, self.ready.set)
        self.thread = threading.Thread(target=serve_executor, args=(context, configuration, process))
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        self.thread.join(90)
        assert not self.thread.is_alive()


@pytest.fixture
def execute(tmp_path: Path) -> Iterator[Callable[..., tuple[Ledger, Configuration]]]:
    started: list[_Executor] = []
    ledgers: list[Ledger] = []

    def execute(process: Callable[..., object], *, route: str = "cine", **execution: object):
        configuration = _configuration(tmp_path, **execution)
        ledger = open_ledger(configuration.storage.database)
        ledgers.append(ledger)
        _receive_cine(ledger, configuration, tmp_path, route=route)
        started.append(_Executor(configuration, process))
        return ledger, configuration

    yield execute
    for executor in started:
        executor.end()
    for ledger in ledgers:
        ledger.close()


def _job(ledger: Ledger) -> JobOverview:
    (job,) = job_overviews(ledger)
    return job


def _wait_for(ledger: Ledger, state: JobState) -> JobOverview:
    wait_until(lambda: _job(ledger).state is state, seconds=240, what=f"the job is {state}")
    return _job(ledger)


def test_a_job_becomes_files_results_and_deliveries(execute, tmp_path: Path) -> None:
    ledger, configuration = execute(cheap_analysis)
    job = _wait_for(ledger, JobState.SUCCEEDED)
    assert job.results == len(ROLES)
    assert job.summary is not None
    assert job.summary["results"] == list(ROLES)
    deliveries = delivery_overviews(ledger)
    assert [one.role for one in reversed(deliveries)] == list(ROLES)
    results = sorted((configuration.storage.directory / "results").glob("*/*.dcm"))
    assert {dcmread(path).SOPInstanceUID for path in results} == {one.sop_instance_uid for one in deliveries}


def test_an_error_that_no_attempt_can_help_ends_the_job_with_its_reason(execute) -> None:
    ledger, _ = execute(slow_roles.refuse)
    job = _wait_for(ledger, JobState.FAILED)
    assert (job.attempts, job.error) == (1, "study: is not a heart (send a heart)")


def test_a_defect_is_tried_again_in_a_fresh_process_and_then_given_up(
    execute, capfd: pytest.CaptureFixture[str]
) -> None:
    ledger, _ = execute(slow_roles.stumble)
    job = _wait_for(ledger, JobState.FAILED)
    assert job.attempts == 2
    log = capfd.readouterr().err
    assert "ZeroDivisionError" in log
    assert "DOE" not in log


def test_a_job_that_runs_too_long_is_killed_and_tried_again(execute) -> None:
    ledger, _ = execute(slow_roles.hang, job_timeout_s=2)
    job = _wait_for(ledger, JobState.FAILED)
    assert job.attempts == 2
    assert job.error == (
        "job 1: ran longer than 2 s and was killed (raise execution.job_timeout_s if studies of this size need it)"
    )


def test_a_job_whose_worker_dies_is_released_at_once(execute) -> None:
    ledger, _ = execute(slow_roles.die)
    wait_until(lambda: _job(ledger).attempts >= 2, seconds=240, what="a second attempt")
    failed = [event for event in events_of_study(ledger, STUDY) if event.kind == "job attempt failed"]
    assert failed[0].detail["error"] == "the worker process died: killed by SIGKILL"


def test_a_stop_gives_the_job_back_without_counting_the_attempt(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("dicom_node.execute.local.STEP_GRACE_S", 1.0)
    configuration = _configuration(tmp_path)
    ledger = open_ledger(configuration.storage.database)
    _receive_cine(ledger, configuration, tmp_path)
    executor = _Executor(configuration, slow_roles.hang)
    _wait_for(ledger, JobState.RUNNING)
    executor.end()
    assert (_job(ledger).state, _job(ledger).attempts) == (JobState.QUEUED, 0)
    again = _Executor(configuration, cheap_analysis)
    _wait_for(ledger, JobState.SUCCEEDED)
    again.end()
    ledger.close()


def test_a_route_that_is_gone_is_named(execute) -> None:
    ledger, _ = execute(cheap_analysis, route="removed")
    job = _wait_for(ledger, JobState.FAILED)
    assert job.error is not None
    assert job.error.startswith("routes.removed: the route is no longer configured")


def test_threads_are_shared_among_the_slots() -> None:
    assert threads_per_slot(ExecutionSettings(threads_per_slot=3)) == 3
    assert threads_per_slot(ExecutionSettings(devices=("cpu",) * 64, slots_per_device=16)) == 1
