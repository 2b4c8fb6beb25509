"""Keep large ledgers fast."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

WAITING = sa.text("study_version IS NULL AND removed_at IS NULL")
PRESENT = sa.text("removed_at IS NULL")


def upgrade() -> None:
    # Nobody asks by digest, and digests scatter: each insert wrote a page of the index of its own.
    op.drop_index("ix_instance_digest", "instance")
    op.drop_index("ix_instance_waiting", "instance")
    op.create_index(
        "ix_instance_waiting",
        "instance",
        ["series_id", "received_at"],
        sqlite_where=WAITING,
        postgresql_where=WAITING,
    )
    op.create_index("ix_study_present", "study", ["last_received_at"], sqlite_where=PRESENT, postgresql_where=PRESENT)
    op.create_index(op.f("ix_delivery_state"), "delivery", ["state"])
    op.add_column("study", sa.Column("instances", sa.Integer(), server_default="0", nullable=False))
    op.execute(
        "UPDATE study SET instances = (SELECT count(*) FROM series JOIN instance ON instance.series_id = series.id "
        "WHERE series.study_id = study.id AND instance.study_version IS NOT NULL)"
    )
    # A study that got an image that it had not held before its files were removed stayed marked as removed.
    op.execute(
        "UPDATE study SET removed_at = NULL WHERE removed_at IS NOT NULL AND EXISTS (SELECT 1 FROM series "
        "JOIN instance ON instance.series_id = series.id "
        "WHERE series.study_id = study.id AND instance.removed_at IS NULL)"
    )
    # One an instance, and nothing in it that the instance's row does not tell.
    op.execute("DELETE FROM event WHERE kind = 'instance received'")
