"""A site's own studies of acute infarcts, segmented as the node does, with what a table says of obstruction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack
from pipelines.function.findings import Keyframes
from pipelines.segmentation.labels import CineSegmentation
from pipelines.study import analyse_study
from pipelines.training.labelled_studies import case_of, labelled_studies, read_labels
from pipelines.ventricular_function.steps import ShortAxis

__all__ = ["SegmentedStudy", "segmented_studies"]


@dataclass(frozen=True, slots=True, eq=False)
class SegmentedStudy:
    """One study with its label.

    Attributes
    ----------
    case : str
        See :func:`pipelines.training.labelled_studies.case_of`.
    stack : CineStack
    labels : (T, S, R, C) uint8
        Values of :class:`pipelines.segmentation.labels.Label`.
    end_diastole, end_systole : int
    obstruction : bool
    """

    case: str
    stack: CineStack
    labels: NDArray[np.uint8]
    end_diastole: int
    end_systole: int
    obstruction: bool


def segmented_studies(
    folder: Path, labels: Path, *, device: str = "cpu", report: Callable[[str, str], None] | None = None
) -> Iterator[SegmentedStudy]:
    """Studies that a table names, one after the other; those that cannot be used are left out.

    Parameters
    ----------
    folder : Path
        DICOM, a folder for each study.
    labels : Path
        CSV with the columns ``study`` (StudyInstanceUID or folder) and ``obstruction`` (1 or 0).
    report : callable
        Is called with the name of each study and why it was left out, empty where it was not.

    Raises
    ------
    LabelTableError
        See :mod:`pipelines.training.labelled_studies`.
    """
    known = read_labels(labels, "obstruction")
    for each in labelled_studies(folder, known):
        findings = analyse_study(each.study, [cast("type", ShortAxis), CineSegmentation, Keyframes], device=device)
        stack, keyframes = each.study.short_axis, findings.get(Keyframes)
        refused = ""
        if stack is None or keyframes is None:
            refused = "; ".join(one.sentence for one in findings.refusals if one.because_of is None)
        elif keyframes.end_diastole == keyframes.end_systole:
            refused = "The left ventricle does not contract."
        if report is not None:
            report(each.name, refused)
        if not refused and stack is not None and keyframes is not None:
            yield SegmentedStudy(
                case_of(each.study.context.study_instance_uid),
                stack,
                findings[CineSegmentation].labels,
                keyframes.end_diastole,
                keyframes.end_systole,
                known[each.name].positive,
            )
