"""The audit trail in the console: what is found in its files, in how many bytes, and turned over in both directions."""

from __future__ import annotations

import datetime as dt
import gzip
import itertools
import os
import random
from pathlib import Path

import pytest
import requests

from console.reading import count_reads
from console.running_console import RunningConsole
from console.test_pages import words
from dicom_node.audit.messages import AuditMessage, Participant, configuration_changed
from dicom_node.audit.trail import AuditTrail, line
from dicom_node.console.audit import (
    LOOKED_AT_BYTES,
    AuditEntry,
    AuditPage,
    AuditQuery,
    PlaceInTrail,
    search_trail,
)
from storage import overview
from storage.ledger import open_ledger, record_event
from storage.overview import search_events
from storage.schema import AccountRole

NOON = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
NODE = Participant("console", "NODE", "node")


def after(hours: float) -> dt.datetime:
    return NOON + dt.timedelta(hours=hours)


def message(words: str, hours: float, *, who: str = "ann") -> AuditMessage:
    return configuration_changed(Participant(who, who, "10.0.0.1"), NODE, description=words, at=after(hours))


def back_and_forth(file: Path, query: AuditQuery, limit: int) -> list[AuditEntry]:
    """All pages backwards; forwards again they hold the same, each message once."""
    pages = [search_trail(file, query, limit=limit)]
    while pages[-1].older:
        pages.append(search_trail(file, query, before=PlaceInTrail.read(pages[-1].older), limit=limit))
    assert all(len(page.entries) <= limit for page in pages)
    assert not pages[0].newer
    backwards = [entry for page in pages for entry in page.entries]
    page, forwards = pages[-1], list(pages[-1].entries)
    while page.newer:
        page = search_trail(file, query, after=PlaceInTrail.read(page.newer), limit=limit)
        forwards = [*page.entries, *forwards]
    assert forwards == backwards
    return backwards


@pytest.mark.parametrize("seed", range(4))
def test_every_message_is_found_once_however_files_and_pages_divide_them(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    file = tmp_path / "audit.log"
    trail = AuditTrail(file, NODE)
    written: list[tuple[str, float]] = []
    hours, rotated = 0.0, 0
    for number in range(150):
        hours += dice.choice([0.0, 0.1, 3.0])
        # What was received is told late where the auditor was away.
        told = hours - dice.choice([0.0, 0.0, 20.0])
        written.append((f"number {number} {'x' * dice.choice([0, 3000])}", told))
        trail.append([message(*written[-1])])
        if dice.random() < 0.05:
            with file.open("ab") as torn:
                torn.write(line(message("torn", told), host="node", process="console")[:60])
        if dice.random() < 0.08:
            rotated += 1
            older = tmp_path / f"audit.log.{rotated}"
            file.rename(older)
            os.utime(older, (rotated, rotated))
            if dice.random() < 0.5:
                with gzip.open(f"{older}.gz", "wb") as packed:
                    packed.write(older.read_bytes())
                os.utime(f"{older}.gz", (rotated, rotated))
                if dice.random() < 0.8:
                    # Otherwise it is being compressed at this moment.
                    older.unlink()
    (tmp_path / "audit.log.position").write_text("how far the collector has come")
    trail.close()
    assert rotated > 3
    since, until = sorted(dice.uniform(0, hours) for _ in range(2))
    for query, wanted in (
        (AuditQuery(), lambda _: True),
        (AuditQuery("NUMBER 7"), lambda one: one[0].startswith("number 7")),
        (AuditQuery(since=after(since), until=after(until)), lambda one: since <= one[1] <= until),
        (AuditQuery(until=after(since)), lambda one: one[1] <= since),
    ):
        for limit in (1000, dice.randint(1, 20)):
            found = [entry.words for entry in back_and_forth(file, query, limit)]
            assert found == [words for words, told in reversed(written) if wanted((words, told))], (query, limit)


def test_a_trail_of_years_is_searched_some_megabytes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "audit.log"
    model = line(message("said", 0, who="needle"), host="node", process="console")
    stamp = b"2026-11-29T12:00:00.000000Z"
    with file.open("wb") as trail:
        trail.write(model)
        for number in itertools.count(1):
            if trail.tell() > 3 * LOOKED_AT_BYTES:
                break
            at = after(number).isoformat(timespec="microseconds").replace("+00:00", "Z").encode()
            trail.write(model.replace(stamp, at).replace(b"needle", b"number"))
    read = count_reads(monkeypatch)

    def searched(query: AuditQuery, before: PlaceInTrail | None = None) -> tuple[AuditPage, int]:
        read[0] = 0
        return search_trail(file, query, before=before, limit=50), read[0]

    middle = after(15_000)
    page, cost = searched(AuditQuery(until=middle))
    assert (page.entries[0].at, len(page.entries), cost < 3 << 20) == (middle, 50, True)
    page, cost = searched(AuditQuery("needle"))
    assert (page.entries, page.looked_to is not None) == ((), True)
    pages = 1
    while page.older:
        page, cost = searched(AuditQuery("needle"), PlaceInTrail.read(page.older))
        assert cost < LOOKED_AT_BYTES + (1 << 20)
        pages += 1
    assert ([one.at for one in page.entries], pages) == ([NOON], 3)


def test_what_cannot_be_searched_is_named_and_what_was_removed_is_the_end(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    assert search_trail(file, AuditQuery()) == AuditPage((), "", "", None, ())
    trail = AuditTrail(file, NODE)
    for number in range(2):
        trail.append([message(f"{number}", number), message(f"{number}", number + 0.5)])
        file.rename(tmp_path / f"audit.log.{number}")
        os.utime(tmp_path / f"audit.log.{number}", (number, number))
    trail.append([message("last", 3)])
    trail.close()
    (tmp_path / "audit.log.7.xz").write_bytes(b"whatever")
    (tmp_path / "audit.log.8.gz").write_bytes(b"not gzip")
    page = search_trail(file, AuditQuery(), limit=3)
    assert ([one.words for one in page.entries], page.not_searched) == (
        ["last", "1", "1"],
        ("audit.log.7.xz", "audit.log.8.gz"),
    )
    place = PlaceInTrail.read(page.older)
    (tmp_path / "audit.log.1").unlink()
    assert search_trail(file, AuditQuery(), before=place).entries == ()
    assert [one.words for one in search_trail(file, AuditQuery(), after=place).entries] == ["last", "0", "0"]
    for text in ("", "x", "0123456789abcdef-", f"{place}0000000000000000000"):
        with pytest.raises(ValueError, match="not a place"):
            PlaceInTrail.read(text)


def test_events_are_turned_over_a_page_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    with ledger.transaction() as session:
        for number in range(100):
            record_event(session, "needle" if number == 3 else "hay", str(number), at=after(number))
    monkeypatch.setattr(overview, "LOOKED_AT_EVENTS", 30)
    for asked, numbers in (
        ({}, range(100)),
        ({"since": after(20), "until": after(60)}, range(20, 61)),
        ({"text": "NEEDLE"}, [3]),
        ({"text": "straw"}, []),
    ):
        page, backwards = search_events(ledger, **asked, limit=7), []
        assert page.newer is None
        while True:
            backwards += [one.subject for one in page.events]
            if page.older is None:
                break
            page = search_events(ledger, **asked, before=page.older, limit=7)
        forwards = [one.subject for one in page.events]
        while page.newer is not None:
            page = search_events(ledger, **asked, after=page.newer, limit=7)
            forwards = [one.subject for one in page.events] + forwards
        assert backwards == [str(number) for number in reversed(numbers)] == forwards, asked
    broke_off = search_events(ledger, text="needle", limit=7)
    assert (broke_off.events, broke_off.looked_to) == ((), after(70))
    ledger.close()


def test_the_page_is_turned_over_by_its_buttons(console: RunningConsole) -> None:
    person = console.person(AccountRole.OPERATOR)
    file = console.configuration.audit.file
    assert file is not None
    trail = AuditTrail(file, NODE)
    trail.append([message(f"change {number:03}", number, who="bob") for number in range(250)])
    trail.close()
    with console.ledger.transaction() as session:
        for number in range(230):
            record_event(session, "told", f"subject {number:03}", at=after(number))

    def button(page: str, words: str) -> str:
        found = [part for part in page.split("<a ") if f">{words}</a>" in part]
        return found[0].split('href="')[1].split('"')[0].replace("&amp;", "&").partition("#")[0] if found else ""

    first = person.get("/audit?find=bob").text
    assert ("change 249" in first, "change 049" in first, button(first, "Newer messages")) == (True, False, "")
    second = person.get(button(first, "Older messages")).text
    assert ("change 050" in second, "change 049" in second) == (False, True)
    assert button(second, "Older messages") == ""
    again = person.get(button(second, "Newer messages")).text
    assert ("change 050" in again, "change 249" in again) == (True, True)
    assert button(second, "The newest messages") == "/audit?find=bob"
    # The other list of the page is turned over by itself.
    events = person.get("/audit?find=told").text
    older = person.get(button(events, "Older events")).text
    assert ("subject 030" in events, "subject 029" in events) == (True, False)
    assert ("subject 030" in older, "subject 029" in older) == (False, True)
    assert "Nothing was found" in words(person.get("/audit?until=2020-01-01T00:00").text)
    assert person.get("/audit?before=nowhere").status_code == 422
    told = requests.get(
        f"{console.root}/api/v1/audit?find=bob&limit=2", headers=console.token(AccountRole.OPERATOR), timeout=60
    ).json()
    assert [one["words"] for one in told["page"]["entries"]] == ["change 249", "change 248"]
