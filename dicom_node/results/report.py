"""The structured report: TID 1500 in Comprehensive 3D SR (PS3.16), composed of the parts of packages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from highdicom.sr import ContainerContentItem, MeasurementReport, QualitativeEvaluation, RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from dicom_node.results.codes import CONFIDENCE, GRADE, QUALITY_CHECK, private
from dicom_node.results.content import (
    MeasurementGroup,
    Predecessor,
    confidence_sentence,
    contain,
    group,
    observation_context,
    omission_items,
    procedure_reported,
    quality_sentences,
    structured_report,
    text_item,
)
from dicom_node.results.header import BANNER, ResultContext
from dicom_node.results.parts import ReportPart
from dicom_node.results.roles import REPORT, Variant
from pipelines.cine.stack import CineStudy
from pipelines.errors import Refusal
from pipelines.quality.findings import QualityAssessment

__all__ = ["composed_report", "container", "declined_sentences", "significant"]


def significant(value: float) -> float:
    """The value as reported: one decimal, two below 10; zero has no sign."""
    return round(value, 2 if abs(value) < 10 else 1) + 0.0


def container(name: Code, items: Sequence[Dataset]) -> Dataset:
    """CONTAINER content item."""
    made = ContainerContentItem(name=name, relationship_type=RelationshipTypeValues.CONTAINS)
    contain(made, items)
    return made


def declined_sentences(declined: Mapping[str, Sequence[Refusal]], *, of_all: bool) -> list[str]:
    """Why packages gave nothing; with their titles, unless there is but one package.

    Parameters
    ----------
    of_all
        Whether these are all packages of the report.
    """
    alone = of_all and len(declined) == 1
    return [
        refusal.sentence if alone else f"{title[:1].upper()}{title[1:]}: {refusal.sentence}"
        for title, refusals in declined.items()
        for refusal in refusals
    ]


def composed_report(
    context: ResultContext,
    study: CineStudy,
    parts: Iterable[ReportPart],
    declined: Mapping[str, Sequence[Refusal]],
    quality: QualityAssessment | None,
    variant: Variant,
    predecessors: Sequence[Predecessor],
) -> Dataset:
    """Encode the report of packages that found something.

    Parameters
    ----------
    parts
        What each package adds, in the order of the route.
    declined
        Of the packages of the same report that gave nothing: title and causes.
    quality
        Findings of quality control, where a package judged it.
    predecessors
        Reports of earlier versions of the study that this one takes the place of.
    """
    parts = list(parts)
    groups = [each for part in parts for each in part.groups]
    report = MeasurementReport(
        observation_context=observation_context(context),
        procedure_reported=procedure_reported(context),
        imaging_measurements=[*groups, _quality(context, study, declined, quality)],
    )
    library = [each for part in parts for each in part.library]
    if library:
        # Row 5 of TID 1500 stands before the measurements.
        tree = list(report[0].ContentSequence)
        report[0].ContentSequence = [*tree[:-1], container(codes.DCM.ImageLibrary, library), tree[-1]]
    return structured_report(
        context,
        REPORT,
        report[0],
        current=[each for part in parts for each in part.evidence],
        other=[each for part in parts for each in part.looked_at],
        variant=variant,
        predecessors=predecessors,
    )


def _quality(
    context: ResultContext,
    study: CineStudy,
    declined: Mapping[str, Sequence[Refusal]],
    quality: QualityAssessment | None,
) -> MeasurementGroup:
    evaluations = []
    if quality is not None:
        evaluations.append(QualitativeEvaluation(name=CONFIDENCE, value=GRADE[quality.overall]))
        evaluations += [
            QualitativeEvaluation(name=QUALITY_CHECK[finding.check], value=GRADE[finding.grade])
            for finding in quality.findings
        ]
    items = [
        *([] if quality is None else [text_item(private("DATAQUALITY"), confidence_sentence(quality.overall))]),
        *quality_sentences(quality),
        *omission_items(study.omissions),
        *(text_item(private("DECLINED"), sentence) for sentence in declined_sentences(declined, of_all=False)),
        text_item(private("LIMITS"), BANNER),
    ]
    return group(
        context,
        "Quality",
        finding_type=private("DATAQUALITY"),
        qualitative_evaluations=evaluations or None,
        items=items,
    )
