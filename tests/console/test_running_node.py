"""A day with a node that runs: its scanner, its PACS that goes away, and people who use nothing but the console."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from interop.ports import wait_until
from results.synthetic import STUDY_UID, write_cine

from console.running_console import FORM, PASSWORD, Visitor, found, notice
from console.served_node import Served, served_node
from dicom_node.config import Peer
from dicom_node.network.sender import ScuSettings, send_files

ENDED = 300
"""Seconds, on a machine that does much else."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Served, str]]:
    """The node, and what it printed before it was ready."""
    with served_node(tmp_path) as served:
        yield served


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
