"""A site's own studies with a table of labels: folders of DICOM, and a CSV file that says what is true of each."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.cine.assemble import assemble
from pipelines.cine.files import dicom_files, files_by_study
from pipelines.cine.stack import CineStudy

__all__ = ["LabelTableError", "LabelledStudy", "StudyLabel", "files_of_studies", "labelled_studies", "read_labels"]

STUDY = "study"
"""Column that names a study: its StudyInstanceUID, or the folder below the given one that holds it."""
_YES = frozenset({"1", "yes", "true"})
_NO = frozenset({"0", "no", "false"})


class LabelTableError(ValueError):
    """A table of labels cannot be used; the message says which line and why."""


@dataclass(frozen=True, slots=True)
class StudyLabel:
    """What a table says of one study: yes or no, and a percentage, NaN where it gives none."""

    positive: bool
    percent: float = math.nan


@dataclass(frozen=True, slots=True)
class LabelledStudy:
    """One study that a table names; ``name`` is how it does."""

    name: str
    study: CineStudy


def read_labels(path: Path, column: str, percent_column: str | None = None) -> dict[str, StudyLabel]:
    """Labels by study of a CSV file with the columns ``study`` and ``column`` (1, yes, true or 0, no, false).

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
                labels[name] = StudyLabel(value in _YES, _percent(given, f"{where}: {percent_column}"))
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


def labelled_studies(folder: Path, names: Collection[str]) -> Iterator[LabelledStudy]:
    """Studies below a folder that a table names, in the order of their names, assembled as the node does.

    A study whose files hold no image of a cine is left out.

    Raises
    ------
    LabelTableError
        See :func:`files_of_studies`.
    """
    for name, (uid, paths) in files_of_studies(folder, names).items():
        study = next((one for one in assemble(paths) if one.context.study_instance_uid == uid), None)
        if study is not None:
            yield LabelledStudy(name, study)


def files_of_studies(folder: Path, names: Collection[str]) -> dict[str, tuple[str, list[Path]]]:
    """StudyInstanceUID and files of each study that a table names, in the order of their names.

    Raises
    ------
    LabelTableError
        The table names a study that is not there: it would silently train on fewer. It names one twice, or a folder of
        several.
    """
    by_study = files_by_study(dicom_files(folder))
    by_study.pop("", None)
    found: dict[str, str] = {}
    for uid, paths in by_study.items():
        called = {uid, *(path.relative_to(folder).parts[0] for path in paths)} & set(names)
        if len(called) > 1:
            raise LabelTableError(f"one study is named twice: {', '.join(sorted(called))}")
        for name in called:
            if name in found:
                raise LabelTableError(f"folder {name} holds several studies: name them by StudyInstanceUID")
            found[name] = uid
    absent = sorted(set(names) - found.keys())
    if absent:
        raise LabelTableError(f"{len(absent)} studies of the table are not there, such as {absent[0]}")
    return {name: (found[name], by_study[found[name]]) for name in sorted(found)}
