"""MPPS: legal and illegal transitions over the network against a model, and what the scheduler makes of the steps."""

from __future__ import annotations

import datetime as dt
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from interop.ports import wait_until
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_CREATE, N_SET
from pynetdicom.sop_class import ModalityPerformedProcedureStep
from sqlalchemy import select

from dicom_node.config import Configuration, ExecutionSettings, Peer
from dicom_node.network.sender import ScuSettings, send_files
from dicom_node.schedule.scheduler import StudyScheduler
from dicom_node.schedule.study import describe
from network.objects import MR, encoded, mr_image, new_uid, save
from network.running_node import NODE, SCANNER, RunningReceiver, configuration, receiver_thread
from storage.ledger import utc_now
from storage.overview import events_of_study
from storage.retention import expire_steps
from storage.schema import PerformedStepRow, PerformedStepStudyRow, StepState

STUDY = "1.2.5"


@contextmanager
def modality(receiver: RunningReceiver, title: str = SCANNER) -> Iterator[Association]:
    entity = AE(title)
    entity.add_requested_context(ModalityPerformedProcedureStep, [ExplicitVRLittleEndian])
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", receiver.port, ae_title=NODE)
    assert association.is_established
    # pynetdicom's own functions let its reactor run between two requests, where it may swallow a response that is
    # quick: here it rests until the end.
    association._reactor_checkpoint.clear()
    time.sleep(0.05)
    yield association
    association._reactor_checkpoint.set()
    association.release()


def beginning(study: str = STUDY) -> Dataset:
    scheduled, step = Dataset(), Dataset()
    scheduled.StudyInstanceUID = study
    step.ScheduledStepAttributesSequence = [scheduled]
    step.PatientName, step.PatientID = "Doe^Jane", "P1"
    step.PerformedProcedureStepID, step.PerformedStationAETitle, step.Modality = "S1", SCANNER, "MR"
    step.PerformedProcedureStepStartDate, step.PerformedProcedureStepStartTime = "20260301", "120000"
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    step.PerformedSeriesSequence = []
    return step


def change(status: str | None = None, made: dict[str, list[str]] | None = None, *, end: bool = False) -> Dataset:
    step = Dataset()
    step.PerformedProcedureStepDescription = "cine"
    if status is not None:
        step.PerformedProcedureStepStatus = status
    if end:
        step.PerformedProcedureStepEndDate, step.PerformedProcedureStepEndTime = "20260301", "123000"
    if made is not None:
        step.PerformedSeriesSequence = []
        for uid, images in made.items():
            series = Dataset()
            series.SeriesInstanceUID, series.ReferencedImageSequence = uid, []
            for image in images:
                reference = Dataset()
                reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = MR, image
                series.ReferencedImageSequence.append(reference)
            step.PerformedSeriesSequence.append(series)
    return step


def create(association: Association, step: Dataset, uid: str | None) -> Dataset:
    request = N_CREATE()
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = ModalityPerformedProcedureStep, uid
    request.AttributeList = io.BytesIO(encoded(step))
    return answer(association, request)


def modify(association: Association, step: Dataset, uid: str) -> Dataset:
    request = N_SET()
    request.RequestedSOPClassUID, request.RequestedSOPInstanceUID = ModalityPerformedProcedureStep, uid
    request.ModificationList = io.BytesIO(encoded(step))
    return answer(association, request)


def answer(association: Association, request: N_CREATE | N_SET) -> Dataset:
    (context,) = [c for c in association.accepted_contexts if c.abstract_syntax == ModalityPerformedProcedureStep]
    request.MessageID = 1
    association.dimse.send_msg(request, context.context_id)
    _, response = association.dimse.get_msg(block=True)
    status = Dataset()
    status.Status, status.ErrorComment = response.Status, response.ErrorComment or ""
    if response.ErrorID is not None:
        status.ErrorID = response.ErrorID
    return status


def test_every_transition_is_that_of_the_model(receiver: RunningReceiver) -> None:
    with modality(receiver) as association:

        class Steps(RuleBasedStateMachine):
            """What PS3.4 F.7.2 says, on three UIDs."""

            @initialize()
            def start(self) -> None:
                self.uids = [new_uid() for _ in range(3)]
                self.state: dict[str, str] = {}
                self.ended: set[str] = set()
                self.made: set[str] = set()

            @rule(number=st.integers(0, 2), status=st.sampled_from(["IN PROGRESS", "COMPLETED", ""]))
            def begins(self, number: int, status: str) -> None:
                uid, step = self.uids[number], beginning()
                step.PerformedProcedureStepStatus = status
                expected = {"IN PROGRESS": 0x0111 if uid in self.state else 0x0000, "COMPLETED": 0x0106, "": 0x0121}
                assert create(association, step, uid).Status == expected[status]
                if expected[status] == 0x0000:
                    self.state[uid] = "IN PROGRESS"

            @rule(
                number=st.integers(0, 2),
                status=st.sampled_from([None, "IN PROGRESS", "COMPLETED", "DISCONTINUED", "DONE"]),
                end=st.booleans(),
                made=st.sampled_from([None, {}, {"1.2.5.1": ["1.2.5.1.1"]}]),
            )
            def changes(self, number: int, status: str | None, end: bool, made: dict[str, list[str]] | None) -> None:
                uid = self.uids[number]
                response = modify(association, change(status, made, end=end), uid)
                now_made = bool(made) if made is not None else uid in self.made
                lacks_end = status in ("COMPLETED", "DISCONTINUED") and not (end or uid in self.ended)
                lacks_series = status == "COMPLETED" and not now_made
                if status == "DONE":
                    expected = 0x0106
                elif uid not in self.state:
                    expected = 0x0112
                elif self.state[uid] != "IN PROGRESS":
                    expected = 0x0110
                    assert (response.ErrorID, "no longer be updated" in response.ErrorComment) == (0xA710, True)
                elif lacks_end or lacks_series:
                    expected = 0x0120
                else:
                    expected = 0x0000
                    self.state[uid] = status or "IN PROGRESS"
                    if end:
                        self.ended.add(uid)
                    (self.made.add if now_made else self.made.discard)(uid)
                assert response.Status == expected

            @invariant()
            def the_ledger_says_the_same(self) -> None:
                with receiver.ledger.reading() as session:
                    rows = session.execute(
                        select(PerformedStepRow.sop_instance_uid, PerformedStepRow.state).where(
                            PerformedStepRow.sop_instance_uid.in_(getattr(self, "uids", []))
                        )
                    ).all()
                assert {uid: state.value for uid, state in rows} == getattr(self, "state", {})

        run_state_machine_as_test(
            Steps,
            settings=settings(
                max_examples=12, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        ({"PerformedProcedureStepID": None}, 0x0120),
        ({"PerformedProcedureStepID": ""}, 0x0121),
        ({"ScheduledStepAttributesSequence": None}, 0x0120),
        ({"ScheduledStepAttributesSequence": []}, 0x0121),
        ({"ScheduledStepAttributesSequence": [Dataset()]}, 0x0120),
        ({"Modality": None}, 0x0120),
        ({"PerformedSeriesSequence": [Dataset()]}, 0x0120),
    ],
)
def test_what_a_beginning_lacks_is_said(receiver: RunningReceiver, spoil: dict[str, object], status: int) -> None:
    step = beginning()
    for keyword, value in spoil.items():
        if value is None:
            del step[keyword]
        else:
            setattr(step, keyword, value)
    with modality(receiver) as association:
        response = create(association, step, new_uid())
        assert response.Status == status
        assert response.ErrorComment


def test_the_node_names_a_step_that_has_no_name_and_keeps_no_patient(receiver: RunningReceiver) -> None:
    with modality(receiver) as association:
        assert create(association, beginning(), None).Status == 0x0000
    with receiver.ledger.reading() as session:
        (row,) = session.execute(select(PerformedStepRow.__table__)).all()
    assert row.sop_instance_uid.startswith("2.25.")
    assert not any(patient in str(row) for patient in ("Doe", "P1"))


def test_who_may_not_send_may_not_tell(receiver: RunningReceiver) -> None:
    with modality(receiver, title="LOOKER") as association:
        rejected = [str(context.abstract_syntax) for context in association.rejected_contexts]
    assert rejected == [ModalityPerformedProcedureStep]


class Scene:
    """A scanner with a study of two series, and a scheduler beside the receiver, with quiet times that never pass."""

    def __init__(self, receiver: RunningReceiver, folder: Path) -> None:
        self.receiver, self.folder = receiver, folder
        self.made = {f"{STUDY}.{series}": [f"{STUDY}.{series}.{number}" for number in (1, 2)] for series in (1, 2)}
        self.scheduler = StudyScheduler(receiver.ledger, receiver.configuration)

    def send(self, *uids: str) -> None:
        paths = []
        for uid in uids:
            image = mr_image(study=STUDY, series=uid.rpartition(".")[0])
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid
            paths.append(save(image, self.folder))
        peer = Peer(ae_title=NODE, host="127.0.0.1", port=self.receiver.port)
        assert all(one.error is None for one in send_files(paths, peer, ScuSettings(SCANNER)))
        wait_until(
            lambda: all(one.closed_at for one in self.receiver.associations()), seconds=30, what="the association ended"
        )

    def step(self, status: str, made: dict[str, list[str]] | None = None) -> None:
        uid = new_uid()
        with modality(self.receiver) as association:
            assert create(association, beginning(), uid).Status == 0x0000
            if status != "IN PROGRESS":
                assert modify(association, change(status, made, end=True), uid).Status == 0x0000

    def scheduled(self, later_s: float = 0.0) -> bool:
        """Whether the study is taken as complete in the next run, or ``later_s`` after it."""
        self.scheduler.consider(utc_now() + dt.timedelta(seconds=later_s))
        return not describe(self.receiver.ledger, self.receiver.configuration, STUDY, now=utc_now()).waiting

    def sentence(self) -> str:
        return describe(self.receiver.ledger, self.receiver.configuration, STUDY, now=utc_now()).sentence


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    node: Configuration = configuration(
        tmp_path,
        execution=ExecutionSettings(quiet_time_s=1000, complete_quiet_time_s=1000, missing_images_quiet_time_s=3000),
    )
    with receiver_thread(node) as receiver:
        yield Scene(receiver, tmp_path)


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
def test_a_study_whose_step_has_ended_and_whose_images_are_here_is_taken_at_once(scene: Scene, status: str) -> None:
    scene.send(*scene.made[f"{STUDY}.1"], *scene.made[f"{STUDY}.2"])
    assert not scene.scheduled()
    scene.step("IN PROGRESS")
    assert not scene.scheduled()
    assert "performed procedure step in progress" in scene.sentence()
    # Another step of the study ends: the first goes on.
    scene.step(status, scene.made)
    assert not scene.scheduled()
    with scene.receiver.ledger.transaction() as session:
        for row in session.scalars(select(PerformedStepRow).where(PerformedStepRow.state == StepState.IN_PROGRESS)):
            row.state, row.changed_at = StepState.DISCONTINUED, utc_now()
    assert scene.scheduled()
    (complete,) = [one for one in events_of_study(scene.receiver.ledger, STUDY) if one.kind == "study complete"]
    assert "all its 4 images are here" in complete.detail["reason"]
    assert f"performed step {status.lower()}" in {one.kind for one in events_of_study(scene.receiver.ledger, STUDY)}


def test_a_missing_image_is_waited_for_and_explained(scene: Scene) -> None:
    first, second = scene.made.values()
    scene.send(*first, second[0])
    scene.step("COMPLETED", scene.made)
    # Longer than the quiet time of any study.
    assert not scene.scheduled(later_s=2000)
    assert "performed procedure step completed, 1 of its 4 images have not come" in scene.sentence()
    scene.send(second[1])
    assert scene.scheduled()


def test_a_missing_image_is_not_waited_for_for_ever(scene: Scene) -> None:
    first, second = scene.made.values()
    scene.send(*first, second[0])
    scene.step("COMPLETED", scene.made)
    assert scene.scheduled(later_s=3001)


def test_a_series_that_is_never_sent_here_holds_nothing_up(scene: Scene) -> None:
    scene.send(*scene.made[f"{STUDY}.1"])
    scene.step("COMPLETED", scene.made)
    assert not scene.scheduled()
    assert "1 of its series have not come" in scene.sentence()
    assert scene.scheduled(later_s=1001)


def test_old_steps_are_forgotten(scene: Scene) -> None:
    scene.step("COMPLETED", scene.made)
    day = dt.timedelta(days=1)
    assert expire_steps(scene.receiver.ledger, retention=day, now=utc_now()) == 0
    assert expire_steps(scene.receiver.ledger, retention=day, now=utc_now() + 2 * day) == 1
    with scene.receiver.ledger.reading() as session:
        assert session.scalars(select(PerformedStepStudyRow)).all() == []
