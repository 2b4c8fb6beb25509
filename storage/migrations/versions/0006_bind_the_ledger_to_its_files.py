"""Repair ledgers that were made while migrations were still put in; bind the ledger to its directory."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

WAITING = sa.text("study_version IS NULL AND removed_at IS NULL")
PRESENT = sa.text("removed_at IS NULL")


def upgrade() -> None:
    _repair_0002()
    _repair_0003()
    _bind()


def _columns(table: str) -> set[str]:
    inspector = sa.inspect(op.get_bind())
    return {column["name"] for column in inspector.get_columns(table)} if inspector.has_table(table) else set()


def _indexes(table: str) -> dict[str, list[str | None]]:
    return {str(one["name"]): one["column_names"] for one in sa.inspect(op.get_bind()).get_indexes(table)}


def _repair_0002() -> None:
    """Revision 0002 was put in when there were ledgers at 0003 and 0004, which therefore never got it."""
    of_instance = _indexes("instance")
    if "ix_instance_digest" in of_instance:
        op.drop_index("ix_instance_digest", "instance")
    if "ix_instance_series_id" not in of_instance:
        op.create_index("ix_instance_series_id", "instance", ["series_id"])
    if of_instance.get("ix_instance_waiting") != ["series_id", "received_at"]:
        op.drop_index("ix_instance_waiting", "instance")
        op.create_index(
            "ix_instance_waiting",
            "instance",
            ["series_id", "received_at"],
            sqlite_where=WAITING,
            postgresql_where=WAITING,
        )
    if "ix_study_present" not in _indexes("study"):
        op.create_index(
            "ix_study_present", "study", ["last_received_at"], sqlite_where=PRESENT, postgresql_where=PRESENT
        )
    if "ix_delivery_state" not in _indexes("delivery"):
        op.create_index(op.f("ix_delivery_state"), "delivery", ["state"])
    if "instances" not in _columns("study"):
        op.add_column("study", sa.Column("instances", sa.Integer(), server_default="0", nullable=False))
        op.execute(
            "UPDATE study SET instances = (SELECT count(*) FROM series JOIN instance ON instance.series_id = series.id "
            "WHERE series.study_id = study.id AND instance.study_version IS NOT NULL)"
        )
        op.execute(
            "UPDATE study SET removed_at = NULL WHERE removed_at IS NOT NULL AND EXISTS (SELECT 1 FROM series "
            "JOIN instance ON instance.series_id = series.id "
            "WHERE series.study_id = study.id AND instance.removed_at IS NULL)"
        )
        op.execute("DELETE FROM event WHERE kind = 'instance received'")


def _repair_0003() -> None:
    """Revision 0003 landed three times, each time with more in it; and 0004 existed for a while without it."""
    if "committed_at" not in _columns("study"):
        op.add_column("study", sa.Column("committed_at", sa.DateTime(), nullable=True))
    if not _columns("commitment_transaction"):
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
    if not _columns("study_attributes"):
        op.create_table(
            "study_attributes",
            sa.Column("study_id", sa.Integer(), nullable=False),
            sa.Column("patient_id", sa.String(length=64), nullable=False),
            sa.Column("attributes", sa.JSON(), nullable=False),
            sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_study_attributes_study_id")),
            sa.PrimaryKeyConstraint("study_id", name=op.f("pk_study_attributes")),
        )
        op.create_index(op.f("ix_study_attributes_patient_id"), "study_attributes", ["patient_id"], unique=False)
    if "made" not in _columns("performed_step"):
        # Steps tell for hours only when a study is complete: those of another form are let go.
        for table in ("performed_step_study", "performed_step"):
            if _columns(table):
                op.drop_table(table)
        _create_steps()


def _create_steps() -> None:
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


def _bind() -> None:
    op.create_table(
        "ledger_identity",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("identity", sa.String(length=32), nullable=False),
        sa.Column("bound_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_identity")),
    )
    op.create_table(
        "released_file",
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_released_file")),
    )
    # The sweep follows retention within hours: what was removed long ago is gone from the disk.
    for table in ("instance", "result"):
        op.execute(
            f"INSERT INTO released_file (path, at) SELECT path, max(removed_at) FROM {table} "
            "WHERE removed_at IS NOT NULL AND path NOT IN (SELECT path FROM released_file) GROUP BY path"
        )
    op.create_table(
        "outage",
        sa.Column("destination", sa.String(length=41), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.DateTime(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_outage")),
    )
    op.add_column("delivery", sa.Column("put_off", sa.Integer(), server_default="0", nullable=False))
    op.add_column("delivery", sa.Column("ended_at", sa.DateTime(), nullable=True))
    op.execute("UPDATE delivery SET ended_at = committed_at")
    # Nothing was asked of the destination, which the ledger called committed.
    op.execute(
        "UPDATE delivery SET state = 'delivered, not verified', committed_at = NULL "
        "WHERE state = 'committed' AND NOT EXISTS "
        "(SELECT 1 FROM commitment_request WHERE commitment_request.delivery_id = delivery.id)"
    )
    op.add_column("result", sa.Column("rejected_at", sa.DateTime(), nullable=True))
    removed = sa.text("removed_at IS NOT NULL")
    op.create_index("ix_study_removed", "study", ["removed_at"], sqlite_where=removed, postgresql_where=removed)
    # What history forgets: the database looks for rows that refer to each association.
    op.create_index(op.f("ix_instance_association_id"), "instance", ["association_id"])
    op.create_index(op.f("ix_study_last_association_id"), "study", ["last_association_id"])
    op.create_index(op.f("ix_quarantine_association_id"), "quarantine", ["association_id"])
    op.create_index(op.f("ix_quarantine_job_id"), "quarantine", ["job_id"])
