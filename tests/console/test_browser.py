"""The console in real Chromium: every page and every button, by people who see, hear or type."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import update

from console.browser import DESKTOP, PHONE, Visit, browse
from console.held_studies import STUDY, analyse, deliver, receive, receive_otherwise
from console.running_console import PASSWORD, ROUTES, RunningConsole, Visitor
from dicom_node.log_files import LogFile, LogFolder
from storage.assessments import assessments
from storage.overview import delivery_overviews, quarantine_overviews, study_overviews
from storage.paused import paused_destinations
from storage.schema import AccountRole, AssessmentResult, DeliveryRow, DeliveryState

pytestmark = pytest.mark.peers

REFUSED = "A900: data set does not match its SOP class"
PAGES = {
    "now": "/",
    "studies": "/studies",
    "study": f"/studies/{STUDY}",
    "deliveries": "/deliveries",
    "rules": "/rules",
    "models": "/models",
    "audit": "/audit",
    "log": "/log",
    "accounts": "/accounts",
}


@pytest.fixture
def busy(console: RunningConsole) -> RunningConsole:
    """A console with one study of which a result was refused, and which comes again at this moment."""
    association = receive(console)
    job = analyse(console, names_patient=False)
    write_log(console, association, job)
    deliver(console, error=REFUSED)
    receive(console, count=4, ended=False)
    return console


def write_log(console: RunningConsole, association: str, job: int) -> None:
    """What processes would have said of a study, at noon and half a minute later."""
    directory = console.configuration.log.directory
    assert directory is not None
    folder = LogFolder(directory, "node", 1 << 20, 4)
    line = {"level": "info", "event": "association ended", "timestamp": "2026-11-29T12:00:00.000000Z"}
    LogFile(folder, "receiver-0").write({**line, "association": association, "outcome": "released"})
    failed = {"level": "error", "event": "result failed the gate", "timestamp": "2026-11-29T12:00:30.000000Z"}
    problems = ["Missing attribute Type 1 Required Element=<PixelSpacing> Module=<ImagePlane>"] * 3
    LogFile(folder, "cpu-0").write({**failed, "study_instance_uid": STUDY, "job": job, "problems": problems})


@pytest.fixture
def administrator(console: RunningConsole) -> str:
    """The cookie of an administrator."""
    return cookie_of(console.person(AccountRole.ADMINISTRATOR))


def cookie_of(person: Visitor) -> str:
    cookie = person.session.cookies.get("console")
    assert cookie
    return cookie


def without_problems(visit: Visit, steps: list[tuple[str, ...]]) -> Visit:
    assert visit.problems == ()
    assert visit.done == len(steps)
    return visit


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE)], ids=["light", "dark", "phone"]
)
def test_every_page_can_be_read_by_everybody(
    busy: RunningConsole, administrator: str, tmp_path: Path, scheme: str, width: int
) -> None:
    steps: list[tuple[str, ...]] = []
    for name, path in PAGES.items():
        # The forms, too, that nobody has opened yet.
        opened = f"{name}-unfolded"
        steps += [("go", path), ("wide", name), ("picture", name), ("unfold",), ("wide", opened), ("axe", opened)]
    visit = browse(busy.root, steps, tmp_path, cookie=administrator, scheme=scheme, width=width)
    without_problems(visit, steps)
    assert visit.serious == []
    # Nothing sticks out to the side.
    assert set(visit.values.values()) == {0}
    for name in PAGES:
        page = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert (np.median(page) < 64) == (scheme == "dark"), name
        assert page.std() > 5, f"{name} is empty"


@pytest.mark.parametrize("width", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_names_without_a_blank_do_not_stick_out(console: RunningConsole, tmp_path: Path, width: int) -> None:
    receive(console, description=64 * "W")
    analyse(console)
    deliver(console, error=300 * "W")
    cookie = cookie_of(console.person(AccountRole.OPERATOR))
    pages = {"study": f"/studies/{STUDY}", "deliveries": "/deliveries"}
    steps = [step for name, path in pages.items() for step in (("go", path), ("see", "WWW"), ("wide", name))]
    visit = browse(console.root, steps, tmp_path, cookie=cookie, width=width)
    without_problems(visit, steps)
    assert set(visit.values.values()) == {0}


def test_the_pages_before_log_in_can_be_read_by_everybody(console: RunningConsole, tmp_path: Path) -> None:
    link = f"/invitation/{console.invitation(AccountRole.VIEWER)}"
    steps = [("go", "/log-in"), ("axe", "log-in"), ("go", link), ("axe", "invitation")]
    assert without_problems(browse(console.root, steps, tmp_path), steps).violations == ()


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE)], ids=["light", "dark", "phone"]
)
def test_routes_are_edited_tried_saved_and_had_back(
    console: RunningConsole, tmp_path: Path, scheme: str, width: int
) -> None:
    receive(console)
    cookie = cookie_of(console.person(AccountRole.OPERATOR, "olga"))
    edited = "routes:\n  cine:   # room 2\n    series: [{minimum_phases: null}]\n    destinations: [pacs]\n"
    steps = [
        ("go", "/rules"),
        ("fill", "Routes, as in config.yaml", edited),
        ("fill", "Study", STUDY),
        ("press", "Try them"),
        ("see", "taken by rule 1"),
        ("press", "Compare over the last month"),
        ("see", "would be taken, 1 series"),
        ("wide", "compared"),
        ("picture", "compared"),
        ("axe", "compared"),
        ("fill", "Reason", "room 2 says otherwise"),
        ("press", "Save and use them"),
        ("see", "Saved as version 2."),
        ("open", "Show those of 2"),
        ("wide", "saved"),
        ("picture", "saved"),
        ("axe", "saved"),
        ("follow", "Version 1 into the editor"),
        ("see", "Version 1 as it was"),
        ("fill", "Reason", "room 2 was wrong"),
        ("press", "Save and use them"),
        ("see", "Saved as version 3."),
    ]
    visit = browse(console.root, steps, tmp_path, cookie=cookie, scheme=scheme, width=width)
    without_problems(visit, steps)
    assert visit.serious == []
    assert visit.values == {"compared": 0, "saved": 0}
    assert ROUTES in console.file.read_text(encoding="utf-8")


def test_axe_sees_what_is_wrong(console: RunningConsole, administrator: str, tmp_path: Path) -> None:
    steps = [("go", "/"), ("spoil", '<img src="/static/icon.svg"><input>'), ("axe", "spoilt")]
    visit = without_problems(browse(console.root, steps, tmp_path, cookie=administrator), steps)
    assert {one["rule"] for one in visit.serious} >= {"image-alt", "label"}


def test_the_keyboard_is_enough(console: RunningConsole, tmp_path: Path) -> None:
    receive(console)
    analyse(console)
    cookie = cookie_of(console.person(AccountRole.VIEWER))
    steps = [
        ("go", f"/studies/{STUDY}"),
        ("keys", "Tab"),
        ("focus", "first"),
        ("keys", "Enter", "Tab"),
        ("focus", "within the content"),
        # The paragraph for the report, then the button that copies it.
        ("keys", "Tab", "Tab"),
        ("focus", "after it"),
        ("keys", "Enter"),
        ("see", "In words that name no patient."),
        ("keys", "Tab", "g", "o", "o", "d", "Tab", "Enter"),
        ("see", "Kept: results of ventricular_function accepted."),
    ]
    visit = without_problems(browse(console.root, steps, tmp_path, cookie=cookie, bypass_csp=False), steps)
    assert visit.values["first"] == "Skip to the content"
    assert visit.values["within the content"].startswith("Left ventricle: ejection fraction")
    assert visit.values["after it"] == "Judge these results"
    (given,) = assessments(console.ledger)
    assert given.comment == "good"


def test_times_are_in_the_readers_zone_and_in_utc_without_scripts(
    busy: RunningConsole, administrator: str, tmp_path: Path
) -> None:
    steps = [("go", "/studies"), ("read", "time", "tbody time"), ("read", "zone", "[data-zone]")]
    local = browse(busy.root, steps, tmp_path, cookie=administrator, bypass_csp=False)
    plain = browse(busy.root, steps, tmp_path, cookie=administrator, scripts=False)
    assert without_problems(local, steps).values["zone"] in ("times in Asia/Calcutta", "times in Asia/Kolkata")
    assert without_problems(plain, steps).values["zone"] == "times in UTC"
    (study,) = study_overviews(busy.ledger)
    received = study.last_received_at
    assert plain.values["time"] == f"{received:%Y-%m-%d %H:%M:%S} UTC"
    # India is 5 h 30 min ahead.
    shifted = received.timestamp() + 5.5 * 3600
    expected = time.strftime("%d/%m/%Y, %H:%M:%S", time.gmtime(shifted))
    assert local.values["time"] == expected


def test_the_log_is_searched_by_times_in_the_readers_zone_and_with_the_keyboard_alone(
    busy: RunningConsole, administrator: str, tmp_path: Path
) -> None:
    # In India noon of UTC is half past five.
    local = [
        ("go", f"/studies/{STUDY}"),
        ("follow", "The log of this study"),
        ("see", "association ended"),
        ("see", "result failed the gate"),
        ("fill", "From", "2026-11-29T17:30:15"),
        ("press", "Find"),
        ("see", "result failed the gate"),
        ("gone", "association ended"),
        ("value", "from", "input[name=since]"),
        ("fill", "To", "2026-11-29T17:30:20"),
        ("press", "Find"),
        ("see", "Nothing was found."),
        ("go", "/log"),
        ("spot", "input[name=find]"),
        ("keys", *"gate", "Enter"),
        ("see", "result failed the gate"),
        ("gone", "association ended"),
    ]
    visit = browse(busy.root, local, tmp_path, cookie=administrator, bypass_csp=False, scripts_late_ms=500)
    without_problems(visit, local)
    assert visit.values["from"] == "2026-11-29T17:30:15"
    plain = [
        ("go", "/log"),
        ("fill", "From (UTC)", "2026-11-29T12:00:15"),
        ("press", "Find"),
        ("see", "result failed the gate"),
        ("gone", "association ended"),
    ]
    without_problems(browse(busy.root, plain, tmp_path, cookie=administrator, scripts=False), plain)


@pytest.fixture
def arriving_once_seen(console: RunningConsole, tmp_path: Path) -> Iterator[None]:
    """A study that begins to arrive once a picture has been taken of the page before."""
    over = threading.Event()

    def arrive() -> None:
        while not (tmp_path / "before.png").exists():
            if over.wait(0.1):
                return
        receive(console, ended=False)

    thread = threading.Thread(target=arrive)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.usefixtures("arriving_once_seen")
def test_now_renews_itself(console: RunningConsole, administrator: str, tmp_path: Path) -> None:
    steps = [
        ("go", "/"),
        ("see", "Nothing is coming in."),
        ("picture", "before"),
        ("see", "1 association still open"),
        ("see", "receiving"),
    ]
    without_problems(browse(console.root, steps, tmp_path, cookie=administrator, bypass_csp=False), steps)


def refuse_once_more(console: RunningConsole) -> None:
    """What was given up is a dead letter again: no button does that."""
    with console.ledger.transaction() as session:
        session.execute(update(DeliveryRow).values(state=DeliveryState.DEAD))


def kinds(names: Iterable[frozenset[str]]) -> frozenset[str]:
    """Names of buttons, of which several differ by a number only."""
    return frozenset(re.sub(r"\d+", "N", name) for of_visit in names for name in of_visit)


@pytest.mark.slow
def test_every_button_of_the_console_is_pressed(console: RunningConsole, tmp_path: Path) -> None:
    """From the invitation of the administrator to the log-out, without a look at anything but the pages."""
    receive(console)
    job = analyse(console, names_patient=False)
    deliver(console, error=REFUSED)
    receive_otherwise(console, 2)
    first, second = sorted(one.id for one in quarantine_overviews(console.ledger))
    link = f"/invitation/{console.invitation(AccountRole.ADMINISTRATOR)}"
    visits: list[Visit] = []

    def visit(*steps: tuple[str, ...]) -> None:
        cookie = visits[-1].values["console"] if visits else ""
        whole = [*steps, ("cookie", "console")]
        visits.append(without_problems(browse(console.root, whole, tmp_path, cookie=cookie, bypass_csp=False), whole))

    def because(opened: str, reason: str) -> list[tuple[str, ...]]:
        return [("open", opened), ("fill", "Reason", reason), ("press", opened)]

    visit(
        ("go", "/deliveries"),
        ("see", "Log in"),
        ("go", link),
        ("fill", "Name", "ann"),
        ("fill", "Password", PASSWORD),
        ("fill", "The same again", PASSWORD),
        ("press", "Choose it and log in"),
        ("see", "Not all is well"),
        # Deliveries: each destination, dead letters, and what was kept aside.
        ("follow", "Deliveries"),
        ("press", "Test the connection"),
        ("see", "cannot be reached"),
        ("press", "Test in full"),
        ("see", "C-ECHO"),
        *because("Pause", "the PACS is being moved"),
        ("see", "ann paused it"),
        ("press", "Resume"),
        ("see", "pacs is sent to again."),
        *because(f"Send job {job} again", "mended there"),
        ("see", "1 delivery queued."),
        *because(f"Take {first} in", "the scanner was mended"),
        ("see", f"Object {first} taken in; its study is scheduled again."),
        *because(f"Drop {second}", "it is noise"),
        ("see", f"Object {second} dropped."),
    )
    deliver(console, error=REFUSED)
    visit(("go", "/deliveries"), *because("Send dead letters again", "mended again"), ("see", "1 delivery queued."))
    deliver(console, error=REFUSED)
    visit(
        ("go", f"/studies/{STUDY}"),
        *because("Send results again", "mended for good"),
        ("see", "1 delivery queued."),
    )
    deliver(console, error=REFUSED)
    visit(("go", "/deliveries"), *because(f"Give job {job} up", "nobody wants it"), ("see", "1 delivery given up."))
    refuse_once_more(console)
    visit(("go", "/deliveries"), *because("Give dead letters up", "nobody does"), ("see", "1 delivery given up."))
    refuse_once_more(console)
    visit(
        ("go", f"/studies/{STUDY}"),
        *because("Give deliveries up", "nobody does"),
        ("see", "1 delivery given up."),
        ("press", "Copy"),
        ("see", "/Copied|It is selected/"),
        *(
            step
            for button, result in (("Accept", "accepted"), ("Reject", "rejected"), ("I corrected them", "corrected"))
            for step in (
                ("open", "Judge these results"),
                ("fill", "Comment", "base cut"),
                ("press", button),
                ("see", f"Kept: results of ventricular_function {result}."),
            )
        ),
        *because("Run again", "other weights"),
        ("see", f"Job {job} is queued again."),
        ("open", "Run with another route"),
        ("choose", "Route", "cine"),
        ("fill", "Reason", "to see it by the other one"),
        ("press", "Run with another route"),
        ("see", "takes no series of this study"),
        ("go", "/studies"),
        ("fill", "Find a study", STUDY),
        ("press", "Find"),
        ("see", "MR1"),
        # Rules are edited, tried and saved in a test of their own; so is the whole of what reading again does.
        ("follow", "Rules"),
        ("open", "Read the file again"),
        ("keys", "Tab", *"edited"),
        ("press", "Read the file again"),
        ("see", "no node runs on this machine"),
        ("press", "Compare over the last month"),
        ("see", "No route would take anything else."),
        ("fill", "Study", STUDY),
        ("press", "Try them"),
        ("see", "left out"),
        ("fill", "Reason", "to see it saved"),
        ("press", "Save and use them"),
        ("see", "Saved as version"),
        ("follow", "Log"),
        ("press", "Find"),
        ("see", "Nothing was found."),
        # People and programs.
        ("follow", "Accounts"),
        ("fill", "Name", "ben"),
        ("choose", "Role", "operator"),
        ("press", "Make a link"),
        ("see", "Shown once"),
        ("follow", "Back"),
        ("fill", "Name of the program", "report"),
        ("press", "Make a token"),
        ("see", "Shown once"),
        ("follow", "Back"),
        ("open", "Revoke report"),
        ("press", "Revoke report"),
        ("see", "The token of report holds no longer."),
    )
    console.account(AccountRole.VIEWER, "eve")
    visit(
        ("go", "/accounts"),
        ("open", "Change role of eve"),
        ("choose", "Role", "operator"),
        ("press", "Change role of eve"),
        ("see", "eve is operator from now on"),
        ("press", "New password for eve"),
        ("see", "Shown once"),
        ("follow", "Back"),
        ("open", "Let eve in no more"),
        ("press", "Let eve in no more"),
        ("see", "eve is let in no more."),
        ("go", f"/studies/{STUDY}"),
        *because("Delete the study", "sent to the wrong node"),
        ("see", "instances and 1 result deleted."),
        ("follow", "Audit"),
        ("fill", "Find", "wrong node"),
        ("press", "Find"),
        ("see", "DICOM Study Deleted"),
        ("press", "Log out"),
        ("see", "Log in"),
        ("fill", "Name", "ann"),
        ("fill", "Password", PASSWORD),
        ("press", "Log in"),
        ("see", "Studies received last"),
    )
    seen, pressed = kinds(one.buttons for one in visits), kinds(one.pressed for one in visits)
    # Of one's own account none.
    assert {one for one in seen - pressed if not one.endswith((" ann", " ann in no more"))} == set()
    assert len(pressed) > 30
    assert paused_destinations(console.ledger) == ()
    assert [one.result for one in assessments(console.ledger)] == list(AssessmentResult)
    assert {one.state for one in delivery_overviews(console.ledger)} == {DeliveryState.DISMISSED}
    (study,) = study_overviews(console.ledger)
    assert study.instances == 0
