"""Orders as a rule of routes: before the images, after them, changed and cancelled; and through real sockets."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from crash_parts import encoded, write_cine
from interop.ports import free_port, wait_until
from ledger_rows import NOW, an_instance, associate
from network.objects import mr_image, save
from network.running_node import SCANNER, configuration, receiver_thread
from pydantic import ValidationError
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from sqlalchemy import update
from structlog.testing import capture_logs

from dicom_node.audit.trail import AuditTrail
from dicom_node.config import (
    Configuration,
    ExecutionSettings,
    OrderRule,
    OrderSettings,
    Peer,
    Route,
    SeriesRule,
)
from dicom_node.config_file import mistakes_between_keys
from dicom_node.console.rules import rule_in_words
from dicom_node.corrections import Consent, run_route
from dicom_node.errors import NodeError
from dicom_node.execute.lanes import lanes
from dicom_node.execute.process import process_study
from dicom_node.execute.worker import Worker
from dicom_node.network.sender import ScuSettings, send_files
from dicom_node.schedule.routing import Series, explain
from dicom_node.schedule.scheduler import StudyScheduler, clean
from dicom_node.schedule.study import describe
from orders.infarct_package import NAME, infarct_package
from orders.order_messages import cancelled, infarct_order
from orders.order_server import Sender, order_server
from pipelines.cine.facts import frame_facts
from pipelines.indication import Indication
from storage.files import InstanceFiles
from storage.identifiers import NOBODY, Issuer, OrderIdentity, PatientIdentifier
from storage.identity import bind
from storage.instances import ReceivedInstance, close_association, record_instances
from storage.ledger import Ledger, open_ledger, utc_now
from storage.orders import CancelledOrder, Order, StudyOrders, new_orders, take_orders
from storage.overview import events_of_study, job_overviews
from storage.schema import InstanceRow, Verdict

INFARCT = SeriesRule(minimum_phases=None, order=OrderRule(diagnosis="I21.*"))
ORDER = Order("A1", "4711", ("MRHEART",), ("STEMI, day 4",), ("I21.0", "Acute transmural infarct"))
STUDY = "5.5"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")) as opened:
        yield opened


def asking(folder: Path, *rules: SeriesRule, port: int | None = 2575) -> Configuration:
    """A node of which one route asks for orders and another does not."""
    return configuration(
        folder,
        orders=OrderSettings(port=port, senders=("127.0.0.1",)),
        routes={
            "infarct": Route(series=rules or (INFARCT,), destinations=(), indication=Indication.ACUTE_INFARCT),
            "all": Route(series=(SeriesRule(minimum_phases=None),), destinations=()),
        },
    )


def received(
    ledger: Ledger, folder: Path, number: int = 1, *, accession: str = "A1", ended: bool = True, **header: object
) -> str:
    """An image of the study comes in; its association."""
    image = mr_image(study=STUDY, series=f"{STUDY}.1", seed=number)
    image.AccessionNumber = accession
    for keyword, value in header.items():
        setattr(image, keyword, value)
    (folder / "instances").mkdir(exist_ok=True)
    path = save(image, folder / "instances", f"{number}")
    association = associate(ledger)
    row = an_instance(association, number, study=STUDY, series=f"{STUDY}.1")
    fields = {name: getattr(row, name) for name in row.__slots__} | {"path": path.name, "facts": {}}
    record_instances(ledger, [ReceivedInstance(**fields)], at=NOW)
    if ended:
        close_association(ledger, association, outcome="released", at=NOW)
    return association


def take(ledger: Ledger, *changes: Order | CancelledOrder, at: dt.datetime = NOW) -> None:
    digest = f"{at.isoformat()} {changes}"[:64]
    assert take_orders(ledger, digest, changes, now=at)


def routes_run(ledger: Ledger) -> list[str]:
    return [one.route for one in reversed(job_overviews(ledger))]


def after(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


def test_an_order_that_came_before_the_images_lets_the_route_take_them(ledger: Ledger, tmp_path: Path) -> None:
    take(ledger, ORDER, Order("A2", "4712", diagnoses=("I50",)))
    received(ledger, tmp_path)
    scheduler = StudyScheduler(ledger, asking(tmp_path))
    assert len(scheduler.consider(after(30))) == 2
    assert routes_run(ledger) == ["infarct", "all"]
    assert new_orders(ledger) == ()
    assert scheduler.consider(after(31)) == ()


@pytest.mark.parametrize("accession", ["A2", "", "A9"])
def test_the_order_of_another_study_lets_no_route_take_it(ledger: Ledger, tmp_path: Path, accession: str) -> None:
    take(ledger, ORDER, Order("A2", "4712", diagnoses=("I50",)))
    received(ledger, tmp_path, accession=accession)
    assert len(StudyScheduler(ledger, asking(tmp_path)).consider(after(30))) == 1
    assert routes_run(ledger) == ["all"]


def test_an_order_that_comes_after_the_images_runs_what_it_asks_for_once(ledger: Ledger, tmp_path: Path) -> None:
    settings = asking(tmp_path)
    received(ledger, tmp_path)
    scheduler = StudyScheduler(ledger, settings)
    assert len(scheduler.consider(after(30))) == 1
    assert "order: none has come for this study" in str(describe(ledger, settings, STUDY, now=NOW).routes[0])
    take(ledger, ORDER)
    assert len(scheduler.consider(after(31))) == 1
    assert routes_run(ledger) == ["all", "infarct"]
    event = events_of_study(ledger, STUDY)[-1]
    assert (event.kind, event.detail["routes"], event.detail["by"]) == ("route run", ["infarct"], "scheduler")
    assert event.detail["reason"] == "an order came"
    take(ledger, ORDER, at=after(32))
    assert scheduler.consider(after(33)) == ()
    # A later image makes a new version, which both routes analyse.
    received(ledger, tmp_path, 2)
    assert len(StudyScheduler(ledger, settings).consider(after(60))) == 2
    assert routes_run(ledger) == ["all", "infarct", "infarct", "all"]


def test_an_order_that_comes_while_the_study_does_counts_when_it_is_scheduled(ledger: Ledger, tmp_path: Path) -> None:
    received(ledger, tmp_path)
    scheduler = StudyScheduler(ledger, asking(tmp_path))
    assert scheduler.consider(after(1)) == ()  # its headers are read
    take(ledger, ORDER)
    assert scheduler.consider(after(2)) == ()
    assert [one.accession_number for one in new_orders(ledger)] == ["A1"]
    association = received(ledger, tmp_path, 2, ended=False)
    assert scheduler.consider(after(30)) == ()
    close_association(ledger, association, outcome="released", at=NOW)
    assert len(scheduler.consider(after(31))) == 2
    assert routes_run(ledger) == ["infarct", "all"]
    assert scheduler.consider(after(32)) == ()
    assert new_orders(ledger) == ()


def test_an_order_that_is_changed_counts_as_it_is_now_and_one_that_is_cancelled_does_not(
    ledger: Ledger, tmp_path: Path
) -> None:
    settings = asking(tmp_path)
    take(ledger, Order("A1", "4711", diagnoses=("I50",)))
    received(ledger, tmp_path)
    scheduler = StudyScheduler(ledger, settings)
    scheduler.consider(after(30))
    assert routes_run(ledger) == ["all"]
    take(ledger, ORDER, at=after(31))
    scheduler.consider(after(32))
    assert routes_run(ledger) == ["all", "infarct"]
    take(ledger, CancelledOrder("", "4711"), at=after(33))
    received(ledger, tmp_path, 2)
    assert len(StudyScheduler(ledger, settings).consider(after(60))) == 1
    assert routes_run(ledger)[2:] == ["all"]


def test_orders_wait_while_no_route_asks_for_any_and_the_storage_is_away(ledger: Ledger, tmp_path: Path) -> None:
    take(ledger, ORDER)
    received(ledger, tmp_path)
    plain = asking(tmp_path, SeriesRule(minimum_phases=None, manufacturer="NOBODY"))
    scheduler = StudyScheduler(ledger, plain)
    assert len(scheduler.consider(after(30))) == 1
    assert len(new_orders(ledger)) == 1
    # Another image, so that its header has to be read: and then the files cannot be.
    (tmp_path / "instances").rename(tmp_path / "away")
    with ledger.transaction() as session:
        session.execute(update(InstanceRow).values(facts={}))
    scheduler.renew(asking(tmp_path))
    assert scheduler.consider(after(31)) == ()
    (tmp_path / "away").rename(tmp_path / "instances")
    assert scheduler.consider(after(32)) == ()  # not tried again at once
    assert len(new_orders(ledger)) == 1
    assert len(scheduler.consider(after(62))) == 1
    assert routes_run(ledger) == ["all", "infarct"]


def designator(namespace: str, universal_id: str) -> Sequence:
    item = Dataset()
    item.LocalNamespaceEntityID = namespace
    item.UniversalEntityID, item.UniversalEntityIDType = universal_id, "ISO"
    return Sequence([item])


def other_number(number: str, issuer: str) -> Sequence:
    item = Dataset()
    item.PatientID, item.IssuerOfPatientID, item.TypeOfPatientID = number, issuer, "TEXT"
    return Sequence([item])


def of_infarct(*patients: PatientIdentifier, issuer: Issuer = NOBODY) -> Order:
    return replace(ORDER, identity=OrderIdentity(patients, issuer))


HEADER = {
    "PatientID": "P-77",
    "IssuerOfPatientID": "ST MARY",
    "OtherPatientIDsSequence": other_number("N-9", "NATION"),
    "IssuerOfAccessionNumberSequence": designator("MARY RIS", "1.2.3"),
}


PATIENT = ("patient", "the patient differs")
ZEROS = (
    "number of the patient by leading zeros alone",
    "the number of the patient differs, by leading zeros alone",
)
ISSUER = ("issuer of the accession number", "the issuer of the accession number differs")


@pytest.mark.parametrize(
    ("order", "differs"),
    [
        (of_infarct(PatientIdentifier("P-77", Issuer("ST MARY"))), None),
        (of_infarct(PatientIdentifier("4"), PatientIdentifier("N-9", Issuer("NATION"))), None),
        (of_infarct(issuer=Issuer("OTHER NAME", "1.2.3")), None),
        (of_infarct(PatientIdentifier("P-78", Issuer("ST MARY"))), PATIENT),
        (of_infarct(PatientIdentifier("P-77", Issuer("ST JOHN"))), PATIENT),
        # As one of two systems pads: no reason to take one patient for another, and one to look.
        (of_infarct(PatientIdentifier("00P-77", Issuer("ST MARY"))), ZEROS),
        (of_infarct(PatientIdentifier("0P-77", Issuer("ST JOHN"))), PATIENT),
        (of_infarct(PatientIdentifier("P-77"), issuer=Issuer("JOHN RIS")), ISSUER),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_an_order_of_somebody_else_under_the_same_accession_number_is_not_used_and_that_is_told(
    ledger: Ledger, tmp_path: Path, order: Order, differs: tuple[str, str] | None, late: bool
) -> None:
    settings = asking(tmp_path)
    scheduler = StudyScheduler(ledger, settings)
    if not late:
        take(ledger, order)
    received(ledger, tmp_path, **HEADER)
    with capture_logs() as lines:
        scheduler.consider(after(30))
        if late:
            take(ledger, order, at=after(31))
        scheduler.consider(after(32))
        scheduler.consider(after(33))
    assert ("infarct" in routes_run(ledger)) is (differs is None)
    assert new_orders(ledger) == ()
    told = [one for one in events_of_study(ledger, STUDY) if one.kind == "order not used"]
    logged = [one for one in lines if one["event"].startswith("order not used")]
    described = str(describe(ledger, settings, STUDY, now=NOW).routes[0])
    if differs is None:
        assert told == logged == []
        assert "is not used" not in described
    else:
        assert [one.detail for one in told] == [{"orders": 1, "differs": differs[0]}]
        assert [(one["study_instance_uid"], one["differs"]) for one in logged] == [(STUDY, differs[0])]
        assert f"1 under its accession number is not used, as {differs[1]}" in described
    for secret in ("P-7", "N-9", "MARY", "JOHN", "4711", "STEMI", "I21.0"):
        assert secret not in f"{told} {lines} {described}"


def test_the_order_of_ones_own_is_used_beside_that_of_somebody_else(ledger: Ledger, tmp_path: Path) -> None:
    other = of_infarct(PatientIdentifier("P-78", Issuer("ST MARY")))
    own = replace(of_infarct(PatientIdentifier("P-77", Issuer("ST MARY"))), diagnoses=("I50",))
    take(ledger, other, own)
    received(ledger, tmp_path, **HEADER)
    scheduler = StudyScheduler(ledger, asking(tmp_path))
    scheduler.consider(after(30))
    assert routes_run(ledger) == ["all"]
    take(ledger, replace(own, diagnoses=("I21.0",)), at=after(31))
    scheduler.consider(after(32))
    assert routes_run(ledger) == ["all", "infarct"]
    # The one that was not used is told once, not with each message about the other.
    assert len([one for one in events_of_study(ledger, STUDY) if one.kind == "order not used"]) == 1


def test_a_hospital_that_is_called_differently_in_orders_has_to_be_named(ledger: Ledger, tmp_path: Path) -> None:
    settings = asking(tmp_path)
    named = settings.orders.model_copy(update={"same_issuers": (("PAS", "ST MARY"),)})
    settings = settings.model_copy(update={"orders": named})
    take(ledger, of_infarct(PatientIdentifier("P-77", Issuer("PAS"))))
    received(ledger, tmp_path, **HEADER)
    StudyScheduler(ledger, settings).consider(after(30))
    assert routes_run(ledger) == ["infarct", "all"]


def test_a_study_that_one_route_leaves_to_that_of_its_order_is_analysed_by_one_of_them(
    ledger: Ledger, tmp_path: Path
) -> None:
    settings = asking(tmp_path)
    left = settings.routes["all"].model_copy(update={"leaves_to": frozenset({"infarct"})})
    settings = settings.model_copy(update={"routes": {**settings.routes, "all": left}})
    take(ledger, ORDER)
    received(ledger, tmp_path)
    scheduler = StudyScheduler(ledger, settings)
    scheduler.consider(after(30))
    assert routes_run(ledger) == ["infarct"]
    take(ledger, CancelledOrder("A1", "4711"), at=after(31))
    received(ledger, tmp_path, 2)
    scheduler.consider(after(60))
    assert routes_run(ledger) == ["infarct", "all"]


def test_an_accession_number_that_cannot_be_read_now_is_not_taken_for_none(ledger: Ledger, tmp_path: Path) -> None:
    settings = asking(tmp_path)
    take(ledger, ORDER)
    received(ledger, tmp_path)
    with ledger.transaction() as session:
        session.execute(update(InstanceRow).values(facts=frame_facts(mr_image()).to_json()))
    image = tmp_path / "instances" / "1.dcm"
    image.rename(tmp_path / "away.dcm")
    scheduler = StudyScheduler(ledger, settings)
    assert scheduler.consider(after(30)) == ()
    (tmp_path / "away.dcm").rename(image)
    assert len(scheduler.consider(after(61))) == 2
    assert routes_run(ledger) == ["infarct", "all"]


def test_a_person_runs_the_route_of_an_order_by_hand_and_is_told_without_one(ledger: Ledger, tmp_path: Path) -> None:
    settings = asking(tmp_path)
    received(ledger, tmp_path)
    StudyScheduler(ledger, settings).consider(after(30))
    given = Consent("ann", "here", "told by telephone")
    with contextlib.closing(AuditTrail.of(settings, "console")) as trail:
        with pytest.raises(NodeError, match="takes no series"):
            run_route(settings, ledger, trail, STUDY, "infarct", given)
        take(ledger, ORDER)
        assert len(run_route(settings, ledger, trail, STUDY, "infarct", given)) == 1


def test_retention_forgets_orders(ledger: Ledger, tmp_path: Path) -> None:
    settings = asking(tmp_path)
    take(ledger, ORDER)
    files = InstanceFiles(settings.storage.directory)
    bind(ledger, files, now=NOW)
    for days, left in ((59, 1), (61, 0)):
        clean(ledger, files, settings, NOW + dt.timedelta(days=days))
        assert len(new_orders(ledger)) == left


SERIES = Series("1.1", "MR1", "MR", "cine", "Heart", "SIEMENS", "HEART", phases=25, slices=9, own_output=False)


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        (OrderRule(diagnosis="I21.*"), True),
        (OrderRule(diagnosis="I21"), False),
        (OrderRule(reason="(?i).*stemi.*"), True),
        (OrderRule(procedure="MRHEART", reason=".*STEMI.*", diagnosis="Acute .*"), True),
        (OrderRule(procedure="CTHEART", diagnosis="I21.*"), False),
        # Each of two orders has one of them, and neither both.
        (OrderRule(procedure="OTHER", diagnosis="I21.*"), False),
    ],
)
def test_one_order_has_to_match_all_that_a_rule_asks_and_no_sentence_quotes_it(rule: OrderRule, taken: bool) -> None:
    orders = StudyOrders((Order("A1", "0", ("OTHER",)), ORDER))
    (explained,) = explain({"infarct": Route(series=(SeriesRule(order=rule),), destinations=())}, [SERIES], orders)
    assert bool(explained.series_instance_uids) is taken
    check = explained.series[0].rules[0].checks[-1]
    assert (check.key, check.matched) == ("order", taken)
    assert check.sentence.startswith(f"order: 2 have come, {'one' if taken else 'none'} matches ")
    for secret in ("A1", "4711", "day 4", "transmural"):
        assert secret not in str(explained)


def test_a_rule_for_orders_is_told_in_words_and_refused_where_it_could_never_hold(tmp_path: Path) -> None:
    rule = SeriesRule(order=OrderRule(reason=".*STEMI.*", diagnosis="I21.*"))
    assert "of a study with an order whose reason is like “.*STEMI.*” and diagnosis is like “I21.*”" in rule_in_words(
        rule
    )
    with pytest.raises(ValidationError, match="at least one of 'procedure', 'reason', 'diagnosis'"):
        OrderRule()
    with pytest.raises(ValidationError, match="name in 'senders'"):
        OrderSettings(port=2575)
    with pytest.raises(ValidationError, match=r"an IP address, or a network such as 10\.0\.0\.0/24"):
        OrderSettings(senders=("ris.example",))
    for names in (("PAS",), ("PAS", " ")):
        with pytest.raises(ValidationError, match="same_issuers"):
            OrderSettings(same_issuers=(names,))
    (mistake,) = [one for one in mistakes_between_keys(asking(tmp_path, port=None)) if "order" in str(one.keys)]
    assert mistake.keys == (("routes", "infarct", "series", 0, "order"),)
    assert "set orders.port" in mistake.sentence


def test_from_the_order_and_the_images_to_an_analysis_that_is_for_acute_infarcts_only(tmp_path: Path) -> None:
    """MLLP, C-STORE, the scheduler and a worker: with the order the analysis is made, without it declines."""
    with infarct_package(tmp_path / "own"):
        _from_the_order_to_the_results(tmp_path)


def _from_the_order_to_the_results(folder: Path) -> None:
    infarct = SeriesRule(order=OrderRule(reason=".*STEMI.*"))
    node = configuration(
        folder,
        peers={"scanner": Peer(ae_title=SCANNER)},
        orders=OrderSettings(address="127.0.0.1", port=free_port(), senders=("127.0.0.1",)),
        routes={
            "infarct": Route(series=(infarct,), destinations=(), analyses=(NAME,), indication=Indication.ACUTE_INFARCT),
            "heart": Route(destinations=(), analyses=(NAME,)),
        },
        execution=ExecutionSettings(
            quiet_time_s=0.1, incomplete_quiet_time_s=0.1, complete_quiet_time_s=0.1, background_slots=0
        ),
    )
    studies = {}
    with receiver_thread(node) as receiver, order_server(node) as port, Sender(port) as sender:
        assert sender.send(infarct_order("ACC-1", number="1", control_id="1"))[1][1] == "AA"
        assert sender.send(infarct_order("ACC-2", number="2", control_id="2"))[1][1] == "AA"
        assert sender.send(cancelled("2", control_id="3"))[1][1] == "AA"
        here = Peer(ae_title="NODE", host="127.0.0.1", port=receiver.port)
        for accession in ("ACC-1", "ACC-2"):
            paths = write_cine(folder / accession, accession)
            for path in paths:
                image = dcmread(path)
                image.AccessionNumber, image.PatientID = accession, "P1"
                path.write_bytes(encoded(image))
            assert all(one.error is None for one in send_files(paths, here, ScuSettings(SCANNER)))
            studies[str(image.StudyInstanceUID)] = accession
    with contextlib.closing(open_ledger(node.storage.database)) as ledger:
        files = InstanceFiles(node.storage.directory)
        bind(ledger, files, now=utc_now())
        scheduler, created = StudyScheduler(ledger, node), set[int]()

        def scheduled() -> bool:
            created.update(scheduler.consider(utc_now()))
            return len(created) == 3

        wait_until(scheduled, seconds=60, what="both studies are scheduled")
        worker = Worker(ledger, files, node, "w", lanes(node.execution)[0], process_study)
        while worker.work_once():
            pass
        ended = {
            (studies[one.study_instance_uid], one.route): (one.verdict, *one.sentences, *one.key_numbers)
            for one in job_overviews(ledger)
            if one.package == NAME
        }
    declined = (
        Verdict.DECLINED,
        "The number of slices is estimated only where the route says that the patient has an acute infarct; the route "
        "states no indication.",
    )
    assert ended == {
        ("ACC-1", "infarct"): (Verdict.DELIVERED, "3 slices."),
        ("ACC-1", "heart"): declined,
        ("ACC-2", "heart"): declined,
    }
