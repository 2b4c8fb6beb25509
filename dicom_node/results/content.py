"""Content items that TID 1500 and its templates leave to the author, on top of highdicom's templates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypedDict, Unpack

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    ContentItem,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    ImageContentItem,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import Comprehensive3DSRStorage

from dicom_node.implementation import SOFTWARE_VERSION
from dicom_node.results.codes import ARTIFICIAL_INTELLIGENCE, MR_OF_HEART, private
from dicom_node.results.header import (
    MANUFACTURER,
    ResultContext,
    device_uid,
    series_dataset,
)
from dicom_node.results.roles import USUAL, ResultRole, Variant
from dicom_node.results.stated import stated
from pipelines.cine.headers import OWN_MODEL_NAME
from pipelines.cine.stack import FrameSource, Omission
from pipelines.quality.findings import CONFIDENCE_MEANS, Grade, QualityAssessment

__all__ = [
    "GroupContent",
    "MeasurementGroup",
    "Predecessor",
    "algorithm",
    "confidence_sentence",
    "contain",
    "evidence",
    "group",
    "language",
    "observation_context",
    "omission_sentence",
    "procedure_reported",
    "source_image",
    "structured_report",
    "text_item",
    "with_method",
]

_SOURCE = Code("260753009", "SCT", "Source")


MeasurementGroup: TypeAlias = (
    MeasurementsAndQualitativeEvaluations
    | PlanarROIMeasurementsAndQualitativeEvaluations
    | VolumetricROIMeasurementsAndQualitativeEvaluations
)
"""TID 1501, 1410 or 1411."""


class GroupContent(TypedDict, total=False):
    """What a measurement group (TID 1501) has beside its tracking identifiers and algorithm."""

    finding_type: Code
    finding_sites: Sequence[FindingSite]
    measurements: Sequence[Measurement] | None
    qualitative_evaluations: Sequence[QualitativeEvaluation] | None


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A report of an earlier version of the study that a new one takes the place of."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def text_item(name: Code, text: str, relationship: RelationshipTypeValues = RelationshipTypeValues.CONTAINS) -> Dataset:
    """TEXT content item; in a measurement group a qualitative evaluation in words (TID 1501, TID 1411)."""
    return TextContentItem(name=name, value=text, relationship_type=relationship)


def with_method(measurement: Measurement, method: str) -> Measurement:
    """The measurement, with a property that says how it was obtained."""
    number = measurement[0]
    item = text_item(private("METHOD"), method, RelationshipTypeValues.HAS_PROPERTIES)
    number.ContentSequence = [*number.get("ContentSequence", []), item]
    return measurement


def source_image(source: FrameSource) -> Dataset:
    """IMAGE content item of a measurement group: an image that its numbers come from."""
    return ImageContentItem(
        name=_SOURCE,
        referenced_sop_class_uid=source.sop_class_uid,
        referenced_sop_instance_uid=source.sop_instance_uid,
        referenced_frame_numbers=None if source.frame_number is None else [source.frame_number],
        relationship_type=RelationshipTypeValues.CONTAINS,
    )


def code_content(
    name: Code, value: Code, relationship: RelationshipTypeValues = RelationshipTypeValues.CONTAINS
) -> Dataset:
    """CODE content item."""
    return CodeContentItem(name=name, value=value, relationship_type=relationship)


def number_content(name: Code, value: float, unit: Code, relationship: RelationshipTypeValues) -> NumContentItem:
    """NUM content item."""
    return NumContentItem(name=name, value=value, unit=unit, relationship_type=relationship)


def contain(item: ContentItem, items: Iterable[Dataset]) -> None:
    """Make content items the content of another."""
    item.ContentSequence = DicomSequence(items)


def language(code: Code) -> LanguageOfContentItemAndDescendants:
    """TID 1204: the language of a document."""
    return LanguageOfContentItemAndDescendants(language=CodedConcept.from_code(code))


def algorithm(context: ResultContext) -> AlgorithmIdentification:
    """TID 4019: this software, and as parameters the networks that took part."""
    return AlgorithmIdentification(
        name=OWN_MODEL_NAME,
        version=SOFTWARE_VERSION,
        parameters=[
            f"{model.name} {model.version}, weights SHA-256 {model.weights_sha256}, {model.precision}"
            for model in context.models
        ]
        or None,
        family=ARTIFICIAL_INTELLIGENCE,
        manufacturer=MANUFACTURER,
    )


def observation_context(context: ResultContext) -> ObservationContext:
    """TID 1001 with this software as the device observer (TID 1004), and who corrected its masks (TID 1003)."""
    person = None
    if context.editor:
        person = ObserverContext(
            observer_type=codes.DCM.Person,
            observer_identifying_attributes=PersonObserverIdentifyingAttributes(name=context.editor),
        )
    return ObservationContext(
        observer_person_context=person,
        observer_device_context=ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=device_uid(context.models),
                name=f"{OWN_MODEL_NAME} {SOFTWARE_VERSION}",
                manufacturer_name=MANUFACTURER,
                model_name=OWN_MODEL_NAME,
            ),
        ),
    )


def procedure_reported(context: ResultContext) -> list[Code]:
    """The imaging procedure (121058), from the source where it says; not the algorithm."""
    found = []
    for item in stated(context.reference, "ProcedureCodeSequence") or []:
        value, scheme = stated(item, "CodeValue"), stated(item, "CodingSchemeDesignator")
        if value and scheme:
            found.append(Code(str(value), str(scheme), str(stated(item, "CodeMeaning") or value)[:64]))
    return found or [MR_OF_HEART]


def group(
    context: ResultContext, name: str, *, items: Sequence[Dataset] = (), **template: Unpack[GroupContent]
) -> MeasurementsAndQualitativeEvaluations:
    """Measurement group (TID 1501) with its tracking identifiers; ``items`` go at its end.

    OHIF dereferences the Tracking Unique Identifier of every group without looking, so every group has one.
    """
    made = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=context.identity.uid("tracking", name), identifier=name),
        algorithm_id=algorithm(context),
        **template,
    )
    made[0].ContentSequence.extend(items)
    return made


def omission_sentence(omission: Omission) -> str:
    """What was left out and why, with the series it came from."""
    where = f" (series {omission.series_instance_uid})" if omission.series_instance_uid else ""
    count = len(omission.sop_instance_uids)
    images = f", {count} image{'s' if count != 1 else ''}" if count else ""
    return f"{omission.reason.value}{images}{where}: {omission.detail}"


def omission_items(omissions: Iterable[Omission]) -> list[Dataset]:
    """TEXT items that say what was received but not analysed."""
    return [text_item(private("OMISSION"), omission_sentence(omission)) for omission in omissions]


def confidence_sentence(grade: Grade) -> str:
    """What a confidence stands for, as reports and pages say it."""
    return f"Confidence {grade.name}: {CONFIDENCE_MEANS[grade]}."


def quality_sentences(quality: QualityAssessment | None) -> list[Dataset]:
    """TEXT items with the sentence of each quality finding."""
    if quality is None:
        return []
    return [
        text_item(private("DATAQUALITY"), f"{finding.check.value}: {finding.sentence}") for finding in quality.findings
    ]


def structured_report(
    context: ResultContext,
    role: ResultRole,
    root: Dataset,
    *,
    current: Iterable[FrameSource],
    other: Iterable[FrameSource],
    variant: Variant = USUAL,
    predecessors: Sequence[Predecessor] = (),
    sop_class_uid: str = Comprehensive3DSRStorage,
) -> Dataset:
    """SR document around a content tree (PS3.3 A.35): Comprehensive 3D SR unless another class is asked for.

    Parameters
    ----------
    root
        The root content item.
    current
        Instances that the tree refers to: Current Requested Procedure Evidence.
    other
        Instances that were looked at and that the tree does not name: Pertinent Other Evidence.
    predecessors
        Reports that this one takes the place of (C.17.2, Predecessor Documents Sequence).
    """
    dataset = series_dataset(
        context,
        role,
        sop_class_uid=sop_class_uid,
        modality="SR",
        variant=variant,
    )
    dataset.ReferencedPerformedProcedureStepSequence = []
    dataset.PerformedProcedureCodeSequence = []
    dataset.CompletionFlag = "COMPLETE"
    dataset.PreliminaryFlag = "PRELIMINARY"
    dataset.VerificationFlag = "UNVERIFIED"
    named = {source.sop_instance_uid: source for source in current}
    rest = {source.sop_instance_uid: source for source in other if source.sop_instance_uid not in named}
    if named:
        dataset.CurrentRequestedProcedureEvidenceSequence = [evidence(context, named.values())]
    if rest:
        dataset.PertinentOtherEvidenceSequence = [evidence(context, rest.values())]
    # A job that runs again with the same outcome makes the same report: it does not take its own place.
    others = [one for one in predecessors if one.sop_instance_uid != dataset.SOPInstanceUID]
    if others:
        dataset.PredecessorDocumentsSequence = [
            _hierarchy(uid, [(one.series_instance_uid, one.sop_class_uid, one.sop_instance_uid) for one in of_study])
            for uid, of_study in _by_study(others).items()
        ]
    for element in root:
        if element.keyword != "RelationshipType":
            dataset[element.tag] = element
    return dataset


def evidence(context: ResultContext, sources: Iterable[FrameSource]) -> Dataset:
    """Hierarchical SOP Instance Reference (PS3.3 C.17.2.1) of instances of this study."""
    return _hierarchy(
        context.carried.text("StudyInstanceUID"),
        ((source.series_instance_uid, source.sop_class_uid, source.sop_instance_uid) for source in sources),
    )


def _by_study(predecessors: Iterable[Predecessor]) -> dict[str, list[Predecessor]]:
    by_study: dict[str, list[Predecessor]] = {}
    for one in predecessors:
        by_study.setdefault(one.study_instance_uid, []).append(one)
    return by_study


def _hierarchy(study_instance_uid: object, instances: Iterable[tuple[str, str, str]]) -> Dataset:
    """One study with its series and instances, given as series UID, SOP class UID and SOP instance UID."""
    by_series: dict[str, list[Dataset]] = {}
    for series_instance_uid, sop_class_uid, sop_instance_uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = sop_instance_uid
        by_series.setdefault(series_instance_uid, []).append(item)
    study = Dataset()
    study.StudyInstanceUID = study_instance_uid
    study.ReferencedSeriesSequence = []
    for uid, listed in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = uid
        series.ReferencedSOPSequence = listed
        study.ReferencedSeriesSequence.append(series)
    return study
