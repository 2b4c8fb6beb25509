"""When a study is scheduled: open associations, phases × slices, and quiet."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_rows import NOW, an_instance, associate
from network.objects import mr_image
from pydicom.uid import EnhancedMRImageStorage

import dicom_node.schedule.completeness
import dicom_node.schedule.scheduler
from dicom_node.config import Configuration, DestinationProfile, ExecutionSettings, Peer, ResultSettings, Route
from dicom_node.schedule.completeness import decide, read_study, study_reading
from dicom_node.schedule.scheduler import SOONEST_S, StudyScheduler
from dicom_node.schedule.study import describe
from pipelines.cine.facts import InstanceFacts, PlaneFacts
from pipelines.cine.views import LONG_AXIS
from storage.instances import ReceivedInstance, close_association, record_instances
from storage.jobs import SeriesSummary, StudyContents, claim_job, create_jobs, study_contents
from storage.ledger import Ledger, LedgerError, open_ledger
from storage.overview import events_of_study, job_overviews
from storage.performed_steps import NO_STEPS, StudySteps
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


def _elsewhere(facts: list[InstanceFacts]) -> list[InstanceFacts]:
    return [
        dataclasses.replace(one, frame_of_reference_uid="1.10", sop_instance_uid=f"4{one.sop_instance_uid}")
        for one in facts
    ]


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
        (_contents(_stack(8, declared=9)), 300),
        # Seven slices of twelve, as they come when the sender breaks off; and one that is missing among others.
        (_contents(_stack(7)), 300),
        (_contents(_stack(7, declared=7)), 1),
        (_contents([one for one in _stack(12) if one.planes[0].along_mm != 50.0]), 300),
        (_contents(_stack(10, missing=PHASES - 1)), 300),
        (_contents(_stack(1)), 300),
        # A few slices beside a whole stack.
        (_contents([*_stack(9), *_elsewhere(_stack(3))]), 1),
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
        "short axis 8 of 9 slices, waiting; more may come: the scanner declared 9 slices; quiet for 3 of 300 s"
    )
    assert decide(reading, SETTINGS, open_associations=2, now=later).sentence == (
        "short axis 8 of 9 slices, waiting; 2 associations still open"
    )


@pytest.mark.parametrize(
    ("slices", "why"),
    [
        (_stack(7), "its slices cover 70 mm, less than a left ventricle"),
        (_stack(1), "a single slice"),
        (
            [one for one in _stack(12) if one.planes[0].along_mm not in (50.0, 60.0)],
            "2 slices are missing between others",
        ),
        (_stack(10, missing=PHASES - 1), "1 of 10 slices have less than half of their phases"),
    ],
)
def test_why_a_stack_is_plainly_incomplete_is_said(slices: list[InstanceFacts], why: str) -> None:
    decision = decide(read_study(_contents(slices), {}), SETTINGS, open_associations=0, now=NOW)
    assert f"more may come: {why}; quiet for 0 of 300 s" in decision.sentence


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
    _receive(ledger, first, _stack(8), NOW)
    late = NOW + dt.timedelta(hours=1)
    assert scheduler.consider(late) == ()  # the association is open
    close_association(ledger, first, outcome="released", at=NOW)
    assert scheduler.consider(NOW + dt.timedelta(seconds=0.9)) == ()
    assert describe(ledger, CONFIGURATION, "1.2.3", now=NOW).sentence == (
        "short axis 8 of 8 slices, complete; quiet for 0.0 of 1.0 s; waiting"
    )
    assert scheduler.consider(NOW + dt.timedelta(seconds=1)) == (1,)
    assert scheduler.consider(late) == ()
    description = describe(ledger, CONFIGURATION, "1.2.3", now=late)
    assert (description.waiting, description.sentence) == (
        False,
        "short axis 8 of 8 slices, complete; scheduled as version 1",
    )
    assert claim_job(ledger, "w", late) is not None

    second = associate(ledger)
    _receive(ledger, second, [_facts(8, phase) for phase in range(PHASES)], late)
    close_association(ledger, second, outcome="released", at=late)
    assert scheduler.consider(late + dt.timedelta(seconds=2)) == (2,)
    newest, oldest = job_overviews(ledger)
    assert (newest.study_version, newest.state, oldest.state) == (2, JobState.QUEUED, JobState.RUNNING)
    assert (newest.priority, newest.deadline_at - newest.created_at) == (90, dt.timedelta(seconds=120))


def test_headers_are_read_before_a_study_is_complete_and_not_while_it_comes(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study of 240 images waited for its headers to be read once it was complete."""
    read: list[str] = []

    def reading(ledger: Ledger, configuration: Configuration, study_instance_uid: str) -> object:
        read.append(study_instance_uid)
        return study_reading(ledger, configuration, study_instance_uid)

    monkeypatch.setattr(dicom_node.schedule.scheduler, "study_reading", reading)
    scheduler = StudyScheduler(ledger, CONFIGURATION)
    association = associate(ledger)
    _receive(ledger, association, _stack(8), NOW)
    assert scheduler.consider(NOW + dt.timedelta(seconds=0.9)) == ()
    assert read == []  # the association is open
    close_association(ledger, association, outcome="released", at=NOW)
    assert scheduler.consider(NOW + dt.timedelta(seconds=0.2)) == ()
    assert read == []  # an association for each image may follow the other as quickly
    assert scheduler.consider(NOW + dt.timedelta(seconds=0.4)) == ()
    assert read == ["1.2.3"]
    assert scheduler.consider(NOW + dt.timedelta(seconds=1)) == (1,)
    assert read == ["1.2.3"]


def test_the_next_look_is_when_a_study_has_been_quiet_for_long_enough(ledger: Ledger) -> None:
    """A study waited for the next of the regular looks, a tenth of a second on the average."""
    scheduler = StudyScheduler(ledger, CONFIGURATION)
    assert scheduler.consider(NOW) == ()
    assert scheduler.look_again_s == math.inf
    association = associate(ledger)
    _receive(ledger, association, _stack(8), NOW)
    assert scheduler.consider(NOW) == ()
    assert scheduler.look_again_s == math.inf  # an association is open: silence alone is not enough
    close_association(ledger, association, outcome="released", at=NOW)
    for quiet_s, wanted_s in ((0.1, 0.2), (0.4, 0.6), (0.9995, SOONEST_S)):
        assert scheduler.consider(NOW + dt.timedelta(seconds=quiet_s)) == ()
        assert scheduler.look_again_s == pytest.approx(wanted_s)
    assert scheduler.consider(NOW + dt.timedelta(seconds=1)) == (1,)
    assert scheduler.look_again_s == math.inf


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
    _receive(ledger, association, _stack(8), NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    scheduler = StudyScheduler(ledger, CONFIGURATION)
    for _ in range(2):
        scheduler.consider(NOW + dt.timedelta(seconds=30))
    assert [job.study_instance_uid for job in job_overviews(ledger)] == ["1.2.3"]


def test_describing_an_unknown_study_is_an_error(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no study"):
        describe(ledger, CONFIGURATION, "9.9", now=NOW)


def _waiting_study(ledger: Ledger, uid: str, facts: dict[str, object]) -> None:
    association = associate(ledger)
    row = an_instance(association, 1, study=uid, series=f"{uid}.1")
    fields = {name: getattr(row, name) for name in row.__slots__}
    record_instances(ledger, [ReceivedInstance(**(fields | {"facts": facts}))], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)


def _a_good_study(ledger: Ledger) -> None:
    association = associate(ledger)
    _receive(ledger, association, _stack(8), NOW)
    close_association(ledger, association, outcome="released", at=NOW)


@pytest.mark.parametrize("failure", [MemoryError(), RecursionError(), AssertionError("x"), KeyError("y"), ValueError()])
def test_a_study_that_fails_is_set_aside_with_a_reason_and_holds_up_nobody_in_any_life(
    ledger: Ledger, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    _waiting_study(ledger, "5.5", {"planes": []})
    _a_good_study(ledger)
    read: list[str] = []

    def reading(ledger: Ledger, configuration: Configuration, study_instance_uid: str) -> object:
        read.append(study_instance_uid)
        if study_instance_uid == "5.5":
            raise failure
        return study_reading(ledger, configuration, study_instance_uid)

    monkeypatch.setattr(dicom_node.schedule.scheduler, "study_reading", reading)
    first, second = StudyScheduler(ledger, CONFIGURATION), StudyScheduler(ledger, CONFIGURATION)
    now = NOW + dt.timedelta(seconds=30)
    for scheduler in (first, first, second, second):
        scheduler.consider(now)
    assert read == ["5.5", "1.2.3"]  # once, and not after a restart
    assert [job.study_instance_uid for job in job_overviews(ledger)] == ["1.2.3"]
    (event,) = [one for one in events_of_study(ledger, "5.5") if one.kind == "study set aside"]
    assert type(failure).__name__ in event.detail["reason"]
    description = describe(ledger, CONFIGURATION, "5.5", now=now)
    assert description.waiting
    assert description.sentence.startswith(f"set aside at {now.date()}")
    assert type(failure).__name__ in description.sentence


def test_a_study_set_aside_is_looked_at_again_when_something_comes_in_or_after_a_day(ledger: Ledger) -> None:
    _waiting_study(ledger, "5.5", {"planes": "?"})
    now = NOW + dt.timedelta(seconds=30)
    assert StudyScheduler(ledger, CONFIGURATION).consider(now) == ()
    events = [one for one in events_of_study(ledger, "5.5") if one.kind == "study set aside"]
    assert len(events) == 1
    StudyScheduler(ledger, CONFIGURATION).consider(now + dt.timedelta(days=1))
    assert len([one for one in events_of_study(ledger, "5.5") if one.kind == "study set aside"]) == 2
    association = associate(ledger)
    record_instances(ledger, [an_instance(association, 2, study="5.5", series="5.5.1")], at=now)
    close_association(ledger, association, outcome="released", at=now)
    StudyScheduler(ledger, CONFIGURATION).consider(now + dt.timedelta(days=1, seconds=30))
    assert len([one for one in events_of_study(ledger, "5.5") if one.kind == "study set aside"]) == 3


def test_memory_that_an_exception_held_is_free_when_the_study_is_set_aside(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    _waiting_study(ledger, "5.5", {"planes": []})
    held: list[weakref.ref[object]] = []

    class Hoard:
        pass

    def reading(*_: object) -> None:
        hoard = Hoard()
        held.append(weakref.ref(hoard))
        raise MemoryError

    def aside(*_: object, **__: object) -> None:
        assert held[0]() is None

    monkeypatch.setattr(dicom_node.schedule.scheduler, "study_reading", reading)
    monkeypatch.setattr(dicom_node.schedule.scheduler, "set_study_aside", aside)
    StudyScheduler(ledger, CONFIGURATION).consider(NOW + dt.timedelta(seconds=30))
    assert held


def test_an_image_that_comes_while_the_headers_are_read_sets_nothing_aside(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row has no facts yet: the study was taken for one that cannot be read."""
    configuration = CONFIGURATION.model_copy(
        update={"storage": CONFIGURATION.storage.model_copy(update={"directory": tmp_path})}
    )
    mr_image().save_as(tmp_path / "a.dcm", enforce_file_format=True)
    association = associate(ledger)

    def receive(number: int) -> None:
        row = an_instance(association, number, study="5.5", series="5.5.1")
        fields = {name: getattr(row, name) for name in row.__slots__} | {"path": "a.dcm", "facts": {}}
        record_instances(ledger, [ReceivedInstance(**fields)], at=NOW)

    receive(1)
    to_come = [2, 3]

    def steps(*_: object) -> StudySteps:
        # Between the reading of headers and that of the study.
        if to_come:
            receive(to_come.pop())
        return NO_STEPS

    monkeypatch.setattr(dicom_node.schedule.completeness, "study_steps", steps)
    assert study_reading(ledger, configuration, "5.5").contents.instances == 3


@pytest.mark.timeout(60)
def test_headers_of_a_version_that_was_scheduled_without_facts_are_read_too(ledger: Ledger, tmp_path: Path) -> None:
    """The study was read again and again without end."""
    configuration = CONFIGURATION.model_copy(
        update={"storage": CONFIGURATION.storage.model_copy(update={"directory": tmp_path})}
    )
    mr_image().save_as(tmp_path / "a.dcm", enforce_file_format=True)
    association = associate(ledger)
    for number in (1, 2):
        row = an_instance(association, number, study="5.5", series="5.5.1")
        fields = {name: getattr(row, name) for name in row.__slots__} | {"path": "a.dcm", "facts": {}}
        record_instances(ledger, [ReceivedInstance(**fields)], at=NOW)
        if number == 1:
            close_association(ledger, association, outcome="released", at=NOW)
            assert create_jobs(ledger, study_contents(ledger, "5.5"), [], reason="test", now=NOW) == ()
            association = associate(ledger)
    (facts,) = (one.facts for one in study_reading(ledger, configuration, "5.5").contents.series)
    assert len(facts) == 2
    assert all(facts)


def test_more_frames_than_an_object_holds_stop_nothing(ledger: Ledger, tmp_path: Path) -> None:
    """2 kB that declare two thousand million frames were expanded in the scheduler, in every run."""
    bomb = mr_image()
    bomb.SOPClassUID = bomb.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    bomb.NumberOfFrames, bomb.PixelData = 2_000_000_000, b"\0\0"
    bomb.save_as(tmp_path / "bomb.dcm", enforce_file_format=True)
    configuration = CONFIGURATION.model_copy(
        update={"storage": CONFIGURATION.storage.model_copy(update={"directory": tmp_path})}
    )
    association = associate(ledger)
    row = an_instance(association, 1, study="5.5", series="5.5.1")
    fields = {name: getattr(row, name) for name in row.__slots__} | {"path": "bomb.dcm", "facts": {}}
    record_instances(ledger, [ReceivedInstance(**fields)], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    _a_good_study(ledger)
    StudyScheduler(ledger, configuration).consider(NOW + dt.timedelta(seconds=30))
    assert "1.2.3" in [job.study_instance_uid for job in job_overviews(ledger)]
    assert (
        "1 object set aside: NumberOfFrames is 2000000000, but the object holds pixels of at most 0"
        in describe(ledger, configuration, "5.5", now=NOW).sentence
    )
