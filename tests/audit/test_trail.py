"""The audit file: many writers, renamed at any time, on a disk that fills."""

from __future__ import annotations

import base64
import fcntl
import io
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
from network.objects import encoded, mr_image, save
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from audit.reading import read_line, read_trail
from dicom_node.audit.messages import AuditMessage, Outcome, Participant, application_activity
from dicom_node.audit.trail import AuditTrail, patient_id_of
from dicom_node.metrics import AUDIT_MESSAGES_NOT_WRITTEN
from storage.ledger import utc_now

NODE = Participant("receiver-0", "DICOMNODE", "node.example")
_fork = multiprocessing.get_context("fork")


def alert(trail: AuditTrail, text: str = "no such peer", *, count: int = 1) -> None:
    """Raise alerts and wait until they are written."""
    for _ in range(count):
        trail.node_authentication_failed(address="192.0.2.7", description=text)
    trail._alerts.submit(int).result()


def numbered(text: str) -> AuditMessage:
    return AuditMessage("Test", utc_now(), Outcome.SUCCESS, f"<AuditMessage>{text}</AuditMessage>")


def _write_many(file: Path, writer: int, count: int) -> None:
    trail = AuditTrail(file, NODE)
    for number in range(count):
        trail.append([numbered(f"{writer}:{number}")])


def test_no_trail_is_kept_where_none_is_asked_for(tmp_path: Path) -> None:
    alert(AuditTrail(None, NODE))
    assert list(tmp_path.iterdir()) == []


def test_processes_write_whole_lines_while_the_file_is_rotated(tmp_path: Path) -> None:
    file = tmp_path / "audit" / "trail.log"
    writers = [_fork.Process(target=_write_many, args=(file, number, 60)) for number in range(3)]
    for writer in writers:
        writer.start()
    rotated = 0
    while any(writer.is_alive() for writer in writers):
        if file.exists() and file.stat().st_size > 1_500:
            file.rename(file.with_name(f"trail.log.{rotated}"))
            rotated += 1
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    # How often depends on how fast this process looks; once is enough to write across a rotation.
    assert rotated >= 1
    lines = [line for part in file.parent.iterdir() for line in part.read_text().splitlines()]
    written = [line.partition("<AuditMessage>")[2].removesuffix("</AuditMessage>") for line in lines]
    assert sorted(written) == sorted(f"{writer}:{number}" for writer in range(3) for number in range(60))


def _fill_the_disk(file: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 300, resource.RLIM_INFINITY))
    trail = AuditTrail(file, NODE)
    alert(trail)
    with pytest.raises(OSError, match="too large"):
        trail.append([application_activity(NODE, started=False, at=utc_now())])
    assert AUDIT_MESSAGES_NOT_WRITTEN.labels("file")._value.get() == 1


def test_a_full_disk_leaves_no_half_message_and_stops_nobody(tmp_path: Path) -> None:
    file = tmp_path / "trail.log"
    trail = AuditTrail(file, NODE)
    alert(trail)
    process = _fork.Process(target=_fill_the_disk, args=(file,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert len(read_trail(file)) == 1
    alert(trail)
    assert len(read_trail(file)) == 2


def test_half_a_line_that_a_power_cut_left_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "trail.log"
    trail = AuditTrail(file, NODE)
    alert(trail)
    os.truncate(file, file.stat().st_size - 10)
    alert(trail)
    assert read_line(file.read_bytes().splitlines()[-1]).event == "110113"


def test_what_the_end_of_the_file_holds_is_not_written_again(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path / "trail.log", NODE)
    messages = [numbered("a"), numbered("b")]
    trail.append(messages[:1], once=True)
    alert(trail)
    trail.append(messages, once=True)
    text = (tmp_path / "trail.log").read_text()
    assert text.count(">a<") == text.count(">b<") == 1


def test_a_flood_of_strangers_is_counted_not_written(tmp_path: Path) -> None:
    now = [0.0]
    trail = AuditTrail(tmp_path / "trail.log", NODE, clock=lambda: now[0])
    alert(trail, count=1000)
    assert len(read_trail(tmp_path / "trail.log")) == 20
    now[0] += 3.0
    alert(trail, count=2)
    messages = read_trail(tmp_path / "trail.log")
    assert len(messages) == 21
    assert "980 more alerts" in messages[-1].detail("Alert Description")


def test_whoever_raises_an_alert_waits_for_no_disk_and_none_is_lost_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "trail.log"
    trail = AuditTrail(file, NODE)
    with file.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for _ in range(3):
            trail.node_authentication_failed(address="192.0.2.7", description="no such peer")
        assert file.stat().st_size == 0
    trail.close()
    assert len(read_trail(file)) == 3


@pytest.mark.parametrize("patient_ids", [True, False])
def test_queries_are_told_without_names(tmp_path: Path, patient_ids: bool) -> None:
    trail = AuditTrail(tmp_path / "trail.log", NODE, patient_ids=patient_ids)
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.PatientName, identifier.PatientID, identifier.PatientBirthDate = "DOE^JOHN", "4711", "19700101"
    identifier.ReferringPhysicianName = "WHO^DOCTOR"
    identifier.StudyInstanceUID = [f"1.2.{number}" for number in range(5000)]
    item = Dataset()
    item.RequestingPhysician = "HIDDEN^DOCTOR"
    identifier.RequestAttributesSequence = [item]
    trail.queried(
        calling_ae_title="MR1",
        address="10.0.0.20",
        sop_class_uid="1.2.840.10008.5.1.4.1.2.2.1",
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        identifier=encoded(identifier),
    )
    (message,) = read_trail(tmp_path / "trail.log")
    (queried,) = message.objects("110181")
    data = base64.b64decode(queried.findtext("ParticipantObjectQuery"))
    told = dcmread(io.BytesIO(data), force=True)
    told_text = str(told)
    assert not {"DOE", "WHO", "HIDDEN", "1970"} & {
        part for part in ("DOE", "WHO", "HIDDEN", "1970") if part in told_text
    }
    assert ("4711" in told_text) is patient_ids
    assert "PatientName" in told
    assert told.StudyInstanceUID[:2] == ["1.2.0", "1.2.1"]
    # PS3.15 A.6: collectors take at least 32 768 bytes.
    assert len((tmp_path / "trail.log").read_bytes()) < 32_768


def test_patient_ids_come_from_the_header_of_a_file(tmp_path: Path) -> None:
    image = mr_image()
    assert patient_id_of(save(image, tmp_path)) == "P1"
    assert patient_id_of(tmp_path / "gone") == ""
    (tmp_path / "bare").write_bytes(encoded(image))
    assert patient_id_of(tmp_path / "bare") == ""
