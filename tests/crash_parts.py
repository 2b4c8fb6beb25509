"""What the crash tests are made of: tiny cine studies, a scanner, and a PACS that notes every arrival."""

from __future__ import annotations

import hashlib
import io
import random
import threading
import time
from pathlib import Path

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import evt

from dicom_node.config import DeliveryPolicy, DestinationProfile, ExecutionSettings, Peer, ResultSettings
from dicom_node.network.pacs import Pacs, PacsSettings
from dicom_node.network.sender import ScuSettings, send_files
from dicom_node.results.uids import derive_uid
from pipelines.cine.views import LONG_AXIS

MR = "1.2.840.10008.5.1.4.1.1.4"
SLICES, PHASES = 3, 10
# Only a complete study is scheduled, so each gives one set of results however its sending is cut up.
EXECUTION = ExecutionSettings(
    maximum_attempts=1000,
    quiet_time_s=3600,
    complete_quiet_time_s=0.3,
    incomplete_quiet_time_s=3600,
    job_timeout_s=60,
    threads_per_slot=1,
)
RESULTS = ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs", commitment_timeout_s=3)})
DELIVERY = DeliveryPolicy(first_delay_s=0.2, maximum_delay_s=1, maximum_attempts=10_000, response_timeout_s=5)


def write_cine(folder: Path, name: str) -> list[Path]:
    """Write a short-axis cine that says how many slices and phases it has; returns its files as acquired."""
    folder.mkdir()
    normal = np.asarray(LONG_AXIS) / np.linalg.norm(LONG_AXIS)
    row = np.cross(normal, [0.0, 0.0, 1.0])
    row /= np.linalg.norm(row)
    column = np.cross(normal, row)
    paths = []
    for number in range(SLICES * PHASES):
        index, phase = divmod(number, PHASES)
        image = Dataset()
        image.ImageType = ["ORIGINAL", "PRIMARY", "M", "FFE"]
        image.SOPClassUID = MR
        image.SOPInstanceUID = derive_uid(name, "image", str(number))
        image.StudyDate, image.StudyTime = "20240102", "030405"
        image.Modality = "MR"
        image.Manufacturer = "Philips"
        image.SeriesDescription = "cine SA"
        image.ScanningSequence, image.SequenceVariant = "GR", "SS"
        image.MRAcquisitionType = "2D"
        image.PatientName, image.PatientID = "Test", name
        image.StudyInstanceUID = derive_uid(name, "study")
        image.SeriesInstanceUID = derive_uid(name, "series")
        image.FrameOfReferenceUID = derive_uid(name, "frame of reference")
        image.InstanceNumber = number + 1
        image.CardiacNumberOfImages = PHASES
        image.TriggerTime = 80 * phase
        image.SliceThickness = 8
        image.ImagePositionPatient = [round(float(value), 3) for value in 10 * index * normal]
        image.ImageOrientationPatient = [round(float(value), 6) for value in (*row, *column)]
        image.PixelSpacing = [1.5, 1.5]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.Rows = image.Columns = 32
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.PixelData = np.full((32, 32), number, "<u2").tobytes()
        block = image.private_block(0x2001, "Philips Imaging DD 001", create=True)
        block.add_new(0x18, "SL", SLICES)
        path = folder / f"{number:03}.dcm"
        path.write_bytes(encoded(image))
        paths.append(path)
    return paths


def encoded(dataset: Dataset) -> bytes:
    """A PS3.10 file, Explicit VR Little Endian."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


class Scanner(threading.Thread):
    """Sends study after study, each until all its images are acknowledged, as a scanner's queue does.

    Each part goes to any of the receivers. With ``ahead``, so many studies are sent and one more for each call of
    :meth:`allow`; without, one after the other.
    """

    def __init__(
        self, receivers: tuple[Peer, ...], folder: Path, generator: random.Random, *, ahead: int | None = None
    ) -> None:
        super().__init__(name="scanner", daemon=True)
        self.acknowledged: dict[str, Path] = {}
        self.studies: list[str] = []
        self._enough = threading.Event()
        self._allowed = None if ahead is None else threading.Semaphore(ahead)
        self._receivers, self._folder, self._generator = receivers, folder, generator

    def allow(self) -> None:
        """One more study may be sent."""
        if self._allowed is not None:
            self._allowed.release()

    def end(self) -> None:
        """Send the study at hand to its end, and no other."""
        self._enough.set()
        self.allow()

    def _may_go_on(self) -> bool:
        if self._allowed is not None:
            self._allowed.acquire()
        return not self._enough.is_set()

    def run(self) -> None:
        while self._may_go_on():
            name = f"study {len(self.studies)}"
            waiting = write_cine(self._folder / name, name)
            self.studies.append(str(dcmread(waiting[0]).StudyInstanceUID))
            while waiting:
                # Sometimes the whole rest, sometimes a part, each over an association of its own to any host.
                part = waiting[: self._generator.choice([7, 15, len(waiting)])]
                for outcome in send_files(part, self._generator.choice(self._receivers), ScuSettings("MR1")):
                    if outcome.status == 0x0000:
                        self.acknowledged[outcome.sop_instance_uid] = outcome.path
                        waiting.remove(outcome.path)
                time.sleep(0.1)
            self._enough.wait(self._generator.uniform(0.0, 2.0))


class NotingPacs(Pacs):
    """The package's PACS, with a note of every object that arrived: its SOP Instance UID and a hash of its bytes."""

    def __init__(self, settings: PacsSettings) -> None:
        super().__init__(settings)
        self.arrivals: list[tuple[str, str]] = []

    def _store(self, event: evt.Event) -> int:
        status = super()._store(event)
        if status == 0x0000:
            data = event.request.DataSet.getvalue()
            self.arrivals.append((str(event.request.AffectedSOPInstanceUID), hashlib.sha256(data).hexdigest()))
        return status
