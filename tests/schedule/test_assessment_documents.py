"""What structured reports of other systems say of results, read from objects that highdicom made."""

from __future__ import annotations

import copy

import pytest
from assessment_objects import ACCEPTED, CORRECTED, REJECTED, answer, assessment, reference
from network.objects import mr_image
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ComprehensiveSRStorage

from dicom_node.config import AssessmentCode, ResultSettings
from dicom_node.schedule.assessment_documents import AssessmentDocument, assessment_document
from pipelines.cine.facts import frame_facts
from storage.schema import AssessmentResult

CODES = ResultSettings().assessment_codes


def result(seed: int) -> Dataset:
    """An object that stands for a result of this node: what it is of does not matter here."""
    one = mr_image(study="1.2.3", series="1.2.3.9", seed=seed)
    one.SOPClassUID = ComprehensiveSRStorage
    del one.Rows
    for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
        setattr(one, keyword, one.get(keyword, ""))
    one.ReferringPhysicianName = ""
    return one


REPORT, SEG, OTHER = (result(seed) for seed in range(3))


def judged(document: Dataset, codes: tuple[AssessmentCode, ...] = CODES) -> dict[str, AssessmentResult]:
    found = assessment_document(document, codes)
    return {} if found is None else {uid: verdict for uid, (verdict, _) in found.judged.items()}


def test_an_answer_is_about_what_stands_in_its_container() -> None:
    document = assessment(
        [REPORT, SEG, OTHER],
        [[answer(ACCEPTED), reference(REPORT)], [answer(REJECTED), reference(SEG)], [reference(OTHER)]],
    )
    assert judged(document) == {
        REPORT.SOPInstanceUID: AssessmentResult.ACCEPTED,
        SEG.SOPInstanceUID: AssessmentResult.REJECTED,
    }
    found = assessment_document(document, CODES)
    assert isinstance(found, AssessmentDocument)
    assert found.observer == "Curie Marie Dr."
    assert found.judged[SEG.SOPInstanceUID][1] == "Rejected for Quality Reasons"


def test_an_answer_at_the_root_is_about_all_and_the_worst_counts() -> None:
    document = assessment([REPORT, SEG], [answer(CORRECTED), [answer(REJECTED), reference(SEG)], [reference(REPORT)]])
    assert judged(document) == {
        REPORT.SOPInstanceUID: AssessmentResult.CORRECTED,
        SEG.SOPInstanceUID: AssessmentResult.REJECTED,
    }


def test_without_references_in_its_content_it_is_about_its_evidence() -> None:
    document = assessment([REPORT, SEG], [answer(REJECTED)])
    assert set(judged(document)) == {REPORT.SOPInstanceUID, SEG.SOPInstanceUID}
    # Some write what they assess beside the content.
    beside = assessment([REPORT], [answer(REJECTED)])
    for evidence in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        if evidence in beside:
            delattr(beside, evidence)
    one = Dataset()
    one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = SEG.SOPClassUID, SEG.SOPInstanceUID
    beside.ReferencedSOPSequence = [one]
    assert set(judged(beside)) == {SEG.SOPInstanceUID}


def test_who_verified_it_comes_before_who_observed_it_and_nobody_is_made_up() -> None:
    def observer(document: Dataset) -> str:
        found = assessment_document(document, CODES)
        assert found is not None
        return found.observer

    assert observer(assessment([REPORT], [answer(ACCEPTED)], verified=True)) == "Noether Emmy"
    assert observer(assessment([REPORT], [answer(ACCEPTED)], assessor="")) == ""


def test_other_codes_and_other_questions_say_nothing_and_the_table_is_the_sites() -> None:
    theirs = Code("AIRA-REJECT", "99PACS", "AI Result Rejected")
    document = assessment([REPORT], [answer(theirs)])
    assert judged(document) == {}
    table = (AssessmentCode(code="99PACS AIRA-REJECT", means="rejected", question="99ACME DECISION"),)
    assert judged(document, table) == {REPORT.SOPInstanceUID: AssessmentResult.REJECTED}
    other = assessment([REPORT], [answer(theirs, Code("QUALITY", "99ACME", "Image quality"))])
    assert judged(other, table) == {}


def test_a_preliminary_document_and_what_is_no_structured_report_say_nothing() -> None:
    assert judged(assessment([REPORT], [answer(REJECTED)], final=False)) == {}
    assert judged(mr_image(study="1.2.3", series="1.2.3.9", seed=7)) == {}


def test_what_a_document_refers_to_is_known_from_its_facts_and_damage_raises_nothing_there() -> None:
    document = assessment([REPORT, SEG], [[answer(REJECTED), reference(SEG)]])
    facts = frame_facts(document)
    assert set(facts.refers_to) == {REPORT.SOPInstanceUID, SEG.SOPInstanceUID}
    assert type(facts).from_json(facts.to_json()) == facts
    damaged = copy.deepcopy(document)
    damaged.ContentSequence = [Dataset()]
    assert set(frame_facts(damaged).refers_to) == {REPORT.SOPInstanceUID, SEG.SOPInstanceUID}
    deep = copy.deepcopy(document)
    for _ in range(100):
        inner = Dataset()
        inner.ContentSequence = deep.ContentSequence
        deep.ContentSequence = [inner]
    with pytest.raises(RecursionError):
        assessment_document(deep, CODES)
