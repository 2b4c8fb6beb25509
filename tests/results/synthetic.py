"""A cine of analytic solids written as DICOM, with the truth beside it."""

from __future__ import annotations

import datetime
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from dicom_node.config import DestinationProfile, ResultSettings
from dicom_node.results.circumstances import Circumstances
from dicom_node.results.encode import encode_study
from dicom_node.results.gate import origins
from dicom_node.results.iod import IodFinding, iod_findings
from dicom_node.results.objects import ResultObject
from dicom_node.results.sources import SourceDatasets
from pipelines.analysis import Findings
from pipelines.cine.stack import (
    CineStack,
    CineStudy,
    FrameSource,
    Omission,
    OmissionReason,
    StackGeometry,
    StudyContext,
    View,
)
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import VentricularFunction
from pipelines.function.measure import measure_function
from pipelines.function.slices import SliceMeasures, measure_slices
from pipelines.models.identity import ModelIdentity
from pipelines.quality.assess import assess_quality
from pipelines.quality.findings import QualityAssessment
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.study import PackageFindings
from pipelines.ventricular_function.package import PACKAGE

STUDY_UID = "1.2.826.0.1.3680043.8.498.20250301"
FRAME_OF_REFERENCE = STUDY_UID + ".9"
CREATED = datetime.datetime(2025, 3, 1, 12, 30, 15, tzinfo=datetime.UTC)
MODEL = ModelIdentity(
    name="fine-sax",
    version="1.0.0",
    weights_sha256="ab" * 32,
    task="segmentation of the ventricles on short-axis cine",
    training_data="ACDC training set, 80 patients, Siemens 1.5 T and 3 T",
    licence="CC-BY-NC-SA-4.0",
)


@dataclass(frozen=True, eq=False)
class Cine:
    study: CineStudy
    segmentation: CineSegmentation
    paths: list[Path]
    end_diastole: int
    end_systole: int


def heart(phases: int, slices: int, size: int) -> np.ndarray:
    """Labels (T, S, R, C) of an LV cavity in a ring of muscle with an RV crescent at its side; it contracts."""
    rows, columns = np.mgrid[:size, :size].astype(float)
    labels = np.zeros((phases, slices, size, size), np.uint8)
    for t in range(phases):
        squeeze = 1 - 0.32 * np.sin(np.pi * min(t / phases / 0.8, 1)) ** 2
        for s in range(slices):
            along = np.sqrt(max(1 - (s / slices) ** 2, 0.0)) * size / 8
            inner = along * squeeze
            outer = np.sqrt(inner**2 + (along + size / 24) ** 2 - along**2)
            distance = np.hypot(rows - size / 2, columns - size * 0.55)
            right = np.hypot(rows - size / 2, (columns - size * 0.36) / 0.8)
            labels[t, s][(right < along * 1.4 * squeeze)] = Label.RV
            labels[t, s][distance < outer] = Label.MYO
            labels[t, s][distance < inner] = Label.LV
    return labels


def write_cine(
    folder: Path,
    *,
    phases: int = 12,
    slices: int = 6,
    size: int = 96,
    series_per_slice: bool = False,
    slope: float | None = None,
    intercept: float = 0.0,
    signed: bool = False,
    header: Dataset | None = None,
) -> Cine:
    """Write a classic MR cine; ``header`` overrides elements of every instance."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = heart(phases, slices, size)
    random = np.random.default_rng(7)
    base = np.select([labels == 1, labels == 2, labels == 3], [900, 280, 850], 160)
    stored = np.clip(base + random.normal(0, 25, base.shape), -200 if signed else 0, 4000).round().astype(np.int16)
    row = np.array([0.712221, 0.701112, -0.0343949])
    row /= np.linalg.norm(row)
    column = np.array([-0.307716, 0.267798, -0.913015])
    column -= row * (row @ column)
    column /= np.linalg.norm(column)
    normal = np.cross(row, column)
    origin = np.array([-13.6174, -215.526, 101.428])
    positions = np.array([[float(f"{v:.9g}") for v in origin + 8.0 * s * normal] for s in range(slices)])
    row, column = (np.array([float(f"{v:.12g}") for v in axis]) for axis in (row, column))
    interval = 900.0
    paths, sources = [], []
    for t in range(phases):
        line = []
        for s in range(slices):
            number = s * phases + t + 1
            series = f"{STUDY_UID}.1.{s + 1}" if series_per_slice else f"{STUDY_UID}.1.1"
            image = Dataset()
            image.SpecificCharacterSet = "ISO_IR 100"
            image.SOPClassUID = MRImageStorage
            image.SOPInstanceUID = f"{STUDY_UID}.2.{number}"
            image.SeriesInstanceUID = series
            image.StudyInstanceUID = STUDY_UID
            image.FrameOfReferenceUID = FRAME_OF_REFERENCE
            image.PatientName, image.PatientID = "Müller^Jörg", "P-1"
            image.IssuerOfPatientID = "HOSPITAL"
            image.PatientBirthDate, image.PatientSex = "19600229", "M"
            image.StudyDate, image.StudyTime = "20250301", "101500"
            image.AccessionNumber, image.StudyID, image.ReferringPhysicianName = "A123", "S1", "Weiß^Anna"
            image.StudyDescription = "Herz MR"
            image.Modality, image.Manufacturer, image.ManufacturerModelName = "MR", "ACME", "Scanner 9"
            image.SeriesNumber, image.InstanceNumber, image.SeriesDescription = 5 + s, number, f"sax {s}"
            image.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
            image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "GR", "SS", ""
            image.MRAcquisitionType, image.RepetitionTime, image.EchoTime = "2D", "3.8", "1.7"
            image.EchoTrainLength = 1
            image.PatientPosition = "HFS"
            image.PositionReferenceIndicator = ""
            image.TriggerTime = f"{t * interval / phases:.3f}"
            image.ImagePositionPatient = [f"{v:.9g}" for v in positions[s]]
            image.ImageOrientationPatient = [f"{v:.12g}" for v in (*row, *column)]
            image.PixelSpacing, image.SliceThickness = ["1.5625", "1.5625"], "8"
            image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
            image.Rows = image.Columns = size
            image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16 if signed else 12, 15 if signed else 11
            image.PixelRepresentation = int(signed)
            image.WindowCenter, image.WindowWidth = "500", "1000"
            if slope is not None:
                image.RescaleSlope, image.RescaleIntercept = f"{slope:.10g}", f"{intercept:.10g}"
            image.PixelData = stored[t, s].tobytes()
            image["PixelData"].VR = "OW"
            if header is not None:
                image.update(header)
            image.file_meta = FileMetaDataset()
            image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            path = folder / f"{number:04d}.dcm"
            image.save_as(path, enforce_file_format=True)
            paths.append(path)
            line.append(FrameSource(MRImageStorage, image.SOPInstanceUID, series, None, number, t * interval / phases))
        sources.append(tuple(line))
    grey = (stored.astype(np.float64) * (slope or 1.0) + intercept).astype(np.float32)
    stack = CineStack(
        view=View.SAX,
        pixels=grey,
        geometry=StackGeometry(positions, row, column, (1.5625, 1.5625), 8.0),
        sources=tuple(sources),
        trigger_times=np.repeat((np.arange(phases) * interval / phases)[:, None], slices, axis=1),
        rr_intervals=np.full(slices, interval),
        frame_of_reference_uid=FRAME_OF_REFERENCE,
    )
    context = StudyContext(
        STUDY_UID,
        sex="M",
        height_m=1.8,
        weight_kg=80.0,
        heart_rate_bpm=66.7,
        manufacturer="ACME",
        model_name="Scanner 9",
        field_strength_t=1.5,
    )
    omission = Omission(
        OmissionReason.LOCALIZER, "Localizer of 3 images: not a cine", f"{STUDY_UID}.1.77", (f"{STUDY_UID}.2.7001",)
    )
    segmentation = CineSegmentation(
        labels, np.full((phases, slices), 0.97, np.float32), (8, size - 8, 8, size - 8), (MODEL,)
    )
    areas = (labels == Label.LV).sum(axis=(1, 2, 3))
    return Cine(
        CineStudy(context, (stack,), (omission,)), segmentation, paths, int(areas.argmax()), int(areas.argmin())
    )


def findings_of(cine: Cine) -> Findings:
    """What the analyses find on the true labels."""
    stack = cine.study.short_axis
    assert stack is not None
    slices = measure_slices(stack, cine.segmentation)
    key = find_keyframes(stack, slices.lv_ml)
    function = measure_function(stack, slices, key, cine.study.context)
    quality = assess_quality(stack, cine.segmentation, slices, function)
    return Findings(
        {
            CineSegmentation: cine.segmentation,
            SliceMeasures: slices,
            VentricularFunction: function,
            QualityAssessment: quality,
        }
    )


def encoded(
    cine: Cine,
    findings: Findings | None = None,
    destinations: dict[str, DestinationProfile] | None = None,
    created: datetime.datetime = CREATED,
    settings: ResultSettings | None = None,
) -> tuple[list[ResultObject], SourceDatasets]:
    """Encode a cine for one usual destination."""
    found = findings_of(cine) if findings is None else findings
    sources = SourceDatasets.index(cine.paths)
    chosen = settings or ResultSettings(institution="Klinikum Süd", contact="Cardiac imaging, room 9")
    circumstances = Circumstances(tuple(path.name for path in cine.paths), "cine", chosen, created)
    profiles = {"pacs": DestinationProfile(peer="pacs")} if destinations is None else destinations
    made = encode_study(cine.study, [PackageFindings(PACKAGE, found)], sources, profiles, circumstances)
    return list(made.objects), sources


def unaccepted(each: ResultObject, sources: SourceDatasets) -> list[IodFinding]:
    """What dciodvfy says of a result beyond the warnings that are known."""
    reread = dcmread(io.BytesIO(each.content))
    return [finding for finding in iod_findings(reread, origins(each, sources)) if not finding.accepted]
