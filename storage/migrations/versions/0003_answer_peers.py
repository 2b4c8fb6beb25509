"""What the node owes peers that ask: storage commitment, queries, performed procedure steps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("study", sa.Column("committed_at", sa.DateTime(), nullable=True))
    op.create_table(
        "commitment_transaction",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("referenced", sa.JSON(), nullable=False),
        sa.Column("correlation_id", sa.String(length=32), nullable=True),
        sa.Column("requested_at", sa.DateTime(), nullable=False),
        sa.Column(
            "state",
            sa.Enum("due", "reported", "dead", name="report_state", native_enum=False, length=24),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=False),
        sa.Column("reported_at", sa.DateTime(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment_transaction")),
        sa.UniqueConstraint("calling_ae_title", "transaction_uid", "digest", name="uq_commitment_transaction"),
    )
    op.create_index("ix_commitment_transaction_due", "commitment_transaction", ["state", "due_at"], unique=False)
    op.create_table(
        "study_attributes",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_study_attributes_study_id")),
        sa.PrimaryKeyConstraint("study_id", name=op.f("pk_study_attributes")),
    )
    op.create_index(op.f("ix_study_attributes_patient_id"), "study_attributes", ["patient_id"], unique=False)
    op.create_table(
        "performed_step",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column(
            "state",
            sa.Enum("IN PROGRESS", "COMPLETED", "DISCONTINUED", name="step_state", native_enum=False, length=24),
            nullable=False,
        ),
        sa.Column("made", sa.JSON(), nullable=False),
        sa.Column("end_given", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_performed_step")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_performed_step_sop_instance_uid")),
    )
    op.create_index(op.f("ix_performed_step_changed_at"), "performed_step", ["changed_at"], unique=False)
    op.create_table(
        "performed_step_study",
        sa.Column("step_id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["step_id"], ["performed_step.id"], name=op.f("fk_performed_step_study_step_id")),
        sa.PrimaryKeyConstraint("step_id", "study_instance_uid", name=op.f("pk_performed_step_study")),
    )
    op.create_index(
        op.f("ix_performed_step_study_study_instance_uid"), "performed_step_study", ["study_instance_uid"], unique=False
    )
