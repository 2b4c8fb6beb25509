"""Sending: what reaches a peer, how refusals are told apart, fallback of the transfer syntax."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from interop.ports import free_port, listening, wait_until
from interop.tools import TOOL_ENVIRONMENT, tool
from pydicom import dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.presentation import AllStoragePresentationContexts

from dicom_node.config import Peer
from dicom_node.errors import CannotUnderstandError, DeliveryRefusedError, NotAcceptedError, PeerUnavailableError
from dicom_node.network.capabilities import verification_context
from dicom_node.network.pacs import Pacs, PacsSettings
from dicom_node.network.sender import (
    DicomFile,
    ScuSettings,
    SendOutcome,
    associated,
    batches,
    echo,
    judge_store_status,
    send_files,
    store_contexts,
)
from network.objects import data_set_bytes, mr_image, save
from network.running_node import pacs_peer

# No test asks how long it waits: a busy machine takes its time.
SETTINGS = ScuSettings("NODE", acse_timeout_s=300, response_timeout_s=300)


def start_pacs(folder: Path, **settings: object) -> Pacs:
    return Pacs(PacsSettings(folder / "pacs", free_port(), **settings))  # type: ignore[arg-type]


def compressed(folder: Path, syntax: UID) -> Path:
    image = mr_image()
    image.compress(syntax, generate_instance_uid=False)
    return save(image, folder)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_a_file_is_sent_as_it_is_where_the_peer_takes_its_syntax(tmp_path: Path, syntax: UID) -> None:
    path = save(mr_image(), tmp_path) if syntax == ExplicitVRLittleEndian else compressed(tmp_path, syntax)
    with start_pacs(tmp_path) as pacs:
        (outcome,) = send_files([path], pacs_peer(pacs.settings.port), SETTINGS)
        assert (outcome.status, outcome.error, outcome.transcoded) == (0, None, False)
        assert data_set_bytes(pacs.held()[outcome.sop_instance_uid]) == data_set_bytes(path)


@pytest.mark.parametrize("taken", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, ExplicitVRLittleEndian])
def test_fallback_to_uncompressed_keeps_pixels_and_identity(tmp_path: Path, syntax: UID, taken: UID) -> None:
    path = save(mr_image(), tmp_path) if syntax == ExplicitVRLittleEndian else compressed(tmp_path, syntax)
    with start_pacs(tmp_path, transfer_syntaxes=(taken,)) as pacs:
        (outcome,) = send_files([path], pacs_peer(pacs.settings.port), SETTINGS)
        assert outcome.error is None
        assert outcome.transcoded is (syntax != taken)
        received = dcmread(pacs.held()[outcome.sop_instance_uid])
    assert received.file_meta.TransferSyntaxUID == taken
    original = dcmread(path)
    np.testing.assert_array_equal(received.pixel_array, original.pixel_array)
    assert received.SOPInstanceUID == original.SOPInstanceUID
    assert received.PatientName == original.PatientName
    assert received.get("LossyImageCompression") == original.get("LossyImageCompression")


def test_a_deflated_file_falls_back_to_explicit(tmp_path: Path) -> None:
    image = mr_image()
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with start_pacs(tmp_path) as pacs:
        (outcome,) = send_files([save(image, tmp_path)], pacs_peer(pacs.settings.port), SETTINGS)
        assert outcome.error is None
        received = dcmread(pacs.held()[outcome.sop_instance_uid])
    np.testing.assert_array_equal(received.pixel_array, mr_image().pixel_array)


def test_a_peer_that_takes_none_of_the_syntaxes_refuses_for_good(tmp_path: Path) -> None:
    path = save(mr_image(), tmp_path)
    with start_pacs(tmp_path, transfer_syntaxes=(JPEGLosslessSV1,)) as pacs:
        (outcome,) = send_files([path], pacs_peer(pacs.settings.port), SETTINGS)
    assert isinstance(outcome.error, DeliveryRefusedError)
    assert not outcome.error.retryable


def test_one_refused_class_does_not_hold_up_the_others(tmp_path: Path) -> None:
    labelmap = mr_image()
    labelmap.SOPClassUID = labelmap.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    with start_pacs(tmp_path, labelmaps=False) as pacs:
        outcomes = send_files(
            [save(labelmap, tmp_path), save(mr_image(), tmp_path)], pacs_peer(pacs.settings.port), SETTINGS
        )
        assert [type(outcome.error) for outcome in outcomes] == [NotAcceptedError, type(None)]
        assert list(pacs.held()) == [outcomes[1].sop_instance_uid]


def test_a_full_peer_can_be_tried_again(tmp_path: Path) -> None:
    paths = [save(mr_image(seed=seed), tmp_path) for seed in range(3)]
    with start_pacs(tmp_path) as pacs:
        pacs.maximum_objects = 2
        outcomes = send_files(paths, pacs_peer(pacs.settings.port), SETTINGS)
        assert [outcome.status for outcome in outcomes] == [0, 0, 0xA700]
        assert outcomes[2].error is not None
        assert outcomes[2].error.retryable
        pacs.maximum_objects = None
        assert [outcome.error for outcome in send_files(paths, pacs_peer(pacs.settings.port), SETTINGS)] == [None] * 3


def test_of_what_a_peer_says_neither_number_nor_name_of_a_patient_is_kept() -> None:
    for status in (0xA700, 0xC000, 0xB000):
        comment = "Patient Meier^Hans 123-45 born 19500102 is unknown"
        warning, error = judge_store_status(status, "2.25.1", comment)
        said = f"{warning}{error}"
        assert f"status {status:04X}, Patient … is unknown" in said
        for secret in ("Meier", "Hans", "123", "1950"):
            assert secret not in said


def test_progress_is_told_of_each_file_in_turn(tmp_path: Path) -> None:
    paths = [save(mr_image(seed=seed), tmp_path) for seed in range(3)]
    text = tmp_path / "notes.txt"
    text.write_text("no DICOM")
    told: list[SendOutcome] = []
    with start_pacs(tmp_path) as pacs:
        outcomes = send_files([*paths, text], pacs_peer(pacs.settings.port), SETTINGS, progress=told.append)
    assert told == outcomes
    by_path = {outcome.path: outcome.error for outcome in outcomes}
    assert by_path == {**dict.fromkeys(paths), text: by_path[text]}
    assert isinstance(by_path[text], CannotUnderstandError)


def test_an_unreachable_peer_is_the_outcome_of_every_file(tmp_path: Path) -> None:
    paths = [save(mr_image(seed=seed), tmp_path) for seed in range(2)]
    outcomes = send_files(paths, pacs_peer(free_port()), SETTINGS)
    assert [type(outcome.error) for outcome in outcomes] == [PeerUnavailableError] * 2


def test_echo_tells_reachable_unreachable_and_rejected(tmp_path: Path) -> None:
    with start_pacs(tmp_path) as pacs:
        assert echo(pacs_peer(pacs.settings.port), SETTINGS).reachable
        rejected = echo(pacs_peer(pacs.settings.port, "OTHER"), SETTINGS)
    assert rejected.error is not None
    assert "Called AE title not recognised" in str(rejected.error)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        unanswered = echo(pacs_peer(mute.getsockname()[1]), ScuSettings("NODE", acse_timeout_s=1))
    assert "does not answer the association request" in str(unanswered.error)
    gone = echo(pacs_peer(pacs.settings.port), SETTINGS)
    assert isinstance(gone.error, PeerUnavailableError)
    assert not echo(Peer(ae_title="X", host="host.invalid", port=104, may=frozenset()), SETTINGS).reachable


def a_file(sop_class: str, syntax: UID) -> DicomFile:
    return DicomFile(Path("x"), sop_class, "1.2.3", str(syntax), 100)


def test_files_of_a_hundred_classes_need_few_associations() -> None:
    classes = [str(context.abstract_syntax) for context in AllStoragePresentationContexts[:100]]
    files = [a_file(uid, syntax) for uid in classes for syntax in (ExplicitVRLittleEndian, RLELossless)]
    parts = batches(files, reserved_contexts=2)
    assert sorted(map(id, (file for part in parts for file in part))) == sorted(map(id, files))
    assert len(parts) == 3  # 100 classes × 3 contexts, 42 classes to an association
    for part in parts:
        contexts = store_contexts(part)
        assert len(contexts) <= 126
        assert all(len(context.transfer_syntax) == 1 for context in contexts)


@pytest.fixture
def storescp(dcmtk: None, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    folder, port = tmp_path / "storescp", free_port()
    folder.mkdir()
    process = subprocess.Popen(
        [str(tool("storescp")), "+xa", "-od", str(folder), "-aet", "STORESCP", str(port)], env=TOOL_ENVIRONMENT
    )
    try:
        wait_until(lambda: listening(port), seconds=30, what="storescp listens")
        yield port, folder
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.peers
def test_dcmtk_receives_what_was_on_disk(storescp: tuple[int, Path], tmp_path: Path) -> None:
    port, folder = storescp
    paths = [save(mr_image(), tmp_path), compressed(tmp_path, RLELossless), compressed(tmp_path, JPEG2000Lossless)]
    outcomes = send_files(paths, pacs_peer(port, "STORESCP"), SETTINGS)
    assert [outcome.error for outcome in outcomes] == [None] * 3
    received = {str(dcmread(path).SOPInstanceUID): dcmread(path) for path in folder.iterdir()}
    for path in paths:
        original = dcmread(path)
        assert received[str(original.SOPInstanceUID)] == original
        assert (
            received[str(original.SOPInstanceUID)].file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
        )


def test_a_response_that_pynetdicom_takes_off_the_queue_by_mistake_is_put_back(tmp_path: Path) -> None:
    port = free_port()
    with (
        Pacs(PacsSettings(tmp_path, port)),
        associated(pacs_peer(port), [verification_context()], ScuSettings("NODE")) as association,
    ):
        # As while a request waits for its response and the reactor was just on its way to the queue.
        association._reactor_checkpoint.clear()
        response = C_ECHO()
        response.MessageIDBeingRespondedTo, response.Status = 1, 0x0000
        response.AffectedSOPClassUID = "1.2.840.10008.1.1"
        association._serve_request(response, 1)
        assert association.dimse.get_msg(block=False) == (1, response)
        # Nobody waits: what comes unasked is dropped.
        association._reactor_checkpoint.set()
        association._serve_request(response, 1)
        assert association.send_c_echo().Status == 0x0000
