"""Note which accounts are an identity provider's: by a digest of issuer and subject."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("account") as table:
        table.add_column(sa.Column("provider_subject", sa.String(length=64), nullable=True))
        table.create_unique_constraint(op.f("uq_account_provider_subject"), ["provider_subject"])
