"""The front page of a study version on a route, and the manifest: all that was found, declined or failed.

The front page is a Basic Text SR (PS3.3 A.35.1) with one section a package: its verdict, its key numbers in sentences,
and references to its reports. It is also drawn as a page, as image or PDF, as the destination likes summaries. The
manifest is a Key Object Selection (A.35.4, TID 2010) of the front page and every result object.

Their UIDs derive from study, inputs, route, settings and software, like those of all results, and from everything that
they say: verdicts, sentences, key numbers and the UIDs of the objects that they list. A front page that says anything
else, because a package ran again, has other UIDs, and names the one before it as its predecessor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from highdicom.sr import (
    CompositeContentItem,
    ContainerContentItem,
    ContentItem,
    ImageContentItem,
    RelationshipTypeValues,
    TextContentItem,
)
from matplotlib.figure import Figure
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
)

from dicom_node.config import DestinationProfile
from dicom_node.implementation import SOFTWARE_VERSION
from dicom_node.results.canvas import DARK, LIGHT, Theme
from dicom_node.results.capture import encapsulated_pdf, pdf, rasters, secondary_captures
from dicom_node.results.circumstances import Circumstances
from dicom_node.results.codes import ENGLISH, MANIFEST, private
from dicom_node.results.content import (
    code_content,
    contain,
    evidence,
    language,
    observation_context,
    procedure_reported,
    structured_report,
    text_item,
)
from dicom_node.results.header import BANNER, ResultContext, series_dataset
from dicom_node.results.identity import CarriedIdentity
from dicom_node.results.numbers import ReportedNumber
from dicom_node.results.objects import ResultObject
from dicom_node.results.paragraph import Wording
from dicom_node.results.parts import Heading, Paragraph, as_source, result_object
from dicom_node.results.patient import patient_line
from dicom_node.results.provenance import Provenance
from dicom_node.results.roles import FRONT_PAGE, FRONT_PAGE_IMAGE, FRONT_PAGE_MANIFEST, FRONT_PAGE_PDF
from dicom_node.results.summary import listing_pages
from dicom_node.results.verdict import Verdict, VerdictKind, headline, package_headline
from pipelines.cine.stack import FrameSource

__all__ = ["TITLE", "ListedPackage", "ListedResult", "front_page", "told_to", "verdict_sentences"]

TITLE = "automatic analysis"
"""Title of a front page, as within a sentence."""

_SOURCE = Code("260753009", "SCT", "Source")
_WORDS = {
    VerdictKind.DELIVERED: "analysed",
    VerdictKind.PARTIAL: "analysed, but some results were kept back because they failed the checks",
    VerdictKind.DECLINED: "not analysed",
    VerdictKind.FAILED: "failed; no results",
}


@dataclass(frozen=True, slots=True)
class ListedResult:
    """A result object as the front page and the manifest refer to it."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    series_description: str = ""


@dataclass(frozen=True, slots=True)
class ListedPackage:
    """One package on the front page.

    Attributes
    ----------
    verdict : Verdict
    results : tuple of ListedResult
        What was delivered, in the order of delivery; of a refusal its report and pages.
    numbers : tuple of ReportedNumber
        What was measured, for the paragraph.
    """

    verdict: Verdict
    results: tuple[ListedResult, ...] = ()
    numbers: tuple[ReportedNumber, ...] = ()


def front_page(
    reference: Dataset,
    listed: Sequence[ListedPackage],
    destinations: Mapping[str, DestinationProfile],
    circumstances: Circumstances,
    wording: Wording | None = None,
) -> tuple[ResultObject, ...]:
    """Encode the front page, its drawn page, and the manifest.

    Parameters
    ----------
    reference
        Header of the source instance that patient and study come from.
    listed
        Every package of the route, in its order, whatever it came to.
    destinations
        Who gets them; empty when they are made for nobody in particular.
    circumstances
        Inputs, route, settings, date, and the front page of before, if there is one, as predecessor.
    wording
        The paragraph for the radiologist's report.

    Returns
    -------
    tuple of ResultObject
        Front page, drawn page (an image, or a PDF where images are not wanted), manifest: in the order of delivery.
    """
    with disable_value_validation():
        context = _context(reference, listed, circumstances, wording)
        made = [_report(context, listed, destinations, circumstances, wording)]
        made += _drawn(context, listed, destinations, circumstances, wording)
        made.append(_manifest(context, listed, made, destinations))
        return tuple(made)


def told_to(one: ListedPackage, withheld: Mapping[str, str], why: str | None) -> ListedPackage:
    """What some destinations may be told of a package.

    Parameters
    ----------
    withheld
        Who gets nothing of it, and why: the others need not read that.
    why
        Why these destinations get nothing of it; ``None`` when they get it.
    """
    others = {f"{name}: {sentence}" for name, sentence in withheld.items()}
    sentences = tuple(sentence for sentence in one.verdict.sentences if sentence not in others)
    if why is None:
        return replace(one, verdict=replace(one.verdict, sentences=sentences))
    return ListedPackage(replace(one.verdict, sentences=(*sentences, why), key_numbers=()))


def verdict_sentences(verdict: Verdict) -> tuple[str, ...]:
    """What became of a package, for people: the verdict, why, and what was found."""
    return (f"{package_headline(verdict.package)}: {_WORDS[verdict.kind]}.", *verdict.sentences, *verdict.key_numbers)


def _context(
    reference: Dataset, listed: Sequence[ListedPackage], circumstances: Circumstances, wording: Wording | None
) -> ResultContext:
    said: list[object] = [
        [
            one.verdict.package,
            one.verdict.kind,
            one.verdict.sentences,
            one.verdict.key_numbers,
            [each.sop_instance_uid for each in one.results],
        ]
        for one in listed
    ]
    if wording is not None:
        said.append(wording.text)
    study_instance_uid = str(reference.get("StudyInstanceUID", ""))
    identity = circumstances.identity(study_instance_uid, [f"front_page {SOFTWARE_VERSION}"], ())
    return ResultContext(
        title=TITLE,
        series_block=0,
        identity=identity.refined("front page", json.dumps(said, sort_keys=True)),
        carried=CarriedIdentity.of(reference),
        reference=reference,
        created=circumstances.created,
        settings=circumstances.settings,
        models=(),
    )


def _sources(listed: Sequence[ListedPackage]) -> list[FrameSource]:
    return [
        FrameSource(each.sop_class_uid, each.sop_instance_uid, each.series_instance_uid, None, None, None)
        for one in listed
        for each in one.results
    ]


def _report(
    context: ResultContext,
    listed: Sequence[ListedPackage],
    destinations: Mapping[str, DestinationProfile],
    circumstances: Circumstances,
    wording: Wording | None,
) -> ResultObject:
    root = ContainerContentItem(name=private("FRONT_PAGE"), is_content_continuous=False)
    modifier = RelationshipTypeValues.HAS_CONCEPT_MOD
    tree = [
        *language(ENGLISH),
        *observation_context(context),
        *(code_content(codes.DCM.ProcedureReported, code, modifier) for code in procedure_reported(context)),
        *(() if wording is None else (_summary(wording),)),
        *(_section(one) for one in listed),
        text_item(private("LIMITS"), BANNER),
    ]
    contain(root, tree)
    dataset = structured_report(
        context,
        FRONT_PAGE,
        root,
        current=_sources(listed),
        other=(),
        predecessors=circumstances.predecessors,
        sop_class_uid=BasicTextSRStorage,
    )
    return result_object(context, FRONT_PAGE, dataset, (), None, destinations)


def _summary(wording: Wording) -> ContentItem:
    contains = RelationshipTypeValues.CONTAINS
    item = TextContentItem(name=codes.DCM.Summary, value=wording.plain, relationship_type=contains)
    if not wording.language_code.startswith("en"):
        contain(item, [*language(Code(wording.language_code, "RFC5646", wording.language_name))])
    return item


def _section(one: ListedPackage) -> ContentItem:
    section = ContainerContentItem(name=codes.DCM.Findings, relationship_type=RelationshipTypeValues.CONTAINS)
    items = [
        *(text_item(codes.DCM.Finding, sentence) for sentence in verdict_sentences(one.verdict)),
        *(_reference(each.sop_class_uid, each.sop_instance_uid) for each in one.results if not _is_image(each)),
    ]
    contain(section, items)
    return section


def _is_image(result: ListedResult) -> bool:
    """Whether a class of results has pixels: everything that is no document."""
    documents = ("1.2.840.10008.5.1.4.1.1.88.", EncapsulatedPDFStorage)
    return not result.sop_class_uid.startswith(documents)


def _reference(sop_class_uid: str, sop_instance_uid: str, *, image: bool = False) -> ContentItem:
    kind = ImageContentItem if image else CompositeContentItem
    return kind(
        name=_SOURCE,
        referenced_sop_class_uid=UID(sop_class_uid),
        referenced_sop_instance_uid=UID(sop_instance_uid),
        relationship_type=RelationshipTypeValues.CONTAINS,
    )


def _drawn(
    context: ResultContext,
    listed: Sequence[ListedPackage],
    destinations: Mapping[str, DestinationProfile],
    circumstances: Circumstances,
    wording: Wording | None,
) -> list[ResultObject]:
    origin = Provenance(
        series=(),
        scanner=f"route {circumstances.route}",
        models=(),
        device_uid="",
        created=context.created_text,
        institution=context.settings.institution,
        contact=context.settings.contact,
        patient=patient_line(context.reference) if context.settings.patient_on_pages else None,
    )
    blocks: list[Heading | Paragraph] = []
    if wording is not None:
        blocks += [Heading("For the report"), Paragraph(wording.text, size=10)]
    for one in listed:
        first, *rest = verdict_sentences(one.verdict)
        blocks += [Heading(first), *(Paragraph(sentence, size=10) for sentence in rest)]
        series = dict.fromkeys(each.series_description for each in one.results if each.series_description)
        blocks += [Paragraph(description, muted=True) for description in series]

    def pages(theme: Theme) -> list[Figure]:
        return listing_pages(theme, TITLE, blocks, origin)

    title = headline(TITLE)
    images = [name for name, profile in destinations.items() if profile.summary_secondary_capture]
    documents = [name for name, profile in destinations.items() if profile.summary_pdf and name not in images]
    made: list[ResultObject] = []
    if images or not destinations:
        captures = secondary_captures(context, FRONT_PAGE_IMAGE, rasters(pages(DARK)), title)
        made += [result_object(context, FRONT_PAGE_IMAGE, each, (), None, images) for each in captures]
    if documents:
        document = encapsulated_pdf(context, FRONT_PAGE_PDF, pdf(pages(LIGHT), title, context.created), title)
        made.append(result_object(context, FRONT_PAGE_PDF, document, (), None, documents))
    return made


def _manifest(
    context: ResultContext,
    listed: Sequence[ListedPackage],
    made: Sequence[ResultObject],
    destinations: Mapping[str, DestinationProfile],
) -> ResultObject:
    dataset = series_dataset(
        context, FRONT_PAGE_MANIFEST, sop_class_uid=KeyObjectSelectionDocumentStorage, modality="KO"
    )
    dataset.ReferencedPerformedProcedureStepSequence = []
    own = made[0]
    everything = [ListedResult(own.sop_class_uid, own.sop_instance_uid, own.series_instance_uid)]
    everything += [each for one in listed for each in one.results]
    root = ContainerContentItem(name=MANIFEST, is_content_continuous=False, template_id="2010")
    tree = [
        *language(ENGLISH),
        *observation_context(context),
        text_item(codes.DCM.KeyObjectDescription, f"Results of {TITLE}: front page and all result objects"),
        *(_reference(each.sop_class_uid, each.sop_instance_uid, image=_is_image(each)) for each in everything),
    ]
    contain(root, tree)
    dataset.CurrentRequestedProcedureEvidenceSequence = [evidence(context, [as_source(own), *_sources(listed)])]
    for element in root:
        if element.keyword != "RelationshipType":
            dataset[element.tag] = element
    return result_object(context, FRONT_PAGE_MANIFEST, dataset, (), None, destinations)
