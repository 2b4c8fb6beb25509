"""What was received, from the ledger to the audit trail: once, whoever dies when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_rows import an_instance, associate
from network.objects import MR, SECONDARY_CAPTURE, mr_image, save
from network.running_node import SCANNER, RunningReceiver, configuration, receiver_thread
from pydicom.dataset import Dataset
from sqlalchemy.exc import OperationalError

from audit.reading import read_trail
from dicom_node.audit import received
from dicom_node.audit.auditor import audited
from dicom_node.audit.messages import Participant
from dicom_node.audit.received import tell_what_was_received
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import AuditSettings, Peer
from dicom_node.network.sender import ScuSettings, send_files
from dicom_node.schedule.scheduler import clean
from storage.files import InstanceFiles
from storage.identity import bind
from storage.instances import close_abandoned_associations, close_association, record_instances
from storage.ledger import Ledger, open_ledger, utc_now
from storage.transfers import untold_associations

STUDY = "1.2.3.4"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def files(tmp_path: Path) -> InstanceFiles:
    return InstanceFiles(tmp_path / "instances")


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    return AuditTrail(tmp_path / "trail.log", Participant("auditor", "NODE", "node.example"))


def test_an_association_is_told_when_it_has_ended_and_once(
    ledger: Ledger, files: InstanceFiles, trail: AuditTrail, tmp_path: Path
) -> None:
    association = associate(ledger, "NODE:104/receiver-0")
    for number in range(3):
        record_instances(ledger, [an_instance(association, number)], at=utc_now())
    assert tell_what_was_received(ledger, files, trail) == 0
    close_association(ledger, association, outcome="released", at=utc_now())
    assert tell_what_was_received(ledger, files, trail) == 1
    assert tell_what_was_received(ledger, files, trail) == 0
    (message,) = read_trail(tmp_path / "trail.log")
    assert (message.event, message.action, message.outcome) == ("110104", "C", 0)
    assert sum(message.instances().values()) == 3
    assert message.detail("Association") == association
    assert message.participants("110152")[0]["UserID"] == "receiver-0"
    # The rows have no files here: the ID is not known, and the message says so by leaving it empty.
    assert message.patients == [""]


def test_a_death_between_writing_and_noting_tells_nothing_twice(
    ledger: Ledger, files: InstanceFiles, trail: AuditTrail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    association = associate(ledger, "NODE:104/receiver-0")
    record_instances(ledger, [an_instance(association, 1)], at=utc_now())
    close_association(ledger, association, outcome="released", at=utc_now())

    def die(*_: object, **__: object) -> None:
        raise OperationalError("", {}, Exception("locked"))

    with monkeypatch.context() as patched:
        patched.setattr(received, "note_as_told", die)
        with pytest.raises(OperationalError):
            tell_what_was_received(ledger, files, trail)
    assert len(read_trail(tmp_path / "trail.log")) == 1
    assert tell_what_was_received(ledger, files, trail) == 1
    assert len(read_trail(tmp_path / "trail.log")) == 1


def test_a_file_that_cannot_be_written_leaves_it_to_be_told(
    ledger: Ledger, files: InstanceFiles, tmp_path: Path
) -> None:
    association = associate(ledger, "NODE:104/receiver-0")
    record_instances(ledger, [an_instance(association, 1)], at=utc_now())
    close_association(ledger, association, outcome="released", at=utc_now())
    (tmp_path / "trail.log").mkdir()
    node = Participant("auditor", "NODE", "node.example")
    with pytest.raises(OSError, match="directory"):
        tell_what_was_received(ledger, files, AuditTrail(tmp_path / "trail.log", node))
    assert tell_what_was_received(ledger, files, AuditTrail(tmp_path / "other.log", node)) == 1
    assert len(read_trail(tmp_path / "other.log")) == 1


def test_what_a_receiver_took_before_it_died_is_told_by_its_successor(
    ledger: Ledger, files: InstanceFiles, trail: AuditTrail, tmp_path: Path
) -> None:
    association = associate(ledger, "NODE:104/receiver-0")
    record_instances(ledger, [an_instance(association, 1)], at=utc_now())
    close_abandoned_associations(ledger, "NODE:104/receiver-0", at=utc_now())
    tell_what_was_received(ledger, files, trail)
    (message,) = read_trail(tmp_path / "trail.log")
    assert (message.action, message.outcome, sum(message.instances().values())) == ("C", 4, 1)
    assert message.root.findtext("EventIdentification/EventOutcomeDescription") == "receiver died"


def test_a_trail_that_is_turned_on_tells_nothing_of_the_time_before(tmp_path: Path) -> None:
    """Whether the node without a trail was stopped or killed: at the stop, and whenever it cleans up, nothing waits."""
    without = configuration(tmp_path)
    file = tmp_path / "trail.log"
    ledger = open_ledger(without.storage.database)
    files = InstanceFiles(without.storage.directory)
    bind(ledger, files, now=utc_now())

    def receive(number: int) -> None:
        association = associate(ledger, "NODE:104/receiver-0")
        record_instances(ledger, [an_instance(association, number)], at=utc_now())
        close_association(ledger, association, outcome="released", at=utc_now())

    with audited(without):
        receive(1)
    receive(2)
    clean(ledger, files, without, utc_now())
    with audited(configuration(tmp_path, audit=AuditSettings(file=file))):
        receive(3)
    told = [one for one in read_trail(file) if one.event == "110104"]
    assert [sum(one.instances().values()) for one in told] == [1]
    assert untold_associations(ledger, 9) == ()
    ledger.close()


def test_associations_without_objects_are_not_told(
    ledger: Ledger, files: InstanceFiles, trail: AuditTrail, tmp_path: Path
) -> None:
    close_association(ledger, associate(ledger, "NODE:104/receiver-0"), outcome="released", at=utc_now())
    assert tell_what_was_received(ledger, files, trail) == 1
    assert not (tmp_path / "trail.log").exists()


def objects(count: int) -> list[Dataset]:
    images = [mr_image(study=STUDY, series="1.2.3.4.1", seed=seed) for seed in range(count)]
    images[-1].SOPClassUID = images[-1].file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    return images


def send(running: RunningReceiver, paths: list[Path]) -> None:
    node = running.configuration.node
    peer = Peer(ae_title=node.ae_title, host="127.0.0.1", port=node.port)
    outcomes = send_files(paths, peer, ScuSettings(SCANNER))
    assert [outcome.error for outcome in outcomes] == [None] * len(paths)


@pytest.mark.parametrize("patient_ids", [True, False])
def test_a_study_that_came_over_the_network(tmp_path: Path, patient_ids: bool) -> None:
    paths = [save(one, tmp_path) for one in objects(3)]
    node = configuration(tmp_path / "node")
    with receiver_thread(node, name="receiver-0") as running:
        send(running, paths[:2])
        send(running, paths)
        send(running, paths)
    trail = AuditTrail(tmp_path / "trail.log", Participant("auditor", "NODE", "node.example"), patient_ids=patient_ids)
    ledger = open_ledger(node.storage.database)
    assert tell_what_was_received(ledger, InstanceFiles(node.storage.directory), trail) == 3
    ledger.close()
    messages = read_trail(tmp_path / "trail.log")
    assert [(one.action, one.instances()) for one in messages] == [
        ("C", {MR: 2}),
        ("C", {SECONDARY_CAPTURE: 1}),
        ("R", {}),
    ]
    for one in messages:
        assert one.studies == [STUDY]
        assert one.patients == (["P1"] if patient_ids else [])
        assert one.participants("110153")[0]["AlternativeUserID"] == f"AETITLES={SCANNER}"
        assert one.participants("110153")[0]["NetworkAccessPointID"] == "127.0.0.1"
    text = (tmp_path / "trail.log").read_text()
    assert "Test" not in text
    assert "&#" not in text
