"""Logging in and out, and choosing a password by an invitation."""

from __future__ import annotations

import re
import secrets
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from dicom_node.audit.messages import Participant, user_authentication
from dicom_node.console.access import (
    ForbiddenError,
    Person,
    address_of,
    caller_who_may,
    forget_session_cookie,
    form_token,
    forms_token_is_right,
    local_path,
    set_form_cookie,
    set_session_cookie,
)
from dicom_node.console.desk import Desk
from dicom_node.console.passwords import SHORTEST, hashed, matches, needs_new_hash, password_mistake
from dicom_node.console.rendering import Renderer
from dicom_node.console.throttle import WINDOW, wait_s
from storage.accounts import (
    NAME_PATTERN,
    Account,
    account_named,
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
        return _door(request, "log_in.html", next=local_path(next), problem="", name="")

    @router.post("/log-in")
    def log_in(
        request: Request, name: Field = "", password: Field = "", form: Field = "", next: Field = "/"
    ) -> Response:
        desk: Desk = request.app.state.desk
        name, address, now = name.strip().lower(), address_of(request), utc_now()
        target = local_path(next)
        if not forms_token_is_right(request, form):
            return _door(request, "log_in.html", 403, next=target, name=name, problem=_TOO_OLD)
        wait = wait_s(desk.ledger, name, address, now=now)
        if wait:
            _audit(desk, name, address, failure="too many log-ins that failed")
            problem = f"Too many log-ins failed. Try again in {-(-wait // 60)} minutes."
            response = _door(request, "log_in.html", 429, next=target, name=name, problem=problem)
            response.headers["retry-after"] = str(wait)
            return response
        # Counted before the password is looked at: many tries at once are many tries. One that succeeds takes it back.
        note_log_in_failure(desk.ledger, name, address, now=now, kept=WINDOW)
        account = account_named(desk.ledger, name)
        if not matches(account.password_hash if account else None, password) or account is None:
            _audit(desk, name, address, failure="wrong name or password")
            return _door(request, "log_in.html", 401, next=target, name=name, problem=_WRONG)
        if needs_new_hash(account.password_hash):
            replace_password_hash(desk.ledger, account, hashed(password))
        return _welcome(desk, account, address, target)

    @router.post("/log-out")
    def log_out(request: Request, person: Annotated[Person, Depends(caller_who_may(AccountRole.VIEWER))]) -> Response:
        desk: Desk = request.app.state.desk
        if person.session is not None:
            close_session(desk.ledger, person.session.digest)
        _audit(desk, person.name, person.address, logged_in=False)
        response = RedirectResponse("/log-in", 303)
        forget_session_cookie(response, desk)
        return response

    @router.get("/invitation/{token}")
    def invited(request: Request, token: str) -> Response:
        desk: Desk = request.app.state.desk
        found = invitation(desk.ledger, secret_digest(token), now=utc_now())
        if found is None:
            raise LedgerError("this link was used already, or is too old: ask for another")
        return _door(request, "invitation.html", token=token, invitation=found, problem="", shortest=SHORTEST)

    @router.post("/invitation/{token}")
    def accept(
        request: Request, token: str, name: Field = "", password: Field = "", again: Field = "", form: Field = ""
    ) -> Response:
        desk: Desk = request.app.state.desk
        digest = secret_digest(token)
        found = invitation(desk.ledger, digest, now=utc_now())
        if found is None:
            raise LedgerError("this link was used already, or is too old: ask for another")
        if not forms_token_is_right(request, form):
            raise ForbiddenError("this page was too old: open the link again")
        name = found.name or name.strip().lower()
        problem = _mistake(name, password, again)
        if not problem:
            try:
                account = redeem_invitation(
                    desk.ledger, digest, name=name, password_hash=hashed(password), now=utc_now()
                )
            except LedgerError as error:
                problem = str(error)
        if problem:
            return _door(
                request, "invitation.html", 422, token=token, invitation=found, problem=problem, shortest=SHORTEST
            )
        _log.info("account opened", account=name, role=account.role.value)
        return _welcome(desk, account, address_of(request), "/")

    return router


def _mistake(name: str, password: str, again: str) -> str:
    if re.fullmatch(NAME_PATTERN, name) is None:
        return "A name has at most 40 small letters, digits, dots, hyphens and underscores."
    if password != again:
        return "The two passwords differ."
    return password_mistake(password, name)


def _door(request: Request, template: str, status: int = 200, **context: object) -> HTMLResponse:
    desk: Desk = request.app.state.desk
    renderer: Renderer = request.app.state.renderer
    token = form_token(request)
    response = renderer.door(request, template, status, form=token, **context)
    set_form_cookie(response, desk, token)
    return response


def _welcome(desk: Desk, account: Account, address: str, target: str) -> Response:
    token = secrets.token_urlsafe(32)
    open_session(desk.ledger, account, secret_digest(token), secrets.token_urlsafe(32), now=utc_now())
    _audit(desk, account.name, address)
    response = RedirectResponse(target, 303)
    set_session_cookie(response, desk, token)
    return response


def _audit(desk: Desk, name: str, address: str, *, logged_in: bool = True, failure: str = "") -> None:
    if desk.trail.file is None:
        return
    # A name that does not look like one may be a password.
    shown = name if re.fullmatch(NAME_PATTERN, name) else "(not a name)"
    person = Participant(shown, "", address)
    desk.trail.record(user_authentication(person, desk.trail.node, logged_in=logged_in, failure=failure, at=utc_now()))
