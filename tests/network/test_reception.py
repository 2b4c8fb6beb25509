"""Receiving: what is answered, what is on disk and in the ledger afterwards."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from interop.dcmtk import echoscu, storescu
from interop.ports import wait_until
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from dicom_node.config import NodeSettings, Peer, StorageSettings
from dicom_node.network.sender import ScuSettings, send_files
from network.objects import MR, SECONDARY_CAPTURE, data_set_bytes, encoded, mr_image, new_uid, save
from network.running_node import NODE, SCANNER, RunningReceiver, configuration, receiver_thread

pytestmark = pytest.mark.peers


@contextmanager
def scanner(
    receiver: RunningReceiver, contexts: dict[str, list[str]] | None = None, title: str = SCANNER
) -> Iterator[Association]:
    """An association of a pynetdicom SCU, to send what storescu would not."""
    entity = AE(title)
    for abstract, syntaxes in (contexts or {MR: [ExplicitVRLittleEndian]}).items():
        entity.add_requested_context(abstract, syntaxes)
    association = entity.associate("127.0.0.1", receiver.port, ae_title=NODE)
    assert association.is_established
    yield association
    association.release()


def store_bytes(
    association: Association, data: bytes, *, sop_class: str = MR, sop_instance: str | None = None
) -> Dataset:
    """C-STORE any bytes under any identifiers."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, sop_instance or new_uid()
    request.DataSet = io.BytesIO(data)
    (context,) = [c for c in association.accepted_contexts if c.abstract_syntax == sop_class]
    association._reactor_checkpoint.clear()
    wait_until(lambda: association._is_paused, seconds=30, what="the reactor pauses")
    association.dimse.send_msg(request, context.context_id)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    answer = Dataset()
    answer.Status, answer.ErrorComment = response.Status, response.ErrorComment or ""
    return answer


def test_what_is_received_is_on_disk_byte_for_byte_and_in_the_ledger(
    dcmtk: None, receiver: RunningReceiver, tmp_path: Path
) -> None:
    images = [mr_image(study="1.2.3", series="1.2.3.4", seed=seed) for seed in range(5)]
    paths = [save(image, tmp_path) for image in images]
    sent = storescu(paths, port=receiver.port, called=NODE)
    assert sent.returncode == 0, sent.stderr
    rows = receiver.instances()
    assert {row.sop_instance_uid for row in rows} == {image.SOPInstanceUID for image in images}
    for row, path in zip(sorted(rows, key=lambda r: r.id), paths, strict=True):
        stored = receiver.file_of(row)
        assert data_set_bytes(stored) == data_set_bytes(path)
        meta = dcmread(stored).file_meta
        assert meta.MediaStorageSOPInstanceUID == row.sop_instance_uid
        assert meta.MediaStorageSOPClassUID == MR
        assert meta.TransferSyntaxUID == row.transfer_syntax_uid == ExplicitVRLittleEndian
        assert meta.SourceApplicationEntityTitle == SCANNER
    (association,) = receiver.associations()
    wait_until(lambda: receiver.associations()[0].closed_at is not None, seconds=30, what="association closed")
    assert receiver.associations()[0].outcome == "released"
    assert association.calling_ae_title == SCANNER


def test_an_echo_leaves_no_trace_in_the_ledger(dcmtk: None, receiver: RunningReceiver) -> None:
    assert echoscu(port=receiver.port, called=NODE).returncode == 0
    assert receiver.associations() == []


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [("NOBODY", NODE, "Calling AE Title Not Recognized"), (SCANNER, "OTHER", "Called AE Title Not Recognized")],
)
def test_unknown_titles_are_rejected_with_their_reason(
    dcmtk: None, receiver: RunningReceiver, calling: str, called: str, reason: str
) -> None:
    refused = echoscu(port=receiver.port, called=called, calling=calling)
    assert refused.returncode != 0
    assert reason in refused.stderr
    assert "Rejected Permanent, Source: Service User" in refused.stderr


def test_a_title_from_another_host_is_rejected(dcmtk: None, tmp_path: Path) -> None:
    elsewhere = configuration(tmp_path, peers={"scanner": Peer(ae_title=SCANNER, host="192.0.2.1")})
    with receiver_thread(elsewhere) as receiver:
        refused = echoscu(port=receiver.port, called=NODE)
    assert "Calling AE Title Not Recognized" in refused.stderr


def test_too_many_associations_are_rejected_for_now_and_accepted_later(dcmtk: None, tmp_path: Path) -> None:
    limited = configuration(tmp_path)
    limited = limited.model_copy(
        update={"node": NodeSettings(**{**limited.node.model_dump(), "maximum_associations": 2})}
    )
    with receiver_thread(limited) as receiver:
        with scanner(receiver), scanner(receiver):
            refused = echoscu(port=receiver.port, called=NODE)
            assert "Rejected Transient, Source: Service Provider (Presentation Related)" in refused.stderr
            assert "Local Limit Exceeded" in refused.stderr
        wait_until(
            lambda: echoscu(port=receiver.port, called=NODE).returncode == 0, seconds=30, what="a place is free again"
        )


def test_a_peer_without_permission_to_send_can_only_echo(
    dcmtk: None, receiver: RunningReceiver, tmp_path: Path
) -> None:
    assert echoscu(port=receiver.port, called=NODE, calling="LOOKER").returncode == 0
    refused = storescu([save(mr_image(), tmp_path)], port=receiver.port, called=NODE, calling="LOOKER")
    assert refused.returncode != 0
    assert "No Acceptable Presentation Contexts" in refused.stderr
    assert receiver.instances() == []


def test_the_same_bytes_again_are_success_and_nothing_new(
    dcmtk: None, receiver: RunningReceiver, tmp_path: Path
) -> None:
    path = save(mr_image(), tmp_path)
    for _ in range(3):
        assert storescu([path], port=receiver.port, called=NODE).returncode == 0
    assert len(receiver.instances()) == 1
    assert receiver.quarantine() == []
    assert len(list(receiver.configuration.storage.directory.glob("instances/*/*.dcm"))) == 1


def send_conflict(receiver: RunningReceiver, folder: Path) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    first = mr_image(seed=1)
    second = mr_image(seed=2, study=first.StudyInstanceUID, series=first.SeriesInstanceUID)
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    kept, other = save(first, folder, "first"), save(second, folder, "second")
    assert storescu([kept], port=receiver.port, called=NODE).returncode == 0
    return kept, other, storescu([other], port=receiver.port, called=NODE)


def test_other_bytes_under_a_known_uid_are_quarantined_and_the_first_kept(
    dcmtk: None, receiver: RunningReceiver, tmp_path: Path
) -> None:
    kept, other, sent = send_conflict(receiver, tmp_path)
    assert "Received Store Response (Success)" in sent.stderr
    (row,) = receiver.instances()
    (quarantined,) = receiver.quarantine()
    assert data_set_bytes(receiver.file_of(row)) == data_set_bytes(kept)
    assert data_set_bytes(receiver.file_of(quarantined)) == data_set_bytes(other)
    assert quarantined.sop_instance_uid == row.sop_instance_uid
    assert "other bytes" in quarantined.reason


def test_a_conflict_is_refused_where_the_configuration_says_so(dcmtk: None, tmp_path: Path) -> None:
    strict = configuration(tmp_path)
    strict = strict.model_copy(
        update={"storage": StorageSettings(**{**strict.storage.model_dump(), "conflicts": "refuse"})}
    )
    with receiver_thread(strict) as receiver:
        kept, other, sent = send_conflict(receiver, tmp_path)
        assert "Received Store Response (Error: CannotUnderstand)" in sent.stderr
        (row,), (quarantined,) = receiver.instances(), receiver.quarantine()
        assert data_set_bytes(receiver.file_of(row)) == data_set_bytes(kept)
        assert data_set_bytes(receiver.file_of(quarantined)) == data_set_bytes(other)


def without(keyword: str) -> Dataset:
    image = mr_image()
    del image[keyword]
    return image


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_a_missing_identifier_is_a900_and_the_bytes_are_quarantined(receiver: RunningReceiver, keyword: str) -> None:
    image = without(keyword)
    data = encoded(image)
    with scanner(receiver) as association:
        answer = store_bytes(association, data, sop_instance=image.get("SOPInstanceUID"))
    assert answer.Status == 0xA900
    assert keyword in answer.ErrorComment
    assert receiver.instances() == []
    (quarantined,) = receiver.quarantine()
    assert keyword in quarantined.reason
    assert data_set_bytes(receiver.file_of(quarantined)) == data


@pytest.mark.parametrize("value", [b"1.2.x.4", b"1.2..3\0", b"1." * 33 + b"10", b"../../etc/passwd"])
def test_a_malformed_identifier_is_a900(receiver: RunningReceiver, value: bytes) -> None:
    image = mr_image()
    data = encoded(image).replace(study_uid_element(padded(image.StudyInstanceUID)), study_uid_element(value))
    with scanner(receiver) as association:
        answer = store_bytes(association, data, sop_instance=image.SOPInstanceUID)
    assert answer.Status == 0xA900
    assert receiver.instances() == []
    assert len(receiver.quarantine()) == 1


def study_uid_element(value: bytes) -> bytes:
    return b"\x20\x00\x0d\x00UI" + len(value).to_bytes(2, "little") + value


def padded(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


def test_uids_with_leading_zeros_are_taken_as_they_are(receiver: RunningReceiver) -> None:
    image = mr_image()
    with scanner(receiver) as association:
        image.SOPInstanceUID = "1.2.3.045.6"
        assert store_bytes(association, encoded(image), sop_instance="1.2.3.045.6").Status == 0x0000
    assert receiver.instances()[0].sop_instance_uid == "1.2.3.045.6"


@pytest.mark.parametrize("what", ["class", "instance"])
def test_a_data_set_that_is_not_what_the_request_says_is_a900(receiver: RunningReceiver, what: str) -> None:
    image = mr_image()
    with scanner(receiver, {MR: [ExplicitVRLittleEndian], SECONDARY_CAPTURE: [ExplicitVRLittleEndian]}) as association:
        answer = store_bytes(
            association,
            encoded(image),
            sop_class=SECONDARY_CAPTURE if what == "class" else MR,
            sop_instance=image.SOPInstanceUID if what == "class" else new_uid(),
        )
    assert answer.Status == 0xA900
    assert len(receiver.quarantine()) == 1


@pytest.mark.parametrize("damage", ["truncated pixels", "truncated header", "implicit", "noise", "nothing but zeros"])
def test_what_cannot_be_parsed_is_c000_and_the_bytes_are_quarantined(receiver: RunningReceiver, damage: str) -> None:
    image = mr_image()
    whole = encoded(image)
    data = {
        "truncated pixels": whole[:-100],
        "truncated header": whole[:301],
        "implicit": encoded(image, ImplicitVRLittleEndian),
        "noise": bytes(range(256)) * 8,
        "nothing but zeros": bytes(64),
    }[damage]
    with scanner(receiver) as association:
        answer = store_bytes(association, data, sop_instance=image.SOPInstanceUID)
        assert answer.Status == 0xC000
        assert answer.ErrorComment
        # The association survives, and honest objects pass on it.
        assert store_bytes(association, whole, sop_instance=image.SOPInstanceUID).Status == 0x0000
    assert len(receiver.instances()) == 1
    (quarantined,) = receiver.quarantine()
    assert data_set_bytes(receiver.file_of(quarantined)) == data
    assert quarantined.sop_instance_uid == image.SOPInstanceUID


def test_parallel_associations_of_one_study(dcmtk: None, receiver: RunningReceiver, tmp_path: Path) -> None:
    study = new_uid()
    series = [new_uid() for _ in range(4)]
    folders = []
    for number, uid in enumerate(series):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        for seed in range(8):
            save(mr_image(study=study, series=uid, seed=seed), folders[-1])
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda folder: storescu([folder], port=receiver.port, called=NODE), folders))
    assert [result.returncode for result in results] == [0, 0, 0, 0], [result.stderr for result in results]
    assert len(receiver.instances()) == 32
    assert len({row.series_id for row in receiver.instances()}) == 4


def test_an_association_that_breaks_off_is_closed_in_the_ledger(receiver: RunningReceiver) -> None:
    entity = AE(SCANNER)
    entity.add_requested_context(MR, [ExplicitVRLittleEndian])
    association = entity.associate("127.0.0.1", receiver.port, ae_title=NODE)
    image = mr_image()
    assert store_bytes(association, encoded(image), sop_instance=image.SOPInstanceUID).Status == 0
    association.dul.socket.socket.shutdown(2)
    wait_until(lambda: receiver.associations()[0].closed_at is not None, seconds=30, what="association closed")
    assert receiver.associations()[0].outcome == "aborted"
    association.abort()


@pytest.mark.real_data
def test_real_cine_of_two_vendors_is_received_bit_for_bit(
    receiver: RunningReceiver, sunnybrook_dir: Path, siemens_vida_dir: Path
) -> None:
    paths = sorted(sunnybrook_dir.rglob("*.dcm"))[::20] + sorted(siemens_vida_dir.rglob("*.dcm"))[::20]
    assert len(paths) > 20
    node = Peer(ae_title=NODE, host="127.0.0.1", port=receiver.port)
    outcomes = send_files(paths, node, ScuSettings(SCANNER))
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    stored = {data_set_bytes(receiver.file_of(row)) for row in receiver.instances()}
    assert stored == {data_set_bytes(path) for path in paths}


@pytest.mark.real_data
def test_real_cine_from_dcmtk_is_received_whole(
    dcmtk: None, receiver: RunningReceiver, sunnybrook_dir: Path, siemens_vida_dir: Path
) -> None:
    # dcmtk encodes the lengths of sequences anew, so the data sets are compared and not their bytes.
    paths = sorted(sunnybrook_dir.rglob("*.dcm"))[::30] + sorted(siemens_vida_dir.rglob("*.dcm"))[::30]
    sent = storescu(paths, port=receiver.port, called=NODE)
    assert sent.stderr.count("Received Store Response (Success)") == len(paths)
    received = {row.sop_instance_uid: dcmread(receiver.file_of(row)) for row in receiver.instances()}
    for path in paths:
        original = dcmread(path)
        assert received[str(original.SOPInstanceUID)] == original
