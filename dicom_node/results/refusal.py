"""Report of a study that was declined: why, the quality, what was left out, and no numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from highdicom.sr import MeasurementReport, QualitativeEvaluation
from pydicom.dataset import Dataset

from dicom_node.results.codes import CONFIDENCE, GRADE, QUALITY_CHECK, REFUSAL_CODE, private
from dicom_node.results.content import (
    Predecessor,
    group,
    observation_context,
    omission_items,
    procedure_reported,
    quality_sentences,
    structured_report,
    text_item,
)
from dicom_node.results.header import BANNER, ResultContext
from dicom_node.results.parts import frames_of
from dicom_node.results.report import declined_sentences
from dicom_node.results.roles import REFUSAL
from pipelines.cine.stack import CineStudy, FrameSource
from pipelines.errors import Refusal
from pipelines.quality.findings import Grade, QualityAssessment, QualityStage

__all__ = ["reference_source", "refusal_report", "without_numbers"]


def without_numbers(quality: QualityAssessment) -> QualityAssessment:
    """The findings that a declined study may show: on the acquisition, and those that are the obstacle.

    A sentence such as "LV ejection fraction of 54 % is plausible" would report the very number that is withheld.
    """
    kept = (
        finding
        for finding in quality.findings
        if finding.check.stage is QualityStage.INPUT or finding.grade >= Grade.POOR
    )
    return dataclasses.replace(quality, findings=tuple(kept))


def refusal_report(
    context: ResultContext,
    study: CineStudy,
    declined: Mapping[str, Sequence[Refusal]],
    quality: QualityAssessment | None,
    predecessors: Sequence[Predecessor],
) -> Dataset:
    """Encode the refusal: TID 1500, one group with the confidence ``CONF_NONE`` and sentences.

    Parameters
    ----------
    declined
        Title and causes of every package of the report.
    """
    quality = None if quality is None else without_numbers(quality)
    reasons = dict.fromkeys(cause.reason for causes in declined.values() for cause in causes)
    if not reasons:
        raise ValueError("a refusal report needs a refusal")
    evaluations = [QualitativeEvaluation(name=CONFIDENCE, value=GRADE[Grade.UNUSABLE])]
    evaluations += [QualitativeEvaluation(name=private("DECLINED"), value=REFUSAL_CODE[reason]) for reason in reasons]
    if quality is not None:
        evaluations += [
            QualitativeEvaluation(name=QUALITY_CHECK[finding.check], value=GRADE[finding.grade])
            for finding in quality.findings
        ]
    items = [
        *(text_item(private("DECLINED"), sentence) for sentence in declined_sentences(declined, of_all=True)),
        *quality_sentences(quality),
        *omission_items(study.omissions),
        text_item(private("LIMITS"), BANNER),
    ]
    report = MeasurementReport(
        observation_context=observation_context(context),
        procedure_reported=procedure_reported(context),
        imaging_measurements=[
            group(
                context,
                "Analysis declined",
                finding_type=private("DECLINED"),
                qualitative_evaluations=evaluations,
                items=items,
            )
        ],
    )
    looked_at = frames_of(study.stacks) or (reference_source(context),)
    return structured_report(context, REFUSAL, report[0], current=(), other=looked_at, predecessors=predecessors)


def reference_source(context: ResultContext) -> FrameSource:
    """The source instance that patient and study come from."""
    header = context.reference
    return FrameSource(
        sop_class_uid=str(header.SOPClassUID),
        sop_instance_uid=str(header.SOPInstanceUID),
        series_instance_uid=str(header.SeriesInstanceUID),
        frame_number=None,
        instance_number=None,
        trigger_time_ms=None,
    )
