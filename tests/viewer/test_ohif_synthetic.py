"""What a radiologist sees of synthetic enhancement: images and segmentation from a real PACS, opened in OHIF."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from absence import absent
from interop import dcmtk as scanner
from interop.fixtures import require
from interop.orthanc import AE_TITLE, Orthanc
from interop.tools import AbsentTool
from pydicom import dcmread
from results.enhancement import enhanced_phantom
from results.synthetic import CREATED

from dicom_node.config import DestinationProfile, ResultSettings, SyntheticImageClass
from dicom_node.results.circumstances import Circumstances
from dicom_node.results.encode import encode_study
from dicom_node.results.gate import origins
from dicom_node.results.iod import iod_findings
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.synthetic_enhancement.encoder import PROBABILITY, SEGMENTATION
from dicom_node.results.synthetic_enhancement.images import IMAGES
from pipelines.study import PackageFindings
from pipelines.synthetic_enhancement.package import PACKAGE
from viewer.ohif import dice, drawn_masks, ohif_files, on_canvas, read_study
from viewer.origin import ViewerOrigin

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("synthetic")]

SC = SyntheticImageClass.SECONDARY_CAPTURE


def test_images_and_their_segmentation_are_shown(dcmtk: None, orthanc: Orthanc, tmp_path: Path) -> None:
    require("chromium", "node")
    try:
        viewer = ohif_files()
    except AbsentTool as error:
        absent(str(error))
    heart = enhanced_phantom(tmp_path / "scanner")
    sources = SourceDatasets.index(heart.paths)
    circumstances = Circumstances(tuple(path.name for path in heart.paths), "cine", ResultSettings(), CREATED)
    found = [PackageFindings(PACKAGE, heart.findings())]
    profiles = {"pacs": DestinationProfile(peer="pacs")}
    objects = encode_study(heart.study, found, sources, profiles, circumstances).objects
    sent = [each for each in objects if each.role in (IMAGES[SC], SEGMENTATION[SC], PROBABILITY)]
    results = tmp_path / "results"
    results.mkdir()
    for each in sent:
        (results / f"{each.sop_instance_uid}.dcm").write_bytes(each.content)
    stored = scanner.storescu([results], port=orthanc.dicom_port, called=AE_TITLE)
    assert stored.returncode == 0, stored.stdout + stored.stderr

    # As the PACS gives them back.
    for each in sent:
        held = dcmread(io.BytesIO(orthanc.file(each.sop_instance_uid)))
        assert held == dcmread(io.BytesIO(each.content))
        assert not [one for one in iod_findings(held, origins(each, sources)) if not one.accepted]

    images = {each.sop_instance_uid for each in sent if each.role == IMAGES[SC]}
    (segmentation,) = [each for each in sent if each.role == SEGMENTATION[SC]]
    captions = [f"S:{segmentation.dataset.SeriesNumber} "]
    with ViewerOrigin(viewer, orthanc.http_port) as origin:
        url = origin.study_url(heart.study.context.study_instance_uid)
        reading = read_study(url, captions, tmp_path)
    assert reading.problems == ()
    for role in (IMAGES[SC], SEGMENTATION[SC], PROBABILITY):
        number = next(each.dataset.SeriesNumber for each in sent if each.role == role)
        assert any(f"S:{number} " in caption for caption in reading.series), role
    opened = reading.opened[-1]
    assert opened.asked, "OHIF did not ask to open the segmentation"
    assert {image.sop_instance_uid for image in opened.images} == images
    order = {each.sop_instance_uid: int(each.dataset.InstanceNumber) for each in sent if each.role == IMAGES[SC]}
    drawn_somewhere = False
    for image in opened.images:
        assert [segment.label for segment in image.segments] == ["Predicted enhancement"]
        index = heart.found.slices[order[str(image.sop_instance_uid)] - 1]
        drawn = drawn_masks(image)
        expected = on_canvas(heart.found.enhanced[index], image, drawn.shape[1:])
        if np.count_nonzero(heart.found.enhanced[index]) >= 20:
            drawn_somewhere = True
            assert dice(drawn[0], expected) > 0.95
    assert drawn_somewhere
