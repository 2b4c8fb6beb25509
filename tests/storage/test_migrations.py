"""Every ledger that a landed revision ever made reaches the present schema, with what it held."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from ledger_rows import NOW
from sqlalchemy import func, select

from storage.accounts import accounts
from storage.holdings import identity_of_study
from storage.hosts import heard_hosts
from storage.identifiers import Issuer, PatientIdentifier, StudyIdentity
from storage.ledger import open_ledger
from storage.migrate import MIGRATIONS
from storage.orders import new_orders, orders_of_study
from storage.overview import ledger_overview, study_overviews
from storage.routes_versions import routes_versions
from storage.schema import Base, EventRow, HostRow, InstanceRow, JobRow, JobState, StudyAttributesRow
from storage.shadow import Segment, kept_comparisons
from storage.trials import last_trials

LANDED = sorted((Path(__file__).parent / "landed").glob("*.sql"))
NEVER_THE_LAST = {"0002", "0005", "0007"}
"""Revisions that landed together with a later one: no version of this software left a ledger at them."""


@pytest.mark.parametrize("landed", LANDED, ids=lambda path: path.stem)
def test_a_ledger_of_every_landed_revision_is_brought_to_the_head(landed: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    database = sqlite3.connect(path)
    database.executescript(landed.read_text(encoding="utf-8"))
    database.close()
    ledger = open_ledger(f"sqlite:///{path}")
    try:
        with ledger.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        (study,) = study_overviews(ledger)
        assert (study.study_instance_uid, study.version, study.instances, study.removed_at) == ("1.2.3", 1, 2, None)
        assert study.jobs == {JobState.SUCCEEDED: 1}
        assert ledger_overview(ledger, now=NOW).instances == 2
        with ledger.reading() as session:
            assert session.scalar(select(func.count()).select_from(EventRow)) == 1
    finally:
        ledger.close()


def test_there_is_a_ledger_for_each_revision() -> None:
    revisions = {path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    assert {path.stem.split("-")[0] for path in LANDED} == revisions - NEVER_THE_LAST


@pytest.mark.parametrize("landed", LANDED, ids=lambda path: path.stem)
def test_a_migration_loses_no_row_of_what_people_and_devices_made(landed: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    kept = (
        *("study", "series", "instance", "job", "result", "delivery", "account", "assessment", "shadow_comparison"),
        *("routes_version", "destination_trial", "host", "study_attributes", "imaging_order", "order_message"),
    )

    def counts() -> dict[str, int]:
        with closing(sqlite3.connect(path)) as database:
            there = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            return {
                name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in kept if name in there
            }

    with closing(sqlite3.connect(path)) as database:
        database.executescript(landed.read_text(encoding="utf-8"))
    before = counts()
    assert before["instance"] == 2
    open_ledger(f"sqlite:///{path}").close()
    assert {name: counts()[name] for name in before} == before


def test_a_comparison_of_predicted_with_acquired_enhancement_is_read_from_a_landed_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((Path(__file__).parent / "landed" / "0008.sql").read_text(encoding="utf-8"))
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        (kept,) = kept_comparisons(ledger)
    assert (kept.version, kept.predicted_percent, kept.acquired_percent) == ("1.0.0", 12.5, 10.0)
    assert kept.segments == {1: Segment(0.9, True), 2: Segment(0.1, False)}


def test_what_routes_were_and_the_last_test_of_a_destination_are_read_from_a_landed_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((Path(__file__).parent / "landed" / "0010.sql").read_text(encoding="utf-8"))
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        (version,) = routes_versions(ledger)
        trial = last_trials(ledger)["pacs"]
    assert (version.text, version.by, version.reason) == ("cine: {analyses: [ventricular_function]}", "ann", "made up")
    assert (trial.findings, trial.reported_at, trial.report) == ({"association": "accepted"}, NOW, "committed")


def test_whom_an_identity_provider_lets_in_is_read_from_a_landed_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((Path(__file__).parent / "landed" / "0011.sql").read_text(encoding="utf-8"))
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        assert {one.name: one.by_provider for one in accounts(ledger)} == {"ann": False, "bob": True}


def test_what_is_not_in_the_bucket_yet_is_read_from_a_landed_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((Path(__file__).parent / "landed" / "0012.sql").read_text(encoding="utf-8"))
    with closing(open_ledger(f"sqlite:///{path}")) as ledger, ledger.reading() as session:
        held = session.execute(select(InstanceRow.sop_instance_uid, InstanceRow.held_by)).all()
        hosts = session.execute(select(HostRow.name, HostRow.beat, HostRow.processes)).all()
    assert dict(held) == {"1.2.3.1.1": None, "1.2.3.1.2": "ward-a"}
    assert hosts == [("ward-a", 7, None)]


def test_how_the_processes_of_a_host_are_and_the_step_of_a_job_are_read_from_a_landed_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((Path(__file__).parent / "landed" / "0013.sql").read_text(encoding="utf-8"))
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        (host,) = heard_hosts(ledger)
        with ledger.reading() as session:
            assert session.scalars(select(JobRow.step)).all() == ["cine_segmentation"]
    assert (host.name, host.free_mb, [one["name"] for one in host.processes]) == ("ward-a", 2048.5, ["receiver-0"])


def test_orders_of_before_they_told_whose_they_are_are_read_from_a_landed_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((Path(__file__).parent / "landed" / "0014.sql").read_text(encoding="utf-8"))
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        orders = orders_of_study(ledger, "1.2.3")
        assert [one.id for one in new_orders(ledger)] == [1]
        with ledger.reading() as session:
            (study,) = session.scalars(select(StudyAttributesRow))
            assert identity_of_study(study) == StudyIdentity((PatientIdentifier("MADE-UP-1"),))
    assert orders.unused == ()
    assert [(one.order_number, one.diagnoses, one.filler_number) for one in orders.own] == [
        ("P1", ("I21.0", "made up"), ""),
        ("P2", (), ""),
    ]


def test_whose_orders_and_a_study_are_is_read_from_a_landed_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((Path(__file__).parent / "landed" / "0015.sql").read_text(encoding="utf-8"))
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        orders = orders_of_study(ledger, "1.2.3")
        with ledger.reading() as session:
            (study,) = session.scalars(select(StudyAttributesRow))
            assert identity_of_study(study) == StudyIdentity(
                (PatientIdentifier("MADE-UP-1", Issuer("MADE UP", "1.2.3.4")),), Issuer("RIS")
            )
    assert [(one.order_number, one.filler_number) for one in orders.own] == [("P1", "F1"), ("P2", "")]
    # Of the same numbers, and of another patient.
    assert [one.id for one in orders.unused] == [3]
