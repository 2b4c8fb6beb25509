"""A site's own studies with a table of labels: folders of DICOM, and a CSV file that says what is true of each."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.cine import elements
from pipelines.cine.assemble import assemble
from pipelines.cine.files import dicom_files, files_by_study
from pipelines.cine.reading import read_object
from pipelines.cine.stack import CineStudy

__all__ = [
    "LabelTableError",
    "LabelledStudy",
    "StudyFiles",
    "StudyLabel",
    "case_of",
    "files_of_studies",
    "labelled_studies",
    "patient_of",
    "read_labels",
    "study_of",
]

STUDY = "study"
"""Column that names a study: its StudyInstanceUID, or the folder below the given one that holds it."""
PATIENT = "patient"
"""Column that may say whose study it is, where PatientID does not."""
_YES = frozenset({"1", "yes", "true"})
_NO = frozenset({"0", "no", "false"})


class LabelTableError(ValueError):
    """A table of labels cannot be used; the message says which line and why."""


@dataclass(frozen=True, slots=True)
class StudyLabel:
    """What a table says of one study.

    Attributes
    ----------
    positive : bool
    percent : float
        NaN where it gives none.
    patient : str
        Whose study it is; empty where PatientID tells that.
    """

    positive: bool
    percent: float = math.nan
    patient: str = ""


@dataclass(frozen=True, slots=True)
class StudyFiles:
    """One study that a table names: its StudyInstanceUID and its files."""

    uid: str
    paths: list[Path]

    @property
    def case(self) -> str:
        """See :func:`case_of`."""
        return case_of(self.uid)


@dataclass(frozen=True, slots=True)
class LabelledStudy:
    """One study that a table names; ``name`` is how it does."""

    name: str
    study: CineStudy


def case_of(study_instance_uid: str) -> str:
    """Name of a study in a card: its UID hashed, for a folder or a UID may tell who the patient is."""
    return f"study-{hashlib.sha256(study_instance_uid.encode()).hexdigest()[:16]}"


def read_labels(path: Path, column: str, percent_column: str | None = None) -> dict[str, StudyLabel]:
    """Labels by study of a CSV file with the columns ``study`` and ``column`` (1, yes, true or 0, no, false).

    A column ``patient`` may say whose study each is, in any words: for studies whose PatientID does not.

    Parameters
    ----------
    path : Path
    column : str
    percent_column : str or None
        A column that may be missing, and empty where its value is not known: 0 … 100.

    Raises
    ------
    LabelTableError
        A column or a value is missing or unknown, or a study is named twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = {STUDY, column} - set(rows.fieldnames or ())
            if missing:
                raise LabelTableError(f"{path.name} has no column {', '.join(sorted(missing))}")
            labels: dict[str, StudyLabel] = {}
            for row in rows:
                name, value = (row[STUDY] or "").strip(), (row[column] or "").strip().lower()
                where = f"{path.name}, line {rows.line_num}"
                if not name:
                    raise LabelTableError(f"{where}: no study is named")
                if value not in _YES | _NO:
                    raise LabelTableError(f"{where}: {column} is {value!r}; write 1 or 0")
                if name in labels:
                    raise LabelTableError(f"{where}: this study is named twice")
                given = "" if percent_column is None else (row.get(percent_column) or "").strip()
                percent = _percent(given, f"{where}: {percent_column}")
                labels[name] = StudyLabel(value in _YES, percent, (row.get(PATIENT) or "").strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelTableError(f"{path.name} cannot be read as CSV: {error}") from error
    if not labels:
        raise LabelTableError(f"{path.name} names no study")
    return labels


def _percent(given: str, where: str) -> float:
    if not given:
        return math.nan
    try:
        value = float(given)
    except ValueError as error:
        raise LabelTableError(f"{where} is {given!r}, which is no number") from error
    if not 0 <= value <= 100:
        raise LabelTableError(f"{where} is {given}, which is not in 0 … 100 %")
    return value


def labelled_studies(folder: Path, labels: Mapping[str, StudyLabel]) -> Iterator[LabelledStudy]:
    """Studies below a folder that a table names, in the order of their names, assembled as the node does.

    A study whose files hold no image of a cine is left out.

    Raises
    ------
    LabelTableError
        See :func:`files_of_studies`.
    """
    for name, files in files_of_studies(folder, labels).items():
        study = study_of(files)
        if study is not None:
            yield LabelledStudy(name, study)


def study_of(files: StudyFiles) -> CineStudy | None:
    """Assemble one study as the node does; ``None`` where its files hold no cine."""
    return next((one for one in assemble(files.paths) if one.context.study_instance_uid == files.uid), None)


def files_of_studies(folder: Path, labels: Mapping[str, StudyLabel]) -> dict[str, StudyFiles]:
    """Files of each study that a table names, in the order of their names; each is of another patient.

    Whose a study is, the table says, or else IssuerOfPatientID and PatientID of its first file. A study with neither is
    taken to be of a patient of its own.

    Raises
    ------
    LabelTableError
        The table names a study that is not there: it would silently train on fewer. It names one twice, or a folder of
        several, or two of one patient: splits and intervals take studies to be independent.
    """
    by_study = files_by_study(dicom_files(folder))
    by_study.pop("", None)
    found: dict[str, str] = {}
    for uid, paths in by_study.items():
        called = {uid, *(path.relative_to(folder).parts[0] for path in paths)} & set(labels)
        if len(called) > 1:
            raise LabelTableError(f"one study is named twice: {', '.join(sorted(called))}")
        for name in called:
            if name in found:
                raise LabelTableError(f"folder {name} holds several studies: name them by StudyInstanceUID")
            found[name] = uid
    absent = sorted(set(labels) - found.keys())
    if absent:
        raise LabelTableError(f"{len(absent)} studies of the table are not there, such as {absent[0]}")
    of_patient: dict[str, str] = {}
    for name in sorted(found):
        patient = _patient(labels[name], by_study[found[name]][0])
        if patient and patient in of_patient:
            raise LabelTableError(
                f"{of_patient[patient]} and {name} are of one patient: name one of them, or tell patients apart in a "
                f"column {PATIENT}"
            )
        of_patient[patient] = name
    return {name: StudyFiles(found[name], by_study[found[name]]) for name in sorted(found)}


def _patient(label: StudyLabel, first: Path) -> str:
    """Who a study is of; empty where nothing says that."""
    return label.patient or patient_of(first)


def patient_of(path: Path) -> str:
    """IssuerOfPatientID and PatientID of an object, to tell patients apart; empty where it has no PatientID."""
    tags = ["PatientID", "IssuerOfPatientID"]
    header = read_object(path, specific_tags=tags, stop_before_pixels=True, force=True)
    layers = (dict(header.items()),)
    identifier = elements.text(layers, "PatientID")
    return f"{elements.text(layers, 'IssuerOfPatientID')}\n{identifier}" if identifier else ""
