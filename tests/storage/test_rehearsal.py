"""A migration of PostgreSQL is tried in a transaction that is taken back."""

from __future__ import annotations

from sqlalchemy import create_engine

from storage.migrate import migrate_to_head, revisions_to_come
from storage.rehearsal import rehearse


def test_a_migration_of_postgresql_is_tried_and_taken_back(postgresql_url: str) -> None:
    tried = rehearse(postgresql_url)
    assert tried.revisions[0] == "0001"
    engine = create_engine(postgresql_url)
    try:
        with engine.connect() as connection:
            assert revisions_to_come(connection) == tried.revisions
        migrate_to_head(engine)
        assert rehearse(postgresql_url).revisions == ()
    finally:
        engine.dispose()
