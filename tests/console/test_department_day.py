"""A day in a department, lived in a browser: whoever runs the node sees nothing but the console."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.presentation import StoragePresentationContexts, build_context
from pynetdicom.sop_class import Verification
from results.synthetic import STUDY_UID, write_cine

from console.browser import Visit, browse
from console.running_console import PASSWORD, found
from console.served_node import Served, served_node
from dicom_node.config import Peer
from dicom_node.network.sender import ScuSettings, send_files

pytestmark = pytest.mark.peers

WRONG_CLASS = 0xA900
PATIENT = ("Müller", "M\\u00fcller", "Jörg", "J\\u00f6rg", "19600229", "Weiß", "Wei\\u00df", "P-1", "A-1")
"""What the images say of the patient, also as JSON writes it."""
COMMITTED = r"/([1-9]\d*) of \1 results committed/"


class Department:
    """What happens around the node, and the browser of the person who runs it."""

    def __init__(self, node: Served, folder: Path) -> None:
        self.node, self.folder = node, folder
        self.root = f"http://127.0.0.1:{node.console_port}"
        self.cookie = ""
        write_cine(folder / "images", phases=12, slices=4, size=64)

    def scan(self, number: int, scanner: str, *, black: bool = False) -> str:
        """A scanner sends a study of its own; its Study Instance UID."""
        study, paths = f"{STUDY_UID}.{number}", []
        for path in sorted((self.folder / "images").glob("*.dcm")):
            image = dcmread(path)
            image.StudyInstanceUID, image.FrameOfReferenceUID = study, f"{study}.9"
            image.SeriesInstanceUID = f"{study}.1"
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{study}.2.{image.InstanceNumber}"
            image.PatientID, image.AccessionNumber = f"P-{number}", f"A-{number}"
            if black:
                image.PixelData = bytes(len(image.PixelData))
            paths.append(self.folder / f"{number}-{path.name}")
            image.save_as(paths[-1])
        node = Peer(ae_title="DICOMNODE", host="127.0.0.1", port=self.node.port)
        sent = send_files(paths, node, ScuSettings(scanner))
        assert [one.error for one in sent if one.error is not None] == []
        return study

    @contextlib.contextmanager
    def pacs_that_refuses(self) -> Iterator[None]:
        """A PACS that takes the connection and refuses each object for good."""
        entity = AE("PACS")
        entity.supported_contexts = [*StoragePresentationContexts, build_context(Verification)]
        address = ("127.0.0.1", self.node.pacs_port)
        server = entity.start_server(address, block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: WRONG_CLASS)])
        try:
            yield
        finally:
            server.shutdown()

    def asked(self, path: str) -> Any:
        """What the REST API answers to the person who is logged in."""
        answer = self.answer(f"/api/v1{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def answer(self, path: str) -> requests.Response:
        cookies = {"console": self.cookie}
        return requests.get(self.root + path, cookies=cookies, timeout=120, allow_redirects=False)

    def processes(self) -> dict[str, int]:
        """Process numbers of the node, by name."""
        return {one["name"]: one["pid"] for one in self.asked("/now")["status"]["processes"]}

    def look(self, *steps: tuple[str, ...]) -> Visit:
        """Use the browser; it stays logged in."""
        visit = browse(self.root, [*steps, ("cookie", "console")], self.folder, cookie=self.cookie)
        assert visit.problems == ()
        assert visit.serious == []
        self.cookie = visit.values["console"]
        return visit


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_day_in_a_department(tmp_path: Path) -> None:
    with served_node(tmp_path) as (node, printed):
        department = Department(node, tmp_path)
        link = found(re.compile(r"http://[^/\s]+(/invitation/\S+)"), printed)
        with node.pacs():
            # Morning: the first administrator, two scanners, one of whose studies is black.
            department.look(
                ("go", link),
                ("fill", "Name", "ann"),
                ("fill", "Password", PASSWORD),
                ("fill", "The same again", PASSWORD),
                ("press", "Choose it and log in"),
                ("see", "All is well"),
                ("go", "/deliveries"),
                ("press", "Test the connection"),
                ("see", "C-ECHO to PACS"),
            )
            good, bad = department.scan(1, "SCANNER"), department.scan(2, "SCANNER2", black=True)
            department.look(
                ("until", f"/studies/{good}", "Largest mean grey value"),
                ("until", f"/studies/{good}", COMMITTED),
                ("picture", "good"),
                ("axe", "good"),
                ("until", f"/studies/{bad}", "The short-axis stack is black."),
                ("see", "declined"),
                ("picture", "bad"),
                ("open", "Run again"),
                ("fill", "Reason", "to see it again"),
                ("press", "Run again"),
                ("see", "is queued again."),
                ("until", "/", "No analysis runs or waits."),
                ("until", "/", "All is well"),
            )
            told = department.asked(f"/studies/{good}")
            assert (told["receipt"]["kept"], told["receipt"]["quarantined"]) == (48, 0)
            assert told["description"]["completeness"]["stacks"][0]["slices_complete"] == 4
            toy = next(one for one in told["jobs"] if one["job"]["package"] == "toy")
            assert toy["job"]["verdict"] == "delivered"
            # The pages name the patient, and nobody was to see that.
            assert toy["pictures"][0]["names_patient"]
            assert department.answer(f"/studies/{good}/pages/{toy['pictures'][0]['id']}.png").status_code == 403
        # Noon: the PACS is away while a study comes in.
        waiting = department.scan(3, "SCANNER")
        department.look(
            ("until", "/", "pacs cannot be reached"),
            ("picture", "away"),
            ("axe", "away"),
            ("go", "/deliveries"),
            ("see", "It cannot be reached since"),
            ("open", "Pause"),
            ("fill", "Reason", "the PACS is being moved"),
            ("press", "Pause"),
            ("see", "ann paused it"),
        )
        # It comes back, and refuses what it is sent: a dead letter.
        with department.pacs_that_refuses():
            department.look(
                ("go", "/deliveries"),
                ("press", "Resume"),
                ("see", "pacs is sent to again."),
                ("until", "/deliveries", "Send dead letters again"),
                ("see", "A900"),
                ("picture", "dead"),
                ("axe", "dead"),
                ("until", "/", "Not all is well"),
            )
        # Afternoon: it was mended, and what was refused is sent again.
        with node.pacs():
            department.look(
                ("until", "/deliveries", "Send dead letters again"),
                ("open", "Send dead letters again"),
                ("fill", "Reason", "the PACS was mended"),
                ("press", "Send dead letters again"),
                ("see", "queued."),
                ("until", "/deliveries", "Everything arrived, or is on its way."),
                ("until", f"/studies/{waiting}", COMMITTED),
                ("until", "/", "All is well"),
            )
            # The second scanner is for phantoms from now on: a rule changes.
            routes = (
                "routes:\n  cine:   # patients\n    series: [{calling_ae_title: SCANNER}]\n    analyses: [toy]\n"
                "    destinations: [pacs]\n"
            )
            processes = department.processes()
            assert {"receiver-0", "console", "scheduler"} <= set(processes)
            department.look(
                ("go", "/rules"),
                ("fill", "Routes, as in config.yaml", routes),
                ("fill", "Study", bad),
                ("press", "Try them"),
                ("see", "left out"),
                ("press", "Compare over the last month"),
                ("see", "would not be taken any more"),
                ("picture", "compared"),
                ("fill", "Reason", "phantoms on the second scanner"),
                ("press", "Save and use them"),
                ("see", "Saved as version 2."),
            )
            # What else was changed by hand is read at once, too.
            text = node.config.read_text(encoding="utf-8")
            assert "maximum_delay_s: 2\n" in text
            node.config.write_text(text.replace("maximum_delay_s: 2\n", "maximum_delay_s: 3\n"), encoding="utf-8")
            department.look(
                ("go", "/rules"),
                ("see", "Changed in the file, and not in use yet: delivery."),
                ("open", "Read the file again"),
                ("keys", "Tab", *"slower"),
                ("press", "Read the file again"),
                ("see", "The node works by what changed: delivery;"),
                ("see", "The node works by all that can change while it runs."),
            )
            # The node works by it: nobody is logged out, and nothing starts again.
            assert department.asked("/routes")["cine"]["series"][0]["calling_ae_title"] == "SCANNER"
            assert "# patients" in node.config.read_text(encoding="utf-8")
            assert department.processes() == processes
            late, phantom = department.scan(4, "SCANNER"), department.scan(5, "SCANNER2")
            department.look(
                ("until", f"/studies/{late}", COMMITTED),
                ("until", f"/studies/{phantom}", "left out"),
                ("see", "No analysis was asked for yet."),
                ("until", "/", "All is well"),
                ("go", "/audit"),
                ("see", "phantoms on the second scanner"),
                ("see", "run again: to see it again"),
                ("fill", "Find", "the PACS was mended"),
                ("press", "Find"),
                ("see", "results sent again: the PACS was mended"),
                # The log of one study, by its accession number: who brought it, and what was made of it.
                ("go", "/log?about=A-1"),
                ("see", "association ended"),
                ("see", "job succeeded"),
                ("picture", "log"),
                ("axe", "log"),
                ("choose", "Least level", "warning"),
                ("fill", "About", ""),
                ("press", "Find"),
                ("see", "destination unreachable"),
                ("press", "Log out"),
                ("see", "Password"),
            )
    held = [dcmread(path, stop_before_pixels=True) for path in (tmp_path / "pacs").glob("*.dcm")]
    assert {str(one.StudyInstanceUID) for one in held} == {good, bad, waiting, late}
    # Every process has its file, and none tells whom the images show.
    logs = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "log").iterdir()}
    for name in ("supervisor", "receiver-0", "scheduler", "executor", "deliverer", "console", "cpu-0"):
        assert [one for one in logs if f".{name}" in one], (name, sorted(logs))
    for name, text in {**logs, "node.log": (tmp_path / "node.log").read_text(encoding="utf-8")}.items():
        assert [word for word in PATIENT if word.casefold() in text.casefold()] == [], name
    for name in ("good", "bad", "away", "dead", "compared", "log"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).std() > 5
