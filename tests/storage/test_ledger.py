"""Opening, migrating, and what every transaction promises."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import multiprocessing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from ledger_rows import NOW, associate
from sqlalchemy import create_engine, inspect, select, text
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError

from storage import ledger as ledger_module
from storage.identifiers import OrderIdentity, PatientIdentifier
from storage.ledger import Ledger, LedgerError, open_ledger
from storage.migrate import MIGRATIONS
from storage.orders import Order, take_orders
from storage.overview import events_of_study, job_overviews, ledger_overview, study_overviews
from storage.schema import Association, Base, EventRow, JobRow, JobState, OrderRow, StudyRow, Verdict


def test_migrations_make_the_schema_of_the_models(ledger: Ledger) -> None:
    with ledger.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert differences == []


def test_revisions_are_numbered_so_that_the_last_is_the_head() -> None:
    configuration = Config()
    configuration.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(configuration)
    revisions = [script.revision for script in scripts.walk_revisions()]
    files = [path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")]
    assert revisions == sorted(files, reverse=True)


def _head() -> str:
    return max(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def test_opening_again_changes_nothing(url: str) -> None:
    first = open_ledger(url)
    association = associate(first)
    first.close()
    second = open_ledger(url)
    with second.reading() as session:
        assert session.get(Association, association) is not None
    second.close()


def _create_as_of(url: str, revision: str) -> None:
    configuration = Config()
    configuration.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(url)
    with engine.begin() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, revision)
    engine.dispose()


def test_orders_kept_before_they_told_whose_they_are_still_hold(url: str) -> None:
    _create_as_of(url, "0014")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO imaging_order "
                "(accession_number, order_number, procedures, reasons, diagnoses, received_at) "
                "VALUES ('A1', '4711', '[]', '[]', '[\"I21\"]', :at)"
            ),
            {"at": NOW.replace(tzinfo=None)},
        )
    engine.dispose()
    ledger = open_ledger(url)
    try:
        whose = OrderIdentity((PatientIdentifier("P1"),))
        changed = Order("A1", "4711", diagnoses=("I50",), filler_number="F8", identity=whose)
        take_orders(
            ledger,
            "a" * 64,
            [changed, Order("A1", "4711", identity=OrderIdentity((PatientIdentifier("P2"),)))],
            now=NOW,
        )
        with ledger.reading() as session:
            rows = session.scalars(select(OrderRow).order_by(OrderRow.id)).all()
            assert [(one.diagnoses, one.filler_number, one.namesake) for one in rows] == [
                (["I50"], "F8", 0),
                ([], "", 1),
            ]
    finally:
        ledger.close()


FIRST_LEDGER = (
    "INSERT INTO association (id, receiver, calling_ae_title, called_ae_title, address, opened_at) "
    "VALUES ('a', 'NODE:104/receiver-0', 'MR1', 'NODE', '10.0.0.9', {at})",
    # One study is closed, one removed, and of one that was removed an image came that it had not held before.
    *(
        "INSERT INTO study (id, study_instance_uid, version, first_received_at, last_received_at, last_association_id, "
        f"removed_at) VALUES ({number}, '1.{number}', 1, {{at}}, {{at}}, 'a', {removed})"
        for number, removed in ((1, "NULL"), (2, "{at}"), (3, "{at}"))
    ),
    *(
        "INSERT INTO series (id, study_id, series_instance_uid, calling_ae_title, modality, series_description, "
        f"study_description, manufacturer, body_part_examined) VALUES ({number}, {number}, '1.{number}.1', 'MR1', "
        "'MR', '', '', '', '')"
        for number in (1, 2, 3)
    ),
    *(
        "INSERT INTO instance (series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, digest, path, size, "
        "association_id, received_at, facts, study_version, removed_at) VALUES "
        f"({series}, '1.{series}.1.{number}', '1.2', '1.2', 'd{number}', 'instances/d{number}', 1, 'a', {{at}}, "
        f"'{{{{}}}}', {version}, {removed})"
        for number, (series, version, removed) in enumerate(
            [
                (1, "1", "NULL"),
                (1, "1", "NULL"),
                (1, "NULL", "NULL"),
                (2, "1", "{at}"),
                (3, "1", "{at}"),
                (3, "NULL", "NULL"),
            ]
        )
    ),
    *(
        f"INSERT INTO event (at, study_id, kind, subject, detail) VALUES ({{at}}, 1, '{kind}', 'x', '{{{{}}}}')"
        for kind in ("instance received", "instance received", "study complete")
    ),
)


def test_a_ledger_of_the_first_version_keeps_all_that_counts(url: str) -> None:
    _create_as_of(url, "0001")
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in FIRST_LEDGER:
            connection.exec_driver_sql(statement.format(at="'2026-03-01 12:00:00.000000'"))
    engine.dispose()
    ledger = open_ledger(url)
    assert ledger_overview(ledger, now=NOW).instances == 6
    assert [event.kind for event in events_of_study(ledger, "1.1")] == ["study complete"]
    studies = {one.study_instance_uid: one for one in study_overviews(ledger)}
    assert {uid: one.removed_at for uid, one in studies.items()} == {"1.1": None, "1.2": NOW, "1.3": None}
    assert {uid: one.instances_waiting for uid, one in studies.items()} == {"1.1": 1, "1.2": 0, "1.3": 1}
    with ledger.reading() as session:
        counted = dict(session.execute(select(StudyRow.study_instance_uid, StudyRow.instances)).all())
    assert counted == {"1.1": 2, "1.2": 1, "1.3": 1}
    ledger.close()


JOBS_OF_ONE_ANALYSIS = tuple(
    "INSERT INTO job (id, study_id, study_version, route, series_instance_uids, input_digest, priority, state, "
    "attempts, maximum_attempts, correlation_id, created_at, due_at, deadline_at, worker, lease_until, ended_at, "
    f"error, summary) VALUES ({number}, {study}, {number}, 'cine', '[]', 'i{number}', 50, '{state}', {attempts}, 3, "
    f"'a', {{at}}, {{at}}, {{at}}, {worker}, {lease}, {{at}}, {error}, {summary})"
    for number, study, state, attempts, worker, lease, error, summary in (
        (1, 1, "succeeded", 1, "NULL", "NULL", "NULL", """'{{"refusals": [], "rejected": []}}'"""),
        (2, 1, "succeeded", 1, "NULL", "NULL", "NULL", """'{{"refusals": ["No heart."], "rejected": []}}'"""),
        (3, 1, "succeeded", 1, "NULL", "NULL", "NULL", """'{{"refusals": [], "rejected": [{{"role": "x"}}]}}'"""),
        (4, 1, "failed", 3, "NULL", "NULL", "'ZeroDivisionError: DOE^JOHN divided by zero'", "NULL"),
        (5, 1, "failed", 1, "NULL", "NULL", "'1.2.3: is not a heart (send a heart)'", "NULL"),
        (6, 1, "running", 2, "'w'", "{at}", "NULL", "NULL"),
        (7, 2, "failed", 3, "NULL", "NULL", "'1.2.3: 3 of 3 input files are gone'", "NULL"),
    )
)
EVENT_OF_A_DEFECT = (
    "INSERT INTO event (at, study_id, kind, subject, detail) VALUES ({at}, 1, 'job failed', 'job 4', "
    """'{{"error": "ZeroDivisionError: DOE^JOHN divided by zero", "attempt": 3}}')"""
)


def test_jobs_of_the_one_analysis_that_there_was_keep_what_they_came_to(url: str) -> None:
    _create_as_of(url, "0004")
    engine = create_engine(url)
    result = (
        "INSERT INTO result (job_id, role, sop_class_uid, sop_instance_uid, series_instance_uid, series_description, "
        "path, digest, size) VALUES (1, 'report', '1.2', '1.3', '1.4', 'x', 'p', 'd', 1)"
    )
    with engine.begin() as connection:
        for statement in (*FIRST_LEDGER, *JOBS_OF_ONE_ANALYSIS, EVENT_OF_A_DEFECT, result):
            connection.exec_driver_sql(statement.format(at="'2026-03-01 12:00:00.000000'"))
    engine.dispose()
    ledger = open_ledger(url)
    jobs = {job.id: job for job in job_overviews(ledger)}
    assert {job.package for job in jobs.values()} == {"ventricular_function"}
    assert {number: (job.state, job.verdict, job.sentences) for number, job in jobs.items()} == {
        1: (JobState.SUCCEEDED, Verdict.DELIVERED, ()),
        2: (JobState.SUCCEEDED, Verdict.DECLINED, ("No heart.",)),
        3: (JobState.SUCCEEDED, Verdict.PARTIAL, ()),
        4: (JobState.FAILED, Verdict.FAILED, ("ZeroDivisionError",)),
        5: (JobState.FAILED, Verdict.FAILED, ("1.2.3: is not a heart (send a heart)",)),
        6: (JobState.QUEUED, None, ()),
        7: (JobState.FAILED, Verdict.FAILED, ("1.2.3: 3 of 3 input files are gone",)),
    }
    assert (jobs[4].error, jobs[6].attempts, jobs[6].worker, jobs[1].results) == ("ZeroDivisionError", 1, None, 1)
    assert not [event for event in events_of_study(ledger, "1.1") if "DOE" in str(event.detail)]
    with ledger.reading() as session:
        rows = {row.id: row for row in session.scalars(select(JobRow))}
    assert {number for number, row in rows.items() if row.inputs_removed_at is not None} == {7}
    assert {row.identity == row.input_digest for row in rows.values()} == {True}
    with pytest.raises(IntegrityError), ledger.transaction() as session:
        session.execute(text("DELETE FROM job WHERE id = 1"))
    ledger.close()


def _open_and_associate(url: str) -> str:
    ledger = open_ledger(url)
    try:
        return associate(ledger)
    finally:
        ledger.close()


def test_processes_that_open_a_new_ledger_at_once_migrate_it_once(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=context) as pool:
        associations = list(pool.map(_open_and_associate, [url] * 3))
    assert len(set(associations)) == 3
    ledger = open_ledger(url)
    with ledger.reading() as session:
        assert set(session.scalars(select(Association.id))) == set(associations)
        assert session.scalars(text("SELECT version_num FROM alembic_version")).all() == [_head()]
    ledger.close()


def test_ledger_of_a_later_version_is_refused(url: str) -> None:
    ledger = open_ledger(url)
    with ledger.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    ledger.close()
    with pytest.raises(LedgerError, match="later version"):
        open_ledger(url)


def test_other_databases_are_refused() -> None:
    with pytest.raises(LedgerError, match="'mysql'"):
        open_ledger("mysql://localhost/ledger")


def test_sqlite_is_durable_and_in_wal_mode(sqlite_url: str) -> None:
    ledger = open_ledger(sqlite_url)
    with ledger.reading() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA synchronous")) == 2
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
    ledger.close()


def test_a_transaction_that_raises_leaves_nothing(ledger: Ledger) -> None:
    def half_done() -> None:
        with ledger.transaction() as session:
            session.add(EventRow(at=NOW, kind="test", subject="x", detail={}))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_done()
    with ledger.reading() as session:
        assert session.scalars(select(EventRow)).all() == []


def test_times_come_back_aware_and_naive_ones_are_refused(ledger: Ledger) -> None:
    eastern = dt.timezone(dt.timedelta(hours=9))
    association = associate(ledger, at=NOW.astimezone(eastern))
    with ledger.reading() as session:
        opened_at = session.get_one(Association, association).opened_at
    assert opened_at == NOW
    assert opened_at.tzinfo is dt.UTC
    with pytest.raises(StatementError, match="aware"):
        associate(ledger, at=NOW.replace(tzinfo=None))


def test_reading_does_not_wait_for_a_writer(sqlite_url: str) -> None:
    ledger = open_ledger(sqlite_url)
    with ledger.transaction() as writing:
        writing.add(EventRow(at=NOW, kind="test", subject="x", detail={}))
        writing.flush()
        with ledger.reading() as session:
            assert session.scalars(select(EventRow)).all() == []
    ledger.close()


def test_sqlite_refuses_writes_in_a_reading_transaction_that_lost_its_snapshot(sqlite_url: str) -> None:
    # The reason why writers begin immediately: a deferred transaction fails in the middle when another has written.
    ledger = open_ledger(sqlite_url)
    with ledger.reading() as session:
        session.scalars(select(EventRow)).all()
        associate(ledger)
        with pytest.raises(OperationalError, match="locked"):
            session.execute(text("DELETE FROM event"))
    ledger.close()


def _open_write_and_close(url: str) -> None:
    ledger = open_ledger(url)
    with ledger.transaction() as session:
        session.add(EventRow(at=NOW, kind="another process", subject="x", detail={}))
    ledger.close()


def test_opening_a_ledger_twice_in_a_process_keeps_the_locks_of_the_first(sqlite_url: str) -> None:
    # POSIX: closing any descriptor of a file takes away the locks that the process holds on it. Another process that
    # closes the ledger would then believe to be the last, and remove the log that this one reads and writes.
    first = open_ledger(sqlite_url)
    associate(first)
    open_ledger(sqlite_url).close()
    log = Path(f"{first.engine.url.database}-wal")
    before = log.stat().st_ino
    for _ in range(2):
        other = multiprocessing.get_context("spawn").Process(target=_open_write_and_close, args=(sqlite_url,))
        other.start()
        other.join()
        assert other.exitcode == 0
        assert log.exists()
        assert log.stat().st_ino == before
    with first.reading() as session:
        assert [one.kind for one in session.scalars(select(EventRow)) if one.subject == "x"] == ["another process"] * 2
    first.close()


def test_every_foreign_key_that_is_searched_has_an_index(ledger: Ledger) -> None:
    inspector = inspect(ledger.engine)
    for table, column in (("instance", "series_id"), ("job", "study_id"), ("result", "job_id"), ("event", "study_id")):
        assert any(index["column_names"][0] == column for index in inspector.get_indexes(table)), (table, column)


def test_a_locked_ledger_raises_what_sqlalchemy_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "BUSY_TIMEOUT_S", 0.05)
    first, second = (open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite") for _ in range(2))
    with first.transaction() as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(OperationalError, match="locked"), second.transaction() as other:
            other.execute(text("SELECT 1"))
    with second.transaction() as other:
        other.execute(text("SELECT 1"))
    first.close()
    second.close()


def test_a_peer_that_vanishes_is_noticed_soon_on_both_sides_of_postgresql(postgresql_url: str) -> None:
    ledger = open_ledger(postgresql_url)
    with ledger.engine.connect() as connection:
        set_here = select(text("name")).select_from(text("pg_settings")).where(text("source = 'session'"))
        assert set(connection.scalars(set_here)) >= {"tcp_keepalives_idle", "tcp_user_timeout"}
        given = connection.connection.dbapi_connection.info.get_parameters()  # type: ignore[union-attr]
    assert (given["keepalives_idle"], given["tcp_user_timeout"]) == ("10", "30000")
    ledger.close()
