"""The ledger's tables and the states that its rows can be in.

Instance → series → study; job (one study version × one route × one analysis package); result; delivery (one result ×
one destination).
"""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

__all__ = [
    "ENDED",
    "AccountRole",
    "AccountRow",
    "ApiTokenRow",
    "AssessmentResult",
    "AssessmentRow",
    "Association",
    "AssociationStudy",
    "Base",
    "CommitmentRequest",
    "CommitmentTransactionRow",
    "ConsoleSessionRow",
    "DeliveryRow",
    "DeliveryState",
    "DestinationTrialRow",
    "EventRow",
    "InstanceRow",
    "InvitationRow",
    "JobRow",
    "JobSlot",
    "JobState",
    "LedgerIdentityRow",
    "LogInFailureRow",
    "OrderMessageRow",
    "OrderRow",
    "OutageRow",
    "PausedDestinationRow",
    "PerformedStepRow",
    "PerformedStepStudyRow",
    "QuarantineRow",
    "ReleasedFileRow",
    "ReportState",
    "ResultRow",
    "RoutesVersionRow",
    "SeriesRow",
    "ShadowComparisonRow",
    "StepState",
    "StudyAttributesRow",
    "StudyRow",
    "UtcDateTime",
    "Verdict",
]


class JobState(enum.StrEnum):
    """State of a job; the last three are final unless an operator requeues it."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """A later version of the study was scheduled before this job had started."""


class JobSlot(enum.StrEnum):
    """Kind of worker that a job wants."""

    CPU = "cpu"
    GPU = "gpu"


class Verdict(enum.StrEnum):
    """Outcome of a job."""

    DELIVERED = "delivered"
    DECLINED = "declined"
    """The analysis said in a sentence why it does not measure this study."""
    PARTIAL = "partial"
    """Some of its objects did not pass the gate; the others are delivered."""
    FAILED = "failed"


class DeliveryState(enum.StrEnum):
    """State of a delivery; those after ``AWAITING_COMMITMENT`` are final unless an operator requeues it."""

    QUEUED = "queued"
    SENDING = "sending"
    AWAITING_COMMITMENT = "awaiting commitment"
    COMMITTED = "committed"
    """The destination took responsibility, or was seen to hold it."""
    NOT_VERIFIED = "delivered, not verified"
    """The destination answered that it stored it, and cannot be, or is not to be, asked whether it keeps it."""
    NOT_ACCEPTED = "not accepted"
    """The destination does not take objects of this kind (negotiation, 0122): nothing failed."""
    DISMISSED = "dismissed"
    """An operator gave it up, or a later version of the study made it void before it was sent."""
    DEAD = "dead"


ENDED = frozenset(
    {DeliveryState.COMMITTED, DeliveryState.NOT_VERIFIED, DeliveryState.NOT_ACCEPTED, DeliveryState.DISMISSED}
)
"""Deliveries that need nothing more, of the node or of a person."""


class ReportState(enum.StrEnum):
    """State of the answer to a peer's storage commitment request; the last two are final unless it is asked again."""

    DUE = "due"
    REPORTED = "reported"
    DEAD = "dead"


class StepState(enum.StrEnum):
    """PerformedProcedureStepStatus (0040,0252); the last two are final (PS3.4 F.7.2.2.2)."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class AccountRole(enum.StrEnum):
    """What a person, or a program with a token, may do in the console; each may all that those before it may."""

    VIEWER = "viewer"
    """Look, and judge results as a radiologist."""
    OPERATOR = "operator"
    """Run again, send again, give up, delete, pause; read the audit trail."""
    ADMINISTRATOR = "administrator"
    """Let people in, and change the rules."""

    def includes(self, other: AccountRole) -> bool:
        """Whether this role may what the other may."""
        order = list(AccountRole)
        return order.index(self) >= order.index(other)


class AssessmentResult(enum.StrEnum):
    """What a radiologist says of the results of one package (IHE RAD, AI Result Assessment)."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    CORRECTED = "corrected"


class UtcDateTime(TypeDecorator[dt.datetime]):
    """An aware date and time, kept in UTC by every database."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:  # noqa: ARG002
        """Refuse naive times, store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("the ledger takes aware times only")
        return value.astimezone(dt.UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> dt.datetime | None:  # noqa: ARG002
        """Give back an aware time in UTC."""
        return None if value is None else value.replace(tzinfo=dt.UTC)


def _state(states: type[enum.StrEnum], name: str) -> Enum:
    return Enum(
        states, name=name, native_enum=False, length=24, values_callable=lambda members: [m.value for m in members]
    )


Uid = String(64)
Digest = String(64)
CorrelationId = String(32)


class Base(DeclarativeBase):
    """Root of the tables; names of constraints are fixed so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        dt.datetime: UtcDateTime(),
        dict[str, Any]: JSON(),
        list[str]: JSON(),
        list[list[str]]: JSON(),
        list[dict[str, Any]]: JSON(),
    }


class Association(Base):
    """One DICOM association that a peer opened with this node."""

    __tablename__ = "association"
    __table_args__ = (
        # Stays small: the audit trail asks for what it has not told yet every second.
        Index(
            "ix_association_untold",
            "closed_at",
            sqlite_where=text("audited_at IS NULL AND closed_at IS NOT NULL"),
            postgresql_where=text("audited_at IS NULL AND closed_at IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(CorrelationId, primary_key=True)
    """Correlation id of everything that came of it."""
    receiver: Mapped[str] = mapped_column(String(64))
    """Which receiver process served it, so that its successor can close what it left open."""
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    called_ae_title: Mapped[str] = mapped_column(String(16))
    address: Mapped[str] = mapped_column(String(64))
    opened_at: Mapped[dt.datetime]
    closed_at: Mapped[dt.datetime | None] = mapped_column(index=True)
    outcome: Mapped[str | None] = mapped_column(String(64))
    audited_at: Mapped[dt.datetime | None]
    """When the audit trail told what it brought."""


class StudyRow(Base):
    """One study as received."""

    __tablename__ = "study"
    __table_args__ = (
        # What retention looks through, small beside the studies of all years.
        Index(
            "ix_study_present",
            "last_received_at",
            sqlite_where=text("removed_at IS NULL"),
            postgresql_where=text("removed_at IS NULL"),
        ),
        # What history forgets, the oldest first.
        Index(
            "ix_study_removed",
            "removed_at",
            sqlite_where=text("removed_at IS NOT NULL"),
            postgresql_where=text("removed_at IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(Uid, unique=True)
    version: Mapped[int] = mapped_column(default=0)
    """How often the study was taken as complete; 0 before the first time."""
    instances: Mapped[int] = mapped_column(default=0)
    """How many its versions hold; those that wait are not counted."""
    first_received_at: Mapped[dt.datetime]
    last_received_at: Mapped[dt.datetime] = mapped_column(index=True)
    """As of its last version; instances that wait since then have times of their own."""
    last_association_id: Mapped[str] = mapped_column(ForeignKey("association.id"), index=True)
    removed_at: Mapped[dt.datetime | None]
    """When its instance files were removed by retention; none while any of them is present."""
    committed_at: Mapped[dt.datetime | None]
    """When this node last took responsibility for instances of it (storage commitment)."""

    series: Mapped[list[SeriesRow]] = relationship(back_populates="study", order_by="SeriesRow.id")


class AssociationStudy(Base):
    """Which associations sent to which study: what tells that a study is in mid-association."""

    __tablename__ = "association_study"

    association_id: Mapped[str] = mapped_column(ForeignKey("association.id"), primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), primary_key=True, index=True)


class SeriesRow(Base):
    """One series as received: what the routing rules read."""

    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("study_id", "series_instance_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    series_instance_uid: Mapped[str] = mapped_column(Uid, index=True)
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    modality: Mapped[str] = mapped_column(String(16))
    series_description: Mapped[str] = mapped_column(String(64))
    study_description: Mapped[str] = mapped_column(String(64))
    manufacturer: Mapped[str] = mapped_column(String(64))
    body_part_examined: Mapped[str] = mapped_column(String(16))

    study: Mapped[StudyRow] = relationship(back_populates="series")
    instances: Mapped[list[InstanceRow]] = relationship(back_populates="series", order_by="InstanceRow.id")


class InstanceRow(Base):
    """One acknowledged SOP instance."""

    __tablename__ = "instance"
    __table_args__ = (
        Index("ix_instance_series_id", "series_id"),
        # Stays small however many instances the ledger holds: the scheduler asks it several times a second.
        Index(
            "ix_instance_waiting",
            "series_id",
            "received_at",
            sqlite_where=text("study_version IS NULL AND removed_at IS NULL"),
            postgresql_where=text("study_version IS NULL AND removed_at IS NULL"),
        ),
        # Of those that are not uploaded yet.
        Index(
            "ix_instance_held",
            "held_by",
            sqlite_where=text("held_by IS NOT NULL"),
            postgresql_where=text("held_by IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    sop_instance_uid: Mapped[str] = mapped_column(Uid, unique=True)
    sop_class_uid: Mapped[str] = mapped_column(Uid)
    transfer_syntax_uid: Mapped[str] = mapped_column(Uid)
    digest: Mapped[str] = mapped_column(Digest)
    path: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    association_id: Mapped[str] = mapped_column(ForeignKey("association.id"), index=True)
    received_at: Mapped[dt.datetime]
    facts: Mapped[dict[str, Any]]
    """Empty until somebody asks about the study."""
    study_version: Mapped[int | None]
    """First version of the study that holds it; none while it waits to be scheduled."""
    removed_at: Mapped[dt.datetime | None]
    held_by: Mapped[str | None] = mapped_column(String(40))
    """Host whose disk alone has its file, which is still to be uploaded to the bucket; none once it is in its place."""

    series: Mapped[SeriesRow] = relationship(back_populates="instances")


class HostRow(Base):
    """One host of a node whose hosts have no directory in common: that it serves, and how its processes are."""

    __tablename__ = "host"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    beat: Mapped[int] = mapped_column(BigInteger)
    """Goes up while it serves: whoever watches needs no common clock."""
    at: Mapped[dt.datetime]
    """When it went up last, by the clock of the host."""
    processes: Mapped[list[dict[str, Any]] | None]
    """How its processes are; none before it has said."""
    free_mb: Mapped[float | None]
    """Free space where it takes images in; none before it has said."""


class QuarantineRow(Base):
    """One object that was not taken into the record, and why."""

    __tablename__ = "quarantine"
    __table_args__ = (UniqueConstraint("digest", "reason"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(Digest)
    path: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(String(200))
    sop_instance_uid: Mapped[str | None] = mapped_column(Uid)
    association_id: Mapped[str | None] = mapped_column(ForeignKey("association.id"), index=True)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id"), index=True)
    at: Mapped[dt.datetime] = mapped_column(index=True)


class JobRow(Base):
    """One study version × one route × one analysis package; or the closing job of a study version × route."""

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("study_id", "study_version", "route", "package", "revision"),
        Index("ix_job_claim", "state", "priority", "created_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    study_version: Mapped[int]
    route: Mapped[str] = mapped_column(String(41))
    package: Mapped[str] = mapped_column(String(41))
    """The analysis package, or :data:`storage.closing.FRONT_PAGE`."""
    revision: Mapped[int] = mapped_column(default=0)
    """How many closing jobs of its version and route came before; 0 for every other job."""
    series_instance_uids: Mapped[list[str]]
    input_digest: Mapped[str] = mapped_column(Digest)
    """sha256 over the digests of its input instances: a new version that brings this route nothing new makes no job."""
    identity: Mapped[str] = mapped_column(Digest)
    """What the UIDs of its results derive from: its input digest, unless results of other bytes have that already."""
    priority: Mapped[int]
    slot: Mapped[JobSlot] = mapped_column(_state(JobSlot, "job_slot"))
    background: Mapped[bool] = mapped_column(default=False)
    """Whether it gives way to all that are not."""
    timeout_s: Mapped[float]
    """An attempt that runs longer is killed."""
    state: Mapped[JobState] = mapped_column(_state(JobState, "job_state"))
    attempts: Mapped[int] = mapped_column(default=0)
    maximum_attempts: Mapped[int]
    correlation_id: Mapped[str] = mapped_column(CorrelationId)
    created_at: Mapped[dt.datetime]
    due_at: Mapped[dt.datetime]
    deadline_at: Mapped[dt.datetime]
    """When it counts as late."""
    worker: Mapped[str | None] = mapped_column(String(64))
    lease: Mapped[str | None] = mapped_column(String(32))
    """Token of the attempt that runs; a worker without it has lost the job."""
    heartbeat: Mapped[int] = mapped_column(default=0)
    """Goes up while the lease is alive: whoever watches needs no common clock."""
    started_at: Mapped[dt.datetime | None]
    step: Mapped[str | None] = mapped_column(String(64))
    """What it was last said to be at; says nothing of a job that does not run."""
    ended_at: Mapped[dt.datetime | None]
    inputs_removed_at: Mapped[dt.datetime | None]
    """When retention took the files it read: it cannot run again."""
    error: Mapped[str | None] = mapped_column(Text)
    verdict: Mapped[Verdict | None] = mapped_column(_state(Verdict, "verdict"))
    """What it came to; none until it has ended for good."""
    sentences: Mapped[list[str]] = mapped_column(default=list)
    """Why it declined, failed or delivered only a part."""
    key_numbers: Mapped[list[str]] = mapped_column(default=list)
    """What it found, in sentences for the front page."""
    summary: Mapped[dict[str, Any] | None]

    study: Mapped[StudyRow] = relationship()
    results: Mapped[list[ResultRow]] = relationship(back_populates="job", order_by="ResultRow.id")


class ResultRow(Base):
    """One object that a job produced."""

    __tablename__ = "result"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    role: Mapped[str] = mapped_column(String(64))
    sop_class_uid: Mapped[str] = mapped_column(Uid)
    sop_instance_uid: Mapped[str] = mapped_column(Uid, unique=True)
    series_instance_uid: Mapped[str] = mapped_column(Uid)
    series_description: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(Digest)
    size: Mapped[int] = mapped_column(BigInteger)
    removed_at: Mapped[dt.datetime | None]
    rejected_at: Mapped[dt.datetime | None]
    """When a rejection note that names it was made."""

    job: Mapped[JobRow] = relationship(back_populates="results")
    deliveries: Mapped[list[DeliveryRow]] = relationship(back_populates="result", order_by="DeliveryRow.id")


class DeliveryRow(Base):
    """One result × one destination."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("result_id", "destination"),
        Index("ix_delivery_claim", "destination", "state", "due_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"))
    destination: Mapped[str] = mapped_column(String(41))
    state: Mapped[DeliveryState] = mapped_column(_state(DeliveryState, "delivery_state"), index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    """Attempts that failed."""
    put_off: Mapped[int] = mapped_column(default=0)
    """How often in a row the destination had no room for it."""
    created_at: Mapped[dt.datetime]
    due_at: Mapped[dt.datetime]
    owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[dt.datetime | None]
    sent_at: Mapped[dt.datetime | None]
    transaction_uid: Mapped[str | None] = mapped_column(Uid)
    """Of the latest storage commitment request, until it is answered with a failure."""
    commitment_deadline: Mapped[dt.datetime | None]
    committed_at: Mapped[dt.datetime | None]
    ended_at: Mapped[dt.datetime | None]
    """When it came into its final state."""
    error: Mapped[str | None] = mapped_column(Text)

    result: Mapped[ResultRow] = relationship(back_populates="deliveries")


class CommitmentRequest(Base):
    """One storage commitment asked for, kept so that an answer after its time-out still counts."""

    __tablename__ = "commitment_request"

    transaction_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id"), primary_key=True, index=True)
    requested_at: Mapped[dt.datetime]


class CommitmentTransactionRow(Base):
    """One storage commitment request of a peer, and the report that this node owes for it."""

    __tablename__ = "commitment_transaction"
    __table_args__ = (
        UniqueConstraint("calling_ae_title", "transaction_uid", "digest", name="uq_commitment_transaction"),
        Index("ix_commitment_transaction_due", "state", "due_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    transaction_uid: Mapped[str] = mapped_column(Uid)
    digest: Mapped[str] = mapped_column(Digest)
    """sha256 over what is referenced: tells a repeated request from another one under a used Transaction UID."""
    referenced: Mapped[list[list[str]]]
    """SOP Class and SOP Instance UID of each object."""
    correlation_id: Mapped[str | None] = mapped_column(CorrelationId)
    requested_at: Mapped[dt.datetime]
    state: Mapped[ReportState] = mapped_column(_state(ReportState, "report_state"))
    attempts: Mapped[int] = mapped_column(default=0)
    """Attempts to report that failed."""
    due_at: Mapped[dt.datetime]
    reported_at: Mapped[dt.datetime | None]
    error: Mapped[str | None] = mapped_column(Text)


class StudyAttributesRow(Base):
    """Attributes of a study for queries, read from one file when first asked; patient data, removed with the files."""

    __tablename__ = "study_attributes"

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), primary_key=True)
    patient_id: Mapped[str] = mapped_column(String(64), index=True)
    attributes: Mapped[dict[str, Any]]
    """By DICOM keyword, ``PatientID`` among them."""
    identity: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    """What else an order is held against: :mod:`storage.holdings`; empty of a study described by an earlier version."""


class PerformedStepRow(Base):
    """One modality performed procedure step (PS3.4 annex F), without what it says of the patient."""

    __tablename__ = "performed_step"

    id: Mapped[int] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(Uid, unique=True)
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    state: Mapped[StepState] = mapped_column(_state(StepState, "step_state"))
    made: Mapped[dict[str, Any]]
    """SOP Instance UIDs of the objects that it says it made, by Series Instance UID."""
    end_given: Mapped[bool] = mapped_column(default=False)
    """Whether its end date and time have been set."""
    changed_at: Mapped[dt.datetime] = mapped_column(index=True)

    studies: Mapped[list[PerformedStepStudyRow]] = relationship(back_populates="step")


class PerformedStepStudyRow(Base):
    """Which studies a step is part of; the step may be known before the study has come."""

    __tablename__ = "performed_step_study"

    step_id: Mapped[int] = mapped_column(ForeignKey("performed_step.id"), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(Uid, primary_key=True, index=True)

    step: Mapped[PerformedStepRow] = relationship(back_populates="studies")


class OrderRow(Base):
    """What an order of an information system says of an examination: patient data, though it names nobody."""

    __tablename__ = "imaging_order"
    __table_args__ = (
        UniqueConstraint("accession_number", "order_number", "namesake"),
        # Stays small: the scheduler asks it several times a second.
        Index(
            "ix_imaging_order_new",
            "id",
            sqlite_where=text("considered_at IS NULL"),
            postgresql_where=text("considered_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    accession_number: Mapped[str] = mapped_column(String(64))
    order_number: Mapped[str] = mapped_column(String(200), index=True)
    """Of who placed it, or fills it: several orders may share an accession number. Empty where it has none."""
    filler_number: Mapped[str] = mapped_column(String(200), index=True, server_default="")
    """Of who fills it; empty where that is not told."""
    namesake: Mapped[int] = mapped_column(server_default="0")
    """Tells orders apart that share both numbers, and are of different patients or issuers; 0 for the first."""
    identity: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    """Whose it is: :class:`storage.identifiers.KeptIdentity`."""
    procedures: Mapped[list[str]]
    """Codes and texts of what is to be done."""
    reasons: Mapped[list[str]]
    """Codes and texts of why."""
    diagnoses: Mapped[list[str]]
    """Codes and texts of diagnoses."""
    received_at: Mapped[dt.datetime] = mapped_column(index=True)
    """When it came, or was last changed."""
    considered_at: Mapped[dt.datetime | None]
    """When the studies that are held were last held against it; none while they are to be."""


class OrderMessageRow(Base):
    """One message about orders that was accepted, kept so that it does nothing when it comes again."""

    __tablename__ = "order_message"

    digest: Mapped[str] = mapped_column(Digest, primary_key=True)
    """sha256 over its sender, its control ID and what it says."""
    received_at: Mapped[dt.datetime] = mapped_column(index=True)


class ShadowComparisonRow(Base):
    """What was predicted of one study from cine alone, beside what its acquired late enhancement shows.

    It outlives its study, which it then no longer names: a site's agreement is told over years.
    """

    __tablename__ = "shadow_comparison"
    __table_args__ = (UniqueConstraint("study_id", "route"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"))
    """None once the study is forgotten."""
    route: Mapped[str] = mapped_column(String(41))
    version: Mapped[str] = mapped_column(String(24))
    """Of the analysis package that predicted."""
    scanner: Mapped[str] = mapped_column(String(160))
    """Manufacturer, model and field strength."""
    compared_at: Mapped[dt.datetime] = mapped_column(index=True)
    probability: Mapped[float]
    """Predicted, that there is enhancement, 0 … 1."""
    present: Mapped[bool]
    """Whether acquired late enhancement shows an infarct."""
    predicted_percent: Mapped[float]
    acquired_percent: Mapped[float]
    """Extent, % of the left ventricular muscle."""
    segments: Mapped[dict[str, Any]]
    """By number of the AHA segment: predicted probability, and whether it enhances on the acquired images."""


class LedgerIdentityRow(Base):
    """The one row that says to which storage directory this ledger belongs."""

    __tablename__ = "ledger_identity"

    id: Mapped[int] = mapped_column(primary_key=True)
    identity: Mapped[str] = mapped_column(String(32))
    bound_at: Mapped[dt.datetime]


class ReleasedFileRow(Base):
    """One file that the ledger let go of: the only kind of file that is ever deleted."""

    __tablename__ = "released_file"

    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    """Relative to the storage directory."""
    at: Mapped[dt.datetime]


class OutageRow(Base):
    """One destination that could not be reached the last time: nothing goes there before ``retry_at``."""

    __tablename__ = "outage"

    destination: Mapped[str] = mapped_column(String(41), primary_key=True)
    since: Mapped[dt.datetime]
    attempts: Mapped[int]
    retry_at: Mapped[dt.datetime]
    error: Mapped[str] = mapped_column(Text)


class PausedDestinationRow(Base):
    """One destination to which nothing is sent until somebody says so."""

    __tablename__ = "paused_destination"

    destination: Mapped[str] = mapped_column(String(41), primary_key=True)
    since: Mapped[dt.datetime]
    by: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(String(200))


class DestinationTrialRow(Base):
    """The last test of one destination in full."""

    __tablename__ = "destination_trial"

    destination: Mapped[str] = mapped_column(String(41), primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(Uid, unique=True)
    """Of the storage commitment request for the test object."""
    sop_instance_uid: Mapped[str] = mapped_column(Uid)
    by: Mapped[str] = mapped_column(String(64))
    at: Mapped[dt.datetime]
    findings: Mapped[dict[str, Any]]
    reported_at: Mapped[dt.datetime | None]
    report: Mapped[str] = mapped_column(Text)


class AccountRow(Base):
    """One person who may log in to the console."""

    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[AccountRole] = mapped_column(_state(AccountRole, "account_role"))
    password_hash: Mapped[str] = mapped_column(String(200))
    """Argon2id, with its parameters and salt; empty where an identity provider says who the person is."""
    provider_subject: Mapped[str | None] = mapped_column(Digest, unique=True)
    """sha256 of issuer and subject, where an identity provider says who the person is, and what they may do."""
    created_at: Mapped[dt.datetime]
    disabled_at: Mapped[dt.datetime | None]


class ConsoleSessionRow(Base):
    """One log-in that has not ended."""

    __tablename__ = "console_session"

    digest: Mapped[str] = mapped_column(Digest, primary_key=True)
    """sha256 of the token that the browser holds."""
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), index=True)
    csrf: Mapped[str] = mapped_column(String(64))
    """What every form of the session carries."""
    began_at: Mapped[dt.datetime]
    seen_at: Mapped[dt.datetime]
    notice: Mapped[str | None] = mapped_column(Text)
    """What the next page says: what came of the last form."""

    account: Mapped[AccountRow] = relationship()


class InvitationRow(Base):
    """One link with which a person chooses a password, once."""

    __tablename__ = "invitation"

    digest: Mapped[str] = mapped_column(Digest, primary_key=True)
    """sha256 of the token in the link."""
    name: Mapped[str | None] = mapped_column(String(64))
    """For whom; none lets the person choose a name."""
    role: Mapped[AccountRole] = mapped_column(_state(AccountRole, "account_role"))
    by: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[dt.datetime]


class ApiTokenRow(Base):
    """One program that may use the REST API."""

    __tablename__ = "api_token"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    digest: Mapped[str] = mapped_column(Digest, unique=True)
    """sha256 of the token, which is nowhere on this node."""
    role: Mapped[AccountRole] = mapped_column(_state(AccountRole, "account_role"))
    by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[dt.datetime]


class LogInFailureRow(Base):
    """One log-in that failed, kept for as long as it slows the next."""

    __tablename__ = "log_in_failure"

    id: Mapped[int] = mapped_column(primary_key=True)
    name_digest: Mapped[str] = mapped_column(Digest)
    """sha256 of the name: people type passwords there."""
    address: Mapped[str] = mapped_column(String(64))
    at: Mapped[dt.datetime] = mapped_column(index=True)


class AssessmentRow(Base):
    """What a radiologist said of the results of one package; kept when the study is forgotten."""

    __tablename__ = "assessment"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(Uid, index=True)
    study_version: Mapped[int]
    route: Mapped[str] = mapped_column(String(41))
    package: Mapped[str] = mapped_column(String(41))
    result: Mapped[AssessmentResult] = mapped_column(_state(AssessmentResult, "assessment_result"))
    comment: Mapped[str] = mapped_column(String(500))
    by: Mapped[str] = mapped_column(String(64))
    at: Mapped[dt.datetime]


class RoutesVersionRow(Base):
    """What section ``routes`` of the configuration was at some time, as it was written."""

    __tablename__ = "routes_version"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    by: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(String(200))
    at: Mapped[dt.datetime]


class EventRow(Base):
    """One state transition; never changed, never holds patient data."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(index=True)
    correlation_id: Mapped[str | None] = mapped_column(CorrelationId, index=True)
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"), index=True)
    kind: Mapped[str] = mapped_column(String(48))
    subject: Mapped[str] = mapped_column(String(128))
    """The UID, job or delivery it is about."""
    detail: Mapped[dict[str, Any]]
