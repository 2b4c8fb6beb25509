"""A day with a node that runs: its scanner, its PACS that goes away, and people who use nothing but the console."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from interop.ports import free_port, wait_until
from results.synthetic import STUDY_UID, write_cine
from test_toy_package import configured, environment

from console.running_console import FORM, PASSWORD, Visitor, found, notice
from dicom_node.config import Peer
from dicom_node.network.pacs import Pacs, PacsSettings
from dicom_node.network.sender import ScuSettings, send_files

ENDED = 300
"""Seconds, on a machine that does much else."""


class Served:
    """A node that serves the toy analysis and a console, and a PACS that can go away."""

    def __init__(self, folder: Path) -> None:
        self.port, self.pacs_port, self.console_port = free_port(), free_port(), free_port()
        settings: dict[str, Any] = configured(folder, self.port, self.pacs_port)
        # Four slices are less than a ventricle is long, and all that comes.
        settings["execution"] = {"quiet_time_s": 2, "incomplete_quiet_time_s": 2, "background_slots": 0}
        settings["console"] = {"port": self.console_port}
        settings["audit"] = {"file": str(folder / "audit.log")}
        settings["delivery"] = {"first_delay_s": 0.5, "maximum_delay_s": 2}
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        self._pacs_folder = folder / "pacs"

    def pacs(self) -> Pacs:
        callers = {"DICOMNODE": Peer(ae_title="DICOMNODE", host="127.0.0.1", port=self.port)}
        return Pacs(PacsSettings(self._pacs_folder, self.pacs_port, callers=callers))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Served, str]]:
    """The node, and what it printed before it was ready."""
    served, log = Served(tmp_path), tmp_path / "node.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", "serve", "--config", str(served.config)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            printed = ""
            for line in process.stdout:
                printed += line
                if line.strip() == "ready":
                    break
            assert "ready" in printed, log.read_text(encoding="utf-8")
            yield served, printed
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.timeout(900)
def test_a_day_is_run_through_the_console(served: tuple[Served, str], tmp_path: Path) -> None:
    node, printed = served
    root = f"http://127.0.0.1:{node.console_port}"
    link = found(re.compile(r"(http://\S+/invitation/\S+)"), printed)
    person = Visitor(root)
    form = found(FORM, person.get(link.removeprefix(root)).text)
    fields = {"form": form, "name": "ann", "password": PASSWORD, "again": PASSWORD}
    assert person.post(link.removeprefix(root), fields).status_code == 303

    def asked(path: str) -> Any:
        answer = person.get(f"/api/v1{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def becomes(what: str, true: Callable[[], bool]) -> None:
        wait_until(true, seconds=ENDED, what=what, every=0.5)

    def study() -> Any:
        return asked(f"/studies/{STUDY_UID}")

    with node.pacs():
        becomes("all is well", lambda: asked("/now")["sentence"].startswith("All is well"))
        assert {"receiver-0", "console", "scheduler"} <= {one["name"] for one in asked("/now")["status"]["processes"]}
        assert person.do("test-destination", destination="pacs").startswith("done: C-ECHO to PACS")
        images = tmp_path / "images"
        write_cine(images, phases=12, slices=4, size=64)
        receiver = Peer(ae_title="DICOMNODE", host="127.0.0.1", port=node.port)
        sent = send_files(sorted(images.rglob("*.dcm")), receiver, ScuSettings("SCANNER"))
        assert len(sent) == 48
        assert not [one.error for one in sent if one.error is not None]
        becomes(
            "every result is committed",
            lambda: (
                {one["job"]["package"] for one in study()["jobs"]} == {"toy", "front_page"}
                and 0 < study()["receipt"]["results"] == study()["receipt"]["results_committed"]
            ),
        )
    told = study()
    assert (told["receipt"]["kept"], told["receipt"]["quarantined"]) == (48, 0)
    assert told["description"]["completeness"]["stacks"][0]["slices_complete"] == 4
    toy = next(one for one in told["jobs"] if one["job"]["package"] == "toy")
    assert toy["job"]["verdict"] == "delivered"
    assert "Largest mean grey value" in toy["job"]["key_numbers"][0]
    # The pages name the patient, and nobody was to see that.
    assert toy["pictures"][0]["names_patient"]
    assert person.get(f"/studies/{STUDY_UID}/pages/{toy['pictures'][0]['id']}.png").status_code == 403

    # The PACS is away: what is sent again waits, and the console says so.
    assert person.do("test-destination", destination="pacs").startswith("problem:")
    assert person.do("send-again", study=STUDY_UID, reason="lost there").startswith("done:")
    becomes("the outage is told", lambda: "pacs cannot be reached" in asked("/now")["sentence"])
    assert person.do("pause", destination="pacs", reason="the PACS is being moved").startswith("done:")
    with node.pacs():
        assert "ann paused it" in asked("/now")["status"]["alarms"][-1]["sentence"]
        assert study()["receipt"]["results_committed"] < study()["receipt"]["results"]
        assert person.do("resume", destination="pacs").startswith("done:")
        becomes(
            "all of it is committed again",
            lambda: study()["receipt"]["results"] == study()["receipt"]["results_committed"],
        )
        becomes("all is well again", lambda: asked("/now")["sentence"].startswith("All is well"))
        assert person.do("run-again", job=str(toy["job"]["id"]), reason="to see it again").startswith("done:")
        becomes("the job has ended again", lambda: not asked("/now")["running"] and not asked("/now")["queued"])
    # Routes are edited, and the node goes on by them: nobody is logged out, and nothing starts again.
    processes = {one["name"]: one["pid"] for one in asked("/now")["status"]["processes"]}
    written = asked("/routes/text")
    (name,) = asked("/routes")
    edited = written["text"].rstrip("\n") + "\n    priority: 70   # before the others\n"
    answer = person.post(
        "/rules",
        {
            "csrf": person.csrf(),
            "text": edited,
            "began_with": written["digest"],
            "what": "save",
            "reason": "before the others",
        },
    )
    assert answer.status_code == 303, answer.text
    assert "The node works by it from now on" in notice(person.get("/rules").text)
    assert asked("/routes")[name]["priority"] == 70
    assert "# before the others" in node.config.read_text(encoding="utf-8")
    assert {one["name"]: one["pid"] for one in asked("/now")["status"]["processes"]} == processes
    reasons = " ".join(one["words"] for one in asked("/audit"))
    assert "results sent again: lost there" in reasons
    assert "run again: to see it again" in reasons
