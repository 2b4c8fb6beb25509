"""Reception: associations, instances and quarantined objects."""

from __future__ import annotations

import datetime as dt
import enum
import functools
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    PoolProxiedConnection,
    Table,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from storage.ledger import Ledger, LedgerError, absent_insert, insert_if_absent, record_event
from storage.schema import (
    Association,
    AssociationStudy,
    InstanceRow,
    QuarantineRow,
    ReleasedFileRow,
    SeriesRow,
    StudyRow,
)

__all__ = [
    "CONFLICT",
    "QuarantinedObject",
    "ReceivedInstance",
    "Reception",
    "close_abandoned_associations",
    "close_association",
    "close_receptions",
    "known_associations",
    "open_association",
    "open_receptions",
    "record_instances",
    "record_more",
    "record_quarantine",
    "series_ids",
    "series_values",
    "stored_digest",
]

CONFLICT = "other bytes are held under this SOP Instance UID"
"""Reason under which quarantine keeps what came after the first."""


class Reception(enum.Enum):
    """Outcome of recording an instance."""

    NEW = "new"
    DUPLICATE = "duplicate"
    """The same bytes are already recorded: Success, nothing new."""
    CONFLICT = "conflict"
    """The SOP Instance UID is taken by other bytes: the first is kept, this one belongs in quarantine."""


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """An instance whose file is already on disk."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    path: str
    """Relative to the storage directory."""
    size: int
    association_id: str
    calling_ae_title: str
    modality: str
    series_description: str
    study_description: str
    manufacturer: str
    body_part_examined: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What completeness needs of it, as JSON; empty while nobody has read it, see :mod:`storage.facts`."""


@dataclass(frozen=True, slots=True)
class QuarantinedObject:
    """Bytes that were kept aside, and why."""

    digest: str
    path: str
    reason: str
    """A sentence for the operator; no patient data."""
    sop_instance_uid: str | None = None
    association_id: str | None = None
    job_id: int | None = None


def open_association(
    ledger: Ledger, *, calling_ae_title: str, called_ae_title: str, address: str, at: dt.datetime, receiver: str
) -> str:
    """Record that a peer opened an association; returns its id, the correlation id of all that follows.

    Parameters
    ----------
    receiver
        Name of the receiver process, the same after a restart: see :func:`close_abandoned_associations`.
    """
    association_id = uuid.uuid4().hex
    with ledger.transaction() as session:
        session.add(
            Association(
                id=association_id,
                receiver=receiver,
                calling_ae_title=calling_ae_title,
                called_ae_title=called_ae_title,
                address=address,
                opened_at=at,
            )
        )
    return association_id


def close_association(ledger: Ledger, association_id: str, *, outcome: str, at: dt.datetime) -> None:
    """Record the end of an association (``released``, ``aborted``, …); a second call changes nothing."""
    with ledger.transaction() as session:
        session.execute(
            update(Association)
            .where(Association.id == association_id, Association.closed_at.is_(None))
            .values(closed_at=at, outcome=outcome[:64])
        )


def close_abandoned_associations(ledger: Ledger, receiver: str, *, at: dt.datetime) -> int:
    """Close the associations that this receiver process left open before it was restarted; returns how many there were.

    Parameters
    ----------
    receiver
        Name of the process; or, ending in ``/``, the beginning of the names of all receivers of a node.
    """
    name = Association.receiver
    mine = name.startswith(receiver, autoescape=True) if receiver.endswith("/") else name == receiver
    with ledger.transaction() as session:
        return _abandon(session, mine, at)


def _abandon(session: Session, which: ColumnElement[bool], at: dt.datetime) -> int:
    abandoned = session.scalars(
        select(Association).where(which, Association.closed_at.is_(None)).order_by(Association.id).with_for_update()
    ).all()
    for association in abandoned:
        association.closed_at, association.outcome = at, "receiver died"
        record_event(session, "association abandoned", association.id, at=at, correlation_id=association.id)
    return len(abandoned)


def open_receptions(ledger: Ledger) -> Mapping[str, frozenset[str]]:
    """Ids of the associations and uploads that receivers have open, by the host that their names begin with."""
    name = Association.receiver
    with ledger.reading() as session:
        rows = session.execute(
            select(Association.id, name).where(
                Association.closed_at.is_(None), name.contains("/receiver-", autoescape=True) | name.endswith("/web")
            )
        ).all()
    found: dict[str, set[str]] = {}
    for association_id, receiver in rows:
        found.setdefault(receiver.partition("/")[0], set()).add(association_id)
    return {host: frozenset(ids) for host, ids in found.items()}


def close_receptions(ledger: Ledger, association_ids: Collection[str], *, at: dt.datetime) -> int:
    """Close these associations, because the host that served them is gone; returns how many were open still."""
    with ledger.transaction() as session:
        return _abandon(session, Association.id.in_(association_ids), at)


def stored_digest(ledger: Ledger, sop_instance_uid: str) -> str | None:
    """Digest of the instance recorded under a SOP Instance UID, if any."""
    with ledger.reading() as session:
        return session.scalar(select(InstanceRow.digest).where(InstanceRow.sop_instance_uid == sop_instance_uid))


def record_instances(
    ledger: Ledger, instances: Sequence[ReceivedInstance], *, at: dt.datetime, held_by: str | None = None
) -> list[Reception]:
    """Take instances into the record, in one commit; after it their senders may be told Success.

    The outcome is that of recording one after the other, duplicates and conflicts among them included. Safe under any
    number of callers at once, in any processes. An instance whose file was removed by retention counts as new when it
    comes again.

    Parameters
    ----------
    held_by
        Name of the host that alone has their files, until they are uploaded; none where they are in their place.

    Returns
    -------
    list of Reception
        One for each instance, in their order.

    Raises
    ------
    LedgerError
        An association is not in the ledger; nothing was recorded.
    """
    if not instances:
        return []
    try:
        # Nearly always all are new: the ledger is asked what it holds of them only when that turns out wrong.
        looks = False
        while True:
            with ledger.engine.connect() as connection, connection.begin() as transaction:
                held = _held(connection, {one.sop_instance_uid for one in instances}) if looks else {}
                receptions = _record(connection, instances, held, at, held_by)
                if receptions is not None:
                    return receptions
                transaction.rollback()
            looks = True
    except IntegrityError as error:
        _check_associations(ledger, {one.association_id for one in instances}, error)
        raise


def record_more(
    connection: PoolProxiedConnection,
    dialect: Dialect,
    rows: Sequence[tuple[int, ReceivedInstance]],
    *,
    at: dt.datetime,
    held_by: str | None = None,
) -> bool:
    """Take instances into series to which their associations have sent before; what nearly all images are.

    While an association is open, neither retention nor the scheduler touches the studies that it has sent to, so one
    statement is enough. It goes straight to the driver: SQLAlchemy would take three times as long as the database.

    Parameters
    ----------
    connection, dialect
        To the ledger, outside a transaction; kept by the caller.
    rows
        Each instance with the id of its series, see :func:`series_ids`.
    held_by
        See :func:`record_instances`.

    Returns
    -------
    bool
        Whether all were new. If not, nothing was recorded, and :func:`record_instances` tells them apart.

    Raises
    ------
    Exception
        Whatever the driver raises; the connection is to be invalidated then.
    """
    statement = _driver_insert(dialect)
    cursor = connection.cursor()
    try:
        if dialect.name == "sqlite":
            cursor.execute("BEGIN IMMEDIATE")
        cursor.executemany(
            statement.sql, [statement.parameters(values) for values in _instance_rows(rows, at, held_by)]
        )
        recorded = bool(cursor.rowcount == len(rows))
    finally:
        cursor.close()
    if recorded:
        connection.commit()
    else:
        connection.rollback()
    return recorded


@dataclass(frozen=True, slots=True)
class _DriverInsert:
    """What SQLAlchemy would send to the driver for an insert that skips what is there."""

    sql: str
    order: tuple[str, ...] | None
    """Of the columns, where the driver numbers its parameters."""
    convert: Mapping[str, Callable[[Any], Any]]

    def parameters(self, values: dict[str, Any]) -> Any:
        for column, convert in self.convert.items():
            values[column] = convert(values[column])
        return values if self.order is None else tuple(values[column] for column in self.order)


@functools.cache
def _driver_insert(dialect: Dialect) -> _DriverInsert:
    columns = [column.name for column in _INSTANCE.columns if column.name in _RECEIVED_COLUMNS]
    compiled = absent_insert(dialect.name, _INSTANCE).compile(dialect=dialect, column_keys=columns)
    convert = {name: _INSTANCE.c[name].type.dialect_impl(dialect).bind_processor(dialect) for name in columns}
    return _DriverInsert(
        str(compiled),
        tuple(compiled.positiontup) if compiled.positional and compiled.positiontup else None,
        {name: function for name, function in convert.items() if function is not None},
    )


def series_ids(ledger: Ledger, instances: Sequence[ReceivedInstance]) -> list[int]:
    """Ids of the series of recorded instances, in their order."""
    with ledger.reading() as session:
        rows = session.execute(
            select(_INSTANCE.c.sop_instance_uid, _INSTANCE.c.series_id).where(
                _INSTANCE.c.sop_instance_uid.in_([one.sop_instance_uid for one in instances])
            )
        )
        ids = {row.sop_instance_uid: row.series_id for row in rows}
    return [ids[one.sop_instance_uid] for one in instances]


def known_associations(ledger: Ledger, association_ids: Collection[str]) -> frozenset[str]:
    """Those of some associations that the ledger holds."""
    with ledger.reading() as session:
        return frozenset(session.scalars(select(Association.id).where(Association.id.in_(association_ids))))


def _check_associations(ledger: Ledger, association_ids: set[str], error: IntegrityError) -> None:
    for association_id in sorted(association_ids - known_associations(ledger, association_ids)):
        raise LedgerError(f"association {association_id} was never opened") from error


# What follows is what every image of a department waits for: no ORM, and, whatever their number, a few statements for
# the instances of a study.
#
# On PostgreSQL nobody waits in a circle: the rows of studies are locked first, in the order of their UIDs, here and
# wherever studies change; then instances are inserted in the order of theirs. FOR NO KEY UPDATE leaves the foreign
# keys of others alone. SQLite has one writer.

_ASSOCIATION_STUDY = cast(Table, AssociationStudy.__table__)
_INSTANCE = cast(Table, InstanceRow.__table__)
_SERIES = cast(Table, SeriesRow.__table__)
_STUDY = cast(Table, StudyRow.__table__)

_HELD = (
    select(
        _INSTANCE.c.sop_instance_uid,
        _INSTANCE.c.id,
        _INSTANCE.c.digest,
        _INSTANCE.c.study_version,
        _INSTANCE.c.removed_at,
        _STUDY.c.id,
        _STUDY.c.study_instance_uid,
    )
    .join(_SERIES, _SERIES.c.id == _INSTANCE.c.series_id)
    .join(_STUDY, _STUDY.c.id == _SERIES.c.study_id)
    .where(_INSTANCE.c.sop_instance_uid.in_(bindparam("uids", expanding=True)))
)
_LOCKED_STUDY = (
    select(
        _STUDY.c.id,
        _STUDY.c.study_instance_uid,
        _STUDY.c.last_association_id,
        _STUDY.c.removed_at,
        _SERIES.c.series_instance_uid,
        _SERIES.c.id,
    )
    .outerjoin_from(
        _STUDY,
        _SERIES,
        (_SERIES.c.study_id == _STUDY.c.id) & _SERIES.c.series_instance_uid.in_(bindparam("series", expanding=True)),
    )
    .where(_STUDY.c.study_instance_uid == bindparam("uid"))
    .with_for_update(key_share=True, of=_STUDY)
)
_SERIES_ID = select(_SERIES.c.id).where(
    _SERIES.c.study_id == bindparam("study"), _SERIES.c.series_instance_uid == bindparam("uid")
)
_LINKED = select(_ASSOCIATION_STUDY.c.association_id).where(
    _ASSOCIATION_STUDY.c.study_id == bindparam("study"),
    _ASSOCIATION_STUDY.c.association_id.in_(bindparam("associations", expanding=True)),
)
_BRING_BACK = (
    update(_INSTANCE)
    .where(_INSTANCE.c.id == bindparam("held"))
    .values(
        path=bindparam("path"),
        association_id=bindparam("association"),
        received_at=bindparam("at"),
        held_by=bindparam("holder"),
        study_version=None,
        removed_at=None,
    )
)
_NOTE_ARRIVALS = (
    update(_STUDY)
    .where(_STUDY.c.id == bindparam("study"))
    .values(
        last_association_id=bindparam("association"),
        last_received_at=bindparam("at"),
        instances=_STUDY.c.instances - bindparam("from_versions"),
        removed_at=None,
    )
)


class _Held(NamedTuple):
    """An instance that the ledger holds."""

    sop_instance_uid: str
    id: int
    digest: str
    study_version: int | None
    removed_at: dt.datetime | None
    study_id: int
    study_instance_uid: str


@dataclass(slots=True)
class _Study:
    """A study that is locked to the end of the transaction, and what came for it."""

    id: int
    study_instance_uid: str
    last_association_id: str
    removed_at: dt.datetime | None
    series_ids: dict[str, int]
    senders: set[str] = field(default_factory=set)
    new_from: list[str] = field(default_factory=list)
    from_versions: int = 0
    """How many instances of its versions wait again."""


def _record(
    connection: Connection,
    instances: Sequence[ReceivedInstance],
    held: dict[str, _Held],
    at: dt.datetime,
    held_by: str | None,
) -> list[Reception] | None:
    """Record, or find (``None``) that the ledger holds more of them than ``held``: to be rolled back and done again."""
    first = {one.sop_instance_uid: one for one in reversed(instances)}
    new = [one for uid, one in first.items() if uid not in held]
    again = {
        one.sop_instance_uid
        for one in instances
        if one.sop_instance_uid in held and held[one.sop_instance_uid].digest == one.digest
    }
    of_study: dict[str, list[ReceivedInstance]] = {held[uid].study_instance_uid: [] for uid in again}
    for one in new:
        of_study.setdefault(one.study_instance_uid, []).append(one)
    studies = {uid: _locked_study(connection, uid, of_study[uid], at) for uid in sorted(of_study)}
    if again:
        # Retention may have removed them before their studies were locked, but not from here on.
        held |= _held(connection, again)
    if new and not _insert_instances(connection, new, studies, at, held_by):
        return None
    awaited = {one.sop_instance_uid for one in new} | {uid for uid in again if held[uid].removed_at is not None}
    receptions = []
    back = []
    for one in instances:
        uid = one.sop_instance_uid
        row = held.get(uid)
        kept = row or first[uid]
        if one.digest != kept.digest:
            study_id = studies[kept.study_instance_uid].id if row is None else row.study_id
            _record_conflict(connection, one, study_id, at)
            receptions.append(Reception.CONFLICT)
            continue
        study = studies[kept.study_instance_uid]
        # A sender that repeats a study is in mid-association for it too.
        study.senders.add(one.association_id)
        if uid not in awaited:
            receptions.append(Reception.DUPLICATE)
            continue
        awaited.remove(uid)
        study.new_from.append(one.association_id)
        receptions.append(Reception.NEW)
        if row is not None:
            study.from_versions += row.study_version is not None
            back.append(
                {"held": row.id, "path": one.path, "association": one.association_id, "at": at, "holder": held_by}
            )
    if back:
        connection.execute(_BRING_BACK, back)
    for study in studies.values():
        _link(connection, study, at)
        _note_arrivals(connection, study, at)
    return receptions


def _held(connection: Connection, uids: set[str]) -> dict[str, _Held]:
    return {row.sop_instance_uid: _Held(*row) for row in connection.execute(_HELD, {"uids": list(uids)})}


def _locked_study(connection: Connection, uid: str, new: Sequence[ReceivedInstance], at: dt.datetime) -> _Study:
    """Lock a study; create it, and the series, that new instances of it are the first of."""
    of_series = {one.series_instance_uid: one for one in new}
    study = _study(connection, uid, of_series)
    if study is None:
        association_id = new[0].association_id
        created = insert_if_absent(
            connection,
            _STUDY,
            {
                "study_instance_uid": uid,
                "version": 0,
                "instances": 0,
                "first_received_at": at,
                "last_received_at": at,
                "last_association_id": association_id,
            },
        )
        study = _study(connection, uid, of_series)
        assert study is not None
        if created:
            _insert_link(connection, study, association_id, at)
    for series_instance_uid in of_series.keys() - study.series_ids.keys():
        insert_if_absent(connection, _SERIES, series_values(study.id, of_series[series_instance_uid]))
        study.series_ids[series_instance_uid] = connection.execute(
            _SERIES_ID, {"study": study.id, "uid": series_instance_uid}
        ).scalar_one()
    return study


def _study(connection: Connection, uid: str, series: Iterable[str]) -> _Study | None:
    rows = connection.execute(_LOCKED_STUDY, {"uid": uid, "series": list(series)}).all()
    if not rows:
        return None
    return _Study(*rows[0][:4], series_ids={row[4]: row[5] for row in rows if row[4] is not None})


def _insert_instances(
    connection: Connection,
    new: Sequence[ReceivedInstance],
    studies: Mapping[str, _Study],
    at: dt.datetime,
    held_by: str | None,
) -> bool:
    """Insert instances; false when the ledger holds one of them."""
    rows = [(studies[one.study_instance_uid].series_ids[one.series_instance_uid], one) for one in new]
    return _insert(connection, _instance_rows(rows, at, held_by))


def _insert(connection: Connection, rows: list[dict[str, Any]]) -> bool:
    """Insert rows of instances; false when the ledger holds one of them."""
    result = connection.execute(
        absent_insert(connection.dialect.name, _INSTANCE),
        rows,
        execution_options={"preserve_rowcount": True},
    )
    return bool(result.rowcount == len(rows))


_RECEIVED_COLUMNS = frozenset(
    {
        "series_id",
        "sop_instance_uid",
        "sop_class_uid",
        "transfer_syntax_uid",
        "digest",
        "path",
        "size",
        "association_id",
        "received_at",
        "held_by",
        "facts",
    }
)


def _instance_rows(
    rows: Sequence[tuple[int, ReceivedInstance]], at: dt.datetime, held_by: str | None
) -> list[dict[str, Any]]:
    return [
        {
            "series_id": series_id,
            "sop_instance_uid": one.sop_instance_uid,
            "sop_class_uid": one.sop_class_uid,
            "transfer_syntax_uid": one.transfer_syntax_uid,
            "digest": one.digest,
            "path": one.path,
            "size": one.size,
            "association_id": one.association_id,
            "received_at": at,
            "held_by": held_by,
            "facts": dict(one.facts),
        }
        # In the order of their UIDs, whoever inserts: else two would wait for each other.
        for series_id, one in sorted(rows, key=lambda row: row[1].sop_instance_uid)
    ]


def series_values(study_id: int, one: ReceivedInstance) -> dict[str, Any]:
    """The row of the series that an instance is the first of."""
    return {
        "study_id": study_id,
        "series_instance_uid": one.series_instance_uid,
        "calling_ae_title": one.calling_ae_title,
        "modality": _text(one.modality, 16),
        "series_description": _text(one.series_description, 64),
        "study_description": _text(one.study_description, 64),
        "manufacturer": _text(one.manufacturer, 64),
        "body_part_examined": _text(one.body_part_examined, 16),
    }


def _text(value: str, length: int) -> str:
    # PostgreSQL refuses NUL in text; senders pad with it.
    return value.replace("\0", "").strip()[:length]


def _link(connection: Connection, study: _Study, at: dt.datetime) -> None:
    # The last association of a study is linked to it: most images follow one of the same association.
    unsure = study.senders - {study.last_association_id}
    if not unsure:
        return
    linked = connection.scalars(_LINKED, {"study": study.id, "associations": sorted(unsure)})
    for association_id in sorted(unsure.difference(linked)):
        _insert_link(connection, study, association_id, at)


def _insert_link(connection: Connection, study: _Study, association_id: str, at: dt.datetime) -> None:
    connection.execute(insert(_ASSOCIATION_STUDY), {"association_id": association_id, "study_id": study.id})
    # Not one an image: the table of events would outgrow that of the instances, which tell the rest.
    record_event(
        connection,
        "reception started",
        study.study_instance_uid,
        at=at,
        correlation_id=association_id,
        study_id=study.id,
    )


def _note_arrivals(connection: Connection, study: _Study, at: dt.datetime) -> None:
    last = study.last_association_id
    if study.new_from and last not in study.new_from:
        last = study.new_from[-1]
    if last != study.last_association_id or study.from_versions or (study.new_from and study.removed_at is not None):
        values = {"study": study.id, "association": last, "at": at, "from_versions": study.from_versions}
        connection.execute(_NOTE_ARRIVALS, values)


def _record_conflict(connection: Connection, one: ReceivedInstance, study_id: int, at: dt.datetime) -> None:
    record_event(
        connection,
        "instance conflict",
        one.sop_instance_uid,
        at=at,
        correlation_id=one.association_id,
        study_id=study_id,
        digest=one.digest,
    )
    # Its bytes are kept in quarantine, under another name.
    insert_if_absent(connection, cast(Table, ReleasedFileRow.__table__), {"path": one.path, "at": at})


def record_quarantine(ledger: Ledger, quarantined: QuarantinedObject, *, at: dt.datetime) -> None:
    """Record an object that was kept aside; the same bytes for the same reason are recorded once."""
    # Both may hold anything at all that a peer said, NUL included.
    sop_instance_uid, reason = _text(quarantined.sop_instance_uid or "", 64), _text(quarantined.reason, 200)
    with ledger.transaction() as session:
        insert_if_absent(
            session,
            cast(Table, QuarantineRow.__table__),
            {
                "digest": quarantined.digest,
                "path": quarantined.path,
                "reason": reason,
                "sop_instance_uid": sop_instance_uid or None,
                "association_id": quarantined.association_id,
                "job_id": quarantined.job_id,
                "at": at,
            },
        )
        record_event(
            session,
            "object quarantined",
            sop_instance_uid or quarantined.digest,
            at=at,
            correlation_id=quarantined.association_id,
            reason=reason,
        )
