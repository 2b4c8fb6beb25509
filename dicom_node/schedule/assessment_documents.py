"""Structured reports in which another system judges results of this node: accepted, corrected, rejected, in codes.

The text of the IHE profile AI Result Assessment was not at hand, so its template is not looked for. What is read is
what any such document has to have: a coded answer (a content item of value type CODE), of which
``results.assessment_codes`` says what it means, and references to what it is about. In the content tree (PS3.3 C.17.3)
an answer is about the objects that are referred to

1. below the answer itself;
2. else in the nearest container around it that refers to any;
3. where no content item refers to anything: in the evidence of the document (Current Requested Procedure Evidence,
   Pertinent Other Evidence and Referenced Instance Sequence).

Of several answers about one object the worst counts: rejected, then corrected, then accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicom_node.config import AssessmentCode
from pipelines.cine.facts import evidence_references, is_structured_report
from storage.schema import AssessmentResult

__all__ = ["SEVERITY", "AssessmentDocument", "assessment_document"]

_DEEPEST = 64
"""Levels of a content tree; a deeper one is no report."""
SEVERITY = (AssessmentResult.ACCEPTED, AssessmentResult.CORRECTED, AssessmentResult.REJECTED)
_PERSON_OBSERVER = "DCM 121008"


@dataclass(frozen=True, slots=True)
class AssessmentDocument:
    """What a structured report says of results.

    Attributes
    ----------
    sop_instance_uid : str
    observer : str
        Who judged: the verifying observer, else the person observer (TID 1003) or author; empty where nobody is named.
    judged : mapping of str to tuple of AssessmentResult and str
        By SOP Instance UID of what is judged: the verdict, and the meaning of the code that gave it.
    """

    sop_instance_uid: str
    observer: str
    judged: Mapping[str, tuple[AssessmentResult, str]]


def assessment_document(dataset: Dataset, codes: Sequence[AssessmentCode]) -> AssessmentDocument | None:
    """Read what a structured report says of results; ``None`` where it says nothing, or is preliminary.

    Parameters
    ----------
    dataset
        A whole data set.
    codes
        What an answer means; of two that apply the first counts.

    Raises
    ------
    One of :data:`pipelines.cine.elements.DAMAGE`
        The document is damaged.
    """
    if not is_structured_report(str(dataset.get("SOPClassUID", ""))) or dataset.get("PreliminaryFlag") == "PRELIMINARY":
        return None
    everything = tuple(_references(dataset)) or evidence_references(dataset)
    judged: dict[str, tuple[AssessmentResult, str]] = {}
    for result, meaning, about in _answers(dataset, codes, everything, 0):
        for uid in about:
            known = judged.get(uid)
            if known is None or SEVERITY.index(result) > SEVERITY.index(known[0]):
                judged[uid] = (result, meaning)
    if not judged:
        return None
    return AssessmentDocument(str(dataset.get("SOPInstanceUID", "")), _observer(dataset), judged)


def _items(dataset: Dataset) -> Sequence[Dataset]:
    return dataset.get("ContentSequence") or ()


def _answers(
    container: Dataset, codes: Sequence[AssessmentCode], around: tuple[str, ...], depth: int
) -> Iterator[tuple[AssessmentResult, str, tuple[str, ...]]]:
    """The answers below a content item, each with what it is about.

    Parameters
    ----------
    around
        What the nearest container around refers to.
    """
    if depth > _DEEPEST:
        raise RecursionError("content items are nested too deeply")
    about = tuple(_references(container)) or around
    for item in _items(container):
        given = _meaning(item, codes)
        if given is not None:
            yield *given, tuple(_references(item)) or about
        yield from _answers(item, codes, about, depth + 1)


def _meaning(item: Dataset, codes: Sequence[AssessmentCode]) -> tuple[AssessmentResult, str] | None:
    if item.get("ValueType") != "CODE":
        return None
    question = _code(item, "ConceptNameCodeSequence")
    for answer in item.get("ConceptCodeSequence") or ():
        said = _value(answer)
        for one in codes:
            if one.code == said and one.question in (None, question):
                return AssessmentResult(one.means), str(answer.get("CodeMeaning") or said)
    return None


def _code(item: Dataset, keyword: str) -> str:
    return next((_value(one) for one in item.get(keyword) or ()), "")


def _value(code: Dataset) -> str:
    value = code.get("CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue") or ""
    return f"{code.get('CodingSchemeDesignator', '')} {value}"


def _references(item: Dataset, depth: int = 0) -> Iterator[str]:
    """SOP Instance UIDs that a content item and those below it refer to."""
    if depth > _DEEPEST:
        raise RecursionError("content items are nested too deeply")
    for one in item.get("ReferencedSOPSequence") or ():
        yield str(one.get("ReferencedSOPInstanceUID", ""))
    for below in _items(item):
        yield from _references(below, depth + 1)


def _observer(dataset: Dataset) -> str:
    """The person who judged, as people write names."""
    verified = [one.get("VerifyingObserverName") for one in dataset.get("VerifyingObserverSequence") or ()]
    observers = [
        item.get("PersonName") for item in _items(dataset) if _code(item, "ConceptNameCodeSequence") == _PERSON_OBSERVER
    ]
    authors = [one.get("PersonName") for one in dataset.get("AuthorObserverSequence") or ()]
    names = (str(name).strip() for name in (*reversed(verified), *observers, *authors) if name)
    return next((" ".join(name.partition("=")[0].replace("^", " ").split()) for name in names if name), "")
