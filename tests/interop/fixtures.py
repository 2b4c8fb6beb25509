"""Fixtures with real peers, for every test folder.

In CI an absent peer is a failure; elsewhere the test skips and says what to install (`absence.absent`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from absence import absent

from interop import dcmtk as scanner
from interop.hospital import Hospital, SentStudy, as_another_patient
from interop.node import AE_TITLE as NODE_AE_TITLE
from interop.node import Destination, NodeUnderTest
from interop.orthanc import AE_TITLE as PACS_AE_TITLE
from interop.orthanc import DICOM_WEB_PLUGIN, Modality, Orthanc
from interop.ports import free_port
from interop.tools import AbsentTool, tool
from pipelines.phantom import PhantomRecipe, simulate, write_study

NAMES = {
    "cyrillic": ("Иванов^Пётр^Ильич", ["ISO_IR 144"]),
    "japanese": ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
    "arabic": ("قباني^لنزار", ["ISO_IR 127"]),
}
"""PatientName and SpecificCharacterSet; Japanese as in PS3.5 H.3.1."""


def require(*names: str) -> None:
    """Skip without a program, or fail in CI."""
    try:
        for name in names:
            tool(name)
    except AbsentTool as error:
        absent(str(error))


@pytest.fixture(scope="session")
def dcmtk() -> None:
    """dcmtk is installed."""
    require("storescu", "echoscu", "findscu", "movescu", "getscu", "storescp", "dsrdump")


@pytest.fixture
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An empty Orthanc that knows a modality NODE."""
    require("Orthanc", DICOM_WEB_PLUGIN)
    with Orthanc(tmp_path_factory.mktemp("orthanc"), (Modality("NODE", free_port()),)) as running:
        yield running


@pytest.fixture(scope="session")
def sent_studies(
    sunnybrook_dir: Path, siemens_vida_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SentStudy]:
    """Real studies of two vendors, and three under names in three scripts: a copy of a real one, and two phantoms.

    The phantoms have as many slices as a patient and fewer phases: what a name becomes does not depend on the heart.
    """
    copies = tmp_path_factory.mktemp("copies")
    write_study(simulate(PhantomRecipe(seed=1, slices=10, phases=10, long_axis=False)), copies / "phantom")
    phantom = SentStudy.lying_in(copies / "phantom", "phantom")
    copied = {
        "cyrillic": SentStudy.lying_in(sunnybrook_dir / "SCD0000301" / "dicom", "copied"),
        "japanese": phantom,
        "arabic": phantom,
    }
    studies = [
        SentStudy.lying_in(sunnybrook_dir / "SCD0000101" / "dicom", "sunnybrook"),
        SentStudy.lying_in(siemens_vida_dir / "dicom", "siemens-vida"),
        *(
            as_another_patient(
                copied[label], copies / label, label, number=number, patient_name=name, character_set=character_set
            )
            for number, (label, (name, character_set)) in enumerate(NAMES.items(), start=1)
        ),
    ]
    return {study.name: study for study in studies}


@pytest.fixture(scope="session")
def hospital(
    dcmtk: None, sent_studies: dict[str, SentStudy], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hospital]:
    """Scanner, node and Orthanc; every study was sent to both, and all results are delivered."""
    require("Orthanc", DICOM_WEB_PLUGIN)
    folder = tmp_path_factory.mktemp("hospital")
    port = free_port()
    with (
        Orthanc(folder / "pacs", (Modality(NODE_AE_TITLE, port),)) as pacs,
        NodeUnderTest(
            folder / "node", Destination(PACS_AE_TITLE, pacs.dicom_port), scanner=scanner.AE_TITLE, port=port
        ) as node,
    ):
        running = Hospital(node, pacs, sent_studies)
        for study in sent_studies.values():
            running.send(study)
            running.send_to_pacs(study)
        running.wait(sent_studies.values())
        yield running
