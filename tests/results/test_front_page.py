"""Front page and manifest: all that came of a study, never silence, and another identity for another story."""

from __future__ import annotations

import dataclasses
import io
import warnings
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dicom_node.config import DestinationProfile, ResultSettings, Route
from dicom_node.execute.process import Processed, process_front_page
from dicom_node.results.content import Predecessor
from dicom_node.results.front_page import ListedPackage, ListedResult, verdict_sentences
from dicom_node.results.iod import iod_findings
from dicom_node.results.verdict import Verdict, VerdictKind
from results.same_bytes import differences
from results.synthetic import CREATED, STUDY_UID, Cine, write_cine

FUNCTION = ListedPackage(
    Verdict("ventricular_function", VerdictKind.DELIVERED, (), ("Left ventricle: ejection fraction 55 %.",)),
    (
        ListedResult(SegmentationStorage, "2.25.11", "2.25.1", "AI segmentation"),
        ListedResult(Comprehensive3DSRStorage, "2.25.12", "2.25.2", "AI report"),
        ListedResult(SecondaryCaptureImageStorage, "2.25.13", "2.25.3", "AI summary"),
        ListedResult(SecondaryCaptureImageStorage, "2.25.14", "2.25.3", "AI summary"),
        ListedResult(EncapsulatedPDFStorage, "2.25.15", "2.25.4", "AI summary, PDF"),
    ),
)
DECLINED = ListedPackage(Verdict("wall_motion", VerdictKind.DECLINED, ("The study holds a single slice.",)))
FAILED = ListedPackage(Verdict("scar", VerdictKind.FAILED, ("It ran longer than 300 s and was killed.",)))


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> Cine:
    return write_cine(tmp_path_factory.mktemp("cine"), phases=2, slices=2, size=32)


def made(cine: Cine, *listed: ListedPackage, predecessors: tuple[Predecessor, ...] = (), **profile: bool) -> Processed:
    return process_front_page(
        cine.paths,
        listed=listed,
        study_instance_uid=STUDY_UID,
        inputs=["digest"],
        created=CREATED,
        route_name="cine",
        route=Route(destinations=("pacs",)),
        results=ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs", **profile)}),
        predecessors=predecessors,
    )


def texts(report: Dataset) -> list[str]:
    found = []
    for item in report.ContentSequence:
        if item.ValueType == "TEXT":
            found.append(item.TextValue)
        if item.ValueType == "CONTAINER":
            found += texts(item)
    return found


def referenced(dataset: Dataset) -> set[str]:
    return {str(each.value) for each in dataset.iterall() if each.keyword == "ReferencedSOPInstanceUID"}


def test_everything_is_listed_and_every_object_is_clean(cine: Cine, tmp_path: Path) -> None:
    processed = made(cine, FUNCTION, DECLINED, FAILED)
    assert processed.rejected == ()
    report, page, manifest = (each.dataset for each in processed.objects)
    assert report.SOPClassUID == BasicTextSRStorage
    assert (report.SeriesNumber, page.SeriesNumber, manifest.SeriesNumber) == (9000, 9012, 9019)
    said = texts(report)
    assert "Ventricular function: analysed." in said
    assert "Left ventricle: ejection fraction 55 %." in said
    assert "Wall motion: not analysed." in said
    assert "The study holds a single slice." in said
    assert "Scar: failed; no results." in said
    assert any("killed" in sentence for sentence in said)
    assert manifest.SOPClassUID == KeyObjectSelectionDocumentStorage
    everything = {each.sop_instance_uid for each in FUNCTION.results}
    assert referenced(manifest) == everything | {str(report.SOPInstanceUID)}
    assert referenced(report) == everything
    for each in processed.objects:
        assert not [finding for finding in iod_findings(dcmread(io.BytesIO(each.content))) if not finding.accepted]
        path = tmp_path / f"{each.sop_instance_uid}.dcm"
        path.write_bytes(each.content)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert dcmread(path).PatientID == "P-1"


def test_when_all_failed_there_is_a_front_page_that_says_so(cine: Cine) -> None:
    processed = made(cine, FAILED)
    assert processed.rejected == ()
    report, _, manifest = (each.dataset for each in processed.objects)
    assert "It ran longer than 300 s and was killed." in texts(report)
    assert referenced(manifest) == {str(report.SOPInstanceUID)}


def test_the_page_is_a_pdf_where_images_are_not_wanted_and_none_where_neither_is(cine: Cine) -> None:
    _, page, _ = made(cine, FUNCTION, summary_secondary_capture=False).objects
    assert page.sop_class_uid == EncapsulatedPDFStorage
    assert len(made(cine, FUNCTION, summary_secondary_capture=False, summary_pdf=False).objects) == 2


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(FUNCTION, verdict=dataclasses.replace(FUNCTION.verdict, kind=VerdictKind.PARTIAL)),
        dataclasses.replace(FUNCTION, verdict=dataclasses.replace(FUNCTION.verdict, key_numbers=("EF 56 %.",))),
        dataclasses.replace(FUNCTION, verdict=dataclasses.replace(FUNCTION.verdict, sentences=("But.",))),
        dataclasses.replace(FUNCTION, results=FUNCTION.results[:-1]),
    ],
)
def test_another_story_has_other_uids_and_the_same_story_the_same_bytes(cine: Cine, other: ListedPackage) -> None:
    first, again, changed = made(cine, FUNCTION), made(cine, FUNCTION), made(cine, other)
    assert differences(first.objects, again.objects) == []
    uids = [{each.sop_instance_uid for each in one.objects} for one in (first, changed)]
    assert not uids[0] & uids[1]


def test_a_later_front_page_names_the_one_before(cine: Cine) -> None:
    before = made(cine, FAILED).objects[0]
    named = Predecessor(STUDY_UID, before.series_instance_uid, before.sop_class_uid, before.sop_instance_uid)
    processed = made(cine, FUNCTION, predecessors=(named,))
    assert processed.rejected == ()
    (study,) = processed.objects[0].dataset.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == STUDY_UID
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == before.series_instance_uid
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == before.sop_instance_uid
    assert not [one for one in iod_findings(dcmread(io.BytesIO(processed.objects[0].content))) if not one.accepted]


def test_a_front_page_that_is_made_again_is_the_same_whatever_was_made_in_between(cine: Cine) -> None:
    def reports(*several: Processed) -> tuple[Predecessor, ...]:
        return tuple(
            Predecessor(STUDY_UID, each.series_instance_uid, each.sop_class_uid, each.sop_instance_uid)
            for one in several
            for each in one.objects
            if each.sop_class_uid in {BasicTextSRStorage, KeyObjectSelectionDocumentStorage}
        )

    first = made(cine, FUNCTION)
    between = made(cine, FAILED, predecessors=reports(first))
    for earlier, runs in ((first, (first,)), (first, (first, between)), (between, (first, between))):
        again = made(cine, FUNCTION if earlier is first else FAILED, predecessors=reports(*runs))
        assert differences(earlier.objects, again.objects) == []


def test_a_package_that_is_no_longer_there_is_named_all_the_same() -> None:
    assert verdict_sentences(FAILED.verdict)[0] == "Scar: failed; no results."
