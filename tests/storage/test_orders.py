"""Orders in the ledger, on both databases: kept once, changed, cancelled, found by accession number, forgotten."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from ledger_rows import NOW, an_instance, associate, route
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from storage.holdings import describe_study, undescribed_studies
from storage.identifiers import Issuer, OrderIdentity, PatientIdentifier, StudyIdentity
from storage.instances import close_association, record_instances
from storage.jobs import create_jobs, study_contents
from storage.ledger import Ledger
from storage.orders import (
    AmbiguousOrderError,
    CancelledOrder,
    Order,
    StudyOrders,
    WhyUnused,
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


def held_study(ledger: Ledger, uid: str, accession: str, identity: StudyIdentity | None = None) -> None:
    association = associate(ledger)
    digest = f"{abs(hash(uid)):064x}"
    record_instances(ledger, [an_instance(association, 1, study=uid, series=f"{uid}.1", digest=digest)], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    (found,) = undescribed_studies(ledger, uid)
    attributes = {"PatientID": "P1", "IssuerOfPatientID": "ST MARY", "AccessionNumber": accession}
    describe_study(ledger, found.id, attributes, identity=identity)


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
    assert orders_of_study(ledger, "1.1") == StudyOrders((ORDER, Order("A1", "4712")))
    for other in ("1.2", "1.3", "9.9"):
        assert orders_of_study(ledger, other) == StudyOrders()
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
        session.add(OrderRow(accession_number="A1", order_number="4711", namesake=0, **twice))


def patient(number: str, namespace: str = "", universal_id: str = "") -> PatientIdentifier:
    return PatientIdentifier(number, Issuer(namespace, universal_id))


MARY, JOHN = Issuer("ST MARY", "1.2.3"), Issuer("ST JOHN", "1.2.4")
IN_MARY = StudyIdentity((patient("0071", "ST MARY", "1.2.3"), patient("N9", "NATION")), MARY)
PATIENT, ZEROS, ISSUER = WhyUnused.PATIENT, WhyUnused.ZEROS, WhyUnused.ISSUER


def test_an_order_is_its_studys_where_nothing_that_both_state_contradicts(ledger: Ledger) -> None:
    held_study(ledger, "1.1", "A1", IN_MARY)
    # A study that states nothing is held against its accession number alone.
    held_study(ledger, "1.2", "A1", StudyIdentity())
    stated = (
        OrderIdentity((patient("0071"),), MARY, Issuer("RIS")),
        OrderIdentity((patient("71"),), MARY),
        OrderIdentity((patient("0072"),), MARY),
        OrderIdentity((), JOHN),
        OrderIdentity(),
    )
    orders = [Order("A1", str(number), identity=one) for number, one in enumerate(stated)]
    take_orders(ledger, "a" * 64, orders, now=NOW)
    found = orders_of_study(ledger, "1.1")
    assert [one.order_number for one in found.own] == ["0", "4"]
    assert [one.why for one in found.unused] == [ZEROS, PATIENT, ISSUER]
    assert [one.order_number for one in orders_of_study(ledger, "1.2").own] == ["0", "1", "2", "3", "4"]


def test_one_hospital_may_be_called_differently_where_a_person_says_so(ledger: Ledger) -> None:
    held_study(ledger, "1.1", "A1", IN_MARY)
    ours = OrderIdentity((patient("0071", "PAS"),), Issuer("RIS"))
    take_orders(ledger, "a" * 64, [dataclasses.replace(ORDER, identity=ours)], now=NOW)
    assert orders_of_study(ledger, "1.1").own == ()
    assert orders_of_study(ledger, "1.1", same_issuers=[("pas", "st mary", "RIS")]).own == (ORDER,)
    assert orders_of_study(ledger, "1.1", same_issuers=[("pas", "nation"), ("ris", "1.2.3")]).own == ()


def test_a_study_that_an_earlier_version_described_has_its_patient_id(ledger: Ledger) -> None:
    held_study(ledger, "1.1", "A1")
    for number, issuer, own in (("P1", "ST MARY", 1), ("P1", "ST JOHN", 0), ("P2", "", 0)):
        changed = dataclasses.replace(ORDER, order_number=number + issuer)
        changed = dataclasses.replace(changed, identity=OrderIdentity((patient(number, issuer),)))
        before = len(orders_of_study(ledger, "1.1").own)
        take_orders(ledger, f"{number}{issuer}", [changed], now=NOW)
        assert len(orders_of_study(ledger, "1.1").own) - before == own


def test_no_number_of_a_patient_stands_in_the_ledger_with_an_order(ledger: Ledger) -> None:
    mine = OrderIdentity((patient("4711-0815", "ST MARY"),))
    for number in "12":
        take_orders(ledger, number * 64, [Order("A1", number, identity=mine)], now=NOW)
    with ledger.reading() as session:
        rows = list(session.scalars(select(OrderRow)))
        assert "4711-0815" not in str([{**vars(one)} for one in rows])
        digests = [one.identity["patients"][0][0] for one in rows]
    # Nor can two orders of one patient be told by their digests.
    assert len(set(digests)) == 2
    assert all(len(one) == 64 for one in digests)


def of_patient(one: Order | CancelledOrder, number: str, issuer: str = "") -> Order | CancelledOrder:
    return dataclasses.replace(one, identity=OrderIdentity((patient(number),), number_issuer=Issuer(issuer)))


def diagnoses(ledger: Ledger) -> list[tuple[str, ...]]:
    with ledger.reading() as session:
        return [tuple(one.diagnoses) for one in session.scalars(select(OrderRow).order_by(OrderRow.id))]


def test_two_hospitals_may_have_an_order_of_the_same_numbers(ledger: Ledger) -> None:
    first, other = of_patient(ORDER, "1"), of_patient(dataclasses.replace(ORDER, diagnoses=("I50",)), "2")
    take_orders(ledger, "a" * 64, [first, other], now=NOW)
    assert diagnoses(ledger) == [("I21.0",), ("I50",)]
    take_orders(ledger, "b" * 64, [of_patient(dataclasses.replace(ORDER, diagnoses=("I42",)), "2")], now=NOW)
    assert diagnoses(ledger) == [("I21.0",), ("I42",)]
    # Who says too little is not believed to mean either; what only tells how one stands changes neither.
    with pytest.raises(AmbiguousOrderError):
        take_orders(ledger, "c" * 64, [ORDER], now=NOW)
    assert take_orders(ledger, "c" * 64, [dataclasses.replace(ORDER, whole=False)], now=NOW)
    assert diagnoses(ledger) == [("I21.0",), ("I42",)]
    take_orders(ledger, "d" * 64, [of_patient(CancelledOrder("", "4711"), "1")], now=NOW)
    assert diagnoses(ledger) == [("I42",)]
    take_orders(ledger, "e" * 64, [of_patient(CancelledOrder("", "4711"), "3")], now=NOW)
    assert diagnoses(ledger) == [("I42",)]
    take_orders(ledger, "f" * 64, [of_patient(ORDER, "1")], now=NOW)
    assert diagnoses(ledger) == [("I42",), ("I21.0",)]
    # A cancellation that says too little means all of them.
    take_orders(ledger, "0" * 64, [CancelledOrder("", "4711")], now=NOW)
    assert diagnoses(ledger) == []


def test_who_gave_the_number_tells_two_orders_apart_as_well(ledger: Ledger) -> None:
    one, other = (
        dataclasses.replace(ORDER, diagnoses=(system,), identity=OrderIdentity(number_issuer=Issuer(system)))
        for system in ("RIS", "PAS")
    )
    take_orders(ledger, "a" * 64, [one, other], now=NOW)
    assert diagnoses(ledger) == [("RIS",), ("PAS",)]
    # A patient that a later message does not name stays that of the order.
    take_orders(ledger, "b" * 64, [of_patient(one, "1", "RIS")], now=NOW)
    take_orders(ledger, "c" * 64, [one], now=NOW)
    held_study(ledger, "1.1", "A1", StudyIdentity((patient("2"),)))
    found = orders_of_study(ledger, "1.1")
    assert [each.diagnoses for each in found.own] == [("PAS",)]
    assert [each.why for each in found.unused] == [PATIENT]


def test_an_order_is_named_by_who_fills_it_as_well(ledger: Ledger) -> None:
    placed = dataclasses.replace(ORDER, filler_number="F8")
    take_orders(ledger, "a" * 64, [placed, Order("A1", "4712", filler_number="F8")], now=NOW)
    # Two that were placed apart are two, also where who fills them counts them as one.
    assert numbers(ledger) == [("A1", "4711"), ("A1", "4712")]
    take_orders(ledger, "b" * 64, [CancelledOrder("A1", "4712", "F8")], now=NOW)
    assert numbers(ledger) == [("A1", "4711")]
    take_orders(ledger, "c" * 64, [Order("A1", "F8", diagnoses=("I50",), filler_number="F8")], now=NOW)
    assert diagnoses(ledger) == [("I50",)]
    take_orders(ledger, "d" * 64, [CancelledOrder("", "F8", "F8")], now=NOW)
    assert numbers(ledger) == []
    # The number of who placed it comes to be known later.
    take_orders(ledger, "e" * 64, [Order("A1", "F8", diagnoses=("I50",), filler_number="F8")], now=NOW)
    take_orders(ledger, "f" * 64, [placed], now=NOW)
    assert numbers(ledger) == [("A1", "4711")]
    assert diagnoses(ledger) == [("I21.0",)]


def test_what_tells_how_an_order_stands_leaves_what_it_does_not_say(ledger: Ledger) -> None:
    take_orders(ledger, "a" * 64, [ORDER], now=NOW)
    take_orders(ledger, "b" * 64, [Order("A1", "4711", procedures=("MRHEART2",), whole=False)], now=NOW)
    held_study(ledger, "1.1", "A1")
    assert orders_of_study(ledger, "1.1").own == (dataclasses.replace(ORDER, procedures=("MRHEART2",)),)
    take_orders(ledger, "c" * 64, [Order("A1", "4711")], now=NOW)
    assert orders_of_study(ledger, "1.1").own == (Order("A1", "4711"),)
