"""The configuration file read again from the console: what it would change, what came of it, and who may."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from console.running_console import RunningConsole
from console.test_pages import words
from dicom_node.config_file import load_configuration
from dicom_node.process_states import exclusive_service
from dicom_node.reloading import reloaded
from storage.schema import AccountRole

VIEWER, OPERATOR, _ADMINISTRATOR = AccountRole
WORKS = "The node works by all that can change while it runs."


def add_to_file(console: RunningConsole, text: str) -> None:
    console.file.write_text(console.file.read_text(encoding="utf-8") + text, encoding="utf-8")


@contextlib.contextmanager
def supervised(console: RunningConsole) -> Iterator[list[str]]:
    """This process as the supervisor of the node: on SIGHUP it reads the file, and hands on what can change."""
    heard: list[str] = []

    def hang_up(_number: int, _frame: object) -> None:
        heard.append("read")
        console.renewals.append(reloaded(console.configuration, load_configuration(console.file, {})).configuration)

    before = signal.signal(signal.SIGHUP, hang_up)
    try:
        with exclusive_service(console.configuration.storage.directory):
            yield heard
    finally:
        signal.signal(signal.SIGHUP, before)
        console.renew(console.configuration)


def test_what_was_changed_by_hand_is_told_and_taken_up(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    program = console.token(OPERATOR)
    assert WORKS in words(person.get("/rules").text)
    add_to_file(console, "\ndelivery: {maximum_delay_s: 77.0}\nshadow_of_a_key_that_is_none: 1\n")
    page = words(person.get("/rules").text)
    assert "The file cannot be used as it is, and the node goes on as before:" in page
    assert "shadow_of_a_key_that_is_none" in page
    text = console.file.read_text(encoding="utf-8").replace("shadow_of_a_key_that_is_none: 1\n", "")
    console.file.write_text(text, encoding="utf-8")
    assert "Changed in the file, and not in use yet: delivery." in words(person.get("/rules").text)
    assert console.stranger().get("/api/v1/configuration/changes", **program).json() == {
        "changed": ["delivery"],
        "at_next_start": [],
    }
    with supervised(console) as heard:
        done = person.do("reload", reason="the PACS is slow")
        assert done == "done: The node works by what changed: delivery; what was under way ends by what was before."
        assert heard == ["read"]
        assert WORKS in words(person.get("/rules").text)
        nothing = person.do("reload", reason="once more")
        assert nothing == "done: The node works by what stands there; nothing was changed."
    assert "configuration read again (delivery): the PACS is slow" in person.get("/audit?find=is slow").text


def test_where_no_node_runs_or_the_file_is_wrong_nothing_is_changed(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    assert "no node runs on this machine" in person.do("reload", reason="to see it")
    with supervised(console) as heard:
        add_to_file(console, "\ndelivery: {maximum_delay_s: slow}\n")
        assert "delivery.maximum_delay_s" in person.do("reload", reason="to see it")
        assert heard == []


def test_a_viewer_reads_nothing_again(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    assert "Read the file again" not in person.get("/rules").text
    assert person.post("/do/reload", {"csrf": person.csrf(), "reason": "to see it"}).status_code == 403
    program = console.token(VIEWER)
    assert console.stranger().get("/api/v1/configuration/changes", **program).status_code == 403
    assert (
        console.stranger()
        .session.post(
            f"{console.root}/api/v1/actions/reload", json={"reason": "to see it"}, headers=program, timeout=60
        )
        .status_code
        == 403
    )
