"""Who calls, and what they may: sessions of people, tokens of programs, and the proof that a form is the console's own.

A session is a random token in a cookie that scripts cannot read and other sites cannot send (HttpOnly,
SameSite=Strict); every request that changes something carries the session's CSRF token besides. Programs carry a bearer
token (RFC 6750), which no browser sends of itself, so they need none.
"""

from __future__ import annotations

import datetime as dt
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from dicom_node.audit.messages import Participant
from dicom_node.console.node import Node
from storage.accounts import ConsoleSession, secret_digest, session_of, token_of
from storage.ledger import utc_now
from storage.schema import AccountRole

__all__ = [
    "CSRF_FIELD",
    "CSRF_HEADER",
    "ID_TOKEN",
    "STARTED_LOG_IN",
    "Administrator",
    "ForbiddenError",
    "NotLoggedInError",
    "Operator",
    "Person",
    "Viewer",
    "address_of",
    "caller_who_may",
    "comes_from_this_console",
    "forget_cookie",
    "forget_session_cookie",
    "form_token",
    "forms_token_is_right",
    "local_path",
    "node_of",
    "set_cookie",
    "set_form_cookie",
    "set_session_cookie",
]

CSRF_FIELD = "csrf"
CSRF_HEADER = "x-csrf-token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM_COOKIE = "form"
STARTED_LOG_IN, ID_TOKEN = "started-log-in", "id-token"
"""Cookies of a log-in by an identity provider: what it was begun with, and what came of it."""
_PROVIDER_PATHS = {STARTED_LOG_IN: "/log-in/provider", ID_TOKEN: "/log-out/provider"}
_STARTED_HOLDS_S = 600


class NotLoggedInError(Exception):
    """Nobody is logged in: the session is over, or there never was one."""


class ForbiddenError(Exception):
    """The person may not do this, or the form is not the console's own."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who calls: a person with a session, or a program with a token."""

    name: str
    role: AccountRole
    address: str
    session: ConsoleSession | None

    def may(self, role: AccountRole) -> bool:
        """Whether this person may do what people of a role may."""
        return self.role.includes(role)

    @property
    def csrf(self) -> str:
        """What the forms of this person's session carry."""
        return "" if self.session is None else self.session.csrf

    @property
    def participant(self) -> Participant:
        """The person as a participant of audit messages."""
        return Participant(self.name, "", self.address)


def node_of(request: Request) -> Node:
    """The node that the console serves."""
    node: Node = request.app.state.node
    return node


def address_of(request: Request) -> str:
    """IP address of the caller's end of the connection."""
    return request.client.host if request.client else ""


def comes_from_this_console(request: Request) -> bool:
    """Whether a request that changes something was made by one of the console's own pages, as far as browsers tell."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


async def _given_csrf(request: Request) -> str:
    if request.method in _SAFE:
        return ""
    given = request.headers.get(CSRF_HEADER, "")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not given and kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        value = (await request.form()).get(CSRF_FIELD, "")
        given = "" if isinstance(value, UploadFile) else value
    return given


def caller_who_may(role: AccountRole) -> Callable[..., Person]:
    """A dependency: the person that calls.

    Raises
    ------
    NotLoggedInError
        There is no session or token that holds.
    ForbiddenError
        The role is not enough, or something is to be changed by a form that is not the console's own.
    """

    # A plain function, so that FastAPI runs it in a thread: it asks the ledger.
    def caller(request: Request, csrf: Annotated[str, Depends(_given_csrf)]) -> Person:
        node = node_of(request)
        person = _by_token(request, node) or _by_session(request, node)
        if person is None:
            raise NotLoggedInError
        if person.session is not None and request.method not in _SAFE:
            own = hmac.compare_digest(csrf.encode(), person.csrf.encode())
            if not own or not comes_from_this_console(request):
                node.trail.node_authentication_failed(
                    address=person.address, description=f"a form that is not the console's own, as {person.name}"
                )
                raise ForbiddenError("this form is too old, or not one of this console: open the page again")
        if not person.may(role):
            raise ForbiddenError(f"this needs the role {role.value}; {person.name} is {person.role.value}")
        return person

    return caller


Viewer = Annotated[Person, Depends(caller_who_may(AccountRole.VIEWER))]
Operator = Annotated[Person, Depends(caller_who_may(AccountRole.OPERATOR))]
Administrator = Annotated[Person, Depends(caller_who_may(AccountRole.ADMINISTRATOR))]
"""Who a path of pages or API is for: the caller, if that is one of these or may do more."""


def _by_token(request: Request, node: Node) -> Person | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if not token:
        return None
    found = token_of(node.ledger, secret_digest(token.strip())) if scheme.lower() == "bearer" else None
    if found is None:
        node.trail.node_authentication_failed(address=address_of(request), description="unknown token at the console")
        # No session stands in for a token that is wrong.
        raise NotLoggedInError
    return Person(f"token {found.name}", found.role, address_of(request), None)


def _by_session(request: Request, node: Node) -> Person | None:
    token = request.cookies.get(_cookie_name(node))
    if not token:
        return None
    settings = node.configuration.console
    session = session_of(
        node.ledger,
        secret_digest(token),
        now=utc_now(),
        idle=dt.timedelta(minutes=settings.idle_minutes),
        longest=dt.timedelta(hours=settings.session_hours),
    )
    if session is None:
        return None
    return Person(session.account.name, session.account.role, address_of(request), session)


def _is_secure(node: Node) -> bool:
    """Whether browsers reach the console by https://, through a proxy or directly."""
    return node.configuration.console.certificate is not None or node.configuration.console.without_tls


def _cookie_name(node: Node) -> str:
    # Browsers take a __Host- cookie only from the host itself, over TLS (RFC 6265bis 4.1.3.2).
    return "__Host-console" if _is_secure(node) else "console"


def set_session_cookie(response: Response, node: Node, token: str) -> None:
    """Let the browser keep the token of a session until it is closed."""
    response.set_cookie(_cookie_name(node), token, path="/", secure=_is_secure(node), httponly=True, samesite="strict")


def forget_session_cookie(response: Response, node: Node) -> None:
    """Let the browser forget the cookie of its session."""
    response.delete_cookie(_cookie_name(node), path="/", secure=_is_secure(node), httponly=True, samesite="strict")


def set_cookie(response: Response, node: Node, name: str, value: str) -> None:
    """Let the browser keep one of the cookies of a log-in by an identity provider.

    The first comes back when the provider sends the browser here, so it is SameSite=Lax.
    """
    started = name == STARTED_LOG_IN
    response.set_cookie(
        name,
        value,
        max_age=_STARTED_HOLDS_S if started else None,
        path=_PROVIDER_PATHS[name],
        secure=_is_secure(node),
        httponly=True,
        samesite="lax" if started else "strict",
    )


def forget_cookie(response: Response, node: Node, name: str) -> None:
    """Let the browser forget one of the cookies of a log-in by an identity provider."""
    response.delete_cookie(name, path=_PROVIDER_PATHS[name], secure=_is_secure(node), httponly=True)


def form_token(request: Request) -> str:
    """The token of a form before there is a session: the same in the form and in a cookie, which others cannot set."""
    return request.cookies.get(_FORM_COOKIE) or secrets.token_urlsafe(24)


def set_form_cookie(response: Response, node: Node, token: str) -> None:
    """Let the browser keep the token of the form on this page."""
    response.set_cookie(_FORM_COOKIE, token, path="/", secure=_is_secure(node), httponly=True, samesite="strict")


def forms_token_is_right(request: Request, given: str) -> bool:
    """Whether a form before a session is one that this console gave to this browser."""
    token = request.cookies.get(_FORM_COOKIE, "")
    return bool(token) and hmac.compare_digest(token.encode(), given.encode()) and comes_from_this_console(request)


def local_path(path: str, otherwise: str = "/") -> str:
    """A path of this console: what somebody else wrote into a link leads nowhere else."""
    parts = urlsplit(path)
    # Browsers take a backslash for a slash.
    if parts.scheme or parts.netloc or not path.startswith("/") or path.startswith("//") or "\\" in path:
        return otherwise
    return quote(path, safe="/?=&%#:.-_~+,")
