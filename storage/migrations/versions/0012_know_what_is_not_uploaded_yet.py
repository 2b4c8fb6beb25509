"""Know which instances are not in the bucket yet, and which hosts serve that have no directory in common."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # As it is: a batch would copy every instance of a large ledger.
    op.add_column("instance", sa.Column("held_by", sa.String(length=40), nullable=True))
    op.create_index(
        "ix_instance_held",
        "instance",
        ["held_by"],
        sqlite_where=sa.text("held_by IS NOT NULL"),
        postgresql_where=sa.text("held_by IS NOT NULL"),
    )
    op.create_table(
        "host",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_host")),
    )
