"""Keep what was predicted from cine beside what acquired late enhancement of the same study shows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shadow_comparison",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=True),
        sa.Column("route", sa.String(length=41), nullable=False),
        sa.Column("version", sa.String(length=24), nullable=False),
        sa.Column("scanner", sa.String(length=160), nullable=False),
        sa.Column("compared_at", sa.DateTime(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.Column("predicted_percent", sa.Double(), nullable=False),
        sa.Column("acquired_percent", sa.Double(), nullable=False),
        sa.Column("segments", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_shadow_comparison_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadow_comparison")),
        sa.UniqueConstraint("study_id", "route", name=op.f("uq_shadow_comparison_study_id_route")),
    )
    op.create_index(op.f("ix_shadow_comparison_compared_at"), "shadow_comparison", ["compared_at"], unique=False)
