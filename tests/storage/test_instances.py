"""Reception: what is recorded, once, whoever sends it how often."""

from __future__ import annotations

import concurrent.futures

import pytest
from ledger_rows import NOW, an_instance, associate
from sqlalchemy import func, select

from storage.instances import (
    QuarantinedObject,
    Reception,
    close_abandoned_associations,
    close_association,
    record_instances,
    record_quarantine,
    stored_digest,
)
from storage.jobs import studies_to_consider, study_contents
from storage.ledger import Ledger, LedgerError
from storage.overview import events_of_study, quarantine_overviews
from storage.schema import Association, InstanceRow, SeriesRow, StudyRow


def test_a_new_instance_is_recorded_with_its_event(ledger: Ledger) -> None:
    association = associate(ledger)
    assert record_instances(ledger, [an_instance(association, 1)], at=NOW) == [Reception.NEW]
    (event,) = events_of_study(ledger, "1.2.3")
    assert (event.kind, event.correlation_id, event.subject) == ("reception started", association, "1.2.3")
    (series,) = study_contents(ledger, "1.2.3").series
    assert series.series_description == "cine SAX"  # padding NUL stripped
    assert series.facts == ({"planes": []},)


def test_same_bytes_again_are_a_duplicate_and_nothing_new(ledger: Ledger) -> None:
    association = associate(ledger)
    record_instances(ledger, [an_instance(association, 1)], at=NOW)
    assert record_instances(ledger, [an_instance(association, 1)], at=NOW) == [Reception.DUPLICATE]
    assert len(events_of_study(ledger, "1.2.3")) == 1
    assert study_contents(ledger, "1.2.3").instances == 1


def test_other_bytes_under_a_known_uid_are_a_conflict_and_the_first_is_kept(ledger: Ledger) -> None:
    association = associate(ledger)
    first = an_instance(association, 1)
    record_instances(ledger, [first], at=NOW)
    assert record_instances(ledger, [an_instance(association, 1, digest="f" * 64)], at=NOW) == [Reception.CONFLICT]
    assert stored_digest(ledger, first.sop_instance_uid) == first.digest
    assert stored_digest(ledger, "9.9") is None


def test_same_sop_instance_uid_in_another_series_is_a_conflict(ledger: Ledger) -> None:
    association = associate(ledger)
    record_instances(ledger, [an_instance(association, 1)], at=NOW)
    stranger = an_instance(association, 1, digest="e" * 64)
    moved = type(stranger)(
        **{name: getattr(stranger, name) for name in stranger.__slots__} | {"series_instance_uid": "7.7"}
    )
    assert record_instances(ledger, [moved], at=NOW) == [Reception.CONFLICT]


def test_one_series_uid_in_two_studies_is_two_series(ledger: Ledger) -> None:
    association = associate(ledger)
    record_instances(ledger, [an_instance(association, 1, study="1.1", series="5.5")], at=NOW)
    record_instances(ledger, [an_instance(association, 2, study="1.2", series="5.5")], at=NOW)
    assert study_contents(ledger, "1.1").instances == study_contents(ledger, "1.2").instances == 1


def test_an_association_that_was_never_opened_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="never opened"):
        record_instances(ledger, [an_instance("0" * 32, 1)], at=NOW)


def test_parallel_associations_that_send_one_study_race_safely(ledger: Ledger) -> None:
    studies = [f"1.{number}" for number in range(8)]
    for study in studies:
        associations = [associate(ledger) for _ in range(4)]

        def send(association: str, study: str = study) -> list[Reception]:
            # Each sends the same six instances of three series, each of them twice.
            return [
                reception
                for number in range(6)
                for _ in range(2)
                for reception in record_instances(
                    ledger, [an_instance(association, number, study=study, series=f"{study}.{number % 3}")], at=NOW
                )
            ]

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            outcomes = [reception for sent in pool.map(send, associations) for reception in sent]
        assert outcomes.count(Reception.NEW) == 6
        assert outcomes.count(Reception.DUPLICATE) == 4 * 12 - 6
    with ledger.reading() as session:
        counts = [session.scalar(select(func.count()).select_from(row)) for row in (StudyRow, SeriesRow, InstanceRow)]
    assert counts == [len(studies), 3 * len(studies), 6 * len(studies)]
    assert [waiting.open_associations for waiting in studies_to_consider(ledger)] == [4] * len(studies)


def test_closing_twice_keeps_the_first_outcome(ledger: Ledger) -> None:
    association = associate(ledger)
    close_association(ledger, association, outcome="released", at=NOW)
    close_association(ledger, association, outcome="aborted", at=NOW)
    with ledger.reading() as session:
        assert session.get_one(Association, association).outcome == "released"


def test_a_receiver_closes_what_its_earlier_life_left_open_and_nothing_else(ledger: Ledger) -> None:
    mine = associate(ledger, "NODE:104/receiver-1")
    tenth = associate(ledger, "NODE:104/receiver-10")
    other_node = associate(ledger, "NODE:1045/receiver-1")
    assert close_abandoned_associations(ledger, "NODE:104/receiver-1", at=NOW) == 1
    assert _open(ledger) == {tenth, other_node}
    assert mine not in _open(ledger)
    assert close_abandoned_associations(ledger, "NODE:104/", at=NOW) == 1
    assert _open(ledger) == {other_node}


def _open(ledger: Ledger) -> set[str]:
    with ledger.reading() as session:
        return set(session.scalars(select(Association.id).where(Association.closed_at.is_(None))))


def test_quarantine_records_bytes_once_for_each_reason(ledger: Ledger) -> None:
    association = associate(ledger)
    for reason in ("no Study Instance UID", "no Study Instance UID", "other bytes under a known UID" * 20):
        record_quarantine(ledger, QuarantinedObject("d" * 64, "quarantine/dd/d.dcm", reason, None, association), at=NOW)
    later, earlier = quarantine_overviews(ledger)
    assert earlier.reason == "no Study Instance UID"
    assert len(later.reason) == 200
