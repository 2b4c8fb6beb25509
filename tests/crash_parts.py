"""What the crash test is made of: tiny cine studies, a cheap analysis, a PACS that notes every arrival."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import evt

from dicom_node.config import ResultSettings, Route
from dicom_node.execute.process import ProcessedStudy
from dicom_node.network.pacs import Pacs, PacsSettings
from dicom_node.results.header import ResultRole
from dicom_node.results.objects import ResultObject
from dicom_node.results.uids import derive_uid
from pipelines.analysis import Findings
from pipelines.cine.stack import CineStudy, StudyContext
from pipelines.cine.views import LONG_AXIS

MR = "1.2.840.10008.5.1.4.1.1.4"
SLICES, PHASES = 3, 10
ROLES = (ResultRole.KEY_PHASE_ED, ResultRole.SEGMENTATION_ED, ResultRole.REPORT)


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
        path.write_bytes(_encoded(image))
        paths.append(path)
    return paths


def _encoded(dataset: Dataset) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def result_uid(inputs: Sequence[str], role: ResultRole) -> str:
    """SOP Instance UID of the result that :func:`cheap_analysis` makes of these inputs."""
    return derive_uid(*inputs, role.value)


def cheap_analysis(
    paths: Sequence[Path],
    *,
    study_instance_uid: str,
    inputs: Sequence[str],
    created: dt.datetime,
    route_name: str,
    route: Route,
    results: ResultSettings,
    last_attempt: bool,
) -> ProcessedStudy:
    """Read every image of the study and make one small object for each role, slowly enough to be killed over it."""
    sources = [dcmread(path) for path in paths]
    if len(sources) != SLICES * PHASES:
        raise AssertionError(f"{len(sources)} of {SLICES * PHASES} images of {study_instance_uid}")
    mean = float(np.mean([source.pixel_array.mean() for source in sources]))
    objects = []
    for role in ROLES:
        time.sleep(0.1)
        objects.append(_object(sources[0], role, inputs, created, mean, frozenset(route.destinations)))
    study = CineStudy(StudyContext(study_instance_uid), (), ())
    return ProcessedStudy(study, Findings({}), tuple(objects), (), {"cheap": 0.3})


def _object(
    source: Dataset,
    role: ResultRole,
    inputs: Sequence[str],
    created: dt.datetime,
    mean: float,
    destinations: frozenset[str],
) -> ResultObject:
    image = Dataset()
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.SOPInstanceUID = result_uid(inputs, role)
    image.StudyInstanceUID, image.PatientID = source.StudyInstanceUID, source.PatientID
    image.SeriesInstanceUID = derive_uid(*inputs, role.value, "series")
    image.SeriesDescription = role.value
    image.Modality = "MR"
    image.InstanceCreationDate, image.InstanceCreationTime = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows = image.Columns = 16
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = bytes([round(mean)]) * 256
    return ResultObject(
        role=role,
        dataset=image,
        content=_encoded(image),
        destinations=destinations,
        reference_uid=str(source.SOPInstanceUID),
        sources=(),
    )


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
