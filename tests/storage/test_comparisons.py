"""Comparisons of predicted with acquired late enhancement: one a study, without the patient, longer than the study."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from ledger_rows import NOW, close_versions, receive_and_schedule

from storage.deletion import delete_study
from storage.ledger import Ledger, LedgerError
from storage.retention import expire_history, expire_studies
from storage.shadow import KeptComparison, Segment, drop_comparison, kept_comparisons, record_comparison

COMPARED = KeptComparison(
    version="1.0.0",
    scanner="SIEMENS Aera 1.5 T",
    compared_at=NOW,
    probability=0.8,
    present=True,
    predicted_percent=14.0,
    acquired_percent=11.5,
    segments={7: Segment(0.9, True), 8: Segment(0.1, False)},
)
LATER = NOW + dt.timedelta(days=1)


def test_a_comparison_comes_back_as_it_was(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    record_comparison(ledger, "1.2.3", "cine", COMPARED)
    assert kept_comparisons(ledger) == (COMPARED,)


def test_a_later_version_of_a_study_takes_the_place_of_the_earlier(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    again = dataclasses.replace(COMPARED, probability=0.4, compared_at=LATER)
    record_comparison(ledger, "1.2.3", "cine", COMPARED)
    record_comparison(ledger, "1.2.3", "cine", again)
    assert kept_comparisons(ledger) == (again,)
    drop_comparison(ledger, "1.2.3", "cine")
    assert kept_comparisons(ledger) == ()


def test_a_study_that_several_routes_compare_counts_once(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    receive_and_schedule(ledger, "1.2.4")
    research = dataclasses.replace(COMPARED, probability=0.3, compared_at=LATER)
    record_comparison(ledger, "1.2.3", "research", research)
    record_comparison(ledger, "1.2.3", "cine", COMPARED)
    record_comparison(ledger, "1.2.4", "cine", COMPARED)
    assert kept_comparisons(ledger) == (COMPARED, research)
    assert kept_comparisons(ledger, since=LATER) == (research,)


def test_an_unknown_study_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no study"):
        record_comparison(ledger, "9.9", "cine", COMPARED)


def test_comparisons_outlive_studies_that_are_forgotten(ledger: Ledger) -> None:
    for study in ("1.2.3", "1.2.4"):
        receive_and_schedule(ledger, study)
        job = _end_jobs(ledger)
        assert job
        record_comparison(ledger, study, "cine", COMPARED)
    day = dt.timedelta(days=1)
    assert len(expire_studies(ledger, retention=day, now=NOW + 3 * day)) == 2
    assert expire_history(ledger, retention=day, now=NOW + 6 * day) >= 2
    assert kept_comparisons(ledger) == (COMPARED, COMPARED)


def test_a_study_that_a_person_deletes_takes_its_comparison_along(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    record_comparison(ledger, "1.2.3", "cine", COMPARED)
    delete_study(ledger, "1.2.3", reason="wrong patient", by="admin", now=LATER)
    assert kept_comparisons(ledger) == ()


def _end_jobs(ledger: Ledger) -> int:
    from ledger_rows import DELIVERED, claim

    from storage.jobs import complete_job

    complete_job(ledger, claim(ledger), [], DELIVERED, now=NOW)
    return close_versions(ledger)
