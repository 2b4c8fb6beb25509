"""Orders of examinations: what information systems say of why a patient is examined, until it is no longer wanted.

All of it but the times is patient data: it stands in no event, and nobody writes it into a log.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import ColumnElement, Table, delete, func, select, update
from sqlalchemy.orm import Session

from storage.ledger import Ledger, insert_if_absent
from storage.schema import JobRow, OrderMessageRow, OrderRow, StudyAttributesRow, StudyRow

__all__ = [
    "CancelledOrder",
    "NewOrder",
    "Order",
    "OrderedStudy",
    "expire_orders",
    "last_order_message",
    "new_orders",
    "note_considered",
    "ordered_studies",
    "orders_of_study",
    "take_orders",
]

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Order:
    """What one order says.

    Attributes
    ----------
    accession_number
        Of the examination that it asks for; 64 characters at most.
    order_number
        Tells orders of one accession number apart; 200 characters at most, empty where it has none.
    procedures, reasons, diagnoses
        Codes and texts, each by itself.
    """

    accession_number: str
    order_number: str
    procedures: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    diagnoses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CancelledOrder:
    """An order that holds no longer: by its number, its accession number, or both; one of them is not empty."""

    accession_number: str
    order_number: str


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order that the studies which are held are still to be held against."""

    id: int
    accession_number: str
    received_at: dt.datetime


@dataclass(frozen=True, slots=True)
class OrderedStudy:
    """A held study of an accession number."""

    accession_number: str
    study_instance_uid: str
    routes: frozenset[str]
    """That have had jobs of its present version."""


def take_orders(ledger: Ledger, digest: str, changes: Sequence[Order | CancelledOrder], *, now: dt.datetime) -> bool:
    """Do what a message says, in its order and all of it or nothing.

    Parameters
    ----------
    digest
        sha256 over the sender, the control ID and the content of the message.

    Returns
    -------
    bool
        False, and nothing changed, when the same message was accepted before.
    """
    with ledger.transaction() as session:
        message = {"digest": digest, "received_at": now}
        if not insert_if_absent(session, cast(Table, OrderMessageRow.__table__), message):
            return False
        for one in changes:
            if isinstance(one, CancelledOrder):
                session.execute(delete(OrderRow).where(*_cancelled(one)))
            else:
                _keep(session, one, now)
            session.flush()
        return True


def _cancelled(one: CancelledOrder) -> list[ColumnElement[bool]]:
    given = ((OrderRow.order_number, one.order_number), (OrderRow.accession_number, one.accession_number))
    conditions = [column == value for column, value in given if value]
    if not conditions:
        raise ValueError("a cancelled order needs a number or an accession number")
    return conditions


def _keep(session: Session, one: Order, now: dt.datetime) -> None:
    row = session.scalar(
        select(OrderRow)
        .where(OrderRow.accession_number == one.accession_number, OrderRow.order_number == one.order_number)
        .with_for_update()
    )
    if row is None:
        row = OrderRow(accession_number=one.accession_number, order_number=one.order_number)
        session.add(row)
    row.procedures, row.reasons, row.diagnoses = list(one.procedures), list(one.reasons), list(one.diagnoses)
    row.received_at, row.considered_at = now, None


def orders_of_study(ledger: Ledger, study_instance_uid: str) -> tuple[Order, ...]:
    """Orders of the accession number of a study; none of one that is not described, or has no accession number.

    Described means :func:`storage.holdings.describe_study`.
    """
    accession = StudyAttributesRow.attributes["AccessionNumber"].as_string()
    with ledger.reading() as session:
        of_study = session.scalar(
            select(accession)
            .join(StudyRow, StudyRow.id == StudyAttributesRow.study_id)
            .where(StudyRow.study_instance_uid == study_instance_uid)
        )
        if not of_study:
            return ()
        rows = session.scalars(select(OrderRow).where(OrderRow.accession_number == of_study).order_by(OrderRow.id))
        return tuple(
            Order(
                row.accession_number,
                row.order_number,
                tuple(row.procedures),
                tuple(row.reasons),
                tuple(row.diagnoses),
            )
            for row in rows
        )


def new_orders(ledger: Ledger) -> tuple[NewOrder, ...]:
    """Orders that came or changed since the studies which are held were held against them; quick to ask."""
    with ledger.reading() as session:
        rows = session.execute(
            select(OrderRow.id, OrderRow.accession_number, OrderRow.received_at)
            .where(OrderRow.considered_at.is_(None))
            .order_by(OrderRow.id)
        )
        return tuple(NewOrder(*row) for row in rows)


def ordered_studies(ledger: Ledger, accession_numbers: Collection[str]) -> tuple[OrderedStudy, ...]:
    """Held and described studies of some accession numbers."""
    accession = StudyAttributesRow.attributes["AccessionNumber"].as_string()
    wanted = sorted({one for one in accession_numbers if one})
    found: list[OrderedStudy] = []
    with ledger.reading() as session:
        for start in range(0, len(wanted), _AT_ONCE):
            rows = session.execute(
                select(accession, StudyRow.id, StudyRow.study_instance_uid, StudyRow.version)
                .join(StudyRow, StudyRow.id == StudyAttributesRow.study_id)
                .where(accession.in_(wanted[start : start + _AT_ONCE]), StudyRow.removed_at.is_(None))
                .order_by(StudyRow.id)
            ).all()
            found += [OrderedStudy(one, uid, _routes(session, row, version)) for one, row, uid, version in rows]
    return tuple(found)


def _routes(session: Session, study_id: int, version: int) -> frozenset[str]:
    return frozenset(
        session.scalars(
            select(JobRow.route).where(JobRow.study_id == study_id, JobRow.study_version == version).distinct()
        )
    )


def note_considered(ledger: Ledger, orders: Sequence[NewOrder], *, now: dt.datetime) -> None:
    """Record that the studies which are held have been held against some orders, unless these changed meanwhile."""
    if not orders:
        return
    with ledger.transaction() as session:
        for one in orders:
            session.execute(
                update(OrderRow)
                .where(OrderRow.id == one.id, OrderRow.received_at == one.received_at)
                .values(considered_at=now)
            )


def last_order_message(ledger: Ledger) -> dt.datetime | None:
    """When the last message about orders was accepted, of those that are remembered."""
    with ledger.reading() as session:
        return session.scalar(select(func.max(OrderMessageRow.received_at)))


def expire_orders(ledger: Ledger, *, retention: dt.timedelta, now: dt.datetime) -> int:
    """Forget orders and messages that came longer ago than ``retention``; returns how many orders."""
    before = now - retention
    with ledger.transaction() as session:
        session.execute(delete(OrderMessageRow).where(OrderMessageRow.received_at < before))
        return len(session.scalars(delete(OrderRow).where(OrderRow.received_at < before).returning(OrderRow.id)).all())
