"""Batches: as if one were recorded after the other, however they are cut, whoever else records at the same time."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import random
from collections import Counter
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_rows import NOW, an_instance, associate
from sqlalchemy import func, select

from storage.instances import ReceivedInstance, Reception, close_association, record_instances
from storage.jobs import create_jobs, studies_to_consider, study_contents
from storage.ledger import Ledger, open_ledger
from storage.overview import events_of_study, ledger_overview, study_overviews
from storage.retention import expire_studies
from storage.schema import AssociationStudy, InstanceRow, SeriesRow, StudyRow

STUDIES = ("1", "2")
EXAMPLES = itertools.count()


@dataclasses.dataclass
class _Entry:
    digest: str
    study: str
    path: str
    association: str
    removed: bool = False


class _Model:
    """What recording one after the other comes to."""

    def __init__(self) -> None:
        self.instances: dict[str, _Entry] = {}
        self.links: set[tuple[str, str]] = set()
        self.conflicts: Counter[str] = Counter()

    def record(self, one: ReceivedInstance) -> Reception:
        entry = self.instances.get(one.sop_instance_uid)
        if entry is not None and entry.digest != one.digest:
            self.conflicts[entry.study] += 1
            return Reception.CONFLICT
        study = one.study_instance_uid if entry is None else entry.study
        self.links.add((one.association_id, study))
        if entry is not None and not entry.removed:
            return Reception.DUPLICATE
        self.instances[one.sop_instance_uid] = _Entry(one.digest, study, one.path, one.association_id)
        return Reception.NEW

    def retire(self) -> None:
        for entry in self.instances.values():
            entry.removed = True


@dataclasses.dataclass(frozen=True)
class _Sent:
    sender: int
    study: str
    number: int
    bytes: int


_SENT = st.builds(_Sent, st.integers(0, 2), st.sampled_from(STUDIES), st.integers(0, 3), st.sampled_from([0, 0, 0, 1]))
_STEPS = st.lists(st.one_of(st.lists(_SENT, max_size=6), st.just("files removed")), max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_batches_come_to_the_same_as_one_after_the_other(ledger: Ledger, steps: list[list[_Sent] | str]) -> None:
    prefix = f"9.{next(EXAMPLES)}"
    model = _Model()
    associations = [associate(ledger) for _ in range(3)]
    for step in steps:
        if isinstance(step, str):
            associations = _retire(ledger, prefix, associations)
            model.retire()
            continue
        batch = [_instance(prefix, one, associations[one.sender], path) for path, one in enumerate(step)]
        assert record_instances(ledger, batch, at=NOW) == [model.record(one) for one in batch]
    _close(ledger, associations)
    with ledger.reading() as session:
        recorded = {
            row.sop_instance_uid: _Entry(row.digest, study, row.path, row.association_id, row.removed_at is not None)
            for row, study in session.execute(
                select(InstanceRow, StudyRow.study_instance_uid)
                .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
                .join(StudyRow, StudyRow.id == SeriesRow.study_id)
                .where(InstanceRow.sop_instance_uid.startswith(f"{prefix}."))
            )
        }
        links = session.execute(
            select(AssociationStudy.association_id, StudyRow.study_instance_uid)
            .join(StudyRow, StudyRow.id == AssociationStudy.study_id)
            .where(StudyRow.study_instance_uid.startswith(f"{prefix}."))
        ).all()
        instances = session.scalar(select(func.count()).select_from(InstanceRow))
    assert recorded == model.instances
    assert ledger_overview(ledger, now=NOW).instances == instances
    assert sorted(tuple(row) for row in links) == sorted(model.links)
    waiting = {one.study_instance_uid: one.instances for one in studies_to_consider(ledger)}
    for study in {entry.study for entry in model.instances.values()}:
        mine = [entry for entry in model.instances.values() if entry.study == study]
        assert waiting.get(study, 0) == sum(not entry.removed for entry in mine)
        events = Counter(event.kind for event in events_of_study(ledger, study))
        assert events["instance conflict"] == model.conflicts[study]
        assert events["reception started"] == sum(study == linked for _, linked in model.links)
        (overview,) = study_overviews(ledger, study_instance_uid=study)
        assert (overview.removed_at is None) == any(not entry.removed for entry in mine)


def _instance(prefix: str, one: _Sent, association: str, path: int) -> ReceivedInstance:
    digest = f"{one.number:032x}{one.bytes:032x}"
    instance = an_instance(
        association, one.number, study=f"{prefix}.{one.study}", series=f"{prefix}.{one.study}.{one.number % 2}"
    )
    # One SOP Instance UID may come in either study.
    return dataclasses.replace(
        instance, sop_instance_uid=f"{prefix}.0.{one.number}", digest=digest, path=f"instances/{path}"
    )


def _close(ledger: Ledger, associations: Sequence[str]) -> None:
    for association in associations:
        close_association(ledger, association, outcome="released", at=NOW)


def _retire(ledger: Ledger, prefix: str, associations: Sequence[str]) -> list[str]:
    _close(ledger, associations)
    for waiting in studies_to_consider(ledger):
        create_jobs(ledger, study_contents(ledger, waiting.study_instance_uid), [], reason="quiet", now=NOW)
    expire_studies(ledger, retention=NOW - NOW, now=NOW.replace(year=NOW.year + 1))
    return [associate(ledger) for _ in range(3)]


def test_an_empty_batch_is_nothing(ledger: Ledger) -> None:
    assert record_instances(ledger, [], at=NOW) == []


PROCESSES = 4
ROUNDS = 12


def _send(url: str, seed: int) -> list[tuple[str, str, str, Reception]]:
    """Batches over all studies in an order of this process's own; what was sent and what came of it."""
    ledger = open_ledger(url)
    choose = random.Random(seed)
    association = associate(ledger)
    outcomes = []
    for round_number in range(ROUNDS):
        batch = []
        for study, number in choose.sample(list(itertools.product(("7.1", "7.2", "7.3"), range(10))), 12):
            # Each round has studies and images of its own; one image in ten differs by who sends it, and its SOP
            # Instance UID is in use in all studies.
            stranger = number == 9
            instance = an_instance(
                association,
                number,
                study=f"{study}.{round_number}",
                series=f"{study}.{round_number}.{number % 3}",
                digest=f"{seed if stranger else number:060x}" + study.replace(".", "") + "00",
            )
            if stranger:
                instance = dataclasses.replace(instance, sop_instance_uid=f"8.{round_number}")
            batch.append(instance)
        receptions = record_instances(ledger, batch, at=NOW)
        outcomes += [
            (one.sop_instance_uid, one.digest, association, reception)
            for one, reception in zip(batch, receptions, strict=True)
        ]
    ledger.close()
    return outcomes


def test_processes_that_record_the_same_studies_in_any_order_neither_deadlock_nor_lose_a_row(url: str) -> None:
    ledger = open_ledger(url)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        outcomes = [one for sent in pool.map(_send, [url] * PROCESSES, range(PROCESSES)) for one in sent]
    with ledger.reading() as session:
        held = {row.sop_instance_uid: row for row in session.scalars(select(InstanceRow))}
    ledger.close()
    assert {uid for uid, *_ in outcomes} == held.keys()
    new = [one for one in outcomes if one[3] is Reception.NEW]
    assert sorted(uid for uid, *_ in new) == sorted(held)
    for uid, digest, association, reception in outcomes:
        assert (held[uid].digest == digest) == (reception is not Reception.CONFLICT)
        if reception is Reception.NEW:
            assert held[uid].association_id == association
