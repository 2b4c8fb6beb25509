"""Write a simulated study as a scanner would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from pipelines.phantom.classic import classic_objects, equipment
from pipelines.phantom.electrocardiogram import electrocardiogram
from pipelines.phantom.enhanced import enhanced_objects
from pipelines.phantom.identity import Script, study_header
from pipelines.phantom.recipe import Dialect, RecipeError
from pipelines.phantom.study import PhantomStudy

__all__ = ["TRANSFER_SYNTAXES", "study_objects", "write_study"]

TRANSFER_SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
}
"""Transfer syntaxes that can be written, all lossless, by their short names."""

_IMPLEMENTATION_UID = UID("2.25.230718366418932817209117216209348573112")


def study_objects(
    study: PhantomStudy,
    *,
    dialect: Dialect | None = None,
    script: Script = Script.LATIN,
    ecg: bool = True,
) -> Iterator[Dataset]:
    """The objects of a study in the order in which the scanner sends them, without file meta information."""
    dialect = dialect or study.recipe.dialect
    header = study_header(study, script)
    if dialect in (Dialect.SIEMENS_XA, Dialect.PHILIPS_ENHANCED):
        yield from enhanced_objects(study, header, dialect)
    else:
        yield from classic_objects(study, header, dialect)
    if ecg:
        yield electrocardiogram(study, header, equipment(study, dialect))


def write_study(
    study: PhantomStudy,
    directory: Path,
    *,
    dialect: Dialect | None = None,
    transfer_syntax: str = "explicit",
    script: Script = Script.LATIN,
    ecg: bool = False,
) -> list[Path]:
    """Write every object of a study as a DICOM file.

    Parameters
    ----------
    study : PhantomStudy
    directory : Path
        Created when absent; files are named ``IM00001.dcm`` and so on.
    dialect : Dialect or None
        How to write; that of the recipe when ``None``.
    transfer_syntax : str
        A key of ``TRANSFER_SYNTAXES``.
    script : Script
        Script of the patient's name and the character set.
    ecg : bool
        Whether to write the 12-lead ECG too.

    Returns
    -------
    list of Path
        In the order in which a scanner would send them.

    Raises
    ------
    RecipeError
        Unknown transfer syntax.
    """
    syntax = TRANSFER_SYNTAXES.get(transfer_syntax)
    if syntax is None:
        raise RecipeError(f"transfer syntax '{transfer_syntax}' is not one of {', '.join(TRANSFER_SYNTAXES)}")
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, dataset in enumerate(study_objects(study, dialect=dialect, script=script, ecg=ecg), 1):
        path = directory / f"IM{index:05d}.dcm"
        dataset.file_meta = _file_meta(dataset)
        compressed = syntax.is_compressed and "PixelData" in dataset
        if compressed:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.compress(syntax, generate_instance_uid=False)
        elif not syntax.is_compressed:
            dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _file_meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION_UID
    meta.ImplementationVersionName = "PHANTOM_1"
    return meta
