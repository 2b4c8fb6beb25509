"""A study of late enhancement without cine through a running node: received, analysed and delivered by DICOM."""

from __future__ import annotations

from pathlib import Path

import pytest
from interop.node import Destination, NodeUnderTest
from interop.ports import free_port
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, Comprehensive3DSRStorage, SegmentationStorage

from dicom_node.config import Peer
from dicom_node.network.pacs import Pacs, PacsSettings
from dicom_node.network.sender import ScuSettings, send_files
from pipelines.phantom import PhantomRecipe, simulate, write_study
from pipelines.phantom.recipe import Disease, Territory

RECIPE = PhantomRecipe(
    seed=23,
    disease=Disease.INFARCT,
    slices=8,
    phases=10,
    rows=128,
    columns=128,
    spacing_mm=1.9,
    coils=1,
    long_axis=False,
    late_enhancement=True,
    territory=Territory.LAD,
    transmurality=1.0,
    acute=True,
    obstruction=True,
)
BLOCK = 9000 + 20 * 8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_late_enhancement_without_cine_is_served_from_the_scanner_to_the_pacs(tmp_path: Path) -> None:
    """One package answers, the other declines for want of cine; the front page tells both."""
    written = write_study(simulate(RECIPE, workers=1), tmp_path / "study")
    headers = {path: dcmread(path, stop_before_pixels=True) for path in written}
    images = {path: header for path, header in headers.items() if "InversionTime" in header}
    assert 0 < len(images) < len(headers)
    study = str(next(iter(images.values())).StudyInstanceUID)
    port, pacs_port = free_port(), free_port()
    here = Peer(ae_title="DICOMNODE", host="127.0.0.1", port=port)
    with (
        Pacs(PacsSettings(tmp_path / "pacs", pacs_port, callers={"DICOMNODE": here})) as pacs,
        NodeUnderTest(
            tmp_path / "node",
            Destination("PACS", pacs_port),
            scanner="SCANNER",
            port=port,
            quiet_time_s=2,
            analyses=("ventricular_function", "late_enhancement"),
            series={"modality": "MR", "minimum_phases": 1},
            execution={"threads_per_slot": 1, "background_slots": 0},
        ) as node,
    ):
        outcomes = send_files(list(images), here, ScuSettings("SCANNER"))
        assert {outcome.status for outcome in outcomes} == {0}
        node.wait_until_delivered([study], seconds=500)
        verdicts = {job["package"]: job["verdict"] for job in node.asked("jobs")["jobs"]}
        delivered = [dcmread(path) for path in pacs.held().values()]

    assert verdicts == {
        "ventricular_function": "declined",
        "late_enhancement": "delivered",
        "front_page": "delivered",
    }
    assert {str(one.StudyInstanceUID) for one in delivered} == {study}
    by_series: dict[int, list[Dataset]] = {}
    for one in delivered:
        by_series.setdefault(int(one.SeriesNumber), []).append(one)
    (segmentation,) = by_series[BLOCK + 3]
    assert segmentation.SOPClassUID == SegmentationStorage
    # On the acquired images themselves: every image that it refers to was sent.
    sent = {str(header.SOPInstanceUID) for header in images.values()}
    referred = {
        str(item.ReferencedSOPInstanceUID)
        for series in segmentation.ReferencedSeriesSequence
        for item in series.ReferencedInstanceSequence
    }
    assert referred
    assert referred <= sent
    assert {str(header.FrameOfReferenceUID) for header in images.values()} == {str(segmentation.FrameOfReferenceUID)}
    (report,) = by_series[BLOCK + 5]
    assert report.SOPClassUID == Comprehensive3DSRStorage
    (refusal,) = by_series[9008]
    assert refusal.SOPClassUID == Comprehensive3DSRStorage
    (front,) = by_series[9000]
    assert front.SOPClassUID == BasicTextSRStorage
    said = [str(each.value) for each in front.iterall() if each.keyword == "TextValue"]
    assert any("no short-axis cine" in sentence for sentence in said)
    assert any("infarct" in sentence.lower() for sentence in said)
