"""At which step a job is, as whoever looks on is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from interop.ports import wait_until
from ledger_rows import claim, receive_and_schedule
from sqlalchemy import event

from dicom_node.execute.running_step import RunningStep
from storage.ledger import Ledger, open_ledger
from storage.overview import job_overviews


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")) as opened:
        yield opened


def is_at(ledger: Ledger, step: str) -> bool:
    (job,) = job_overviews(ledger)
    return job.step == step


def test_the_step_that_runs_is_told_once(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    job = claim(ledger)
    written: list[str] = []
    event.listen(ledger.engine, "before_cursor_execute", lambda *call: written.append(call[2]))
    with RunningStep(ledger, job.lease, every_s=0.01) as running:
        running.begins("assemble")
        running.begins("cine_segmentation")
        wait_until(lambda: is_at(ledger, "cine_segmentation"), seconds=60, what="it is told")
        running.begins("encode")
        wait_until(lambda: is_at(ledger, "encode"), seconds=60, what="it is told")
    assert len([one for one in written if one.startswith("UPDATE job")]) in (2, 3)


def test_a_job_that_ends_soon_writes_nothing(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    job = claim(ledger)
    with RunningStep(ledger, job.lease, every_s=3600.0) as running:
        running.begins("assemble")
    assert not is_at(ledger, "assemble")


def test_a_ledger_that_does_not_answer_stops_no_job(ledger: Ledger) -> None:
    receive_and_schedule(ledger)
    job = claim(ledger)
    refused: list[str] = []

    def refuse(*call: object) -> None:
        if str(call[2]).startswith("UPDATE job") and len(refused) < 2:
            refused.append(str(call[2]))
            call[1].execute("SELECT no FROM nothing")  # type: ignore[attr-defined]

    event.listen(ledger.engine, "before_cursor_execute", refuse)
    with RunningStep(ledger, job.lease, every_s=0.01) as running:
        running.begins("gate")
        wait_until(lambda: is_at(ledger, "gate"), seconds=60, what="it is told in the end")
    assert len(refused) == 2
