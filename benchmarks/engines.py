"""Studies an hour of two workers against one, of the local engine and of Ray, each worker held to a core of its own.

    python benchmarks/engines.py STUDY [--copies N] [--rounds N] [--engine ray|local] [--workers N] [--json]

STUDY is a folder that holds the DICOM files of one study; its copies differ in their UIDs. For each number of workers
in turn, round after round, an executor is started on a ledger (SQLite) of its own. When all workers have loaded their
models, ventricular function of all copies is queued; the time goes from the first start of a job to the end of the last
one, front pages included. Wall-clock on this machine: nothing else may run if it is to mean anything.
``--compare`` compares the results of both engines on the same ledger byte for byte instead.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import statistics
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import psutil
import typer
from pydicom import dcmread

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from interop.ports import wait_until
from queued_studies import queue_study

from dicom_node import node
from dicom_node.commands.terminal import console, print_json, table
from dicom_node.config import (
    Configuration,
    DestinationProfile,
    ExecutionSettings,
    NodeSettings,
    Peer,
    RaySettings,
    ResultSettings,
    Route,
    StorageSettings,
)
from dicom_node.process_states import read_states
from dicom_node.results.uids import derive_uid
from dicom_node.roles import Role, RoleKeeper
from storage.files import InstanceFiles
from storage.ledger import open_ledger
from storage.overview import job_overviews
from storage.schema import JobState, ResultRow

FUNCTION = "ventricular_function"
WAIT_S = 3600.0
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


class Engine(StrEnum):
    """What runs jobs."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class Run:
    """All copies of the study through one executor."""

    engine: Engine
    workers: int
    studies: int
    seconds: float
    processor_s: float
    """Of the workers, their start-up included."""

    @property
    def studies_an_hour(self) -> float:
        return 3600 * self.studies / self.seconds


def main(
    study: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of one study.")],
    copies: Annotated[int, typer.Option(min=2, help="How many studies wait.")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="Of each number of workers, in turn.")] = 3,
    engine: Annotated[Engine, typer.Option(help="What runs the jobs.")] = Engine.RAY,
    workers: Annotated[int, typer.Option(min=1, help="Compared with one.")] = 2,
    compare: Annotated[bool, typer.Option(help="Compare the results of both engines instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """Measure executors."""
    warnings.filterwarnings("ignore", "Invalid value for VR")
    with tempfile.TemporaryDirectory(prefix="engines-") as name:
        folder = Path(name)
        waiting = [_copied(study, folder / f"study-{number}", number) for number in range(copies)]
        if compare:
            _compare(folder, waiting)
            return
        runs = []
        order = [1, workers]
        for number in range(rounds):
            random.Random(number).shuffle(order)
            for count in order:
                configuration = _configuration(folder / f"{number}-{count}", engine, count)
                runs.append(_run(configuration, engine, count, waiting))
                shutil.rmtree(folder / f"{number}-{count}")
    by_workers = {
        count: statistics.median(one.studies_an_hour for one in runs if one.workers == count) for count in (1, workers)
    }
    if as_json:
        print_json({"runs": runs, "studies_an_hour": by_workers, "ratio": by_workers[workers] / by_workers[1]})
        return
    table(
        f"{engine}: {copies} studies",
        ["workers", "seconds", "studies an hour", "processor s"],
        (
            (one.workers, f"{one.seconds:.1f}", f"{one.studies_an_hour:.0f}", f"{one.processor_s:.1f}")
            for one in sorted(runs, key=lambda one: one.workers)
        ),
    )
    console.print(
        f"medians: {by_workers[1]:.0f} studies an hour with one worker, {by_workers[workers]:.0f} with {workers}: "
        f"ratio {by_workers[workers] / by_workers[1]:.2f}"
    )


def _copied(study: Path, target: Path, number: int) -> list[Path]:
    target.mkdir()
    for index, path in enumerate(sorted(one for one in study.rglob("*") if one.is_file())):
        dataset = dcmread(path)
        for keyword in _UIDS:
            if keyword in dataset:
                setattr(dataset, keyword, derive_uid(str(dataset[keyword].value), f"copy {number}"))
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(target / f"{index:05}.dcm", enforce_file_format=True)
    return sorted(target.iterdir())


def _configuration(folder: Path, engine: Engine, workers: int) -> Configuration:
    return Configuration(
        node=NodeSettings(ae_title="NODE"),
        peers={"pacs": Peer(ae_title="PACS", host="localhost", port=104, may=frozenset({"receive"}))},
        routes={"cine": Route(analyses=(FUNCTION,), destinations=("pacs",))},
        storage=StorageSettings(database=f"sqlite:///{folder}/ledger.sqlite", directory=folder / "instances"),
        execution=_execution(engine, workers),
        results=ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs")}),
    )


def _execution(engine: Engine, workers: int) -> ExecutionSettings:
    if engine is Engine.RAY:
        return ExecutionSettings(engine="ray", ray=RaySettings(actors=workers, background_actors=0))
    return ExecutionSettings(slots_per_device=workers, background_slots=0, threads_per_slot=1)


@contextlib.contextmanager
def _executing(configuration: Configuration) -> Iterator[RoleKeeper]:
    keeper = RoleKeeper([Role("executor", node._execute, (configuration, None))])
    try:
        yield keeper
    finally:
        keeper.stop(60)


def _run(
    configuration: Configuration, engine: Engine, workers: int, waiting: Sequence[Sequence[Path]], studies: int = 0
) -> Run:
    """Queue what waits when all workers are ready, and wait for the end of that and of what was queued before."""
    InstanceFiles(configuration.storage.directory)
    cores = sorted(os.sched_getaffinity(0))
    held: dict[int, int] = {}
    spent: dict[int, float] = {}

    def tend() -> None:
        keeper.tend()
        for one in read_states(configuration.storage.directory):
            if one.ready and one.pid is not None:
                held.setdefault(one.pid, cores[len(held) % len(cores)])
        for pid, core in held.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                for thread in process.threads():
                    # A thread may have ended since it was listed.
                    with contextlib.suppress(ProcessLookupError):
                        os.sched_setaffinity(thread.id, {core})
                times = process.cpu_times()
                spent[pid] = times.user + times.system

    with (
        _executing(configuration) as keeper,
        contextlib.closing(open_ledger(configuration.storage.database)) as ledger,
    ):

        def ready() -> bool:
            tend()
            return len(held) == workers

        def ended() -> bool:
            tend()
            states = [one.state for one in job_overviews(ledger, limit=10_000)]
            return len(states) == 2 * studies and not {JobState.QUEUED, JobState.RUNNING} & set(states)

        wait_until(ready, seconds=WAIT_S, what=f"{workers} workers are ready")
        for paths in waiting:
            queue_study(configuration, paths)
        studies += len(waiting)
        wait_until(ended, seconds=WAIT_S, what="all jobs have ended", every=0.2)
        jobs = job_overviews(ledger, limit=10_000)
    if len(held) != workers:
        raise RuntimeError(f"{len(held) - workers} workers died")
    if {one.state for one in jobs} != {JobState.SUCCEEDED}:
        raise RuntimeError("a job failed")
    began = min(one.started_at for one in jobs if one.started_at is not None)
    until = max(one.ended_at for one in jobs if one.ended_at is not None)
    return Run(engine, workers, studies, (until - began).total_seconds(), sum(spent.values()))


def _compare(folder: Path, waiting: Sequence[Sequence[Path]]) -> None:
    queued = _configuration(folder / Engine.LOCAL.value, Engine.LOCAL, 1)
    for paths in waiting:
        queue_study(queued, paths)
    shutil.copytree(folder / Engine.LOCAL.value, folder / Engine.RAY.value)
    made = {}
    for engine in Engine:
        configuration = _configuration(folder / engine.value, engine, 1)
        _run(configuration, engine, 1, (), len(waiting))
        with contextlib.closing(open_ledger(configuration.storage.database)) as ledger, ledger.reading() as session:
            # A front page tells when the last job of its study ended.
            rows = [row for row in session.query(ResultRow) if row.job.package == FUNCTION]
            made[engine] = {
                row.sop_instance_uid: (configuration.storage.directory / row.path).read_bytes() for row in rows
            }
    same = sum(made[Engine.LOCAL].get(uid) == content for uid, content in made[Engine.RAY].items())
    console.print(f"{same} of {len(made[Engine.LOCAL])} results of {len(waiting)} studies are the same bytes")
    if made[Engine.LOCAL] != made[Engine.RAY]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
