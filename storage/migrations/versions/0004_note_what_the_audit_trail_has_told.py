"""Note what the audit trail has told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("association", sa.Column("audited_at", sa.DateTime(), nullable=True))
    # What ended before there was an audit trail is not told after the fact.
    op.execute("UPDATE association SET audited_at = closed_at WHERE closed_at IS NOT NULL")
    op.create_index(
        "ix_association_untold",
        "association",
        ["closed_at"],
        unique=False,
        sqlite_where=sa.text("audited_at IS NULL AND closed_at IS NOT NULL"),
        postgresql_where=sa.text("audited_at IS NULL AND closed_at IS NOT NULL"),
    )
