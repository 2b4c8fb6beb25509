"""Routes edited in the console: tried over the studies that are held, saved into the file, and had back."""

from __future__ import annotations

import datetime as dt
import html
import re
from pathlib import Path

import pytest
import requests
import yaml
from audit.reading import read_trail
from sqlalchemy import update

from console.held_studies import STUDY, analyse, receive
from console.running_console import NEXT, ROUTES, RunningConsole, Visitor
from console.test_pages import words
from dicom_node.config import OrderRule, OrderSettings, Route, SeriesRule
from dicom_node.config_file import load_configuration
from dicom_node.config_section import section_lines, with_section, write_configuration_file
from dicom_node.errors import ConfigurationError
from pipelines.indication import Indication
from storage.ledger import utc_now
from storage.orders import Order, take_orders
from storage.overview import job_overviews
from storage.routes_versions import routes_versions
from storage.schema import AccountRole, JobState, StudyRow

VIEWER, OPERATOR, _ADMINISTRATOR = AccountRole
ANY_SERIES = """\
routes:
  # The heart, and nothing but the heart.
  cine:
    series:
      - series_description: "ci.*"   # of the scanner in room 2
        minimum_phases: null
    destinations: [pacs]   # ours
"""


class Editor:
    """The editor on the page Rules."""

    def __init__(self, person: Visitor, path: str = "/rules") -> None:
        self._person = person
        self._read(person.get(path))

    def _read(self, page: requests.Response) -> None:
        assert page.status_code == 200, page.text
        begin = page.text.index('class="code">') + len('class="code">')
        self.text = html.unescape(page.text[begin : page.text.index("</textarea>", begin)]).removeprefix("\n")
        self.began_with = re.search(r'name="began_with" value="([^"]*)"', page.text)[1]  # type: ignore[index]
        self.told = words(html.unescape(page.text))

    def press(self, what: str, **fields: str) -> str:
        """Press a button; what the page says then."""
        sent = {
            "csrf": self._person.csrf(),
            "text": self.text.replace("\n", "\r\n"),  # as browsers send it
            "began_with": self.began_with,
            "what": what,
        }
        answer = self._person.post("/rules", sent | fields)
        if answer.status_code == 303:
            answer = self._person.get(answer.headers["location"])
        self._read(answer)
        return self.told


def test_what_is_edited_are_the_lines_of_the_file(console: RunningConsole) -> None:
    assert Editor(console.person(OPERATOR)).text == ROUTES


def test_saved_routes_stand_in_the_file_and_nothing_else_there_is_touched(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    before = console.file.read_text(encoding="utf-8")
    console.file.chmod(0o640)
    editor = Editor(person)
    editor.text = ANY_SERIES
    told = editor.press("save", reason="room 2 says cine")
    assert "Saved as version 2. No node runs on this machine; it works by it when it is started." in told
    after = console.file.read_text(encoding="utf-8")
    assert after == before.replace(ROUTES, ANY_SERIES)
    assert NEXT in after
    assert console.file.stat().st_mode & 0o777 == 0o640
    assert load_configuration(console.file).routes["cine"].series[0].series_description == "ci.*"
    assert list(console.file.parent.glob(".config.yaml*")) == []
    first, second = reversed(routes_versions(console.ledger))
    assert (first.by, first.text) == ("the file", ROUTES)
    assert (second.by, second.reason, second.text) == ("operator", "room 2 says cine", ANY_SERIES)
    trail = console.configuration.audit.file
    assert trail is not None
    (alert,) = [one for one in read_trail(trail) if one.event == "110113"]
    assert alert.root.find("EventIdentification/EventTypeCode").get("csd-code") == "110131"
    assert "routes saved as version 2: room 2 says cine" in person.get("/audit?find=room 2").text


def test_an_old_version_is_had_back(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    editor = Editor(person)
    editor.text = ANY_SERIES
    editor.press("save", reason="room 2 says cine")
    assert "- series:" not in person.get("/rules").text
    assert '+ - series_description: "ci.*"' in Editor(person).told
    back = Editor(person, "/rules?version=1")
    assert back.text == ROUTES
    assert "Version 1 as it was; it is in use when you save it." in back.told
    assert "Saved as version 3." in back.press("save", reason="room 2 was wrong")
    assert ROUTES in console.file.read_text(encoding="utf-8")
    assert len(routes_versions(console.ledger)) == 3
    assert person.get("/rules?version=99").status_code == 404


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cine: [", "is not YAML at line 1"),
        ("cine: {destinations: [elsewhere]}", "no destination named 'elsewhere'"),
        ("cine: {analyses: [unheard-of], destinations: [pacs]}", "no analysis is named 'unheard-of'"),
        ("cine: {series: [{manufacturer: '('}], destinations: [pacs]}", "not a regular expression"),
        ("cine: {destinations: [pacs]}\ncine: {destinations: []}", "is written twice"),
        ("{}", "no study would be analysed"),
    ],
)
def test_routes_that_could_not_be_used_are_not_saved_and_what_was_typed_stays(
    console: RunningConsole, text: str, sentence: str
) -> None:
    before = console.file.read_bytes()
    editor = Editor(console.person(OPERATOR))
    editor.text = text
    assert sentence in editor.press("save", reason="to see")
    assert editor.text == text
    assert console.file.read_bytes() == before
    assert routes_versions(console.ledger) == ()


def test_routes_without_their_heading_are_saved_under_it(console: RunningConsole) -> None:
    editor = Editor(console.person(OPERATOR))
    editor.text = "# ours\ncine:\n  destinations: [pacs]\n"
    editor.press("save", reason="shorter")
    assert section_lines(console.file.read_text(encoding="utf-8"), "routes") == (
        "routes:\n  # ours\n  cine:\n    destinations: [pacs]\n"
    )


def test_what_somebody_else_has_changed_meanwhile_is_not_overwritten(console: RunningConsole) -> None:
    first, second = Editor(console.person(OPERATOR)), Editor(console.person(OPERATOR, "other"))
    first.text = second.text = ANY_SERIES
    assert "Saved as version 2." in first.press("save", reason="room 2")
    second.text = ROUTES.replace("ours", "theirs")
    assert "somebody has changed them since this page was opened" in second.press("save", reason="room 3")
    assert second.text == ROUTES.replace("ours", "theirs")
    assert ANY_SERIES in console.file.read_text(encoding="utf-8")


def test_a_reason_is_wanted_and_viewers_save_nothing(console: RunningConsole) -> None:
    editor = Editor(console.person(OPERATOR))
    assert "reason:" in editor.press("save")
    viewer = console.person(VIEWER)
    assert viewer.post("/rules", {"csrf": viewer.csrf(), "what": "save"}).status_code == 403
    assert viewer.post("/do/save-routes", {"csrf": viewer.csrf()}).status_code == 403
    assert routes_versions(console.ledger) == ()


def test_routes_that_the_environment_rules_over_are_not_saved(
    console: RunningConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOM_NODE__ROUTES__CINE__PRIORITY", "70")
    told = Editor(console.person(OPERATOR)).press("save", reason="to see")
    assert "DICOM_NODE__ROUTES__CINE__PRIORITY rules over the file" in told


def test_a_file_that_cannot_be_written_is_told_with_what_to_do(
    console: RunningConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file that is mounted by itself cannot be replaced; this process may write everywhere.
    def refuse(self: Path, _target: Path) -> None:
        raise OSError(16, "Device or resource busy", str(self))

    before = console.file.read_bytes()
    monkeypatch.setattr(Path, "replace", refuse)
    told = Editor(console.person(OPERATOR)).press("save", reason="to see")
    assert "cannot be written: Device or resource busy" in told
    assert "dicom-node reload" in told
    assert console.file.read_bytes() == before
    assert list(console.file.parent.glob(".config.yaml*")) == []


def test_a_program_saves_with_the_digest_of_what_it_read(console: RunningConsole) -> None:
    headers, url = console.token(OPERATOR), f"{console.root}/api/v1"
    written = requests.get(f"{url}/routes/text", headers=headers, timeout=60).json()
    assert written["text"] == ROUTES
    order = {"text": ANY_SERIES, "began_with": written["digest"], "reason": "by program"}
    saved = requests.post(f"{url}/actions/save-routes", json=order, headers=headers, timeout=60)
    assert saved.status_code == 200, saved.text
    assert requests.post(f"{url}/actions/save-routes", json=order, headers=headers, timeout=60).status_code == 409
    kept = requests.get(f"{url}/routes/versions", headers=headers, timeout=60).json()
    assert [one["by"] for one in kept] == ["token program", "the file"]


def test_edited_routes_are_held_against_those_in_use_over_the_last_month(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    receive(console)
    editor = Editor(person)
    assert "No route would take anything else." in editor.press("compare")
    editor.text = ANY_SERIES
    told = editor.press("compare")
    assert "1 study whose images are held" in told
    assert "cine 0 1 1 0 0" in told
    assert f"{STUDY} , route cine: would be taken, 1 series" in told
    assert editor.text == ANY_SERIES
    headers, url = console.token(OPERATOR), f"{console.root}/api/v1/routes/try"
    (count,) = requests.post(url, json={"routes": ANY_SERIES}, headers=headers, timeout=60).json()["routes"]
    assert (count["now"], count["then"], count["gained"], count["lost"]) == (0, 1, 1, 0)
    with console.ledger.transaction() as session:
        session.execute(update(StudyRow).values(last_received_at=utc_now() - dt.timedelta(days=40)))
    assert "0 studies whose images are held" in editor.press("compare")


def test_a_route_says_for_whom_it_is_and_before_which_it_stands_back(console: RunningConsole) -> None:
    orders = OrderSettings(port=2575, senders=("10.0.0.40",))
    infarct = Route(
        series=(SeriesRule(minimum_phases=None, order=OrderRule(diagnosis="I21.*")),),
        destinations=("pacs",),
        indication=Indication.ACUTE_INFARCT,
    )
    rest = Route(series=(SeriesRule(minimum_phases=None),), destinations=("pacs",), leaves_to=frozenset({"infarct"}))
    routes = {"infarct": infarct, "rest": rest}
    receive(console, accession="A1")
    with console.working_by(console.configuration.model_copy(update={"orders": orders, "routes": routes})):
        person = console.person(AccountRole.OPERATOR)
        told = words(html.unescape(person.get("/rules").text))
        assert "of a study with an order whose diagnosis is like “I21.*”" in told
        assert "Indication of its studies: acute infarct." in told
        assert "Leaves studies alone that route infarct takes." in told
        page = f"/studies/{STUDY}"
        assert "order: none has come for this study" in html.unescape(person.get(page).text)
        take_orders(console.ledger, "a" * 64, [Order("A1", "4711", diagnoses=("I21.0", "secret"))], now=utc_now())
        shown = html.unescape(person.get(page).text)
        assert "left out: the study is left to route infarct" in shown
        assert "secret" not in shown
        text = yaml.safe_dump({"rest": {"destinations": ["pacs"], "leaves_to": ["nobody"]}})
        refused = person.post("/rules", {"csrf": person.csrf(), "what": "try", "text": text, "find": STUDY})
        assert "routes.rest.leaves_to: no route named 'nobody'" in html.unescape(refused.text)


def test_a_study_is_run_with_another_route_once(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    receive(console)
    waiting = person.do("run-route", study=STUDY, route="cine", every_series="true", reason="it is one")
    assert "wait to be scheduled" in waiting
    analyse(console)
    assert "has analysed this version" in person.do(
        "run-route", study=STUDY, route="cine", every_series="true", reason="once more"
    )
    routes = console.configuration.routes
    with console.working_by(console.configuration.model_copy(update={"routes": routes | {"other": routes["cine"]}})):
        assert "takes no series of this study" in person.do("run-route", study=STUDY, route="other", reason="it is one")
        assert "there is no such route" in person.do("run-route", study=STUDY, route="third", reason="it is one")
        assert "<option>other</option>" in person.get(f"/studies/{STUDY}").text
        order = {"study": STUDY, "route": "other", "every_series": "true", "reason": "it is one"}
        assert person.do("run-route", **order) == "done: 1 job of route other queued."
        (job,) = [one for one in job_overviews(console.ledger) if one.route == "other"]
        assert (job.state, job.study_version, job.package) == (JobState.QUEUED, 1, "ventricular_function")
        assert person.do("run-route", **order).startswith("problem:")


# -- the text of the file ----------------------------------------------------------------------------------------------

WHOLE = """\
# Ours.
node: {port: 11112}

# What goes where.
routes:
# even a comment at the margin
  a: {destinations: []}
  b:
    destinations: []

# Where state lives.
storage:
  durable: true
"""


def test_a_section_is_its_lines_without_what_belongs_to_the_next() -> None:
    lines = section_lines(WHOLE, "routes")
    assert lines.splitlines()[0] == "routes:"
    assert lines.splitlines()[-1] == "    destinations: []"
    assert "# even a comment at the margin" in lines
    assert section_lines(WHOLE, "storage") == "storage:\n  durable: true\n"
    assert section_lines(WHOLE, "peers") == ""
    assert with_section(WHOLE, "routes", lines) == WHOLE


def test_a_section_that_is_absent_comes_last() -> None:
    assert with_section(WHOLE, "peers", "peers: {}\n") == WHOLE + "peers: {}\n"
    assert with_section("", "peers", "peers: {}") == "peers: {}\n"
    assert with_section("node: {}", "peers", "peers: {}") == "node: {}\npeers: {}\n"


@pytest.mark.parametrize("text", ["{node: {}}", "- a", "a: ["])
def test_a_file_that_is_written_otherwise_is_not_edited(text: str) -> None:
    with pytest.raises(ConfigurationError):
        section_lines(text, "routes")


def test_line_ends_and_links_stay(tmp_path: Path) -> None:
    file, link = tmp_path / "real.yaml", tmp_path / "config.yaml"
    file.write_bytes(b"node: {}\r\n")
    link.symlink_to(file)
    write_configuration_file(link, "node: {}\nroutes: {}\n")
    assert link.is_symlink()
    assert file.read_bytes() == b"node: {}\r\nroutes: {}\r\n"
