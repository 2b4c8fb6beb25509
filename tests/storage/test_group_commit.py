"""Group commit: many threads of many processes record at once, and each is told what became of its own image."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import random

import pytest
from ledger_rows import NOW, an_instance, associate
from sqlalchemy import select

from storage.group_commit import GroupCommit
from storage.instances import ReceivedInstance, Reception, close_association
from storage.jobs import studies_to_consider
from storage.ledger import Ledger, LedgerError, open_ledger
from storage.schema import InstanceRow, SeriesRow, StudyRow

PROCESSES = 3
THREADS = 4
IMAGES = 40


def _image(association: str, number: int, sender: int) -> ReceivedInstance:
    """All senders send the same images; one in ten is other bytes from each of them."""
    study = f"7.{number % 2}"
    digest = f"{number:032x}{sender if number % 10 == 0 else 0:032x}"
    return an_instance(association, number, study=study, series=f"{study}.{number % 3}", digest=digest)


def _send(url: str, process: int) -> list[tuple[ReceivedInstance, Reception]]:
    ledger = open_ledger(url)
    group = GroupCommit(ledger)

    def sender(thread: int) -> list[tuple[ReceivedInstance, Reception]]:
        number = process * THREADS + thread
        association = associate(ledger)
        images = [_image(association, image, number) for image in range(IMAGES)]
        random.Random(number).shuffle(images)
        outcomes = [(image, group.record(image)) for image in (*images, images[0])]
        group.forget(association)
        close_association(ledger, association, outcome="released", at=NOW)
        return outcomes

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        outcomes = [one for sent in pool.map(sender, range(THREADS)) for one in sent]
    group.close()
    ledger.close()
    return outcomes


def test_all_that_threads_of_processes_record_at_once_is_recorded_once(url: str) -> None:
    ledger = open_ledger(url)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        outcomes = [one for sent in pool.map(_send, [url] * PROCESSES, range(PROCESSES)) for one in sent]
    with ledger.reading() as session:
        rows = session.execute(
            select(InstanceRow, SeriesRow.series_instance_uid, StudyRow.study_instance_uid)
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        ).all()
    held = {row.sop_instance_uid: (row, series, study) for row, series, study in rows}
    assert len(held) == IMAGES
    assert sum(one.instances for one in studies_to_consider(ledger)) == IMAGES
    assert sum(reception is Reception.NEW for _, reception in outcomes) == IMAGES
    for image, reception in outcomes:
        row, series, study = held[image.sop_instance_uid]
        assert (series, study) == (image.series_instance_uid, image.study_instance_uid)
        assert (row.digest == image.digest) == (reception is not Reception.CONFLICT)
        if reception is Reception.NEW:
            assert row.association_id == image.association_id
    ledger.close()


def test_an_association_that_was_never_opened_hurts_no_other(ledger: Ledger) -> None:
    group = GroupCommit(ledger)
    association = associate(ledger)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        honest = [pool.submit(group.record, an_instance(association, number)) for number in range(20)]
        with pytest.raises(LedgerError, match="never opened"):
            group.record(an_instance("0" * 32, 99))
        assert {one.result() for one in honest} == {Reception.NEW}
    group.close()
