"""Make a job of each analysis package, with a verdict, and lease it by a token."""

from __future__ import annotations

import datetime as dt
import re

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FIRST_PACKAGE = "ventricular_function"
VERDICT = sa.Enum("delivered", "declined", "partial", "failed", name="verdict", native_enum=False, length=24)
SLOT = sa.Enum("cpu", "gpu", name="job_slot", native_enum=False, length=24)
JOB = sa.table(
    "job",
    sa.column("id", sa.Integer),
    sa.column("state", sa.String),
    sa.column("error", sa.Text),
    sa.column("summary", sa.JSON),
    sa.column("verdict", sa.String),
    sa.column("sentences", sa.JSON),
)
EVENT = sa.table("event", sa.column("id", sa.Integer), sa.column("kind", sa.String), sa.column("detail", sa.JSON))
# Earlier versions noted unknown exceptions with their text, which can quote a data set.
UNKNOWN = re.compile(
    r"\s*([A-Za-z_][A-Za-z0-9_.]*(?:Error|Exception|Warning|Exit|Interrupt|Iteration|Refused)): .*", re.S
)


def upgrade() -> None:
    with op.batch_alter_table("job") as job:
        job.add_column(
            sa.Column("package", sa.String(length=41), nullable=False, server_default="ventricular_function")
        )
        job.add_column(sa.Column("revision", sa.Integer(), nullable=False, server_default="0"))
        job.add_column(sa.Column("identity", sa.String(length=64), nullable=False, server_default=""))
        job.add_column(sa.Column("slot", SLOT, nullable=False, server_default="cpu"))
        job.add_column(sa.Column("background", sa.Boolean(), nullable=False, server_default=sa.false()))
        job.add_column(sa.Column("timeout_s", sa.Double(), nullable=False, server_default="300"))
        job.add_column(sa.Column("lease", sa.String(length=32), nullable=True))
        job.add_column(sa.Column("heartbeat", sa.Integer(), nullable=False, server_default="0"))
        job.add_column(sa.Column("inputs_removed_at", sa.DateTime(), nullable=True))
        job.add_column(sa.Column("verdict", VERDICT, nullable=True))
        job.add_column(sa.Column("sentences", sa.JSON(), nullable=False, server_default="[]"))
        job.add_column(sa.Column("key_numbers", sa.JSON(), nullable=False, server_default="[]"))
        job.drop_column("lease_until")
        job.drop_constraint("uq_job_study_id_study_version_route", type_="unique")
        job.create_unique_constraint(
            op.f("uq_job_study_id_study_version_route_package_revision"),
            ["study_id", "study_version", "route", "package", "revision"],
        )
    op.execute("UPDATE job SET identity = input_digest")
    # Held by workers of the version before, under leases of another kind.
    op.execute(
        "UPDATE job SET state = 'queued', worker = NULL, attempts = CASE WHEN attempts > 0 "
        "THEN attempts - 1 ELSE 0 END WHERE state = 'running'"
    )
    op.get_bind().execute(
        sa.text(
            "UPDATE job SET inputs_removed_at = :now WHERE NOT EXISTS (SELECT 1 FROM series "
            "JOIN instance ON instance.series_id = series.id WHERE series.study_id = job.study_id "
            "AND instance.removed_at IS NULL AND instance.study_version <= job.study_version)"
        ),
        {"now": dt.datetime.now(dt.UTC).replace(tzinfo=None)},
    )
    _give_verdicts()
    _clear_events()


def _give_verdicts() -> None:
    connection = op.get_bind()
    ended = sa.select(JOB.c.id, JOB.c.state, JOB.c.error, JOB.c.summary).where(
        JOB.c.state.in_(["succeeded", "failed", "queued"])
    )
    for row in connection.execute(ended).all():
        summary = row.summary or {}
        error = _cleared(row.error)
        refused, rejected = summary.get("refusals") or [], summary.get("rejected") or []
        verdict, sentences = None, []
        if row.state == "failed":
            verdict, sentences = "failed", [error] if error else []
        elif row.state == "succeeded":
            verdict = "partial" if rejected else "declined" if refused else "delivered"
            sentences = list(refused)
        values = {"error": error, "verdict": verdict, "sentences": sentences}
        connection.execute(sa.update(JOB).where(JOB.c.id == row.id).values(**values))


def _clear_events() -> None:
    connection = op.get_bind()
    failures = sa.select(EVENT.c.id, EVENT.c.detail).where(EVENT.c.kind.in_(["job attempt failed", "job failed"]))
    for row in connection.execute(failures).all():
        cleared = _cleared(row.detail.get("error"))
        if cleared != row.detail.get("error"):
            detail = {**row.detail, "error": cleared}
            connection.execute(sa.update(EVENT).where(EVENT.c.id == row.id).values(detail=detail))


def _cleared(error: str | None) -> str | None:
    unknown = UNKNOWN.fullmatch(error or "")
    return unknown[1] if unknown else error
