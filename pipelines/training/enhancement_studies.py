"""A site's own studies with acquired late enhancement, to learn synthetic enhancement from: its cine, its own image.

Contours are the node's, and so is what it calls infarct and obstruction on the acquired images
(:mod:`pipelines.late_enhancement`). The image is brought onto the cine slice by slice, shifted as it was aligned. What
lies beside the left ventricle was not aligned and is not learnt from.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.cine.files import dicom_files, files_by_study
from pipelines.errors import AnalysisRefused
from pipelines.function.findings import Keyframes
from pipelines.function.slices import SliceMeasures
from pipelines.late_enhancement.findings import LateEnhancement
from pipelines.late_enhancement.labels import Tissue
from pipelines.late_enhancement.on_cine import acquired_image, acquired_on_cine
from pipelines.motion.crop import sample_labels
from pipelines.segmentation.grid import Square, sample_square
from pipelines.segmentation.labels import Label
from pipelines.study import analyse_study
from pipelines.synthetic_enhancement.features import FIELD_PX, SPACING_MM, Circumstances
from pipelines.synthetic_enhancement.measure import heart_of
from pipelines.training.enhancement_scale import normalised_slices
from pipelines.training.labelled_studies import StudyFiles, patient_of, study_of
from pipelines.training.synthetic_hearts import HELD_OUT, Hearts, TrainingHeart
from pipelines.ventricular_function.steps import ShortAxis

__all__ = ["StudyHearts", "hearts_of_studies", "split_of_studies", "with_studies"]

_LABEL_OF = np.zeros(max(Tissue) + 1, np.uint8)
_LABEL_OF[Tissue.LV] = Label.LV
_LABEL_OF[[Tissue.MYO, Tissue.INFARCT, Tissue.OBSTRUCTION]] = Label.MYO
_LESION_OF = np.zeros(max(Tissue) + 1, np.uint8)
_LESION_OF[Tissue.INFARCT], _LESION_OF[Tissue.OBSTRUCTION] = 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class StudyHearts:
    """A site's studies to learn from.

    Attributes
    ----------
    hearts : tuple of TrainingHeart
    held_out : tuple of str
        Cases of the studies kept out, for ``evaluate lge --studies``.
    declined : dict of str to str
        Why a study gave no heart, by case.
    """

    hearts: tuple[TrainingHeart, ...]
    held_out: tuple[str, ...]
    declined: dict[str, str]


def split_of_studies(folder: Path) -> tuple[list[StudyFiles], list[StudyFiles]]:
    """Studies below a folder to train on, and those kept out: the last 15 % of the patients, by a hash of who they are.

    Raises
    ------
    ValueError
        There are fewer than two patients.
    """
    by_patient: dict[str, list[StudyFiles]] = {}
    for uid, paths in sorted(files_by_study(dicom_files(folder)).items()):
        if not uid:
            continue
        named = patient_of(paths[0]) or uid
        key = hashlib.sha256(named.encode()).hexdigest()
        by_patient.setdefault(key, []).append(StudyFiles(uid, paths))
    if len(by_patient) < 2:
        raise ValueError(f"{folder} holds studies of {len(by_patient)} patients: some are trained on, others kept out")
    patients = sorted(by_patient)
    kept = len(patients) - math.ceil(HELD_OUT * len(patients))
    sides = [[study for key in part for study in by_patient[key]] for part in (patients[:kept], patients[kept:])]
    return sides[0], sides[1]


def hearts_of_studies(
    folder: Path, *, device: str = "cpu", report: Callable[[int, int], None] | None = None
) -> StudyHearts:
    """Measure the studies of a site that are trained on, as the node does.

    Parameters
    ----------
    folder : Path
        DICOM of cine and late enhancement.
    report : callable
        Is called with the studies done and wanted.

    Raises
    ------
    ValueError
        There are too few patients, or none of the studies can be used.
    """
    training, held_out = split_of_studies(folder)
    hearts, declined = [], {}
    for done, files in enumerate(training, 1):
        heart = _heart(files, device)
        if isinstance(heart, str):
            declined[files.case] = heart
        else:
            hearts.append(heart)
        if report is not None:
            report(done, len(training))
    if not hearts:
        raise ValueError(f"none of {len(training)} studies can be learnt from: {next(iter(declined.values()))}")
    return StudyHearts(tuple(hearts), tuple(files.case for files in held_out), declined)


def with_studies(hearts: Hearts, found: StudyHearts) -> Hearts:
    """Hearts to learn from, with a site's studies among the patients."""
    return replace(
        hearts,
        patients=(*hearts.patients, *found.hearts),
        cases=(*hearts.cases, *(heart.case for heart in found.hearts)),
        held_out=(*hearts.held_out, *found.held_out),
    )


def _heart(files: StudyFiles, device: str) -> TrainingHeart | str:
    """Input and target of one study, or a sentence that says why there is none."""
    study = study_of(files)
    if study is None:
        return "Its files hold no cine."
    wanted = (ShortAxis, SliceMeasures, Keyframes, LateEnhancement)
    findings = analyse_study(study, wanted, device=device)
    if any(cast("type", kind) not in findings.values for kind in wanted):
        return "; ".join(one.sentence for one in findings.refusals if one.because_of is None)
    stack, late = findings.values[ShortAxis], findings[LateEnhancement]
    try:
        heart = heart_of(
            stack,
            findings[SliceMeasures],
            findings[Keyframes],
            Circumstances(study.context.field_strength_t, study.context.manufacturer),
        )
    except AnalysisRefused as refusal:
        return str(refusal)
    acquired = acquired_on_cine(late, stack)
    taught = () if acquired is None else tuple(n for n, index in enumerate(heart.slices) if index in acquired.slices)
    if acquired is None or not taught:
        return "Its late enhancement does not lie on slices of its cine that show muscle."
    image = acquired_image(study.late_enhancement[late.stack], late, stack)
    shown = list(heart.slices)
    wide = Square(heart.square.row_mm, heart.square.column_mm, FIELD_PX * SPACING_MM)
    spacing = stack.geometry.pixel_spacing
    tissue = sample_labels(acquired.tissue[None, shown], spacing, wide, FIELD_PX, max(Tissue))[0]
    grey = sample_square(torch.from_numpy(image[shown][:, None]), spacing, wide, FIELD_PX)[:, 0].numpy()
    return TrainingHeart(
        seed=0,
        crop=heart.crop,
        target=_normalised(grey, tissue, taught),
        lesion=(_LESION_OF[tissue] > 0) & heart.crop.muscle,
        disease="",
        case=files.case,
        taught=taught,
        own_contours=True,
    )


def _normalised(grey: NDArray[np.float32], tissue: NDArray[np.uint8], taught: tuple[int, ...]) -> NDArray[np.float16]:
    """The acquired image on the scale of the networks; 0 on slices that it does not cover."""
    found = np.zeros(grey.shape, np.float16)
    chosen = list(taught)
    found[chosen] = normalised_slices(grey[chosen], _LABEL_OF[tissue[chosen]], _LESION_OF[tissue[chosen]])
    return found
