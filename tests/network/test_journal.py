"""What a receiver acknowledges by its journal: the same answers, the same record, and nothing complete too early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from interop.ports import wait_until
from pydicom.dataset import Dataset
from sqlalchemy import text

from dicom_node import metrics
from dicom_node.config import ConflictAnswer
from dicom_node.network.places import Places, PlaceTable
from dicom_node.network.sop_classes import StorageCommitmentPushModel
from network.objects import MR, encoded, mr_image, new_uid
from network.patient_scanner import patient_requestor
from network.running_node import (
    NODE,
    ReceiverProcess,
    RunningReceiver,
    configuration,
    receiver_thread,
    with_node,
    with_storage,
)
from network.test_taking_in import Node, count
from storage.files import INCOMING, INSTANCES
from storage.jobs import studies_to_consider
from storage.journal import JOURNAL, Journal
from storage.ledger import open_ledger
from storage.schema import InstanceRow

BYTES = 8_000_000
TAKEN, FULL = 0x0000, 0xA700


class Sender:
    """Images of one series, each made when it is sent."""

    def __init__(self, node: Node, journal: Journal) -> None:
        self.node, self.journal = node, journal
        self.study, self.series = new_uid(), new_uid()
        self.sent: list[Dataset] = []

    def send(self) -> int:
        image = mr_image(study=self.study, series=self.series, seed=len(self.sent) % 8, side=64)
        status = self.node.take(image).status
        if status == TAKEN:
            self.sent.append(image)
        return status

    def fill(self) -> Dataset:
        """Send until an image is in the journal, and give it."""

        def journalled() -> bool:
            assert self.send() == TAKEN
            return self.journal.holds(self.node.association)

        wait_until(journalled, seconds=60, what="an image is in the journal", every=0.01)
        return self.sent[-1]

    def held(self) -> bool:
        """Whether the ledger has what was sent, and nothing else."""
        with self.node.ledger.reading() as session:
            rows = session.query(InstanceRow).all()
        uids = sorted(str(image.SOPInstanceUID) for image in self.sent)
        return sorted(row.sop_instance_uid for row in rows) == uids


@contextmanager
def sending(folder: Path) -> Iterator[Sender]:
    with closing(open_ledger(f"sqlite:///{folder}/ledger.sqlite")) as ledger:
        node = Node(folder, ledger)
        journal = node.receiver.keep_journal("receiver-0", "node/receiver-0", BYTES)
        try:
            yield Sender(node, journal)
        finally:
            journal.close()
            node.receiver.commit.close()


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    with sending(tmp_path) as one:
        yield one


def test_what_is_acknowledged_by_the_journal_is_filed_as_any_other(sender: Sender) -> None:
    before = count(metrics.INSTANCES_RECEIVED, "new")
    for _ in range(3):
        sender.fill()
    assert sender.journal.settle(sender.node.association, 60)
    assert sender.held()
    for image in sender.sent:
        (name,) = (
            name for name in sender.node.names(INSTANCES) if str(image.SOPInstanceUID).encode() in name.read_bytes()
        )
        assert name.read_bytes().endswith(encoded(image))
    wait_until(
        lambda: count(metrics.INSTANCES_RECEIVED, "new") == before + len(sender.sent), seconds=60, what="all counted"
    )
    assert sender.node.names(INCOMING) == []


@pytest.mark.parametrize("answer", list(ConflictAnswer))
def test_other_bytes_under_a_uid_in_the_journal_are_answered_as_ever(sender: Sender, answer: ConflictAnswer) -> None:
    node = sender.node
    node.conflicts["OTHER"] = answer
    first = sender.fill()
    other = mr_image(study=sender.study, series=sender.series, seed=3, side=48)
    other.SOPInstanceUID = first.SOPInstanceUID
    assert node.take(other, "OTHER").status == (0xC000 if answer is ConflictAnswer.REFUSE else TAKEN)
    assert sender.journal.settle(node.association, 60)
    assert sender.held()
    kept, aside = (other, first) if answer is ConflictAnswer.REPLACE else (first, other)
    (quarantined,) = node.quarantined()
    assert node.files.absolute(quarantined.path).read_bytes().endswith(encoded(aside))
    with node.ledger.reading() as session:
        row = session.query(InstanceRow).filter_by(sop_instance_uid=str(first.SOPInstanceUID)).one()
    assert node.files.absolute(row.path).read_bytes().endswith(encoded(kept))


def test_the_same_image_again_is_nothing_new(sender: Sender) -> None:
    image = sender.fill()
    assert sender.node.take(image).status == TAKEN
    assert sender.journal.settle(sender.node.association, 60)
    assert sender.held()
    assert sender.node.quarantined() == []


def test_a_study_is_not_considered_without_its_images_in_the_journal(sender: Sender) -> None:
    sender.fill()
    # Whatever is filed by now, the association that is open to the study holds it open.
    (study,) = studies_to_consider(sender.node.ledger)
    assert (study.study_instance_uid, study.open_associations) == (sender.study, 1)


def test_a_dead_ledger_is_not_acknowledged_for_ever(sender: Sender) -> None:
    sender.fill()
    with sender.node.ledger.transaction() as session:
        session.execute(text("ALTER TABLE instance RENAME TO gone"))
    try:
        wait_until(lambda: sender.send() == FULL, seconds=60, what="an image is refused", every=0)
        assert sender.send() == FULL
        assert sum(path.stat().st_size for path in sender.node.names(JOURNAL)) <= BYTES
    finally:
        with sender.node.ledger.transaction() as session:
            session.execute(text("ALTER TABLE gone RENAME TO instance"))
    assert sender.journal.settle(sender.node.association, 60)
    assert sender.held()
    sender.fill()


def test_a_disk_that_takes_no_files_is_answered_as_ever(sender: Sender) -> None:
    sender.fill()
    incoming = sender.node.files.root / INCOMING
    incoming.rename(sender.node.folder / "elsewhere")
    try:
        wait_until(lambda: sender.send() == FULL, seconds=60, what="an image is refused", every=0)
    finally:
        (sender.node.folder / "elsewhere").rename(incoming)
    assert sender.journal.settle(sender.node.association, 60)
    assert sender.held()


def test_a_disk_without_room_is_answered_before_the_journal(sender: Sender) -> None:
    sender.fill()
    sender.node.free = 0
    assert sender.send() == FULL


def test_what_a_process_acknowledged_is_waited_for_by_all_and_counted_on_after_its_death() -> None:
    table = PlaceTable(2)
    first, other = Places(table, 0), Places(table, 1)
    first.journalled(0, 0)
    other.journalled(0, 0)
    first.journalled(10, 4)
    assert not table.await_filed(0)
    assert table.unfiled() == 6
    first.journalled(10, 10)
    assert table.await_filed(0)
    first.journalled(12, 10)
    # Dead, with three whole records that are not filed: one of them it had not acknowledged yet.
    table.clear(0)
    assert not table.await_filed(0)
    first = Places(table, 0)
    assert not table.await_filed(0)
    first.journalled(3, 0)
    assert not table.await_filed(0)
    first.journalled(3, 3)
    assert table.await_filed(0)
    assert table.unfiled() == 0


def test_who_asks_is_told_of_all_that_was_acknowledged_and_the_end_is_recorded_after_it(tmp_path: Path) -> None:
    node = with_storage(with_node(configuration(tmp_path), commitment=True), journal_mb=8)
    entity = patient_requestor()
    entity.add_requested_context(StorageCommitmentPushModel)
    study, series = new_uid(), new_uid()
    acknowledged: set[str] = set()
    with receiver_thread(node) as running:

        def unfiled() -> set[str]:
            return acknowledged - {row.sop_instance_uid for row in running.instances()}

        storing = entity.associate("127.0.0.1", running.port, ae_title=NODE)
        asking = entity.associate("127.0.0.1", running.port, ae_title=NODE)

        def send() -> bool:
            image = mr_image(study=study, series=series, seed=len(acknowledged) % 8)
            assert storing.send_c_store(image).Status == TAKEN
            acknowledged.add(str(image.SOPInstanceUID))
            return bool(unfiled())

        wait_until(send, seconds=60, what="an image is acknowledged by the journal", every=0.01)
        information = Dataset()
        information.TransactionUID = new_uid()
        information.ReferencedSOPSequence = [Dataset()]
        information.ReferencedSOPSequence[0].ReferencedSOPClassUID = MR
        information.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = max(acknowledged)
        status, _ = asking.send_n_action(information, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
        assert status.Status == TAKEN
        assert unfiled() == set()
        asking.release()
        wait_until(send, seconds=60, what="an image is acknowledged by the journal", every=0.01)
        storing.release()
        wait_until(
            lambda: {row.outcome for row in running.associations()} == {"released"}, seconds=60, what="both ended"
        )
        assert unfiled() == set()
        assert len(running.instances()) == len(acknowledged)
    assert list((node.storage.directory / JOURNAL).iterdir()) == []


@pytest.mark.slow
def test_a_receiver_that_is_killed_with_images_in_its_journal_has_them_when_it_serves_again(tmp_path: Path) -> None:
    node = with_storage(configuration(tmp_path), journal_mb=8)
    entity = patient_requestor()
    acknowledged: set[str] = set()
    process = ReceiverProcess(node)
    try:
        with closing(open_ledger(node.storage.database)) as ledger:
            running = RunningReceiver(node, ledger)

            def unfiled() -> set[str]:
                return acknowledged - {row.sop_instance_uid for row in running.instances()}

            for _ in range(3):
                association = entity.associate("127.0.0.1", node.node.port, ae_title=NODE)
                study, series = new_uid(), new_uid()
                for _ in range(1000):
                    image = mr_image(study=study, series=series, seed=len(acknowledged) % 8)
                    assert association.send_c_store(image).Status == TAKEN
                    acknowledged.add(str(image.SOPInstanceUID))
                    if len(unfiled()) > 1:
                        process.kill()
                        if unfiled():
                            break
                        process.start()
                        association = entity.associate("127.0.0.1", node.node.port, ae_title=NODE)
                assert unfiled()
                process.start()
                assert unfiled() == set()
                assert len(running.instances()) == len(acknowledged)
                assert "receiver died" in {row.outcome for row in running.associations()}
                assert None not in {row.outcome for row in running.associations()}
            for row in running.instances():
                assert running.file_of(row).stat().st_size == row.size
    finally:
        process.kill()


def test_without_a_journal_nothing_waits(tmp_path: Path) -> None:
    assert not (tmp_path / "instances" / JOURNAL).exists()
    with receiver_thread(with_storage(configuration(tmp_path), journal_mb=8, durable=False)) as running:
        entity = patient_requestor()
        association = entity.associate("127.0.0.1", running.port, ae_title=NODE)
        study, series = new_uid(), new_uid()
        for number in range(20):
            assert association.send_c_store(mr_image(study=study, series=series, seed=number % 8)).Status == TAKEN
            assert len(running.instances()) == number + 1
        association.release()
    assert not (tmp_path / "instances" / JOURNAL).exists()
