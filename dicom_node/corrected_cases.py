"""Cases that people corrected, as a training folder that MONAI reads: images, labels and a list of them, without names.

A case is one phase of one study: the key-phase images of the node and the masks that stand in the SEG made after the
correction, which says SEMIAUTOMATIC (SegmentAlgorithmType): what the person did not draw is the network's.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.errors import ConfigurationError
from dicom_node.execute.corrected import KEY_PHASES, UnusableError, segmented_planes
from pipelines.segmentation.labels import Label
from storage.assessments import assessments
from storage.files import InstanceFiles
from storage.identity import identity_of
from storage.ledger import Ledger
from storage.overview import ResultOverview, result_overviews
from storage.schema import AssessmentResult

__all__ = ["CorrectedCase", "PassedOver", "corrected_cases", "write_training_folder"]

DATALIST = "dataset.json"
_SEG_ROLES = {when: f"segmentation-{when.lower()}" for when in KEY_PHASES.values()}
_POSITION_TOLERANCE_MM = 0.01
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class CorrectedCase:
    """One phase of one study.

    Attributes
    ----------
    study_instance_uid : str
        Of the patient's study: not for the outside.
    study, case : str
        Names that nobody can trace back who does not have this node's ledger.
    phase : str
        ``ED`` or ``ES``.
    image : ndarray
        Grey values (columns, rows, slices).
    labels : ndarray
        :class:`pipelines.segmentation.labels.Label`, of the same shape.
    affine : ndarray
        Voxel (column, row, slice) to millimetres (RAS), 4 × 4.
    """

    study_instance_uid: str
    study: str
    case: str
    phase: str
    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PassedOver:
    """One corrected study that gives no case, and why."""

    study_instance_uid: str
    why: str


def corrected_cases(ledger: Ledger, files: InstanceFiles) -> Iterator[CorrectedCase | PassedOver]:
    """The cases of all studies of which the ledger keeps a correction, as the last job left them."""
    secret = (identity_of(ledger) or "").encode("ascii")
    given = assessments(ledger)
    for uid in dict.fromkeys(one.study_instance_uid for one in given if one.result is AssessmentResult.CORRECTED):
        found = [one for one in result_overviews(ledger, uid) if not one.rejected]
        segs = [(when, one) for when, role in _SEG_ROLES.items() for one in found if one.role == role]
        cases = 0
        for when, result in segs:
            if not result.present:
                continue
            seg = dcmread(files.readable(result.path))
            if not _corrected(seg):
                continue
            images = [one for one in found if one.job_id == result.job_id and KEY_PHASES.get(one.role) == when]
            try:
                yield _case(uid, when, seg, _read(images, files), secret)
            except UnusableError as problem:
                yield PassedOver(uid, str(problem))
            cases += 1
        if not cases:
            why = "no SEG with corrected segments is held: corrected elsewhere, or removed after its time"
            yield PassedOver(uid, why)


def write_training_folder(cases: Sequence[CorrectedCase], folder: Path, *, node_version: str) -> Path:
    """Write cases as ``imagesTr``, ``labelsTr`` and ``dataset.json`` (Medical Segmentation Decathlon layout).

    ``monai.data.load_decathlon_datalist`` reads the list. Cases of one study have one ``study``: they belong into the
    same fold.

    Returns
    -------
    Path
        The list.

    Raises
    ------
    ConfigurationError
        The folder holds something already, or nibabel is not installed.
    """
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "NIfTI cannot be written", subject="nibabel", remedy="pip install 'dicom-node[training]'"
        ) from error
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError("the folder is not empty", subject=str(folder), remedy="name a new one")
    listed = []
    for one in cases:
        entry = {"study": one.study, "phase": one.phase}
        for key, sub, voxels in (("image", "imagesTr", one.image), ("label", "labelsTr", one.labels)):
            path = folder / sub / f"{one.case}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = nibabel.Nifti1Image(voxels, one.affine)
            image.header.set_xyzt_units("mm")
            nibabel.save(image, path)
            entry[key] = f"./{sub}/{path.name}"
        listed.append(entry)
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "name": "corrected segmentations of short-axis cine",
        "description": f"masks that people corrected, of dicom-node {node_version}; research use only",
        "tensorImageSize": "3D",
        "modality": {"0": "MR"},
        "labels": {str(int(label)): label.name.lower() for label in Label},
        "numTraining": len(listed),
        "numTest": 0,
        "training": listed,
        "test": [],
    }
    path = folder / DATALIST
    path.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return path


def _corrected(seg: Dataset) -> bool:
    return any(str(item.get("SegmentAlgorithmType", "")) != "AUTOMATIC" for item in seg.SegmentSequence)


def _read(images: Sequence[ResultOverview], files: InstanceFiles) -> list[Dataset]:
    if not images or not all(one.present for one in images):
        raise UnusableError("its key-phase images were removed after their time")
    return [dcmread(files.readable(one.path)) for one in images]


def _case(uid: str, when: str, seg: Dataset, images: list[Dataset], secret: bytes) -> CorrectedCase:
    directions = np.asarray(images[0].ImageOrientationPatient, np.float64)
    row_direction, column_direction = directions[:3], directions[3:]
    normal = np.cross(row_direction, column_direction)
    images.sort(key=lambda one: float(np.asarray(one.ImagePositionPatient, np.float64) @ normal))
    positions = np.array([one.ImagePositionPatient for one in images], np.float64)
    row_mm, column_mm = (float(value) for value in images[0].PixelSpacing)
    grey = np.stack([_grey(one) for one in images])
    labels = np.zeros(grey.shape, np.uint8)
    for plane in segmented_planes(seg):
        at = np.flatnonzero(np.linalg.norm(positions - plane.position, axis=1) < _POSITION_TOLERANCE_MM)
        if len(at) != 1 or plane.mask.shape != grey.shape[1:]:
            raise UnusableError("its masks do not lie on its key-phase images")
        labels[at[0]][plane.mask] = plane.label
    step = positions[1] - positions[0] if len(positions) > 1 else normal * float(images[0].SliceThickness)
    to_lps = np.eye(4)
    to_lps[:3, 0], to_lps[:3, 1], to_lps[:3, 2] = row_direction * column_mm, column_direction * row_mm, step
    to_lps[:3, 3] = positions[0]
    study = hmac.new(secret, uid.encode("ascii"), hashlib.sha256).hexdigest()[:12]
    return CorrectedCase(
        study_instance_uid=uid,
        study=study,
        case=f"{study}_{when.lower()}",
        phase=when,
        image=np.ascontiguousarray(grey.transpose(2, 1, 0)),
        labels=np.ascontiguousarray(labels.transpose(2, 1, 0)),
        affine=_LPS_TO_RAS @ to_lps,
    )


def _grey(image: Dataset) -> NDArray[np.float32]:
    slope, intercept = float(image.get("RescaleSlope", 1)), float(image.get("RescaleIntercept", 0))
    found: NDArray[np.float32] = (image.pixel_array.astype(np.float64) * slope + intercept).astype(np.float32)
    return found
