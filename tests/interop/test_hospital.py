"""The whole chain: dcmtk sends, the node analyses, Orthanc commits; then every object is judged where it arrived."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from interop import dcmtk as scanner
from interop.hospital import Hospital, SentStudy, read
from interop.judges import entity_errors, iod_errors, masks_as_sent, masks_by_dcmqi, report_by_dcmqi
from interop.node import Destination, NodeUnderTest
from interop.orthanc import AE_TITLE as PACS_AE_TITLE
from interop.orthanc import Modality, Orthanc
from interop.ports import free_port
from storage.ledger import utc_now
from storage.overview import ledger_overview, study_overviews
from storage.schema import DeliveryState

pytestmark = [
    pytest.mark.peers,
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    # Real studies break PS3.5; the tests are about what becomes of that.
    pytest.mark.filterwarnings("ignore:Invalid value for VR"),
    pytest.mark.xdist_group("hospital"),
]

STUDIES = ["sunnybrook", "siemens-vida", "cyrillic", "japanese", "arabic"]
IDENTITY = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
)
ONE_OBJECT = ("segmentation-ed", "segmentation-es", "report", "summary-pdf")
FRONT_PAGE = ("front-page", "front-page-image", "front-page-manifest")


@pytest.fixture(scope="module")
def at_pacs(hospital: Hospital, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every object that Orthanc holds and the scanner did not send, by SOP Instance UID."""
    sent = frozenset(uid for study in hospital.studies.values() for uid in study.files)
    return hospital.pacs.fetch(tmp_path_factory.mktemp("fetched"), without=sent)


@pytest.fixture(params=STUDIES)
def study(request: pytest.FixtureRequest, hospital: Hospital) -> SentStudy:
    return hospital.studies[request.param]


@pytest.fixture
def arrived(study: SentStudy, hospital: Hospital, at_pacs: dict[str, Path]) -> dict[str, list[Path]]:
    """The results of a study as Orthanc gives them back, by role."""
    by_role: dict[str, list[Path]] = {}
    for result in hospital.results(study):
        by_role.setdefault(result.role, []).append(at_pacs[result.sop_instance_uid])
    return by_role


def test_every_result_is_committed(study: SentStudy, hospital: Hospital) -> None:
    results = hospital.results(study)
    assert results
    assert {result.state for result in results} == {DeliveryState.COMMITTED}
    assert all(result.transaction_uid for result in results), "a result was sent without asking for commitment"


def test_one_set_of_results(study: SentStudy, hospital: Hospital, at_pacs: dict[str, Path]) -> None:
    roles = Counter(result.role for result in hospital.results(study))
    slices, pages = roles["key-phase-ed"], roles["summary"]
    assert slices >= 5
    assert pages >= 1
    expected = {
        "key-phase-ed": slices,
        "key-phase-es": slices,
        "summary": pages,
        **dict.fromkeys((*ONE_OBJECT, *FRONT_PAGE), 1),
    }
    assert roles == expected
    of_study = [
        path for path in at_pacs.values() if read(path, pixels=False).StudyInstanceUID == study.study_instance_uid
    ]
    assert len(of_study) == roles.total()


def test_what_arrived_is_what_was_sent(study: SentStudy, hospital: Hospital, at_pacs: dict[str, Path]) -> None:
    for result in hospital.results(study):
        assert read(at_pacs[result.sop_instance_uid]) == read(result.path), result.role


def test_no_iod_errors(study: SentStudy, arrived: dict[str, list[Path]]) -> None:
    # Values that the study itself got wrong are carried over as they stand: it would be another study otherwise.
    carried = _values(study)
    errors = [
        f"{path.name}: {error}"
        for paths in arrived.values()
        for path in paths
        for error in iod_errors(path)
        if not any(f"<{value}>" in error for value in carried)
    ]
    assert errors == []


def test_no_iod_errors_at_all_where_the_study_has_none(hospital: Hospital, at_pacs: dict[str, Path]) -> None:
    results = hospital.results(hospital.studies["siemens-vida"])
    assert [error for result in results for error in iod_errors(at_pacs[result.sop_instance_uid])] == []


def test_no_entity_errors(study: SentStudy, arrived: dict[str, list[Path]]) -> None:
    outputs = [path for paths in arrived.values() for path in paths]
    assert entity_errors(list(study.files.values()), outputs) == []


@pytest.mark.parametrize("role", ["segmentation-ed", "segmentation-es"])
def test_dcmqi_decodes_the_same_masks(arrived: dict[str, list[Path]], role: str, tmp_path: Path) -> None:
    (path,) = arrived[role]
    expected, decoded = masks_as_sent(path), masks_by_dcmqi(path, tmp_path)
    assert decoded.keys() == expected.keys()
    assert len(expected) == 3
    for number, mask in expected.items():
        assert mask.any(), f"segment {number} is empty"
        np.testing.assert_array_equal(decoded[number], mask, err_msg=f"segment {number}")


def test_dcmqi_reads_the_report(arrived: dict[str, list[Path]], tmp_path: Path) -> None:
    (path,) = arrived["report"]
    report = report_by_dcmqi(path, tmp_path)
    items = [item for group in report["Measurements"] for item in group.get("measurementItems", [])]
    numbers = [float(item["value"]) for item in items]
    assert len(numbers) >= 10
    assert np.isfinite(numbers).all()


def test_dcmtk_renders_the_report(arrived: dict[str, list[Path]]) -> None:
    (path,) = arrived["report"]
    rendered = scanner.dsrdump(path)
    assert rendered.returncode == 0, rendered.stderr
    assert "ventricular ejection fraction" in rendered.stdout


def test_identity_is_carried_over_verbatim(study: SentStudy, arrived: dict[str, list[Path]]) -> None:
    expected = _identity(study.header)
    for role, paths in arrived.items():
        for path in paths:
            assert _identity(read(path, pixels=False)) == expected, role


def test_explain_names_the_route(study: SentStudy, hospital: Hospital) -> None:
    explained = hospital.node.command("explain", study.study_instance_uid)
    assert explained.returncode == 0, explained.stderr
    assert "cine" in explained.stdout
    routes = hospital.node.asked("explain", study.study_instance_uid)["decision"]["routes"]
    (cine,) = [route for route in routes if route["route"] == "cine"]
    assert any(series["taken"] for series in cine["series"])


def test_sending_a_study_again_makes_nothing_new(hospital: Hospital) -> None:
    study = hospital.studies["siemens-vida"]
    known, held = hospital.results(study), hospital.pacs.sop_instance_uids().keys()
    with hospital.node.ledger() as ledger:
        before = ledger_overview(ledger, now=utc_now())
        (version,) = {one.version for one in study_overviews(ledger, study_instance_uid=study.study_instance_uid)}
    hospital.send(study)
    hospital.wait([study])
    with hospital.node.ledger() as ledger:
        after = ledger_overview(ledger, now=utc_now())
        (one,) = study_overviews(ledger, study_instance_uid=study.study_instance_uid)
    assert one.version == version
    assert one.instances_waiting == 0
    assert (after.instances, after.jobs, after.deliveries) == (before.instances, before.jobs, before.deliveries)
    assert after.quarantined == 0
    assert hospital.results(study) == known
    assert hospital.pacs.sop_instance_uids().keys() == held


def test_another_node_derives_the_same_objects(hospital: Hospital, tmp_path: Path) -> None:
    study = hospital.studies["cyrillic"]
    port = free_port()
    with (
        Orthanc(tmp_path / "pacs", (Modality("DICOMNODE", port),)) as pacs,
        NodeUnderTest(
            tmp_path / "node", Destination(PACS_AE_TITLE, pacs.dicom_port), scanner=scanner.AE_TITLE, port=port
        ) as node,
    ):
        second = Hospital(node, pacs, hospital.studies)
        second.send(study)
        second.wait([study])
        again = {result.sop_instance_uid: result for result in second.results(study)}
        assert again.keys() == pacs.sop_instance_uids().keys()
    first = {result.sop_instance_uid: result for result in hospital.results(study)}
    assert again.keys() == first.keys()
    for uid, result in again.items():
        if result.role.startswith(("key-phase", "segmentation")):
            assert read(first[uid].path).PixelData == read(result.path).PixelData, result.role


def test_the_node_stops_cleanly(hospital: Hospital) -> None:
    try:
        assert hospital.node.stop() == 0
    finally:
        hospital.node.start()


def test_no_patient_data_in_the_log(hospital: Hospital) -> None:
    log = hospital.node.log.read_text(encoding="utf-8", errors="replace")
    assert "ready" in log
    for study in hospital.studies.values():
        for keyword in ("PatientName", "PatientID", "AccessionNumber"):
            value = str(study.header.get(keyword, ""))
            # A short value may be part of anything; as a word of its own it may not be there.
            assert not value or not re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.])", log), keyword


def _values(study: SentStudy) -> set[str]:
    values = set()
    for path in study.files.values():
        for element in read(path, pixels=False).iterall():
            if element.VR in {"UI", "DA", "TM"} and element.value:
                values.update(str(element.value).split("\\"))
                values.add(str(element.value))
    return values


def _identity(dataset: FileDataset) -> dict[str, str]:
    return {keyword: str(dataset.get(keyword) or "") for keyword in IDENTITY}
