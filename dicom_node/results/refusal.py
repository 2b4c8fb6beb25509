"""Report of a study that was declined: why, the quality, what was left out, and no numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from highdicom.sr import MeasurementReport, QualitativeEvaluation
from pydicom.dataset import Dataset

from dicom_node.results.codes import CONFIDENCE, GRADE, QUALITY_CHECK, REFUSAL, private
from dicom_node.results.content import (
    group,
    observation_context,
    omission_items,
    procedure_reported,
    quality_sentences,
    structured_report,
    text_item,
)
from dicom_node.results.header import BANNER, ResultContext, ResultRole
from pipelines.cine.stack import CineStudy, FrameSource
from pipelines.errors import Refusal
from pipelines.quality.findings import Grade, QualityAssessment, QualityStage

__all__ = ["refusal_report", "root_refusals", "without_numbers"]


def root_refusals(refusals: Sequence[Refusal]) -> tuple[Refusal, ...]:
    """The refusals that are causes: those that only followed from another one tell a reader nothing."""
    return tuple(refusal for refusal in refusals if refusal.because_of is None)


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
    refusals: Sequence[Refusal],
    quality: QualityAssessment | None,
) -> Dataset:
    """Encode the refusal: TID 1500, one group with the study quality 111235 and sentences."""
    quality = None if quality is None else without_numbers(quality)
    causes = root_refusals(refusals)
    if not causes:
        raise ValueError("a refusal report needs a refusal")
    evaluations = [QualitativeEvaluation(name=CONFIDENCE, value=GRADE[Grade.UNUSABLE])]
    evaluations += [QualitativeEvaluation(name=private("DECLINED"), value=REFUSAL[cause.reason]) for cause in causes]
    if quality is not None:
        evaluations += [
            QualitativeEvaluation(name=QUALITY_CHECK[finding.check], value=GRADE[finding.grade])
            for finding in quality.findings
        ]
    items = [
        *(text_item(private("DECLINED"), cause.sentence) for cause in causes),
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
    looked_at = [source for stack in study.stacks for line in stack.sources for source in line]
    if not looked_at:
        looked_at = [_reference(context)]
    return structured_report(context, ResultRole.REFUSAL, report[0], current=(), other=looked_at)


def _reference(context: ResultContext) -> FrameSource:
    header = context.reference
    return FrameSource(
        sop_class_uid=str(header.SOPClassUID),
        sop_instance_uid=str(header.SOPInstanceUID),
        series_instance_uid=str(header.SeriesInstanceUID),
        frame_number=None,
        instance_number=None,
        trigger_time_ms=None,
    )
