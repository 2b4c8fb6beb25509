"""A radiologist judges results at another workstation, and sends the structured report that says so to the node."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from assessment_objects import ACCEPTED, REJECTED, answer, assessment, reference
from deliver.receivers import fhir_receiver, mllp_receiver
from execute.test_corrected import written
from interop.ports import free_port, wait_until
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage
from results.synthetic import STUDY_UID, write_cine

from console.running_console import PASSWORD, Visitor, found
from console.served_node import served_node
from dicom_node.config import Peer
from dicom_node.network.sender import ScuSettings, send_files


def reports(folder: Path) -> list[Dataset]:
    """Measurement reports that the PACS holds."""
    found = [dcmread(path, stop_before_pixels=True) for path in sorted(folder.glob("*.dcm"))]
    return [one for one in found if one.SOPClassUID == Comprehensive3DSRStorage]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_assessment_is_kept_shown_exported_and_told_to_the_hospital(tmp_path: Path) -> None:
    ports = {"hl7": free_port(), "fhir": free_port()}

    def with_receivers(settings: dict[str, Any]) -> None:
        settings["results"]["destinations"] |= {
            "ris": {"hl7": {"host": "127.0.0.1", "port": ports["hl7"]}},
            "fhir": {"fhir": {"url": f"http://127.0.0.1:{ports['fhir']}/fhir"}},
        }
        settings["routes"]["cine"]["destinations"] = ["pacs", "ris", "fhir"]

    images = write_cine(tmp_path / "images", phases=12, slices=4, size=64).paths
    with (
        mllp_receiver(ports["hl7"]) as ris,
        fhir_receiver(ports["fhir"]) as server,
        served_node(tmp_path, change=with_receivers) as (node, printed),
        node.pacs(),
    ):
        here = Peer(ae_title="DICOMNODE", host="127.0.0.1", port=node.port)

        def send(paths: list[Path], ae_title: str) -> None:
            assert [one.error for one in send_files(paths, here, ScuSettings(ae_title)) if one.error] == []

        ann = Visitor(f"http://127.0.0.1:{node.console_port}")
        link = found(re.compile(r"http://[^/\s]+(/invitation/\S+)"), printed)
        form = found(re.compile(r'name="form" value="([^"]+)"'), ann.get(link).text)
        ann.post(link, {"form": form, "name": "ann", "password": PASSWORD, "again": PASSWORD})

        def exported() -> list[str]:
            return ann.get("/api/v1/assessments.csv").text.splitlines()[1:]

        send(images, "SCANNER")
        wait_until(lambda: reports(node.pacs_folder), seconds=300, what="a report in the PACS", every=1)
        wait_until(lambda: ris.messages and server.bundles, seconds=120, what="the hospital is told")
        (report,) = reports(node.pacs_folder)
        judged = assessment([report], [[answer(REJECTED), reference(report)]])
        send([written(judged, tmp_path / "rejected.dcm")], "SCANNER2")
        wait_until(exported, seconds=120, what="the verdict is kept")
        (line,) = exported()
        assert STUDY_UID in line
        assert f"toy,rejected,assessment {judged.SOPInstanceUID}: Rejected for Quality Reasons,Curie Marie Dr." in line
        assert "rejected" in ann.get(f"/studies/{STUDY_UID}").text
        row = '<th scope="row">toy</th><td class="number">0</td><td class="number">1</td><td class="number">0</td>'
        assert row in ann.get("/models").text
        wait_until(lambda: len(ris.messages) == len(server.bundles) == 2, seconds=120, what="the hospital is told")
        assert [str(one.segment("OBR")[25]) for one in ris.messages] == ["P", "X"]
        assert server.bundles[-1].entry[-1].resource.status == "entered-in-error"
        # Somebody looks again, and finds them right.
        again = assessment([report], [[answer(ACCEPTED), reference(report)]], assessor="Noether^Emmy")
        send([written(again, tmp_path / "accepted.dcm")], "SCANNER2")
        wait_until(lambda: len(exported()) == 2, seconds=120, what="the other verdict is kept")
        wait_until(lambda: len(ris.messages) == len(server.bundles) == 3, seconds=120, what="the hospital is told")
        assert str(ris.messages[-1].segment("OBR")[25]) == "P"
        assert server.bundles[-1].entry[-1].resource.status == "preliminary"
        # Nothing was analysed again for it.
        assert len(reports(node.pacs_folder)) == 1
