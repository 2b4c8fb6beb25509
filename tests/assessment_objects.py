"""Assessments of this node's results as another system sends them: structured reports made with highdicom."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import (
    CodeContentItem,
    CompositeContentItem,
    ContainerContentItem,
    ContentItem,
    EnhancedSR,
    ImageContentItem,
    PnameContentItem,
    RelationshipTypeValues,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, generate_uid

from dicom_node.results.content import contain

ACCEPTED = Code("385645004", "SCT", "Accepted")
CORRECTED = Code("ASM_CORRECTED", "99DICOMNODE", "Result accepted after correction")
REJECTED = Code("113001", "DCM", "Rejected for Quality Reasons")
ASSESSOR = "Curie^Marie^^Dr."
_TITLE = Code("ASSESSMENT", "99ACME", "Assessment of automatic results")
QUESTION = Code("DECISION", "99ACME", "Decision")
_ABOUT = Code("RESULT", "99ACME", "Assessed result")
_CONTAINS = RelationshipTypeValues.CONTAINS


def reference(to: Dataset) -> ContentItem:
    """A content item that refers to a result."""
    kind = ImageContentItem if "Rows" in to else CompositeContentItem
    return kind(
        name=_ABOUT,
        referenced_sop_class_uid=UID(to.SOPClassUID),
        referenced_sop_instance_uid=UID(to.SOPInstanceUID),
        relationship_type=_CONTAINS,
    )


def answer(value: Code, question: Code = QUESTION) -> ContentItem:
    """A coded answer."""
    return CodeContentItem(name=question, value=value, relationship_type=_CONTAINS)


def assessment(
    results: Sequence[Dataset],
    content: Sequence[ContentItem | Sequence[ContentItem]],
    *,
    assessor: str = ASSESSOR,
    verified: bool = False,
    final: bool = True,
) -> EnhancedSR:
    """A structured report about results.

    Parameters
    ----------
    results
        What it names as evidence.
    content
        Items of its root; several together stand in a container of their own.
    assessor
        The person observer; nobody where it is empty.
    verified
        Whether somebody else has verified it.
    """
    root = ContainerContentItem(name=_TITLE)
    tree: list[ContentItem] = []
    if assessor:
        context = RelationshipTypeValues.HAS_OBS_CONTEXT
        tree.append(PnameContentItem(name=codes.DCM.PersonObserverName, value=assessor, relationship_type=context))
    for one in content:
        if isinstance(one, ContentItem):
            tree.append(one)
            continue
        group = ContainerContentItem(name=codes.DCM.Findings, relationship_type=_CONTAINS)
        contain(group, list(one))
        tree.append(group)
    contain(root, tree)
    verifying = {"verifying_observer_name": "Noether^Emmy", "verifying_organization": "ACME"} if verified else {}
    return EnhancedSR(
        evidence=list(results),
        content=root,
        series_instance_uid=generate_uid(prefix=None),
        series_number=31,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer="ACME",
        is_complete=True,
        is_final=final,
        is_verified=verified,
        **verifying,
    )
