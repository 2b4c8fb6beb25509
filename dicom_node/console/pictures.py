"""Pages of results as pictures; those that name the patient only for whom the configuration lets see it."""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.console.access import ForbiddenError, Person
from dicom_node.console.node import Node
from pipelines.cine.elements import DAMAGE
from storage.ledger import LedgerError
from storage.overview import ResultOverview, result_overviews
from storage.schema import AccountRole

__all__ = ["may_see_patients", "names_patient", "picture"]


def may_see_patients(node: Node, person: Person) -> bool:
    """Whether a person may see what names a patient."""
    role = node.configuration.console.patients_for
    return role is not None and person.may(AccountRole(role))


def names_patient(node: Node, page: ResultOverview) -> bool:
    """Whether a page has the patient's name drawn into its pixels, as far as it says (BurnedInAnnotation)."""
    try:
        header = dcmread(node.files.readable(page.path), stop_before_pixels=True, specific_tags=["BurnedInAnnotation"])
    except DAMAGE:
        return True
    return str(header.get("BurnedInAnnotation", "YES")) != "NO"


def picture(node: Node, person: Person, study_instance_uid: str, result_id: int) -> bytes:
    """One page as PNG, as it stands in the Secondary Capture; that somebody reads the study is told to the audit trail.

    Raises
    ------
    LedgerError
        The study has no such page, or its file was removed.
    ForbiddenError
        The page names the patient (BurnedInAnnotation), and the person may not see that.
    """
    results = result_overviews(node.ledger, study_instance_uid)
    found = next((one for one in results if one.id == result_id), None)
    if found is None or found.sop_class_uid != SecondaryCaptureImageStorage:
        raise LedgerError(f"study {study_instance_uid} has no page {result_id}")
    try:
        pixels = dcmread(node.files.readable(found.path)).pixel_array
    except DAMAGE as error:
        raise LedgerError(f"the file of page {result_id} was removed, or cannot be read") from error
    named = names_patient(node, found)
    if named and not may_see_patients(node, person):
        raise ForbiddenError("this page names the patient: console.patients_for says who may see that")
    node.readings.tell(node, person, study_instance_uid, named=named)
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()
