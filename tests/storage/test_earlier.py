"""What was measured of the same patient before."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

from ledger_rows import DELIVERED, NOW, claim, receive_and_schedule
from sqlalchemy import select

from storage.earlier import earlier_study
from storage.holdings import describe_study, held_studies
from storage.jobs import complete_job
from storage.ledger import Ledger
from storage.schema import StudyRow

PATIENT = {"PatientID": "7", "PatientBirthDate": "19500101", "StudyTime": "120000"}


def measured(ledger: Ledger, study: str, date: str, value: float | None, **attributes: str) -> None:
    receive_and_schedule(ledger, study)
    job = claim(ledger)
    numbers = [] if value is None else [{"name": "LVEF_percent", "value": value, "unit": "%"}]
    assert complete_job(ledger, job, [], replace(DELIVERED, summary={"reported": numbers}), now=NOW)
    while ledger_job := _closing(ledger):
        assert complete_job(ledger, ledger_job, [], DELIVERED, now=NOW)
    with ledger.reading() as session:
        row = session.scalar(select(StudyRow.id).where(StudyRow.study_instance_uid == study))
    assert row is not None
    describe_study(ledger, row, {**PATIENT, "StudyDate": date, **attributes})


def _closing(ledger: Ledger):  # type: ignore[no-untyped-def]
    from storage.jobs import claim_job

    return claim_job(ledger, "closing", NOW)


def test_the_last_study_of_the_same_patient_before_this_one(ledger: Ledger) -> None:
    measured(ledger, "1.2.1", "20230101", 60.0)
    measured(ledger, "1.2.2", "20240101", 55.0)
    measured(ledger, "1.2.3", "20250101", 50.0)
    measured(ledger, "1.2.4", "20260101", 45.0)
    found = earlier_study(ledger, "1.2.3")
    assert found is not None
    assert (found.study_instance_uid, found.study_date) == ("1.2.2", "20240101")
    assert [one["value"] for one in found.numbers] == [55.0]
    assert earlier_study(ledger, "1.2.1") is None


def test_another_person_of_the_same_id_is_not_compared_with(ledger: Ledger) -> None:
    measured(ledger, "1.2.1", "20230101", 60.0, PatientBirthDate="19600101")
    measured(ledger, "1.2.2", "20230201", 60.0, IssuerOfPatientID="ELSEWHERE")
    measured(ledger, "1.2.3", "20230301", 60.0, PatientID="8")
    measured(ledger, "1.2.4", "20240101", 55.0)
    assert earlier_study(ledger, "1.2.4") is None


def test_what_has_no_numbers_or_is_not_held_or_not_known_is_passed_over(ledger: Ledger) -> None:
    measured(ledger, "1.2.1", "20230101", 60.0)
    measured(ledger, "1.2.2", "20240101", None)
    measured(ledger, "1.2.3", "20250101", 50.0)
    found = earlier_study(ledger, "1.2.3")
    assert found is not None
    assert found.study_instance_uid == "1.2.1"
    with ledger.transaction() as session:
        for row in session.scalars(select(StudyRow).where(StudyRow.study_instance_uid == "1.2.1")):
            row.removed_at = NOW + dt.timedelta(days=1)
    assert earlier_study(ledger, "1.2.3") is None
    assert earlier_study(ledger, "9.9") is None
    assert len(held_studies(ledger, patient_id="7")) == 2


def test_no_patient_id_is_nobody(ledger: Ledger) -> None:
    measured(ledger, "1.2.1", "20230101", 60.0, PatientID="")
    measured(ledger, "1.2.2", "20240101", 55.0, PatientID="")
    assert earlier_study(ledger, "1.2.2") is None
