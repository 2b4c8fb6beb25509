"""The Ray engine on real Ray clusters of this machine: the same results, and what becomes of jobs of lost actors."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray_roles
from cluster_parts import long_mode
from interop.ports import wait_until
from own_packages import crash_packages, on_pythonpath
from queued_studies import queue_study
from results.synthetic import STUDY_UID, write_cine
from s3_server import ACCESS_KEY, SECRET_KEY, running_s3
from sqlalchemy import select

from dicom_node import node
from dicom_node.config import (
    BucketSettings,
    Configuration,
    DestinationProfile,
    ExecutionSettings,
    NodeSettings,
    Peer,
    RaySettings,
    ResultSettings,
    Route,
    Secret,
    StorageSettings,
)
from dicom_node.execute.lanes import ray_lanes
from dicom_node.instance_files import instance_files
from dicom_node.process_states import read_states
from dicom_node.roles import Role, RoleKeeper
from dicom_node.uploader import Uploader
from storage.bucket_files import CACHE, BucketFiles
from storage.closing import FRONT_PAGE
from storage.files import INSTANCES, RESULTS
from storage.identity import bind
from storage.jobs import requeue_job
from storage.ledger import Ledger, open_ledger, utc_now
from storage.overview import events_of_study, job_overviews
from storage.schema import DeliveryRow, InstanceRow, JobSlot, JobState, ResultRow

pytest.importorskip("ray")

TESTS = Path(__file__).parents[1]
TOY = TESTS / "toy"
WAIT_S = 600.0


def _configuration(folder: Path, analyses: tuple[str, ...], **execution: object) -> Configuration:
    return Configuration(
        node=NodeSettings(ae_title="NODE"),
        peers={"pacs": Peer(ae_title="PACS", host="localhost", port=104, may=frozenset({"receive"}))},
        routes={"cine": Route(analyses=analyses, destinations=("pacs",))},
        storage=StorageSettings(database=f"sqlite:///{folder}/ledger.sqlite", directory=folder / "instances"),
        execution=ExecutionSettings(threads_per_slot=1, background_slots=0, **execution),
        results=ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs")}),
    )


def _cine(folder: Path) -> list[Path]:
    write_cine(folder, phases=12, slices=4, size=64)
    return sorted(folder.rglob("*.dcm"))


@contextlib.contextmanager
def _executing(configuration: Configuration, process: object = None) -> Iterator[RoleKeeper]:
    """The executor role of a node in a process of its own, as its supervisor runs it."""
    keeper = RoleKeeper([Role("executor", node._execute, (configuration, process))])
    try:
        yield keeper
    finally:
        keeper.stop(60)


def _wait_for_jobs(keeper: RoleKeeper, ledger: Ledger, jobs: int) -> None:
    def ended() -> bool:
        keeper.tend()
        states = [one.state for one in job_overviews(ledger)]
        return len(states) == jobs and not {JobState.QUEUED, JobState.RUNNING} & set(states)

    wait_until(ended, seconds=WAIT_S, what="the jobs have ended", every=0.2)


def _results(configuration: Configuration) -> dict[str, bytes]:
    """Path of each result of the package and of the first front page, to the bytes of the file."""
    directory = configuration.storage.directory
    with contextlib.closing(open_ledger(configuration.storage.database)) as ledger, ledger.reading() as session:
        return {row.path: (directory / row.path).read_bytes() for row in session.query(ResultRow) if row.job_id <= 2}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_results_are_those_of_the_local_engine_byte_for_byte(tmp_path: Path) -> None:
    with on_pythonpath(TOY):
        local = _configuration(tmp_path / "local", ("toy",))
        queue_study(local, _cine(tmp_path / "images"))
        with _executing(local) as keeper, contextlib.closing(open_ledger(local.storage.database)) as ledger:
            _wait_for_jobs(keeper, ledger, 2)
            assert {one.state for one in job_overviews(ledger)} == {JobState.SUCCEEDED}
        made = _results(local)
        # The same jobs on the same ledger and images, as if nothing had been recorded of them. Front page first: the
        # package gets another one when it runs again.
        shutil.copytree(tmp_path / "local", tmp_path / "ray")
        on_ray = _configuration(tmp_path / "ray", ("toy",), engine="ray", ray=RaySettings(background_actors=0))
        shutil.rmtree(on_ray.storage.directory / RESULTS)
        with _executing(on_ray) as keeper, contextlib.closing(open_ledger(on_ray.storage.database)) as ledger:
            packages = {one.package: one.id for one in job_overviews(ledger)}
            for package, jobs in ((FRONT_PAGE, 2), ("toy", 3)):
                with ledger.transaction() as session:
                    for row in session.query(ResultRow).filter(ResultRow.job_id == packages[package]):
                        session.query(DeliveryRow).filter(DeliveryRow.result_id == row.id).delete()
                        session.delete(row)
                requeue_job(ledger, packages[package], now=utc_now())
                _wait_for_jobs(keeper, ledger, jobs)
            assert {one.state for one in job_overviews(ledger)} == {JobState.SUCCEEDED}
    assert len(made) >= 11
    assert _results(on_ray) == made


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_an_actor_on_another_host_has_its_images_from_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_ACCESS_KEY", ACCESS_KEY)
    (tmp_path / "secret").write_text(f"{SECRET_KEY}\n", encoding="utf-8")
    with on_pythonpath(TOY), running_s3() as server:
        server.bucket("images")
        bucket = BucketSettings(
            url="s3://images/node",
            endpoint=server.endpoint,
            region="us-east-1",
            access_key=Secret(environment="S3_ACCESS_KEY"),
            secret_key=Secret(file=tmp_path / "secret"),
        )
        configuration = _configuration(tmp_path, ("toy",), engine="ray", ray=RaySettings(background_actors=0))
        front, back = (
            configuration.model_copy(
                update={
                    "storage": configuration.storage.model_copy(update={"directory": tmp_path / name, "bucket": bucket})
                }
            )
            for name in ("front", "back")
        )
        with contextlib.closing(open_ledger(front.storage.database)) as ledger:
            received = instance_files(front)
            bind(ledger, received, now=utc_now())
            queue_study(front, _cine(tmp_path / "images"))
            assert isinstance(received, BucketFiles)
            with contextlib.closing(Uploader(ledger, received)) as uploader:
                uploader.upload()
            # The host that took them in, and its disk, are gone.
            shutil.rmtree(front.storage.directory)
            bind(ledger, instance_files(back), now=utc_now())
            with _executing(back) as keeper:
                _wait_for_jobs(keeper, ledger, 2)
            assert {one.state for one in job_overviews(ledger)} == {JobState.SUCCEEDED}
            with ledger.reading() as session:
                images = set(session.scalars(select(InstanceRow.path)))
                results = set(session.scalars(select(ResultRow.path)))
        read = {
            str(path.relative_to(back.storage.directory / CACHE)) for path in _files(back.storage.directory / CACHE)
        }
        assert len(images) == 48
        assert images <= read
        assert {f"node/{path}" for path in images | results} <= server.contents("images").keys()
        assert len(results) >= 11
        assert not _files(back.storage.directory / INSTANCES)
        assert not _files(back.storage.directory / RESULTS)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.dcm"))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Two machines that compute, and a head that does not."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv(ray_roles.JOURNAL, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS / "execute")]))
    from ray.cluster_utils import Cluster

    settings = {"object_store_memory": 100 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **settings})
    try:
        made.add_node(num_cpus=1, object_store_memory=100 << 20)
        made.add_node(num_cpus=1, object_store_memory=100 << 20)
        yield made
    finally:
        made.shutdown()


@long_mode
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_jobs_of_actors_that_die_hang_or_lose_their_machine_run_again_elsewhere(
    cluster: object, tmp_path: Path
) -> None:
    with crash_packages(tmp_path / "packages") as names:
        _, lost, overlong = names
        settings = RaySettings(address=cluster.address, actors=1, background_actors=0)  # type: ignore[attr-defined]
        configuration = _configuration(tmp_path, names, engine="ray", ray=settings)
        # It hangs at its first attempt until its time is over.
        queue_study(configuration, _cine(tmp_path / "images"), {overlong: 20})
        with (
            _executing(configuration, ray_roles.first_attempts_fail) as keeper,
            contextlib.closing(open_ledger(configuration.storage.database)) as ledger,
        ):

            def tended_until_begun() -> bool:
                keeper.tend()
                return (tmp_path / lost).exists() and bool((tmp_path / lost).read_text())

            wait_until(tended_until_begun, seconds=WAIT_S, what="the job runs whose machine is to go down")
            assert [one.name for one in read_states(configuration.storage.directory) if one.ready]
            raylet = psutil.Process(int((tmp_path / lost).read_text())).parent()
            (machine,) = [
                one
                for one in cluster.worker_nodes  # type: ignore[attr-defined]
                if any(info.process.pid == raylet.pid for info in one.all_processes["raylet"])
            ]
            cluster.remove_node(machine, allow_graceful=False)  # type: ignore[attr-defined]
            _wait_for_jobs(keeper, ledger, len(names) + 1)
            jobs = {one.package: one for one in job_overviews(ledger)}
            assert {one.state for one in jobs.values()} == {JobState.SUCCEEDED}
            assert [jobs[name].attempts for name in names] == [2, 2, 2]
            told = [event.detail.get("error", "") for event in events_of_study(ledger, STUDY_UID)]
            assert sum("the worker process died" in one for one in told) == 2
            assert sum("ran longer than 20 s" in one for one in told) == 1


def test_actors_share_gpus_and_take_every_kind_of_job() -> None:
    quick, slow = ray_lanes(RaySettings(gpus_per_actor=0.5, cpus_per_actor=3))
    assert (quick.device, quick.threads, quick.slots, quick.background) == ("cuda:0", 3, frozenset(JobSlot), False)
    assert slow.background is True
    (alone,) = ray_lanes(RaySettings(background_actors=0))
    assert (alone.device, alone.background) == ("cpu", None)
