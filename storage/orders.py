"""Orders of examinations: what information systems say of why a patient is examined, until it is no longer wanted.

All of it but the times is patient data: it stands in no event, and nobody writes it into a log.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import ColumnElement, Table, delete, func, or_, select, update
from sqlalchemy.orm import Session

from storage.holdings import identity_of_study
from storage.identifiers import UNSTATED, KeptIdentity, OrderIdentity, SameIssuers, StudyIdentity, same_issuer
from storage.ledger import Ledger, LedgerError, insert_if_absent, record_event
from storage.schema import JobRow, OrderMessageRow, OrderRow, StudyAttributesRow, StudyRow

__all__ = [
    "NO_ORDERS",
    "AmbiguousOrderError",
    "CancelledOrder",
    "NewOrder",
    "Order",
    "OrderedStudy",
    "StudyOrders",
    "UnusedOrder",
    "WhyUnused",
    "expire_orders",
    "last_order_message",
    "new_orders",
    "note_considered",
    "note_unused",
    "ordered_studies",
    "orders_of_study",
    "take_orders",
]

_AT_ONCE = 500


class AmbiguousOrderError(LedgerError):
    """A message changes an order, and says too little to tell which of several that share its numbers."""


@dataclass(frozen=True, slots=True)
class Order:
    """What one order says.

    Attributes
    ----------
    accession_number
        Of the examination that it asks for; 64 characters at most.
    order_number
        Tells orders of one accession number apart; 200 characters at most, empty where it has none. That of who placed
        it, or else of who fills it.
    procedures, reasons, diagnoses
        Codes and texts, each by itself.
    filler_number
        Of who fills it, by which it may be named as well; 200 characters at most.
    identity
        Whose it is. Not given back by the ledger.
    whole
        Whether it says all there is. What only tells how the order stands leaves be what it does not say.
    """

    accession_number: str
    order_number: str
    procedures: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    diagnoses: tuple[str, ...] = ()
    filler_number: str = ""
    identity: OrderIdentity = UNSTATED
    whole: bool = True


@dataclass(frozen=True, slots=True)
class CancelledOrder:
    """An order that holds no longer: by a number, its accession number, or both; one of them is not empty."""

    accession_number: str
    order_number: str
    filler_number: str = ""
    identity: OrderIdentity = UNSTATED


class WhyUnused(enum.StrEnum):
    """What an order and a study of its accession number both state, and differ in."""

    PATIENT = "patient"
    ZEROS = "number of the patient by leading zeros alone"
    ISSUER = "issuer of the accession number"


@dataclass(frozen=True, slots=True)
class UnusedOrder:
    """An order under the accession number of a study that is not its own."""

    id: int
    why: WhyUnused


@dataclass(frozen=True, slots=True)
class StudyOrders:
    """The orders under the accession number of a study: those that are its own, and those that cannot be."""

    own: tuple[Order, ...] = ()
    unused: tuple[UnusedOrder, ...] = ()


NO_ORDERS = StudyOrders()


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


def take_orders(
    ledger: Ledger,
    digest: str,
    changes: Sequence[Order | CancelledOrder],
    *,
    now: dt.datetime,
    same_issuers: SameIssuers = (),
) -> bool:
    """Do what a message says, in its order and all of it or nothing.

    Parameters
    ----------
    digest
        sha256 over the sender, the control ID and the content of the message.
    same_issuers
        Groups of names of one issuer.

    Returns
    -------
    bool
        False, and nothing changed, when the same message was accepted before.

    Raises
    ------
    AmbiguousOrderError
        It does not tell which of several orders it changes.
    """
    with ledger.transaction() as session:
        message = {"digest": digest, "received_at": now}
        if not insert_if_absent(session, cast(Table, OrderMessageRow.__table__), message):
            return False
        for one in changes:
            if isinstance(one, CancelledOrder):
                for row in _meant(session, one, same_issuers):
                    session.delete(row)
            else:
                _keep(session, one, now, same_issuers)
            session.flush()
        return True


def _meant(session: Session, one: Order | CancelledOrder, same: SameIssuers) -> list[OrderRow]:
    """Orders that share the numbers which a message gives, and that nothing it states contradicts."""
    rows = session.scalars(select(OrderRow).where(*_named(one)).order_by(OrderRow.id).with_for_update()).all()
    return [row for row in rows if KeptIdentity.from_json(row.identity).may_be(one.identity, same)]


def _named(one: Order | CancelledOrder) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if one.accession_number:
        conditions.append(OrderRow.accession_number == one.accession_number)
    if isinstance(one, Order) or one.order_number or one.filler_number:
        by_number = OrderRow.order_number == one.order_number
        if one.filler_number:
            # By the number of who fills it where one side has no other: orders of several placers may share that.
            by_filler = OrderRow.filler_number == one.filler_number
            if one.order_number not in ("", one.filler_number):
                by_filler &= OrderRow.order_number == OrderRow.filler_number
            by_number = or_(by_number, by_filler)
        conditions.append(by_number)
    if not conditions:
        raise ValueError("a cancelled order needs a number or an accession number")
    return conditions


def _keep(session: Session, one: Order, now: dt.datetime, same: SameIssuers) -> None:
    meant = _meant(session, one, same)
    if len(meant) > 1:
        if not one.whole:
            return
        raise AmbiguousOrderError("the message fits several orders that share its numbers")
    row = meant[0] if meant else OrderRow(accession_number=one.accession_number, filler_number="", identity={})
    if not meant or (row.order_number == row.filler_number != one.order_number):
        row.namesake = _next_namesake(session, one)
        row.order_number = one.order_number
    session.add(row)
    row.identity = KeptIdentity.from_json(row.identity).with_all_of(one.identity).to_json()
    row.filler_number = one.filler_number or row.filler_number
    if one.whole or one.procedures or not meant:
        row.procedures = list(one.procedures)
    if one.whole or one.reasons or not meant:
        row.reasons = list(one.reasons)
    if one.whole or one.diagnoses or not meant:
        row.diagnoses = list(one.diagnoses)
    row.received_at, row.considered_at = now, None


def _next_namesake(session: Session, one: Order) -> int:
    # Two processes that take the first at once get the same: the constraint refuses one, and its sender comes again.
    last = session.scalar(
        select(func.max(OrderRow.namesake)).where(
            OrderRow.accession_number == one.accession_number, OrderRow.order_number == one.order_number
        )
    )
    return 0 if last is None else last + 1


def orders_of_study(ledger: Ledger, study_instance_uid: str, *, same_issuers: SameIssuers = ()) -> StudyOrders:
    """Orders of the accession number of a study; none of one that is not described, or has no accession number.

    Described means :func:`storage.holdings.describe_study`. An order of another patient, or of an accession number that
    another system gave, is not the study's, where both state that.
    """
    with ledger.reading() as session:
        row = session.scalar(
            select(StudyAttributesRow)
            .join(StudyRow, StudyRow.id == StudyAttributesRow.study_id)
            .where(StudyRow.study_instance_uid == study_instance_uid)
        )
        accession = "" if row is None else row.attributes.get("AccessionNumber", "")
        if row is None or not accession:
            return NO_ORDERS
        study = identity_of_study(row)
        own: list[Order] = []
        unused: list[UnusedOrder] = []
        for one in session.scalars(
            select(OrderRow).where(OrderRow.accession_number == accession).order_by(OrderRow.id)
        ):
            why = _why_unused(KeptIdentity.from_json(one.identity), study, same_issuers)
            if why is not None:
                unused.append(UnusedOrder(one.id, why))
                continue
            own.append(
                Order(
                    one.accession_number,
                    one.order_number,
                    tuple(one.procedures),
                    tuple(one.reasons),
                    tuple(one.diagnoses),
                    one.filler_number,
                )
            )
        return StudyOrders(tuple(own), tuple(unused))


def _why_unused(order: KeptIdentity, study: StudyIdentity, same: SameIssuers) -> WhyUnused | None:
    if order.same_patient(study.patients, same) is False:
        return WhyUnused.ZEROS if order.same_but_for_zeros(study.patients, same) else WhyUnused.PATIENT
    if same_issuer(order.accession_issuer, study.accession_issuer, same) is False:
        return WhyUnused.ISSUER
    return None


def note_unused(ledger: Ledger, study_instance_uid: str, orders: Sequence[UnusedOrder], *, now: dt.datetime) -> None:
    """Record with a study that some orders of its accession number are not used for it, and why."""
    with ledger.transaction() as session:
        study_id = session.scalar(select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid))
        for why in WhyUnused:
            count = sum(one.why is why for one in orders)
            if count:
                record_event(
                    session, "order not used", study_instance_uid, at=now, study_id=study_id, orders=count, differs=why
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
