"""Tell how processes and disks of hosts without a common directory are, and at which step a job is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("host", sa.Column("processes", sa.JSON(), nullable=True))
    op.add_column("host", sa.Column("free_mb", sa.Double(), nullable=True))
    op.add_column("job", sa.Column("step", sa.String(length=64), nullable=True))
