"""A hospital on the loopback interface: dcmtk's scanner, the node, and Orthanc, with the studies that were sent."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import FileDataset
from sqlalchemy import select

from interop import dcmtk
from interop.node import AE_TITLE as NODE_AE_TITLE
from interop.node import NodeUnderTest
from interop.orthanc import AE_TITLE as PACS_AE_TITLE
from interop.orthanc import Orthanc
from storage.schema import DeliveryRow, DeliveryState, JobRow, ResultRow, StudyRow

DELIVERED_WITHIN_S = 1200
"""For all studies together, on a machine that does much else besides."""


@dataclass(frozen=True)
class SentStudy:
    """A study as it lay on the scanner.

    Attributes
    ----------
    name
        For the names of the tests.
    folder
        Where its files are.
    study_instance_uid
        As written in the files, valid or not.
    files
        Path of each by SOP Instance UID.
    """

    name: str
    folder: Path
    study_instance_uid: str
    files: dict[str, Path]

    @classmethod
    def lying_in(cls, folder: Path, name: str) -> SentStudy:
        """The only study of a folder."""
        headers = {path: read(path, pixels=False) for path in sorted(folder.rglob("*.dcm"))}
        (uid,) = {str(header.StudyInstanceUID) for header in headers.values()}
        return cls(name, folder, uid, {str(header.SOPInstanceUID): path for path, header in headers.items()})

    @property
    def header(self) -> FileDataset:
        """Header of one of its images."""
        return read(next(iter(self.files.values())), pixels=False)


@dataclass(frozen=True)
class KnownResult:
    """What the ledger says of one result.

    Attributes
    ----------
    role
        What it is for.
    sop_instance_uid
        Its UID.
    path
        The file as the node sent it.
    state
        Of its delivery.
    transaction_uid
        Of the storage commitment that was asked for, if any.
    """

    role: str
    sop_instance_uid: str
    path: Path
    state: DeliveryState
    transaction_uid: str | None


@dataclass(frozen=True)
class Hospital:
    """The peers while they run."""

    node: NodeUnderTest
    pacs: Orthanc
    studies: dict[str, SentStudy]

    def send(self, study: SentStudy) -> str:
        """Send a study from the scanner to the node; what dcmtk says.

        Raises
        ------
        AssertionError
            An image was not acknowledged with Success.
        """
        sent = dcmtk.storescu([study.folder], port=self.node.port, called=NODE_AE_TITLE)
        assert sent.returncode == 0, sent.stdout + sent.stderr
        return sent.stdout + sent.stderr

    def send_to_pacs(self, study: SentStudy) -> None:
        """Send a study from the scanner to the PACS, as a scanner does anyway."""
        sent = dcmtk.storescu([study.folder], port=self.pacs.dicom_port, called=PACS_AE_TITLE)
        assert sent.returncode == 0, sent.stdout + sent.stderr

    def wait(self, studies: Iterable[SentStudy], seconds: float = DELIVERED_WITHIN_S) -> None:
        """Wait until the node has delivered all results of these studies."""
        self.node.wait_until_delivered([study.study_instance_uid for study in studies], seconds=seconds)

    def results(self, study: SentStudy) -> list[KnownResult]:
        """The results of a study in the order they were made."""
        query = (
            select(ResultRow, DeliveryRow)
            .join(ResultRow.deliveries)
            .join(ResultRow.job)
            .join(JobRow.study)
            .where(StudyRow.study_instance_uid == study.study_instance_uid)
            .order_by(ResultRow.id)
        )
        root = self.node.configuration.storage.directory
        with self.node.ledger() as ledger, ledger.reading() as session:
            return [
                KnownResult(
                    result.role, result.sop_instance_uid, root / result.path, delivery.state, delivery.transaction_uid
                )
                for result, delivery in session.execute(query)
            ]


def read(path: Path, *, pixels: bool = True) -> FileDataset:
    """Read a file whatever its values are: real scanners break PS3.5."""
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, stop_before_pixels=not pixels)


def as_another_patient(
    study: SentStudy, folder: Path, label: str, *, number: int, patient_name: str, character_set: list[str]
) -> SentStudy:
    """Write a copy of a study as another patient's, whose name needs another character set.

    Parameters
    ----------
    study
        What to copy.
    folder
        Folder for the copy, not there yet.
    label
        Name of the copy in the tests.
    number
        Keeps the UIDs of copies apart.
    patient_name
        PatientName.
    character_set
        Values of SpecificCharacterSet (PS3.3 C.12.1.1.2).
    """
    folder.mkdir(parents=True)
    renumbered: dict[str, str] = {}

    def new(uid: str) -> str:
        return renumbered.setdefault(uid, f"1.2.826.0.1.3680043.8.498.1.{number}.{len(renumbered) + 1}")

    for index, path in enumerate(study.files.values()):
        image = read(path)
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            image.decode()
            image.SpecificCharacterSet = character_set
            image.PatientName = patient_name
            image.PatientID = f"CHARSET-{number}"
            image.AccessionNumber = f"ACC{number}"
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
                setattr(image, keyword, new(str(image[keyword].value)))
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            image.save_as(folder / f"{index:04d}.dcm")
    return SentStudy.lying_in(folder, label)
