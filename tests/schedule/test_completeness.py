"""When a study is scheduled: open associations, phases × slices, and quiet."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_rows import NOW, an_instance, associate

from dicom_node.config import Configuration, DestinationProfile, ExecutionSettings, Peer, ResultSettings, Route
from dicom_node.schedule.completeness import decide, read_study
from dicom_node.schedule.scheduler import StudyScheduler
from dicom_node.schedule.study import describe
from pipelines.cine.facts import InstanceFacts, PlaneFacts
from pipelines.cine.views import LONG_AXIS
from storage.instances import ReceivedInstance, close_association, record_instances
from storage.jobs import SeriesSummary, StudyContents, claim_job
from storage.ledger import Ledger, LedgerError, open_ledger
from storage.overview import events_of_study, job_overviews
from storage.schema import JobState

PHASES = 20
SETTINGS = ExecutionSettings(quiet_time_s=20, complete_quiet_time_s=1)
NORMAL = (float(LONG_AXIS[0]), float(LONG_AXIS[1]), float(LONG_AXIS[2]))


def _facts(slice_index: int, phase: int, *, slices_declared: int | None = None, own: bool = False) -> InstanceFacts:
    return InstanceFacts(
        modality="MR",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
        sop_instance_uid=f"3.{slice_index}.{phase}",
        series_instance_uid="1.2.3.1",
        frame_of_reference_uid="1.9",
        rows=128,
        columns=128,
        frames=1,
        cardiac_number_of_images=PHASES,
        slices_declared=slices_declared,
        planes=(PlaneFacts(10.0 * slice_index, NORMAL, (float(phase),)),),
        own_output=own,
    )


def _contents(facts: list[InstanceFacts], *, longest_pause_s: float = 0.0) -> StudyContents:
    summary = SeriesSummary("1.2.3.1", "MR1", "MR", "cine", "", "", "", tuple(one.to_json() for one in facts))
    return StudyContents("1.2.3", 0, len(facts), NOW, longest_pause_s, (summary,))


def _stack(slices: int, *, missing: int = 0, declared: int | None = None) -> list[InstanceFacts]:
    facts = [_facts(i, phase, slices_declared=declared) for i in range(slices) for phase in range(PHASES)]
    return facts[: len(facts) - missing]


def _ready(contents: StudyContents, quiet_s: float, *, open_associations: int = 0) -> bool:
    reading = read_study(contents, {})
    now = NOW + dt.timedelta(seconds=quiet_s)
    return decide(reading, SETTINGS, open_associations=open_associations, now=now).ready


@pytest.mark.parametrize(
    ("contents", "seconds_needed"),
    [
        (_contents(_stack(9)), 1),
        (_contents(_stack(9, missing=1)), 20),
        (_contents(_stack(9, declared=9)), 1),
        (_contents(_stack(8, declared=9)), 20),
        (_contents([]), 20),
        # A sender that paused 6 s between slices is given 12; one that says how many slices there are is not.
        (_contents(_stack(9), longest_pause_s=6), 12),
        (_contents(_stack(9, declared=9), longest_pause_s=6), 1),
        (_contents(_stack(9), longest_pause_s=600), 20),
    ],
)
def test_silence_needed(contents: StudyContents, seconds_needed: float) -> None:
    assert not _ready(contents, seconds_needed - 0.01)
    assert _ready(contents, seconds_needed)


@pytest.mark.parametrize("quiet_s", [0, 2, 25, 10_000])
def test_never_in_mid_association(quiet_s: float) -> None:
    assert not _ready(_contents(_stack(9)), quiet_s, open_associations=1)


def test_decisions_are_told_in_words() -> None:
    reading = read_study(_contents(_stack(8, declared=9)), {})
    later = NOW + dt.timedelta(seconds=3)
    assert decide(reading, SETTINGS, open_associations=0, now=later).sentence == (
        "short axis 8 of 9 slices, waiting; quiet for 3 of 20 s"
    )
    assert decide(reading, SETTINGS, open_associations=2, now=later).sentence == (
        "short axis 8 of 9 slices, waiting; 2 associations still open"
    )


def test_series_are_measured_for_the_rules() -> None:
    reading = read_study(_contents(_stack(9)), {"cine": Route(destinations=("pacs",))})
    (one,) = reading.routes[0].series
    assert (one.series.slices, one.series.phases, one.series.own_output) == (9, PHASES, False)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield opened
    opened.close()


CONFIGURATION = Configuration(
    peers={"pacs": Peer(ae_title="PACS", host="localhost", port=104, may=frozenset({"receive"}))},
    routes={"cine": Route(destinations=("pacs",), priority=70, deadline_s=120)},
    execution=SETTINGS,
    results=ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs")}),
)


def _receive(ledger: Ledger, association: str, facts: list[InstanceFacts], at: dt.datetime) -> None:
    for one in facts:
        row = an_instance(association, hash(one.sop_instance_uid) % 10**12)
        fields = {name: getattr(row, name) for name in row.__slots__}
        fields |= {"sop_instance_uid": one.sop_instance_uid, "facts": one.to_json()}
        record_instances(ledger, [ReceivedInstance(**fields)], at=at)


def test_a_study_is_scheduled_once_it_is_complete_and_again_when_more_comes(ledger: Ledger) -> None:
    scheduler = StudyScheduler(ledger, CONFIGURATION)
    first = associate(ledger)
    _receive(ledger, first, _stack(3), NOW)
    late = NOW + dt.timedelta(hours=1)
    assert scheduler.consider(late) == ()  # the association is open
    close_association(ledger, first, outcome="released", at=NOW)
    assert scheduler.consider(NOW + dt.timedelta(seconds=0.9)) == ()
    assert describe(ledger, CONFIGURATION, "1.2.3", now=NOW).sentence == (
        "short axis 3 of 3 slices, complete; quiet for 0.0 of 1.0 s; waiting"
    )
    assert scheduler.consider(NOW + dt.timedelta(seconds=1)) == (1,)
    assert scheduler.consider(late) == ()
    description = describe(ledger, CONFIGURATION, "1.2.3", now=late)
    assert (description.waiting, description.sentence) == (
        False,
        "short axis 3 of 3 slices, complete; scheduled as version 1",
    )
    assert claim_job(ledger, "w", late) is not None

    second = associate(ledger)
    _receive(ledger, second, [_facts(3, phase) for phase in range(PHASES)], late)
    close_association(ledger, second, outcome="released", at=late)
    assert scheduler.consider(late + dt.timedelta(seconds=2)) == (2,)
    newest, oldest = job_overviews(ledger)
    assert (newest.study_version, newest.state, oldest.state) == (2, JobState.QUEUED, JobState.RUNNING)
    assert (newest.priority, newest.deadline_at - newest.created_at) == (70, dt.timedelta(seconds=120))


def test_what_no_route_takes_is_closed_without_a_job_and_with_a_word(ledger: Ledger) -> None:
    association = associate(ledger)
    _receive(ledger, association, [_facts(0, phase, own=True) for phase in range(PHASES)], NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    assert StudyScheduler(ledger, CONFIGURATION).consider(NOW + dt.timedelta(seconds=20)) == ()
    event = events_of_study(ledger, "1.2.3")[-1]
    assert (event.kind, event.detail["routes"]) == ("study complete", [])


def test_a_study_with_unreadable_facts_does_not_hold_up_the_others(ledger: Ledger) -> None:
    association = associate(ledger)
    row = an_instance(association, 1, study="6.6", series="6.6.1")
    record_instances(ledger, [row], at=NOW)
    fields = {name: getattr(row, name) for name in row.__slots__}
    fields |= {"study_instance_uid": "5.5", "sop_instance_uid": "5.5.1", "facts": {"planes": "?"}}
    record_instances(ledger, [ReceivedInstance(**fields)], at=NOW)
    _receive(ledger, association, _stack(3), NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    scheduler = StudyScheduler(ledger, CONFIGURATION)
    for _ in range(2):
        scheduler.consider(NOW + dt.timedelta(seconds=30))
    assert [job.study_instance_uid for job in job_overviews(ledger)] == ["1.2.3"]


def test_describing_an_unknown_study_is_an_error(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no study"):
        describe(ledger, CONFIGURATION, "9.9", now=NOW)
