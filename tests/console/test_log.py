"""The log in the console: what is found in the files of the processes, by whom, and in how many bytes."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import random
import re
from pathlib import Path

import pytest
import requests
from audit.reading import read_trail

from console.held_studies import STUDY, analyse, receive
from console.reading import count_reads
from console.running_console import RunningConsole
from console.test_pages import words
from dicom_node.config import Host, HostRole, LogSettings
from dicom_node.console.log import LOOKED_AT_BYTES, LogLine, LogPage, LogQuery, PlaceInLog, kept_processes, search_log
from dicom_node.log_files import LogFile, LogFolder
from storage.schema import AccountRole

VIEWER, OPERATOR, ADMINISTRATOR = AccountRole
NOON = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)


def after(seconds: float) -> dt.datetime:
    return NOON + dt.timedelta(seconds=seconds)


def say(directory: Path, role: str, event: str, seconds: float, *, host: str = "node", **values: object) -> None:
    folder = LogFolder(directory, host, 1 << 20, 9)
    LogFile(folder, role).write(
        {"level": "info", **values, "event": event, "timestamp": after(seconds).isoformat(timespec="microseconds")}
    )


def directory_of(console: RunningConsole) -> Path:
    assert console.configuration.log.directory is not None
    return console.configuration.log.directory


def every_page(directory: Path, query: LogQuery, limit: int) -> list[LogLine]:
    found: list[LogLine] = []
    before = None
    while True:
        page = search_log(directory, query, before=before, limit=limit)
        assert len(page.lines) <= limit
        found += page.lines
        if not page.older:
            return found
        before = PlaceInLog.read(page.older)


@pytest.mark.parametrize("seed", range(6))
def test_every_line_is_found_once_however_files_and_pages_divide_them(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    files = [LogFile(LogFolder(tmp_path, host, 3000, 99), role) for host in "ab" for role in ("receiver-0", "web")]
    written = []
    seconds = 0.0
    for number in range(400):
        # Many at the very same time.
        seconds += dice.choice([0.0, 0.0, 0.001, 1.0])
        event = {
            "event": dice.choice(["association ended", "instance refused"]),
            "level": dice.choice(["info", "warning", "error"]),
            "timestamp": after(seconds).isoformat(timespec="microseconds"),
            "number": number,
            "note": "x" * dice.choice([0, 10, 500]),
        }
        dice.choice(files).write(event)
        written.append(event)
    assert len(list(tmp_path.iterdir())) > 12
    queries = [
        (LogQuery(), lambda _: True),
        (LogQuery(level="warning"), lambda one: one["level"] != "info"),
        (LogQuery(event="REFUSED"), lambda one: "refused" in one["event"]),
        (LogQuery(text="number 17"), lambda one: str(one["number"]).startswith("17")),
    ]
    since, until = sorted(dice.uniform(0, seconds) for _ in range(2))
    queries.append(
        (
            LogQuery(since=after(since), until=after(until)),
            lambda one: after(since) <= dt.datetime.fromisoformat(one["timestamp"]) <= after(until),
        )
    )
    for query, wanted in queries:
        for limit in (1000, dice.randint(1, 40)):
            found = every_page(tmp_path, query, limit)
            times = [one.at for one in found]
            assert times == sorted(times, reverse=True)
            numbers = sorted(one.values["number"] for one in found)
            assert numbers == [one["number"] for one in written if wanted(one)], (query, limit)


def large_file(directory: Path, megabytes: int) -> None:
    """A file of a process that has much to say, a thousand lines a second; the first line is another."""
    line = {"event": "association ended", "level": "info", "note": "x" * 400}
    with (directory / "node.receiver-0.log").open("w", encoding="ascii") as file:
        file.write(json.dumps({**line, "event": "needle", "timestamp": NOON.isoformat()}) + "\n")
        for number in itertools.count(1):
            if file.tell() > megabytes << 20:
                return
            at = after(number / 1000).isoformat(timespec="microseconds")
            file.write(json.dumps({**line, "timestamp": at, "number": number}) + "\n")


def test_a_search_reads_a_bounded_part_of_a_large_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large_file(tmp_path, 20)
    read = count_reads(monkeypatch)

    def searched(query: LogQuery, before: PlaceInLog | None = None) -> tuple[LogPage, int]:
        read[0] = 0
        return search_log(tmp_path, query, before=before, limit=50), read[0]

    # The end, and a time in the middle, cost no more than a little.
    page, cost = searched(LogQuery())
    assert (len(page.lines), cost < 1 << 18) == (50, True)
    middle = after(20)
    page, cost = searched(LogQuery(until=middle))
    assert (page.lines[0].at, cost < 1 << 18) == (middle, True)
    # What is nowhere near the end is looked for some megabytes at a time.
    page, cost = searched(LogQuery(event="needle"))
    assert page.lines == ()
    assert page.looked_back_to is not None
    assert cost < LOOKED_AT_BYTES + (1 << 20)
    pages = 1
    while page.older:
        page, cost = searched(LogQuery(event="needle"), PlaceInLog.read(page.older))
        assert cost < LOOKED_AT_BYTES + (1 << 20)
        pages += 1
    assert (pages, [one.event for one in page.lines]) == (3, ["needle"])
    # Nor is a line older than what was asked for.
    page, cost = searched(LogQuery(event="needle", since=after(40)))
    assert (page.lines, page.older, cost < 3 << 20) == ((), "", True)


def test_what_is_no_line_of_a_log_hides_none(tmp_path: Path) -> None:
    say(tmp_path, "web", "first", 0)
    path = tmp_path / "node.web.log"
    with path.open("ab") as file:
        file.write(
            b"Traceback (most recent call last):\n\xff\xfe\n[]\n" + b"x" * 200_000 + b"\n" + b'{"timestamp": 7}\n'
        )
    say(tmp_path, "web", "second", 1)
    with path.open("ab") as file:
        file.write(b'{"event": "half')
    assert [one.event for one in search_log(tmp_path, LogQuery()).lines] == ["second", "first"]
    assert [one.event for one in search_log(tmp_path, LogQuery(until=after(0.5))).lines] == ["first"]


def test_compressed_and_closed_files_are_named(tmp_path: Path) -> None:
    say(tmp_path, "web", "first", 0)
    (tmp_path / "node.web.log.1.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "notes.txt").write_text("not of the node")
    page = search_log(tmp_path, LogQuery())
    assert [one.event for one in page.lines] == ["first"]
    assert page.not_searched == ("node.web.log.1.gz",)
    assert kept_processes(tmp_path) == (("node", "web"),)


def test_the_log_of_a_study_is_that_of_its_associations_and_jobs_too(console: RunningConsole) -> None:
    association = receive(console)
    job = analyse(console, names_patient=False)
    directory = directory_of(console)
    say(directory, "receiver-0", "association ended", 0, association=association)
    say(directory, "receiver-0", "association ended", 1, association="another")
    say(directory, "cpu-0", "job started", 2, study_instance_uid=STUDY, job=job)
    say(directory, "executor", "job killed", 3, job=job)
    say(directory, "executor", "job killed", 4, job=job + 1000, waiting=job)
    person = console.person(OPERATOR)
    assert "The log of this study" in person.get(f"/studies/{STUDY}").text
    # By its UID, its patient ID and what else people have at hand.
    for text in (STUDY, "P1", "MR1"):
        answer = person.get(f"/api/v1/log?about={text}").json()
        assert [one["event"] for one in answer["page"]["lines"]] == [
            "job killed",
            "job started",
            "association ended",
        ], text
        assert answer["studies"] == [STUDY]
    (line,) = person.get("/api/v1/log?about=another").json()["page"]["lines"]
    assert line["values"] == {"association": "another"}


def test_the_page_tells_lines_by_level_process_event_and_time(console: RunningConsole) -> None:
    directory = directory_of(console)
    say(directory, "receiver-0", "association ended", 0, association="a1")
    say(directory, "cpu-0", "job started", 60, study_instance_uid=STUDY, job=1)
    say(directory, "cpu-0", "analysis failed", 61, level="error", study_instance_uid=STUDY, error="<b>ValueError</b>")
    person = console.person(OPERATOR)

    def found(query: str) -> list[str]:
        page = person.get(f"/log?{query}")
        assert page.status_code == 200, page.text
        return [event for event in ("analysis failed", "job started", "association ended") if f">{event}<" in page.text]

    assert found("") == ["analysis failed", "job started", "association ended"]
    assert found("level=warning") == ["analysis failed"]
    assert found("process=receiver-0") == ["association ended"]
    assert found("event=JOB") == ["job started"]
    assert found("find=valueerror") == ["analysis failed"]
    assert found("since=2026-11-29T12:01:00&until=2026-11-29T12:01:00") == ["job started"]
    assert found("since=2026-11-29T13:01:00%2B01:00") == ["analysis failed", "job started"]
    assert found(f"about={STUDY}&level=&process=&event=&find=&since=&until=&host=") == [
        "analysis failed",
        "job started",
    ]
    say(
        directory,
        "cpu-0",
        "result failed the gate",
        62,
        problems=["1.2.840.10008.5.1.4.1.1.66.4", "it is <b>wrong</b>"],
    )
    page = person.get("/log").text
    # Of a UID the end, of sentences all.
    assert "…8.5.1.4.1.1.66.4</abbr>; it is &lt;b&gt;wrong&lt;/b&gt;" in page
    assert "&lt;b&gt;ValueError&lt;/b&gt;" in page
    assert f'<a href="/studies/{STUDY}">' in page
    assert "Nothing was found." in words(person.get("/log?find=nothing like it").text)
    for wrong in ("level=loud", "since=yesterday", "before=later", "limit=0", "unheard=of", f"find={'x' * 201}"):
        assert person.get(f"/log?{wrong}").status_code == 422, wrong
        assert person.get(f"/api/v1/log?{wrong}").status_code == 422, wrong


def test_pages_follow_each_other_in_the_browser_and_for_programs(console: RunningConsole) -> None:
    directory = directory_of(console)
    for number in range(5):
        say(directory, "web", "said", number, number=number)
    headers, url = console.token(OPERATOR), f"{console.root}/api/v1/log"
    seen, before = [], ""
    while True:
        asked = {"limit": "2", "event": "said", "before": before}
        answer = requests.get(url, params=asked, headers=headers, timeout=60).json()
        seen.append([one["values"]["number"] for one in answer["page"]["lines"]])
        before = answer["page"]["older"]
        if not before:
            break
    assert [one for one in seen if one] == [[4, 3], [2, 1], [0]]
    person = console.person(OPERATOR)
    first = person.get("/log?limit=2&event=said")
    link = re.search(r'href="(/log\?[^"]*before=[^"]*)">Older lines', first.text)
    assert link is not None
    second = person.get(link[1].replace("&amp;", "&"))
    assert '<span class="muted">number</span> 2<' in second.text
    assert '<span class="muted">number</span> 4<' not in second.text
    assert ">The newest<" in second.text
    described = requests.get(f"{console.root}/api/v1/openapi.json", headers=headers, timeout=60).json()
    assert {"since", "level", "about", "before"} <= {
        one["name"] for one in described["paths"]["/api/v1/log"]["get"]["parameters"]
    }


def test_the_log_is_for_operators_and_who_read_it_is_audited(console: RunningConsole) -> None:
    say(directory_of(console), "web", "said", 0)
    for path in ("/log", "/api/v1/log"):
        assert console.stranger().get(path).status_code in (303, 401)
    viewer, operator = console.person(VIEWER), console.person(OPERATOR)
    for path in ("/log", "/api/v1/log"):
        assert viewer.get(path).status_code == 403
    assert 'href="/log"' not in viewer.get("/").text
    assert 'href="/log"' in operator.get("/").text
    operator.get("/log")
    requests.get(f"{console.root}/api/v1/log", headers=console.token(ADMINISTRATOR), timeout=60)
    operator.get("/audit")
    file = console.configuration.audit.file
    assert file is not None
    used = [one for one in read_trail(file) if one.event == "110101"]
    read = [
        (one.root.find("ActiveParticipant").get("UserID"), one.objects("12")[0].findtext("ParticipantObjectName"))
        for one in used
    ]
    assert read == [("operator", "Process log"), ("token program", "Process log"), ("operator", "Security Audit Log")]
    assert used[0].objects("12")[0].get("ParticipantObjectID").endswith(str(directory_of(console)))
    assert "Audit Log Used" in operator.get("/audit").text


def test_a_log_that_is_not_kept_in_files_is_explained(console: RunningConsole) -> None:
    with console.working_by(console.configuration.model_copy(update={"log": LogSettings()})):
        person = console.person(OPERATOR)
        told = words(person.get("/log").text)
        assert "The log is not kept in files, so it cannot be searched here." in told
        assert "journalctl -u dicom-node" in told
        assert person.get("/api/v1/log").json()["kept"] is False


def test_hosts_that_keep_their_log_elsewhere_are_named(console: RunningConsole) -> None:
    directory = directory_of(console)
    for host in ("front-1", "middle"):
        say(directory, "web", f"said by {host}", 0, host=host)
    hosts = {name: Host(roles=frozenset({HostRole.WEB})) for name in ("front-1", "middle", "gpu-1")}
    with console.working_by(console.configuration.model_copy(update={"hosts": hosts})):
        person = console.person(OPERATOR)
        told = words(person.get("/log?host=middle").text)
        assert "The log of gpu-1 is not in this folder" in told
        assert "The log of front-1 is not" not in told
        assert "said by middle" in told
        assert "said by front-1" not in told


def test_a_folder_that_cannot_be_read_is_said_in_words(console: RunningConsole, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log = LogSettings(directory=tmp_path / "file")
    with console.working_by(console.configuration.model_copy(update={"log": log})):
        answer = console.person(OPERATOR).get("/log")
        assert answer.status_code == 409
        assert "cannot be read: Not a directory" in words(answer.text)
