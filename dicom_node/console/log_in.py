"""Logging in and out, by password or by the hospital's identity provider, and choosing a password by an invitation."""

from __future__ import annotations

import re
import secrets
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from dicom_node.audit.messages import Participant, user_authentication
from dicom_node.console.access import (
    ID_TOKEN,
    STARTED_LOG_IN,
    ForbiddenError,
    Person,
    address_of,
    caller_who_may,
    forget_cookie,
    forget_session_cookie,
    form_token,
    forms_token_is_right,
    local_path,
    node_of,
    set_cookie,
    set_form_cookie,
    set_session_cookie,
)
from dicom_node.console.identity_provider import IdentityProvider, NotProvenError, StartedLogIn
from dicom_node.console.node import Node
from dicom_node.console.passwords import SHORTEST, hashed, matches, needs_new_hash, password_mistake
from dicom_node.console.rendering import Renderer
from dicom_node.console.throttle import WINDOW, wait_s
from dicom_node.errors import PeerUnavailableError
from storage.accounts import (
    NAME_PATTERN,
    Account,
    account_named,
    admit,
    close_session,
    invitation,
    note_log_in_failure,
    open_session,
    redeem_invitation,
    replace_password_hash,
    secret_digest,
)
from storage.ledger import LedgerError, utc_now
from storage.schema import AccountRole

__all__ = ["log_in_router"]

_log = structlog.get_logger(__name__)

_TOO_OLD = "This page was too old. Try again."
_WRONG = "This name and this password do not belong together."
Field = Annotated[str, Form(max_length=1000)]


def log_in_router() -> APIRouter:
    """The pages that need no session."""
    router = APIRouter()

    @router.get("/log-in")
    def ask(request: Request, next: str = "/") -> Response:
        return _log_in_page(request, local_path(next))

    @router.post("/log-in")
    def log_in(
        request: Request, name: Field = "", password: Field = "", form: Field = "", next: Field = "/"
    ) -> Response:
        node = node_of(request)
        name, address, now = name.strip().lower(), address_of(request), utc_now()
        target = local_path(next)
        if not forms_token_is_right(request, form):
            return _log_in_page(request, target, _TOO_OLD, 403, name)
        wait = wait_s(node.ledger, name, address, now=now)
        if wait:
            _audit(node, name, address, failure="too many log-ins that failed")
            minutes = -(-wait // 60)
            problem = f"Too many log-ins failed. Try again in {minutes} minute{'' if minutes == 1 else 's'}."
            response = _log_in_page(request, target, problem, 429, name)
            response.headers["retry-after"] = str(wait)
            return response
        # Counted before the password is looked at: many tries at once are many tries. One that succeeds takes it back.
        note_log_in_failure(node.ledger, name, address, now=now, kept=WINDOW)
        account = account_named(node.ledger, name)
        if not matches((account.password_hash or None) if account else None, password) or account is None:
            _audit(node, name, address, failure="wrong name or password")
            return _log_in_page(request, target, _WRONG, 401, name)
        if needs_new_hash(account.password_hash):
            replace_password_hash(node.ledger, account, hashed(password))
        return _welcome(node, account, address, target)

    @router.get("/log-in/provider")
    def ask_provider(request: Request, next: str = "/") -> Response:
        url, started = _provider(request).begin(local_path(next))
        response = RedirectResponse(url, 303)
        set_cookie(response, node_of(request), STARTED_LOG_IN, started.kept())
        return response

    @router.get("/log-in/provider/answer")
    def answer(request: Request) -> Response:
        node = node_of(request)
        provider, address = _provider(request), address_of(request)
        started = StartedLogIn.read(request.cookies.get(STARTED_LOG_IN, ""))
        target = "/" if started is None else local_path(started.target)
        proven = ""
        try:
            identity = provider.finish(started, dict(request.query_params))
            proven = identity.name
            account = admit(
                node.ledger,
                issuer=identity.issuer,
                subject=identity.subject,
                name=identity.name,
                role=identity.role,
                now=utc_now(),
            )
        except (NotProvenError, PeerUnavailableError, LedgerError) as error:
            name = error.name if isinstance(error, NotProvenError) else proven
            _audit(node, name, address, failure=f"identity provider: {error}")
            _log.warning("log-in by the identity provider refused", reason=str(error))
            response: Response = _log_in_page(request, target, str(error), 403)
        else:
            # A page, and not a redirection: what another site has sent the browser to goes without Strict cookies.
            response = _welcome(
                node, account, address, target, response=_public_page(request, "proven.html", target=target)
            )
            response.headers["refresh"] = f"0; url={target}"
            set_cookie(response, node, ID_TOKEN, identity.id_token)
        # An answer counts once.
        forget_cookie(response, node, STARTED_LOG_IN)
        return response

    @router.get("/logged-out")
    def logged_out(request: Request) -> Response:
        return _public_page(request, "logged_out.html", provider=_provider(request).settings.title)

    @router.get("/log-out/provider")
    def log_out_there(request: Request) -> Response:
        node = node_of(request)
        url = _provider(request).log_out_url(request.cookies.get(ID_TOKEN, ""))
        response = RedirectResponse(url or "/log-in", 303)
        forget_cookie(response, node, ID_TOKEN)
        return response

    @router.post("/log-out")
    def log_out(request: Request, person: Annotated[Person, Depends(caller_who_may(AccountRole.VIEWER))]) -> Response:
        node = node_of(request)
        if person.session is not None:
            close_session(node.ledger, person.session.digest)
        _audit(node, person.name, person.address, logged_in=False)
        by_provider = person.session is not None and person.session.account.by_provider
        onward = "/logged-out" if by_provider and node.configuration.console.identity_provider else "/log-in"
        response = RedirectResponse(onward, 303)
        forget_session_cookie(response, node)
        return response

    @router.get("/invitation/{token}")
    def invited(request: Request, token: str) -> Response:
        node = node_of(request)
        found = invitation(node.ledger, secret_digest(token), now=utc_now())
        if found is None:
            raise LedgerError("this link was used already, or is too old: ask for another")
        return _public_page(request, "invitation.html", token=token, invitation=found, problem="", shortest=SHORTEST)

    @router.post("/invitation/{token}")
    def accept(
        request: Request, token: str, name: Field = "", password: Field = "", again: Field = "", form: Field = ""
    ) -> Response:
        node = node_of(request)
        digest = secret_digest(token)
        found = invitation(node.ledger, digest, now=utc_now())
        if found is None:
            raise LedgerError("this link was used already, or is too old: ask for another")
        if not forms_token_is_right(request, form):
            raise ForbiddenError("this page was too old: open the link again")
        name = found.name or name.strip().lower()
        problem = _mistake(name, password, again)
        if not problem:
            try:
                account = redeem_invitation(
                    node.ledger, digest, name=name, password_hash=hashed(password), now=utc_now()
                )
            except LedgerError as error:
                problem = str(error)
        if problem:
            return _public_page(
                request, "invitation.html", 422, token=token, invitation=found, problem=problem, shortest=SHORTEST
            )
        _log.info("account opened", account=name, role=account.role.value)
        return _welcome(node, account, address_of(request), "/")

    return router


def _provider(request: Request) -> IdentityProvider:
    provider: IdentityProvider | None = request.app.state.provider
    if provider is None:
        raise HTTPException(404)
    return provider


def _log_in_page(request: Request, target: str, problem: str = "", status: int = 200, name: str = "") -> HTMLResponse:
    settings = node_of(request).configuration.console.identity_provider
    title = settings.title if settings else ""
    return _public_page(request, "log_in.html", status, next=target, name=name, problem=problem, provider=title)


def _mistake(name: str, password: str, again: str) -> str:
    if re.fullmatch(NAME_PATTERN, name) is None:
        return "A name has at most 40 small letters, digits, dots, hyphens and underscores."
    if password != again:
        return "The two passwords differ."
    return password_mistake(password, name)


def _public_page(request: Request, template: str, status: int = 200, **context: object) -> HTMLResponse:
    node = node_of(request)
    renderer: Renderer = request.app.state.renderer
    token = form_token(request)
    response = renderer.public_page(request, template, status, form=token, **context)
    set_form_cookie(response, node, token)
    return response


def _welcome(node: Node, account: Account, address: str, target: str, *, response: Response | None = None) -> Response:
    token = secrets.token_urlsafe(32)
    open_session(node.ledger, account, secret_digest(token), secrets.token_urlsafe(32), now=utc_now())
    _audit(node, account.name, address)
    response = response or RedirectResponse(target, 303)
    set_session_cookie(response, node, token)
    return response


def _audit(node: Node, name: str, address: str, *, logged_in: bool = True, failure: str = "") -> None:
    if node.trail.file is None:
        return
    # A name that does not look like one may be a password.
    shown = name if re.fullmatch(NAME_PATTERN, name) else "(not a name)"
    person = Participant(shown, "", address)
    node.trail.record(user_authentication(person, node.trail.node, logged_in=logged_in, failure=failure, at=utc_now()))
