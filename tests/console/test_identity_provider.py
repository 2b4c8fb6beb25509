"""People whom a hospital's identity provider proves, and those whom it does not."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import structlog
from audit.reading import read_trail
from interop.ports import free_port
from pydantic import ValidationError

from console.browser import DESKTOP, PHONE, browse
from console.hospital_provider import CLIENT, SECRET, Employee, Provider, hospital_provider, new_key
from console.running_console import PASSWORD, RunningConsole, Visitor, console_node, console_thread, notice, write_file
from dicom_node import cli
from dicom_node.config import IdentityProviderSettings, Secret
from dicom_node.doctor import examine
from storage.accounts import account_named, accounts
from storage.ledger import utc_now
from storage.schema import AccountRole

VIEWER, OPERATOR, ADMINISTRATOR = AccountRole
ROLES = {"viewer": ["radiology"], "operator": ["mr"], "administrator": ["pacs"]}


@pytest.fixture(scope="module")
def at_hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningConsole, Provider]]:
    """A console and its provider."""
    folder, port = tmp_path_factory.mktemp("hospital"), free_port()
    secret = folder / "secret"
    secret.write_text(SECRET + "\n", encoding="utf-8")
    with hospital_provider(f"http://127.0.0.1:{port}/log-in/provider/answer") as provider:
        settings = IdentityProviderSettings(
            issuer=provider.issuer,
            client_id=CLIENT,
            client_secret=Secret(file=secret),
            url=f"http://127.0.0.1:{port}",
            roles={"viewer": {"radiology"}, "operator": {"mr"}, "administrator": {"pacs"}},
        )
        with console_thread(console_node(folder, port=port, identity_provider=settings)) as running:
            yield running, provider


@pytest.fixture
def served(at_hospital: tuple[RunningConsole, Provider]) -> RunningConsole:
    """The console that ``console`` empties."""
    return at_hospital[0]


@pytest.fixture
def provider(at_hospital: tuple[RunningConsole, Provider], console: RunningConsole) -> Provider:
    """The provider, with nothing wrong."""
    provider = at_hospital[1]
    fresh = Provider(provider.port, provider.redirect_uri)
    for field in dataclasses.fields(Provider):
        setattr(provider, field.name, getattr(fresh, field.name))
    return provider


def come_back(visitor: Visitor, path: str = "/log-in/provider") -> requests.Response:
    """Log in there; the answer of the console to the browser that comes back."""
    there = visitor.get(path)
    assert there.status_code == 303, there.text
    back = visitor.session.get(there.headers["location"], timeout=60, allow_redirects=False)
    assert back.status_code == 302, back.text
    return visitor.session.get(back.headers["location"], timeout=60, allow_redirects=False)


def refusal(console: RunningConsole, answer: requests.Response) -> str:
    """The sentence of a log-in that was refused; nobody is logged in by it, and no account was opened."""
    assert answer.status_code == 403, answer.text
    assert "set-cookie" in answer.headers
    assert "console=" not in answer.headers["set-cookie"]
    told = notice(answer.text)
    assert told.startswith("problem: ")
    return told.removeprefix("problem: ")


def trail(console: RunningConsole) -> list[tuple[str, int, str]]:
    """Log-ins of the audit trail: who, outcome, why."""
    file = console.configuration.audit.file
    assert file is not None
    return [
        (
            one.root.find("ActiveParticipant").get("UserID"),
            one.outcome,
            one.root.findtext("EventIdentification/EventOutcomeDescription") or "",
        )
        for one in read_trail(file)
        if one.event == "110114" and one.kind == "110122"
    ]


def test_somebody_of_the_hospital_comes_in(console: RunningConsole, provider: Provider) -> None:
    visitor = console.stranger()
    page = visitor.get("/log-in?next=/studies").text
    path = re.search(r'href="(/log-in/provider[^"]*)">Log in by hospital account', page)
    assert path is not None
    answer = come_back(visitor, path[1])
    assert answer.status_code == 200
    # Not by a redirection: the browser would not send the cookie of a log-in that another site has begun.
    assert answer.headers["refresh"] == "0; url=/studies"
    assert "ann.lee, viewer" in visitor.get("/studies").text
    (account,) = accounts(console.ledger)
    assert (account.name, account.role, account.by_provider, account.password_hash) == ("ann.lee", VIEWER, True, "")
    assert trail(console) == [("ann.lee", 0, "")]
    # The second time it is the same account.
    assert come_back(console.stranger()).status_code == 200
    assert len(accounts(console.ledger)) == 1


def test_what_is_asked_of_the_provider(console: RunningConsole, provider: Provider) -> None:
    answer = console.stranger().get("/log-in/provider")
    url = urlsplit(answer.headers["location"])
    asked = {name: value for name, (value,) in parse_qs(url.query).items()}
    assert url._replace(query="").geturl() == f"{provider.issuer}/authorize"
    assert len(asked["state"]) >= 32
    assert len(asked["nonce"]) >= 32
    assert asked["state"] != asked["nonce"]
    assert re.fullmatch(r"[\w-]{43}", asked["code_challenge"])
    told = {name: asked[name] for name in ("response_type", "client_id", "redirect_uri", "scope")}
    assert told == {
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": provider.redirect_uri,
        "scope": "openid profile",
    }
    assert asked["code_challenge_method"] == "S256"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    again = parse_qs(urlsplit(console.stranger().get("/log-in/provider").headers["location"]).query)
    assert {again[name][0] for name in ("state", "nonce", "code_challenge")}.isdisjoint(asked.values())


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        (("radiology",), VIEWER),
        (("radiology", "mr"), OPERATOR),
        (("pacs", "radiology"), ADMINISTRATOR),
        ("mr", OPERATOR),
    ],
)
def test_groups_of_the_hospital_are_roles_here(
    console: RunningConsole, provider: Provider, groups: Any, role: AccountRole
) -> None:
    provider.employee = Employee(groups=groups)
    visitor = console.stranger()
    assert come_back(visitor).status_code == 200
    assert f"ann.lee, {role.value}" in visitor.get("/").text


@pytest.mark.parametrize("groups", [(), ("cardiology",), "", None, {"radiology": True}, ("Radiology",), 7])
def test_who_has_no_role_stays_outside(console: RunningConsole, provider: Provider, groups: Any) -> None:
    provider.employee = Employee(groups=groups)
    sentence = "Your hospital account has no role in this console. Ask those who run it for one."
    assert refusal(console, come_back(console.stranger())) == sentence
    assert accounts(console.ledger) == ()
    assert trail(console) == [("ann.lee", 4, f"identity provider: {sentence}")]


def test_a_role_that_was_changed_there_is_changed_here(console: RunningConsole, provider: Provider) -> None:
    provider.employee = Employee(groups=("pacs",))
    first = console.stranger()
    come_back(first)
    assert first.get("/accounts").status_code == 200
    provider.employee = Employee(groups=("radiology",))
    second = console.stranger()
    come_back(second)
    assert second.get("/accounts").status_code == 403
    # The session of before ended with the role of before.
    assert first.get("/accounts").status_code == 303
    account = account_named(console.ledger, "ann.lee")
    assert account is not None
    assert account.role is VIEWER


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "issuer": ({"iss": "https://elsewhere.example"}, "issued by another provider"),
    "no issuer": ({"iss": None}, "issued by another provider"),
    "audience": ({"aud": "another-program"}, "issued for another program"),
    "no audience": ({"aud": None}, "issued for another program"),
    "one of several audiences": ({"aud": [CLIENT, "another-program"]}, "issued for another program"),
    "authorised party": ({"azp": "another-program"}, "issued for another program"),
    "nonce": ({"nonce": "of another log-in"}, "answers another log-in"),
    "no nonce": ({"nonce": None}, "answers another log-in"),
    "expired": ({"exp": int(time.time()) - 3600}, "has expired"),
    "no expiry": ({"exp": None}, "no time at which it expires"),
    "from the future": ({"iat": int(time.time()) + 86400}, "compare the clocks"),
    "access token": ({"at_hash": "of-another-token"}, "does not belong to the access token"),
    "no subject": ({"sub": None}, "sub is missing"),
    "a number as subject": ({"sub": 7}, "sub"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_id_token_that_is_not_right_lets_nobody_in(console: RunningConsole, provider: Provider, case: str) -> None:
    provider.spoiled, expected = WRONG[case]
    told = refusal(console, come_back(console.stranger()))
    assert expected in told
    assert accounts(console.ledger) == ()
    assert trail(console) == [("(not a name)", 4, f"identity provider: {told}")]


def test_only_keys_of_the_provider_sign(console: RunningConsole, provider: Provider) -> None:
    not_signed = "The ID token is not signed by a key of the identity provider."
    provider.signing = new_key()
    assert refusal(console, come_back(console.stranger())) == not_signed
    # Another key under the name of one that is known.
    impostor = new_key()
    provider.signing = type(impostor).import_key({**impostor.as_dict(private=True), "kid": provider.keys[0].kid})
    assert refusal(console, come_back(console.stranger())) == not_signed
    assert accounts(console.ledger) == ()


def test_keys_that_the_provider_has_changed_are_asked_for(console: RunningConsole, provider: Provider) -> None:
    assert come_back(console.stranger()).status_code == 200
    provider.keys = [provider.keys[0], new_key()]
    assert come_back(console.stranger()).status_code == 200
    asked = provider.asked.count("/keys")
    assert come_back(console.stranger()).status_code == 200
    assert provider.asked.count("/keys") == asked


def test_an_answer_counts_for_the_browser_that_asked_and_once(console: RunningConsole, provider: Provider) -> None:
    asked = console.stranger()
    there = asked.get("/log-in/provider").headers["location"]
    back = requests.get(there, timeout=60, allow_redirects=False).headers["location"]
    not_begun = f"This browser has not begun this log-in, or too long ago. Begin again at {console.root}."
    # A link that somebody else sends.
    other = console.stranger()
    assert refusal(console, other.session.get(back, timeout=60)) == not_begun
    other.get("/log-in/provider")
    assert refusal(console, other.session.get(back, timeout=60)) == not_begun
    assert provider.tokens == {}
    assert asked.session.get(back, timeout=60).status_code == 200
    assert refusal(console, asked.session.get(back, timeout=60)) == not_begun


def test_a_code_of_another_log_in_fails_its_proof_key(console: RunningConsole, provider: Provider) -> None:
    victim, attacker = console.stranger(), console.stranger()
    stolen = requests.get(victim.get("/log-in/provider").headers["location"], timeout=60, allow_redirects=False)
    code = parse_qs(urlsplit(stolen.headers["location"]).query)["code"][0]
    state = parse_qs(urlsplit(attacker.get("/log-in/provider").headers["location"]).query)["state"][0]
    answer = attacker.get(f"/log-in/provider/answer?code={code}&state={state}")
    assert "it answered invalid_grant" in refusal(console, answer)


def test_an_answer_that_names_another_issuer_is_not_put_to_use(console: RunningConsole, provider: Provider) -> None:
    visitor = console.stranger()
    there = visitor.get("/log-in/provider").headers["location"]
    back = requests.get(there, timeout=60, allow_redirects=False).headers["location"]
    answer = visitor.session.get(f"{back}&iss=https://elsewhere.example", timeout=60)
    assert refusal(console, answer) == "Another identity provider has answered."
    assert "/token" not in provider.asked


def test_a_refusal_of_the_provider_is_told(console: RunningConsole, provider: Provider) -> None:
    provider.refuses = "access_denied"
    told = refusal(console, come_back(console.stranger()))
    assert told == "The identity provider has not let you in; it answered access_denied."
    provider.refuses = "%3Cb%3EYour+account+is+locked%2C+call+0123"
    assert "call" not in refusal(console, come_back(console.stranger()))


def test_roles_of_the_user_info_endpoint_count_too(console: RunningConsole, provider: Provider) -> None:
    provider.in_user_info = True
    provider.employee = Employee(groups=("mr",))
    visitor = console.stranger()
    assert come_back(visitor).status_code == 200
    assert "ann.lee, operator" in visitor.get("/").text


def test_a_name_that_somebody_else_has_here_is_refused(console: RunningConsole, provider: Provider) -> None:
    console.account(ADMINISTRATOR, "ann.lee")
    told = refusal(console, come_back(console.stranger()))
    assert "the name ann.lee is taken" in told
    (account,) = accounts(console.ledger)
    assert not account.by_provider
    assert trail(console) == [("ann.lee", 4, f"identity provider: {told}")]
    # Nor does another person of the hospital get the account of one who had the name before.
    provider.employee = Employee(name="ben")
    assert come_back(console.stranger()).status_code == 200
    provider.employee = Employee(sub="another", name="ben")
    assert "the name ben is taken" in refusal(console, come_back(console.stranger()))


@pytest.mark.parametrize("name", ["", " ", "-ann", 7, None])
def test_a_name_that_is_none_is_refused(console: RunningConsole, provider: Provider, name: Any) -> None:
    provider.employee = Employee(name=name)
    assert "gave no name that an account can have" in refusal(console, come_back(console.stranger()))


def test_accounts_of_the_console_stay(console: RunningConsole, provider: Provider) -> None:
    come_back(console.stranger())
    console.account(OPERATOR, "olga")
    provider.answers = False
    visitor = console.stranger()
    assert visitor.log_in("olga", PASSWORD).status_code == 303
    assert "olga, operator" in visitor.get("/").text
    # Whom the provider proves has no password here, not even an empty one.
    for password in ("", PASSWORD):
        assert console.stranger().log_in("ann.lee", password).status_code == 401


def test_an_administrator_says_who_is_let_in_no_more(console: RunningConsole, provider: Provider) -> None:
    visitor, administrator = console.stranger(), console.person(ADMINISTRATOR, "ada")
    come_back(visitor)
    assert administrator.do("change-role", name="ann.lee", role="administrator").startswith("problem: the identity")
    assert "has no password here" in administrator.do("invite", name="ann.lee", role="viewer")
    assert administrator.do("disable-account", name="ann.lee").startswith("done:")
    assert visitor.get("/").status_code == 303
    assert "ann.lee is let in no more" in refusal(console, come_back(console.stranger()))
    page = administrator.get("/accounts").text
    assert "by the identity provider" in page
    assert "New password for ann.lee" not in page
    assert "Let ann.lee in again" in page
    assert administrator.do("enable-account", name="ann.lee").startswith("done:")
    assert come_back(visitor).status_code == 200
    assert "invite them again" in administrator.do("enable-account", name="ada")


def test_log_out_here_and_there(console: RunningConsole, provider: Provider) -> None:
    visitor = console.stranger()
    come_back(visitor)
    answer = visitor.post("/log-out", {"csrf": visitor.csrf()})
    assert answer.headers["location"] == "/logged-out"
    assert visitor.get("/").status_code == 303
    assert "your hospital account is still logged in" in visitor.get("/logged-out").text
    there = visitor.get("/log-out/provider").headers["location"]
    back = visitor.session.get(there, timeout=60, allow_redirects=False).headers["location"]
    (ended,) = provider.ended
    assert back == f"{console.root}/log-in"
    assert ended["client_id"] == CLIENT
    assert ended["id_token_hint"].count(".") == 2
    # Nothing of it is left in the browser.
    assert {cookie.name for cookie in visitor.session.cookies} == {"form"}


def test_a_provider_that_is_away_is_told(console: RunningConsole, provider: Provider) -> None:
    there = console.stranger().get("/log-in/provider").headers["location"]
    visitor = console.stranger()
    there = visitor.get("/log-in/provider").headers["location"]
    back = requests.get(there, timeout=60, allow_redirects=False).headers["location"]
    provider.answers = False
    told = refusal(console, visitor.session.get(back, timeout=60))
    assert "did not say who somebody is (it answered 503)" in told


def test_nothing_secret_is_logged(console: RunningConsole, provider: Provider) -> None:
    with structlog.testing.capture_logs() as logs:
        visitor = console.stranger()
        come_back(visitor)
        provider.spoiled = {"nonce": "wrong"}
        come_back(console.stranger())
    told = str(logs)
    assert "answers another log-in" in told
    secrets = [SECRET, *provider.tokens, *(cookie.value or "?" for cookie in visitor.session.cookies)]
    assert not [one for one in secrets if one in told]


# -- configuration -----------------------------------------------------------------------------------------------------


def settings_of(console: RunningConsole, **changes: Any) -> IdentityProviderSettings:
    settings = console.configuration.console.identity_provider
    assert settings is not None
    return settings.model_copy(update=changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"issuer": "http://login.example.org"}, "'issuer' has to be https://"),
        ({"url": "http://node.example.org"}, "'url' has to be https://"),
        ({"roles": {"viewer": []}}, "lets nobody in"),
        ({"roles": {}}, "at least 1"),
        ({"roles": {"doctor": ["x"]}}, "administrator"),
    ],
)
def test_settings_that_are_not_safe_are_refused(changes: dict[str, Any], expected: str) -> None:
    sound = {"issuer": "https://login.example.org", "client_id": "n", "url": "https://node.example.org", "roles": ROLES}
    IdentityProviderSettings.model_validate(sound)
    with pytest.raises(ValidationError, match=expected):
        IdentityProviderSettings.model_validate(sound | changes)


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "issuer": ({"issuer": "https://elsewhere.example"}, "says that it is another one"),
    "flow": ({"response_types_supported": ["id_token"]}, "does not offer the authorization code flow"),
    "proof key": ({"code_challenge_methods_supported": ["plain"]}, "does not offer PKCE by S256"),
    "signature": ({"id_token_signing_alg_values_supported": ["none", "HS256"]}, "signs only by none, HS256"),
    "clear text": ({"token_endpoint": "http://login.example.org/token"}, "names no token_endpoint with https://"),
}


def test_check_asks_the_provider(
    console: RunningConsole, provider: Provider, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["dicom-node", "check", "--config", str(console.file)])

    def checked() -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main()
        # It set the log to the standard error of this moment.
        structlog.reset_defaults()
        # The PACS of this configuration does not answer either way.
        assert ended.value.code != 0
        return re.sub(r"\s+", " ", capsys.readouterr().out)

    write_file(console.file, console.configuration)
    assert f"answers, signs by RS256; redirect URI to register there: {provider.redirect_uri}" in checked()
    findings = [one.sentence for one in examine(console.configuration, now=utc_now()) if "identity" in one.sentence]
    assert findings == [f"identity provider {provider.issuer} answers, signs by RS256"]
    for provider.described, expected in UNFIT.values():
        assert expected in checked()
    provider.described, provider.answers = {}, False
    assert "did not say what it says of itself (it answered 503)" in checked()


def test_a_public_client_has_no_secret(console: RunningConsole, provider: Provider, tmp_path: Path) -> None:
    provider.public = True
    assert "it answered invalid_client" in refusal(console, come_back(console.stranger()))
    port = free_port()
    root = f"http://127.0.0.1:{port}"
    settings = settings_of(console, client_secret=None, url=root, role_claim="realm_access.roles")
    provider.spoiled = {"realm_access": {"roles": ["mr"]}}
    kept, provider.redirect_uri = provider.redirect_uri, f"{root}/log-in/provider/answer"
    try:
        with console_thread(console_node(tmp_path, port=port, identity_provider=settings)) as running:
            visitor = running.stranger()
            assert come_back(visitor).status_code == 200
            assert "ann.lee, operator" in visitor.get("/").text
    finally:
        provider.redirect_uri = kept


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize(
    ("scheme", "width"), [("light", DESKTOP), ("dark", DESKTOP), ("light", PHONE)], ids=["light", "dark", "phone"]
)
def test_a_log_in_by_the_provider_in_a_browser(
    console: RunningConsole, provider: Provider, tmp_path: Path, scheme: str, width: int
) -> None:
    steps = [
        ("go", "/studies"),
        ("wide", "log-in"),
        ("picture", "log-in"),
        ("axe", "log-in"),
        ("follow", "Log in by hospital account"),
        ("see", "ann.lee, viewer"),
        ("see", "Studies"),
        ("press", "Log out"),
        ("see", "You are logged out of this console."),
        ("wide", "logged-out"),
        ("picture", "logged-out"),
        ("axe", "logged-out"),
        ("follow", "Log out of hospital account, too"),
        ("see", "Password"),
    ]
    visit = browse(console.root, steps, tmp_path, scheme=scheme, width=width, elsewhere=provider.issuer)
    assert visit.problems == ()
    assert visit.done == len(steps)
    assert visit.serious == []
    assert visit.values == {"log-in": 0, "logged-out": 0}
    assert len(provider.ended) == 1
