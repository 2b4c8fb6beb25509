"""Keep what orders say of examinations, and which messages told it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "imaging_order",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("accession_number", sa.String(length=64), nullable=False),
        sa.Column("order_number", sa.String(length=200), nullable=False),
        sa.Column("procedures", sa.JSON(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("diagnoses", sa.JSON(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("considered_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imaging_order")),
        sa.UniqueConstraint(
            "accession_number", "order_number", name=op.f("uq_imaging_order_accession_number_order_number")
        ),
    )
    op.create_index(op.f("ix_imaging_order_order_number"), "imaging_order", ["order_number"], unique=False)
    op.create_index(op.f("ix_imaging_order_received_at"), "imaging_order", ["received_at"], unique=False)
    op.create_index(
        "ix_imaging_order_new",
        "imaging_order",
        ["id"],
        unique=False,
        sqlite_where=sa.text("considered_at IS NULL"),
        postgresql_where=sa.text("considered_at IS NULL"),
    )
    op.create_table(
        "order_message",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_order_message")),
    )
    op.create_index(op.f("ix_order_message_received_at"), "order_message", ["received_at"], unique=False)
