"""Keep with an order whose it is, and with a study what is held against that; two orders may share their numbers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("imaging_order") as table:
        table.add_column(sa.Column("filler_number", sa.String(length=200), server_default="", nullable=False))
        table.add_column(sa.Column("namesake", sa.Integer(), server_default="0", nullable=False))
        table.add_column(sa.Column("identity", sa.JSON(), server_default="{}", nullable=False))
        table.drop_constraint(op.f("uq_imaging_order_accession_number_order_number"), type_="unique")
        table.create_unique_constraint(
            op.f("uq_imaging_order_accession_number_order_number_namesake"),
            ["accession_number", "order_number", "namesake"],
        )
    op.create_index(op.f("ix_imaging_order_filler_number"), "imaging_order", ["filler_number"], unique=False)
    op.add_column("study_attributes", sa.Column("identity", sa.JSON(), server_default="{}", nullable=False))
