"""``dicom-node upgrade``: tried on a copy first, done when asked for."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from commands.test_backup import CONFIGURATION, Run, run
from dicom_node.commands.terminal import ExitCode
from storage.migrate import MIGRATIONS, MigrationError, migrate_to_head
from storage.rehearsal import rehearse

__all__ = ["run"]

LANDED = Path(__file__).parents[1] / "storage" / "landed"
HEAD = max(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A node whose ledger is of the first version."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIGURATION.format(port=11112), encoding="utf-8")
    (tmp_path / "var").mkdir()
    ledger = tmp_path / "var" / "ledger.sqlite"
    with closing(sqlite3.connect(ledger)) as database:
        database.executescript((LANDED / "0001.sql").read_text(encoding="utf-8"))
    return config


def revision(config: Path) -> str:
    with closing(sqlite3.connect(config.parent / "var" / "ledger.sqlite")) as database:
        (found,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(found)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(config: Path, run: Run) -> None:
    before = (config.parent / "var" / "ledger.sqlite").read_bytes()
    code, said = run("upgrade", "--dry-run", "--config", config)
    assert (code, "would get revisions 0002, 0003" in said, HEAD in said) == (ExitCode.OK, True, True), said
    assert "lost none" in " ".join(said.split())
    assert "Nothing was changed." in said
    assert (config.parent / "var" / "ledger.sqlite").read_bytes() == before
    assert [path.name for path in (config.parent / "var").iterdir() if "rehearsal" in path.name] == []


def test_an_upgrade_migrates_the_ledger_once(config: Path, run: Run) -> None:
    code, said = run("upgrade", "--config", config)
    assert (code, revision(config)) == (ExitCode.OK, HEAD), said
    assert "got revisions 0002" in said
    assert "needs no migration" in run("upgrade", "--config", config)[1]


def test_a_ledger_of_a_later_version_and_a_bad_configuration_are_refused(config: Path, run: Run) -> None:
    with closing(sqlite3.connect(config.parent / "var" / "ledger.sqlite")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    code, said = run("upgrade", "--dry-run", "--config", config)
    assert code == ExitCode.FAILED
    assert "written by a later version" in said
    assert "nothing was changed" in said
    config.write_text(config.read_text(encoding="utf-8") + "unheard_of: 1\n", encoding="utf-8")
    code, said = run("upgrade", "--dry-run", "--config", config)
    assert (code, "there is no such key here" in said) == (ExitCode.USAGE, True)


def test_a_migration_that_loses_rows_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(engine: object) -> None:
        migrate_to_head(engine)  # type: ignore[arg-type]
        with engine.begin() as connection:  # type: ignore[attr-defined]
            connection.execute(text("PRAGMA foreign_keys=OFF"))
            connection.execute(text("DELETE FROM instance"))

    monkeypatch.setattr("storage.rehearsal.migrate_to_head", lossy)
    with pytest.raises(MigrationError, match="rows of instance would be lost"):
        rehearse(f"sqlite:///{config.parent / 'var' / 'ledger.sqlite'}")
    assert revision(config) == "0001"
