"""A console in a thread of this process, and people who use it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import requests
import yaml
from interop.ports import free_port, wait_until
from network.running_node import configuration
from served import served

from dicom_node.config import (
    AuditSettings,
    Configuration,
    ConsoleSettings,
    DestinationProfile,
    LogSettings,
    Peer,
    PeerPermission,
    ResultSettings,
    Route,
)
from dicom_node.console.passwords import hashed
from dicom_node.console.serve import serve_console
from storage.accounts import account_named, create_token, invite, open_session, redeem_invitation, secret_digest
from storage.files import InstanceFiles
from storage.identity import bind
from storage.ledger import Ledger, open_ledger, utc_now
from storage.schema import AccountRole

PASSWORD = "seven grey herons wade"
CSRF = re.compile(r'name="csrf" value="([^"]+)"')
FORM = re.compile(r'name="form" value="([^"]+)"')


@dataclasses.dataclass
class RunningConsole:
    """A console that accepts requests."""

    configuration: Configuration
    ledger: Ledger
    file: Path
    """Where the configuration is written."""
    renewals: list[Configuration] = dataclasses.field(default_factory=list)
    asked: int = 0
    """How often the console has asked whether its configuration changed."""

    def renewed(self) -> Configuration | None:
        """The configuration that the console is to go on with, as a supervisor gives it."""
        self.asked += 1
        return self.renewals.pop() if self.renewals else None

    def renew(self, configuration: Configuration) -> None:
        """Let the console go on with another configuration."""
        self.renewals.append(configuration)
        wait_until(lambda: not self.renewals, seconds=60, what="the console takes its configuration")
        # It asks again once it has put that to use.
        asked = self.asked
        wait_until(lambda: self.asked > asked, seconds=60, what="the console goes on")

    @contextlib.contextmanager
    def working_by(self, configuration: Configuration) -> Iterator[None]:
        """The console with another configuration for a while."""
        self.renew(configuration)
        try:
            yield
        finally:
            self.renew(self.configuration)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.configuration.console.port}"

    @property
    def files(self) -> InstanceFiles:
        return InstanceFiles(self.configuration.storage.directory)

    def invitation(self, role: AccountRole, name: str | None = None, *, holds_s: float = 600) -> str:
        token, now = secrets.token_urlsafe(32), utc_now()
        until = now + dt.timedelta(seconds=holds_s)
        invite(self.ledger, secret_digest(token), name=name, role=role, by="test", expires_at=until, now=now)
        return token

    def account(self, role: AccountRole, name: str | None = None) -> str:
        """Open an account; its name."""
        name = name or role.value
        digest = secret_digest(self.invitation(role, name))
        redeem_invitation(self.ledger, digest, name=name, password_hash=password_hash(), now=utc_now())
        return name

    def stranger(self) -> Visitor:
        """Somebody who is not logged in."""
        return Visitor(self.root)

    def person(self, role: AccountRole, name: str | None = None) -> Visitor:
        """Somebody of a role who has logged in; the password was typed elsewhere, as hashing takes its time."""
        account = account_named(self.ledger, self.account(role, name))
        assert account is not None
        token = secrets.token_urlsafe(32)
        open_session(self.ledger, account, secret_digest(token), secrets.token_urlsafe(32), now=utc_now())
        visitor = self.stranger()
        visitor.session.cookies.set("console", token, domain="127.0.0.1", path="/")
        return visitor

    def token(self, role: AccountRole, name: str = "program") -> dict[str, str]:
        """Headers of a program with a token of a role."""
        token = secrets.token_urlsafe(32)
        create_token(self.ledger, name, secret_digest(token), role, by="test", now=utc_now())
        return {"Authorization": f"Bearer {token}"}


@functools.cache
def password_hash() -> str:
    """The hash of the password that everybody has here."""
    return hashed(PASSWORD)


class Visitor:
    """A browser as far as HTTP goes: it keeps cookies, and fills in forms with what stands in them."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.session = requests.Session()
        self.session.trust_env = False

    def get(self, path: str, **headers: str) -> requests.Response:
        return self.session.get(self.root + path, headers=headers, timeout=120, allow_redirects=False)

    def post(self, path: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None) -> requests.Response:
        return self.session.post(
            self.root + path, data=dict(fields), headers=dict(headers or {}), timeout=60, allow_redirects=False
        )

    def log_in(self, name: str, password: str, **more: str) -> requests.Response:
        form = found(FORM, self.get("/log-in").text)
        return self.post("/log-in", {"form": form, "name": name, "password": password, **more})

    def csrf(self) -> str:
        """The token of this session, as it stands in the forms."""
        return found(CSRF, self.get("/").text)

    def do(self, action: str, **fields: str) -> str:
        """Send the form of an action; what the next page says came of it."""
        answer = self.post(f"/do/{action}", {"csrf": self.csrf(), "back": "/deliveries", **fields})
        assert (answer.status_code, answer.headers["location"]) == (303, "/deliveries"), answer.text
        return notice(self.get("/deliveries").text)


def found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    assert match is not None, text[:2000]
    return match[1]


def notice(page: str) -> str:
    """What a page says came of the last form, with its kind."""
    match = re.search(r'<p class="notice (\w+)" role="\w+">([^<]*)</p>', page)
    return f"{match[1]}: {match[2]}" if match else ""


def console_node(folder: Path, **changes: object) -> Configuration:
    """A node with a console, one scanner, one PACS that nobody answers for, an audit trail and a folder for the log."""
    console = ConsoleSettings(**{"port": free_port(), **changes})  # type: ignore[arg-type]
    pacs = Peer(ae_title="PACS", host="127.0.0.1", port=free_port(), may=frozenset({PeerPermission.RECEIVE}))
    return configuration(
        folder,
        console=console,
        peers={"scanner": Peer(ae_title="MR1"), "pacs": pacs},
        routes={"cine": Route(destinations=("pacs",))},
        results=ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs")}),
        audit=AuditSettings(file=folder / "audit.log"),
        log=LogSettings(directory=folder / "log"),
    )


ROUTES = """\
routes:
  # The heart, and nothing but the heart.
  cine:
    destinations: [pacs]   # ours
"""
NEXT = "\n# How results are labelled.\n"


def write_file(file: Path, configuration: Configuration) -> None:
    """Write a configuration as people do: its routes with comments, in the middle of the file."""
    told = configuration.model_dump(mode="json", exclude_defaults=True, exclude={"routes", "results"})
    results = configuration.model_dump(mode="json", exclude_defaults=True, include={"results"})
    file.write_text(yaml.safe_dump(told) + "\n" + ROUTES + NEXT + yaml.safe_dump(results), encoding="utf-8")


@contextlib.contextmanager
def console_thread(configuration: Configuration) -> Iterator[RunningConsole]:
    """The console role in a thread of this process, with a configuration file to edit."""
    file = configuration.storage.directory.parent / "config.yaml"
    write_file(file, configuration)
    with contextlib.closing(open_ledger(configuration.storage.database)) as ledger:
        files = InstanceFiles(configuration.storage.directory)
        files.make_folders()
        bind(ledger, files, now=utc_now())
        running = RunningConsole(configuration, ledger, file)
        with served(
            lambda stop, ready: serve_console(configuration, stop, file=file, ready=ready, renewed=running.renewed)
        ):
            yield running
