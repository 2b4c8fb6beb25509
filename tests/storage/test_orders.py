"""Orders in the ledger, on both databases: kept once, changed, cancelled, found by accession number, forgotten."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from ledger_rows import NOW, an_instance, associate, route
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from storage.holdings import describe_study, undescribed_studies
from storage.instances import close_association, record_instances
from storage.jobs import create_jobs, study_contents
from storage.ledger import Ledger
from storage.orders import (
    CancelledOrder,
    Order,
    expire_orders,
    last_order_message,
    new_orders,
    note_considered,
    ordered_studies,
    orders_of_study,
    take_orders,
)
from storage.schema import OrderRow

ORDER = Order("A1", "4711", ("MRHEART",), ("STEMI, Größe ~ 3 cm",), ("I21.0",))


def numbers(ledger: Ledger) -> list[tuple[str, str]]:
    with ledger.reading() as session:
        return [
            (one.accession_number, one.order_number) for one in session.scalars(select(OrderRow).order_by(OrderRow.id))
        ]


def held_study(ledger: Ledger, uid: str, accession: str) -> None:
    association = associate(ledger)
    digest = f"{abs(hash(uid)):064x}"
    record_instances(ledger, [an_instance(association, 1, study=uid, series=f"{uid}.1", digest=digest)], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    (found,) = undescribed_studies(ledger, uid)
    describe_study(ledger, found.id, {"PatientID": "P1", "AccessionNumber": accession})


def test_a_message_does_what_it_says_once_and_in_its_order(ledger: Ledger) -> None:
    assert last_order_message(ledger) is None
    again = dataclasses.replace(ORDER, reasons=("NSTEMI",))
    assert take_orders(ledger, "a" * 64, [ORDER, CancelledOrder("", "4711"), again, Order("A1", "")], now=NOW)
    assert numbers(ledger) == [("A1", "4711"), ("A1", "")]
    assert take_orders(ledger, "b" * 64, [CancelledOrder("A1", "4711")], now=NOW)
    assert not take_orders(ledger, "a" * 64, [ORDER], now=NOW)
    assert numbers(ledger) == [("A1", "")]
    assert take_orders(ledger, "c" * 64, [Order("A2", "4711"), CancelledOrder("A1", "")], now=NOW)
    assert numbers(ledger) == [("A2", "4711")]
    # Nothing of a message that cannot be done whole.
    with pytest.raises(ValueError, match="needs a number"):
        take_orders(ledger, "d" * 64, [Order("A3", "1"), CancelledOrder("", "")], now=NOW)
    assert take_orders(ledger, "d" * 64, [Order("A4", "1")], now=NOW)
    assert numbers(ledger) == [("A2", "4711"), ("A4", "1")]
    assert last_order_message(ledger) == NOW


def test_a_study_has_the_orders_of_its_accession_number_and_of_no_other(ledger: Ledger) -> None:
    take_orders(ledger, "a" * 64, [ORDER, Order("A1", "4712"), Order("A2", "1")], now=NOW)
    held_study(ledger, "1.1", "A1")
    held_study(ledger, "1.2", "")
    held_study(ledger, "1.3", "A3")
    assert orders_of_study(ledger, "1.1") == (ORDER, Order("A1", "4712"))
    assert orders_of_study(ledger, "1.2") == orders_of_study(ledger, "1.3") == orders_of_study(ledger, "9.9") == ()
    assert create_jobs(ledger, study_contents(ledger, "1.1"), [route("cine", ("1.1.1",))], reason="test", now=NOW)
    studies = ordered_studies(ledger, ["A1", "A2", "A3", ""])
    assert [(one.accession_number, one.study_instance_uid, one.routes) for one in studies] == [
        ("A1", "1.1", {"cine"}),
        ("A3", "1.3", set()),
    ]


def test_an_order_that_changed_meanwhile_is_still_new(ledger: Ledger) -> None:
    take_orders(ledger, "a" * 64, [ORDER, Order("A2", "1")], now=NOW)
    seen = new_orders(ledger)
    assert [one.accession_number for one in seen] == ["A1", "A2"]
    later = NOW + dt.timedelta(seconds=1)
    take_orders(ledger, "b" * 64, [dataclasses.replace(ORDER, diagnoses=("I50",))], now=later)
    note_considered(ledger, seen, now=later)
    (left,) = new_orders(ledger)
    assert (left.accession_number, left.received_at) == ("A1", later)
    note_considered(ledger, [left], now=later)
    assert new_orders(ledger) == ()


def test_orders_and_messages_are_forgotten_in_time(ledger: Ledger) -> None:
    take_orders(ledger, "a" * 64, [ORDER], now=NOW)
    take_orders(ledger, "b" * 64, [Order("A2", "1")], now=NOW + dt.timedelta(days=2))
    assert expire_orders(ledger, retention=dt.timedelta(days=1), now=NOW + dt.timedelta(days=2)) == 1
    assert numbers(ledger) == [("A2", "1")]
    assert not take_orders(ledger, "b" * 64, [ORDER], now=NOW)
    assert take_orders(ledger, "a" * 64, [ORDER], now=NOW)


def test_two_orders_of_one_number_and_accession_number_cannot_be(ledger: Ledger) -> None:
    take_orders(ledger, "a" * 64, [ORDER], now=NOW)
    twice = {"procedures": [], "reasons": [], "diagnoses": [], "received_at": NOW}
    with pytest.raises(IntegrityError), ledger.transaction() as session:
        session.add(OrderRow(accession_number="A1", order_number="4711", **twice))
