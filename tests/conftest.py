"""For tests of every folder: ledgers, and real cardiac MR.

Ledgers are SQLite files and a PostgreSQL server of the session's own; the data is read where it lies beside the
checkout, and never committed.
"""

from __future__ import annotations

import fcntl
import os
import tarfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from absence import absent
from hypothesis import HealthCheck, settings
from postgresql_server import MISSING, is_installed, running_postgresql
from sqlalchemy import create_engine, text

# How fast the machine is at the moment says nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

pytest_plugins = ["interop.fixtures"]

DATA_VARIABLE = "DICOM_NODE_SHARED_DATA"
BESIDE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep tests that share what is set up once for their file in one process: each of several would set it up anew."""
    if not isinstance(item, pytest.Function) or item.get_closest_marker("xdist_group") is not None:
        return
    fixtures = chain.from_iterable(item._fixtureinfo.name2fixturedefs.values())
    if any(fixture.scope in ("class", "module") and fixture.baseid for fixture in fixtures):
        item.add_marker(pytest.mark.xdist_group(item.module.__name__))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first, in its random order: run last, it would keep one process busy and the others idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of a database of a PostgreSQL server that lives as long as the session."""
    if not is_installed():
        absent(MISSING)
    with running_postgresql(fsync=False) as url:
        yield url


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """URL of an empty PostgreSQL database."""
    engine = create_engine(postgresql_server)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return postgresql_server


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.sqlite"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets."""
    folder = Path(os.environ.get(DATA_VARIABLE, BESIDE_CHECKOUT))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent (set {DATA_VARIABLE} to where it lies)")
    return folder


def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack an archive once per test session, whatever the number of workers."""
    base = tmp_path_factory.getbasetemp()
    # An xdist worker's base is a folder of its own inside the session's.
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    target = session / archive.name.removesuffix(".tar.xz")
    complete = target.with_suffix(".complete")
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            with tarfile.open(archive) as tar:
                tar.extractall(session, filter="data")  # into a folder of the archive's name
            complete.touch()
    return target


@pytest.fixture(scope="session")
def sunnybrook_dir(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sunnybrook Cardiac Data, two patients: short-axis cine DICOM and contours."""
    return unpacked(shared_data / "sunnybrook.tar.xz", tmp_path_factory)


@pytest.fixture(scope="session")
def siemens_vida_dir(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One subject of a Siemens Vida: eleven cine series, fitted surfaces and guide points."""
    return unpacked(shared_data / "siemens-vida.tar.xz", tmp_path_factory)


@pytest.fixture(scope="session")
def acdc_dir(shared_data: Path) -> Path:
    """ACDC training set: one folder a patient."""
    return shared_data / "acdc"
