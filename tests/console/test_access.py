"""Who is let in, how, and what each role may."""

from __future__ import annotations

import datetime as dt
import platform
import re
from pathlib import Path

import pytest
import requests
import structlog
from audit.reading import read_trail
from fastapi.routing import APIRoute
from sqlalchemy import select, update

from console.running_console import (
    FORM,
    PASSWORD,
    RunningConsole,
    console_node,
    console_thread,
    found,
    notice,
)
from dicom_node import cli
from dicom_node.config import ConsoleSettings
from dicom_node.console.access import local_path
from dicom_node.console.actions import ACTIONS
from dicom_node.console.api import api_router
from dicom_node.console.links import new_invitation
from dicom_node.console.pages import pages_router
from dicom_node.console.passwords import hashed, matches, needs_new_hash, password_mistake
from dicom_node.console.throttle import OF_BOTH, WINDOW
from storage.accounts import SEEN_EVERY, account_named, accounts, invitation, secret_digest
from storage.ledger import open_ledger, utc_now
from storage.schema import AccountRole, ApiTokenRow, ConsoleSessionRow, InvitationRow, LogInFailureRow

VIEWER, OPERATOR, ADMINISTRATOR = AccountRole
PROVIDER = {
    "issuer": "https://login.example.org",
    "client_id": "dicom-node",
    "url": "https://console.example.org",
    "roles": {"viewer": ["radiology"]},
}
PAGES = {
    "/": VIEWER,
    "/studies": VIEWER,
    "/deliveries": VIEWER,
    "/rules": VIEWER,
    "/models": VIEWER,
    "/audit": OPERATOR,
    "/accounts": ADMINISTRATOR,
}
API = {
    "/api/v1/now": VIEWER,
    "/api/v1/studies": VIEWER,
    "/api/v1/deliveries": VIEWER,
    "/api/v1/routes": VIEWER,
    "/api/v1/models": VIEWER,
    "/api/v1/quarantine": VIEWER,
    "/api/v1/assessments": VIEWER,
    "/api/v1/assessments.csv": VIEWER,
    "/api/v1/openapi.json": VIEWER,
    "/api/v1/audit": OPERATOR,
    "/api/v1/events": OPERATOR,
    "/api/v1/accounts": ADMINISTRATOR,
}


def every_path(method: str) -> list[str]:
    """Paths of all pages and of the REST API that answer a method."""
    routes = (*pages_router().routes, *api_router().routes)
    paths = [one.path for one in routes if isinstance(one, APIRoute) and method in one.methods]
    assert len(paths) > 15
    return [re.sub(r"\{\w+\}", "1", path) for path in paths]


def test_no_path_answers_a_stranger(console: RunningConsole) -> None:
    stranger = console.stranger()
    for method in ("GET", "POST"):
        for path in every_path(method):
            answer = stranger.session.request(method, f"{console.root}{path}", allow_redirects=False, timeout=60)
            assert answer.status_code == (401 if path.startswith("/api/") else 303), path
            assert "csrf" not in answer.text


@pytest.mark.parametrize("path", [*PAGES, "/studies/1.2.3", "/studies/1.2.3/pages/1.png"])
def test_no_page_without_log_in(console: RunningConsole, path: str) -> None:
    answer = console.stranger().get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/log-in")


def test_nothing_is_done_or_told_without_log_in(console: RunningConsole) -> None:
    stranger = console.stranger()
    for action in ACTIONS:
        assert stranger.post(f"/do/{action.name}", {"csrf": ""}).headers["location"] == "/log-in"
        assert requests.post(f"{console.root}/api/v1/actions/{action.name}", json={}, timeout=60).status_code == 401
    for path in API:
        assert stranger.get(path).status_code == 401


@pytest.mark.parametrize("role", AccountRole)
def test_each_role_sees_its_pages_and_no_others(console: RunningConsole, role: AccountRole) -> None:
    person, token = console.person(role), console.token(role)
    for path, needed in (PAGES | API).items():
        expected = 200 if role.includes(needed) else 403
        assert person.get(path).status_code == expected, path
    for path, needed in API.items():
        assert console.stranger().get(path, **token).status_code == (200 if role.includes(needed) else 403), path
    shown = person.get("/").text
    assert ('href="/audit"' in shown) == role.includes(OPERATOR)
    assert ('href="/accounts"' in shown) == role.includes(ADMINISTRATOR)


@pytest.mark.parametrize("role", AccountRole)
def test_each_role_does_its_actions_and_no_others(console: RunningConsole, role: AccountRole) -> None:
    person, token = console.person(role), console.token(role)
    for action in ACTIONS:
        # Nothing is said of what is to be done: who may do it is told what is missing.
        page = person.post(f"/do/{action.name}", {"csrf": person.csrf()})
        assert page.status_code == (303 if role.includes(action.role) else 403), action.name
        called = requests.post(f"{console.root}/api/v1/actions/{action.name}", json={}, headers=token, timeout=60)
        assert called.status_code == (422 if role.includes(action.role) else 403), action.name


def test_a_form_needs_the_token_of_its_session(console: RunningConsole) -> None:
    person, other = console.person(OPERATOR), console.person(OPERATOR, "another")
    fields = {"destination": "pacs", "reason": "maintenance"}
    for csrf in ("", "guessed", other.csrf()):
        assert person.post("/do/pause", {**fields, "csrf": csrf}).status_code == 403
        by_browser = person.session.post(
            f"{console.root}/api/v1/actions/pause", json=fields, headers={"X-CSRF-Token": csrf}, timeout=60
        )
        assert by_browser.status_code == 403
    assert person.post("/log-out", {}).status_code == 403
    elsewhere = person.post("/do/pause", {**fields, "csrf": person.csrf()}, {"Origin": "https://elsewhere.example"})
    assert elsewhere.status_code == 403
    cross_site = person.post("/do/pause", {**fields, "csrf": person.csrf()}, {"Sec-Fetch-Site": "cross-site"})
    assert cross_site.status_code == 403
    assert person.do("pause", **fields).startswith("done:")


def test_the_log_in_form_is_the_consoles_own(console: RunningConsole) -> None:
    name, stranger = console.account(VIEWER), console.stranger()
    fields = {"name": name, "password": PASSWORD}
    assert stranger.post("/log-in", {**fields, "form": ""}).status_code == 403
    assert stranger.post("/log-in", {**fields, "form": "guessed"}).status_code == 403
    form = found(FORM, stranger.get("/log-in").text)
    assert console.stranger().post("/log-in", {**fields, "form": form}).status_code == 403
    assert stranger.post("/log-in", {**fields, "form": form}, {"Origin": "https://elsewhere"}).status_code == 403
    assert stranger.post("/log-in", {**fields, "form": form}).status_code == 303


def test_a_wrong_name_and_a_wrong_password_say_the_same(console: RunningConsole) -> None:
    name = console.account(VIEWER)
    answers = [console.stranger().log_in(*given) for given in ((name, "wrong password"), ("nobody", PASSWORD))]
    assert [one.status_code for one in answers] == [401, 401]
    assert len({notice(one.text) for one in answers}) == 1


def test_failures_slow_the_next_log_in_and_time_heals(console: RunningConsole) -> None:
    name, stranger = console.account(VIEWER), console.stranger()
    for _ in range(OF_BOTH):
        assert stranger.log_in(name, "wrong password").status_code == 401
    refused = console.stranger().log_in(name, PASSWORD)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= WINDOW.total_seconds()
    # Another name from the same address still may.
    assert console.stranger().log_in(console.account(VIEWER, "other"), PASSWORD).status_code == 303
    with console.ledger.transaction() as session:
        session.execute(update(LogInFailureRow).values(at=utc_now() - WINDOW))
    assert stranger.log_in(name, PASSWORD).status_code == 303


def test_a_log_in_that_succeeds_counts_against_nobody(console: RunningConsole) -> None:
    name = console.account(VIEWER)
    for _ in range(OF_BOTH + 1):
        assert console.stranger().log_in(name, PASSWORD).status_code == 303


@pytest.mark.parametrize(
    ("column", "ago"), [("seen_at", dt.timedelta(minutes=30)), ("began_at", dt.timedelta(hours=12))]
)
def test_a_session_ends(console: RunningConsole, column: str, ago: dt.timedelta) -> None:
    person = console.person(VIEWER)
    assert person.get("/").status_code == 200
    with console.ledger.transaction() as session:
        session.execute(update(ConsoleSessionRow).values({column: utc_now() - ago}))
    assert person.get("/").status_code == 303
    with console.ledger.reading() as session:
        assert session.scalars(select(ConsoleSessionRow)).all() == []


def test_use_keeps_a_session_alive(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    before = utc_now() - SEEN_EVERY
    with console.ledger.transaction() as session:
        session.execute(update(ConsoleSessionRow).values(seen_at=before))
    person.get("/")
    with console.ledger.reading() as session:
        (row,) = session.scalars(select(ConsoleSessionRow))
        assert row.seen_at > before


def test_who_logs_out_is_out(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    cookies = person.session.cookies.get_dict()
    assert person.post("/log-out", {"csrf": person.csrf()}).status_code == 303
    person.session.cookies.update(cookies)
    assert person.get("/").status_code == 303


def test_a_new_role_and_a_closed_account_end_sessions(console: RunningConsole) -> None:
    boss, person = console.person(ADMINISTRATOR), console.person(OPERATOR)
    assert boss.do("change-role", name="operator", role="viewer").startswith("done:")
    assert person.get("/").status_code == 303
    assert person.log_in("operator", PASSWORD).status_code == 303
    assert person.get("/audit").status_code == 403
    assert boss.do("disable-account", name="operator").startswith("done:")
    assert person.get("/").status_code == 303
    assert person.log_in("operator", PASSWORD).status_code == 401


def test_the_last_administrator_stays(console: RunningConsole) -> None:
    boss = console.person(ADMINISTRATOR)
    assert "last administrator" in boss.do("disable-account", name="administrator")
    assert "last administrator" in boss.do("change-role", name="administrator", role="viewer")
    console.account(ADMINISTRATOR, "second")
    assert boss.do("disable-account", name="second").startswith("done:")


def test_a_person_is_invited_and_chooses_a_password(console: RunningConsole) -> None:
    boss = console.person(ADMINISTRATOR)
    answer = boss.post("/do/invite", {"csrf": boss.csrf(), "name": "ann", "role": "operator"})
    link = found(re.compile(r"<output[^>]*>([^<]+)</output>"), answer.text)
    assert link.startswith(f"{console.root}/invitation/")
    path = link.removeprefix(console.root)
    ann = console.stranger()
    form = found(FORM, ann.get(path).text)
    fields = {"form": form, "name": "ignored", "password": "short", "again": "short"}
    assert ann.post(path, fields).status_code == 422
    assert ann.post(path, {**fields, "password": PASSWORD}).status_code == 422
    assert ann.post(path, {**fields, "form": "", "password": PASSWORD, "again": PASSWORD}).status_code == 403
    chosen = ann.post(path, {**fields, "password": PASSWORD, "again": PASSWORD})
    assert (chosen.status_code, chosen.headers["location"]) == (303, "/")
    assert ann.get("/audit").status_code == 200
    # Once, and for nobody else.
    assert console.stranger().get(path).status_code == 404
    with console.ledger.reading() as session:
        assert session.scalars(select(InvitationRow)).all() == []


def test_an_invitation_is_too_old_one_day(console: RunningConsole) -> None:
    assert console.stranger().get(f"/invitation/{console.invitation(VIEWER, holds_s=-1)}").status_code == 404


def test_a_chosen_name_takes_no_account_over(console: RunningConsole) -> None:
    console.account(ADMINISTRATOR, "ann")
    path, stranger = f"/invitation/{console.invitation(VIEWER)}", console.stranger()
    form = found(FORM, stranger.get(path).text)
    answer = stranger.post(
        path, {"form": form, "name": "ann", "password": "another password", "again": "another password"}
    )
    assert answer.status_code == 422
    assert "taken" in notice(answer.text)
    (ann,) = accounts(console.ledger)
    assert matches(ann.password_hash, PASSWORD)


def test_the_first_start_prints_a_link_and_no_password_is_there_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = console_node(tmp_path)
    with console_thread(node) as console:
        printed = capsys.readouterr().out
        link = found(re.compile(r"(http://\S+)"), printed)
        assert accounts(console.ledger) == ()
    with console_thread(node) as console:
        again = found(re.compile(r"(http://\S+)"), capsys.readouterr().out)
        stranger = console.stranger()
        # Only the link of the latest start holds.
        assert stranger.get(link.removeprefix(console.root)).status_code == 404
        path = again.removeprefix(console.root)
        form = found(FORM, stranger.get(path).text)
        answer = stranger.post(path, {"form": form, "name": "Boss", "password": PASSWORD, "again": PASSWORD})
        assert answer.status_code == 303
        assert stranger.get("/accounts").status_code == 200
    with console_thread(node):
        assert "http" not in capsys.readouterr().out


def test_a_token_is_shown_once_and_kept_as_a_digest(console: RunningConsole) -> None:
    boss = console.person(ADMINISTRATOR)
    answer = boss.post("/do/create-token", {"csrf": boss.csrf(), "name": "report", "role": "viewer"})
    token = found(re.compile(r"<output[^>]*>([^<]+)</output>"), answer.text)
    headers = {"Authorization": f"Bearer {token}"}
    assert console.stranger().get("/api/v1/now", **headers).status_code == 200
    assert token not in boss.get("/accounts").text
    with console.ledger.reading() as session:
        (row,) = session.scalars(select(ApiTokenRow))
        assert token not in (row.digest, row.name)
    assert boss.do("revoke-token", name="report").startswith("done:")
    assert console.stranger().get("/api/v1/now", **headers).status_code == 401


def test_a_wrong_token_is_not_made_good_by_a_session(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    assert person.get("/api/v1/now").status_code == 200
    assert person.get("/api/v1/now", Authorization="Bearer guessed").status_code == 401


def test_log_ins_and_changes_of_rights_are_audited(console: RunningConsole) -> None:
    boss = console.stranger()
    boss.log_in(console.account(ADMINISTRATOR), PASSWORD)
    console.account(VIEWER)
    console.stranger().log_in("nobody", "wrong password")
    console.stranger().log_in("my password is here", "typed in the wrong field")
    boss.do("disable-account", name="viewer")
    boss.post("/log-out", {"csrf": boss.csrf()})
    file = console.configuration.audit.file
    assert file is not None
    trail = read_trail(file)
    # Strangers of earlier tests are told of later, by a thread of their own.
    told = [
        (one.event, one.kind, one.outcome)
        for one in trail
        if one.event in ("110113", "110114") and one.kind != "110126"
    ]
    assert told == [
        ("110114", "110122", 0),
        ("110114", "110122", 4),
        ("110114", "110122", 4),
        ("110113", "110137", 0),
        ("110114", "110123", 0),
    ]
    users = [one.root.find("ActiveParticipant").get("UserID") for one in trail if one.event == "110114"]
    assert users == ["administrator", "nobody", "(not a name)", "administrator"]
    assert b"my password" not in file.read_bytes()


@pytest.mark.parametrize(
    "path", ["//elsewhere", "https://elsewhere/", "/\\elsewhere", "elsewhere", "javascript:alert(1)"]
)
def test_log_in_leads_nowhere_else(console: RunningConsole, path: str) -> None:
    assert local_path(path) == "/"
    answer = console.stranger().log_in(console.account(VIEWER), PASSWORD, next=path)
    assert answer.headers["location"] == "/"


def test_log_in_leads_to_the_page_that_was_asked_for(console: RunningConsole) -> None:
    answer = console.stranger().log_in(console.account(VIEWER), PASSWORD, next="/deliveries")
    assert answer.headers["location"] == "/deliveries"


def test_every_answer_keeps_browsers_from_what_they_should_not_do(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    for path in ("/", "/log-in", "/nowhere", "/static/console.js", "/api/v1/now"):
        headers = person.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff"
    assert person.get("/").headers["cache-control"] == "no-store"
    cookies = console.stranger().log_in("viewer", PASSWORD).headers["set-cookie"].lower()
    assert "httponly" in cookies
    assert "samesite=strict" in cookies


def test_a_large_body_is_refused(console: RunningConsole) -> None:
    stranger = console.stranger()
    assert stranger.post("/log-in", {"form": "x" * (2 << 20)}).status_code == 413


def test_passwords_are_long_and_hashed_with_salt() -> None:
    assert password_mistake("eleven char", "ann")
    assert password_mistake("aaaaaaaaaaaaaaaa", "ann")
    assert password_mistake("ann's own password", "ann")
    assert password_mistake("x" * 201, "ann")
    assert password_mistake(PASSWORD, "ann") == ""
    first, second = hashed(PASSWORD), hashed(PASSWORD)
    assert first.startswith("$argon2id$")
    assert first != second
    assert matches(first, PASSWORD)
    assert not matches(first, PASSWORD + " ")
    assert not matches(None, PASSWORD)
    assert not needs_new_hash(first)
    assert needs_new_hash(first.replace("t=3", "t=1"))


def test_an_invitation_to_a_known_name_gives_a_new_password(console: RunningConsole) -> None:
    person = console.person(OPERATOR, "ann")
    path, stranger = f"/invitation/{console.invitation(OPERATOR, 'ann')}", console.stranger()
    form = found(FORM, stranger.get(path).text)
    new = "nine blue kingfishers"
    assert stranger.post(path, {"form": form, "password": new, "again": new}).status_code == 303
    assert person.get("/").status_code == 303
    ann = account_named(console.ledger, "ann")
    assert ann is not None
    assert matches(ann.password_hash, new)


def test_an_administrator_is_invited_from_the_machine_of_the_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("console: {port: 8444}\naudit: {file: audit.log}\n")
    monkeypatch.setattr("sys.argv", ["dicom-node", "invite", "ann", "--config", str(config)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    structlog.reset_defaults()
    assert not ended.value.code
    token = found(re.compile(r"http://127\.0\.0\.1:8444/invitation/(\S+)"), capsys.readouterr().out)
    ledger = open_ledger(f"sqlite:///{tmp_path}/var/ledger.sqlite")
    try:
        holds = invitation(ledger, secret_digest(token), now=utc_now())
    finally:
        ledger.close()
        structlog.reset_defaults()
    assert holds is not None
    assert (holds.name, holds.role) == ("ann", ADMINISTRATOR)
    (told,) = read_trail(tmp_path / "audit.log")
    assert told.detail("Alert Description") == "invited as administrator"


@pytest.mark.parametrize(
    ("settings", "begins"),
    [
        ({"address": "127.0.0.1", "port": 8444}, "http://127.0.0.1:8444/"),
        ({"address": "::1", "port": 8444}, "http://[::1]:8444/"),
        ({"address": "0.0.0.0", "port": 8444, "certificate": "c", "key": "k"}, f"https://{platform.node()}:8444/"),
        # A browser that comes by http:// is given cookies that it does not send back.
        ({"address": "0.0.0.0", "port": 8444, "without_tls": True}, f"https://{platform.node()}/"),
        (
            {"address": "0.0.0.0", "port": 8444, "without_tls": True, "identity_provider": PROVIDER},
            "https://console.example.org/",
        ),
    ],
)
def test_a_link_leads_to_where_browsers_reach_the_console(
    console: RunningConsole, settings: dict[str, object], begins: str
) -> None:
    console_settings = ConsoleSettings.model_validate(settings)
    node = console.configuration.model_copy(update={"console": console_settings})
    link = new_invitation(node, console.ledger, name="ann", role=VIEWER, by="test")
    assert link.startswith(f"{begins}invitation/")
