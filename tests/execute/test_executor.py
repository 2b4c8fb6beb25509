"""Workers: what they make of jobs, and what becomes of jobs whose workers fail, hang, die or stop."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
import slow_roles
from crash_analysis import ROLES, cheap_analysis
from crash_parts import write_cine
from hypothesis import given
from hypothesis import strategies as st
from interop.ports import free_port, wait_until
from ledger_rows import NOW, an_instance, associate
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from dicom_node.config import (
    Configuration,
    DestinationProfile,
    ExecutionSettings,
    NodeSettings,
    Peer,
    ResultSettings,
    Route,
    StorageSettings,
)
from dicom_node.execute.lanes import lanes, threads_per_slot
from dicom_node.execute.local import serve_executor
from dicom_node.execute.memory import available_mb
from dicom_node.execute.retry import FIRST_S, backing_off
from dicom_node.execute.worker import mind_memory
from dicom_node.results.uids import derive_uid
from dicom_node.roles import RoleContext
from pipelines.models.registry import load_model_once
from storage.closing import FRONT_PAGE
from storage.files import InstanceFiles
from storage.identity import bind
from storage.instances import close_association, record_instances
from storage.jobs import RoutedJob, create_jobs, study_contents
from storage.ledger import Ledger, open_ledger
from storage.overview import JobOverview, delivery_overviews, events_of_study, job_overviews, study_overviews
from storage.schema import JobState, Verdict


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
        execution=ExecutionSettings(threads_per_slot=1, **{"background_slots": 0, **execution}),
        results=ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs")}),
    )


PACKAGE = "ventricular_function"


def _receive_cine(
    ledger: Ledger,
    configuration: Configuration,
    folder: Path,
    *,
    route: str = "cine",
    packages: tuple[str, ...] = (PACKAGE,),
    attempts: int = 2,
) -> None:
    """Put a tiny cine into storage and ledger, and queue its jobs: what has ``slow`` in its name gives way."""
    files = InstanceFiles(configuration.storage.directory)
    association = associate(ledger)
    paths = write_cine(folder / "cine", "a")
    for number, path in enumerate(paths):
        stored = files.store(path.read_bytes()[132:], file_meta=path.read_bytes()[:132], transfer_syntax_uid="1.2")
        row = an_instance(association, number, study=STUDY, series=SERIES)
        record_instances(ledger, [dataclasses.replace(row, digest=stored.digest, path=str(stored.path))], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    routed = [
        RoutedJob(
            route,
            package,
            (SERIES,),
            priority=50,
            deadline_s=600,
            maximum_attempts=attempts,
            timeout_s=configuration.execution.job_timeout_s or 300,
            background="slow" in package,
        )
        for package in packages
    ]
    created = create_jobs(ledger, study_contents(ledger, STUDY), routed, reason="test", now=NOW)
    assert created == tuple(range(1, len(packages) + 1))


def _receive_another(ledger: Ledger, configuration: Configuration, folder: Path, study: str) -> None:
    files = InstanceFiles(configuration.storage.directory)
    association = associate(ledger)
    for number, path in enumerate(write_cine(folder / "another", "b")):
        stored = files.store(path.read_bytes()[132:], file_meta=path.read_bytes()[:132], transfer_syntax_uid="1.2")
        row = an_instance(association, number, study=study, series="9.9.9")
        record_instances(ledger, [dataclasses.replace(row, digest=stored.digest, path=str(stored.path))], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    routed = RoutedJob("cine", PACKAGE, ("9.9.9",), priority=50, deadline_s=600, maximum_attempts=2, timeout_s=300)
    assert create_jobs(ledger, study_contents(ledger, study), [routed], reason="test", now=NOW)


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

    def execute(
        process: Callable[..., object],
        *,
        route: str = "cine",
        packages: tuple[str, ...] = (PACKAGE,),
        **execution: object,
    ) -> tuple[Ledger, Configuration]:
        configuration = _configuration(tmp_path, **execution)
        ledger = open_ledger(configuration.storage.database)
        ledgers.append(ledger)
        _receive_cine(ledger, configuration, tmp_path, route=route, packages=packages)
        started.append(_Executor(configuration, process))
        return ledger, configuration

    yield execute
    for executor in started:
        executor.end()
    for ledger in ledgers:
        ledger.close()


def _job(ledger: Ledger, package: str = PACKAGE) -> JobOverview:
    (job,) = (one for one in job_overviews(ledger) if one.package == package)
    return job


def _wait_for(ledger: Ledger, state: JobState, package: str = PACKAGE) -> JobOverview:
    wait_until(
        lambda: any(one.package == package and one.state is state for one in job_overviews(ledger)),
        seconds=240,
        what=f"the job of {package} is {state}",
    )
    return _job(ledger, package)


def _front_page_of(ledger: Ledger, configuration: Configuration) -> Dataset:
    """The text report that closes the study."""
    _wait_for(ledger, JobState.SUCCEEDED, FRONT_PAGE)
    results = (configuration.storage.directory / "results").glob("*/*.dcm")
    (page,) = (one for one in map(dcmread, results) if one.SOPClassUID == BasicTextSRStorage)
    return page


def _sentences(page: Dataset) -> list[str]:
    return [
        item.TextValue
        for section in page.ContentSequence
        for item in section.get("ContentSequence", ())
        if "TextValue" in item
    ]


def test_a_job_becomes_files_results_and_deliveries_and_a_front_page(execute, tmp_path: Path) -> None:
    ledger, configuration = execute(cheap_analysis)
    job = _wait_for(ledger, JobState.SUCCEEDED)
    assert job.results == len(ROLES)
    assert (job.verdict, job.key_numbers) == (Verdict.DELIVERED, ("The mean is 14.5.",))
    assert job.summary is not None
    assert job.summary["results"] == list(ROLES)
    page = _front_page_of(ledger, configuration)
    assert "The mean is 14.5." in _sentences(page)
    deliveries = delivery_overviews(ledger)
    assert [one.role for one in reversed(deliveries)][:3] == list(ROLES)
    results = sorted((configuration.storage.directory / "results").glob("*/*.dcm"))
    assert {dcmread(path).SOPInstanceUID for path in results} == {one.sop_instance_uid for one in deliveries}


def test_an_error_that_no_attempt_can_help_ends_the_job_with_its_reason_and_is_told(execute) -> None:
    ledger, configuration = execute(slow_roles.refuse)
    job = _wait_for(ledger, JobState.FAILED)
    assert (job.attempts, job.error) == (1, "study: is not a heart (send a heart)")
    assert job.verdict is Verdict.FAILED
    assert "study: is not a heart (send a heart)" in _sentences(_front_page_of(ledger, configuration))


def test_a_defect_is_tried_again_in_a_fresh_process_and_then_given_up(
    execute, capfd: pytest.CaptureFixture[str]
) -> None:
    ledger, _ = execute(slow_roles.stumble)
    job = _wait_for(ledger, JobState.FAILED)
    assert job.attempts == 2
    log = capfd.readouterr().err
    assert "ZeroDivisionError" in log
    assert "DOE" not in log


def test_the_ledger_keeps_type_and_place_of_a_defect_and_not_its_text(execute) -> None:
    ledger, configuration = execute(slow_roles.stumble)
    job = _wait_for(ledger, JobState.FAILED)
    assert job.error is not None
    assert job.error.startswith("failed with ZeroDivisionError at slow_roles.py:")
    page = _front_page_of(ledger, configuration)
    told = [*job.sentences, *_sentences(page), *(str(event.detail) for event in events_of_study(ledger, STUDY))]
    assert not [text for text in told if "DOE" in text]


def test_a_job_that_runs_too_long_is_killed_and_tried_again_and_told(execute) -> None:
    ledger, configuration = execute(slow_roles.hang, job_timeout_s=2)
    job = _wait_for(ledger, JobState.FAILED)
    assert job.attempts == 2
    assert job.error == (
        "job 1: ran longer than 2 s and was killed (raise execution.job_timeout_s if studies of this size need it)"
    )
    assert job.error in _sentences(_front_page_of(ledger, configuration))


def test_a_job_that_kills_its_worker_is_tried_again_later_and_then_told(execute) -> None:
    ledger, configuration = execute(slow_roles.die)
    job = _wait_for(ledger, JobState.FAILED)
    assert job.attempts == 2
    failed = [event for event in events_of_study(ledger, STUDY) if event.kind == "job attempt failed"]
    assert failed[0].detail["error"] == "the worker process died: killed by SIGKILL"
    started = [event.at for event in events_of_study(ledger, STUDY) if event.kind == "job started"]
    assert (started[1] - failed[0].at).total_seconds() >= FIRST_S
    assert "the worker process died: killed by SIGKILL" in _sentences(_front_page_of(ledger, configuration))


def test_what_the_gate_keeps_back_makes_the_job_partial_and_is_shown(execute, tmp_path: Path) -> None:
    ledger, configuration = execute(slow_roles.partly_rejected)
    job = _wait_for(ledger, JobState.SUCCEEDED)
    assert job.verdict is Verdict.PARTIAL
    assert job.sentences == ("report: kept back by the gate",)
    assert job.results == len(ROLES) - 1
    (study,) = study_overviews(ledger)
    assert study.verdicts == {PACKAGE: Verdict.PARTIAL}
    assert "report: kept back by the gate" in _sentences(_front_page_of(ledger, configuration))


def test_each_package_has_its_verdict_and_the_front_page_tells_of_all(execute) -> None:
    ledger, configuration = execute(cheap_analysis, packages=(PACKAGE, "declining"))
    sentences = _sentences(_front_page_of(ledger, configuration))
    assert _job(ledger).verdict is Verdict.DELIVERED
    assert _job(ledger, "declining").verdict is Verdict.DECLINED
    assert {"The mean is 14.5.", "It is no heart."} <= set(sentences)


def test_a_slow_job_holds_no_quick_one_up(execute, tmp_path: Path, monkeypatch) -> None:
    # In the end it hangs still, and is not waited for.
    monkeypatch.setattr("dicom_node.execute.local.STEP_GRACE_S", 1.0)
    ledger, configuration = execute(slow_roles.hang_when_slow, packages=("slow",), background_slots=1)
    _wait_for(ledger, JobState.RUNNING, "slow")
    study = derive_uid("b", "study")
    _receive_another(ledger, configuration, tmp_path, study)
    wait_until(
        lambda: any(one.state is JobState.SUCCEEDED for one in job_overviews(ledger, study_instance_uid=study)),
        seconds=240,
        what="the quick job of another study is done",
    )
    assert _job(ledger, "slow").state is JobState.RUNNING


def test_what_gives_way_computes_at_the_lowest_priority_and_talks_to_the_ledger_at_the_usual_one(execute) -> None:
    ledger, _ = execute(slow_roles.tell_priorities, packages=(PACKAGE, "slow"), background_slots=1)
    _wait_for(ledger, JobState.SUCCEEDED, "slow")
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert _job(ledger).key_numbers == (f"{usual} {usual}",)
    assert _job(ledger, "slow").key_numbers == (f"19 {usual}",)


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


def test_a_job_that_takes_the_whole_node_along_is_told_and_holds_no_other_up(tmp_path: Path) -> None:
    configuration = _configuration(tmp_path).model_copy(
        update={"node": NodeSettings(ae_title="NODE", address="127.0.0.1", port=free_port())}
    )
    ledger = open_ledger(configuration.storage.database)
    bind(ledger, InstanceFiles(configuration.storage.directory), now=NOW)
    _receive_cine(ledger, configuration, tmp_path, attempts=1)
    innocent = derive_uid("b", "study")
    _receive_another(ledger, configuration, tmp_path, innocent)
    spawn = multiprocessing.get_context("spawn")

    def started() -> SpawnProcess:
        process = spawn.Process(
            target=slow_roles.serve_in_a_group, args=(configuration, slow_roles.take_the_node_along), daemon=False
        )
        process.start()
        return process

    def job_of(study: str) -> JobOverview:
        return next(one for one in job_overviews(ledger, study_instance_uid=study) if one.package == PACKAGE)

    first = started()
    first.join(240)
    assert first.exitcode == -signal.SIGKILL
    assert job_of(STUDY).state is JobState.RUNNING
    again = started()
    try:
        wait_until(lambda: job_of(STUDY).state is JobState.FAILED, seconds=240, what="the job is given up")
        assert job_of(STUDY).sentences == ("the node was killed, or its machine went down, while this ran",)
        wait_until(lambda: job_of(innocent).state is JobState.SUCCEEDED, seconds=240, what="the other study is done")
        assert again.is_alive()
    finally:
        again.terminate()
        again.join(60)
        ledger.close()


def test_a_route_that_is_gone_is_named(execute) -> None:
    ledger, _ = execute(cheap_analysis, route="removed")
    job = _wait_for(ledger, JobState.FAILED)
    assert job.error is not None
    assert job.error.startswith("routes.removed: the route is no longer configured")


def test_threads_are_shared_among_the_slots() -> None:
    assert threads_per_slot(ExecutionSettings(threads_per_slot=3)) == 3
    assert threads_per_slot(ExecutionSettings(devices=("cpu",) * 64, slots_per_device=16)) == 1


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (("cpu",), {"cpu/0": {"cpu", "gpu"}}),
        (("cuda:0",), {"cuda:0/0": {"cpu", "gpu"}}),
        (("cpu", "cuda:0"), {"cpu/0": {"cpu"}, "cuda:0/0": {"gpu"}}),
        (("cpu", "cpu"), {"cpu.0/0": {"cpu", "gpu"}, "cpu.1/0": {"cpu", "gpu"}}),
    ],
)
def test_every_kind_of_job_is_taken_by_some_worker(devices: tuple[str, ...], expected: dict[str, set[str]]) -> None:
    found = lanes(ExecutionSettings(devices=devices))
    assert {lane.name: set(lane.slots) for lane in found if not lane.background} == expected
    assert {lane.name.replace("background-", ""): set(lane.slots) for lane in found if lane.background} == expected
    alone = lanes(ExecutionSettings(devices=devices, background_slots=0))
    assert [lane.background for lane in alone] == [None] * len(devices)


def test_models_stay_until_memory_is_short_and_are_loaded_again() -> None:
    name = "disease-pattern"
    first = load_model_once(name)
    mind_memory(0)
    assert load_model_once(name) is first
    mind_memory(2**40)
    assert load_model_once.cache_info().currsize == 0
    again = load_model_once(name)
    assert again is not first
    assert again.identity == first.identity


LOADED = """
import sys
from pathlib import Path
from dicom_node.config import Configuration, Route
from dicom_node.execute.lanes import lanes
from dicom_node.execute.worker import open_worker
from pipelines.models.registry import load_model_once
configuration = Configuration(
    routes={"one": Route(analyses=(sys.argv[2],), destinations=())},
    storage={"database": f"sqlite:///{sys.argv[1]}/ledger.sqlite", "directory": sys.argv[1]},
    execution={"threads_per_slot": 1},
)
open_worker("worker 0", configuration, lanes(configuration.execution)[0])
print(load_model_once.cache_info().currsize)
"""


@pytest.mark.parametrize(("analysis", "models"), [("toy", 0), ("motion", 2)])
def test_a_worker_loads_ahead_only_what_the_quick_packages_of_its_routes_need(
    tmp_path: Path, analysis: str, models: int
) -> None:
    toy = Path(__file__).parents[1] / "toy"
    ended = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path), analysis],
        env={**os.environ, "PYTHONPATH": str(toy)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.split()[-1]) == models


def test_free_memory_is_the_least_of_machine_and_cgroup(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000000 kB\nMemAvailable:  2048000 kB\n")
    assert available_mb(meminfo, tmp_path) == 2000
    for name, text in (("max", "1073741824"), ("current", "943718400"), ("stat", "anon 1\ninactive_file 104857600")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert available_mb(meminfo, tmp_path) == 224
    (tmp_path / "memory.max").write_text("max")
    assert available_mb(meminfo, tmp_path) == 2000
    assert available_mb(tmp_path / "none", tmp_path / "none") == float("inf")


@given(st.integers(0, 10_000))
def test_retries_back_off_up_to_a_minute(attempts: int) -> None:
    pause_s = (backing_off(NOW)(attempts) - NOW).total_seconds()
    assert FIRST_S <= pause_s <= 60
    assert pause_s <= (backing_off(NOW)(attempts + 1) - NOW).total_seconds()
