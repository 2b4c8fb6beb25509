"""Reader of data sets in the layout of ACDC.

Bernard et al., "Deep Learning Techniques for Automatic MRI Cardiac Multi-Structures Segmentation and Diagnosis",
IEEE TMI 2018. One folder a patient: ``Info.cfg``, ``<patient>_frameFF.nii.gz``, ``<patient>_frameFF_gt.nii.gz``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, FrameSource, StackGeometry, View
from pipelines.segmentation.labels import Label
from pipelines.training.data_set import DataSet

__all__ = [
    "AcdcFrame",
    "AcdcLayoutError",
    "AcdcPatient",
    "acdc_set",
    "find_patients",
    "nominal_sources",
    "read_patient",
    "to_stack",
]

# ACDC numbers its labels otherwise than Label does.
_LABEL_OF_ACDC = np.array([Label.BACKGROUND, Label.RV, Label.MYO, Label.LV], dtype=np.uint8)


class AcdcLayoutError(ValueError):
    """A folder is not in ACDC's layout; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True, eq=False)
class AcdcFrame:
    """One annotated phase.

    Attributes
    ----------
    pixels : (S, R, C) float32
        Grey values.
    labels : (S, R, C) uint8
        Values of :class:`~pipelines.segmentation.labels.Label`.
    """

    number: int
    pixels: NDArray[np.float32]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class AcdcPatient:
    """Annotated end diastole and end systole of one patient, with the geometry they share."""

    identifier: str
    group: str
    """Diagnostic group: ``NOR``, ``DCM``, ``HCM``, ``MINF`` or ``RV``; ``unknown`` where Info.cfg has none."""
    ed: AcdcFrame
    es: AcdcFrame
    geometry: StackGeometry
    height_cm: float | None
    weight_kg: float | None

    @property
    def frames(self) -> tuple[AcdcFrame, AcdcFrame]:
        """End diastole, end systole."""
        return self.ed, self.es


def find_patients(folder: Path) -> tuple[Path, ...]:
    """Folders of patients, at any depth under ``folder``, sorted by name.

    Raises
    ------
    AcdcLayoutError
        The folder does not exist, holds no ``Info.cfg``, or holds two patients of one name.
    """
    if not folder.is_dir():
        raise AcdcLayoutError(f"{folder} is not a folder: give the folder that holds ACDC's patient folders")
    found = sorted({path.parent for path in folder.rglob("Info.cfg")}, key=lambda path: path.name)
    if not found:
        raise AcdcLayoutError(f"{folder} holds no Info.cfg at any depth: it is not in ACDC's layout")
    names = [path.name for path in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AcdcLayoutError(f"{folder} holds more than one folder named {', '.join(twice)}: keep one of each")
    return tuple(found)


def _read_info(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AcdcLayoutError(f"{path} cannot be read: {error}") from error
    return {
        key.strip(): value.strip() for key, mark, value in (line.partition(":") for line in text.splitlines()) if mark
    }


def _group(info: dict[str, str]) -> str:
    return info.get("Group", "unknown")


def _number(info: dict[str, str], key: str) -> float | None:
    try:
        value = float(info[key])
    except (KeyError, ValueError):
        return None
    return value if np.isfinite(value) and value > 0 else None


def _load(path: Path) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    import nibabel  # 0.3 s: not wanted at the start of the command line
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import SpatialImage

    candidates = [path.with_name(path.name + suffix) for suffix in (".nii.gz", ".nii")]
    existing = next((candidate for candidate in candidates if candidate.is_file()), None)
    if existing is None:
        raise AcdcLayoutError(f"{candidates[0]} is missing")
    try:
        image = nibabel.load(existing)
        if not isinstance(image, SpatialImage):
            raise ImageFileError(f"it is a {type(image).__name__}")
        data = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise AcdcLayoutError(f"{existing} cannot be read as NIfTI: {error}") from error
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.ndim != 3 or 0 in data.shape:
        raise AcdcLayoutError(f"{existing} has shape {data.shape}, expected three dimensions (column, row, slice)")
    affine = np.array(image.affine, dtype=np.float64)
    zooms = np.array(image.header.get_zooms()[:3], dtype=np.float64)
    # The header's pixel dimensions are the truth of ACDC; some files have an affine of another scale.
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.all(np.isfinite(affine)) and np.all(lengths > 0) and np.all(zooms > 0)):
        raise AcdcLayoutError(f"{existing} has no usable spacing in its header ({zooms.tolist()} mm)")
    affine[:3, :3] *= zooms / lengths
    return data, affine


def _geometry(affine: NDArray[np.float64], slices: int) -> tuple[StackGeometry, bool]:
    """Geometry of the array transposed to (slice, row, column), and whether its slices have to be reversed."""
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
    spacing = np.linalg.norm(lps, axis=0)
    row_direction, column_direction, step = (lps / spacing).T
    positions = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, 3] + np.arange(slices)[:, None] * spacing[2] * step
    reverse = bool(np.cross(row_direction, column_direction) @ step < 0)
    return StackGeometry(
        positions=positions[::-1].copy() if reverse else positions,
        row_direction=row_direction,
        column_direction=column_direction,
        pixel_spacing=(float(spacing[1]), float(spacing[0])),
        slice_thickness=float(spacing[2]),
    ), reverse


def _read_frame(folder: Path, number: int) -> tuple[AcdcFrame, StackGeometry]:
    stem = folder / f"{folder.name}_frame{number:02d}"
    pixels, affine = _load(stem)
    truth, _ = _load(stem.with_name(stem.name + "_gt"))
    if truth.shape != pixels.shape:
        raise AcdcLayoutError(f"{stem}_gt has shape {truth.shape}, its image {pixels.shape}")
    values = np.unique(truth)
    if not np.isin(values, [0, 1, 2, 3]).all():
        raise AcdcLayoutError(f"{stem}_gt has labels {values.tolist()}, expected 0 to 3 (RV 1, myocardium 2, LV 3)")
    geometry, reverse = _geometry(affine, pixels.shape[2])
    step = -1 if reverse else 1
    return AcdcFrame(
        number=number,
        pixels=np.ascontiguousarray(pixels.transpose(2, 1, 0)[::step], dtype=np.float32),
        labels=np.ascontiguousarray(_LABEL_OF_ACDC[truth.astype(np.uint8)].transpose(2, 1, 0)[::step]),
    ), geometry


def read_patient(folder: Path) -> AcdcPatient:
    """Read both annotated phases of one patient.

    Raises
    ------
    AcdcLayoutError
        A file is missing or malformed; the message names it.
    """
    info = _read_info(folder / "Info.cfg")
    numbers = []
    for key in ("ED", "ES"):
        if not re.fullmatch(r"\d+", info.get(key, "")):
            raise AcdcLayoutError(f"{folder / 'Info.cfg'} has no frame number under {key!r}")
        numbers.append(int(info[key]))
    (ed, geometry), (es, _) = (_read_frame(folder, number) for number in numbers)
    if ed.pixels.shape != es.pixels.shape:
        raise AcdcLayoutError(f"{folder}: end diastole has shape {ed.pixels.shape}, end systole {es.pixels.shape}")
    return AcdcPatient(
        identifier=folder.name,
        group=_group(info),
        ed=ed,
        es=es,
        geometry=geometry,
        height_cm=_number(info, "Height"),
        weight_kg=_number(info, "Weight"),
    )


def nominal_sources(identifier: str, frames: Iterable[int], slices: int) -> tuple[tuple[FrameSource, ...], ...]:
    """Sources of images that are not in DICOM, by the number of their frame and of their slice."""
    return tuple(
        tuple(FrameSource("", f"{identifier}.{frame}.{index}", identifier, None, None, None) for index in range(slices))
        for frame in frames
    )


def to_stack(patient: AcdcPatient) -> CineStack:
    """The two phases as a cine stack: phase 0 end diastole, phase 1 end systole. Its sources are nominal."""
    pixels = np.stack([frame.pixels for frame in patient.frames])
    slices = pixels.shape[1]
    sources = nominal_sources(patient.identifier, (frame.number for frame in patient.frames), slices)
    return CineStack(
        view=View.SAX,
        pixels=pixels,
        geometry=patient.geometry,
        sources=sources,
        trigger_times=np.full((2, slices), np.nan),
        rr_intervals=np.full(slices, np.nan),
        frame_of_reference_uid=patient.identifier,
    )


def acdc_set(folder: Path) -> DataSet:
    """The patients of a folder in ACDC's layout as training data.

    Raises
    ------
    AcdcLayoutError
        The folder is not in ACDC's layout.
    """
    patients = {path.name: path for path in find_patients(folder)}
    return DataSet(
        groups={name: _group(_read_info(path / "Info.cfg")) for name, path in patients.items()},
        read=lambda name: read_patient(patients[name]),
        name="ACDC (Automated Cardiac Diagnosis Challenge), end diastole and end systole",
        licence="CC-BY-NC-SA-4.0",
        source="Bernard et al., IEEE TMI 2018, doi:10.1109/TMI.2018.2837502",
        weights_licence="CC-BY-NC-SA-4.0",
        limits=(
            "Trained on one hospital (Dijon) and two Siemens scanners (1.5 T and 3 T).",
            "Only end diastole and end systole were annotated; other phases are unseen in training.",
        ),
        not_for=(
            "Diagnosis, or any decision about a patient: research use only.",
            "Children, congenital heart disease, and sequences other than cine balanced steady-state free precession.",
            "Commercial use: the weights inherit the licence of their training data.",
        ),
        options="--data DIR",
    )
