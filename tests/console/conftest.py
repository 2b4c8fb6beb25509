"""A console for the tests of a module, empty for each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from sqlalchemy import delete

from console.running_console import RunningConsole, console_node, console_thread, write_file
from storage.schema import Base, LedgerIdentityRow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningConsole]:
    """One console: starting it costs more than most tests."""
    with console_thread(console_node(tmp_path_factory.mktemp("console"))) as running:
        yield running


@pytest.fixture
def console(served: RunningConsole) -> RunningConsole:
    """A console with an empty ledger, an empty audit trail and an empty log."""
    with served.ledger.transaction() as session:
        for table in reversed(Base.metadata.sorted_tables):
            if table is not LedgerIdentityRow.__table__:
                session.execute(delete(table))
    file = served.configuration.audit.file
    assert file is not None
    file.unlink(missing_ok=True)
    log = served.configuration.log.directory
    assert log is not None
    shutil.rmtree(log, ignore_errors=True)
    write_file(served.file, served.configuration)
    return served
