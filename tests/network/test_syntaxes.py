"""Every transfer syntax that is accepted: stored bit for bit, and really decodable here."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from interop.dcmtk import storescu
from interop.tools import tool
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE

from dicom_node.config import Peer
from dicom_node.network.capabilities import (
    DOCUMENT_CLASSES,
    IMAGE_CLASSES,
    image_transfer_syntaxes,
    storage_contexts,
)
from dicom_node.network.sender import ScuSettings, send_files
from network.objects import MR, data_set_bytes, mr_image, save
from network.running_node import NODE, SCANNER, RunningReceiver

pytestmark = pytest.mark.peers


def by_pydicom(syntax: UID) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = mr_image(side=64)
        if syntax.is_compressed:
            image.compress(syntax, generate_instance_uid=False)
        else:
            image.file_meta.TransferSyntaxUID = syntax
        return save(image, folder)

    return make


def by_dcmcjpeg(option: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        source, target = save(mr_image(side=64), folder, "source"), folder / "jpeg.dcm"
        subprocess.run([str(tool("dcmcjpeg")), option, str(source), str(target)], check=True)
        source.unlink()
        return target

    return make


def by_sample(syntax: UID) -> Callable[[Path], Path]:
    """No encoder for HTJ2K is at hand: the codestream is ``mr_image(side=32)`` as OpenJPH encoded it."""

    def make(folder: Path) -> Path:
        image = mr_image(side=32)
        image.BitsStored, image.HighBit = 16, 15
        codestream = (Path(__file__).parent / "data" / "gradient-32x32-16bit.jhc").read_bytes()
        image.PixelData = encapsulate([codestream])
        image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
        image.file_meta.TransferSyntaxUID = syntax
        return save(image, folder)

    return make


MAKERS = {
    ExplicitVRLittleEndian: by_pydicom(ExplicitVRLittleEndian),
    ImplicitVRLittleEndian: by_pydicom(ImplicitVRLittleEndian),
    RLELossless: by_pydicom(RLELossless),
    JPEG2000Lossless: by_pydicom(JPEG2000Lossless),
    JPEGLSLossless: by_pydicom(JPEGLSLossless),
    JPEGLosslessSV1: by_dcmcjpeg("+e1"),
    JPEGLossless: by_dcmcjpeg("+el"),
    HTJ2KLossless: by_sample(HTJ2KLossless),
    HTJ2KLosslessRPCL: by_sample(HTJ2KLosslessRPCL),
}


def test_all_lossless_syntaxes_of_the_issue_are_accepted_and_tested_here() -> None:
    assert set(image_transfer_syntaxes()) == set(MAKERS)


@pytest.mark.parametrize("syntax", MAKERS, ids=lambda syntax: syntax.keyword)
def test_stored_bit_for_bit_and_decodable(dcmtk: None, receiver: RunningReceiver, tmp_path: Path, syntax: UID) -> None:
    path = MAKERS[syntax](tmp_path)
    assert dcmread(path).file_meta.TransferSyntaxUID == syntax
    node = Peer(ae_title=NODE, host="127.0.0.1", port=receiver.port)
    (outcome,) = send_files([path], node, ScuSettings(SCANNER))
    assert (outcome.status, outcome.transcoded) == (0x0000, False)
    (row,) = receiver.instances()
    stored = receiver.file_of(row)
    assert row.transfer_syntax_uid == syntax
    assert data_set_bytes(stored) == data_set_bytes(path)
    decoded = dcmread(stored)
    np.testing.assert_array_equal(decoded.pixel_array, mr_image(side=decoded.Rows).pixel_array)


@pytest.mark.parametrize(
    "syntax",
    [
        JPEGBaseline8Bit,
        JPEG2000,
        JPEGLSNearLossless,
        HTJ2K,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
    ids=lambda syntax: syntax.keyword,
)
def test_lossy_and_rare_syntaxes_are_not_accepted(receiver: RunningReceiver, syntax: UID) -> None:
    entity = AE(SCANNER)
    entity.add_requested_context(MR, [syntax])
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", receiver.port, ae_title=NODE)
    (rejected,) = association.rejected_contexts
    # PS3.8 table 9-18: transfer syntaxes not supported.
    assert (rejected.abstract_syntax, rejected.result) == (MR, 4)
    association.release()


def test_every_promised_class_is_accepted_in_one_association(receiver: RunningReceiver) -> None:
    entity = AE(SCANNER)
    for uid in (*IMAGE_CLASSES, *DOCUMENT_CLASSES):
        entity.add_requested_context(uid, [ExplicitVRLittleEndian])
        entity.add_requested_context(uid, [ImplicitVRLittleEndian])
    association = entity.associate("127.0.0.1", receiver.port, ae_title=NODE)
    assert association.rejected_contexts == []
    assert len(association.accepted_contexts) == 2 * len(storage_contexts())
    association.release()


@pytest.mark.parametrize("option", ["-xi", "-xs", "-xv", "-xr"])
def test_dcmtk_proposing_compressed_syntaxes_gets_through(
    dcmtk: None, receiver: RunningReceiver, tmp_path: Path, option: str
) -> None:
    path = {"-xi": ImplicitVRLittleEndian, "-xs": JPEGLosslessSV1, "-xv": JPEG2000Lossless, "-xr": RLELossless}[option]
    sent = storescu([MAKERS[path](tmp_path)], port=receiver.port, called=NODE, arguments=(option,))
    assert "Received Store Response (Success)" in sent.stderr, sent.stderr
    np.testing.assert_array_equal(
        dcmread(receiver.file_of(receiver.instances()[0])).pixel_array, mr_image(side=64).pixel_array
    )
