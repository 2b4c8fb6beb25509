"""Backups: what they hold of either database, and what is not put back."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ledger_rows import DELIVERED, NOW, a_result, associate, claim, route
from sqlalchemy import create_engine, func, select, text

from dicom_node.network.file_meta import digest_of_file, encode_file_meta
from storage.backup import BackupError, BackupRecord, Restored, back_up, read_backup, restore
from storage.files import RESULTS, InstanceFiles, StoredFile
from storage.identity import bind, is_bound
from storage.instances import ReceivedInstance, close_association, record_instances
from storage.jobs import complete_job, create_jobs, study_contents
from storage.leases import leases_of
from storage.ledger import Ledger, open_ledger
from storage.overview import job_overviews
from storage.retention import Swept, sweep_files
from storage.schema import Base, EventRow, JobRow, JobState, ReleasedFileRow

MR = "1.2.840.10008.5.1.4.1.1.4"
SYNTAX = "1.2.840.10008.1.2.1"


def store(files: InstanceFiles, number: int, folder: str = "instances") -> StoredFile:
    meta = encode_file_meta(MR, f"1.2.3.1.{number}", SYNTAX)
    return files.store(f"image {number}".encode(), file_meta=meta, transfer_syntax_uid=SYNTAX, folder=folder)


def receive(ledger: Ledger, files: InstanceFiles, numbers: range) -> list[StoredFile]:
    association = associate(ledger)
    stored = [store(files, number) for number in numbers]
    record_instances(
        ledger,
        [
            ReceivedInstance(
                sop_class_uid=MR,
                sop_instance_uid=f"1.2.3.1.{number}",
                series_instance_uid="1.2.3.1",
                study_instance_uid="1.2.3",
                transfer_syntax_uid=SYNTAX,
                digest=one.digest,
                path=one.path,
                size=one.size,
                association_id=association,
                calling_ae_title="MR1",
                modality="MR",
                series_description="cine",
                study_description="",
                manufacturer="",
                body_part_examined="",
                facts={"planes": [1.5]},
            )
            for number, one in zip(numbers, stored, strict=True)
        ],
        at=NOW,
    )
    close_association(ledger, association, outcome="released", at=NOW)
    return stored


@pytest.fixture
def filled(ledger: Ledger, files: InstanceFiles) -> list[StoredFile]:
    """A ledger that belongs to a directory: five images, a job, and a result on its way."""
    bind(ledger, files, now=NOW)
    stored = receive(ledger, files, range(5))
    assert create_jobs(ledger, study_contents(ledger, "1.2.3"), [route()], reason="test", now=NOW)
    made = store(files, 100, RESULTS)
    result = replace(a_result(1), path=made.path, digest=made.digest, size=made.size)
    assert complete_job(ledger, claim(ledger), [result], DELIVERED, now=NOW)
    return [*stored, made]


def rows(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    with ledger.reading() as session:
        return {
            table.name: sorted((tuple(row) for row in session.execute(select(table))), key=repr)
            for table in Base.metadata.sorted_tables
            if table.name != EventRow.__tablename__
        }


def events(ledger: Ledger, kind: str) -> list[EventRow]:
    with ledger.reading() as session:
        return list(session.scalars(select(EventRow).where(EventRow.kind == kind)))


def jobs_without_summary(ledger: Ledger) -> int:
    """In how many jobs the summary is absent; one that holds the null of JSON reads the same and is not counted."""
    with ledger.reading() as session:
        return session.scalar(select(func.count()).where(JobRow.summary.is_(None))) or 0


def taken(ledger: Ledger, files: InstanceFiles, folder: Path, *, link: bool = True) -> BackupRecord:
    return back_up(ledger, files, folder, digest_of=digest_of_file, software="0", clock=lambda: NOW, link=link)


def put_back(folder: Path, database: str, files: InstanceFiles) -> Restored:
    return restore(folder, database, files, digest_of=digest_of_file, clock=lambda: NOW)


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("into", ["sqlite", "postgresql"])
def test_a_backup_of_either_database_goes_into_either(
    ledger: Ledger,
    files: InstanceFiles,
    filled: list[StoredFile],
    tmp_path: Path,
    into: str,
    link: bool,
    request: pytest.FixtureRequest,
) -> None:
    before = rows(ledger)
    without_summary = jobs_without_summary(ledger)
    assert without_summary > 0
    record = taken(ledger, files, tmp_path / "backup", link=link)
    assert (record.files, record.missing, record.damaged) == (len(filled), (), ())
    assert record.linked == (len(filled) if link else 0)
    assert [one.detail["files"] for one in events(ledger, "backup made")] == [len(filled)]
    if into == "postgresql":
        # The one database of the server: emptied, whatever held the rows until now.
        ledger.close()
        database = str(request.getfixturevalue("postgresql_server"))
        emptied(database)
    else:
        database = f"sqlite:///{tmp_path}/restored.sqlite"
    back = InstanceFiles(tmp_path / "restored")
    restored = put_back(tmp_path / "backup", database, back)
    assert (restored.files, restored.missing, restored.damaged) == (len(filled), (), ())
    again = open_ledger(database)
    try:
        assert rows(again) == before
        assert jobs_without_summary(again) == without_summary
        assert is_bound(again, back)
        bind(again, back, now=NOW)
        assert len(events(again, "restored from backup")) == 1
        for one in filled:
            assert back.absolute(one.path).read_bytes() == files.absolute(one.path).read_bytes()
        # The numbers of new rows go on after those of the old ones.
        receive(again, back, range(5, 8))
        assert len(rows(again)["instance"]) == 8
    finally:
        again.close()


def emptied(database: str) -> None:
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Ledger]:
    opened = open_ledger(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def kept(sqlite: Ledger, files: InstanceFiles) -> list[StoredFile]:
    bind(sqlite, files, now=NOW)
    return receive(sqlite, files, range(5))


def test_what_is_missing_or_damaged_is_named_and_all_else_is_kept(
    sqlite: Ledger, files: InstanceFiles, kept: list[StoredFile], tmp_path: Path
) -> None:
    files.absolute(kept[0].path).unlink()
    with files.absolute(kept[1].path).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"X")
    record = taken(sqlite, files, tmp_path / "backup")
    assert (record.missing, record.damaged, record.files) == ((kept[0].path,), (kept[1].path,), 3)
    # What is damaged is not taken for a copy, and the node's own file stays where it is.
    assert not (tmp_path / "backup" / "files" / kept[1].path).exists()
    assert files.absolute(kept[1].path).exists()


def test_a_file_of_the_backup_that_decayed_is_not_put_back(
    sqlite: Ledger, files: InstanceFiles, kept: list[StoredFile], tmp_path: Path
) -> None:
    taken(sqlite, files, tmp_path / "backup", link=False)
    (tmp_path / "backup" / "files" / kept[2].path).write_bytes(b"")
    back = InstanceFiles(tmp_path / "restored")
    restored = put_back(tmp_path / "backup", f"sqlite:///{tmp_path}/restored.sqlite", back)
    assert (restored.damaged, restored.files) == ((kept[2].path,), 4)
    assert not back.absolute(kept[2].path).exists()


def test_nothing_is_swept_while_a_backup_runs(
    sqlite: Ledger, files: InstanceFiles, kept: list[StoredFile], tmp_path: Path
) -> None:
    released = store(files, 50)
    with sqlite.transaction() as session:
        session.add(ReleasedFileRow(path=released.path, at=NOW))
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    with files.unswept():
        assert sweep_files(sqlite, files, grace=dt.timedelta(0), now=later) == Swept(0, 0)
    assert files.absolute(released.path).exists()
    assert sweep_files(sqlite, files, grace=dt.timedelta(0), now=later) == Swept(1, 0)
    with files.sweeping() as alone, files.sweeping() as another:
        assert (alone, another) == (True, False)


def test_a_folder_or_a_place_that_is_not_empty_is_refused(
    sqlite: Ledger, files: InstanceFiles, kept: list[StoredFile], tmp_path: Path, sqlite_url: str
) -> None:
    backup = tmp_path / "backup"
    taken(sqlite, files, backup)
    with pytest.raises(BackupError, match="not empty"):
        taken(sqlite, files, backup)
    with pytest.raises(BackupError, match="not empty"):
        put_back(backup, f"sqlite:///{tmp_path}/new.sqlite", files)
    before = rows(sqlite)
    empty = InstanceFiles(tmp_path / "empty")
    with pytest.raises(BackupError, match="rows in"):
        put_back(backup, sqlite_url, empty)
    assert rows(sqlite) == before
    assert not any(empty.stored_paths())


@pytest.mark.parametrize("what", ["record", "ledger", "identity", "format"])
def test_a_backup_that_is_not_whole_or_not_what_it_says_is_refused(
    sqlite: Ledger, files: InstanceFiles, kept: list[StoredFile], tmp_path: Path, what: str
) -> None:
    backup = tmp_path / "backup"
    record = taken(sqlite, files, backup)
    assert read_backup(backup) == record
    values = json.loads((backup / "backup.json").read_text())
    if what == "record":
        (backup / "backup.json").unlink()
    elif what == "ledger":
        with (backup / "ledger.sqlite").open("ab") as file:
            file.write(b"\0")
    else:
        (backup / "backup.json").write_text(json.dumps({**values, what: "another"}))
    empty = InstanceFiles(tmp_path / "empty")
    with pytest.raises(BackupError):
        put_back(backup, f"sqlite:///{tmp_path}/new.sqlite", empty)
    assert not any(empty.stored_paths())
    assert empty.identity() is None


def test_a_job_that_ran_during_the_backup_has_lost_no_attempt(
    sqlite: Ledger, files: InstanceFiles, kept: list[StoredFile], tmp_path: Path
) -> None:
    assert create_jobs(sqlite, study_contents(sqlite, "1.2.3"), [route(attempts=1)], reason="test", now=NOW)
    claim(sqlite)
    taken(sqlite, files, tmp_path / "backup")
    database = f"sqlite:///{tmp_path}/restored.sqlite"
    put_back(tmp_path / "backup", database, InstanceFiles(tmp_path / "restored"))
    with closing(open_ledger(database)) as again:
        (job,) = job_overviews(again)
        assert (job.state, job.attempts, leases_of(again)) == (JobState.QUEUED, 0, ())
        assert claim(again).attempt == 1


def test_a_restoration_that_is_cut_off_leaves_nothing_that_a_node_serves(
    sqlite: Ledger, files: InstanceFiles, kept: list[StoredFile], tmp_path: Path
) -> None:
    taken(sqlite, files, tmp_path / "backup")
    back, database = InstanceFiles(tmp_path / "restored"), f"sqlite:///{tmp_path}/restored.sqlite"

    def power_cut() -> dt.datetime:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        restore(tmp_path / "backup", database, back, digest_of=digest_of_file, clock=power_cut)
    assert back.identity() is None
    with pytest.raises(BackupError, match="not empty"):
        put_back(tmp_path / "backup", database, back)


def test_a_ledger_and_a_directory_that_never_met_are_not_backed_up(
    sqlite: Ledger, files: InstanceFiles, tmp_path: Path
) -> None:
    with pytest.raises(BackupError, match="do not belong together"):
        taken(sqlite, files, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
