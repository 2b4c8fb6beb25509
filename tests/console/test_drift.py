"""The site's own figures on the page Models: drift by scanner and month, shadow comparison."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
import requests
from ledger_rows import associate

from console.browser import DESKTOP, PHONE, browse
from console.running_console import RunningConsole
from console.test_browser import cookie_of, without_problems
from console.test_pages import words
from dicom_node.console.drift import chart, drift
from pipelines.package import packages
from storage.figures import EndedJob, ended_jobs
from storage.ledger import utc_now
from storage.schema import AccountRole, JobRow, JobSlot, JobState, SeriesRow, StudyRow, Verdict
from storage.shadow import KeptComparison, record_comparison

VIEWER = AccountRole.VIEWER


def analysed(console: RunningConsole, number: int, at: dt.datetime, **job: object) -> None:
    """One study of MR1 that was analysed."""
    association = associate(console.ledger)
    with console.ledger.transaction() as session:
        study = StudyRow(
            study_instance_uid=f"1.9.{number}",
            version=1,
            instances=1,
            first_received_at=at,
            last_received_at=at,
            last_association_id=association,
        )
        session.add(study)
        session.flush()
        uid = f"1.9.{number}.1"
        series = {"series_description": "sax", "study_description": "", "body_part_examined": ""}
        session.add(
            SeriesRow(
                study_id=study.id,
                series_instance_uid=uid,
                calling_ae_title="MR1",
                modality="MR",
                manufacturer="ACME",
                **series,
            )
        )
        made = {
            "study_version": 1,
            "route": "cine",
            "package": "ventricular_function",
            "series_instance_uids": [uid],
            "input_digest": f"{number:064}",
            "identity": f"{number:064}",
            "priority": 50,
            "slot": JobSlot.CPU,
            "timeout_s": 60.0,
            "state": JobState.SUCCEEDED,
            "maximum_attempts": 3,
            "correlation_id": association,
            "created_at": at,
            "due_at": at,
            "deadline_at": at,
            "verdict": Verdict.DELIVERED,
        }
        session.add(JobRow(study_id=study.id, **(made | job)))


@pytest.fixture
def year(console: RunningConsole) -> RunningConsole:
    """Five studies of this month and five of forty days before, of which one was declined."""
    now = utc_now()
    for number in range(10):
        at = now if number < 5 else now - dt.timedelta(days=40)
        fraction = (50.0 if number < 5 else 60.0) + number % 5
        grade = "GOOD" if number % 2 else "POOR"
        analysed(
            console,
            number,
            at,
            summary={"numbers": {"LVEF_percent": fraction}},
            key_numbers=[f"Confidence: {grade}. In brackets: 95 % intervals."],
        )
    analysed(console, 10, now, verdict=Verdict.DECLINED, summary=None, key_numbers=[])
    analysed(console, 11, now - dt.timedelta(days=400), summary={"numbers": {"LVEF_percent": 5.0}}, key_numbers=[])
    version = packages()["synthetic_enhancement"].version
    for number in range(3):
        record_comparison(
            console.ledger,
            f"1.9.{number}",
            "cine",
            KeptComparison(
                version, "ACME Scanner 9 1.5 T", now, 0.2 + 0.3 * number, number > 0, 5.0 * number, 6.0 * number
            ),
        )
    return console


def test_refusals_confidence_and_ejection_fraction_are_told_by_scanner_and_month(year: RunningConsole) -> None:
    last, before = drift(ended_jobs(year.ledger, utc_now() - dt.timedelta(days=366)))
    assert (last.scanner, last.studies, last.declined, last.failed) == ("MR1 (ACME)", 6, 1, 0)
    assert last.quartiles == (51.0, 52.0, 53.0)
    assert (before.studies, before.quartiles) == (5, (61.0, 62.0, 63.0))
    assert last.confidence == {"good": 2, "poor": 3}
    told = words(year.person(VIEWER).get("/models").text)
    assert f"MR1 (ACME) {last.month} 6 1 0" in told
    assert "52 % (51 to 53), 5 studies" in told
    assert "all 3 2" in told
    headers, url = year.token(VIEWER), f"{year.root}/api/v1/models"
    assert len(requests.get(f"{url}/drift", headers=headers, timeout=60).json()) == 2
    rows = requests.get(f"{url}/agreement", headers=headers, timeout=60).json()
    assert [row["studies"] for row in rows] == [3, 3, 3]


def test_the_last_job_of_a_study_counts_and_few_studies_have_no_quartiles() -> None:
    at = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    jobs = [EndedJob("ventricular_function", at, "MR1", Verdict.DELIVERED, {"LVEF_percent": 50.0}, ())] * 2
    (row,) = drift(jobs)
    assert row.quartiles is None
    assert chart([row], "MR1") is None


def test_a_chart_says_in_words_what_it_draws() -> None:
    at = [dt.datetime(2026, month, 1, tzinfo=dt.UTC) for month in (4, 5)]
    jobs = [
        EndedJob("ventricular_function", when, "MR1", Verdict.DELIVERED, {"LVEF_percent": value}, ())
        for when, middle in zip(at, (40.0, 60.0), strict=True)
        for value in (middle - 2, middle, middle + 2)
    ]
    drawn = chart(drift(jobs), "MR1")
    assert drawn is not None
    first, second = drawn.bars
    assert first.words == "2026-04: median 40 %, quartiles 39 to 41 %"
    # Upwards is less in SVG.
    assert first.x < second.x
    assert first.median > second.median
    assert first.low < first.median < first.high


@pytest.mark.peers
@pytest.mark.parametrize(
    ("scheme", "width"), [("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE)], ids=["light", "dark", "phone"]
)
def test_the_figures_can_be_read_by_everybody(year: RunningConsole, tmp_path: Path, scheme: str, width: int) -> None:
    steps = [("go", "/models"), ("wide", "models"), ("picture", "models"), ("axe", "models")]
    visit = browse(year.root, steps, tmp_path, cookie=cookie_of(year.person(VIEWER)), scheme=scheme, width=width)
    without_problems(visit, steps)
    assert visit.serious == []
    assert visit.values == {"models": 0}
